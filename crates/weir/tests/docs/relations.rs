//! A page with every relation of Weir's own and its columns, as the binary answers them.

use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use super::Pages;

/// Name and what it tells. A relation that is missing here, or gone, fails the test.
const RELATIONS: [(&str, &str); 13] = [
    (
        "weir.checks",
        "One row a check: how many rows it has, whether that is a violation (`open`, `waived`, still in `grace`, or `clear`), and \
         since when. Its rows are the relation `checks.NAME`.",
    ),
    ("weir.epochs", "One row an epoch: its clock, and what came in."),
    ("weir.errors", "Rows whose expression failed, by model; an error goes when its row goes."),
    (
        "weir.late",
        "Rows that came behind their partition's watermark, with their bytes; `weir replay --late` sends them through.",
    ),
    ("weir.ledger", "What each epoch did to each relation: counts and a checksum, chained by hash."),
    (
        "weir.ledger_measures",
        "What each epoch did to each measure, one row a group: for a source what was read, and what of it takes part or was set \
         aside; for a relation what came, what went and the sum since. Sums are text, to their last digit; those of floats are rounded.",
    ),
    (
        "weir.measures",
        "The present sum of each group of each measure; NULL for one that was declared since and is counted with the next run.",
    ),
    (
        "weir.models",
        "One row a model: its key, rows and checksum; the epoch that it was computed at, where it is recomputed as a whole.",
    ),
    (
        "weir.operators",
        "One row an operator of the models, as `weir explain` shows it: what it did since the start of the run, its pace \
         since somebody asked last, and what it remembers.",
    ),
    ("weir.quarantine", "Records that were set aside, with [reason](reasons.md), message and bytes."),
    ("weir.sinks", "One row a destination: the epoch that it holds, and why it holds no later one."),
    ("weir.sources", "One row a source: both countings of what came in."),
    (
        "weir.violations",
        "One row a violation that there was or is: when it opened, who put up with it and why, when it closed. Made of the ledger.",
    ),
];

/// Adds relations.md.
pub fn pages(pages: &mut Pages) {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let project = folder.path().join("empty");
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_weir")).args(arguments).output().expect("the binary runs");
        assert!(output.status.success(), "weir {arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("answers are text")
    };
    let project = project.to_string_lossy().into_owned();
    run(&["new", &project]);
    let query = |sql: &str| -> Vec<Value> {
        let answer = run(&["query", "-C", &project, "--format", "json", sql]);
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{error} in {answer}"))
    };
    let text = |row: &Value, column: &str| row[column].as_str().unwrap_or_default().to_owned();
    let tables = query("SHOW TABLES");
    let own = tables.iter().filter(|row| row.to_string().contains("\"weir\"")).count();
    assert!(own == 0 || own == RELATIONS.len(), "a relation is not described here: {tables:?}");
    let mut page = String::from(
        "# Relations of Weir's own\n\nAsk them like any other: `weir query \"SELECT * FROM weir.sources\"`.\n",
    );
    for (relation, doc) in RELATIONS {
        page.push_str(&format!("\n## `{relation}`\n\n{doc}\n\n| column | type |\n|---|---|\n"));
        let columns = query(&format!("DESCRIBE {relation}"));
        assert!(!columns.is_empty(), "{relation} has no columns");
        for column in columns {
            page.push_str(&format!("| `{}` | {} |\n", text(&column, "column_name"), text(&column, "data_type")));
        }
    }
    pages.insert(PathBuf::from("relations.md"), page);
}
