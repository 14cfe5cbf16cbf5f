//! GROUP BY: aggregates kept by group.

use super::{EngineError, Operator, StepContext};
use crate::delta::Delta;
use arrow::datatypes::DataType;
use arrow::datatypes::SchemaRef;

/// What is computed of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregateFunction {
    /// Number of rows.
    CountStar,
    /// Number of non-NULL values.
    Count,
    /// Sum: integers wrap, decimals are exact, floats are exact and rounded once.
    Sum,
    /// Mean of floats (rounded once from the exact sum) or decimals.
    Avg,
    /// Least value.
    Min,
    /// Greatest value.
    Max,
    /// Whether all are true.
    BoolAnd,
    /// Whether any is true.
    BoolOr,
    /// Bitwise AND of integers.
    BitAnd,
    /// Bitwise OR of integers.
    BitOr,
    /// Bitwise XOR of integers.
    BitXor,
}

/// One aggregate of a GROUP BY.
#[derive(Debug, Clone)]
pub struct AggregateCall {
    /// What is computed.
    pub function: AggregateFunction,
    /// The input column; none for `count(*)`.
    pub argument: Option<usize>,
    /// Whether equal values count once.
    pub distinct: bool,
    /// A boolean column: only rows where it is true count.
    pub filter: Option<usize>,
    /// Type of the result, by DataFusion's rules.
    pub output: DataType,
}

/// Groups by columns and computes aggregates; NULLs group together.
///
/// Without group columns there is always exactly one output row, from the first step on.
pub struct Aggregate {
    schema: SchemaRef,
    #[allow(dead_code)]
    global: bool,
}

impl Aggregate {
    /// Groups rows of `input` by `groups`. `schema` is the output's: the group columns, then one column a call.
    pub fn new(
        input: SchemaRef,
        groups: Vec<usize>,
        calls: Vec<AggregateCall>,
        schema: SchemaRef,
    ) -> Result<Self, EngineError> {
        let _ = (input, calls);
        Ok(Self { schema, global: groups.is_empty() })
    }

    /// Promises that the input never takes a row away, which saves the memory of all values for `min` and `max`.
    pub fn insert_only(self) -> Self {
        self
    }
}

impl Operator for Aggregate {
    fn name(&self) -> &'static str {
        "aggregate"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, _inputs: &[&Delta], _context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        Err(EngineError::Internal("aggregate is being written".into()))
    }

    fn emits_at_start(&self) -> bool {
        self.global
    }
}
