//! The deterministic SELECTs of DataFusion's own sqllogictest files, over the tables that each file makes.
//!
//! The files are read from the source of the crate `datafusion-sqllogictest`, as cargo has it. Their expected results are
//! not used: a SELECT is deterministic when DataFusion's own plan gives one answer whatever the order of the tables'
//! rows, and that is what the kept answer must be. Left out are SELECTs that read no table with rows, that DataFusion
//! itself does not answer, that take some rows without an order, that ask for the clock, for chance or for approximate
//! percentiles, and those under options that models do not have.

mod script;
mod tables;

use crate::answers::{self, OTHER_ORDER};
use crate::coverage::{Part, cell, read, says};
use crate::history::{Course, History, Table};
use crate::keep::{Missing, keep, planner};
use crate::set::Verdict;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Query, Statement as Parsed, Visit, Visitor};
use script::{Record, records};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use tables::{Database, shuffled};

#[test]
fn the_deterministic_selects_of_datafusions_own_tests_is_kept() {
    let folder = test_files();
    let mut files = Vec::new();
    find(&folder, &mut files);
    files.sort();
    assert!(files.len() > 200, "{}", folder.display());
    if let Ok(asked) = std::env::var("WEIR_SLT") {
        files.retain(|file| asked.split(',').any(|part| name(&folder, file).starts_with(part)));
    } else if !crate::long() {
        files.retain(|file| IN_EVERY_RUN.contains(&name(&folder, file).as_str()));
    }
    let queue = Mutex::new(files.into_iter());
    let found: Mutex<BTreeMap<String, Vec<Verdict>>> = Mutex::default();
    let threads = if crate::long() { 2 } else { 1 };
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().expect("no panic with the queue").next();
                    let Some(file) = next else { break };
                    let verdicts = prove_file(&file);
                    found.lock().expect("no panic with the verdicts").insert(name(&folder, &file), verdicts);
                }
            });
        }
    });
    report(found.into_inner().expect("no panic with the verdicts"));
}

/// Files of many kinds that do not take long; `WEIR_SETS=long` takes all, and `WEIR_SLT` those whose names begin so.
const IN_EVERY_RUN: [&str; 16] = [
    "aggregates_simplify.slt",
    "array_agg.slt",
    "cte.slt",
    "distinct_on.slt",
    "eliminate_outer_join.slt",
    "group.slt",
    "join_is_not_distinct_from.slt",
    "joins.slt",
    "lateral_join.slt",
    "min_max/list.slt",
    "null_aware_anti_join.slt",
    "qualify.slt",
    "subquery.slt",
    "union.slt",
    "unnest.slt",
    "window_topn.slt",
];

fn name(folder: &Path, file: &Path) -> String {
    file.strip_prefix(folder).expect("it was found there").to_string_lossy().into_owned()
}

/// Where cargo keeps the crate's files.
fn test_files() -> PathBuf {
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()))
        .args(["metadata", "--locked", "--format-version", "1"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo's JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = packages.iter().find(|package| package["name"] == "datafusion-sqllogictest").expect("the crate");
    Path::new(package["manifest_path"].as_str().expect("a path")).with_file_name("test_files")
}

fn find(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            find(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "slt") {
            files.push(path);
        }
    }
}

fn prove_file(path: &Path) -> Vec<Verdict> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut database = Database::new();
    let mut verdicts = Vec::new();
    for record in records(path) {
        match record {
            Record::Statement(sql) => runtime.block_on(database.run(&sql)),
            Record::Query(line, sql) => {
                let tried = catch_unwind(AssertUnwindSafe(|| prove(&runtime, &database, line, &sql)));
                let result = match tried {
                    Ok(None) => continue,
                    Ok(Some(result)) => result,
                    Err(_) => Err(Missing::Wrong("it panics".into())),
                };
                if let Err(Missing::Refused(reason) | Missing::Wrong(reason)) = &result {
                    println!("MISSING {}:{line}: {reason}\n{sql}", path.display());
                }
                verdicts.push(Verdict { name: line.to_string(), result });
            }
        }
    }
    verdicts
}

