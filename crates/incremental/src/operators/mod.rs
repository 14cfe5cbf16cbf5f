//! The operators of a dataflow: each turns deltas of its inputs into the delta of its output.
//!
//! The law of every operator: the sum of the deltas it has emitted equals its query run over the sum of the
//! deltas it has taken, at the clock of the last step. Operators speak of columns by index only: whatever must
//! be computed first is computed by a [`Map`] below.

mod aggregate;
mod as_of;
mod distinct;
mod join;
mod map;
mod partitioned;
mod parts;
mod recompute;
mod recursion;
mod set_operation;
mod temporal_filter;
pub mod tolerant;
mod top_k;
mod union;
mod unnest;

pub use aggregate::{Aggregate, AggregateCall, AggregateFunction};
pub use as_of::{AsOfConditions, AsOfJoin, Nearest};
pub use distinct::Distinct;
pub use join::{Join, JoinFilter, JoinKind, Passing};
pub use map::Map;
pub use partitioned::Partitioned;
pub use recompute::{Compute, Recompute};
pub use recursion::{COPIES_MAX, ITERATIONS_MAX, Recursion, RecursionStep, StepSource};
pub use set_operation::{SetOperation, SetOperationKind};
pub use temporal_filter::TemporalFilter;
pub use top_k::TopK;
pub use union::Union;
pub use unnest::Unnest;

use crate::checkpoint::Disk;
use crate::delta::Delta;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;

/// What an operator is told about the epoch, and where it leaves what went wrong with single rows.
pub struct StepContext<'a> {
    /// The epoch's clock, microseconds UTC.
    pub now: i64,
    /// Rows whose expressions failed in this step.
    pub errors: &'a mut Vec<RowError>,
}

/// A row whose expression failed. It is left out of the output.
#[derive(Debug, Clone)]
pub struct RowError {
    /// The expression that failed, as SQL.
    pub expression: String,
    /// What went wrong.
    pub message: String,
    /// The one input row.
    pub row: RecordBatch,
    /// The row's weight, so that taking the row away takes the error away.
    pub weight: i64,
}

/// Why an operator could not go on. Mistakes in single rows are [`RowError`]s instead.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// A mistake of ours.
    #[error("internal error of the engine: {0}")]
    Internal(String),
    /// An Arrow kernel failed.
    #[error(transparent)]
    Arrow(#[from] ArrowError),
    /// DataFusion failed.
    #[error(transparent)]
    DataFusion(#[from] DataFusionError),
    /// A relation would hold a row a negative number of times: more was taken away than was there.
    #[error("{operator}: a row was taken away more often than it was there")]
    NegativeWeight {
        /// The operator that saw it.
        operator: &'static str,
    },
    /// A checkpoint could not be written or read; the message names the file.
    #[error("{0}")]
    Checkpoint(String),
    /// Bytes of a checkpoint are not what was written.
    #[error("{} is damaged at byte {position}: {what}", path.display())]
    CheckpointDamaged {
        /// The file.
        path: std::path::PathBuf,
        /// Where in it the damage begins, in bytes.
        position: u64,
        /// What does not fit.
        what: String,
    },
    /// State read back from a checkpoint makes no sense.
    #[error("state of {state} is corrupt: {reason}")]
    StateCorrupt {
        /// The operator or state.
        state: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// One node of a dataflow graph.
pub trait Operator: Send {
    /// What kind of operator it is: `join`, `aggregate`, ...
    fn name(&self) -> &'static str;

    /// Schema of the output.
    fn schema(&self) -> SchemaRef;

    /// Takes one delta for each input (an empty one where there is no news) and returns the change of the output,
    /// not necessarily consolidated. After an error the operator's state is undefined.
    fn step(&mut self, inputs: &[&Delta], context: &mut StepContext<'_>) -> Result<Delta, EngineError>;

    /// The earliest instant at which the output changes though no input does.
    fn next_due(&self) -> Option<i64> {
        None
    }

    /// Whether the first step emits something even when all inputs are empty (an aggregate without GROUP BY).
    fn emits_at_start(&self) -> bool {
        false
    }

    /// What the operator remembers, if anything.
    fn state(&mut self) -> Option<&mut dyn State> {
        None
    }
}

/// A key of state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StateKey<'a> {
    /// The whole key.
    pub bytes: &'a [u8],
    /// So many of its first bytes are what it is looked up by, with all other keys that share them. No such part is the
    /// beginning of another.
    pub prefix: usize,
}

/// What an operator remembers, as keys and values whose bytes are private to it.
///
/// All of it is in memory until [`State::attach`] says where the last checkpoint is. From then on a state that can fetch
/// single keys may keep the rest on disk alone; others read everything back at that moment.
pub trait State {
    /// Emits everything that changed since the last call (`None`: removed). A key may be emitted twice: the later
    /// one counts. The cost follows the changes, not the size.
    fn changes(&mut self, emit: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>));

    /// Takes back what [`State::changes`] emitted; keys come in order, each once, before the first step.
    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError>;

    /// Says where checkpoints are, before the first step or between two. `resident`: memory has everything already;
    /// otherwise it has nothing.
    fn attach(&mut self, disk: &Disk, resident: bool) -> Result<(), EngineError> {
        if resident { Ok(()) } else { disk.each(&mut |key, value| self.restore(key, value)) }
    }

    /// Everything that was ever emitted is in a durable checkpoint.
    fn durable(&mut self) {}

    /// Forgets what the disk has, preferably what was of no use lately, until so many bytes are free; returns how many
    /// are. It comes back when it is needed.
    fn evict(&mut self, _bytes: usize) -> usize {
        0
    }

    /// Number of rows in memory.
    fn rows(&self) -> usize;

    /// Bytes of memory held.
    fn bytes(&self) -> usize;

    /// How many of these are free for rows to come.
    fn unused_bytes(&self) -> usize {
        0
    }
}
