//! Sets of queries that others published, each query kept up to date over random histories of the set's data.
//!
//! After every epoch a query's rows, weights and error rows equal its batch run, and at the end its rows equal an
//! independent answer: DuckDB's where DuckDB takes the query, else that of DataFusion's own plan. What came of it is
//! docs/sql-coverage.md, which these tests compare, or write with `cargo xtask docs`.
//!
//! `WEIR_SETS=long` takes more data, more epochs and every file; `WEIR_SEED` draws other histories.

mod answers;
mod coverage;
mod history;
mod keep;
mod nexmark;
mod set;
mod sqllogictest;
mod tpcds;
mod tpch;

/// Whether this is the run that takes its time.
fn long() -> bool {
    std::env::var("WEIR_SETS").is_ok_and(|extent| extent == "long")
}

/// What `WEIR_SEED` adds to each seed.
fn seed() -> u64 {
    std::env::var("WEIR_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(0)
}
