//! A set of queries, put to the proof.

use crate::answers::{self, OTHER_PROGRAM};
use crate::history::{Course, History, Table};
use crate::keep::{Missing, keep, planner};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use std::path::Path;

/// A query of a set.
#[derive(Debug, Clone)]
pub struct Query {
    /// What the set calls it.
    pub name: String,
    /// Its text.
    pub sql: String,
}

/// What came of a query: how many rows its answer has, or why it does not count.
#[derive(Debug, Clone)]
pub struct Verdict {
    /// What the set calls it.
    pub name: String,
    /// Rows of the answer at the end.
    pub result: Result<usize, Missing>,
}

/// The `.sql` files of a folder, by name.
pub fn queries(folder: &Path) -> Vec<Query> {
    let files = std::fs::read_dir(folder).unwrap_or_else(|e| panic!("{}: {e}", folder.display()));
    let mut paths: Vec<_> = files.map(|file| file.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    paths.sort();
    let query = |path: &std::path::PathBuf| Query {
        name: path.file_stem().expect("a name").to_string_lossy().into_owned(),
        sql: std::fs::read_to_string(path).expect("a text"),
    };
    paths.iter().map(query).collect()
}

/// Keeps each query over a history of the tables, and compares. The variable `WEIR_QUERY` picks one by its name.
pub fn prove(tables: &[Table], queries: &[Query], course: Course) -> Vec<Verdict> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let asked = std::env::var("WEIR_QUERY").ok();
    let queries: Vec<&Query> = queries.iter().filter(|q| asked.as_ref().is_none_or(|name| *name == q.name)).collect();
    let history = History::draw(tables, course);
    let last = history.contents.last().expect("some epochs");
    let end: Vec<Table> = last.iter().map(|(name, rows)| Table::new(name, rows.clone())).collect();
    let plain = answers::datafusion(&end);
    let planner = planner(tables);
    let answer = |query: &Query| -> Result<(SchemaRef, RecordBatch), Missing> {
        let named = runtime.block_on(answers::with_names(&plain, &query.sql)).map_err(Missing::Refused)?;
        // A query whose columns have names is taken as it is.
        let model = planner.plan(&query.name, &query.sql).or_else(|_| planner.plan(&query.name, &named));
        let model = model.map_err(|e| Missing::Refused(e.message))?;
        Ok((model.schema.clone(), keep(&model, &history)?))
    };
    let texts: Vec<_> = queries.iter().map(|q| (q.name.clone(), q.sql.trim().trim_end_matches(';').into())).collect();
    let independent = answers::duckdb(&end, &texts);
    let verdict = |query: &&Query| {
        let result = answer(query).and_then(|(schema, rows)| {
            let other = match &independent[&query.name] {
                Ok(other) => other.clone(),
                Err(refusal) => {
                    println!("{}: DuckDB: {refusal}", query.name);
                    let other = async { plain.sql(&query.sql).await?.collect().await };
                    let other = runtime.block_on(other).map_err(|e| Missing::Wrong(format!("DataFusion: {e}")))?;
                    let of = other.first().map_or(schema.clone(), RecordBatch::schema);
                    arrow::compute::concat_batches(&of, &other).expect("batches of one schema")
                }
            };
            answers::differ(&schema, &rows, &other, OTHER_PROGRAM).map_err(Missing::Wrong)?;
            Ok(rows.num_rows())
        });
        let told = match &result {
            Ok(rows) => format!("{rows} rows"),
            Err(Missing::Refused(reason) | Missing::Wrong(reason)) => format!("MISSING {reason}"),
        };
        println!("{}: {told}", query.name);
        Verdict { name: query.name.clone(), result }
    };
    queries.iter().map(verdict).collect()
}
