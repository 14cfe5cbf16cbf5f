//! Column types at a model's boundary: those that the lake keeps exactly.

use arrow::datatypes::{DataType, Field, FieldRef, Fields, TimeUnit};
use std::sync::Arc;

/// The type in which a model shows a column of `data_type`: instants in microseconds (with a zone: UTC), no unsigned
/// integers, plain strings, bytes and lists. None when the lake has no such type.
pub fn lake_type(data_type: &DataType) -> Option<DataType> {
    Some(match data_type {
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32
        | DataType::Decimal128(_, _) => data_type.clone(),
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::LargeUtf8 | DataType::Utf8View => DataType::Utf8,
        DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::Timestamp(_, zone) => {
            DataType::Timestamp(TimeUnit::Microsecond, zone.as_ref().map(|_| Arc::from("UTC")))
        }
        DataType::Date64 => DataType::Timestamp(TimeUnit::Microsecond, None),
        DataType::Decimal32(precision, scale) | DataType::Decimal64(precision, scale) => {
            DataType::Decimal128(*precision, *scale)
        }
        DataType::Decimal256(precision, scale) if *precision <= 38 => DataType::Decimal128(*precision, *scale),
        DataType::Dictionary(_, values) => lake_type(values)?,
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::FixedSizeList(item, _)
        | DataType::ListView(item)
        | DataType::LargeListView(item) => DataType::List(lake_field(item, item.name())?),
        DataType::Struct(fields) => {
            DataType::Struct(fields.iter().map(|f| lake_field(f, f.name())).collect::<Option<Fields>>()?)
        }
        DataType::Map(entries, ordered) => DataType::Map(lake_field(entries, entries.name())?, *ordered),
        _ => return None,
    })
}

fn lake_field(field: &FieldRef, name: &str) -> Option<FieldRef> {
    Some(Arc::new(Field::new(name, lake_type(field.data_type())?, field.is_nullable())))
}
