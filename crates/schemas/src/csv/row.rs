//! Splits one CSV row into its fields.

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memmem};

use crate::csv::framer::closing_quote;
use crate::utf8::Refusal;

/// One field of a row.
#[derive(Debug, Clone)]
pub(crate) struct Field {
    /// Where its text is, quotes around it not included.
    pub text: Range<usize>,
    pub quoted: bool,
}

impl Field {
    /// The field's text; doubled quotes in a quoted one are single.
    pub fn text<'a>(&self, row: &'a [u8]) -> Cow<'a, [u8]> {
        let text = &row[self.text.clone()];
        if !self.quoted || memchr(b'"', text).is_none() {
            return Cow::Borrowed(text);
        }
        let mut plain = Vec::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = memmem::find(rest, b"\"\"") {
            plain.extend_from_slice(&rest[..=at]);
            rest = &rest[at + 2..];
        }
        plain.extend_from_slice(rest);
        Cow::Owned(plain)
    }
}

/// Puts the fields of `row` into `fields`.
pub(crate) fn split_row(row: &[u8], delimiter: u8, fields: &mut Vec<Field>) -> Result<(), Refusal> {
    fields.clear();
    let mut start = 0;
    loop {
        let end = if row.get(start) == Some(&b'"') {
            let refuse = |what| ("csv_syntax", format!("the quote that opens at byte {start} {what}"));
            let close = closing_quote(row, start).ok_or_else(|| refuse("does not end, or not within 1 MiB"))?;
            if row.get(close + 1).is_some_and(|next| *next != delimiter) {
                return Err(refuse("ends in the middle of its field"));
            }
            fields.push(Field { text: start + 1..close, quoted: true });
            close + 1
        } else {
            let end = memchr(delimiter, &row[start..]).map_or(row.len(), |offset| start + offset);
            fields.push(Field { text: start..end, quoted: false });
            end
        };
        if end == row.len() {
            return Ok(());
        }
        start = end + 1;
    }
}
