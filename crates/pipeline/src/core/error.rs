//! Why the pipeline cannot go on, and why an epoch was not committed.

use arrow::error::ArrowError;
use weir_incremental::operators::EngineError;
use weir_journal::JournalError;

use crate::EpochNumber;

/// Why the pipeline cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The journal, topics or ledger.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The engine.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An Arrow kernel.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    /// The lake.
    #[error(transparent)]
    History(#[from] crate::history::HistoryError),
    /// Contents could not be read.
    #[error(transparent)]
    Contents(#[from] crate::contents::ContentsError),
    /// The numbers of an epoch do not add up; it was not committed.
    #[error("epoch {epoch} does not add up and was not committed: {detail}")]
    Conservation {
        /// The epoch.
        epoch: EpochNumber,
        /// Which sum.
        detail: String,
    },
    /// Recovery got other contents than the ledger recorded.
    #[error("recovery of epoch {epoch} gives other contents of `{relation}` than the ledger recorded")]
    Mismatch {
        /// The epoch.
        epoch: EpochNumber,
        /// The relation.
        relation: String,
    },
    /// The stores of a folder are not of one time.
    #[error("the parts of this folder are not of one time: {0}; `weir doctor` says more, and what can be done")]
    Apart(String),
    /// Something on disk is not what this version writes.
    #[error("{0}")]
    State(String),
    /// An input stopped.
    #[error("input `{input}`: {message}")]
    Input {
        /// The input.
        input: String,
        /// Why.
        message: String,
    },
}

/// Why an epoch was not committed.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The disk is full or failed: nothing of the epoch is there; try the same epoch again.
    #[error(transparent)]
    Again(PipelineError),
    /// The pipeline has to stop.
    #[error(transparent)]
    Fatal(PipelineError),
}

/// For who does not try again.
impl From<CommitError> for PipelineError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Again(error) | CommitError::Fatal(error) => error,
        }
    }
}
