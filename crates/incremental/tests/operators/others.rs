//! Operators with one short reference each.

use crate::support::{Contents, F, K, Row, T, U, Value, X, accumulate, check, count_up, expanded, schema};
use arrow::array::{Int64Array, ListArray, RecordBatch};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use datafusion::common::{ScalarValue, UnnestOptions};
use datafusion::logical_expr::Operator as Arithmetic;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column, Literal};
use std::collections::BTreeMap;
use std::sync::Arc;
use weir_incremental::Delta;
use weir_incremental::operators::{
    Distinct, Map, Operator, Recompute, SetOperation, SetOperationKind, StepContext, TemporalFilter, TopK, Union,
    Unnest,
};

fn column(name: &str, index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(name, index))
}

#[test]
fn distinct_shows_each_row_once() {
    let reference = |inputs: &[Contents], _| inputs[0].keys().map(|row| (row.clone(), 1)).collect();
    check(|| Box::new(Distinct::new(schema()).unwrap()), 1, reference, 0);
}

#[test]
fn union_adds_its_inputs_up() {
    let reference = |inputs: &[Contents], _| count_up(inputs.iter().flat_map(|input| expanded(input).cloned()));
    check(|| Box::new(Union::new(schema())), 3, reference, 0);
}

#[test]
fn set_operations_count_as_the_standard_says() {
    for all in [false, true] {
        for kind in [SetOperationKind::Intersect { all }, SetOperationKind::Except { all }] {
            let keys = |input: &Contents| {
                let mut counts = Contents::new();
                for (row, weight) in input {
                    *counts.entry(vec![row[K].clone(), row[X].clone()]).or_default() += weight;
                }
                counts
            };
            let reference = |inputs: &[Contents], _| {
                let (left, right) = (keys(&inputs[0]), keys(&inputs[1]));
                let count = |(row, &left): (&Row, &i64)| {
                    let right = right.get(row).copied().unwrap_or(0);
                    let count = match kind {
                        SetOperationKind::Intersect { all: true } => left.min(right),
                        SetOperationKind::Intersect { all: false } => i64::from(right > 0),
                        SetOperationKind::Except { all: true } => left - right,
                        SetOperationKind::Except { all: false } => i64::from(right == 0),
                    };
                    (count > 0).then(|| (row.clone(), count))
                };
                left.iter().filter_map(count).collect()
            };
            check(|| Box::new(Narrowed::new(kind)), 2, reference, 0);
        }
    }
}

/// A set operation over k and x only, so that rows of both sides meet.
struct Narrowed {
    maps: [Map; 2],
    operation: SetOperation,
}

impl Narrowed {
    fn new(kind: SetOperationKind) -> Self {
        let map = || {
            let projection = vec![(column("k", K), "k".to_owned()), (column("x", X), "x".to_owned())];
            Map::new(schema(), None, projection).unwrap()
        };
        let maps = [map(), map()];
        let operation = SetOperation::new(kind, maps[0].schema()).unwrap();
        Self { maps, operation }
    }
}

impl Operator for Narrowed {
    fn name(&self) -> &'static str {
        "narrowed"
    }

    fn schema(&self) -> arrow::datatypes::SchemaRef {
        self.operation.schema()
    }

    fn step(
        &mut self,
        inputs: &[&Delta],
        context: &mut StepContext<'_>,
    ) -> Result<Delta, weir_incremental::EngineError> {
        let left = self.maps[0].step(&[inputs[0]], context)?;
        let right = self.maps[1].step(&[inputs[1]], context)?;
        self.operation.step(&[&left, &right], context)
    }

    fn state(&mut self) -> Option<&mut dyn weir_incremental::State> {
        self.operation.state()
    }
}

#[test]
fn a_temporal_filter_shows_rows_from_lower_until_before_upper() {
    for (lower, upper) in [(Some(T), Some(U)), (Some(T), None), (None, Some(U))] {
        let reference = |inputs: &[Contents], now: i64| {
            let bound = |row: &Row, column: Option<usize>, open: i64| match column.map(|column| &row[column]) {
                None => Some(open),
                Some(Value::Int(instant)) => Some(*instant),
                Some(_) => None,
            };
            let shown = |row: &Row| {
                let (lower, upper) = (bound(row, lower, i64::MIN), bound(row, upper, i64::MAX));
                lower.is_some_and(|lower| lower <= now) && upper.is_some_and(|upper| now < upper)
            };
            inputs[0].iter().filter(|(row, _)| shown(row)).map(|(row, &weight)| (row.clone(), weight)).collect()
        };
        check(|| Box::new(TemporalFilter::new(schema(), lower, upper).unwrap()), 1, reference, 0);
    }
}

