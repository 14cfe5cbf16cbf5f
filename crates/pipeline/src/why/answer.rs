//! Questions and answers as they travel: what `weir why` prints, and what it sends where a pipeline runs.

use serde::{Deserialize, Serialize};
use weir_incremental::Relation;
use weir_incremental::lineage::{Lost, Step};

use crate::EpochNumber;

/// A question about rows of one model.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Question {
    /// The model, or a source.
    pub model: String,
    /// Columns and values; without a name, values of the model's key in order.
    pub key: Vec<(Option<String>, String)>,
    /// A condition in SQL beside them.
    #[serde(default)]
    pub condition: Option<String>,
    /// Why it is not there.
    #[serde(default)]
    pub not: bool,
    /// Records shown of one source at most.
    pub limit: usize,
}

/// An answer, all of one epoch.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    /// The row is there.
    Present(Box<Present>),
    /// It was asked why it is not there, and it is not.
    Absent(Box<Absent>),
    /// It was asked why it is there, and it is not.
    NoSuchRow {
        /// The model.
        model: String,
        /// The epoch.
        epoch: EpochNumber,
    },
}

/// Rows that are there, and what made them.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Present {
    /// The model.
    pub model: String,
    /// The epoch.
    pub epoch: EpochNumber,
    /// Its clock.
    pub clock: String,
    /// The rows.
    pub rows: Vec<serde_json::Value>,
    /// Whether more rows fit the question.
    pub more: bool,
    /// Whether the models, run over only the rows named, give these rows.
    pub reproduced: bool,
    /// The models on the way, the one that was asked for first.
    pub steps: Vec<StepTold>,
    /// The sources at its end.
    pub sources: Vec<SourceTold>,
}

/// A model on the way.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct StepTold {
    /// The model.
    pub model: String,
    /// Its text.
    pub sql: String,
    /// What it reads.
    pub reads: Vec<String>,
    /// How many of its rows take part.
    pub rows: u64,
    /// Some of them.
    pub shown: Vec<serde_json::Value>,
    /// Of a model that is recomputed as a whole: the epoch whose contents it read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub computed_at: Option<EpochNumber>,
    /// Why all of its rows are named, where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<String>,
}

/// A source with the rows of it that take part.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct SourceTold {
    /// The source.
    pub source: String,
    /// The input that it reads.
    pub input: String,
    /// How many of its rows take part.
    pub rows: u64,
    /// Their records, as many as were asked for.
    pub records: Vec<RecordTold>,
    /// Why all rows are named, where they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub whole: Option<String>,
    /// What could not be found out, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
}

/// A record, as far as it is known.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RecordTold {
    /// The row that it became, or would have.
    pub row: serde_json::Value,
    /// How often that row is there.
    pub times: u64,
    /// Offset within the input's partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// The partition.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub partition: Option<u32>,
    /// The file, of inputs that are files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Byte in the file's content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub byte: Option<u64>,
    /// When it arrived.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival: Option<String>,
    /// The epoch that admitted it, or the one with which it was landed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epoch: Option<EpochNumber>,
    /// That epoch's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub taken_in: Option<String>,
    /// The bytes; as hexadecimal digits where they are no text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub raw: Option<String>,
    /// Whether `raw` is hexadecimal digits.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub raw_is_hex: bool,
    /// Why it was set aside.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What else there is to say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

impl RecordTold {
    /// Shows the bytes.
    pub fn with_raw(mut self, raw: &[u8]) -> Self {
        match std::str::from_utf8(raw) {
            Ok(text) => self.raw = Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(_) => {
                self.raw = Some(raw.iter().map(|byte| format!("{byte:02x}")).collect());
                self.raw_is_hex = true;
            }
        }
        self
    }
}

