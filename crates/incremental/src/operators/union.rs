//! UNION ALL: the sum of the inputs.

use super::{EngineError, Operator, StepContext};
use crate::delta::Delta;
use arrow::datatypes::SchemaRef;

/// Adds its inputs up; they must have the column types of `schema`, names may differ.
pub struct Union {
    schema: SchemaRef,
}

impl Union {
    /// A union whose output has `schema`.
    pub fn new(schema: SchemaRef) -> Self {
        Self { schema }
    }
}

impl Operator for Union {
    fn name(&self) -> &'static str {
        "union"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, inputs: &[&Delta], _context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let parts = inputs
            .iter()
            .filter(|delta| !delta.is_empty())
            .map(|delta| delta.with_schema(self.schema.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Delta::concat(&self.schema, &parts)?)
    }
}
