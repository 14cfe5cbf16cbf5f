//! Arrow rows as PostgreSQL's binary COPY format (see "COPY", "Binary Format" in PostgreSQL's manual).

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Date32Type, Decimal128Type, FieldRef, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType,
};
use arrow::json::writer::{EncoderOptions, NullableEncoder, make_encoder};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use weir_pipeline::sink::SinkError;

/// Starts every stream: signature, no flags, no extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Ends every stream.
pub(super) const TRAILER: &[u8] = &[0xff, 0xff];

/// Days and microseconds from 1970 to 2000, where PostgreSQL's calendar begins.
const EPOCH_DAYS: i32 = 10_957;
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// The column type for an Arrow type; None when there is none.
pub(super) fn column_type(data_type: &DataType) -> Option<String> {
    Some(match data_type {
        DataType::Boolean => "boolean".into(),
        DataType::Int8 | DataType::Int16 => "smallint".into(),
        DataType::Int32 => "integer".into(),
        DataType::Int64 => "bigint".into(),
        DataType::Float32 => "real".into(),
        DataType::Float64 => "double precision".into(),
        DataType::Decimal128(precision, scale) if *scale >= 0 => format!("numeric({precision},{scale})"),
        DataType::Utf8 => "text".into(),
        DataType::Binary => "bytea".into(),
        DataType::Date32 => "date".into(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "timestamp without time zone".into(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "timestamp with time zone".into(),
        DataType::List(_) | DataType::Struct(_) | DataType::Map(..) => "jsonb".into(),
        _ => return None,
    })
}

/// Appends all rows of `batch` to `out` as tuples. `key` names the columns that an error names a row by.
pub(super) fn encode(batch: &RecordBatch, key: &[String], out: &mut Vec<u8>) -> Result<(), SinkError> {
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let schema = batch.schema();
    let mut nested = schema
        .fields()
        .iter()
        .zip(batch.columns())
        .map(|(field, column)| json_encoder(field, column.as_ref(), &options))
        .collect::<Result<Vec<_>, _>>()?;
    for row in 0..batch.num_rows() {
        out.extend_from_slice(&(batch.num_columns() as i16).to_be_bytes());
        for (index, column) in batch.columns().iter().enumerate() {
            if column.is_null(row) {
                out.extend_from_slice(&(-1_i32).to_be_bytes());
                continue;
            }
            let start = out.len();
            out.extend_from_slice(&[0; 4]);
            match &mut nested[index] {
                Some(encoder) => {
                    out.push(1); // jsonb's version
                    encoder.encode(row, out);
                }
                None => encode_value(column.as_ref(), row, out)
                    .map_err(|problem| refuse(batch, index, row, key, &problem))?,
            }
            if nested[index].is_some() && has_nul(&out[start + 5..]) {
                return Err(refuse(batch, index, row, key, NUL));
            }
            let length = i32::try_from(out.len() - start - 4)
                .map_err(|_| refuse(batch, index, row, key, "the value is larger than 2 GB"))?;
            out[start..start + 4].copy_from_slice(&length.to_be_bytes());
        }
    }
    Ok(())
}

const NUL: &str = "the text has a NUL character, which PostgreSQL cannot store";

/// Whether JSON text has the escape of NUL (and not an escaped backslash before `u0000`).
fn has_nul(json: &[u8]) -> bool {
    json.windows(6).enumerate().any(|(at, text)| {
        let backslashes = json[..=at].iter().rev().take_while(|byte| **byte == b'\\').count();
        text == b"\\u0000" && backslashes % 2 == 1
    })
}

fn json_encoder<'a>(
    field: &'a FieldRef,
    column: &'a dyn Array,
    options: &'a EncoderOptions,
) -> Result<Option<NullableEncoder<'a>>, SinkError> {
    if !column.data_type().is_nested() {
        return Ok(None);
    }
    let encoder = make_encoder(field, column, options);
    encoder.map(Some).map_err(|error| SinkError::Refused(format!("column `{}`: {error}", field.name())))
}

