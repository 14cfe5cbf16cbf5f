//! DISTINCT: emits when the weight of a row crosses zero.

use super::{EngineError, Operator, State, StepContext};
use crate::arrangement::Arrangement;
use crate::delta::Delta;
use arrow::datatypes::SchemaRef;

/// Each row once, as long as it is there at all. State: every different row with its weight.
pub struct Distinct {
    schema: SchemaRef,
    rows: Arrangement,
}

impl Distinct {
    /// Distinct rows of `schema`.
    pub fn new(schema: SchemaRef) -> Result<Self, EngineError> {
        let keys: Vec<usize> = (0..schema.fields().len()).collect();
        let rows = Arrangement::new(&schema, &keys)?;
        Ok(Self { schema, rows })
    }
}

impl Operator for Distinct {
    fn name(&self) -> &'static str {
        "distinct"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, inputs: &[&Delta], _context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let input = inputs[0];
        let encoded = self.rows.encode(&input.rows)?;
        self.rows.fetch(&encoded)?;
        let (mut indices, mut weights) = (Vec::new(), Vec::new());
        for (row, &weight) in input.weights.values().iter().enumerate() {
            let (before, after) = self.rows.add(&encoded, row, weight)?;
            let change = i64::from(after > 0) - i64::from(before > 0);
            if change != 0 {
                indices.push(row as u32);
                weights.push(change);
            }
        }
        self.rows.compact();
        Ok(input.pick(indices, weights)?.with_schema(self.schema.clone())?)
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.rows)
    }
}
