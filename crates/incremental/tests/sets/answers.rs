//! Independent answers: DuckDB's, and those of DataFusion's own plans; and when two answers are the same.

use crate::history::Table;
use crate::keep::provider;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{DataType, Float64Type, SchemaRef};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::common::TableReference;
use datafusion::parquet::arrow::ArrowWriter;
use datafusion::parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use datafusion::prelude::{SessionConfig, SessionContext};
use serde_json::{Value, json};
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::process::{Command, Stdio};

/// How far apart two numbers may be that mean the same.
#[derive(Debug, Clone, Copy)]
pub struct Tolerance {
    /// In parts of the larger one.
    pub relative: f64,
    /// At all.
    pub absolute: f64,
}

/// Two programs that divide decimals, one exactly to some places, the other in floats.
pub const OTHER_PROGRAM: Tolerance = Tolerance { relative: 1e-6, absolute: 1e-4 };
/// One program that adds floats up in another order.
pub const OTHER_ORDER: Tolerance = Tolerance { relative: 1e-9, absolute: 1e-9 };

/// DataFusion as it is, with its own optimiser, over the tables.
pub fn datafusion(tables: &[Table]) -> SessionContext {
    let mut config = SessionConfig::new().with_target_partitions(2);
    config.options_mut().sql_parser.map_string_types_to_utf8view = false;
    let context = SessionContext::new_with_config(config);
    for table in tables {
        context
            .register_table(TableReference::bare(table.name.as_ref()), provider(table.rows.clone()))
            .expect("a new table");
    }
    context
}

/// The query with names for its columns, which a model must have, in order: `c1`, `c2`, ...
pub async fn with_names(context: &SessionContext, sql: &str) -> Result<String, String> {
    let plan = context.state().create_logical_plan(sql).await.map_err(|e| e.to_string())?;
    let names: Vec<String> = (1..=plan.schema().fields().len()).map(|number| format!("c{number}")).collect();
    let sql = sql.trim().trim_end_matches(';');
    Ok(format!("WITH answer ({}) AS (\n{sql}\n) SELECT * FROM answer", names.join(", ")))
}

/// DuckDB's answers to queries (name and text) over the tables; an error where it does not take one.
pub fn duckdb(tables: &[Table], queries: &[(String, String)]) -> BTreeMap<String, Result<RecordBatch, String>> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(format!("{name}.parquet")).to_string_lossy().into_owned();
    let mut files = BTreeMap::new();
    for table in tables {
        let file = File::create(path(&table.name)).expect("a file");
        let mut writer = ArrowWriter::try_new(file, table.rows.schema(), None).expect("a schema of Parquet");
        writer.write(&table.rows).expect("rows");
        writer.close().expect("a footer");
        files.insert(table.name.to_string(), path(&table.name));
    }
    let queries: Vec<Value> = queries
        .iter()
        .map(|(name, sql)| json!({ "name": name, "sql": sql, "path": path(&format!("answer_{name}")) }))
        .collect();
    let question = json!({ "tables": files, "queries": queries });
    let mut child = python()
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python with duckdb (`cargo xtask test` installs it)");
    child.stdin.take().expect("piped").write_all(question.to_string().as_bytes()).expect("the script reads all");
    let output = child.wait_with_output().expect("the script ends");
    assert!(output.status.success(), "duckdb for Python is missing (`cargo xtask test` installs it)");
    let errors: BTreeMap<String, Option<String>> = serde_json::from_slice(&output.stdout).expect("the script's JSON");
    let read = |name: &str| {
        let file = File::open(path(&format!("answer_{name}"))).expect("the answer");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("Parquet");
        let schema = arrow::array::RecordBatchReader::schema(&reader);
        let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("rows")).collect();
        concat_batches(&schema, &batches).expect("batches of one schema")
    };
    errors.into_iter().map(|(name, error)| (name.clone(), error.map_or_else(|| Ok(read(&name)), Err))).collect()
}

/// One value, for comparison.
#[derive(Debug, Clone, PartialEq)]
enum Cell {
    Null,
    Text(String),
    Number(f64),
}

