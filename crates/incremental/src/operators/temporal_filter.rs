//! Rows that come and go by schedule.

use super::{EngineError, Operator, StepContext};
use crate::delta::Delta;
use arrow::datatypes::SchemaRef;

/// Shows a row at clock t iff lower <= t (a NULL bound: never) and t < upper (a NULL bound: never).
///
/// Bounds are timestamp-microsecond columns.
pub struct TemporalFilter {
    schema: SchemaRef,
    #[allow(dead_code)]
    lower: Option<usize>,
    #[allow(dead_code)]
    upper: Option<usize>,
}

impl TemporalFilter {
    /// A filter of rows of `input` by the columns `lower` (inclusive) and `upper` (exclusive); a side without a
    /// column has no bound.
    pub fn new(
        input: SchemaRef,
        lower: Option<usize>,
        upper: Option<usize>,
    ) -> Result<Self, EngineError> {
        Ok(Self {
            schema: input,
            lower,
            upper,
        })
    }
}

impl Operator for TemporalFilter {
    fn name(&self) -> &'static str {
        "temporal_filter"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(
        &mut self,
        _inputs: &[&Delta],
        _context: &mut StepContext<'_>,
    ) -> Result<Delta, EngineError> {
        Err(EngineError::Internal(
            "temporal_filter is being written".into(),
        ))
    }
}
