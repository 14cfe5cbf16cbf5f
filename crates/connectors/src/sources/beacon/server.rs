//! The beacon's HTTP/1.1 listener.
//!
//! - An answer of success is sent after the log has said that every event of the request is durable.
//! - Bounds: connections, bytes of bodies in flight, size of a body (compressed and not), time for a request to come.
//! - Stopping takes no new connection, finishes the requests that have begun, and gives up after a while.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::{Body, Incoming};
use hyper::header::{self, HeaderName};
use hyper::http::request::Parts;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, oneshot, watch};
use weir_environment::Clock;
use weir_schemas::Records;

use super::answer::{self, Answer};
use super::event::{MediaType, event_of_query, events_of_body};
use super::log::{EventLog, Submission};
use super::origin::Origin;

/// Bytes of a refused body that are read all the same.
const DRAIN_SIZE_MAX: usize = 16 << 20;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(1);

/// Bounds of a beacon; the defaults suit the open internet.
#[derive(Debug, Clone)]
pub struct BeaconSettings {
    /// Bytes of a body, compressed and uncompressed.
    pub body_size_max: usize,
    /// Connections at one time; more wait in the system's queue.
    pub connections_max: usize,
    /// Bytes of bodies, over all connections, that are not durable yet; beyond, the answer is 429.
    pub in_flight_size_max: usize,
    /// Time for a request's header to come, also the time that a connection may be idle.
    pub header_timeout: Duration,
    /// Time for a request's body to come.
    pub body_timeout: Duration,
    /// Time that [`BeaconServer::stop`] leaves to requests that have begun.
    pub stop_timeout: Duration,
    /// Header in which a proxy before the beacon tells the client's address (`x-forwarded-for`): its last part is
    /// taken. Without it, the connection's.
    pub client_address_header: Option<HeaderName>,
}

impl Default for BeaconSettings {
    fn default() -> Self {
        Self {
            body_size_max: 1 << 20,
            connections_max: 10_000,
            in_flight_size_max: 256 << 20,
            header_timeout: Duration::from_secs(30),
            body_timeout: Duration::from_secs(30),
            stop_timeout: Duration::from_secs(10),
            client_address_header: None,
        }
    }
}

/// A listening beacon.
pub struct BeaconServer {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    stopped: tokio::task::JoinHandle<()>,
}

impl fmt::Debug for BeaconServer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("BeaconServer").field("address", &self.address).finish_non_exhaustive()
    }
}

struct Shared {
    inputs: BTreeMap<String, Arc<dyn EventLog>>,
    names: Vec<String>,
    clock: Arc<dyn Clock>,
    settings: BeaconSettings,
    in_flight_size: AtomicUsize,
}

impl BeaconServer {
    /// Listens on `address`; `inputs` are the names that the paths may end in and the log of each.
    ///
    /// # Errors
    /// What the system says when the address cannot be listened on.
    pub async fn start(
        address: SocketAddr,
        inputs: BTreeMap<String, Arc<dyn EventLog>>,
        clock: Arc<dyn Clock>,
        settings: BeaconSettings,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let address = listener.local_addr()?;
        let (stop, stopping) = watch::channel(false);
        let names = inputs.keys().cloned().collect();
        let shared = Arc::new(Shared { inputs, names, clock, settings, in_flight_size: AtomicUsize::new(0) });
        let stopped = tokio::spawn(accept(listener, shared, stopping));
        Ok(Self { address, stop, stopped })
    }

