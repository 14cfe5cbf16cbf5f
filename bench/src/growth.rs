//! How cost grows: with the keys that state holds, with the models over one source, and with the cores.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Result;
use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use weir_environment::Workers;
use weir_incremental::{Dataflow, Delta, ModelPlan, Planner, Relation, RelationTraits};

use crate::nexmark;
use crate::random::Seeded;
use crate::report::{Bound, Report};

/// Decades of keys.
const KEYS: [u64; 3] = [100_000, 1_000_000, 10_000_000];
/// Rows loaded in one epoch.
const LOAD_ROWS: u64 = 100_000;
/// Keys changed in one epoch.
const CHANGED: u64 = 10_000;
/// So many epochs of changes; the middle time counts.
const EPOCHS: usize = 31;

const QUERIES: [(&str, &str); 3] = [
    ("aggregate", "SELECT key, count(*) AS count, sum(amount) AS total FROM events GROUP BY key"),
    ("join", "SELECT e.key, e.amount, n.amount AS name FROM events e JOIN names n ON e.key = n.key"),
    ("distinct", "SELECT DISTINCT key, amount FROM events"),
];
/// Models over one source.
const MODELS: [u64; 3] = [1, 10, 100];
const MODEL_ROWS: u64 = 2_000_000;
/// Queries that are run on one core and on two.
const ON_CORES: [&str; 6] = ["q4", "q5", "q9", "q16", "q18", "q20"];
const CORE_EVENTS: u64 = 2_000_000;

/// Measures all three.
pub fn run(report: &mut Report) -> Result<()> {
    keys(report)?;
    models(report)?;
    cores(report)
}

fn keys(report: &mut Report) -> Result<()> {
    for (name, sql) in QUERIES {
        let mut before: Option<f64> = None;
        for keys in KEYS {
            let (changed, one) = changed_rows(sql, keys)?;
            let per_row = changed.as_secs_f64() * 1e9 / CHANGED as f64;
            report.figure(
                &format!("growth: {name}, 1e{} keys, a changed row", keys.ilog10()),
                per_row,
                "ns",
                Bound::None,
            );
            if let Some(before) = before.replace(per_row) {
                let decade = format!("growth: {name}, 1e{} keys beside a tenth", keys.ilog10());
                report.figure(&decade, per_row / before, "times", Bound::AtMost(1.5));
            }
            if keys == KEYS[2] {
                let name = format!("growth: {name}, 1e7 keys, an epoch of one row");
                report.figure(&name, one.as_secs_f64() * 1e3, "ms", Bound::AtMost(5.0));
            }
        }
    }
    Ok(())
}

fn schema() -> SchemaRef {
    let column = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![column("key"), column("amount")]))
}

fn relations() -> [(Relation, SchemaRef); 2] {
    [("events".into(), schema()), ("names".into(), schema())]
}

fn plan(name: &str, sql: &str) -> Result<ModelPlan> {
    let mut planner = Planner::new(&|registry| weir_functions::register(registry))?;
    for (relation, schema) in relations() {
        planner.add_relation(relation, schema, RelationTraits::default());
    }
    Ok(planner.plan(name, sql)?)
}

/// Rows of these keys, in no order.
fn rows(keys: impl Iterator<Item = u64>, amount: impl Fn(u64) -> i64) -> Result<RecordBatch> {
    let keys: Vec<u64> = keys.collect();
    let scattered = keys.iter().map(|key| (key.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1) as i64);
    let columns: Vec<ArrayRef> = vec![
        Arc::new(scattered.collect::<Int64Array>()),
        Arc::new(keys.iter().map(|key| amount(*key)).collect::<Int64Array>()),
    ];
    Ok(RecordBatch::try_new(schema(), columns)?)
}