/// None for a SELECT that is not in question.
fn prove(
    runtime: &tokio::runtime::Runtime,
    database: &Database,
    line: usize,
    sql: &str,
) -> Option<Result<usize, Missing>> {
    let lower = sql.to_lowercase();
    // The t-digest of approximate percentiles depends on how rows are batched.
    let chance = [
        "approx_median",
        "approx_percentile",
        "random(",
        "uuid(",
        "now(",
        "current_timestamp",
        "current_date",
        "current_time",
        "today(",
    ];
    if !database.is_plain() || chance.iter().any(|call| lower.contains(call)) {
        return None;
    }
    let mut statements = DFParser::parse_sql(sql).ok()?;
    let Some(Statement::Statement(statement)) = statements.pop_front() else { return None };
    if !matches!(*statement, Parsed::Query(_)) || statement.visit(&mut AnyRows).is_break() {
        return None;
    }
    let (names, _) = resolve_table_references(&Statement::Statement(statement), true).ok()?;
    let mut tables: Vec<Table> = Vec::new();
    for name in &names {
        tables.extend(runtime.block_on(database.table(name)));
    }
    tables.dedup_by(|a, b| a.name == b.name);
    if tables.iter().all(|table| table.rows.num_rows() == 0) {
        return None;
    }
    let plain = answers::datafusion(&tables);
    let answer = |tables: &[Table]| -> Option<RecordBatch> {
        let frame = async { answers::datafusion(tables).sql(sql).await?.collect().await };
        let batches = runtime.block_on(frame).ok()?;
        concat_batches(&batches.first()?.schema(), &batches).ok()
    };
    let expected = answer(&tables)?;
    for seed in 1..4 {
        let again = answer(&shuffled(&tables, seed + line as u64))?;
        answers::differ(&expected.schema(), &expected, &again, OTHER_ORDER).ok()?;
    }
    let kept = || -> Result<usize, Missing> {
        let planner = planner(&tables);
        let named = runtime.block_on(answers::with_names(&plain, sql)).map_err(Missing::Refused)?;
        let model = planner.plan("answer", sql).or_else(|_| planner.plan("answer", &named));
        let model = model.map_err(|e| Missing::Refused(e.message))?;
        let epochs = if crate::long() { 4 } else { 3 };
        let course = Course { seed: line as u64 + crate::seed(), epochs, whole: true };
        let rows = keep(&model, &History::draw(&tables, course))?;
        answers::differ(&model.schema, &rows, &expected, OTHER_ORDER).map_err(Missing::Wrong)?;
        Ok(rows.num_rows())
    };
    Some(kept())
}

/// Finds a LIMIT whose rows no ORDER BY picks: which they are is not said.
struct AnyRows;

impl Visitor for AnyRows {
    type Break = ();

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<()> {
        let limited = query.limit_clause.is_some() || query.fetch.is_some();
        if limited && query.order_by.is_none() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

const ABOUT: &str = "The deterministic SELECTs over tables in the files of the crate `datafusion-sqllogictest`, against DataFusion's own \
                     plans. Files of external tables are not in the crate: rows are drawn for the columns they declare.";

/// What the page says of a file: how many SELECTs, how many of them are kept and equal, and a line for each other one.
#[derive(Debug, Default)]
struct Entry {
    selects: usize,
    equal: usize,
    reasons: Vec<String>,
}

/// The page with the files of this run in it; a long run begins with an empty one.
fn report(found: BTreeMap<String, Vec<Verdict>>) {
    let page = read().remove("sqllogictest").unwrap_or_default();
    let mut entries = if crate::long() { BTreeMap::new() } else { entries(&page.text) };
    for (file, verdicts) in found {
        let mut entry = Entry { selects: verdicts.len(), ..Entry::default() };
        for verdict in verdicts {
            match &verdict.result {
                Ok(_) => entry.equal += 1,
                Err(missing) => {
                    entry.reasons.push(format!("| {file}:{} | {} |", verdict.name, cell(&missing.reason())));
                }
            }
        }
        println!("{file}: {} of {}", entry.equal, entry.selects);
        entries.insert(file, entry);
    }
    entries.retain(|_, entry| entry.selects > 0);
    let (queries, equal) = entries.values().fold((0, 0), |(all, equal), e| (all + e.selects, equal + e.equal));
    let mut text = format!("{ABOUT}\n\n| file | SELECTs | kept and equal |\n|---|---|---|\n");
    for (file, entry) in &entries {
        text.push_str(&format!("| {file} | {} | {} |\n", entry.selects, entry.equal));
    }
    if equal < queries {
        text.push_str("\n| missing | reason |\n|---|---|\n");
    }
    for reason in entries.values().flat_map(|entry| &entry.reasons) {
        text.push_str(&format!("{reason}\n"));
    }
    println!("{equal} of {queries} in {} files", entries.len());
    says("sqllogictest", Part { queries, equal, text });
}

/// What the page says now.
fn entries(text: &str) -> BTreeMap<String, Entry> {
    let mut entries: BTreeMap<String, Entry> = BTreeMap::new();
    for line in text.lines() {
        let cells: Vec<&str> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        if let [file, selects, equal] = cells[..]
            && let (Ok(selects), Ok(equal)) = (selects.parse(), equal.parse())
        {
            entries.insert(file.to_owned(), Entry { selects, equal, reasons: Vec::new() });
        } else if let Some((file, _)) = cells[0].split_once(".slt:")
            && let Some(entry) = entries.get_mut(&format!("{file}.slt"))
        {
            entry.reasons.push(line.to_owned());
        }
    }
    entries
}
