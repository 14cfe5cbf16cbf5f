//! The contract of sinks: what every kind of destination offers the pipeline.
//!
//! A sink has its own cursor: the epoch up to which it holds the relation. The pipeline asks for the cursor at the
//! start, then applies changes in order. A sink that is down is retried with backoff and delays only itself.
//!
//! - MUST: after a crash at any instruction, `cursor()` tells exactly which epochs are in, by its class.
//! - MUST: `apply` of an epoch that is in already changes nothing.
//! - MUST: `reload` shows readers the old contents until the new ones are whole.

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::execution::SendableRecordBatchStream;
use weir_incremental::{Delta, Relation};

use crate::EpochNumber;

/// What a destination can promise (promise P5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DeliveryClass {
    /// Shows exactly one epoch; the cursor is in the same transaction.
    Transactional,
    /// So for each shard.
    PerShard,
    /// Idempotent by key and epoch; always ends right.
    Convergent,
    /// Carries an idempotency key.
    Event,
}

/// The relation that a sink is fed from.
#[derive(Debug, Clone)]
pub struct Feed {
    /// Its name.
    pub relation: Relation,
    /// Its columns.
    pub schema: SchemaRef,
    /// Its key columns, empty when it has none.
    pub key: Vec<String>,
    /// Whether it can only grow (no retraction ever).
    pub append_only: bool,
    /// Fingerprint of the relation's version and of the history it is told from; a destination that holds another one is
    /// reloaded.
    pub version: String,
    /// Versions with the same meaning that were told from histories which this one goes on from, each up to the epoch that
    /// it branched off at: a folder that was restored from a copy has the epochs before, and others after.
    pub earlier: Vec<(String, EpochNumber)>,
}

impl Feed {
    /// Whether a destination that holds this epoch of this version holds what this history tells of that epoch.
    pub fn continues(&self, version: &str, epoch: EpochNumber) -> bool {
        version == self.version || self.earlier.iter().any(|(earlier, last)| earlier == version && epoch <= *last)
    }
}

/// Why a destination did not take a change.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// Down or busy: try again later.
    #[error("{0}")]
    Retry(String),
    /// A person has to do something (permissions, a table of another shape).
    #[error("{0}")]
    Refused(String),
}

/// What a destination holds, read back at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The last epoch it holds of this version of the feed.
    pub epoch: Option<EpochNumber>,
    /// Rows.
    pub rows: i64,
    /// Their checksum, as the ledger's.
    pub checksum: u128,
}

/// An open destination.
#[async_trait]
pub trait Sink: Send {
    /// Its class.
    fn class(&self) -> DeliveryClass;

    /// The last epoch it holds of this version of the feed; None when it is new, or holds another version.
    async fn cursor(&mut self) -> Result<Option<EpochNumber>, SinkError>;

    /// Applies the consolidated changes of all epochs after the cursor up to `epoch`, as one.
    async fn apply(&mut self, epoch: EpochNumber, changes: &Delta) -> Result<(), SinkError>;

    /// Replaces the contents by those of `epoch` (rows, each as often as it occurs), built beside and switched.
    async fn reload(&mut self, epoch: EpochNumber, contents: SendableRecordBatchStream) -> Result<(), SinkError>;

    /// Reads back what it holds; None where values do not come back as they went.
    async fn read_back(&mut self) -> Result<Option<Held>, SinkError> {
        Ok(None)
    }
}
