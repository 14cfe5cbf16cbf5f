//! Rows back to text: JSON for HTTP answers, CSV for files.
//!
//! In JSON, integers keep all their 64 bits, DECIMAL is a number with all its digits, floats that are not finite are NULL,
//! dates and times are ISO 8601 (`2024-02-29T12:00:00.5`, with `Z` where the type has a zone), BINARY is base64, MAP is an
//! object. Arrow's writer agrees with only some of that.

use std::io::{self, Write};

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type,
    TimeUnit, TimestampMicrosecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow::util::display::array_value_to_string;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{DateTime, Days, NaiveDate};
use serde_json::Value;

/// The rows as JSON objects, in order.
///
/// A [`Value`] has no room for the digits of a large DECIMAL: those beyond 64 bits or a double are text in it.
/// [`write_json_rows`] keeps them as numbers.
pub fn to_json_rows(batch: &RecordBatch) -> Vec<Value> {
    let schema = batch.schema_ref();
    let names: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
    (0..batch.num_rows()).map(|row| object_of(names.iter().copied().zip(batch.columns()), row)).collect()
}

fn object_of<'a>(fields: impl Iterator<Item = (&'a str, &'a ArrayRef)>, row: usize) -> Value {
    Value::Object(fields.map(|(name, column)| (name.to_string(), value_of(column, row))).collect())
}

/// Floats do not go by way of text here: serde_json may read the last bit differently.
fn value_of(column: &ArrayRef, row: usize) -> Value {
    let items = |items: ArrayRef| (0..items.len()).map(|index| value_of(&items, index)).collect();
    if column.is_null(row) {
        return Value::Null;
    }
    match column.data_type() {
        DataType::Float64 => Value::from(column.as_primitive::<Float64Type>().value(row)),
        DataType::Struct(fields) => {
            object_of(fields.iter().map(|field| field.name().as_str()).zip(column.as_struct().columns()), row)
        }
        DataType::List(_) => items(column.as_list::<i32>().value(row)),
        DataType::LargeList(_) => items(column.as_list::<i64>().value(row)),
        DataType::Map(_, _) => {
            let entries = column.as_map().value(row);
            let key = |index| array_value_to_string(entries.column(0), index).unwrap_or_default();
            let entries = (0..entries.len()).map(|index| (key(index), value_of(entries.column(1), index)));
            Value::Object(entries.collect())
        }
        _ => {
            let mut text = Vec::new();
            write_value(column, row, Decimals::Exact, &mut text);
            // What was just written is JSON.
            serde_json::from_slice(&text).unwrap_or(Value::Null)
        }
    }
}

/// Writes the rows as JSON objects, a line each.
pub fn write_json_rows(batch: &RecordBatch, out: &mut impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    for row in 0..batch.num_rows() {
        line.clear();
        write_row(batch, row, Decimals::Number, &mut line);
        line.push(b'\n');
        out.write_all(&line)?;
    }
    Ok(())
}

/// Writes the rows as CSV, with a header line if asked for. NULL is nothing, empty text is `""`; nested values are JSON.
pub fn write_csv_rows(batch: &RecordBatch, header: bool, out: &mut impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    if header {
        for (index, field) in batch.schema_ref().fields().iter().enumerate() {
            separate(index, &mut line);
            write_csv_text(field.name(), &mut line);
        }
        line.push(b'\n');
    }
    let mut cell = Vec::new();
    for row in 0..batch.num_rows() {
        for (index, column) in batch.columns().iter().enumerate() {
            separate(index, &mut line);
            if column.is_null(row) {
                continue;
            }
            cell.clear();
            write_value(column, row, Decimals::Number, &mut cell);
            let text = String::from_utf8_lossy(&cell);
            match serde_json::from_str::<String>(&text) {
                Ok(plain) => write_csv_text(&plain, &mut line),
                Err(_) => write_csv_text(&text, &mut line),
            }
        }
        line.push(b'\n');
        out.write_all(&line)?;
        line.clear();
    }
    out.write_all(&line)
}

fn separate(index: usize, line: &mut Vec<u8>) {
    if index > 0 {
        line.push(b',');
    }
}

fn write_csv_text(text: &str, out: &mut Vec<u8>) {
    if !text.is_empty() && !text.contains([',', '"', '\n', '\r']) {
        return out.extend_from_slice(text.as_bytes());
    }
    out.push(b'"');
    out.extend_from_slice(text.replace('"', "\"\"").as_bytes());
    out.push(b'"');
}

/// How DECIMAL is written.
#[derive(Clone, Copy, PartialEq)]
enum Decimals {
    Number,
    /// As a number if whoever reads it as a double or a 64-bit integer loses nothing; as text otherwise.
    Exact,
}

fn write_row(batch: &RecordBatch, row: usize, decimals: Decimals, out: &mut Vec<u8>) {
    let schema = batch.schema_ref();
    let names = schema.fields().iter().map(|field| field.name().as_str());
    write_object(names.zip(batch.columns()), row, decimals, out);
}

fn write_object<'a>(
    fields: impl Iterator<Item = (&'a str, &'a ArrayRef)>,
    row: usize,
    decimals: Decimals,
    out: &mut Vec<u8>,
) {
    out.push(b'{');
    for (index, (name, column)) in fields.enumerate() {
        separate(index, out);
        write_text(name, out);
        out.push(b':');
        write_value(column, row, decimals, out);
    }
    out.push(b'}');
}

