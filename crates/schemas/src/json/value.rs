//! Reads one JSON value into one column.

use std::borrow::Cow;
use std::ops::Range;

use arrow::datatypes::DataType;
use base64::Engine;
use base64::alphabet::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

use crate::columns::{ColumnBuilder, StructValues, Values, VarBytes};
use crate::json::cursor::{Cursor, Text};
use crate::json::problem::{Outcome, Problem, Step};
use crate::keys::Keys;
use crate::types::sql_type_name;
use crate::values::{Misfit, Number, epoch_micros, parse_date, parse_number, parse_timestamp};

/// The standard alphabet, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Appends the value at the cursor to `column`, exactly one. After an error the column has to be truncated.
#[inline]
pub(crate) fn read_value(cursor: &mut Cursor<'_>, column: &mut ColumnBuilder) -> Outcome {
    let first = cursor.peek();
    if first == b'n' {
        cursor.word("null")?;
        column.append_null();
        return Ok(());
    }
    let start = cursor.at;
    match &mut column.values {
        Values::Int64(values) if is_number(first) => match cursor.number()?.to_i64() {
            Ok(value) => values.push(value),
            Err(misfit) => return Err(no_integer(misfit, column, start)),
        },
        Values::Text(values) if first == b'"' => {
            cursor.string()?.write(&mut values.bytes);
            if !values.close() {
                return Err(column_full(start));
            }
        }
        Values::Float64(values) if is_number(first) => match cursor.number()?.to_f64() {
            Ok(value) => values.push(value),
            Err(_) => return Err(out_of_range(column, start)),
        },
        Values::Timestamp(values) if first == b'"' => {
            let text = cursor.string()?;
            let micros = match text.escaped {
                false => parse_timestamp(text.raw),
                true => parse_timestamp(&plain(text)),
            };
            match micros {
                Some(micros) => values.push(micros),
                None => return Err(wrong_type(column, start)),
            }
        }
        Values::Boolean(values) if matches!(first, b't' | b'f') => {
            cursor.word(if first == b't' { "true" } else { "false" })?;
            values.append(first == b't');
        }
        Values::Struct(values) if first == b'{' => read_struct(cursor, values, column.nulls.len())?,
        Values::List { offsets, item, item_nullable } if first == b'[' => {
            read_list(cursor, item, *item_nullable)?;
            match i32::try_from(item.len()) {
                Ok(end) => offsets.push(end),
                Err(_) => return Err(column_full(start)),
            }
        }
        Values::Map { offsets, keys, values, value_nullable } if first == b'{' => {
            read_map(cursor, keys, values, *value_nullable)?;
            match i32::try_from(keys.len()) {
                Ok(end) => offsets.push(end),
                Err(_) => return Err(column_full(start)),
            }
        }
        _ => read_rare(cursor, column, first, start)?,
    }
    column.nulls.append_non_null();
    Ok(())
}

