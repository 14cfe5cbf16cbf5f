//! The loop: admission, epochs, commit, recovery, ledger, verify, backfill; the contracts of inputs, sinks and
//! history. This crate does not know any one connector.

pub mod activity;
pub mod admission;
pub mod cases;
pub mod change;
pub mod check;
pub mod compile;
pub mod conservation;
pub mod contents;
pub mod copies;
pub mod core;
pub mod dedupe;
pub mod feed;
pub mod frames;
pub mod history;
pub mod input;
pub mod intake;
pub mod keyed;
pub mod ledger;
pub mod measure;
pub mod notify;
pub mod prepare;
pub mod rebuild;
pub mod recompute;
pub mod replay;
pub mod restore;
pub mod runtime;
pub mod sink;
pub mod spec;
pub mod state;
pub mod verify;
pub mod watermark;
pub mod why;

/// Number of an epoch: 1 for a project's first, then without gaps.
pub type EpochNumber = u64;