fn refuse(batch: &RecordBatch, column: usize, row: usize, key: &[String], problem: &str) -> SinkError {
    let options = FormatOptions::default().with_null("NULL");
    let place: Vec<String> = key
        .iter()
        .filter_map(|name| {
            let formatter = ArrayFormatter::try_new(batch.column_by_name(name)?.as_ref(), &options).ok()?;
            Some(format!("{name} = {}", formatter.value(row)))
        })
        .collect();
    let place = if place.is_empty() { format!("number {}", row + 1) } else { place.join(", ") };
    SinkError::Refused(format!("column `{}` of the row {place}: {problem}", batch.schema().field(column).name()))
}

fn encode_value(column: &dyn Array, row: usize, out: &mut Vec<u8>) -> Result<(), String> {
    macro_rules! number {
        ($type:ty) => {
            out.extend_from_slice(&column.as_primitive::<$type>().value(row).to_be_bytes())
        };
    }
    match column.data_type() {
        DataType::Boolean => out.push(u8::from(column.as_boolean().value(row))),
        DataType::Int8 => {
            let value = column.as_primitive::<Int8Type>().value(row);
            out.extend_from_slice(&i16::from(value).to_be_bytes());
        }
        DataType::Int16 => number!(Int16Type),
        DataType::Int32 => number!(Int32Type),
        DataType::Int64 => number!(Int64Type),
        DataType::Float32 => number!(Float32Type),
        DataType::Float64 => number!(Float64Type),
        DataType::Decimal128(_, scale) => {
            encode_numeric(column.as_primitive::<Decimal128Type>().value(row), *scale as usize, out);
        }
        DataType::Utf8 => {
            let text = column.as_string::<i32>().value(row);
            if text.as_bytes().contains(&0) {
                return Err(NUL.to_owned());
            }
            out.extend_from_slice(text.as_bytes());
        }
        DataType::Binary => out.extend_from_slice(column.as_binary::<i32>().value(row)),
        DataType::Date32 => {
            let days = column.as_primitive::<Date32Type>().value(row).checked_sub(EPOCH_DAYS);
            out.extend_from_slice(&days.ok_or("the date is out of PostgreSQL's range")?.to_be_bytes());
        }
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            let micros = column.as_primitive::<TimestampMicrosecondType>().value(row).checked_sub(EPOCH_MICROS);
            out.extend_from_slice(&micros.ok_or("the timestamp is out of PostgreSQL's range")?.to_be_bytes());
        }
        other => return Err(format!("the type {other} has no counterpart in PostgreSQL")),
    }
    Ok(())
}

/// `numeric`: digits in base 10,000, the exponent of the first, sign, and decimal digits to show.
fn encode_numeric(value: i128, scale: usize, out: &mut Vec<u8>) {
    let digits = format!("{:0>width$}", value.unsigned_abs(), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let whole = format!("{}{whole}", "0".repeat((4 - whole.len() % 4) % 4));
    let fraction = format!("{fraction}{}", "0".repeat((4 - fraction.len() % 4) % 4));
    let groups: Vec<i16> = [whole.as_bytes(), fraction.as_bytes()]
        .concat()
        .chunks(4)
        .map(|group| group.iter().fold(0, |sum, digit| sum * 10 + i16::from(digit - b'0')))
        .collect();
    let first = groups.iter().position(|group| *group != 0);
    let last = groups.iter().rposition(|group| *group != 0);
    let (weight, groups) = match (first, last) {
        (Some(first), Some(last)) => ((whole.len() / 4) as i16 - 1 - first as i16, &groups[first..=last]),
        _ => (0, &groups[..0]),
    };
    let sign: u16 = if value < 0 { 0x4000 } else { 0 };
    out.extend_from_slice(&(groups.len() as i16).to_be_bytes());
    out.extend_from_slice(&weight.to_be_bytes());
    out.extend_from_slice(&sign.to_be_bytes());
    out.extend_from_slice(&(scale as i16).to_be_bytes());
    for group in groups {
        out.extend_from_slice(&group.to_be_bytes());
    }
}