/// The middle times of epochs that change some keys' rows, and of epochs that change one.
fn changed_rows(sql: &str, keys: u64) -> Result<(Duration, Duration)> {
    let mut graph = Dataflow::build(&[plan("model", sql)?], &relations())?;
    let mut now = 0;
    let mut step = |inputs: Vec<(&str, Delta)>| -> Result<Duration> {
        now += 1;
        let inputs: HashMap<Relation, Delta> =
            inputs.into_iter().map(|(relation, delta)| (relation.into(), delta)).collect();
        let start = Instant::now();
        graph.step(now, &inputs)?;
        Ok(start.elapsed())
    };
    for from in (0..keys).step_by(LOAD_ROWS as usize) {
        let range = || from..keys.min(from + LOAD_ROWS);
        let names = Delta::inserts(rows(range(), |key| key as i64)?);
        step(vec![("events", Delta::inserts(rows(range(), |_| 0)?)), ("names", names)])?;
    }
    let mut random = Seeded(5);
    let mut versions: HashMap<u64, i64> = HashMap::new();
    let mut change = |count: u64| -> Result<Delta> {
        let mut places: Vec<u64> = (0..count).map(|_| random.below(keys)).collect();
        places.sort_unstable();
        places.dedup();
        let old = Delta::inserts(rows(places.iter().copied(), |key| versions.get(&key).copied().unwrap_or(0))?);
        places.iter().for_each(|key| *versions.entry(*key).or_default() += 1);
        let new = Delta::inserts(rows(places.iter().copied(), |key| versions[&key])?);
        Ok(Delta::concat(&schema(), &[old.negate(), new])?)
    };
    let mut middle = |count: u64| -> Result<Duration> {
        let mut times = (0..EPOCHS).map(|_| step(vec![("events", change(count)?)])).collect::<Result<Vec<_>>>()?;
        times.sort();
        Ok(times[EPOCHS / 2])
    };
    Ok((middle(CHANGED)?, middle(1)?))
}

/// What a model costs beside others over the same source.
fn models(report: &mut Report) -> Result<()> {
    let mut alone = 0.0;
    for count in MODELS {
        let models = (0..count).map(|number| {
            let sql = format!(
                "SELECT key % 1000 AS part, count(*) AS count, sum(amount) AS total FROM events WHERE amount % 100 <> {number} GROUP BY key % 1000"
            );
            plan(&format!("model{number}"), &sql)
        });
        let mut graph = Dataflow::build(&models.collect::<Result<Vec<_>>>()?, &relations())?;
        let start = Instant::now();
        for from in (0..MODEL_ROWS).step_by(LOAD_ROWS as usize) {
            let delta = Delta::inserts(rows(from..from + LOAD_ROWS, |key| key as i64)?);
            graph.step(from as i64, &HashMap::from([("events".into(), delta)]))?;
        }
        let per_model = start.elapsed().as_secs_f64() * 1e9 / MODEL_ROWS as f64 / count as f64;
        report.figure(
            &format!("growth: {count} models over one source, a row and model"),
            per_model,
            "ns",
            Bound::None,
        );
        if count == 1 {
            alone = per_model;
        } else {
            let name = format!("growth: {count} models, each beside one alone");
            report.figure(&name, per_model / alone, "times", Bound::AtMost(1.1));
        }
    }
    Ok(())
}

/// What a second core gives.
fn cores(report: &mut Report) -> Result<()> {
    let mut ratios = Vec::new();
    for name in ON_CORES {
        let on = |threads| nexmark::stepping(name, CORE_EVENTS, &Workers::new(threads));
        let ratio = on(1)?.as_secs_f64() / on(2)?.as_secs_f64();
        report.figure(&format!("growth: {name} on two cores beside one"), ratio, "times", Bound::None);
        ratios.push(ratio.ln());
    }
    let mean = (ratios.iter().sum::<f64>() / ratios.len() as f64).exp();
    report.figure("growth: two cores beside one, geometric mean", mean, "times", Bound::AtLeast(1.3));
    Ok(())
}
