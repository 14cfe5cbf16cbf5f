//! Models: one SELECT a file, planned.

use std::path::PathBuf;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use weir_incremental::{ModelPlan, Relation};

use crate::check::Check;
use crate::measure::Measure;
use crate::source::Notes;

/// One model, planned.
#[derive(Debug, Clone)]
pub struct Model {
    /// Name of the relation.
    pub name: Relation,
    /// Its file, relative to the project's folder.
    pub file: PathBuf,
    /// The file's text: comments and one SELECT.
    pub sql: String,
    /// Columns that identify a row; empty when not declared.
    pub key: Vec<String>,
    /// How it is kept up to date.
    pub refresh: Refresh,
    /// What sinks do while rows of it fail.
    pub on_error: OnError,
    /// The canonical plan.
    pub plan: ModelPlan,
    /// Its columns.
    pub schema: SchemaRef,
    /// The relations in its FROM, each once.
    pub reads: Vec<Relation>,
    /// Sums that the ledger keeps of its rows.
    pub measures: Vec<Measure>,
    /// Where it is a check.
    pub check: Option<Check>,
    /// For people.
    pub notes: Notes,
}

/// How a model is kept up to date.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refresh {
    /// By deltas, every epoch.
    Incremental,
    /// Recomputed as a whole off the epoch's path, when what it reads has changed.
    Full {
        /// Shortest time from one recomputation to the next.
        interval: Duration,
    },
}

/// What sinks do while a model has rows that fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnError {
    /// Keep the last good epoch until the errors are gone.
    Hold,
    /// Go on without the failing rows.
    Continue,
}
