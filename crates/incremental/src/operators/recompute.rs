//! The general rule: recompute what touched keys give, before and after, and emit the difference.

use super::{EngineError, Operator, StepContext};
use crate::delta::Delta;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// Computes the output of whole keys: gets all rows of several keys, in order of the whole row (key columns first,
/// then the others in theirs; NULLs first), each repeated by its weight.
pub type Compute = Arc<dyn Fn(&RecordBatch) -> Result<RecordBatch, EngineError> + Send + Sync>;

/// Any query that treats the rows of different `keys` apart: windows, top-k, odd aggregates.
pub struct Recompute {
    schema: SchemaRef,
    #[allow(dead_code)]
    compute: Compute,
}

impl Recompute {
    /// Recomputes by `keys` of `input` (none: all rows are one key) into rows of `output`.
    ///
    /// `compute` is not called for no rows: a key without rows has no output. Use
    /// [`Recompute::with_output_of_nothing`] where that is not so.
    pub fn new(
        input: SchemaRef,
        keys: Vec<usize>,
        output: SchemaRef,
        compute: Compute,
    ) -> Result<Self, EngineError> {
        let _ = (input, keys);
        Ok(Self {
            schema: output,
            compute,
        })
    }

    /// For `keys` of none: `compute` is called on no rows too, already at the first step.
    pub fn with_output_of_nothing(self) -> Self {
        self
    }
}

impl Operator for Recompute {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(
        &mut self,
        _inputs: &[&Delta],
        _context: &mut StepContext<'_>,
    ) -> Result<Delta, EngineError> {
        Err(EngineError::Internal("recompute is being written".into()))
    }
}
