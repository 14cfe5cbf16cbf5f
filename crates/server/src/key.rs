//! Key values from the path of a request: percent-decoded text, converted by the key column's SQL type.

use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::DataType;
use arrow::util::display::FormatOptions;

use crate::backend::{Failure, FailureKind, KeyColumn};

/// Splits `path` (percent-encoded, `/` between the values of a composite key) into one array of length 1 for each
/// column.
pub(crate) fn key_of(path: &str, columns: &[KeyColumn]) -> Result<Vec<ArrayRef>, Failure> {
    let request = |message: String| Failure::new(FailureKind::Request, message);
    let parts: Vec<&str> = path.split('/').collect();
    if parts.len() != columns.len() {
        let names: Vec<&str> = columns.iter().map(|column| column.name.as_str()).collect();
        return Err(request(format!(
            "the key has {} values ({}), and the path has {}",
            columns.len(),
            names.join(", "),
            parts.len()
        )));
    }
    let values = parts.iter().zip(columns).map(|(part, column)| {
        let text = percent_decoded(part)
            .ok_or_else(|| request(format!("`{part}`, for `{}`, is not percent-encoded UTF-8", column.name)))?;
        value_of(&text, &column.data_type)
            .map_err(|message| request(format!("key column `{}`: {message}", column.name)))
    });
    values.collect()
}

fn value_of(text: &str, data_type: &DataType) -> Result<ArrayRef, String> {
    let array: ArrayRef = Arc::new(StringArray::from(vec![text]));
    if *data_type == DataType::Utf8 {
        return Ok(array);
    }
    let options = CastOptions { safe: false, format_options: FormatOptions::default() };
    let cast = cast_with_options(&array, data_type, &options);
    cast.map_err(|_| format!("`{text}` is not a value of type {data_type}"))
}

fn percent_decoded(text: &str) -> Option<String> {
    if !text.contains('%') {
        return Some(text.to_owned());
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let high = (bytes.next()? as char).to_digit(16)?;
            let low = (bytes.next()? as char).to_digit(16)?;
            plain.push((high * 16 + low) as u8);
        } else {
            plain.push(byte);
        }
    }
    String::from_utf8(plain).ok()
}