#[test]
fn a_temporal_filter_says_when_its_output_changes_next() {
    let mut filter = TemporalFilter::new(schema(), Some(T), Some(U)).unwrap();
    let mut errors = Vec::new();
    let mut stream = crate::support::Stream::default();
    let mut draw = crate::support::Draw(3);
    let mut now = 0;
    for _ in 0..10 {
        let delta = stream.delta(&mut draw, 5);
        filter.step(&[&delta], &mut StepContext { now, errors: &mut errors }).unwrap();
    }
    let nothing = Delta::empty(schema());
    let mut instants = 0;
    while let Some(due) = filter.next_due() {
        assert!(due > now);
        let early = filter.step(&[&nothing], &mut StepContext { now: due - 1, errors: &mut errors }).unwrap();
        assert!(early.is_empty());
        let at_due = filter.step(&[&nothing], &mut StepContext { now: due, errors: &mut errors }).unwrap();
        assert!(!at_due.is_empty());
        now = due;
        instants += 1;
    }
    assert!(instants > 10);
}

/// Numbers the rows of each k from 0, as `row_number()` does.
fn number_rows(rows: &RecordBatch) -> RecordBatch {
    let mut next: BTreeMap<Value, i64> = BTreeMap::new();
    let keys = rows.column(K);
    let numbers: Int64Array = (0..rows.num_rows())
        .map(|row| {
            let number = next.entry(crate::support::value(keys, row)).or_default();
            *number += 1;
            Some(*number - 1)
        })
        .collect();
    let columns = vec![keys.clone(), rows.column(X).clone(), Arc::new(numbers) as _];
    RecordBatch::try_new(numbered(), columns).unwrap()
}

fn numbered() -> Arc<Schema> {
    let fields = ["k", "x", "number"].map(|name| Field::new(name, DataType::Int64, true));
    Arc::new(Schema::new(fields.to_vec()))
}

#[test]
fn recomputing_touched_keys_agrees_with_recomputing_all() {
    let reference = |inputs: &[Contents], _| {
        let mut next: BTreeMap<Value, i64> = BTreeMap::new();
        count_up(expanded(&inputs[0]).map(|row| {
            let number = next.entry(row[K].clone()).or_default();
            *number += 1;
            vec![row[K].clone(), row[X].clone(), Value::Int(*number - 1)]
        }))
    };
    let make = || {
        let compute = Arc::new(|rows: &RecordBatch| Ok(number_rows(rows)));
        Box::new(Recompute::new(schema(), vec![K], numbered(), compute).unwrap()) as Box<dyn Operator>
    };
    check(make, 1, reference, 0);
}

#[test]
fn recomputing_without_keys_can_have_an_output_of_nothing() {
    let schema_of_count = Arc::new(Schema::new(vec![Field::new("count", DataType::Int64, false)]));
    let reference = |inputs: &[Contents], _| count_up([vec![Value::Int(inputs[0].values().sum())]]);
    let make = || {
        let schema_of_count = schema_of_count.clone();
        let output = schema_of_count.clone();
        let compute = Arc::new(move |rows: &RecordBatch| {
            let count = Int64Array::from(vec![rows.num_rows() as i64]);
            Ok(RecordBatch::try_new(schema_of_count.clone(), vec![Arc::new(count)])?)
        });
        let recompute = Recompute::new(schema(), vec![], output, compute).unwrap();
        Box::new(recompute.with_output_of_nothing()) as Box<dyn Operator>
    };
    check(make, 1, reference, 0);
}

#[test]
fn top_k_shows_the_rows_at_its_places_of_the_order() {
    let order = vec![(X, SortOptions { descending: true, nulls_first: false }), (F, SortOptions::default())];
    for (skip, fetch) in [(0, Some(3)), (2, Some(7)), (4, None), (0, Some(0))] {
        let reference = |inputs: &[Contents], _| {
            let mut rows: Vec<&Row> = expanded(&inputs[0]).collect();
            // In the order of values NULL is the least, so it is the last when that is turned around.
            rows.sort_by(|a, b| (&b[X], &a[F], a).cmp(&(&a[X], &b[F], b)));
            count_up(rows.into_iter().skip(skip).take(fetch.unwrap_or(usize::MAX)).cloned())
        };
        check(|| Box::new(TopK::new(schema(), vec![], order.clone(), skip, fetch).unwrap()), 1, reference, 0);
    }
}

#[test]
fn top_k_of_each_partition_shows_its_first_rows_with_their_places() {
    let order = vec![(X, SortOptions { descending: true, nulls_first: false }), (F, SortOptions::default())];
    for (skip, fetch) in [(0, Some(1)), (0, Some(3)), (1, Some(2)), (0, None)] {
        let shown = |contents: &Contents| {
            let mut rows: Vec<&Row> = expanded(contents).collect();
            rows.sort_by(|a, b| (&a[K], &b[X], &a[F], a).cmp(&(&b[K], &a[X], &b[F], b)));
            let mut places: BTreeMap<Value, i64> = BTreeMap::new();
            let mut shown: Vec<(Row, i64)> = Vec::new();
            for row in rows {
                let place = places.entry(row[K].clone()).or_default();
                *place += 1;
                if *place > skip && fetch.is_none_or(|fetch| *place <= skip + fetch) {
                    shown.push((row.clone(), *place));
                }
            }
            shown
        };
        let make = || TopK::new(schema(), vec![K], order.clone(), skip as usize, fetch.map(|f| f as usize)).unwrap();
        let rows = |inputs: &[Contents], _| count_up(shown(&inputs[0]).into_iter().map(|(row, _)| row));
        check(|| Box::new(make()), 1, rows, 0);
        let with_places = |inputs: &[Contents], _| {
            count_up(shown(&inputs[0]).into_iter().map(|(mut row, place)| {
                row.push(Value::Int(place));
                row
            }))
        };
        check(|| Box::new(make().numbered("place")), 1, with_places, 0);
    }
}

