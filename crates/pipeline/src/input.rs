//! The contract of inputs: what every kind of source offers the pipeline.
//!
//! An input is a set of partitions, each an ordered sequence of records that can be read again from a cursor until
//! the pipeline says that it will not ask for them any more. Several sources (relations) may read one input, once.
//!
//! - MUST: reading twice from the same cursor up to the same end gives the same records.
//! - MUST: a record that was acknowledged to whoever sent it is durable before it appears here.
//! - MUST NOT: skip what it cannot read. It is reported in [`Chunk::incidents`] or as an error.
//! - SHOULD: return large chunks (up to `bytes_max`) when much is there, and at once when little is.

use std::sync::Arc;

use async_trait::async_trait;
use weir_schemas::{Attributes, Records};

/// Where an input's reader stands: opaque bytes (JSON by convention), stored in the epoch's commit record.
#[derive(Debug, Clone, PartialEq, Eq, Default, serde::Serialize, serde::Deserialize)]
pub struct Cursor(pub String);

/// Consecutive records of one partition.
#[derive(Debug, Clone, Default)]
pub struct Chunk {
    /// The partition: for order, watermark and position. Stable across restarts.
    pub partition: u32,
    /// The records.
    pub records: Records,
    /// Offset of each record within its partition, growing.
    pub offsets: Vec<u64>,
    /// When each record arrived, µs since 1970 UTC. For files: the file's modification time.
    pub arrivals: Vec<i64>,
    /// What is known of the records beside their bytes.
    pub attributes: Attributes,
    /// What could not be read at all: (offset, reason code, message, raw bytes as far as they are known).
    pub incidents: Vec<Incident>,
    /// Bytes taken in, as the outside counts them.
    pub bytes: u64,
}

/// Something in the input that is not a record: a gzip cut short, a file that changed after it was read.
#[derive(Debug, Clone)]
pub struct Incident {
    /// Offset within the partition.
    pub offset: u64,
    /// Short stable code, as in `weir_schemas::Reject::reason`.
    pub reason: &'static str,
    /// Where and what, in one sentence.
    pub message: String,
    /// Raw bytes, may be empty.
    pub raw: Vec<u8>,
}

/// The records between two cursors.
#[derive(Debug, Clone, Default)]
pub struct Polled {
    /// In an order that reading again repeats.
    pub chunks: Vec<Chunk>,
    /// Where to go on.
    pub cursor: Cursor,
    /// Whether more is there already.
    pub more: bool,
}

/// An open input.
#[async_trait]
pub trait Input: Send + Sync {
    /// Records behind `cursor` (the default cursor is the beginning), about `bytes_max` bytes at most, without
    /// waiting for more to come. An empty answer has the cursor it was given, or one that only notes progress.
    async fn poll(&self, cursor: &Cursor, bytes_max: usize) -> Result<Polled, InputError>;

    /// Returns when [`Input::poll`] may have something new. May return too early, never too late by more than a
    /// quarter of a second.
    async fn changed(&self);

    /// A cursor from which a poll gives the record at `offset`, if it is still there, perhaps behind some before it.
    async fn cursor_at(&self, _offset: u64) -> Cursor {
        Cursor::default()
    }

    /// Whether offsets number the records of the input's one partition, from 0 and without a gap.
    fn numbers_records(&self) -> bool {
        false
    }

    /// Where a person finds the record at `offset`; None where the input's name and the offset say it all.
    async fn place(&self, _offset: u64) -> Option<Place> {
        None
    }

    /// What lies before `cursor` will never be polled again; storage of our own may be freed.
    async fn release(&self, cursor: &Cursor) -> Result<(), InputError>;
}

/// A place in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: String,
    /// Byte in its uncompressed content.
    pub byte: u64,
}

/// Why an input could not be read.
#[derive(Debug, thiserror::Error)]
pub enum InputError {
    /// It may work again later by itself.
    #[error("{0}")]
    Retry(String),
    /// A person has to do something; the input stops, the rest goes on.
    #[error("{0}")]
    Stopped(String),
}

/// Shared handle.
pub type InputRef = Arc<dyn Input>;
