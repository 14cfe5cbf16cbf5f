//! The general rule: compute what touched keys give, before and after, and emit the difference.

use super::parts::{Parts, Sizes, Started};
use super::{EngineError, Operator, State, StepContext, tolerant::batch_of};
use crate::arrangement::{Arrangement, Encoded, Head};
use crate::delta::Delta;
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// Computes the output of whole keys: gets all rows of several keys, in order of the whole row (key columns first, then
/// the others in theirs; NULLs first), each repeated by its weight.
pub type Compute = Arc<dyn Fn(&RecordBatch) -> Result<RecordBatch, EngineError> + Send + Sync>;

/// Any query that treats the rows of different `keys` apart: windows, top-k, odd aggregates.
///
/// State: the input by key. A step costs as much as all rows of the touched keys.
pub struct Recompute {
    input: SchemaRef,
    schema: SchemaRef,
    compute: Compute,
    state: Remembered,
    output_of_nothing: bool,
}

struct Remembered {
    rows: Arrangement,
    started: Started,
}

impl Recompute {
    /// Recomputes by `keys` of `input` (none: all rows are one key) into rows of `output`.
    ///
    /// `compute` is not called for no rows: a key without rows has no output. Use
    /// [`Recompute::with_output_of_nothing`] where that is not so.
    pub fn new(input: SchemaRef, keys: Vec<usize>, output: SchemaRef, compute: Compute) -> Result<Self, EngineError> {
        let rows = Arrangement::new(&input, &keys)?;
        let state = Remembered { rows, started: Started::default() };
        Ok(Self { input, schema: output, compute, state, output_of_nothing: false })
    }

    /// For `keys` of none: `compute` is called on no rows too, already at the first step.
    pub fn with_output_of_nothing(mut self) -> Self {
        self.output_of_nothing = true;
        self
    }

    /// One row of `batch` for each different key in it, in order of the keys.
    fn touched(batch: &Encoded) -> Vec<usize> {
        let mut touched: Vec<usize> = (0..batch.keys.len()).collect();
        touched.sort_unstable_by_key(|&row| batch.keys.get(row));
        touched.dedup_by_key(|row| batch.keys.get(*row));
        touched
    }

    /// What the touched keys give now.
    fn output(&self, batch: &Encoded, touched: &[usize]) -> Result<Option<RecordBatch>, EngineError> {
        let stored = self.state.rows.stored();
        let mut records = Vec::new();
        for &row in touched {
            let head: Head = self.state.rows.probe(batch.hashes[row], batch.keys.get(row));
            let start = records.len();
            for record in stored.records(head) {
                let times = usize::try_from(stored.row_weight(record))
                    .map_err(|_| EngineError::NegativeWeight { operator: "recompute" })?;
                records.extend(std::iter::repeat_n(record, times));
            }
            let of_key = &mut records[start..];
            if !of_key.is_sorted_by_key(|&record| stored.row(record)) {
                of_key.sort_by_key(|&record| stored.row(record));
            }
        }
        if records.is_empty() && !self.output_of_nothing {
            return Ok(None);
        }
        let rows = batch_of(self.input.clone(), self.state.rows.decode(&records)?, records.len())?;
        Ok(Some((self.compute)(&rows)?))
    }
}

impl Operator for Recompute {
    fn name(&self) -> &'static str {
        "recompute"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, inputs: &[&Delta], _context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let input = inputs[0];
        let first = self.output_of_nothing && self.state.started.first();
        if input.is_empty() && !first {
            return Ok(Delta::empty(self.schema.clone()));
        }
        let encoded = self.state.rows.encode(&input.rows)?;
        self.state.rows.fetch(&encoded)?;
        let touched = Self::touched(&encoded);
        let before = if first { None } else { self.output(&encoded, &touched)? };
        self.state.rows.apply(&encoded, input.weights.values())?;
        let after = self.output(&encoded, &touched)?;
        let mut parts = Vec::new();
        if let Some(rows) = before {
            parts.push(Delta::inserts(rows).negate().with_schema(self.schema.clone())?);
        }
        if let Some(rows) = after {
            parts.push(Delta::inserts(rows).with_schema(self.schema.clone())?);
        }
        Delta::concat(&self.schema, &parts)?.consolidate()
    }

    fn emits_at_start(&self) -> bool {
        self.output_of_nothing
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.state)
    }
}

impl Parts for Remembered {
    fn parts(&mut self) -> Vec<&mut dyn State> {
        vec![&mut self.rows, &mut self.started]
    }

    fn sizes(&self) -> Vec<Sizes> {
        vec![Sizes::of(&self.rows)]
    }
}