/// The kinds that are not read at every turn. Appends the value, not its validity.
fn read_rare(cursor: &mut Cursor<'_>, column: &mut ColumnBuilder, first: u8, start: usize) -> Outcome {
    let misfit = match &mut column.values {
        Values::Int8(values) if is_number(first) => append_integer(cursor.number()?, values).err(),
        Values::Int16(values) if is_number(first) => append_integer(cursor.number()?, values).err(),
        Values::Int32(values) if is_number(first) => append_integer(cursor.number()?, values).err(),
        Values::Float32(values) if is_number(first) => match cursor.number()?.to_f32() {
            Ok(value) => {
                values.push(value);
                None
            }
            Err(_) => return Err(out_of_range(column, start)),
        },
        Values::Timestamp(values) if is_number(first) => match epoch_micros(cursor.number()?) {
            Some(micros) => {
                values.push(micros);
                None
            }
            None => return Err(out_of_range(column, start)),
        },
        Values::Date(values) if first == b'"' => match parse_date(&plain(cursor.string()?)) {
            Some(days) => {
                values.push(days);
                None
            }
            None => return Err(wrong_type(column, start)),
        },
        Values::Decimal(_) if is_number(first) => return append_decimal(cursor.number()?, column, start),
        Values::Decimal(_) if first == b'"' => {
            let text = plain(cursor.string()?);
            return match parse_number(&text) {
                Some(number) => append_decimal(number, column, start),
                None => Err(wrong_type(column, start)),
            };
        }
        Values::Binary(values) if first == b'"' => {
            let text = plain(cursor.string()?);
            match BASE64.decode_vec(&text, &mut values.bytes) {
                Ok(()) if values.close() => None,
                Ok(()) => return Err(column_full(start)),
                Err(_) => return Err(Problem::of_value("wrong_type", "expected BINARY as base64".to_string(), start)),
            }
        }
        Values::Unsupported => {
            let message = format!("no record can give values of type {}", column.data_type);
            return Err(Problem::of_value("unsupported_type", message, start));
        }
        // Not the kind of value that the column wants, or not a value at all.
        _ => {
            cursor.skip()?;
            return Err(wrong_type(column, start));
        }
    };
    misfit.map_or(Ok(()), |misfit| Err(no_integer(misfit, column, start)))
}

fn read_struct(cursor: &mut Cursor<'_>, values: &mut StructValues, row: usize) -> Outcome {
    cursor.enter()?;
    if cursor.peek() == b'}' {
        cursor.leave();
    } else {
        let mut position = 0;
        loop {
            let (field, _) = read_key(cursor, &mut values.keys, position)?;
            match field {
                Some(field) => {
                    let child = &mut values.children[field];
                    if child.len() > row {
                        child.truncate(row);
                    }
                    read_value(cursor, child).map_err(|it| it.within(field_step(values.fields[field].name())))?;
                }
                None => drop(cursor.skip()?),
            }
            position += 1;
            if !cursor.another(b'}')? {
                break;
            }
        }
    }
    for (child, field) in values.children.iter_mut().zip(&values.fields) {
        if child.len() == row {
            child.append_null();
        }
        if !field.is_nullable() && !child.is_valid(row) {
            return Err(missing().within(field_step(field.name())));
        }
    }
    Ok(())
}

fn read_list(cursor: &mut Cursor<'_>, item: &mut ColumnBuilder, nullable: bool) -> Outcome {
    cursor.enter()?;
    if cursor.peek() == b']' {
        cursor.leave();
        return Ok(());
    }
    let mut index = 0;
    loop {
        read_value(cursor, item).map_err(|it| it.within(Step::Item(index)))?;
        if !nullable && !item.is_valid(item.len() - 1) {
            return Err(missing().within(Step::Item(index)));
        }
        index += 1;
        if !cursor.another(b']')? {
            return Ok(());
        }
    }
}

fn read_map(cursor: &mut Cursor<'_>, keys: &mut VarBytes, values: &mut ColumnBuilder, nullable: bool) -> Outcome {
    let outside = *cursor;
    let start = keys.len();
    read_entries(cursor, keys, values, nullable, None)?;
    if let Some(kept) = keys.last_of_repeats(start) {
        // Rare: once more, with only the last value of each key.
        keys.truncate(start);
        values.truncate(start);
        *cursor = outside;
        read_entries(cursor, keys, values, nullable, Some(&kept))?;
    }
    Ok(())
}

