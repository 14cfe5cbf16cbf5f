//! Reads the text of one cell (of a CSV row, of a log line) into one column.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use chrono::{NaiveDate, NaiveDateTime};

use arrow::datatypes::DataType;

use crate::columns::{ColumnBuilder, Values};
use crate::json::problem::shortened;
use crate::json::read_json_cell;
use crate::types::sql_type_name;
use crate::utf8::Refusal;
use crate::values::{Misfit, Number, days_from_civil, epoch_micros, parse_date, parse_number, parse_timestamp};

/// How dates and times are written, beside ISO 8601.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TimeFormat {
    /// `20/May/2015:12:05:17 +0000`, as in access logs.
    AccessLog,
    /// In chrono's notation, such as `%d.%m.%Y %H:%M`.
    Pattern(String),
}

/// Appends `text`, which is UTF-8 and not NULL. After an error the column has to be truncated.
///
/// Text and numbers are read as they stand, blanks around numbers do not matter; BOOLEAN is `true`, `t`, `yes`, `y`, `1`
/// or the opposite, in any case; BINARY is base64; STRUCT, ARRAY and MAP are JSON.
pub(crate) fn read_cell(text: &[u8], column: &mut ColumnBuilder, times: &[TimeFormat]) -> Result<(), Refusal> {
    if let Values::Text(values) = &mut column.values {
        if !values.push(text) {
            return Err(("too_large", "the batch has no room for more in this column".to_string()));
        }
        column.nulls.append_non_null();
        return Ok(());
    }
    let trimmed = text.trim_ascii();
    let data_type = &column.data_type;
    let wrong_type = || refusal("wrong_type", "expected", data_type, text);
    let no_number = |misfit| match misfit {
        Misfit::Inexact => refusal("wrong_type", "expected", data_type, text),
        Misfit::OutOfRange => refusal("out_of_range", "does not fit", data_type, text),
    };
    let number = || parse_number(trimmed).ok_or_else(wrong_type);
    match &mut column.values {
        Values::Text(_) => {}
        Values::Int8(values) => values.push(integer(number()?).map_err(no_number)?),
        Values::Int16(values) => values.push(integer(number()?).map_err(no_number)?),
        Values::Int32(values) => values.push(integer(number()?).map_err(no_number)?),
        Values::Int64(values) => values.push(integer(number()?).map_err(no_number)?),
        Values::Float32(values) => values.push(number()?.to_f32().map_err(no_number)?),
        Values::Float64(values) => values.push(number()?.to_f64().map_err(no_number)?),
        Values::Decimal(values) => {
            let DataType::Decimal128(precision, scale) = *data_type else { return Err(wrong_type()) };
            match number()?.scaled(i32::from(scale)) {
                Ok(value) if value.unsigned_abs() < 10_u128.pow(u32::from(precision)) => values.push(value),
                _ => return Err(no_number(Misfit::OutOfRange)),
            }
        }
        Values::Boolean(values) => values.append(boolean(trimmed).ok_or_else(wrong_type)?),
        Values::Date(values) => values.push(date(trimmed, times).ok_or_else(wrong_type)?),
        Values::Timestamp(values) => values.push(timestamp(trimmed, times).ok_or_else(wrong_type)?),
        Values::Binary(values) => match BASE64.decode_vec(trimmed, &mut values.bytes) {
            Ok(()) if values.close() => {}
            Ok(()) => return Err(("too_large", "the batch has no room for more in this column".to_string())),
            Err(_) => return Err(wrong_type()),
        },
        Values::Struct(_) | Values::List { .. } | Values::Map { .. } | Values::Unsupported => {
            return read_json_cell(trimmed, column);
        }
    }
    column.nulls.append_non_null();
    Ok(())
}

#[cold]
fn refusal(reason: &'static str, verb: &str, data_type: &DataType, text: &[u8]) -> Refusal {
    let text = String::from_utf8_lossy(text);
    (reason, format!("{verb} {}, found {:?}", sql_type_name(data_type), shortened(&text)))
}

