//! What a beacon needs of the log.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use weir_journal::{AppendError, BatchBuilder, Topic};
use weir_schemas::Records;

/// The events of one request on their way into the log.
#[derive(Debug, Clone)]
pub struct Submission {
    /// When they came, µs since 1970 UTC.
    pub arrival: i64,
    /// Who sent them, as [`super::Origin`] writes it: the headers of each record.
    pub headers: Bytes,
    /// The events as they were sent, each the JSON text of an object.
    pub records: Records,
}

/// Consecutive events of the log.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// Bytes that the ranges point into.
    pub buffer: Bytes,
    /// Offset of the first event; the others follow one by one.
    pub first_offset: u64,
    /// Start and length of each value in `buffer`.
    pub values: Vec<(u32, u32)>,
    /// Start and length of each event's headers in `buffer`.
    pub headers: Vec<(u32, u32)>,
    /// When each came, µs since 1970 UTC.
    pub arrivals: Vec<i64>,
}

/// Why the log did not take events.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// More is waiting to be written than may.
    #[error("too many events are waiting to be written")]
    Behind {
        /// When to try again.
        retry_after: Duration,
    },
    /// No room on the disk.
    #[error("the disk is full")]
    DiskFull,
    /// Writing failed; the log must be opened anew.
    #[error("the log cannot be written: {0}")]
    Failed(String),
    /// The log is shutting down.
    #[error("the log is closed")]
    Closed,
}

/// Called once with the offsets given, when all the events are durable, or with why none is kept.
pub type Appended = Box<dyn FnOnce(Result<Range<u64>, Refused>) + Send>;

/// A durable sequence of events.
pub trait EventLog: Send + Sync + 'static {
    /// Hands over events, together or not at all. Does not wait; `done` is called from any thread.
    fn append(&self, events: Submission, done: Appended);
    /// Durable events from offset `from` on, about `bytes_max` bytes of them and at least one if there is one.
    ///
    /// # Errors
    /// A sentence, when they cannot be read or are gone.
    fn read(&self, from: u64, bytes_max: usize) -> Result<Block, String>;
    /// First offset that is kept.
    fn first_offset(&self) -> u64;
    /// Offset behind the last durable event.
    fn durable_end(&self) -> u64;
    /// Which log this is, where logs are told from each other: another one whose offsets happen to fit is not ours.
    fn identity(&self) -> Option<u32> {
        None
    }
    /// Allows events before offset `before` to be removed.
    ///
    /// # Errors
    /// A sentence, when the storage failed.
    fn release(&self, before: u64) -> Result<(), String>;
    /// Has `wake` called whenever [`EventLog::durable_end`] has grown.
    fn on_durable(&self, wake: Arc<dyn Fn() + Send + Sync>);
}

impl EventLog for Topic {
    fn append(&self, events: Submission, done: Appended) {
        let Submission { arrival, headers, records } = events;
        let overhead = 20 * records.len() + headers.len();
        let mut batch = BatchBuilder::with_capacity(records.buffer.len() + overhead);
        for index in 0..records.len() {
            batch.push(arrival, None, &headers, records.get(index));
        }
        self.append_encoded(batch.finish(), Box::new(move |result| done(result.map_err(Refused::from))));
    }

    fn read(&self, from: u64, bytes_max: usize) -> Result<Block, String> {
        let block = Topic::read(self, from, bytes_max).map_err(|error| error.to_string())?;
        Ok(Block {
            buffer: block.buffer,
            first_offset: block.first_offset,
            values: block.values,
            headers: block.headers,
            arrivals: block.arrivals,
        })
    }

    fn first_offset(&self) -> u64 {
        self.begin()
    }

    fn durable_end(&self) -> u64 {
        Topic::durable_end(self)
    }

    fn identity(&self) -> Option<u32> {
        Topic::identity(self)
    }

    fn release(&self, before: u64) -> Result<(), String> {
        Topic::release(self, before).map_err(|error| error.to_string())
    }

    fn on_durable(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        Topic::on_durable(self, Box::new(move |_| wake()));
    }
}

impl From<AppendError> for Refused {
    fn from(error: AppendError) -> Self {
        match error {
            AppendError::Behind { retry_after } => Self::Behind { retry_after },
            AppendError::DiskFull { .. } => Self::DiskFull,
            AppendError::Closed => Self::Closed,
            other => Self::Failed(other.to_string()),
        }
    }
}
