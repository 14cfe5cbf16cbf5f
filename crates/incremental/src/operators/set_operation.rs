//! INTERSECT and EXCEPT, with and without ALL.

use super::{EngineError, Operator, StepContext};
use crate::delta::Delta;
use arrow::datatypes::SchemaRef;

/// Which set operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SetOperationKind {
    /// Rows of both sides: ALL keeps the smaller of the two counts.
    Intersect {
        /// Whether duplicates count.
        all: bool,
    },
    /// Rows of the left side that the right side lacks: ALL keeps the difference of the counts.
    Except {
        /// Whether duplicates count.
        all: bool,
    },
}

/// INTERSECT or EXCEPT of two inputs with the same column types. NULLs are equal to each other.
pub struct SetOperation {
    #[allow(dead_code)]
    kind: SetOperationKind,
    schema: SchemaRef,
}

impl SetOperation {
    /// The operation over two inputs, with output `schema`.
    pub fn new(kind: SetOperationKind, schema: SchemaRef) -> Result<Self, EngineError> {
        Ok(Self { kind, schema })
    }
}

impl Operator for SetOperation {
    fn name(&self) -> &'static str {
        "set_operation"
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
            "set_operation is being written".into(),
        ))
    }
}
