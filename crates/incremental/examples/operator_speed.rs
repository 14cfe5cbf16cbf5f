//! How fast operators load and how long one changed row takes them, by the size of their state.
//!
//! `cargo run --release -p weir-incremental --example operator_speed [ROWS]`

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::sync::Arc;
use std::time::Instant;
use weir_incremental::operators::{
    Aggregate, AggregateCall, AggregateFunction, Distinct, EngineError, Join, JoinKind, Operator, StepContext,
};
use weir_incremental::{Delta, State};

const BATCH: usize = 32 * 1024;

/// key, amount, name: 30 bytes a row.
fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Int64, true),
        Field::new("amount", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
    ]))
}

/// Rows `from..from + count` of a stream whose keys come in no order, below `keys`.
fn rows(from: usize, count: usize, keys: u64) -> RecordBatch {
    let key = |row: usize| ((row as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 20) % keys;
    let range = from..from + count;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(range.clone().map(|row| key(row) as i64))),
        Arc::new(Int64Array::from_iter_values(range.clone().map(|row| row as i64))),
        Arc::new(StringArray::from_iter_values(range.map(|row| format!("name-{row:09}")))),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns fit the schema")
}

fn call(function: AggregateFunction, argument: usize) -> AggregateCall {
    AggregateCall { function, argument: Some(argument), distinct: false, filter: None, output: DataType::Int64 }
}

fn aggregate(functions: &[AggregateFunction]) -> Result<Box<dyn Operator>, EngineError> {
    let calls: Vec<_> = functions.iter().map(|&function| call(function, 1)).collect();
    let mut fields = vec![Field::new("key", DataType::Int64, true)];
    fields.extend((0..calls.len()).map(|number| Field::new(format!("call_{number}"), DataType::Int64, true)));
    Ok(Box::new(Aggregate::new(schema(), vec![0], calls, Arc::new(Schema::new(fields)))?))
}

fn join() -> Result<Box<dyn Operator>, EngineError> {
    let fields: Vec<_> = schema().fields().iter().chain(schema().fields()).cloned().collect();
    let output = Arc::new(Schema::new(fields));
    Ok(Box::new(Join::new(JoinKind::Inner, schema(), schema(), vec![(0, 0)], None, false, output)?))
}

fn measure(name: &str, mut operator: Box<dyn Operator>, total: usize, keys: u64) -> Result<(), EngineError> {
    let mut errors = Vec::new();
    let mut context = StepContext { now: 0, errors: &mut errors };
    let empty = Delta::empty(schema());
    let two_inputs = operator.name() == "join";
    // A join first gets a tenth as many rows on its right side.
    if two_inputs {
        for from in (0..total / 10).step_by(BATCH) {
            let delta = Delta::inserts(rows(from + total, BATCH.min(total / 10 - from), keys));
            operator.step(&[&empty, &delta], &mut context)?;
        }
    }
    let start = Instant::now();
    let mut inside = 0.0;
    let mut out = 0;
    for from in (0..total).step_by(BATCH) {
        let delta = Delta::inserts(rows(from, BATCH.min(total - from), keys));
        let step = Instant::now();
        out += if two_inputs {
            operator.step(&[&delta, &empty], &mut context)?.len()
        } else {
            operator.step(&[&delta], &mut context)?.len()
        };
        inside += step.elapsed().as_secs_f64();
    }
    let with_input = start.elapsed().as_secs_f64();
    let mut times = Vec::new();
    for row in 0..2000 {
        let delta = Delta::inserts(rows(row * 37 % total, 1, keys)).negate();
        for delta in [delta.clone(), delta.negate()] {
            let step = Instant::now();
            let inputs = if two_inputs { vec![&delta, &empty] } else { vec![&delta] };
            operator.step(&inputs, &mut context)?;
            times.push(step.elapsed().as_secs_f64() * 1e6);
        }
    }
    times.sort_by(f64::total_cmp);
    let (held, bytes) = operator.state().map_or((0, 0), |state: &mut dyn State| (state.rows(), state.bytes()));
    println!(
        "{name:<28} {total:>9} rows in, {out:>9} out: {:>6.2} M rows/s ({with_input:.1} s with making the input); \
         one row {:>5.1} us median, {:>6.1} us p99; state {held} rows, {:.0} MB",
        total as f64 / inside / 1e6,
        times[times.len() / 2],
        times[times.len() * 99 / 100],
        bytes as f64 / 1e6,
    );
    Ok(())
}

fn main() -> Result<(), EngineError> {
    use AggregateFunction::{CountStar, Max, Sum};
    let most: usize = std::env::args().nth(1).and_then(|rows| rows.parse().ok()).unwrap_or(10_000_000);
    for total in [100_000.min(most), most] {
        let keys = total as u64;
        measure("aggregate, many groups", aggregate(&[CountStar, Sum])?, total, keys)?;
        measure("aggregate, 1000 groups", aggregate(&[CountStar, Sum])?, total, 1000)?;
        measure("aggregate, max", aggregate(&[Max])?, total, keys / 10)?;
        measure("join", join()?, total, keys / 10)?;
        measure("distinct", Box::new(Distinct::new(schema())?), total, keys)?;
    }
    Ok(())
}
