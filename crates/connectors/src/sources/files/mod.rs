//! Files in a folder, read in place: one partition, ordered by file name and then by byte.
//!
//! - A file is read once it is settled: old enough, and the same in two looks.
//! - The order of reading is decided when files are first seen settled and kept in a [`catalogue`]; a file that
//!   comes later is read later, whatever its name.
//! - An offset is a running total over the uncompressed bytes of all files in that order.
//! - What was read is never read again. A file whose content changes afterwards is reported, once a change.
//! - The framer sees at most about 8 MiB at a time, unless one record is longer.

mod catalogue;
mod content;
mod cursor;
mod folder;
mod reading;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use parking_lot::Mutex;
use weir_environment::{Clock, Storage};
use weir_pipeline::input::{Cursor, Input, InputError, Place, Polled};
use weir_schemas::FormatRef;

use reading::Reading;

/// Whether a line of a catalogue, without its end, is one that could have been written.
pub fn is_whole_line(line: &[u8]) -> bool {
    catalogue::is_whole(line)
}

/// How often the folder is looked at.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// How long an empty poll waits when files are about to settle.
const SETTLE_WAIT: Duration = Duration::from_millis(50);

/// What a files input reads and how.
#[derive(Clone)]
pub struct FilesSettings {
    /// What a relative pattern starts from: the project's folder.
    pub root: PathBuf,
    /// Path with wildcards `*`, `?`, `[..]` and `**`, as `landing/*.csv.gz`. Its part without wildcards is the
    /// source's folder.
    pub pattern: String,
    /// Cuts files into records.
    pub format: FormatRef,
    /// How long a file must have been left alone before it is read; 2 seconds by default.
    pub settle: Duration,
    /// File, in a folder that exists, where the catalogue of files read is kept.
    pub catalogue: PathBuf,
    /// Where the catalogue is written.
    pub storage: Arc<dyn Storage>,
    /// Tells the age of files.
    pub clock: Arc<dyn Clock>,
}

/// The usual [`FilesSettings::settle`].
pub const SETTLE_DEFAULT: Duration = Duration::from_secs(2);

/// The files that match a pattern, as an input. See the module for order and guarantees.
pub struct FilesInput {
    reading: Arc<Mutex<Reading>>,
}

impl fmt::Debug for FilesInput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FilesInput").finish_non_exhaustive()
    }
}

impl FilesInput {
    /// Opens the catalogue; reads no file yet. Blocks for as long as that takes.
    ///
    /// # Errors
    /// [`InputError::Stopped`] when the pattern or the catalogue cannot be understood, [`InputError::Retry`] when the
    /// catalogue cannot be opened.
    pub fn open(settings: FilesSettings) -> Result<Self, InputError> {
        Ok(Self { reading: Arc::new(Mutex::new(Reading::open(settings)?)) })
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Reading) -> Result<T, InputError> + Send + 'static,
    ) -> Result<T, InputError> {
        let reading = Arc::clone(&self.reading);
        tokio::task::spawn_blocking(move || work(&mut reading.lock()))
            .await
            .map_err(|error| InputError::Retry(format!("reading files was broken off: {error}")))?
    }
}

#[async_trait]
impl Input for FilesInput {
    async fn poll(&self, cursor: &Cursor, bytes_max: usize) -> Result<Polled, InputError> {
        let cursor = cursor.clone();
        let (polled, settling) = self.blocking(move |reading| reading.poll(&cursor, bytes_max)).await?;
        if settling && polled.chunks.is_empty() {
            tokio::time::sleep(SETTLE_WAIT).await;
        }
        Ok(polled)
    }

    async fn changed(&self) {
        loop {
            // What cannot be looked at is reported by `poll`.
            if self.blocking(|reading| reading.is_behind()).await.unwrap_or(true) {
                return;
            }
            tokio::time::sleep(LOOK_INTERVAL).await;
        }
    }

    async fn cursor_at(&self, offset: u64) -> Cursor {
        // What cannot be found is looked for from the beginning.
        self.blocking(move |reading| Ok(reading.cursor_at(offset))).await.unwrap_or_default()
    }

    async fn place(&self, offset: u64) -> Option<Place> {
        self.blocking(move |reading| Ok(reading.place(offset))).await.ok().flatten()
    }

    async fn release(&self, _cursor: &Cursor) -> Result<(), InputError> {
        // The files belong to whoever put them there, and the catalogue must remember them.
        Ok(())
    }
}