#[test]
fn a_map_filters_then_projects() {
    let make = || {
        let one = Arc::new(Literal::new(ScalarValue::Int64(Some(1))));
        let filter = Arc::new(BinaryExpr::new(column("x", X), Arithmetic::Gt, one.clone()));
        let plus = Arc::new(BinaryExpr::new(column("x", X), Arithmetic::Plus, one));
        let projection = vec![(plus as Arc<dyn PhysicalExpr>, "y".to_owned()), (column("f", F), "f".to_owned())];
        Box::new(Map::new(schema(), Some(filter), projection).unwrap()) as Box<dyn Operator>
    };
    let reference = |inputs: &[Contents], _| {
        let of = |row: &Row| match row[X] {
            Value::Int(x) if x > 1 => Some(vec![Value::Int(x + 1), row[F].clone()]),
            _ => None,
        };
        count_up(expanded(&inputs[0]).filter_map(of))
    };
    check(make, 1, reference, 0);
}

#[test]
fn a_failing_row_leaves_the_output_and_becomes_an_error_that_can_be_taken_back() {
    let quotient = Arc::new(BinaryExpr::new(column("k", K), Arithmetic::Divide, column("x", X)));
    let mut map = Map::new(schema(), None, vec![(quotient, "quotient".to_owned())]).unwrap();
    let mut stream = crate::support::Stream::default();
    let mut draw = crate::support::Draw(11);
    let (mut contents, mut output, mut failed) = (Contents::new(), Contents::new(), Contents::new());
    for _ in 0..30 {
        let delta = stream.delta(&mut draw, 9);
        accumulate(&mut contents, &delta);
        let mut errors = Vec::new();
        let emitted = map.step(&[&delta], &mut StepContext { now: 0, errors: &mut errors }).unwrap();
        accumulate(&mut output, &emitted);
        for error in errors {
            assert_eq!(error.message, "Arrow error: Divide by zero error");
            assert_eq!(error.expression, "k / x");
            accumulate(&mut failed, &Delta::new(error.row, Int64Array::from(vec![error.weight])));
        }
    }
    let by_zero = |row: &Row| row[X] == Value::Int(0) && row[K] != Value::Null;
    let expected: Contents = contents.iter().filter(|(row, _)| by_zero(row)).map(|(r, &w)| (r.clone(), w)).collect();
    assert!(!expected.is_empty());
    assert_eq!(failed, expected);
    let quotients = expanded(&contents).filter(|row| !by_zero(row)).map(|row| match (&row[K], &row[X]) {
        (Value::Int(k), Value::Int(x)) => vec![Value::Int(k / x)],
        _ => vec![Value::Null],
    });
    assert_eq!(output, count_up(quotients));
}

#[test]
fn unnest_gives_a_row_for_each_element_with_the_weight_of_its_row() {
    let list = DataType::List(Arc::new(Field::new_list_field(DataType::Int64, true)));
    let input = Arc::new(Schema::new(vec![Field::new("k", DataType::Int64, true), Field::new("l", list, true)]));
    let fields = vec![Field::new("k", DataType::Int64, true), Field::new("l", DataType::Int64, true)];
    let output = Arc::new(Schema::new(fields));
    let lists = vec![Some(vec![Some(1), None, Some(3)]), None, Some(vec![]), Some(vec![Some(7)])];
    let rows = RecordBatch::try_new(
        input.clone(),
        vec![
            Arc::new(Int64Array::from(vec![10, 20, 30, 40])),
            Arc::new(ListArray::from_iter_primitive::<Int64Type, _, _>(lists)),
        ],
    )
    .unwrap();
    let delta = Delta::new(rows, Int64Array::from(vec![2, 1, 1, -3]));
    let mut unnest =
        Unnest::new(input, output.clone(), vec![(1, 1)], vec![], UnnestOptions::new().with_preserve_nulls(false))
            .unwrap();
    let mut errors = Vec::new();
    let mut context = StepContext { now: 0, errors: &mut errors };
    let mut found = Contents::new();
    accumulate(&mut found, &unnest.step(&[&delta], &mut context).unwrap());
    let row = |k, l: Option<i64>| vec![Value::Int(k), l.map_or(Value::Null, Value::Int)];
    let expected = [(row(10, Some(1)), 2), (row(10, None), 2), (row(10, Some(3)), 2), (row(40, Some(7)), -3)];
    assert_eq!(found, Contents::from(expected));
    let nothing = Delta::empty(delta.schema());
    assert_eq!(unnest.step(&[&nothing], &mut context).unwrap().schema(), output);
}
