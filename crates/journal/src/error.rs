//! What can go wrong, by what the caller must do about it.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// A failure of a journal's files.
#[derive(Debug, Clone, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused an operation; nothing is lost, and the same call may work later.
    #[error("cannot {action} {}: {source}", path.display())]
    Retry {
        /// What was tried: a verb.
        action: &'static str,
        /// With which file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: Arc<io::Error>,
    },
    /// There is no room. Work goes on by itself when there is.
    #[error("the disk that holds {} is full", path.display())]
    DiskFull {
        /// Where there should be room.
        path: PathBuf,
    },
    /// Bytes that were durable are not what was written. A person has to bring them back from a copy.
    #[error("{} is damaged at byte {position}: {what}{}", path.display(), numbers(records))]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// Where in it the damage begins, in bytes.
        position: u64,
        /// The record offsets or epoch numbers in it, when they are known.
        records: Option<Range<u64>>,
        /// What does not fit.
        what: String,
    },
    /// The file is not ours to touch: another format, or a version from the future.
    #[error("{}: {message}", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        message: String,
    },
    /// What was asked for is not kept (any more, or yet).
    #[error("{from} was asked of {}, which holds {begin} up to, not including, {end}", path.display())]
    OutOfRange {
        /// The folder.
        path: PathBuf,
        /// What was asked for.
        from: u64,
        /// The first that is there.
        begin: u64,
        /// Behind the last that is there.
        end: u64,
    },
}

fn numbers(records: &Option<Range<u64>>) -> String {
    match records {
        Some(records) if records.end == records.start + 1 => format!(" (number {})", records.start),
        Some(records) => format!(" (numbers {} up to, not including, {})", records.start, records.end),
        None => String::new(),
    }
}

impl JournalError {
    /// Sorts an error of the operating system by what can be done about it.
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::DiskFull { path: path.to_path_buf() },
            _ => Self::Retry { action, path: path.to_path_buf(), source: Arc::new(source) },
        }
    }

    pub(crate) fn corrupt(path: &Path, position: u64, records: Option<Range<u64>>, what: impl Into<String>) -> Self {
        Self::Corrupt { path: path.to_path_buf(), position, records, what: what.into() }
    }
}

/// Why records were not appended. None of them is in the topic, except that after [`AppendError::Failed`] a crash of
/// the machine may bring the whole batch back.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// More is queued than `queue_bytes_max`.
    #[error("the log is behind; try again in {} ms", retry_after.as_millis())]
    Behind {
        /// When the queue should have room again.
        retry_after: Duration,
    },
    /// There is no room on the disk. Later appends work when there is.
    #[error("the disk that holds {} is full", path.display())]
    DiskFull {
        /// Where there should be room.
        path: PathBuf,
    },
    /// A batch is longer than [`crate::topic::BATCH_BYTES_MAX`].
    #[error("a batch of {bytes} bytes is too large, {bytes_max} is the most")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The bound.
        bytes_max: usize,
    },
    /// Writing failed; the topic was set back to what was durable before.
    #[error("{0}")]
    Failed(Arc<JournalError>),
    /// The topic is closed.
    #[error("the topic is closed")]
    Closed,
}

impl From<JournalError> for AppendError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::DiskFull { path } => Self::DiskFull { path },
            other => Self::Failed(Arc::new(other)),
        }
    }
}