    /// Where it listens; the port is the real one when 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops listening, lets requests that have begun end, and returns when they have or the time is up.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // It fails only when the listener's task panicked, and then it has stopped too.
        let _ = self.stopped.await;
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    let connections_max = shared.settings.connections_max.clamp(1, Semaphore::MAX_PERMITS >> 1);
    let places = Arc::new(Semaphore::new(connections_max));
    loop {
        let next = async {
            // The semaphore is never closed.
            let place = Arc::clone(&places).acquire_owned().await.ok();
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            next = next => next,
            () = told(&mut stopping) => break,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = serve(stream, peer.ip(), Arc::clone(&shared), stopping.clone());
                tokio::spawn(async move {
                    connection.await;
                    drop(place);
                });
            }
            Err(error) => {
                // Out of file descriptors, most often: others have to end first.
                tracing::warn!(%error, "the beacon could not accept a connection");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    drop(listener);
    let all = places.acquire_many(connections_max as u32);
    if tokio::time::timeout(shared.settings.stop_timeout, all).await.is_err() {
        tracing::warn!("the beacon stopped before all of its connections had ended");
    }
}

async fn serve(stream: TcpStream, peer: IpAddr, shared: Arc<Shared>, mut stopping: watch::Receiver<bool>) {
    // Without it answers may wait 40 ms; that it cannot be set harms nothing.
    let _ = stream.set_nodelay(true);
    let peer_text: Arc<str> = peer.to_canonical().to_string().into();
    let header_timeout = shared.settings.header_timeout;
    let service = service_fn(move |request| {
        let shared = Arc::clone(&shared);
        let peer = Arc::clone(&peer_text);
        async move { Ok::<_, Infallible>(shared.respond(request, &peer).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .keep_alive(true)
        .pipeline_flush(true)
        .max_buf_size(64 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = told(&mut stopping) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, %peer, "a connection to the beacon broke off");
    }
}

/// Returns when the server is stopped, or dropped.
async fn told(stopping: &mut watch::Receiver<bool>) {
    let _ = stopping.wait_for(|stop| *stop).await;
}

enum Route<'a> {
    Pixel(&'a str),
    Events(&'a str),
    None,
}

fn route(path: &str) -> Route<'_> {
    if let Some(name) = path.strip_prefix("/i/") {
        Route::Pixel(name)
    } else if let Some(name) = path.strip_prefix("/events/") {
        Route::Events(name)
    } else {
        Route::None
    }
}

impl Shared {
    async fn respond(&self, request: Request<Incoming>, peer: &str) -> Answer {
        let (parts, mut body) = request.into_parts();
        let mut answer = self.answer(&parts, &mut body, peer).await;
        if !answer.status().is_success() && !parts.headers.contains_key(header::EXPECT) {
            drain(body).await;
        }
        if let Some(origin) = parts.headers.get(header::ORIGIN) {
            answer::allow_origin(&mut answer, origin);
        }
        answer
    }

    async fn answer(&self, parts: &Parts, body: &mut Incoming, peer: &str) -> Answer {
        let method = &parts.method;
        match route(parts.uri.path()) {
            Route::None => {
                answer::refused(StatusCode::NOT_FOUND, "events go to POST /events/INPUT or GET /i/INPUT?name=value&...")
            }
            Route::Pixel(_) | Route::Events(_) if method == Method::OPTIONS => answer::preflight(),
            Route::Pixel(name) => match (self.inputs.get(name), method) {
                (None, _) => answer::unknown_input(name, &self.names),
                (Some(log), &Method::GET) => self.take_query(log.as_ref(), parts, peer).await,
                _ => answer::method_not_allowed("GET, OPTIONS"),
            },
            Route::Events(name) => match (self.inputs.get(name), method) {
                (None, _) => answer::unknown_input(name, &self.names),
                (Some(log), &Method::POST) => self.take_body(log.as_ref(), parts, body, peer).await,
                _ => answer::method_not_allowed("POST, OPTIONS"),
            },
        }
    }

    async fn take_query(&self, log: &dyn EventLog, parts: &Parts, peer: &str) -> Answer {
        let value = match event_of_query(parts.uri.query().unwrap_or_default()) {
            Ok(value) => value,
            Err(error) => return answer::bad_events(&error),
        };
        let ranges = vec![(0, value.len() as u32)];
        let events = Submission {
            arrival: self.clock.now(),
            headers: self.origin(&parts.headers, peer),
            records: Records::new(value, ranges),
        };
        match append(log, events).await {
            Ok(()) => answer::pixel(),
            Err(answer) => answer,
        }
    }

    async fn take_body(&self, log: &dyn EventLog, parts: &Parts, body: &mut Incoming, peer: &str) -> Answer {
        let headers = &parts.headers;
        let text = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
        let body_size_max = self.settings.body_size_max;
        if MediaType::parse(text(header::CONTENT_TYPE)) == MediaType::Other {
            return answer::refused(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "the body must be application/json, application/x-ndjson or text/plain, and hold JSON",
            );
        }
        let gzip = match text(header::CONTENT_ENCODING).map(str::trim) {
            None | Some("" | "identity") => false,
            Some(encoding) if encoding.eq_ignore_ascii_case("gzip") || encoding.eq_ignore_ascii_case("x-gzip") => true,
            Some(_) => return answer::unsupported_encoding(),
        };
        let declared = body.size_hint();
        if declared.lower() > body_size_max as u64 {
            let reason = format!("the body is larger than {body_size_max} bytes");
            return answer::refused(StatusCode::PAYLOAD_TOO_LARGE, &reason);
        }
        if !headers.contains_key(header::CONTENT_LENGTH) && !headers.contains_key(header::TRANSFER_ENCODING) {
            return answer::refused(StatusCode::LENGTH_REQUIRED, "the request says no length of its body");
        }
        let reserved = declared.upper().map_or(body_size_max, |upper| upper as usize);
        let Some(_place) = Place::take(&self.in_flight_size, reserved, self.settings.in_flight_size_max) else {
            return answer::too_many("too many bytes are waiting to be written", Duration::from_secs(1));
        };
        let origin = self.origin(headers, peer);
        let collected = Limited::new(body, body_size_max).collect();
        let body: Bytes = match tokio::time::timeout(self.settings.body_timeout, collected).await {
            Ok(Ok(collected)) => collected.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                let reason = format!("the body is larger than {body_size_max} bytes");
                return answer::refused(StatusCode::PAYLOAD_TOO_LARGE, &reason);
            }
            Ok(Err(error)) => {
                let reason = format!("the body did not come whole: {error}");
                return answer::refused(StatusCode::BAD_REQUEST, &reason);
            }
            Err(_) => return answer::refused(StatusCode::REQUEST_TIMEOUT, "the body took too long to come"),
        };
        let records = match events_of_body(&body, gzip, body_size_max) {
            Ok(records) => records,
            Err(error) => return answer::bad_events(&error),
        };
        let count = records.len();
        if count == 0 {
            return answer::accepted(0);
        }
        let events = Submission { arrival: self.clock.now(), headers: origin, records };
        match append(log, events).await {
            Ok(()) => answer::accepted(count),
            Err(answer) => answer,
        }
    }

    fn origin(&self, headers: &hyper::HeaderMap, peer: &str) -> Bytes {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
        let forwarded = self.settings.client_address_header.as_ref().and_then(text);
        let forwarded = forwarded.and_then(|list| list.rsplit(',').next()).map(str::trim);
        Origin {
            client_address: Some(forwarded.filter(|address| !address.is_empty()).unwrap_or(peer)),
            user_agent: text(&header::USER_AGENT),
            referer: text(&header::REFERER),
        }
        .encode()
    }
}

/// Reads what is left of a refused body, within bounds: a client that is still sending would see its connection
/// reset, and no answer.
async fn drain(mut body: Incoming) {
    let read = async {
        let mut left = DRAIN_SIZE_MAX;
        while left > 0
            && let Some(Ok(frame)) = body.frame().await
        {
            left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        }
    };
    // Whoever takes longer is not waited for.
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, read).await;
}

/// Bytes reserved while a request is under way.
struct Place<'a> {
    total: &'a AtomicUsize,
    size: usize,
}

impl<'a> Place<'a> {
    fn take(total: &'a AtomicUsize, size: usize, total_max: usize) -> Option<Self> {
        let before = total.fetch_add(size, Ordering::Relaxed);
        let place = Self { total, size };
        (before + size <= total_max).then_some(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.total.fetch_sub(self.size, Ordering::Relaxed);
    }
}

async fn append(log: &dyn EventLog, events: Submission) -> Result<(), Answer> {
    let (done, durable) = oneshot::channel();
    log.append(
        events,
        Box::new(move |result| {
            // Nobody waits when the client has gone.
            let _ = done.send(result);
        }),
    );
    match durable.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(refusal)) => Err(answer::not_durable(&refusal)),
        Err(_) => Err(answer::refused(StatusCode::SERVICE_UNAVAILABLE, "the log is closed")),
    }
}
