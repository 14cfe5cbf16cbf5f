//! Random changes of relations, plain values to compute references with, and the laws.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Float64Array, Int64Array, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{
    DataType, Field, Float64Type, Int64Type, Schema, SchemaRef, TimeUnit, TimestampMicrosecondType, UInt64Type,
};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_incremental::operators::{Operator, StepContext};
use weir_incremental::{Delta, RowError, State};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Value {
    Null,
    Bool(bool),
    Int(i64),
    /// Canonical bits, in total order.
    Float(i64),
    Text(String),
}

pub type Row = Vec<Value>;
pub type Contents = BTreeMap<Row, i64>;

pub fn float(value: f64) -> Value {
    let value = if value.is_nan() { f64::NAN } else { value + 0.0 };
    let bits = value.to_bits() as i64;
    Value::Float(bits ^ (((bits >> 63) as u64) >> 1) as i64)
}

pub fn float_of(bits: i64) -> f64 {
    f64::from_bits((bits ^ (((bits >> 63) as u64) >> 1) as i64) as u64)
}

pub struct Draw(pub u64);

impl Draw {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// The columns of test relations: k BIGINT, f DOUBLE, s TEXT, x BIGINT, b BOOLEAN, t and u TIMESTAMP.
pub fn schema() -> SchemaRef {
    let time = DataType::Timestamp(TimeUnit::Microsecond, None);
    Arc::new(Schema::new(vec![
        Field::new("k", DataType::Int64, true),
        Field::new("f", DataType::Float64, true),
        Field::new("s", DataType::Utf8, true),
        Field::new("x", DataType::Int64, true),
        Field::new("b", DataType::Boolean, true),
        Field::new("t", time.clone(), true),
        Field::new("u", time, true),
    ]))
}

pub const K: usize = 0;
pub const F: usize = 1;
pub const S: usize = 2;
pub const X: usize = 3;
pub const B: usize = 4;
pub const T: usize = 5;
pub const U: usize = 6;

/// A row as it is written: floats are raw bits here, so that both zeros and several NaN occur.
#[derive(Clone)]
struct Raw {
    k: Option<i64>,
    f: Option<f64>,
    s: Option<&'static str>,
    x: Option<i64>,
    b: Option<bool>,
    t: Option<i64>,
    u: Option<i64>,
}

fn draw_raw(draw: &mut Draw, keys: usize) -> Raw {
    let floats = [-0.0, 0.0, f64::NAN, -f64::NAN, 1.5, 1e16, -1e16, 1.0, -2.5, 3.0];
    let null = |draw: &mut Draw| draw.below(7) == 0;
    Raw {
        k: (!null(draw)).then(|| draw.below(keys) as i64),
        f: (!null(draw)).then(|| floats[draw.below(floats.len())]),
        s: (!null(draw)).then(|| ["", "a", "b", "a text that is longer than the others by far"][draw.below(4)]),
        x: (!null(draw)).then(|| draw.below(4) as i64 - 1),
        b: (!null(draw)).then(|| draw.below(2) == 0),
        t: (!null(draw)).then(|| draw.below(100) as i64),
        u: (!null(draw)).then(|| draw.below(100) as i64),
    }
}

fn batch_of(rows: &[Raw]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.k).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.f).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|row| row.s).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.x).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.b).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.t).collect::<TimestampMicrosecondArray>()),
        Arc::new(rows.iter().map(|row| row.u).collect::<TimestampMicrosecondArray>()),
    ];
    RecordBatch::try_new(schema(), columns).unwrap()
}

/// A relation that changes at random and never takes away what is not there (over a whole delta).
#[derive(Default)]
pub struct Stream {
    rows: Vec<Raw>,
}

impl Stream {
    pub fn delta(&mut self, draw: &mut Draw, keys: usize) -> Delta {
        let mut rows = Vec::new();
        let mut weights = Vec::new();
        let changes = [0, 1, 7, 40][draw.below(4)];
        for _ in 0..changes {
            if draw.below(5) < 2 && !self.rows.is_empty() {
                let old = self.rows.swap_remove(draw.below(self.rows.len()));
                rows.push(old);
                weights.push(-1);
            }
            if draw.below(5) < 3 {
                let new = draw_raw(draw, keys);
                let times = 1 + draw.below(3) / 2;
                self.rows.extend(std::iter::repeat_n(new.clone(), times));
                rows.push(new);
                weights.push(times as i64);
            }
        }
        // The order within a delta has no meaning: a removal may come before what it removes.
        for from in (1..rows.len()).rev() {
            let to = draw.below(from + 1);
            rows.swap(from, to);
            weights.swap(from, to);
        }
        Delta::new(batch_of(&rows), Int64Array::from(weights))
    }
}

