//! Requests to events: a query string becomes a JSON object, a body is cut into its JSON records.

use std::collections::HashMap;
use std::io::Read;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use weir_schemas::{Records, split_json_events};

/// Why a request's events were refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EventError {
    /// The text is not what it should be.
    #[error("{message}")]
    Syntax {
        /// What is wrong.
        message: String,
        /// Byte of the (uncompressed) text where that shows.
        position: usize,
        /// Line of the text, from 1; none of a query string.
        line: Option<usize>,
    },
    /// The body is larger than allowed, compressed or not.
    #[error("the body is larger than {size_max} bytes")]
    TooLarge {
        /// What is allowed, bytes.
        size_max: usize,
    },
    /// Not compressed as it says.
    #[error("the body is not gzip: {0}")]
    Gzip(String),
}

/// What a body may be declared as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaType {
    /// JSON: one object, an array of objects, or one a line.
    Json,
    /// Anything else.
    Other,
}

impl MediaType {
    /// Reads a `Content-Type`. `sendBeacon` says `text/plain` of strings, and some clients say nothing.
    pub fn parse(content_type: Option<&str>) -> Self {
        let Some(content_type) = content_type else { return Self::Json };
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        match essence.as_str() {
            ""
            | "application/json"
            | "text/plain"
            | "text/json"
            | "application/x-ndjson"
            | "application/ndjson"
            | "application/jsonl"
            | "application/x-jsonlines"
            | "application/json-seq" => Self::Json,
            other if other.ends_with("+json") => Self::Json,
            _ => Self::Other,
        }
    }
}

/// The events of a body: a JSON object, an array of objects, or objects one a line.
///
/// # Errors
/// The first thing that is wrong; nothing of such a body is taken in.
pub fn events_of_body(body: &Bytes, gzip: bool, size_max: usize) -> Result<Records, EventError> {
    if body.len() > size_max {
        return Err(EventError::TooLarge { size_max });
    }
    if !gzip {
        return split(body);
    }
    let mut plain = Vec::with_capacity((body.len() * 4).min(size_max + 1));
    let mut decoder = MultiGzDecoder::new(&body[..]).take(size_max as u64 + 1);
    decoder.read_to_end(&mut plain).map_err(|error| EventError::Gzip(error.to_string()))?;
    if plain.len() > size_max {
        return Err(EventError::TooLarge { size_max });
    }
    split(&plain.into())
}

/// The event of a query string: an object of strings, in the order of the parameters. A name that comes more than
/// once has an array of its values.
///
/// # Errors
/// A percent escape that is none, or bytes that are not UTF-8.
pub fn event_of_query(query: &str) -> Result<Bytes, EventError> {
    let mut fields: Vec<(String, Vec<String>)> = Vec::new();
    let mut known: HashMap<String, usize> = HashMap::new();
    let mut start = 0;
    for pair in query.split('&') {
        if !pair.is_empty() {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name_text = decoded(name, start)?;
            let value_text = decoded(value, start + (name.len() + 1).min(pair.len()))?;
            match known.get(&name_text) {
                Some(at) => fields[*at].1.push(value_text),
                None => {
                    known.insert(name_text.clone(), fields.len());
                    fields.push((name_text, vec![value_text]));
                }
            }
        }
        start += pair.len() + 1;
    }
    let mut json = Vec::with_capacity(query.len() + 8 * fields.len() + 2);
    json.push(b'{');
    for (index, (name, values)) in fields.iter().enumerate() {
        if index > 0 {
            json.push(b',');
        }
        // Strings always serialise, and a Vec takes every write.
        let _ = serde_json::to_writer(&mut json, name);
        json.push(b':');
        let _ = match values.as_slice() {
            [value] => serde_json::to_writer(&mut json, value),
            values => serde_json::to_writer(&mut json, values),
        };
    }
    json.push(b'}');
    Ok(json.into())
}

fn decoded(text: &str, start: usize) -> Result<String, EventError> {
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        match bytes[index] {
            b'+' => plain.push(b' '),
            b'%' => {
                let digits = bytes.get(index + 1..index + 3).and_then(|digits| {
                    let high = (digits[0] as char).to_digit(16)?;
                    let low = (digits[1] as char).to_digit(16)?;
                    Some((high * 16 + low) as u8)
                });
                let Some(byte) = digits else {
                    return Err(EventError::Syntax {
                        message: "% is not followed by two hexadecimal digits".into(),
                        position: start + index,
                        line: None,
                    });
                };
                plain.push(byte);
                index += 2;
            }
            byte => plain.push(byte),
        }
        index += 1;
    }
    String::from_utf8(plain).map_err(|_| EventError::Syntax {
        message: "the parameter is not UTF-8 text once its percent escapes are decoded".into(),
        position: start,
        line: None,
    })
}

fn split(body: &Bytes) -> Result<Records, EventError> {
    split_json_events(body).map_err(|error| {
        let before = &body[..error.position.min(body.len())];
        let line = Some(1 + memchr::memchr_iter(b'\n', before).count());
        EventError::Syntax { message: error.message, position: error.position, line }
    })
}