/// A row that is not there, and where it fell out.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Absent {
    /// The model.
    pub model: String,
    /// The epoch.
    pub epoch: EpochNumber,
    /// Its clock.
    pub clock: String,
    /// What was expected.
    pub wanted: Vec<String>,
    /// The first step that no such row left.
    pub blame: FateTold,
    /// What became of it on other ways.
    pub also: Vec<FateTold>,
}

/// What became of an expected row.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct FateTold {
    /// A step (`filter`, `having`, `rank`, `failure`, `join`, `exists`, `not_exists`, `limit`, `aggregate`, `window`,
    /// `intersect`, `except`, `as_of`, `unnest`, `recursion`), or what became of a record (`never_arrived`,
    /// `quarantined`, `unrouted`, `late`, `duplicate`, `superseded`, `deleted`, `not_taken_in`), or `never`, `untraced`.
    pub kind: String,
    /// The model whose step it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// The source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// One sentence.
    pub message: String,
    /// Conditions that do not hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub asks: Vec<String>,
    /// Some of the rows that reach the step.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rows: Vec<serde_json::Value>,
    /// Some rows of the other side that keep it out.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub against: Vec<serde_json::Value>,
    /// Records.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub records: Vec<RecordTold>,
    /// Why the other side lacks what is asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub because: Vec<FateTold>,
    /// The model's text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sql: Option<String>,
}

impl FateTold {
    /// That nothing is known.
    pub fn untraced(relation: &Relation, why: &str) -> Self {
        Self {
            kind: "untraced".into(),
            model: Some(relation.to_string()),
            message: format!("`{relation}` cannot be looked into: {why}"),
            ..Self::default()
        }
    }
}

/// A step that lost rows, told.
pub(super) fn lost(lost: &Lost, sql: Option<&String>) -> FateTold {
    let model = &lost.model;
    let other: Vec<String> = lost.other.iter().map(|relation| format!("`{relation}`")).collect();
    let other = if other.is_empty() { "the other side".to_owned() } else { other.join(", ") };
    let message = match lost.step {
        Step::Filter => format!("a condition of `{model}` keeps it out"),
        Step::Having => format!("a condition on the group in `{model}` keeps it out"),
        Step::Rank => format!("its place among the rows of its partition keeps it out of `{model}`"),
        Step::Failure => format!("an expression of `{model}` fails on it; see weir.errors"),
        Step::Join => format!("`{model}` joins it with {other}, which has no partner for it"),
        Step::Exists => format!("`{model}` wants it in {other}, where nothing matches"),
        Step::NotExists => format!("`{model}` wants it not to be in {other}, where it is"),
        Step::Limit => format!("it is not among the rows that `{model}` keeps"),
        Step::Aggregate => format!("`{model}` has the group, with other values"),
        Step::Window => format!("`{model}` has the row, with other values of its window functions"),
        Step::Intersect => format!("`{model}` keeps only what is in {other} too"),
        Step::Except => format!("`{model}` takes away what is in {other}"),
        Step::AsOf => format!("`{model}` finds nothing in {other} that was known at its time"),
        Step::Unnest => format!("no item of its list in `{model}` is that"),
        Step::Recursion => format!("the recursion of `{model}` does not reach it"),
    };
    let kind = serde_json::to_value(lost.step).ok().and_then(|kind| kind.as_str().map(str::to_owned));
    FateTold {
        kind: kind.unwrap_or_default(),
        model: Some(model.to_string()),
        message,
        asks: lost.asks.clone(),
        rows: weir_schemas::to_json_rows(&lost.reaching),
        against: lost.against.as_ref().map(weir_schemas::to_json_rows).unwrap_or_default(),
        sql: sql.cloned(),
        ..FateTold::default()
    }
}

/// µs since 1970 UTC as text.
pub(super) fn instant(micros: i64) -> String {
    chrono::DateTime::from_timestamp_micros(micros)
        .map_or_else(|| micros.to_string(), |at| at.format("%Y-%m-%dT%H:%M:%S%.6fZ").to_string())
}
