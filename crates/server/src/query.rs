//! `POST /query`: one SQL statement, its rows streamed as they come.

use std::sync::Arc;
use std::time::Instant;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, Response, StatusCode};
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::backend::{Batches, Failure, FailureKind};
use crate::encode::{Encoding, RowWriter};
use crate::routes::{EPOCH, Shared, failed, is_json, refused};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    sql: String,
    #[serde(default)]
    format: Option<Encoding>,
}

pub(crate) async fn query(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    if !is_json(&headers) {
        return refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send {\"sql\": \"...\"} as application/json");
    }
    let request: Request = match serde_json::from_slice(&body) {
        Ok(request) => request,
        Err(error) => {
            return refused(StatusCode::BAD_REQUEST, &format!("the body is not {{\"sql\": \"...\"}}: {error}"));
        }
    };
    let accepted = headers.get(ACCEPT).map(|accept| Encoding::accepted(accept.to_str().unwrap_or("*/*")));
    let Some(encoding) = request.format.or(accepted.unwrap_or(Some(Encoding::Json))) else {
        let known = "application/json, text/csv and application/vnd.apache.arrow.stream can be had";
        return refused(StatusCode::NOT_ACCEPTABLE, known);
    };
    let Ok(place) = Arc::clone(&shared.queries).try_acquire_owned() else {
        return failed(&Failure::new(FailureKind::Busy, "as many queries are running as may at one time"));
    };
    let limits = &shared.settings.limits;
    let due = Instant::now() + limits.time_max;
    let time_up = || {
        let message = format!("the query took longer than {} s", limits.time_max.as_secs_f32());
        Failure::new(FailureKind::Limit, message)
    };
    let answer = match tokio::time::timeout_at(due.into(), shared.backend.query(&request.sql, limits)).await {
        Ok(Ok(answer)) => answer,
        Ok(Err(failure)) => return failed(&failure),
        Err(_) => return failed(&time_up()),
    };
    let mut batches = answer.batches;
    // Most failures come before the first batch: those get a status of their own.
    let first = match tokio::time::timeout_at(due.into(), batches.next()).await {
        Ok(Some(Err(failure))) => return failed(&failure),
        Ok(Some(Ok(batch))) => Some(batch),
        Ok(None) => None,
        Err(_) => return failed(&time_up()),
    };
    let batches: Batches = Box::pin(stream::iter(first.map(Ok)).chain(batches));
    let internal = |error: arrow::error::ArrowError| failed(&Failure::new(FailureKind::Internal, error.to_string()));
    let mut writer = match RowWriter::new(encoding, answer.epoch, answer.schema) {
        Ok(writer) => writer,
        Err(error) => return internal(error),
    };
    let start = match writer.start() {
        Ok(start) => start,
        Err(error) => return internal(error),
    };
    let rest = Writing {
        writer,
        batches,
        due,
        time_up: time_up(),
        rows_left: limits.rows_max,
        rows_max: limits.rows_max,
        _place: place,
    };
    let body = stream::once(async move { Ok(start) }).chain(rest.into_stream());
    let mut response = Response::new(Body::from_stream(body));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(encoding.media_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(EPOCH, HeaderValue::from(answer.epoch));
    response
}

struct Writing {
    writer: RowWriter,
    batches: Batches,
    due: Instant,
    time_up: Failure,
    rows_left: u64,
    rows_max: u64,
    _place: OwnedSemaphorePermit,
}

impl Writing {
    fn into_stream(self) -> impl futures::Stream<Item = Result<Bytes, Failure>> + Send {
        stream::unfold(Some(self), |writing| async move {
            let mut writing = writing?;
            match writing.next().await {
                Ok(Some(bytes)) => Some((Ok(bytes), Some(writing))),
                Ok(None) => match writing.writer.end(None) {
                    Ok(bytes) => bytes.map(|bytes| (Ok(bytes), None)),
                    Err(error) => Some((Err(Failure::new(FailureKind::Internal, error.to_string())), None)),
                },
                Err(failure) => match writing.writer.end(Some(&failure)) {
                    Ok(Some(bytes)) => Some((Ok(bytes), None)),
                    _ => Some((Err(failure), None)),
                },
            }
        })
    }

    async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        let next = tokio::time::timeout_at(self.due.into(), self.batches.next()).await;
        let Some(batch) = next.map_err(|_| self.time_up.clone())?.transpose()? else { return Ok(None) };
        let Some(left) = self.rows_left.checked_sub(batch.num_rows() as u64) else {
            let message = format!("the answer has more than {} rows; ask for fewer, with LIMIT", self.rows_max);
            return Err(Failure::new(FailureKind::Limit, message));
        };
        self.rows_left = left;
        let bytes = self.writer.batch(&batch);
        bytes.map(Some).map_err(|error| Failure::new(FailureKind::Internal, error.to_string()))
    }
}
