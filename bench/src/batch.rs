//! A model run in batch, as `weir verify` does it, beside DataFusion running the same SQL over the same rows.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use weir_environment::Workers;
use weir_incremental::Relation;
use weir_incremental::batch::{self, BatchLimits};

use crate::events::{Kind, events};
use crate::nexmark;
use crate::report::{Bound, Report};

const EVENTS: u64 = 2_000_000;
const BATCH_EVENTS: u64 = 100_000;
/// Each side is run so often; the best counts.
const RUNS: usize = 3;
/// Queries that DataFusion takes as they are.
const QUERIES: [&str; 9] = ["q0", "q2", "q3", "q4", "q7", "q9", "q17", "q18", "q20"];

/// Measures both sides of every query.
pub fn run(report: &mut Report) -> Result<()> {
    let mut batches = [Vec::new(), Vec::new(), Vec::new()];
    for from in (0..EVENTS).step_by(BATCH_EVENTS as usize) {
        for (all, rows) in batches.iter_mut().zip(events(from..from + BATCH_EVENTS)?) {
            all.push(rows);
        }
    }
    let mut tables: Vec<(Relation, Arc<dyn TableProvider>)> = Vec::new();
    for (kind, batches) in Kind::ALL.into_iter().zip(batches) {
        tables.push((kind.name().into(), Arc::new(MemTable::try_new(kind.schema(), vec![batches])?)));
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut ratios = Vec::new();
    for name in QUERIES {
        let sql = nexmark::sql(name)?;
        let ours = best(|| runtime.block_on(weir(sql, &tables))).with_context(|| format!("weir, {name}"))?;
        let theirs =
            best(|| runtime.block_on(datafusion(sql, &tables))).with_context(|| format!("DataFusion, {name}"))?;
        ensure!(ours.1 == theirs.1, "{name}: {} rows and {}", ours.1, theirs.1);
        let ratio = theirs.0.as_secs_f64() / ours.0.as_secs_f64();
        report.figure(&format!("batch: {name} beside DataFusion alone"), ratio, "", Bound::None);
        ratios.push(ratio.ln());
    }
    let mean = (ratios.iter().sum::<f64>() / ratios.len() as f64).exp();
    report.figure("batch: all beside DataFusion alone, geometric mean", mean, "", Bound::AtLeast(0.8));
    Ok(())
}

fn best(run: impl Fn() -> Result<(Duration, usize)>) -> Result<(Duration, usize)> {
    let mut runs = (0..RUNS).map(|_| run()).collect::<Result<Vec<_>>>()?;
    runs.sort();
    Ok(runs[0])
}

async fn weir(sql: &str, tables: &[(Relation, Arc<dyn TableProvider>)]) -> Result<(Duration, usize)> {
    let model = nexmark::plan(sql)?;
    let table = |relation: &Relation| tables.iter().find(|(name, _)| name == relation).map(|(_, table)| table.clone());
    let start = Instant::now();
    let limits = BatchLimits { threads: Workers::of_the_machine().threads(), ..BatchLimits::default() };
    let output = batch::run(&model, &table, 0, limits).await?;
    let time = start.elapsed();
    ensure!(output.errors.is_empty(), "rows failed");
    Ok((time, output.rows.iter().map(|rows| rows.num_rows()).sum()))
}

async fn datafusion(sql: &str, tables: &[(Relation, Arc<dyn TableProvider>)]) -> Result<(Duration, usize)> {
    let context = SessionContext::new_with_config(SessionConfig::new());
    for (name, table) in tables {
        context.register_table(name.as_ref(), table.clone())?;
    }
    let start = Instant::now();
    let rows = context.sql(sql).await?.collect().await?;
    Ok((start.elapsed(), rows.iter().map(|rows| rows.num_rows()).sum()))
}
