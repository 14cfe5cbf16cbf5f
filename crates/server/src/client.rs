//! The other end: what commands use to ask a pipeline that is running.

use std::io;
use std::path::Path;

use axum::http::header::{AUTHORIZATION, CONTENT_TYPE, HOST};
use axum::http::{Method, Request, Response, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::backend::{Control, Failure, FailureKind};
use crate::encode::Encoding;
use crate::server::Attachment;

/// A running pipeline, to be asked. Every call is a connection of its own.
#[derive(Debug, Clone)]
pub struct Client {
    attachment: Attachment,
}

/// An answer's bytes as they come.
#[derive(Debug)]
pub struct Answer {
    /// The epoch that was read.
    pub epoch: Option<u64>,
    body: Incoming,
}

impl Answer {
    /// The next bytes; none at the end.
    ///
    /// # Errors
    /// [`FailureKind::Unavailable`] when the answer breaks off.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Failure> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(bytes) = frame.map_err(|error| broken_off(&error))?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// All bytes that are left.
    ///
    /// # Errors
    /// [`FailureKind::Unavailable`] when the answer breaks off.
    pub async fn bytes(self) -> Result<Bytes, Failure> {
        Ok(self.body.collect().await.map_err(|error| broken_off(&error))?.to_bytes())
    }
}

fn broken_off(error: &dyn std::error::Error) -> Failure {
    Failure::new(FailureKind::Unavailable, format!("the answer broke off: {error}"))
}

impl Client {
    /// Finds the pipeline that runs on the project in folder `project`; none when nothing listens there.
    ///
    /// # Errors
    /// When `.weir/server.json` cannot be read.
    pub async fn attach(project: &Path) -> io::Result<Option<Self>> {
        let Some(attachment) = Attachment::read(project)? else { return Ok(None) };
        // The file may have been left behind by a process that was killed.
        let listening = TcpStream::connect(attachment.address).await.is_ok();
        Ok(listening.then_some(Self { attachment }))
    }

    /// Asks the server that `attachment` names.
    pub fn new(attachment: Attachment) -> Self {
        Self { attachment }
    }

    /// Whom it asks.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Runs a query; the rows come in `encoding`.
    ///
    /// # Errors
    /// What the server said, or [`FailureKind::Unavailable`].
    pub async fn query(&self, sql: &str, encoding: Encoding) -> Result<Answer, Failure> {
        let body = serde_json::json!({ "sql": sql, "format": encoding });
        let response = self.send(Method::POST, "/query", Some(&body)).await?;
        let epoch = response.headers().get("weir-epoch").and_then(|epoch| epoch.to_str().ok()?.parse().ok());
        Ok(Answer { epoch, body: response.into_body() })
    }

    /// What `weir status` shows.
    ///
    /// # Errors
    /// What the server said, or [`FailureKind::Unavailable`].
    pub async fn status(&self) -> Result<serde_json::Value, Failure> {
        json(self.send(Method::GET, "/status", None).await?).await
    }

    /// Verifies the named models, or all.
    ///
    /// # Errors
    /// What the server said, or [`FailureKind::Unavailable`].
    pub async fn verify(&self, models: &[String]) -> Result<serde_json::Value, Failure> {
        let body = serde_json::json!({ "models": models });
        json(self.send(Method::POST, "/verify", Some(&body)).await?).await
    }

    /// Asks why a row is there, or is not.
    ///
    /// # Errors
    /// What the server said, or [`FailureKind::Unavailable`].
    pub async fn why(&self, question: &serde_json::Value) -> Result<serde_json::Value, Failure> {
        json(self.send(Method::POST, "/why", Some(question)).await?).await
    }

    /// Gives an order.
    ///
    /// # Errors
    /// What the server said, or [`FailureKind::Unavailable`].
    pub async fn control(&self, order: &Control) -> Result<serde_json::Value, Failure> {
        json(self.send(Method::POST, "/control", Some(&serde_json::json!(order))).await?).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&serde_json::Value>,
    ) -> Result<Response<Incoming>, Failure> {
        let address = self.attachment.address;
        let unavailable = |error: &dyn std::error::Error| {
            Failure::new(FailureKind::Unavailable, format!("the pipeline at {address} cannot be asked: {error}"))
        };
        let stream = TcpStream::connect(address).await.map_err(|error| unavailable(&error))?;
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| unavailable(&error))?;
        // Its errors are those of the request.
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(HOST, address.to_string())
            .header(AUTHORIZATION, format!("Bearer {}", self.attachment.token))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body.map(ToString::to_string).unwrap_or_default())))
            .map_err(|error| unavailable(&error))?;
        let response = sender.send_request(request).await.map_err(|error| unavailable(&error))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let status = response.status();
        let bytes = response.into_body().collect().await.map_err(|error| unavailable(&error))?.to_bytes();
        let told = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let failure = told.and_then(|mut told| serde_json::from_value(told["error"].take()).ok());
        Err(failure.unwrap_or_else(|| {
            Failure::new(FailureKind::Internal, format!("{status}: {}", String::from_utf8_lossy(&bytes)))
        }))
    }
}

async fn json(response: Response<Incoming>) -> Result<serde_json::Value, Failure> {
    let bytes = response.into_body().collect().await.map_err(|error| broken_off(&error))?.to_bytes();
    serde_json::from_slice(&bytes).map_err(|error| broken_off(&error))
}
