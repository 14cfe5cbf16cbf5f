//! Encrypted connections to PostgreSQL.
//!
//! `sslmode=require` (or `verify-full`) in the URL asks for TLS, with the server's certificate checked against the
//! machine's trusted roots, or against the file that `sslrootcert` names. Unlike libpq we never encrypt without
//! checking: that would only look safe. Otherwise the connection is plain.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::Config;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use url::Url;

use crate::tls::client_config;

/// What a URL says of server and encryption: TLS is used where there is a second part.
pub(super) fn parse_url(text: &str) -> Result<(Config, Option<RustTls>), String> {
    let Ok(mut url) = Url::parse(text) else {
        // libpq's other form, `host=... user=...`.
        let config: Config = text.parse().map_err(|error| format!("{error}"))?;
        let tls = if config.get_ssl_mode() == SslMode::Require { Some(RustTls::new(None)?) } else { None };
        return Ok((config, tls));
    };
    let mut roots = None;
    let mut kept = Vec::new();
    for (name, value) in url.query_pairs().into_owned() {
        match (name.as_str(), value.as_str()) {
            ("sslrootcert", _) => roots = Some(value),
            ("sslmode", "verify-full" | "verify-ca") => kept.push((name, "require".to_owned())),
            _ => kept.push((name, value)),
        }
    }
    url.set_query(None);
    if !kept.is_empty() {
        url.query_pairs_mut().extend_pairs(kept);
    }
    let config: Config = url.as_str().parse().map_err(|error| format!("{error}"))?;
    let tls = if config.get_ssl_mode() == SslMode::Require { Some(RustTls::new(roots.as_deref())?) } else { None };
    Ok((config, tls))
}

/// Whether a connection failed for what TLS found, which waiting does not mend.
pub(super) fn is_distrust(error: &tokio_postgres::Error) -> bool {
    let io = std::error::Error::source(error).and_then(|source| source.downcast_ref::<io::Error>());
    io.and_then(io::Error::get_ref).is_some_and(|inner| inner.is::<tokio_rustls::rustls::Error>())
}

/// Makes TLS connections.
#[derive(Clone)]
pub(super) struct RustTls(TlsConnector);

impl RustTls {
    fn new(roots: Option<&str>) -> Result<Self, String> {
        Ok(Self(TlsConnector::from(client_config(roots)?)))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> MakeTlsConnect<S> for RustTls {
    type Stream = Encrypted<S>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, domain: &str) -> io::Result<Handshake> {
        let name = ServerName::try_from(domain.to_owned())
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        Ok(Handshake(self.0.clone(), name))
    }
}

pub(super) struct Handshake(TlsConnector, ServerName<'static>);

impl<S: AsyncRead + AsyncWrite + Unpin + Send + 'static> TlsConnect<S> for Handshake {
    type Stream = Encrypted<S>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Encrypted<S>>>;

    fn connect(self, stream: S) -> Self::Future {
        async move { Ok(Encrypted(self.0.connect(self.1, stream).await?)) }.boxed()
    }
}

/// The encrypted stream.
pub(super) struct Encrypted<S>(tokio_rustls::client::TlsStream<S>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Encrypted<S> {
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Encrypted<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(context, into)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Encrypted<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}