fn integer<T: TryFrom<i64>>(number: Number<'_>) -> Result<T, Misfit> {
    T::try_from(number.to_i64()?).map_err(|_| Misfit::OutOfRange)
}

fn boolean(text: &[u8]) -> Option<bool> {
    let is = |words: &[&str]| words.iter().any(|word| text.eq_ignore_ascii_case(word.as_bytes()));
    match () {
        () if is(&["true", "t", "yes", "y", "1"]) => Some(true),
        () if is(&["false", "f", "no", "n", "0"]) => Some(false),
        () => None,
    }
}

fn date(text: &[u8], times: &[TimeFormat]) -> Option<i32> {
    parse_date(text).or_else(|| {
        let text = std::str::from_utf8(text).ok()?;
        let epoch = NaiveDate::default();
        times.iter().find_map(|format| match format {
            TimeFormat::AccessLog => None,
            TimeFormat::Pattern(pattern) => {
                let date = NaiveDate::parse_from_str(text, pattern).ok()?;
                i32::try_from(date.signed_duration_since(epoch).num_days()).ok()
            }
        })
    })
}

fn timestamp(text: &[u8], times: &[TimeFormat]) -> Option<i64> {
    let declared = times.iter().find_map(|format| match format {
        TimeFormat::AccessLog => access_log_time(text),
        TimeFormat::Pattern(pattern) => {
            let text = std::str::from_utf8(text).ok()?;
            chrono::DateTime::parse_from_str(text, pattern).map(|time| time.timestamp_micros()).ok().or_else(|| {
                let day = || NaiveDate::parse_from_str(text, pattern).ok()?.and_hms_opt(0, 0, 0);
                let time = NaiveDateTime::parse_from_str(text, pattern).ok().or_else(day)?;
                Some(time.and_utc().timestamp_micros())
            })
        }
    });
    declared.or_else(|| parse_timestamp(text)).or_else(|| epoch_micros(parse_number(text)?))
}

/// `20/May/2015:12:05:17 +0000` as microseconds since 1970.
pub(crate) fn access_log_time(text: &[u8]) -> Option<i64> {
    let [
        d0,
        d1,
        b'/',
        m0,
        m1,
        m2,
        b'/',
        y0,
        y1,
        y2,
        y3,
        b':',
        h0,
        h1,
        b':',
        i0,
        i1,
        b':',
        s0,
        s1,
        b' ',
        sign,
        z0,
        z1,
        z2,
        z3,
    ] = *text
    else {
        return None;
    };
    let number = |digits: &[u8]| {
        digits
            .iter()
            .try_fold(0_u32, |value, digit| digit.is_ascii_digit().then(|| value * 10 + u32::from(digit - b'0')))
    };
    let month = match &[m0, m1, m2] {
        b"Jan" => 1,
        b"Feb" => 2,
        b"Mar" => 3,
        b"Apr" => 4,
        b"May" => 5,
        b"Jun" => 6,
        b"Jul" => 7,
        b"Aug" => 8,
        b"Sep" => 9,
        b"Oct" => 10,
        b"Nov" => 11,
        b"Dec" => 12,
        _ => return None,
    };
    let days = i64::from(days_from_civil(i64::from(number(&[y0, y1, y2, y3])?), month, number(&[d0, d1])?)?);
    let (hours, minutes, seconds) = (number(&[h0, h1])?, number(&[i0, i1])?, number(&[s0, s1])?);
    let zone = i64::from(number(&[z0, z1])? * 3600 + number(&[z2, z3])? * 60);
    if hours > 23 || minutes > 59 || seconds > 60 {
        return None;
    }
    let zone = match sign {
        b'+' => zone,
        b'-' => -zone,
        _ => return None,
    };
    Some((days * 86_400 + i64::from(hours * 3600 + minutes * 60 + seconds) - zone) * 1_000_000)
}
