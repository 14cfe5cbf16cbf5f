//! Test cases: given these source rows, expect these model rows.

use std::path::PathBuf;

use arrow::array::RecordBatch;
use weir_incremental::Relation;

/// One file of `tests/`.
#[derive(Debug, Clone)]
pub struct TestCase {
    /// What it shows.
    pub name: String,
    /// Its file, relative to the project's folder.
    pub file: PathBuf,
    /// The clock, µs since 1970 UTC; None: the newest time in the given rows, or 0.
    pub now: Option<i64>,
    /// Rows by source, in the order in which they arrive.
    pub given: Vec<Given>,
    /// Rows by model, in any order.
    pub expect: Vec<Expectation>,
}

/// Rows of one source.
#[derive(Debug, Clone)]
pub struct Given {
    /// The source.
    pub source: Relation,
    /// The contract's columns, and `_extra` where unknown fields are kept; before enrichment.
    pub rows: RecordBatch,
}

/// What a relation should hold in the end: exactly these rows, each as often as it stands here.
#[derive(Debug, Clone)]
pub struct Expectation {
    /// The model or source.
    pub relation: Relation,
    /// The rows; its columns are those that any row names, the others are not compared.
    pub rows: RecordBatch,
}
