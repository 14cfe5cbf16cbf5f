//! Appends each message to a file, one line each.

use std::path::PathBuf;

use async_trait::async_trait;
use tokio::fs::OpenOptions;
use tokio::io::AsyncWriteExt;
use weir_pipeline::notify::{Message, Messenger};

/// Appends to one file, which is made where there is none.
pub struct FileMessenger {
    path: PathBuf,
}

impl FileMessenger {
    /// Appends to `path`.
    pub fn new(path: PathBuf) -> Self {
        Self { path }
    }
}

#[async_trait]
impl Messenger for FileMessenger {
    async fn deliver(&self, message: &Message) -> Result<(), String> {
        let append = async {
            let mut file = OpenOptions::new().create(true).append(true).open(&self.path).await?;
            // One write, so that a line is not torn by another writer.
            file.write_all(format!("{}\n", message.body).as_bytes()).await?;
            file.sync_all().await
        };
        append.await.map_err(|error: std::io::Error| error.to_string())
    }
}
