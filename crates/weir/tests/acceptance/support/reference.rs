//! Other programs' answers, by a small Python script: DuckDB over files, deltalake and Polars over the lake.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use super::process::finish;
use super::{Rows, rows};

/// What DuckDB answers.
#[track_caller]
pub fn duckdb(sql: &str) -> Rows {
    ask("duckdb", sql)
}

/// Rows of a Delta table as the `deltalake` package reads them.
#[track_caller]
pub fn deltalake(table: &Path) -> Rows {
    ask("deltalake", &table.to_string_lossy())
}

/// Rows of a Delta table as Polars reads them.
#[track_caller]
pub fn polars(table: &Path) -> Rows {
    ask("polars", &table.to_string_lossy())
}

/// What the changes of a Delta table sum up to, as the `deltalake` package reads them.
#[track_caller]
pub fn net(table: &Path) -> Rows {
    ask("net", &table.to_string_lossy())
}

/// The runs of consecutive ids in what the changes of a Delta table sum up to: `first`, `last`, `count`.
#[track_caller]
pub fn runs(table: &Path) -> Rows {
    ask("runs", &table.to_string_lossy())
}

#[track_caller]
fn ask(program: &str, question: &str) -> Rows {
    let python = std::env::var("WEIR_TEST_PYTHON").unwrap_or_else(|_| "python3".into());
    let mut command = Command::new(python);
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/acceptance/support/reference.py")).arg(program);
    let finished = finish(&mut command, Some(question));
    assert!(finished.code == Some(0), "{program} (`cargo xtask test` installs it): {question}\n{}", finished.stderr);
    let answer: Value = serde_json::from_str(&finished.stdout).expect("the script's JSON");
    rows(&answer)
}
