//! docs/sql-coverage.md: what came of each set. A test compares its part of the page, or writes it.

use crate::set::Verdict;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

/// The sets in the order of the page.
const SETS: [&str; 4] = ["TPC-H", "Nexmark", "sqllogictest", "TPC-DS"];

const BEGINNING: &str =
    "<!-- Written by the tests in crates/incremental/tests/sets (`cargo xtask docs`); change it there. -->

# What SQL is kept up to date

Sets of queries that others published are kept up to date incrementally while rows of their data come, change and go in
random cuts. A query counts when after every cut its rows equal its own batch run, weight for weight, and at the end an
independent answer: DuckDB's, or that of DataFusion's own plan. Models with `refresh = \"full\"` do not count.

| set | queries | kept and equal |
|---|---|---|
";

/// What the page says of one set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Part {
    /// Queries in all.
    pub queries: usize,
    /// Those that are kept and equal.
    pub equal: usize,
    /// The text below its heading.
    pub text: String,
}

impl Part {
    /// A part that says what the set is, and names every query that is missing.
    pub fn of(about: &str, verdicts: &[Verdict]) -> Self {
        let equal = verdicts.iter().filter(|verdict| verdict.result.is_ok()).count();
        let mut text = format!("{about}\n");
        if equal < verdicts.len() {
            text.push_str("\n| missing | reason |\n|---|---|\n");
        }
        for verdict in verdicts {
            if let Err(missing) = &verdict.result {
                text.push_str(&format!("| {} | {} |\n", verdict.name, cell(&missing.reason())));
            }
        }
        Self { queries: verdicts.len(), equal, text }
    }
}

/// Text that does not end a cell of a table.
pub fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

fn path() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/sql-coverage.md")
}

/// What the page says now.
pub fn read() -> BTreeMap<String, Part> {
    let page = std::fs::read_to_string(path()).unwrap_or_default();
    let mut parts: BTreeMap<String, Part> = BTreeMap::new();
    for set in SETS {
        let row = page.lines().find_map(|line| line.strip_prefix(&format!("| {set} | ")));
        let mut numbers = row.into_iter().flat_map(|row| row.split('|')).map(|number| number.trim().parse());
        let (Some(Ok(queries)), Some(Ok(equal))) = (numbers.next(), numbers.next()) else { continue };
        let text = page.split(&format!("\n## {set}\n\n")).nth(1).unwrap_or_default();
        let text = text.split("\n\n## ").next().unwrap_or_default();
        parts.insert(set.to_owned(), Part { queries, equal, text: format!("{}\n", text.trim_end()) });
    }
    parts
}

/// The page says `part` of `set`: it is made to, or must.
pub fn says(set: &str, part: Part) {
    if std::env::var_os("WEIR_QUERY").is_some() {
        return;
    }
    // Sets are proved at the same time.
    static PAGE: Mutex<()> = Mutex::new(());
    let _page = PAGE.lock().expect("no test panics with the page");
    let mut parts = read();
    if std::env::var_os("WEIR_UPDATE_DOCS").is_none() {
        let there = parts.remove(set).unwrap_or_default();
        assert!(
            there == part,
            "run `cargo xtask docs`; of {set} docs/sql-coverage.md says\n{there:?}\nand it is\n{part:?}"
        );
        return;
    }
    parts.insert(set.to_owned(), part);
    let rows =
        SETS.iter().filter_map(|set| parts.get(*set).map(|p| format!("| {set} | {} | {} |\n", p.queries, p.equal)));
    let mut page = BEGINNING.to_owned() + &rows.collect::<String>();
    for set in SETS {
        if let Some(part) = parts.get(set) {
            page.push_str(&format!("\n## {set}\n\n{}", part.text));
        }
    }
    std::fs::write(path(), page).expect("docs/ can be written");
}
