//! Durable files of opaque bytes: topics of records, the epoch journal, the ledger's chain.
//!
//! Nothing here knows what the bytes mean. All three keep segment files of checksummed entries ([`segment`] and
//! [`entry`] hold the format, and the argument for why a crash never loses or invents anything); they differ in what
//! an entry is:
//!
//! - [`topic`]: batches of records with growing offsets, written by group commit;
//! - [`epochs`]: the frames of an epoch and the commit record that makes them count, Weir's one commit point;
//! - [`ledger`]: entries chained by SHA-256.
//!
//! [`inspect`] reads them all for damage, without opening or changing anything; [`repair`] begins
//! files anew.
//!
//! One process may have a folder open, once; the caller holds the lock that sees to it.

pub mod epochs;
pub mod inspect;
pub mod ledger;
pub mod repair;
pub mod topic;

mod entry;
mod error;
mod segment;

pub use entry::Compression;
pub use epochs::{Commit, Committed, EpochJournal, EpochJournalOptions, EpochReader, Frame, PackedFrame};
pub use error::{AppendError, JournalError};
pub use ledger::{Hash, Ledger, LedgerEntries, LedgerEntry, LedgerOptions, Misfit, VerifyError};
pub use topic::{BatchBuilder, Block, EncodedBatch, Record, Topic, TopicOptions};
