//! What an epoch is made of.

use weir_incremental::{Delta, Relation};

use crate::prepare::PreparedChunk;
use crate::recompute::Recomputed;

/// The records that an epoch takes from one input.
#[derive(Debug)]
pub struct EpochPart {
    /// The input.
    pub input: String,
    /// Decoded chunks, in order.
    pub chunks: Vec<PreparedChunk>,
    /// Where the input goes on.
    pub cursor: crate::input::Cursor,
    /// Records of the poll at the cursor that are taken with this epoch or were before.
    pub skip: u64,
}

/// Records sent through again.
#[derive(Debug)]
pub struct ReplayPart {
    /// Index of the source.
    pub source: usize,
    /// The records.
    pub chunks: Vec<PreparedChunk>,
    /// What leaves the quarantine or the late relation.
    pub removed: Vec<(Relation, Delta)>,
    /// Whether lateness is judged.
    pub check_lateness: bool,
}

/// What an epoch is made of.
#[derive(Debug, Default)]
pub struct EpochInput {
    /// Live input.
    pub parts: Vec<EpochPart>,
    /// Replayed records.
    pub replay: Option<ReplayPart>,
    /// Models that were recomputed, each at most once.
    pub recomputed: Vec<Recomputed>,
}
