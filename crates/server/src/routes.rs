//! What the server answers, path by path.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Uri};
use axum::middleware::{Next, from_fn_with_state};
use axum::routing::{any, get, post};
use bytes::Bytes;
use serde::Deserialize;
use tokio::sync::Semaphore;

use crate::access::has_token;
use crate::backend::{Backend, Control, Failure, FailureKind};
use crate::encode::json_rows;
use crate::key::key_of;
use crate::query::query;
use crate::server::ServerSettings;

/// The header that tells the epoch of an answer.
pub(crate) const EPOCH: HeaderName = HeaderName::from_static("weir-epoch");

pub(crate) struct Shared {
    pub backend: Arc<dyn Backend>,
    pub settings: ServerSettings,
    pub token: String,
    pub queries: Arc<Semaphore>,
}

pub(crate) fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route("/query", post(query))
        .route("/tables/{*path}", get(lookup))
        .route("/status", get(status))
        .route("/health/live", get(|| async { json(StatusCode::OK, &serde_json::json!({ "live": true })) }))
        .route("/health/ready", get(ready))
        .route("/verify", post(verify))
        .route("/why", post(why))
        .route("/control", post(control))
        .fallback(any(unknown))
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(shared.settings.body_size_max))
        .layer(from_fn_with_state(Arc::clone(&shared), checked))
        .with_state(shared)
}

async fn checked(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response<Body> {
    match shared.settings.access.check(request.uri(), request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, message)) => refused(status, &message),
    }
}

async fn unknown(uri: Uri) -> Response<Body> {
    let known = "POST /query, GET /tables/NAME/KEY, GET /status, GET /health/live, GET /health/ready";
    refused(StatusCode::NOT_FOUND, &format!("there is no `{}`; there are: {known}", uri.path()))
}

async fn not_allowed() -> Response<Body> {
    refused(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method; the Allow header says which it takes")
}

async fn lookup(State(shared): State<Arc<Shared>>, uri: Uri) -> Response<Body> {
    let path = uri.path().strip_prefix("/tables/").unwrap_or_default();
    let Some((table, key)) = path.split_once('/') else {
        return refused(
            StatusCode::BAD_REQUEST,
            "ask for /tables/NAME/KEY, or /tables/NAME/A/B where the key has two columns",
        );
    };
    let found = shared.backend.key(table).and_then(|columns| {
        let key = key_of(key, &columns)?;
        shared.backend.lookup(table, &key)
    });
    let found = match found {
        Ok(found) => found,
        Err(failure) => return failed(&failure),
    };
    let mut response = match &found.row {
        Some(row) => {
            let mut bytes = Vec::with_capacity(256);
            match json_rows(&row.slice(0, 1), true, &mut bytes) {
                Ok(()) => body(StatusCode::OK, bytes.into()),
                Err(error) => failed(&Failure::new(FailureKind::Internal, error.to_string())),
            }
        }
        None => refused(StatusCode::NOT_FOUND, &format!("`{table}` has no row with this key")),
    };
    response.headers_mut().insert(EPOCH, HeaderValue::from(found.epoch));
    response
}

async fn status(State(shared): State<Arc<Shared>>) -> Response<Body> {
    json(StatusCode::OK, &shared.backend.status())
}

async fn ready(State(shared): State<Arc<Shared>>) -> Response<Body> {
    match shared.backend.ready() {
        Ok(()) => json(StatusCode::OK, &serde_json::json!({ "ready": true })),
        Err(why) => json(StatusCode::SERVICE_UNAVAILABLE, &serde_json::json!({ "ready": false, "error": why })),
    }
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct VerifyRequest {
    #[serde(default)]
    models: Vec<String>,
}

async fn verify(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let request: VerifyRequest = match ordered(&shared, &headers, if body.is_empty() { b"{}" } else { &body }) {
        Ok(request) => request,
        Err(response) => return *response,
    };
    match shared.backend.verify(&request.models).await {
        Ok(report) => json(StatusCode::OK, &report),
        Err(failure) => failed(&failure),
    }
}

async fn why(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let question: serde_json::Value = match ordered(&shared, &headers, &body) {
        Ok(question) => question,
        Err(response) => return *response,
    };
    let Ok(_place) = Arc::clone(&shared.queries).try_acquire_owned() else {
        return failed(&Failure::new(FailureKind::Busy, "as many queries are running as may at one time"));
    };
    let limits = &shared.settings.limits;
    match tokio::time::timeout(limits.time_max, shared.backend.why(question, limits)).await {
        Ok(Ok(answer)) => json(StatusCode::OK, &answer),
        Ok(Err(failure)) => failed(&failure),
        Err(_) => {
            let message = format!("the question took longer than {} s", limits.time_max.as_secs_f32());
            failed(&Failure::new(FailureKind::Limit, message))
        }
    }
}

async fn control(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response<Body> {
    let order: Control = match ordered(&shared, &headers, &body) {
        Ok(order) => order,
        Err(response) => return *response,
    };
    match shared.backend.control(order).await {
        Ok(done) => json(StatusCode::OK, &done),
        Err(failure) => failed(&failure),
    }
}

/// Reads an order, of someone who knows the token.
fn ordered<T: for<'de> Deserialize<'de>>(
    shared: &Shared,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<T, Box<Response<Body>>> {
    if !has_token(headers, &shared.token) {
        let message = "this needs the token in .weir/server.json, as `Authorization: Bearer TOKEN`";
        return Err(Box::new(refused(StatusCode::UNAUTHORIZED, message)));
    }
    if !is_json(headers) {
        return Err(Box::new(refused(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send application/json")));
    }
    serde_json::from_slice(body)
        .map_err(|error| Box::new(refused(StatusCode::BAD_REQUEST, &format!("the body is not understood: {error}"))))
}

/// Whether the body says that it is JSON. Pages of others cannot say so without being asked for first.
pub(crate) fn is_json(headers: &HeaderMap) -> bool {
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
}

fn body(status: StatusCode, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    body(status, value.to_string().into())
}

/// `{"error": {"kind", "message"}}` for what the server itself turns down.
pub(crate) fn refused(status: StatusCode, message: &str) -> Response<Body> {
    let kind = match status {
        StatusCode::NOT_FOUND => FailureKind::NotFound,
        _ => FailureKind::Request,
    };
    json(status, &serde_json::json!({ "error": Failure::new(kind, message) }))
}

/// `{"error": {"kind", "message", "place", "hint"}}` with the status of its kind.
pub(crate) fn failed(failure: &Failure) -> Response<Body> {
    let status = match failure.kind {
        FailureKind::Request => StatusCode::BAD_REQUEST,
        FailureKind::NotFound => StatusCode::NOT_FOUND,
        FailureKind::Conflict => StatusCode::CONFLICT,
        FailureKind::Limit => StatusCode::UNPROCESSABLE_ENTITY,
        FailureKind::Busy => StatusCode::TOO_MANY_REQUESTS,
        FailureKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        FailureKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = json(status, &serde_json::json!({ "error": failure }));
    if matches!(failure.kind, FailureKind::Busy | FailureKind::Unavailable) {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}
