//! What the server asks of the pipeline behind it.

use std::pin::Pin;
use std::time::Duration;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use async_trait::async_trait;
use futures::Stream;
use serde::{Deserialize, Serialize};

/// Rows on their way, in batches of one schema.
pub type Batches = Pin<Box<dyn Stream<Item = Result<RecordBatch, Failure>> + Send>>;

/// What a query may use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryLimits {
    /// From the request to the last row.
    pub time_max: Duration,
    /// Memory of its operators, bytes.
    pub memory_max: usize,
    /// Rows of its answer; more are an error, never cut off.
    pub rows_max: u64,
}

impl Default for QueryLimits {
    fn default() -> Self {
        Self { time_max: Duration::from_secs(60), memory_max: 1 << 30, rows_max: 10_000_000 }
    }
}

/// The answer to a query, all of one epoch.
pub struct QueryAnswer {
    /// The epoch that was read.
    pub epoch: u64,
    /// Columns of the rows.
    pub schema: SchemaRef,
    /// The rows.
    pub batches: Batches,
}

/// One column of a table's key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyColumn {
    /// Name in SQL.
    pub name: String,
    /// Arrow type.
    pub data_type: DataType,
}

/// What a lookup by key found.
#[derive(Debug, Clone)]
pub struct Lookup {
    /// The epoch that was read.
    pub epoch: u64,
    /// The row, as a batch of one.
    pub row: Option<RecordBatch>,
}

/// An order to a running pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "order", rename_all = "snake_case")]
pub enum Control {
    /// End cleanly.
    Stop,
    /// Rebuild one model and its destinations from history.
    Backfill {
        /// The model.
        model: String,
    },
    /// Send quarantined (or late) records of a source through again.
    Replay {
        /// The source.
        source: String,
        /// The late ones.
        #[serde(default)]
        late: bool,
    },
    /// Put up with a check's violation until it is clear.
    Waive {
        /// The check's relation.
        check: String,
        /// Who.
        by: String,
        /// Why.
        why: String,
    },
    /// Replay the ledger.
    CheckLedger,
    /// Copy the data folder as of one moment.
    Backup {
        /// An absolute path, or a URL.
        to: String,
    },
    /// Take over the changed project.
    Apply,
}

/// A place in SQL text, both from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Line.
    pub line: u32,
    /// Column, in characters.
    pub column: u32,
}

/// What went wrong, by what the asker can do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    /// The request is wrong: a SQL mistake, a key of another type. Answered with 400.
    Request,
    /// There is no such thing. 404.
    NotFound,
    /// It cannot be done in the present state: a model that has no key is asked by key. 409.
    Conflict,
    /// A limit was met: time, memory, rows. 422.
    Limit,
    /// Too much is going on. 429.
    Busy,
    /// Not ready, or stopping. 503.
    Unavailable,
    /// Our mistake. 500.
    Internal,
}

/// An error as the server tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// What the asker can do.
    pub kind: FailureKind,
    /// One sentence or more.
    pub message: String,
    /// Where in the SQL text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

impl Failure {
    /// A failure without place and hint.
    pub fn new(kind: FailureKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), place: None, hint: None }
    }
}

/// A running pipeline, as far as it is asked over the network.
///
/// - [`Backend::key`] and [`Backend::lookup`] MUST return in well under a millisecond: they run on the listener's threads.
/// - One answer MUST show one epoch.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// Runs one SELECT, SHOW or EXPLAIN. Dropping the answer's batches ends it.
    async fn query(&self, sql: &str, limits: &QueryLimits) -> Result<QueryAnswer, Failure>;

    /// The key of a keyed relation, in declared order; a failure says that there is no such relation, or that it
    /// has no key.
    fn key(&self, table: &str) -> Result<Vec<KeyColumn>, Failure>;

    /// The row of a keyed relation. `key` has one value (an array of length 1) for each column of
    /// [`Backend::key`], of its type.
    fn lookup(&self, table: &str, key: &[ArrayRef]) -> Result<Lookup, Failure>;

    /// Progress, lag, rates and sizes, as `weir status` shows them: a JSON object.
    fn status(&self) -> serde_json::Value;

    /// Whether queries and lookups are answered; a sentence if not.
    fn ready(&self) -> Result<(), String>;

    /// Recomputes the named models, or all, from history and compares them: a JSON object with a field `same`.
    async fn verify(&self, models: &[String]) -> Result<serde_json::Value, Failure>;

    /// Answers why a row is there, or is not: a question and an answer of the pipeline's own, as JSON objects. The answer
    /// holds records as they came, so it is given to those only who may give orders. Its work keeps within the memory of a query.
    async fn why(&self, question: serde_json::Value, limits: &QueryLimits) -> Result<serde_json::Value, Failure> {
        let _ = (question, limits);
        Err(Failure::new(FailureKind::NotFound, "this pipeline does not answer such questions"))
    }

    /// Carries out an order; returns a JSON object that says what was done.
    async fn control(&self, order: Control) -> Result<serde_json::Value, Failure>;
}
