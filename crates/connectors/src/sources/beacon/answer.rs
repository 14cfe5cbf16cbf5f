//! What a beacon answers: the pixel, acknowledgements and refusals.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderValue};
use hyper::{Response, StatusCode};

use super::event::EventError;
use super::log::Refused;

/// A transparent GIF of one pixel, 43 bytes.
const PIXEL: &[u8; 43] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\
\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

/// An answer, body and all.
pub(super) type Answer = Response<Full<Bytes>>;

fn answer(status: StatusCode, media_type: &'static str, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type));
    answer
}

fn with(mut answer: Answer, name: header::HeaderName, value: &'static str) -> Answer {
    answer.headers_mut().insert(name, HeaderValue::from_static(value));
    answer
}

/// The pixel.
pub(super) fn pixel() -> Answer {
    let answer = answer(StatusCode::OK, "image/gif", Bytes::from_static(PIXEL));
    with(answer, header::CACHE_CONTROL, "no-store, no-cache, must-revalidate, private")
}

/// So many events are durable.
pub(super) fn accepted(count: usize) -> Answer {
    let mut body = Vec::with_capacity(24);
    body.extend_from_slice(b"{\"accepted\":");
    body.extend_from_slice(count.to_string().as_bytes());
    body.push(b'}');
    answer(StatusCode::OK, "application/json", body.into())
}

/// A refusal with its reason.
pub(super) fn refused(status: StatusCode, reason: &str) -> Answer {
    answer(status, "application/json", serde_json::json!({ "error": reason }).to_string().into())
}

/// The path names no input.
pub(super) fn unknown_input(name: &str, known: &[String]) -> Answer {
    let body = serde_json::json!({ "error": format!("there is no input `{name}`"), "inputs": known });
    answer(StatusCode::NOT_FOUND, "application/json", body.to_string().into())
}

/// The path does not take this method.
pub(super) fn method_not_allowed(allowed: &'static str) -> Answer {
    let reason = format!("the method is not allowed here; allowed: {allowed}");
    with(refused(StatusCode::METHOD_NOT_ALLOWED, &reason), header::ALLOW, allowed)
}

/// The body is in an encoding other than gzip.
pub(super) fn unsupported_encoding() -> Answer {
    let answer = refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the content encoding is neither gzip nor identity");
    with(answer, header::ACCEPT_ENCODING, "gzip")
}

/// Answer to what a browser asks before it sends.
pub(super) fn preflight() -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let answer = with(answer, header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS");
    let answer = with(answer, header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type, content-encoding");
    with(answer, header::ACCESS_CONTROL_MAX_AGE, "86400")
}

/// The events of a request cannot be read.
pub(super) fn bad_events(error: &EventError) -> Answer {
    match error {
        EventError::Syntax { message, position, line } => {
            let body = serde_json::json!({ "error": message, "position": position, "line": line, "accepted": 0 });
            answer(StatusCode::BAD_REQUEST, "application/json", body.to_string().into())
        }
        EventError::TooLarge { .. } => refused(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string()),
        EventError::Gzip(_) => refused(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

/// The log did not take the events.
pub(super) fn not_durable(refusal: &Refused) -> Answer {
    match refusal {
        Refused::Behind { retry_after } => too_many(&refusal.to_string(), *retry_after),
        Refused::DiskFull | Refused::Failed(_) | Refused::Closed => {
            let answer = refused(StatusCode::SERVICE_UNAVAILABLE, &refusal.to_string());
            with(answer, header::RETRY_AFTER, "10")
        }
    }
}

/// The sender should come back after `retry_after`.
pub(super) fn too_many(reason: &str, retry_after: Duration) -> Answer {
    let mut answer = refused(StatusCode::TOO_MANY_REQUESTS, reason);
    let seconds = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
    answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds.max(1)));
    answer
}

/// Lets the page at `origin` read the answer. There are no credentials to protect: nothing here depends on any.
pub(super) fn allow_origin(answer: &mut Answer, origin: &HeaderValue) {
    let headers = answer.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
    headers.insert(header::ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
    headers.insert(header::VARY, HeaderValue::from_static("Origin"));
}
