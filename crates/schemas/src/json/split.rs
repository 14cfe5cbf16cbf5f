//! Splits the body of an HTTP request into events: one object, an array of objects, or objects one after another.

use bytes::Bytes;

use crate::format::Records;
use crate::json::cursor::Cursor;
use crate::json::problem::Problem;

/// Why a body is not a list of events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct SplitError {
    /// Byte of the body, counted from 0.
    pub position: usize,
    /// What is wrong, with the position.
    pub message: String,
}

/// The events in `body`, which is one JSON object, an array of objects, or objects separated by white space (NDJSON).
///
/// Each event is a range of `body` itself. All of the body is checked: one wrong byte refuses it whole. A body of
/// nothing but white space has no events.
///
/// # Errors
/// The first place where the body is not UTF-8, not JSON, nests too deep, has something that is no object in a place
/// of an event, or is larger than 4 GiB.
pub fn split_json_events(body: &Bytes) -> Result<Records, SplitError> {
    let refuse = |position, message: String| Err(SplitError { position, message });
    if u32::try_from(body.len()).is_err() {
        return refuse(0, "the body is larger than 4 GiB".to_string());
    }
    if let Err(error) = simdutf8::compat::from_utf8(body) {
        let position = error.valid_up_to();
        return refuse(position, format!("the body is not UTF-8 at byte {position}"));
    }
    let mut cursor = Cursor::new(body);
    if body.starts_with(b"\xEF\xBB\xBF") {
        cursor.at = 3;
    }
    let mut ranges = Vec::new();
    match events(&mut cursor, &mut ranges) {
        Ok(()) => Ok(Records::new(body.clone(), ranges)),
        Err(problem) => refuse(problem.value_at.unwrap_or(cursor.at), problem.sentence(None)),
    }
}

fn events(cursor: &mut Cursor<'_>, ranges: &mut Vec<(u32, u32)>) -> Result<(), Box<Problem>> {
    if cursor.peek() == b'[' {
        cursor.enter()?;
        if cursor.peek() == b']' {
            cursor.leave();
            return cursor.end();
        }
        loop {
            event(cursor, ranges)?;
            if !cursor.another(b']')? {
                return cursor.end();
            }
        }
    }
    while cursor.peek() != 0 || cursor.at < cursor.bytes.len() {
        event(cursor, ranges)?;
    }
    Ok(())
}

fn event(cursor: &mut Cursor<'_>, ranges: &mut Vec<(u32, u32)>) -> Result<(), Box<Problem>> {
    if cursor.peek() != b'{' {
        return Err(cursor.unexpected("an event, which is a JSON object"));
    }
    let start = cursor.at;
    let event = cursor.skip()?;
    // Both fit: the body is no larger than 4 GiB.
    ranges.push((start as u32, event.len() as u32));
    Ok(())
}
