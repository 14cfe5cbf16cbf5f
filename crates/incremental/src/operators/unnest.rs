//! UNNEST: a row for each element of list columns, columns for the fields of struct columns.

use super::{EngineError, Operator, StepContext};
use crate::delta::Delta;
use arrow::datatypes::SchemaRef;

/// Unnests list columns into rows and struct columns into columns. Linear, without state.
pub struct Unnest {
    schema: SchemaRef,
}

impl Unnest {
    /// From rows of `input` to rows of `output`: `lists` names (column of input, depth) of the lists to unnest and
    /// `structs` the struct columns to spread, exactly as DataFusion's `UnnestExec` takes them.
    pub fn new(
        input: SchemaRef,
        output: SchemaRef,
        lists: Vec<(usize, usize)>,
        structs: Vec<usize>,
        preserve_nulls: bool,
    ) -> Result<Self, EngineError> {
        let _ = (input, lists, structs, preserve_nulls);
        Ok(Self { schema: output })
    }
}

impl Operator for Unnest {
    fn name(&self) -> &'static str {
        "unnest"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(
        &mut self,
        _inputs: &[&Delta],
        _context: &mut StepContext<'_>,
    ) -> Result<Delta, EngineError> {
        Err(EngineError::Internal("unnest is being written".into()))
    }
}