fn write_value(column: &ArrayRef, row: usize, decimals: Decimals, out: &mut Vec<u8>) {
    if column.is_null(row) {
        return out.extend_from_slice(b"null");
    }
    match column.data_type() {
        DataType::Null => out.extend_from_slice(b"null"),
        DataType::Boolean => write_plain(column.as_boolean().value(row), out),
        DataType::Int8 => write_plain(column.as_primitive::<Int8Type>().value(row), out),
        DataType::Int16 => write_plain(column.as_primitive::<Int16Type>().value(row), out),
        DataType::Int32 => write_plain(column.as_primitive::<Int32Type>().value(row), out),
        DataType::Int64 => write_plain(column.as_primitive::<Int64Type>().value(row), out),
        DataType::UInt8 => write_plain(column.as_primitive::<UInt8Type>().value(row), out),
        DataType::UInt16 => write_plain(column.as_primitive::<UInt16Type>().value(row), out),
        DataType::UInt32 => write_plain(column.as_primitive::<UInt32Type>().value(row), out),
        DataType::UInt64 => write_plain(column.as_primitive::<UInt64Type>().value(row), out),
        DataType::Float32 => write_json(&column.as_primitive::<Float32Type>().value(row), out),
        DataType::Float64 => write_json(&column.as_primitive::<Float64Type>().value(row), out),
        DataType::Decimal128(_, scale) => {
            let value = column.as_primitive::<Decimal128Type>();
            let digits = value.value(row).unsigned_abs();
            let fits = if *scale == 0 { i64::try_from(value.value(row)).is_ok() } else { digits < 10_u128.pow(15) };
            match decimals == Decimals::Number || fits {
                true => write_plain(value.value_as_string(row), out),
                false => write_text(&value.value_as_string(row), out),
            }
        }
        DataType::Utf8 => write_text(column.as_string::<i32>().value(row), out),
        DataType::LargeUtf8 => write_text(column.as_string::<i64>().value(row), out),
        DataType::Utf8View => write_text(column.as_string_view().value(row), out),
        DataType::Binary => write_text(&BASE64.encode(column.as_binary::<i32>().value(row)), out),
        DataType::LargeBinary => write_text(&BASE64.encode(column.as_binary::<i64>().value(row)), out),
        DataType::BinaryView => write_text(&BASE64.encode(column.as_binary_view().value(row)), out),
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>().value(row);
            let (epoch, distance) = (NaiveDate::default(), Days::new(u64::from(days.unsigned_abs())));
            let date = if days < 0 { epoch.checked_sub_days(distance) } else { epoch.checked_add_days(distance) };
            write_time(date.map(|date| date.to_string()), days, out);
        }
        DataType::Timestamp(TimeUnit::Microsecond, zone) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row);
            let format = if zone.is_some() { "%Y-%m-%dT%H:%M:%S%.fZ" } else { "%Y-%m-%dT%H:%M:%S%.f" };
            let time = DateTime::from_timestamp_micros(micros);
            write_time(time.map(|time| time.format(format).to_string()), micros, out);
        }
        DataType::Struct(fields) => {
            let names = fields.iter().map(|field| field.name().as_str());
            write_object(names.zip(column.as_struct().columns()), row, decimals, out);
        }
        DataType::List(_) => write_items(&column.as_list::<i32>().value(row), decimals, out),
        DataType::LargeList(_) => write_items(&column.as_list::<i64>().value(row), decimals, out),
        DataType::Map(_, _) => {
            let entries = column.as_map().value(row);
            write_entries(entries.column(0), entries.column(1), decimals, out);
        }
        // Types that are not in the table, which only a query makes.
        _ => match array_value_to_string(column, row) {
            Ok(text) => write_text(&text, out),
            Err(_) => out.extend_from_slice(b"null"),
        },
    }
}

fn write_items(items: &ArrayRef, decimals: Decimals, out: &mut Vec<u8>) {
    out.push(b'[');
    for index in 0..items.len() {
        separate(index, out);
        write_value(items, index, decimals, out);
    }
    out.push(b']');
}

fn write_entries(keys: &ArrayRef, values: &ArrayRef, decimals: Decimals, out: &mut Vec<u8>) {
    out.push(b'{');
    for index in 0..keys.len() {
        separate(index, out);
        match keys.data_type() {
            DataType::Utf8 => write_text(keys.as_string::<i32>().value(index), out),
            _ => write_text(&array_value_to_string(keys, index).unwrap_or_default(), out),
        }
        out.push(b':');
        write_value(values, index, decimals, out);
    }
    out.push(b'}');
}

fn write_plain(value: impl std::fmt::Display, out: &mut Vec<u8>) {
    let _ = write!(out, "{value}");
}

/// The time, or its number where no calendar reaches.
fn write_time(text: Option<String>, number: impl std::fmt::Display, out: &mut Vec<u8>) {
    match text {
        Some(text) => write_text(&text, out),
        None => write_plain(number, out),
    }
}

fn write_text(text: &str, out: &mut Vec<u8>) {
    write_json(text, out);
}

/// Writing text or a number as JSON to memory cannot fail.
fn write_json<T: serde::Serialize + ?Sized>(value: &T, out: &mut Vec<u8>) {
    let _ = serde_json::to_writer(out, value);
}
