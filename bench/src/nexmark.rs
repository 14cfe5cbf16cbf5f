//! The engine alone on Nexmark: events made in the process, each query kept up to date, results dropped.
//!
//! One thread makes events, as the peers' own benchmarks do, while another steps the graph. The figures beside which ours
//! are put were measured on this kind of machine with Feldera's own benchmark (native DBSP, no SQL layer).

use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::datatypes::SchemaRef;
use weir_environment::Workers;
use weir_incremental::{Dataflow, Delta, ModelPlan, Planner, Relation, RelationTraits};

use crate::events::{Kind, events};
use crate::report::{Bound, Report};

/// Events of one run.
const EVENTS: u64 = 5_000_000;
/// Events of one epoch.
const EPOCH_EVENTS: u64 = 100_000;

/// A query, its text, and what Feldera's own benchmark did with it, million events a second.
const QUERIES: [(&str, &str, Option<f64>); 18] = [
    ("q0", nexmark_query!("q00"), Some(1.14)),
    ("q1", nexmark_query!("q01"), Some(0.89)),
    ("q2", nexmark_query!("q02"), Some(1.21)),
    ("q3", nexmark_query!("q03"), Some(1.13)),
    ("q4", nexmark_query!("q04"), Some(0.74)),
    ("q5", nexmark_query!("q05"), Some(1.03)),
    ("q6", nexmark_query!("q06"), None),
    ("q7", nexmark_query!("q07"), Some(0.81)),
    ("q8", nexmark_query!("q08"), Some(1.04)),
    ("q9", nexmark_query!("q09"), Some(0.25)),
    ("q15", nexmark_query!("q15"), Some(0.46)),
    ("q16", nexmark_query!("q16"), Some(0.21)),
    ("q17", nexmark_query!("q17"), Some(0.35)),
    ("q18", nexmark_query!("q18"), Some(0.47)),
    ("q19", nexmark_query!("q19"), Some(0.42)),
    ("q20", nexmark_query!("q20"), Some(0.49)),
    ("q21", nexmark_query!("q21"), None),
    ("q22", nexmark_query!("q22"), None),
];

/// Keeps every query over the same events, or those that `WEIR_BENCH_QUERIES` names (`q4,q9`).
pub fn run(report: &mut Report) -> Result<()> {
    let count = std::env::var("WEIR_BENCH_EVENTS").ok().map_or(Ok(EVENTS), |events| events.parse())?;
    let asked = std::env::var("WEIR_BENCH_QUERIES").unwrap_or_default();
    let threads = std::env::var("WEIR_BENCH_THREADS").ok().map(|threads| threads.parse()).transpose()?;
    let workers = threads.map_or_else(Workers::of_the_machine, Workers::new);
    let (mut ratios, mut least) = (Vec::new(), f64::MAX);
    for (name, sql, feldera) in QUERIES {
        if !asked.is_empty() && !asked.split(',').any(|one| one == name) {
            continue;
        }
        let kept = keep(sql, count, &workers).with_context(|| format!("nexmark {name}"))?;
        let rate = count as f64 / 1e6 / kept.whole.as_secs_f64();
        eprintln!(
            "   {name}: {rate:.2} M events/s ({:.2} while stepping), {} rows out, state {} rows, {:.0} MB",
            count as f64 / 1e6 / kept.stepping.as_secs_f64(),
            kept.rows_out,
            kept.state_rows,
            kept.state_bytes as f64 / 1e6
        );
        report.figure(&format!("nexmark: {name}"), rate, "M events/s", Bound::None);
        if let Some(feldera) = feldera {
            report.figure(&format!("nexmark: {name} beside Feldera's figure"), rate / feldera, "", Bound::AtLeast(0.7));
            ratios.push((rate / feldera).ln());
            least = least.min(rate / feldera);
        }
    }
    if !ratios.is_empty() {
        let mean = (ratios.iter().sum::<f64>() / ratios.len() as f64).exp();
        report.figure("nexmark: all beside Feldera's, geometric mean", mean, "", Bound::AtLeast(1.0));
    }
    Ok(())
}

struct Kept {
    whole: Duration,
    stepping: Duration,
    rows_out: u64,
    state_rows: usize,
    state_bytes: usize,
}

fn keep(sql: &str, count: u64, workers: &Workers) -> Result<Kept> {
    let plan = plan(sql)?;
    let relations: Vec<_> = schemas();
    let mut dataflow = Dataflow::build_on(workers, std::slice::from_ref(&plan), &relations)?;
    let start = Instant::now();
    let (sender, epochs) = sync_channel(2);
    let maker = std::thread::spawn(move || {
        for from in (0..count).step_by(EPOCH_EVENTS as usize) {
            if sender.send(events(from..count.min(from + EPOCH_EVENTS))).is_err() {
                return;
            }
        }
    });
    let (mut stepping, mut rows_out, mut now) = (Duration::ZERO, 0, 0);
    for epoch in epochs {
        let step = Instant::now();
        now += 1;
        let deltas = Kind::ALL.iter().zip(epoch?).map(|(kind, rows)| (kind.name().into(), Delta::inserts(rows)));
        let output = dataflow.step(now, &deltas.collect())?;
        rows_out += output.models.iter().map(|(_, delta)| delta.len() as u64).sum::<u64>();
        ensure!(output.errors.is_empty(), "rows failed");
        stepping += step.elapsed();
    }
    let whole = start.elapsed();
    ensure!(maker.join().is_ok(), "events could not be made");
    let operators = dataflow.describe();
    if std::env::var_os("WEIR_BENCH_OPERATORS").is_some() {
        for operator in &operators {
            eprintln!("      {operator:?}");
        }
    }
    Ok(Kept {
        whole,
        stepping,
        rows_out,
        state_rows: operators.iter().map(|o| o.state_rows).sum(),
        state_bytes: operators.iter().map(|o| o.state_bytes).sum(),
    })
}

/// The text of a query.
pub fn sql(name: &str) -> Result<&'static str> {
    let query = QUERIES.iter().find(|(known, _, _)| *known == name);
    query.map(|(_, sql, _)| *sql).with_context(|| format!("no query {name}"))
}

/// How long the graph of a query takes over so many events, which are made before.
pub fn stepping(name: &str, count: u64, workers: &Workers) -> Result<Duration> {
    let mut dataflow = Dataflow::build_on(workers, &[plan(sql(name)?)?], &schemas())?;
    let mut epochs = Vec::new();
    for from in (0..count).step_by(EPOCH_EVENTS as usize) {
        let deltas = Kind::ALL.iter().zip(events(from..count.min(from + EPOCH_EVENTS))?);
        epochs.push(deltas.map(|(kind, rows)| (kind.name().into(), Delta::inserts(rows))).collect());
    }
    let start = Instant::now();
    for (now, deltas) in epochs.iter().enumerate() {
        dataflow.step(now as i64, deltas)?;
    }
    Ok(start.elapsed())
}

/// The plan of a query.
pub fn plan(sql: &str) -> Result<ModelPlan> {
    let mut planner = Planner::new(&|registry| weir_functions::register(registry))?;
    for (relation, schema) in schemas() {
        planner.add_relation(relation, schema, RelationTraits { append_only: true, key: Vec::new() });
    }
    Ok(planner.plan("result", sql)?)
}

fn schemas() -> Vec<(Relation, SchemaRef)> {
    Kind::ALL.iter().map(|kind| (kind.name().into(), kind.schema())).collect()
}
