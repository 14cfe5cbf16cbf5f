//! The loop: admission, epochs, commit, recovery, ledger, verify, backfill; the contracts of inputs, sinks and
//! history. This crate does not know any one connector.

pub mod history;
pub mod input;
pub mod sink;

/// Number of an epoch: 1 for a project's first, then without gaps.
pub type EpochNumber = u64;
