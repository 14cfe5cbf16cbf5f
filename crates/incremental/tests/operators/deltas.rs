//! Sums, checksums and expansion of deltas.

use crate::support::{Contents, Draw, Stream, accumulate, schema};
use arrow::array::{ArrayRef, Float64Array, Int64Array, ListArray, RecordBatch, RecordBatchOptions};
use arrow::datatypes::{Float64Type, Schema};
use std::sync::Arc;
use weir_incremental::Delta;

#[test]
fn consolidating_keeps_the_sum_and_names_each_row_once() {
    for seed in 0..20 {
        let mut draw = Draw(seed);
        let mut stream = Stream::default();
        let parts: Vec<Delta> = (0..6).map(|_| stream.delta(&mut draw, 3)).collect();
        let all = Delta::concat(&schema(), &parts).unwrap();
        let one = all.consolidate().unwrap();
        let (mut expected, mut found) = (Contents::new(), Contents::new());
        accumulate(&mut expected, &all);
        accumulate(&mut found, &one);
        assert_eq!(found, expected);
        assert_eq!(one.len(), expected.len());
        let rows = one.expand().unwrap().num_rows() as i64;
        assert_eq!(rows, expected.values().sum::<i64>());
        assert_eq!(all.expand().unwrap().num_rows() as i64, rows);
        assert!(all.negate().expand().is_err() || rows == 0);
        let sums = parts.iter().fold(0, |sum: u128, part| sum.wrapping_add(part.checksum().unwrap()));
        assert_eq!(sums, one.checksum().unwrap());
        assert_eq!(all.negate().checksum().unwrap().wrapping_add(sums), 0);
    }
}

#[test]
fn checksums_do_not_tell_equal_floats_apart_even_inside_lists() {
    let list = |values: Vec<f64>| {
        let values = ListArray::from_iter_primitive::<Float64Type, _, _>([Some(values.into_iter().map(Some))]);
        let rows = RecordBatch::try_from_iter([("list", Arc::new(values) as ArrayRef)]).unwrap();
        Delta::inserts(rows).checksum().unwrap()
    };
    assert_eq!(list(vec![0.0, f64::NAN]), list(vec![-0.0, -f64::NAN]));
    assert_ne!(list(vec![0.0, 1.0]), list(vec![1.0, 0.0]));
    let flat = |value: f64| {
        let values = Arc::new(Float64Array::from(vec![value])) as ArrayRef;
        Delta::inserts(RecordBatch::try_from_iter([("f", values)]).unwrap()).checksum().unwrap()
    };
    assert_eq!(flat(-0.0), flat(0.0));
    assert_ne!(flat(1.0), flat(-1.0));
}

#[test]
fn rows_without_columns_are_counted() {
    let options = RecordBatchOptions::new().with_row_count(Some(3));
    let rows = RecordBatch::try_new_with_options(Arc::new(Schema::empty()), vec![], &options).unwrap();
    let delta = Delta::new(rows, Int64Array::from(vec![1, 4, -2]));
    let one = delta.consolidate().unwrap();
    assert_eq!((one.len(), one.weights.value(0)), (1, 3));
    assert_eq!(delta.expand().unwrap().num_rows(), 3);
    assert_eq!(one.checksum().unwrap(), delta.checksum().unwrap());
    assert_eq!(one.weights.len(), 1);
}
