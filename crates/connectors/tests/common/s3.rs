//! As much of S3 as a mirror speaks to, in memory: objects by path, ranges, listings in pages, uploads in parts.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, Method, Response, StatusCode, Uri, header};
use parking_lot::Mutex;
use tokio::net::TcpListener;

/// Keys of one page of a listing: few, so that listings have pages.
const PAGE: usize = 20;
const MODIFIED: &str = "Thu, 01 Jan 2026 00:00:00 GMT";

/// What is stored.
#[derive(Default)]
struct Bucket {
    objects: BTreeMap<String, Bytes>,
    uploads: BTreeMap<String, BTreeMap<u32, Bytes>>,
    /// Answers that are still to be errors.
    failures: u32,
}

/// A server on a port of its own; it ends with its runtime.
pub struct S3 {
    /// Where it listens.
    pub address: SocketAddr,
    bucket: Arc<Mutex<Bucket>>,
}

impl S3 {
    /// Starts with an empty bucket, named `mirror`.
    pub async fn start() -> Self {
        let bucket: Arc<Mutex<Bucket>> = Arc::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new().fallback(answer).layer(DefaultBodyLimit::disable()).with_state(bucket.clone());
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, bucket }
    }

    /// The next so many answers are errors that no client takes for a hiccup.
    pub fn fail(&self, answers: u32) {
        self.bucket.lock().failures = answers;
    }

    /// Keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        self.bucket.lock().objects.keys().cloned().collect()
    }
}

fn respond(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::ETAG, "\"x\"".parse().unwrap());
    response.headers_mut().insert(header::LAST_MODIFIED, MODIFIED.parse().unwrap());
    response
}

async fn answer(
    State(bucket): State<Arc<Mutex<Bucket>>>,
    method: Method,
    uri: Uri,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
    body: Bytes,
) -> Response<Body> {
    let mut bucket = bucket.lock();
    if !headers.get(header::AUTHORIZATION).is_some_and(|value| value.to_str().unwrap().contains("AWS4-HMAC-SHA256")) {
        return respond(StatusCode::FORBIDDEN, "not signed");
    }
    if bucket.failures > 0 {
        bucket.failures -= 1;
        return respond(StatusCode::FORBIDDEN, "<Error><Code>AccessDenied</Code></Error>");
    }
    let Some(key) = uri.path().strip_prefix("/mirror").map(|key| key.trim_start_matches('/').to_owned()) else {
        return respond(StatusCode::NOT_FOUND, "<Error><Code>NoSuchBucket</Code></Error>");
    };
    match (method.as_str(), query.get("uploadId")) {
        ("GET", _) if key.is_empty() => list(&bucket, &query),
        ("POST", _) if key.is_empty() && query.contains_key("delete") => {
            let text = String::from_utf8(body.to_vec()).unwrap();
            let mut deleted = String::new();
            for key in text.split("<Key>").skip(1).filter_map(|part| part.split("</Key>").next()) {
                bucket.objects.remove(key);
                deleted.push_str(&format!("<Deleted><Key>{key}</Key></Deleted>"));
            }
            respond(StatusCode::OK, format!("<DeleteResult>{deleted}</DeleteResult>"))
        }
        ("POST", None) if query.contains_key("uploads") => {
            let id = format!("upload{}", bucket.uploads.len());
            bucket.uploads.insert(id.clone(), BTreeMap::new());
            let body =
                format!("<InitiateMultipartUploadResult><UploadId>{id}</UploadId></InitiateMultipartUploadResult>");
            respond(StatusCode::OK, body)
        }
        ("POST", Some(id)) => {
            let parts = bucket.uploads.remove(id).unwrap();
            let whole: Vec<u8> = parts.into_values().flatten().collect();
            bucket.objects.insert(key, whole.into());
            respond(StatusCode::OK, "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>")
        }
        ("PUT", Some(id)) => {
            let number = query["partNumber"].parse().unwrap();
            bucket.uploads.get_mut(id).unwrap().insert(number, body);
            respond(StatusCode::OK, "")
        }
        ("PUT", None) => {
            bucket.objects.insert(key, body);
            respond(StatusCode::OK, "")
        }
        ("DELETE", None) => {
            bucket.objects.remove(&key);
            respond(StatusCode::NO_CONTENT, "")
        }
        ("GET" | "HEAD", None) => match bucket.objects.get(&key) {
            Some(object) => read(object, &headers),
            None => respond(StatusCode::NOT_FOUND, "<Error><Code>NoSuchKey</Code></Error>"),
        },
        _ => respond(StatusCode::NOT_IMPLEMENTED, format!("{method} {uri}")),
    }
}

/// An object, or a range of it. axum leaves the body out where only the head was asked for.
fn read(object: &Bytes, headers: &HeaderMap) -> Response<Body> {
    let range = headers.get(header::RANGE).map(|range| range.to_str().unwrap().trim_start_matches("bytes=").to_owned());
    let Some(range) = range else {
        let mut response = respond(StatusCode::OK, object.clone());
        response.headers_mut().insert(header::CONTENT_LENGTH, object.len().into());
        return response;
    };
    let (start, end) = range.split_once('-').unwrap();
    let (start, end): (usize, usize) = (start.parse().unwrap(), end.parse().unwrap());
    let end = end.min(object.len() - 1);
    let mut response = respond(StatusCode::PARTIAL_CONTENT, object.slice(start..=end));
    let range = format!("bytes {start}-{end}/{}", object.len());
    response.headers_mut().insert(header::CONTENT_RANGE, range.parse().unwrap());
    response
}

fn list(bucket: &Bucket, query: &BTreeMap<String, String>) -> Response<Body> {
    let prefix = query.get("prefix").map_or("", String::as_str);
    let after = query.get("continuation-token").map_or("", String::as_str);
    let mut found = bucket.objects.iter().filter(|(key, _)| key.starts_with(prefix) && key.as_str() > after);
    let page: Vec<_> = found.by_ref().take(PAGE).collect();
    let more = found.next().is_some();
    let mut body = format!("<ListBucketResult><IsTruncated>{more}</IsTruncated>");
    if let Some((last, _)) = page.last().filter(|_| more) {
        body.push_str(&format!("<NextContinuationToken>{last}</NextContinuationToken>"));
    }
    for (key, object) in page {
        body.push_str(&format!(
            "<Contents><Key>{key}</Key><Size>{}</Size><ETag>x</ETag><LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>",
            object.len()
        ));
    }
    body.push_str("</ListBucketResult>");
    respond(StatusCode::OK, body)
}
