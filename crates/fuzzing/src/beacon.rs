//! What a beacon is sent: bodies, query strings, headers; and what it keeps of who sent it.

use bytes::Bytes;
use weir_connectors::sources::beacon::{EventError, MediaType, Origin, event_of_query, events_of_body};

/// The most that a body may hold, bytes.
pub const BODY_SIZE_MAX: usize = 1 << 20;

/// Reads a body, compressed or not.
///
/// # Panics
/// When an event that was accepted is not an object, or a position that is named is not in the text.
pub fn body(bytes: &[u8], gzip: bool) {
    let body = Bytes::copy_from_slice(bytes);
    match events_of_body(&body, gzip, BODY_SIZE_MAX) {
        Ok(records) => {
            for index in 0..records.len() {
                let event = records.get(index);
                assert!(event.starts_with(b"{") && event.ends_with(b"}"), "an event is an object");
                assert!(std::str::from_utf8(event).is_ok(), "an event is text");
            }
        }
        Err(EventError::Syntax { message, position, .. }) => {
            assert!(!message.is_empty(), "an error says what is wrong");
            assert!(gzip || position <= bytes.len(), "byte {position} of {}", bytes.len());
        }
        Err(EventError::TooLarge { .. } | EventError::Gzip(_)) => {}
    }
}

/// Reads a query string.
///
/// # Panics
/// When what it becomes is not accepted as a body.
pub fn query(text: &str) {
    if let Ok(event) = event_of_query(text) {
        let accepted = events_of_body(&event, false, usize::MAX).map(|records| records.len());
        assert_eq!(accepted, Ok(1), "a query string becomes one event: {text:?}");
    }
}

/// Reads a `Content-Type`, and the bytes that say who sent a record.
///
/// # Panics
/// When who sent it does not survive being kept.
pub fn headers(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let _ = MediaType::parse(Some(&text));
    let origin = Origin::decode(bytes);
    let again = origin.encode();
    assert_eq!(Origin::decode(&again), origin, "it is kept as it was");
    let sent = Origin { client_address: None, user_agent: Some(&text), referer: Some(&text) };
    let kept = sent.encode();
    let read = Origin::decode(&kept);
    assert!(read.user_agent.is_some_and(|agent| text.starts_with(agent)), "what is cut is cut at its end");
}