/// Appends the entries of an object, all of them or those that are `kept`.
fn read_entries(
    cursor: &mut Cursor<'_>,
    keys: &mut VarBytes,
    values: &mut ColumnBuilder,
    nullable: bool,
    kept: Option<&[bool]>,
) -> Outcome {
    cursor.enter()?;
    if cursor.peek() == b'}' {
        cursor.leave();
        return Ok(());
    }
    let mut index = 0;
    loop {
        let start = cursor.at;
        let key = cursor.string()?;
        cursor.colon()?;
        if kept.is_none_or(|kept| kept[index]) {
            let step = || field_step(&String::from_utf8_lossy(&plain(key)));
            key.write(&mut keys.bytes);
            if !keys.close() {
                return Err(column_full(start));
            }
            read_value(cursor, values).map_err(|it| it.within(step()))?;
            if !nullable && !values.is_valid(values.len() - 1) {
                return Err(missing().within(step()));
            }
        } else {
            cursor.skip()?;
        }
        index += 1;
        if !cursor.another(b'}')? {
            return Ok(());
        }
        cursor.peek();
    }
}

/// Reads an object's key, its `position`-th, and the colon behind it: the field it means, and where the key stands, in
/// its quotes.
#[inline]
pub(crate) fn read_key(
    cursor: &mut Cursor<'_>,
    keys: &mut Keys,
    position: usize,
) -> Outcome<(Option<usize>, Range<usize>)> {
    cursor.peek();
    let start = cursor.at;
    let rest = cursor.rest();
    if let Some((field, length)) = keys.guess(position, rest) {
        cursor.at += length;
        cursor.colon()?;
        return Ok((field, start..start + length));
    }
    let key = cursor.string()?;
    let end = cursor.at;
    let field = keys.find(&plain(key));
    keys.learn(position, &cursor.bytes[start..end], field);
    cursor.colon()?;
    Ok((field, start..end))
}

fn append_integer<T: TryFrom<i64>>(number: Number<'_>, values: &mut Vec<T>) -> Result<(), Misfit> {
    let value = T::try_from(number.to_i64()?).map_err(|_| Misfit::OutOfRange)?;
    values.push(value);
    Ok(())
}

fn append_decimal(number: Number<'_>, column: &mut ColumnBuilder, start: usize) -> Outcome {
    let DataType::Decimal128(precision, scale) = column.data_type else {
        return Err(wrong_type(column, start));
    };
    match number.scaled(i32::from(scale)) {
        Ok(value) if value.unsigned_abs() < 10_u128.pow(u32::from(precision)) => match &mut column.values {
            Values::Decimal(values) => {
                values.push(value);
                Ok(())
            }
            _ => Err(wrong_type(column, start)),
        },
        _ => Err(out_of_range(column, start)),
    }
}

#[inline]
fn is_number(first: u8) -> bool {
    first.is_ascii_digit() || first == b'-'
}

/// The text without escapes.
fn plain(text: Text<'_>) -> Cow<'_, [u8]> {
    if !text.escaped {
        return Cow::Borrowed(text.raw);
    }
    let mut plain = Vec::with_capacity(text.raw.len());
    text.write(&mut plain);
    Cow::Owned(plain)
}

fn field_step(name: &str) -> Step {
    Step::Field(name.to_string())
}

#[cold]
pub(crate) fn missing() -> Box<Problem> {
    Problem::of_record("missing", "required, but missing or null".to_string())
}

#[cold]
fn wrong_type(column: &ColumnBuilder, start: usize) -> Box<Problem> {
    Problem::of_value("wrong_type", format!("expected {}", sql_type_name(&column.data_type)), start)
}

#[cold]
fn out_of_range(column: &ColumnBuilder, start: usize) -> Box<Problem> {
    let message = format!("does not fit {}", sql_type_name(&column.data_type));
    Problem::of_value("out_of_range", message, start)
}

#[cold]
fn no_integer(misfit: Misfit, column: &ColumnBuilder, start: usize) -> Box<Problem> {
    match misfit {
        Misfit::Inexact => wrong_type(column, start),
        Misfit::OutOfRange => out_of_range(column, start),
    }
}

#[cold]
fn column_full(start: usize) -> Box<Problem> {
    Problem::of_value("too_large", "the batch has no room for more in this column".to_string(), start)
}
