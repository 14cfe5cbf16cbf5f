//! A model in batch: the canonical plan as an ordinary DataFusion plan over the contents of its inputs.

use crate::delta::Relation;
use crate::operators::EngineError;
use crate::planner::ModelPlan;
use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use std::sync::Arc;

/// Bounds of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BatchLimits {
    /// Memory in bytes for sorts, joins and aggregates; none: unbounded. Beyond it, operators that can spill do.
    pub memory_max: Option<usize>,
}

/// What a run gives.
#[derive(Debug, Clone, Default)]
pub struct BatchOutput {
    /// The model's rows, each with weight 1; schema is the model's.
    pub rows: Vec<RecordBatch>,
    /// The rows that failed; schema is [`crate::dataflow::ERROR_SCHEMA`].
    pub errors: Vec<RecordBatch>,
}

/// Runs the model over `tables`, the contents of the relations it reads, as of the clock `now` (microseconds UTC).
/// Must be called within a Tokio runtime.
pub async fn run(
    plan: &ModelPlan,
    tables: &(dyn Fn(&Relation) -> Option<Arc<dyn TableProvider>> + Sync),
    now: i64,
    limits: BatchLimits,
) -> Result<BatchOutput, EngineError> {
    let _ = (plan, tables, now, limits);
    Err(EngineError::Internal("not built yet".into()))
}