/// Says where two answers differ, beyond `tolerance`. Order does not count; types are those of `schema`.
pub fn differ(schema: &SchemaRef, one: &RecordBatch, other: &RecordBatch, tolerance: Tolerance) -> Result<(), String> {
    let (mut one, mut other) = (cells(schema, one)?, cells(schema, other)?);
    if one.len() != other.len() {
        return Err(format!("{} rows, and {} in the independent answer", one.len(), other.len()));
    }
    one.sort_by(|a, b| order(a, b));
    other.sort_by(|a, b| order(a, b));
    let alike = |a: &[Cell], b: &[Cell]| a.iter().zip(b).all(|(a, b)| same(a, b, tolerance));
    let mut rest: Vec<&Vec<Cell>> = Vec::new();
    let mut unmatched: Vec<&Vec<Cell>> = Vec::new();
    for (a, b) in one.iter().zip(&other) {
        if !alike(a, b) {
            unmatched.push(a);
            rest.push(b);
        }
    }
    // Numbers that are nearly equal may stand in another order.
    unmatched.retain(|a| match rest.iter().position(|b| alike(a, b)) {
        Some(place) => {
            rest.swap_remove(place);
            false
        }
        None => true,
    });
    match (unmatched.first(), rest.first()) {
        (Some(a), Some(b)) => Err(format!("{} rows differ, as {a:?} and {b:?}", unmatched.len())),
        _ => Ok(()),
    }
}

fn cells(schema: &SchemaRef, rows: &RecordBatch) -> Result<Vec<Vec<Cell>>, String> {
    if rows.num_columns() != schema.fields().len() {
        return Err(format!("{} columns, and {} in the independent answer", schema.fields().len(), rows.num_columns()));
    }
    let mut cells: Vec<Vec<Cell>> = vec![Vec::with_capacity(rows.num_columns()); rows.num_rows()];
    for (column, field) in rows.columns().iter().zip(schema.fields()) {
        let column: ArrayRef = match column.data_type() == field.data_type() {
            true => column.clone(),
            false => cast(column, field.data_type()).map_err(|e| e.to_string())?,
        };
        let column = weir_incremental::canonical_floats(&column).map_err(|e| e.to_string())?;
        let number = column.data_type().is_numeric().then(|| cast(&column, &DataType::Float64));
        let number = number.transpose().map_err(|e| e.to_string())?;
        let options = FormatOptions::default();
        let text = ArrayFormatter::try_new(&column, &options).map_err(|e| e.to_string())?;
        for (row, cells) in cells.iter_mut().enumerate() {
            cells.push(match &number {
                _ if column.is_null(row) => Cell::Null,
                Some(numbers) => Cell::Number(numbers.as_primitive::<Float64Type>().value(row)),
                None => Cell::Text(text.value(row).to_string()),
            });
        }
    }
    Ok(cells)
}

/// By what is not a number first.
fn order(one: &[Cell], other: &[Cell]) -> Ordering {
    let rank = |cell: &Cell| match cell {
        Cell::Null => 0,
        Cell::Text(_) => 1,
        Cell::Number(_) => 2,
    };
    let texts = one.iter().zip(other).map(|(a, b)| match (a, b) {
        (Cell::Text(a), Cell::Text(b)) => a.cmp(b),
        _ => rank(a).cmp(&rank(b)),
    });
    let numbers = one.iter().zip(other).map(|(a, b)| match (a, b) {
        (Cell::Number(a), Cell::Number(b)) => a.total_cmp(b),
        _ => Ordering::Equal,
    });
    texts.chain(numbers).find(|order| order.is_ne()).unwrap_or(Ordering::Equal)
}

fn same(one: &Cell, other: &Cell, tolerance: Tolerance) -> bool {
    match (one, other) {
        (Cell::Number(a), Cell::Number(b)) => {
            let near = (a - b).abs() <= tolerance.absolute + tolerance.relative * a.abs().max(b.abs());
            near || a == b || (a.is_nan() && b.is_nan())
        }
        (one, other) => one == other,
    }
}

/// The queries of TPC-DS, as DuckDB's extension has them.
pub fn tpcds_queries() -> Vec<crate::set::Query> {
    let output = python().arg("tpcds").output().expect("python");
    assert!(output.status.success(), "DuckDB's extension tpcds is missing (`cargo xtask test` installs it)");
    let texts: BTreeMap<String, String> = serde_json::from_slice(&output.stdout).expect("the script's JSON");
    texts.into_iter().map(|(name, sql)| crate::set::Query { name, sql }).collect()
}

fn python() -> Command {
    let mut command = Command::new(std::env::var("WEIR_TEST_PYTHON").unwrap_or_else(|_| "python3".into()));
    command.arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/sets/ask_duckdb.py"));
    command
}
