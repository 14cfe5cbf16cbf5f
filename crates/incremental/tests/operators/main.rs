//! The laws of the operators, against brute force: the sum of the deltas that an operator emits is its query over the
//! sum of the deltas it took, whatever the cuts; a delta and its negation leave nothing behind; a restart changes nothing.

mod aggregates;
mod deltas;
mod joins;
mod others;
mod special;
mod support;
