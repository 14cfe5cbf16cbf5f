//! DISTINCT: emits when the weight of a row crosses zero.

use super::{EngineError, Operator, StepContext};
use crate::delta::Delta;
use arrow::datatypes::SchemaRef;

/// Each row once, as long as it is there at all.
pub struct Distinct {
    schema: SchemaRef,
}

impl Distinct {
    /// Distinct rows of `schema`.
    pub fn new(schema: SchemaRef) -> Result<Self, EngineError> {
        Ok(Self { schema })
    }
}

impl Operator for Distinct {
    fn name(&self) -> &'static str {
        "distinct"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(
        &mut self,
        _inputs: &[&Delta],
        _context: &mut StepContext<'_>,
    ) -> Result<Delta, EngineError> {
        Err(EngineError::Internal("distinct is being written".into()))
    }
}