pub fn value(column: &ArrayRef, row: usize) -> Value {
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Boolean => Value::Bool(column.as_boolean().value(row)),
        DataType::Int64 => Value::Int(column.as_primitive::<Int64Type>().value(row)),
        DataType::UInt64 => Value::Int(column.as_primitive::<UInt64Type>().value(row) as i64),
        DataType::Float64 => float(column.as_primitive::<Float64Type>().value(row)),
        DataType::Utf8 => Value::Text(column.as_string::<i32>().value(row).to_owned()),
        DataType::Timestamp(..) => Value::Int(column.as_primitive::<TimestampMicrosecondType>().value(row)),
        other => panic!("no test uses {other}"),
    }
}

pub fn accumulate(contents: &mut Contents, delta: &Delta) {
    for row in 0..delta.len() {
        let key: Row = delta.rows.columns().iter().map(|column| value(column, row)).collect();
        let weight = contents.entry(key.clone()).or_default();
        *weight += delta.weights.value(row);
        if *weight == 0 {
            contents.remove(&key);
        }
    }
}

/// One row for each repetition.
pub fn expanded(contents: &Contents) -> impl Iterator<Item = &Row> {
    contents.iter().flat_map(|(row, &weight)| std::iter::repeat_n(row, weight as usize))
}

pub fn count_up(rows: impl IntoIterator<Item = Row>) -> Contents {
    let mut contents = Contents::new();
    for row in rows {
        *contents.entry(row).or_default() += 1;
    }
    contents
}

/// Checks the laws for one operator. `reference` gets the contents of the inputs and the clock. `kept_at_end` is the
/// number of rows that its state has when its inputs are empty.
pub fn check(
    make: impl Fn() -> Box<dyn Operator>,
    inputs: usize,
    reference: impl Fn(&[Contents], i64) -> Contents,
    kept_at_end: usize,
) {
    for seed in 0..6_u64 {
        let mut draw = Draw(seed * 7919 + 1);
        let keys = [2, 6, 60][seed as usize % 3];
        let mut operator = make();
        let mut streams: Vec<Stream> = (0..inputs).map(|_| Stream::default()).collect();
        let mut contents = vec![Contents::new(); inputs];
        let mut totals: Vec<Vec<Delta>> = vec![Vec::new(); inputs];
        let mut output = Contents::new();
        let mut errors: Vec<RowError> = Vec::new();
        let mut checkpoint: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut now = 0;
        for step in 0..14 {
            now += draw.below(12) as i64;
            let deltas: Vec<Delta> = streams.iter_mut().map(|stream| stream.delta(&mut draw, keys)).collect();
            for (input, delta) in deltas.iter().enumerate() {
                accumulate(&mut contents[input], delta);
                totals[input].push(delta.clone());
            }
            let emitted = operator
                .step(&deltas.iter().collect::<Vec<_>>(), &mut StepContext { now, errors: &mut errors })
                .unwrap();
            assert_eq!(emitted.schema(), operator.schema());
            accumulate(&mut output, &emitted);
            assert_eq!(output, reference(&contents, now), "seed {seed}, step {step}");
            if draw.below(2) == 0 {
                save(operator.as_mut(), &mut checkpoint);
                if draw.below(3) == 0 {
                    let rows = operator.state().map_or(0, |state| state.rows());
                    operator = make();
                    if let Some(state) = operator.state() {
                        for (key, value) in &checkpoint {
                            state.restore(key, value).unwrap();
                        }
                        assert_eq!(state.rows(), rows, "seed {seed}, step {step}");
                    }
                }
            }
        }
        let negations: Vec<Delta> =
            totals.iter().map(|deltas| Delta::concat(&schema(), deltas).unwrap().negate()).collect();
        let emitted = operator
            .step(&negations.iter().collect::<Vec<_>>(), &mut StepContext { now, errors: &mut errors })
            .unwrap();
        accumulate(&mut output, &emitted);
        assert_eq!(output, reference(&vec![Contents::new(); inputs], now), "seed {seed}, at the end");
        save(operator.as_mut(), &mut checkpoint);
        if let Some(state) = operator.state() {
            assert_eq!(state.rows(), kept_at_end, "seed {seed}: state is left behind");
            assert!(checkpoint.len() <= kept_at_end + 1, "seed {seed}: the checkpoint keeps what is gone");
        }
        assert!(errors.is_empty());
    }
}

fn save(operator: &mut dyn Operator, checkpoint: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    if let Some(state) = operator.state() {
        changes(state, checkpoint);
    }
}

pub fn changes(state: &mut dyn State, checkpoint: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    state.changes(&mut |key, value| match value {
        Some(value) => {
            checkpoint.insert(key.bytes.to_vec(), value.to_vec());
        }
        None => {
            checkpoint.remove(key.bytes);
        }
    });
}
