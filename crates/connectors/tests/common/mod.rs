//! What several tests of connectors share: rows of every type, sums of changes, a PostgreSQL server of their own.
#![allow(dead_code)] // Each test file uses its part.

pub mod postgres;
pub mod s3;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::*;
use arrow::buffer::OffsetBuffer;
use arrow::datatypes::*;
use arrow::row::{RowConverter, SortField};
use datafusion::catalog::TableProvider;
use datafusion::prelude::SessionContext;
use weir_incremental::Delta;

/// Four rows with a column of every type of the type table; the last row is NULL wherever it may be.
pub fn every_type() -> RecordBatch {
    let strings = || StringArray::from(vec![Some("plain"), Some(""), Some("naïve ☃ \u{1F600}"), None]);
    let items = Int32Array::from(vec![Some(1), None, Some(3), Some(4)]);
    let list = ListArray::new(
        Arc::new(Field::new_list_field(DataType::Int32, true)),
        OffsetBuffer::from_lengths([2, 0, 2, 0]),
        Arc::new(items),
        Some(vec![true, true, true, false].into()),
    );
    let structs = StructArray::new(
        vec![
            Arc::new(Field::new("a", DataType::Int64, true)),
            Arc::new(Field::new("at", DataType::Timestamp(TimeUnit::Microsecond, None), true)),
        ]
        .into(),
        vec![
            Arc::new(Int64Array::from(vec![Some(1), None, Some(3), None])),
            Arc::new(TimestampMicrosecondArray::from(vec![Some(0), Some(-1), None, None])),
        ],
        Some(vec![true, true, true, false].into()),
    );
    let mut map = MapBuilder::new(None, StringBuilder::new(), Float64Builder::new());
    map.keys().append_value("x");
    map.values().append_value(1.5);
    map.keys().append_value("y");
    map.values().append_null();
    map.append(true).unwrap();
    map.append(true).unwrap();
    map.keys().append_value("z");
    map.values().append_value(-2.0);
    map.append(true).unwrap();
    map.append(false).unwrap();
    let micros = vec![Some(1_700_000_000_123_456), Some(0), Some(-62_135_596_800_000_000), None];
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from(vec![1, 2, 3, 4]))),
        ("flag", Arc::new(BooleanArray::from(vec![Some(true), Some(false), Some(true), None]))),
        ("tiny", Arc::new(Int8Array::from(vec![Some(i8::MIN), Some(0), Some(i8::MAX), None]))),
        ("small", Arc::new(Int16Array::from(vec![Some(i16::MIN), Some(0), Some(i16::MAX), None]))),
        ("medium", Arc::new(Int32Array::from(vec![Some(i32::MIN), Some(0), Some(i32::MAX), None]))),
        ("big", Arc::new(Int64Array::from(vec![Some(i64::MIN), Some(0), Some(i64::MAX), None]))),
        ("single", Arc::new(Float32Array::from(vec![Some(f32::NAN), Some(-0.0), Some(f32::MAX), None]))),
        ("double", Arc::new(Float64Array::from(vec![Some(f64::INFINITY), Some(f64::NAN), Some(0.1), None]))),
        (
            "price",
            Arc::new(
                Decimal128Array::from(vec![Some(-12_345), Some(0), Some(99_999_999_999_999_999_999_i128), None])
                    .with_precision_and_scale(38, 4)
                    .unwrap(),
            ),
        ),
        ("name", Arc::new(strings())),
        ("blob", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"\x00\xff"), Some(b""), Some(b"abc"), None]))),
        ("day", Arc::new(Date32Array::from(vec![Some(0), Some(-719_162), Some(20_000), None]))),
        ("local", Arc::new(TimestampMicrosecondArray::from(micros.clone()))),
        ("instant", Arc::new(TimestampMicrosecondArray::from(micros).with_timezone("UTC"))),
        ("list", Arc::new(list)),
        ("struct", Arc::new(structs)),
        ("map", Arc::new(map.finish())),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, name != "id")))
        .unwrap()
}

/// Rows of (id, name, amount), the shape of the random tests.
pub fn rows(values: &[(i64, &str, Option<i64>)]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(values.iter().map(|row| row.0))),
        Arc::new(StringArray::from_iter_values(values.iter().map(|row| row.1))),
        Arc::new(Int64Array::from_iter(values.iter().map(|row| row.2))),
    ];
    RecordBatch::try_new(rows_schema(), columns).unwrap()
}

pub fn rows_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("name", DataType::Utf8, true),
        Field::new("amount", DataType::Int64, true),
    ]))
}

/// A delta of (id, name, amount, weight).
pub fn delta(values: &[(i64, &str, Option<i64>, i64)]) -> Delta {
    let plain: Vec<_> = values.iter().map(|row| (row.0, row.1, row.2)).collect();
    Delta::new(rows(&plain), Int64Array::from_iter_values(values.iter().map(|row| row.3)))
}

/// Weights by row; rows as bytes that compare as the rows do. Rows of weight 0 are left out.
pub type Sum = BTreeMap<Vec<u8>, i64>;

/// Adds rows with weights to a sum.
pub fn add(sum: &mut Sum, rows: &RecordBatch, weights: &Int64Array) {
    let fields = rows.schema().fields().iter().map(|field| SortField::new(field.data_type().clone())).collect();
    let converted = RowConverter::new(fields).unwrap().convert_columns(rows.columns()).unwrap();
    for (row, weight) in converted.iter().zip(weights.values()) {
        let total = sum.entry(row.as_ref().to_vec()).or_default();
        *total += weight;
        if *total == 0 {
            sum.remove(row.as_ref());
        }
    }
}

/// The sum of a table of changes, as `History::changes` gives it.
pub async fn sum_of(table: Arc<dyn TableProvider>) -> Sum {
    let mut sum = Sum::new();
    for batch in SessionContext::new().read_table(table).unwrap().collect().await.unwrap() {
        let columns = batch.num_columns();
        let rows = batch.project(&(0..columns - 2).collect::<Vec<_>>()).unwrap();
        add(&mut sum, &rows, batch.column(columns - 2).as_primitive::<Int64Type>());
    }
    sum
}
