//! The engine alone on Nexmark: events made in the process, each query kept up to date, results dropped.
//!
//! One thread makes events, as the peers' own benchmarks do, while another steps the graph. The figures beside which ours
//! are put were measured on this kind of machine with Feldera's own benchmark (native DBSP, no SQL layer).

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::array::{ArrayRef, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::Event;
use weir_incremental::{Dataflow, Delta, ModelPlan, Planner, Relation, RelationTraits};

use crate::report::{Bound, Report};

/// Events of one run.
const EVENTS: usize = 5_000_000;
/// Events of one epoch.
const EPOCH_EVENTS: usize = 100_000;

/// A query, its text, and what Feldera's own benchmark did with it, million events a second.
const QUERIES: [(&str, &str, Option<f64>); 18] = [
    ("q0", include_str!("../nexmark/q0.sql"), Some(1.14)),
    ("q1", include_str!("../nexmark/q1.sql"), Some(0.89)),
    ("q2", include_str!("../nexmark/q2.sql"), Some(1.21)),
    ("q3", include_str!("../nexmark/q3.sql"), Some(1.13)),
    ("q4", include_str!("../nexmark/q4.sql"), Some(0.74)),
    ("q5", include_str!("../nexmark/q5.sql"), Some(1.03)),
    ("q6", include_str!("../nexmark/q6.sql"), None),
    ("q7", include_str!("../nexmark/q7.sql"), Some(0.81)),
    ("q8", include_str!("../nexmark/q8.sql"), Some(1.04)),
    ("q9", include_str!("../nexmark/q9.sql"), Some(0.25)),
    ("q15", include_str!("../nexmark/q15.sql"), Some(0.46)),
    ("q16", include_str!("../nexmark/q16.sql"), Some(0.21)),
    ("q17", include_str!("../nexmark/q17.sql"), Some(0.35)),
    ("q18", include_str!("../nexmark/q18.sql"), Some(0.47)),
    ("q19", include_str!("../nexmark/q19.sql"), Some(0.42)),
    ("q20", include_str!("../nexmark/q20.sql"), Some(0.49)),
    ("q21", include_str!("../nexmark/q21.sql"), None),
    ("q22", include_str!("../nexmark/q22.sql"), None),
];

/// Keeps every query over the same events, or those that `WEIR_BENCH_QUERIES` names (`q4,q9`).
pub fn run(report: &mut Report) -> Result<()> {
    let events = std::env::var("WEIR_BENCH_EVENTS").ok().map_or(Ok(EVENTS), |events| events.parse())?;
    let asked = std::env::var("WEIR_BENCH_QUERIES").unwrap_or_default();
    let (mut ratios, mut least) = (Vec::new(), f64::MAX);
    for (name, sql, feldera) in QUERIES {
        if !asked.is_empty() && !asked.split(',').any(|one| one == name) {
            continue;
        }
        let kept = keep(sql, events).with_context(|| format!("nexmark {name}"))?;
        let rate = events as f64 / 1e6 / kept.whole.as_secs_f64();
        eprintln!(
            "   {name}: {rate:.2} M events/s ({:.2} while stepping), {} rows out, state {} rows, {:.0} MB",
            events as f64 / 1e6 / kept.stepping.as_secs_f64(),
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

fn keep(sql: &str, events: usize) -> Result<Kept> {
    let plan = plan(sql)?;
    let relations: Vec<_> = schemas();
    let mut dataflow = Dataflow::build(std::slice::from_ref(&plan), &relations)?;
    let start = Instant::now();
    let (sender, epochs) = sync_channel(2);
    let maker = std::thread::spawn(move || {
        let mut generator = EventGenerator::new(NexmarkConfig::default());
        for from in (0..events).step_by(EPOCH_EVENTS) {
            let epoch = Epoch::make(&mut generator, EPOCH_EVENTS.min(events - from));
            if sender.send(epoch).is_err() {
                return;
            }
        }
    });
    let (mut stepping, mut rows_out, mut now) = (Duration::ZERO, 0, 0);
    for epoch in epochs {
        let step = Instant::now();
        now += 1;
        let output = dataflow.step(now, &epoch?)?;
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

fn plan(sql: &str) -> Result<ModelPlan> {
    let mut planner = Planner::new(&|registry| weir_functions::register(registry))?;
    for (relation, schema) in schemas() {
        planner.add_relation(relation, schema, RelationTraits { append_only: true, key: Vec::new() });
    }
    Ok(planner.plan("result", sql)?)
}

fn schemas() -> Vec<(Relation, SchemaRef)> {
    let schema = |columns: &[(&str, DataType)]| -> SchemaRef {
        Arc::new(Schema::new(columns.iter().map(|(name, t)| Field::new(*name, t.clone(), true)).collect::<Vec<_>>()))
    };
    let (id, text, instant) = (DataType::Int64, DataType::Utf8, DataType::Timestamp(TimeUnit::Microsecond, None));
    let person = [
        ("id", id.clone()),
        ("name", text.clone()),
        ("email_address", text.clone()),
        ("credit_card", text.clone()),
        ("city", text.clone()),
        ("state", text.clone()),
        ("date_time", instant.clone()),
        ("extra", text.clone()),
    ];
    let auction = [
        ("id", id.clone()),
        ("item_name", text.clone()),
        ("description", text.clone()),
        ("initial_bid", id.clone()),
        ("reserve", id.clone()),
        ("date_time", instant.clone()),
        ("expires", instant.clone()),
        ("seller", id.clone()),
        ("category", id.clone()),
        ("extra", text.clone()),
    ];
    let bid = [
        ("auction", id.clone()),
        ("bidder", id.clone()),
        ("price", id),
        ("channel", text.clone()),
        ("url", text.clone()),
        ("date_time", instant),
        ("extra", text),
    ];
    vec![("person".into(), schema(&person)), ("auction".into(), schema(&auction)), ("bid".into(), schema(&bid))]
}

/// Columns of one relation while they are made.
#[derive(Default)]
struct Columns {
    numbers: Vec<Int64Builder>,
    texts: Vec<StringBuilder>,
    instants: Vec<TimestampMicrosecondBuilder>,
}

impl Columns {
    fn add(&mut self, numbers: &[usize], texts: &[&str], instants: &[u64]) {
        self.numbers.resize_with(numbers.len(), Default::default);
        self.texts.resize_with(texts.len(), Default::default);
        self.instants.resize_with(instants.len(), Default::default);
        self.numbers.iter_mut().zip(numbers).for_each(|(column, value)| column.append_value(*value as i64));
        self.texts.iter_mut().zip(texts).for_each(|(column, value)| column.append_value(value));
        self.instants.iter_mut().zip(instants).for_each(|(column, value)| column.append_value(*value as i64 * 1000));
    }

    /// The columns in the order of a schema, where each type's keep theirs.
    fn finish(&mut self, schema: &SchemaRef) -> Result<RecordBatch> {
        let (mut numbers, mut texts, mut instants) =
            (self.numbers.iter_mut(), self.texts.iter_mut(), self.instants.iter_mut());
        let mut columns: Vec<ArrayRef> = Vec::new();
        for field in schema.fields() {
            columns.push(match field.data_type() {
                DataType::Int64 => Arc::new(numbers.next().context("numbers")?.finish()),
                DataType::Utf8 => Arc::new(texts.next().context("texts")?.finish()),
                _ => Arc::new(instants.next().context("instants")?.finish()),
            });
        }
        Ok(RecordBatch::try_new(schema.clone(), columns)?)
    }
}

struct Epoch;

impl Epoch {
    fn make(generator: &mut EventGenerator, count: usize) -> Result<HashMap<Relation, Delta>> {
        let [mut persons, mut auctions, mut bids] = [Columns::default(), Columns::default(), Columns::default()];
        for event in generator.take(count) {
            match event {
                Event::Person(p) => persons.add(
                    &[p.id],
                    &[&p.name, &p.email_address, &p.credit_card, &p.city, &p.state, &p.extra],
                    &[p.date_time],
                ),
                Event::Auction(a) => auctions.add(
                    &[a.id, a.initial_bid, a.reserve, a.seller, a.category],
                    &[&a.item_name, &a.description, &a.extra],
                    &[a.date_time, a.expires],
                ),
                Event::Bid(b) => {
                    bids.add(&[b.auction, b.bidder, b.price], &[&b.channel, &b.url, &b.extra], &[b.date_time]);
                }
            }
        }
        let mut deltas = HashMap::new();
        for ((relation, schema), columns) in schemas().into_iter().zip([&mut persons, &mut auctions, &mut bids]) {
            if !columns.numbers.is_empty() {
                deltas.insert(relation, Delta::inserts(columns.finish(&schema)?));
            }
        }
        Ok(deltas)
    }
}
