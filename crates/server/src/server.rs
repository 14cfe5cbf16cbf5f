//! Listening, stopping, and the file by which commands find a running pipeline.

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::RngCore;
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};

use crate::access::Access;
use crate::backend::{Backend, QueryLimits};
use crate::routes::{Shared, router};

/// What the server allows.
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Hosts and origins that may ask.
    pub access: Access,
    /// What one query may use.
    pub limits: QueryLimits,
    /// Queries at one time; more are told to come again.
    pub queries_max: usize,
    /// Bytes of a request's body.
    pub body_size_max: usize,
    /// Time that [`Server::stop`] leaves to answers that have begun.
    pub stop_timeout: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self {
            access: Access::default(),
            limits: QueryLimits::default(),
            queries_max: 16,
            body_size_max: 1 << 20,
            stop_timeout: Duration::from_secs(10),
        }
    }
}

/// How to reach a running pipeline: what `.weir/server.json` holds, readable by its owner only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attachment {
    /// Where it listens.
    pub address: SocketAddr,
    /// Proof that the caller can read the project's folder.
    pub token: String,
    /// Its process.
    pub pid: u32,
}

impl Attachment {
    /// The file in a project's folder.
    pub fn path(project: &Path) -> PathBuf {
        project.join(".weir").join("server.json")
    }

    /// Reads the file; none when there is none.
    ///
    /// # Errors
    /// What the system says, or `InvalidData` when the file is not what it should be.
    pub fn read(project: &Path) -> io::Result<Option<Self>> {
        match std::fs::read(Self::path(project)) {
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(io::Error::from),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Writes the file; whoever reads it sees it whole.
    ///
    /// # Errors
    /// What the system says.
    pub fn write(&self, project: &Path) -> io::Result<()> {
        let path = Self::path(project);
        let temporary = path.with_extension("json.tmp");
        match std::fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(serde_json::to_string(self)?.as_bytes())?;
        std::fs::rename(&temporary, &path)
    }

    /// Removes the file, if it is still this one.
    ///
    /// # Errors
    /// What the system says.
    pub fn remove(&self, project: &Path) -> io::Result<()> {
        match Self::read(project) {
            Ok(Some(written)) if written == *self => std::fs::remove_file(Self::path(project)),
            _ => Ok(()),
        }
    }
}

/// A listening server.
pub struct Server {
    attachment: Attachment,
    stop: watch::Sender<bool>,
    stopped: tokio::task::JoinHandle<io::Result<()>>,
    stop_timeout: Duration,
}

impl fmt::Debug for Server {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Server").field("address", &self.attachment.address).finish_non_exhaustive()
    }
}

impl Server {
    /// Listens on `address` and answers from `backend`.
    ///
    /// # Errors
    /// What the system says when the address cannot be listened on.
    pub async fn start(address: SocketAddr, backend: Arc<dyn Backend>, settings: ServerSettings) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let mut secret = [0_u8; 32];
        rand::rng().fill_bytes(&mut secret);
        let token: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        let attachment = Attachment { address: listener.local_addr()?, token, pid: std::process::id() };
        let (stop, mut stopping) = watch::channel(false);
        let stop_timeout = settings.stop_timeout;
        let queries = Arc::new(Semaphore::new(settings.queries_max));
        let shared = Arc::new(Shared { backend, settings, token: attachment.token.clone(), queries });
        let listener = axum::serve::ListenerExt::tap_io(listener, |stream| {
            // Without it answers may wait 40 ms; that it cannot be set harms nothing.
            let _ = stream.set_nodelay(true);
        });
        let serving = axum::serve(listener, router(shared)).with_graceful_shutdown(async move {
            // It ends in an error when the server is dropped, which stops it too.
            let _ = stopping.wait_for(|stop| *stop).await;
        });
        let stopped = tokio::spawn(async move { serving.await });
        Ok(Self { attachment, stop, stopped, stop_timeout })
    }

    /// Where it listens, and the token for orders: to be written into the project's folder.
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Stops listening, lets answers that have begun end, and returns when they have or the time is up.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        let abort = self.stopped.abort_handle();
        if tokio::time::timeout(self.stop_timeout, self.stopped).await.is_err() {
            abort.abort();
        }
    }
}
