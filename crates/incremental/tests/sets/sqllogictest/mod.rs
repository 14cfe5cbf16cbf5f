//! The deterministic SELECTs of DataFusion's own sqllogictest files, over the tables that each file makes.
//!
//! The files are read from the source of the crate `datafusion-sqllogictest`, as cargo has it. Their expected results are
//! not used: a SELECT is deterministic when DataFusion's own plan gives one answer whatever the order of the tables'
//! rows, and that is what the kept answer must be. Left out are SELECTs that read no table with rows, that DataFusion
//! itself does not answer, that ask for the clock, for chance or
//! for approximate percentiles, and those under options that models do not have.

mod script;
mod tables;

use crate::answers::{self, OTHER_ORDER};
use crate::coverage::{Part, cell, read, says, writes};
use crate::history::{Course, History, Table};
use crate::keep::{Missing, keep, planner};
use crate::set::Verdict;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use script::{Record, records};
use serde_json::Value;
use std::collections::BTreeMap;
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
        files.retain(|file| file.to_string_lossy().contains(&asked));
    } else if !crate::long() {
        files.retain(|file| IN_EVERY_RUN.contains(&name(&folder, file).as_str()));
    }
    let queue = Mutex::new(files.into_iter());
    let found: Mutex<BTreeMap<String, Vec<Verdict>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..if crate::long() { 2 } else { 1 } {
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

/// Files of many kinds that do not take long; `WEIR_SETS=long` takes all.
const IN_EVERY_RUN: [&str; 3] = ["union.slt", "distinct_on.slt", "cte.slt"];

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
    if !matches!(*statement, datafusion::sql::sqlparser::ast::Statement::Query(_)) {
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
        let model = model.map_err(|e| Missing::Refused(e.to_string()))?;
        let epochs = if crate::long() { 4 } else { 3 };
        let course = Course { seed: line as u64 + crate::seed(), epochs, whole: true };
        let rows = keep(&model, &History::draw(&tables, course))?;
        answers::differ(&model.schema, &rows, &expected, OTHER_ORDER).map_err(Missing::Wrong)?;
        Ok(rows.num_rows())
    };
    Some(kept())
}

const ABOUT: &str = "The deterministic SELECTs over tables in the files of the crate `datafusion-sqllogictest`, against DataFusion's own \
                     plans. Files of external tables are not in the crate: rows are drawn for the columns they declare.";

/// The whole page of a long run; else the lines of the files that were run must be as the page has them.
fn report(found: BTreeMap<String, Vec<Verdict>>) {
    let mut rows = BTreeMap::new();
    let mut reasons = Vec::new();
    let (mut queries, mut equal) = (0, 0);
    for (file, verdicts) in &found {
        let good = verdicts.iter().filter(|verdict| verdict.result.is_ok()).count();
        queries += verdicts.len();
        equal += good;
        if !verdicts.is_empty() {
            rows.insert(file.clone(), format!("| {file} | {} | {good} |", verdicts.len()));
        }
        for verdict in verdicts {
            if let Err(missing) = &verdict.result {
                reasons.push(format!("| {file}:{} | {} |", verdict.name, cell(&missing.reason())));
            }
        }
    }
    println!("{equal} of {queries} in {} files", rows.len());
    if std::env::var_os("WEIR_SLT").is_some() {
        return;
    }
    if crate::long() {
        let files: Vec<String> = rows.into_values().collect();
        let mut text = format!("{ABOUT}\n\n| file | SELECTs | kept and equal |\n|---|---|---|\n{}\n", files.join("\n"));
        if !reasons.is_empty() {
            text.push_str(&format!("\n| missing | reason |\n|---|---|\n{}\n", reasons.join("\n")));
        }
        return says("sqllogictest", Part { queries, equal, text });
    }
    let part = read().remove("sqllogictest").unwrap_or_default();
    for line in rows.values().chain(&reasons) {
        assert!(part.text.contains(line), "run `WEIR_SETS=long cargo xtask docs`; docs/sql-coverage.md lacks {line}");
    }
    let there = |line: &&str| found.keys().any(|file| line.starts_with(&format!("| {file}")));
    assert_eq!(part.text.lines().filter(there).count(), rows.len() + reasons.len(), "lines that no longer hold");
    assert!(!writes() || !rows.is_empty());
}
