//! Joins of two inputs.

use super::{EngineError, Operator, StepContext};
use crate::delta::Delta;
use arrow::datatypes::SchemaRef;
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// Which rows a join emits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum JoinKind {
    /// Pairs.
    Inner,
    /// Pairs, and left rows without a partner beside NULLs.
    Left,
    /// Pairs, and right rows without a partner beside NULLs.
    Right,
    /// Pairs, and rows of either side without a partner beside NULLs.
    Full,
    /// Left rows with a partner.
    LeftSemi,
    /// Right rows with a partner.
    RightSemi,
    /// Left rows without a partner.
    LeftAnti,
    /// Right rows without a partner.
    RightAnti,
    /// Left rows with a last column that says whether they have a partner.
    LeftMark,
    /// Right rows with a last column that says whether they have a partner.
    RightMark,
}

/// A condition beyond the equality of keys.
#[derive(Debug, Clone)]
pub struct JoinFilter {
    /// A boolean expression over the left columns followed by the right columns.
    pub expression: Arc<dyn PhysicalExpr>,
}

/// A join by equality of columns, with a filter; without columns a cross join.
pub struct Join {
    schema: SchemaRef,
}

impl Join {
    /// A join of rows of `left` and `right` on pairs of equal columns (left index, right index; of one type) for which
    /// `filter` holds. `null_equal`: NULL keys join each other. `output` is the schema of the output: left columns,
    /// right columns, or the one side for semi and anti joins, or the one side and a boolean for mark joins.
    pub fn new(
        kind: JoinKind,
        left: SchemaRef,
        right: SchemaRef,
        on: Vec<(usize, usize)>,
        filter: Option<JoinFilter>,
        null_equal: bool,
        output: SchemaRef,
    ) -> Result<Self, EngineError> {
        let _ = (kind, left, right, on, filter, null_equal);
        Ok(Self { schema: output })
    }
}

impl Operator for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, _inputs: &[&Delta], _context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        Err(EngineError::Internal("join is being written".into()))
    }
}
