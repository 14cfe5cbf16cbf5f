//! Sources: what comes in, what its bytes mean, what time and identity mean for it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use weir_incremental::Relation;
use weir_schemas::{Contract, FormatRef};

use crate::measure::Measure;

/// One source: a relation fed from outside.
#[derive(Debug, Clone)]
pub struct Source {
    /// Name of the relation.
    pub name: Relation,
    /// Its file, relative to the project's folder.
    pub file: PathBuf,
    /// What delivers its records.
    pub kind: SourceKind,
    /// Name of the input; sources of one kind with the same input share it.
    pub input: String,
    /// Which of the input's records are this relation, as SQL over `contract`'s columns.
    pub where_sql: Option<String>,
    /// Name of the format, one that `weir_schemas` knows.
    pub format: String,
    /// Details of the format by key, as far as they are given; [`Source::decoding`] has them built in.
    pub format_options: BTreeMap<String, String>,
    /// Frames and decodes the input's bytes.
    pub decoding: FormatRef,
    /// The columns that records are decoded into.
    pub contract: Contract,
    /// The column with the event's time, a TIMESTAMP; None for arrival.
    pub time: Option<String>,
    /// How far behind the watermark's maximum a record may be; None: nothing is late.
    pub lateness: Option<Duration>,
    /// A time further past its arrival is quarantined; None: any time is taken.
    pub ahead_max: Option<Duration>,
    /// How long raw records and history are kept; None: for ever.
    pub retain: Option<Duration>,
    /// Columns that identify a row of a table; empty for a stream.
    pub key: Vec<String>,
    /// Of a table: the column by which the later row wins; None for arrival.
    pub version: Option<String>,
    /// Of a table: the BOOLEAN column that removes the key when true.
    pub deleted: Option<String>,
    /// What repeats are and how long they are remembered.
    pub dedupe: Option<Dedupe>,
    /// Share of broken records beyond which the source stops, 0 to 1; None: never.
    pub quarantine_max: Option<f64>,
    /// Sums that the ledger keeps of its rows.
    pub measures: Vec<Measure>,
    /// Columns computed once as a row comes in: name and SQL over the contract's columns and the enriched ones before.
    pub enrich: Vec<(String, String)>,
    /// The relation's columns: the contract's, `_extra` (Utf8) where unknown fields are kept, the enriched ones.
    pub schema: SchemaRef,
    /// For people.
    pub notes: Notes,
}

impl Source {
    /// Whether rows are never taken back: a stream, not a table.
    pub fn append_only(&self) -> bool {
        self.key.is_empty()
    }
}

/// What delivers a source's records.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SourceKind {
    /// Events posted to the beacon listener under the input's name.
    Beacon,
    /// Closed files of a folder.
    Files(FilesOptions),
}

impl SourceKind {
    /// As written in `kind = "..."`.
    pub fn name(&self) -> &'static str {
        match self {
            SourceKind::Beacon => "beacon",
            SourceKind::Files(_) => "files",
        }
    }
}

/// Which files a source reads, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FilesOptions {
    /// The pattern, joined to the project's folder when it was relative.
    pub path: PathBuf,
    /// A file is read once it has not changed for so long.
    pub settle: Duration,
    /// How the files are compressed.
    pub compression: Compression,
}

/// How files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// By the file's name: `.gz`, `.zst`, otherwise none.
    Auto,
    /// Not.
    None,
    /// Gzip.
    Gzip,
    /// Zstandard.
    Zstd,
}

/// What a repeat is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dedupe {
    /// Columns that identify an event.
    pub by: Vec<String>,
    /// How long an event is remembered, by event time.
    pub within: Duration,
}

/// What is written down for people; without any meaning to the pipeline.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Notes {
    /// What a row is.
    pub description: Option<String>,
    /// Who to ask.
    pub owner: Option<String>,
    /// Words to find it by.
    pub tags: Vec<String>,
    /// Descriptions of columns.
    pub columns: BTreeMap<String, String>,
    /// Columns with personal data.
    pub personal: Vec<String>,
}
