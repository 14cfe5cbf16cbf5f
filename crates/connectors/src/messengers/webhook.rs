//! Posts each message as JSON to an HTTP address; any answer of 200 to 299 means that it was taken.
//!
//! The address may hold a secret, as many services want it, so that no error repeats it.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::Full;
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST, USER_AGENT};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use url::Url;
use weir_pipeline::notify::{Message, Messenger};

use crate::tls::client_config;

/// Longest time from the connection to the answer.
const TIME_MAX: Duration = Duration::from_secs(10);

/// One address. Every message is a connection of its own.
pub struct WebhookMessenger {
    host: String,
    port: u16,
    /// As the `host` header has it.
    authority: String,
    /// Path and query.
    target: String,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl WebhookMessenger {
    /// Posts to `url`, of `http` or `https`; errors do not repeat it.
    pub fn new(url: &str) -> Result<Self, String> {
        let url = Url::parse(url).map_err(|error| format!("the address is no URL: {error}"))?;
        let encrypted = match url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err("the address does not begin with http:// or https://".into()),
        };
        let host = url.host_str().ok_or("the address names no host")?;
        // An address of version 6 stands in brackets, which are no part of it.
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = url.port_or_known_default().ok_or("the address names no port")?;
        let tls = match encrypted {
            false => None,
            true => {
                let name = ServerName::try_from(host.clone()).map_err(|error| error.to_string())?;
                Some((TlsConnector::from(client_config(None)?), name))
            }
        };
        let authority = match url.port() {
            Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
            None => url.host_str().unwrap_or_default().to_owned(),
        };
        let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
        Ok(Self { host, port, authority, target: format!("{}{query}", url.path()), tls })
    }

    async fn post(&self, message: &Message) -> Result<StatusCode, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await;
        let stream = stream.map_err(|error| format!("no connection: {error}"))?;
        match &self.tls {
            None => self.send(stream, message).await,
            Some((connector, name)) => {
                let stream = connector.connect(name.clone(), stream).await;
                self.send(stream.map_err(|error| format!("no encrypted connection: {error}"))?, message).await
            }
        }
    }

    async fn send<S>(&self, stream: S, message: &Message) -> Result<StatusCode, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let failed = |error: hyper::Error| format!("the request broke off: {error}");
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
        // Its errors are those of the request.
        let connection = tokio::spawn(connection);
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.target.as_str())
            .header(HOST, &self.authority)
            .header(USER_AGENT, concat!("weir/", env!("CARGO_PKG_VERSION")))
            .header(CONTENT_TYPE, "application/json")
            .header("weir-message-id", &message.id)
            .body(Full::new(Bytes::from(message.body.to_string())))
            .map_err(|_| "the address cannot be asked".to_owned())?;
        let answer = sender.send_request(request).await.map_err(failed);
        connection.abort();
        Ok(answer?.status())
    }
}

#[async_trait]
impl Messenger for WebhookMessenger {
    async fn deliver(&self, message: &Message) -> Result<(), String> {
        match tokio::time::timeout(TIME_MAX, self.post(message)).await {
            Ok(Ok(status)) if status.is_success() => Ok(()),
            Ok(Ok(status)) => Err(format!("it answered {status}")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(format!("it did not answer within {} s", TIME_MAX.as_secs())),
        }
    }
}

/// Keeps the connector out of what is printed.
impl std::fmt::Debug for WebhookMessenger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("WebhookMessenger(...)")
    }
}
