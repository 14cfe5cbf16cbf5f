//! Rows that are always there: VALUES, and SELECT without FROM.

use crate::delta::Delta;
use crate::operators::{EngineError, Operator, State, StateKey, StepContext};
use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;

/// Emits its rows at the first step, and remembers that it did.
pub(crate) struct Constant {
    rows: RecordBatch,
    emitted: Emitted,
}

impl Constant {
    /// These rows.
    pub fn new(rows: RecordBatch) -> Self {
        Self { rows, emitted: Emitted { done: false, saved: false } }
    }
}

impl Operator for Constant {
    fn name(&self) -> &'static str {
        "constant"
    }

    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn step(&mut self, _inputs: &[&Delta], _context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        if std::mem::replace(&mut self.emitted.done, true) {
            return Ok(Delta::empty(self.schema()));
        }
        Ok(Delta::inserts(self.rows.clone()))
    }

    fn emits_at_start(&self) -> bool {
        true
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.emitted)
    }
}

/// Whether the rows are out.
struct Emitted {
    done: bool,
    saved: bool,
}

impl State for Emitted {
    fn changes(&mut self, emit: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>)) {
        if self.done && !self.saved {
            emit(StateKey { bytes: b"emitted", prefix: 7 }, Some(b""));
            self.saved = true;
        }
    }

    fn restore(&mut self, _key: &[u8], _value: &[u8]) -> Result<(), EngineError> {
        *self = Self { done: true, saved: true };
        Ok(())
    }

    fn rows(&self) -> usize {
        0
    }

    fn bytes(&self) -> usize {
        0
    }
}
