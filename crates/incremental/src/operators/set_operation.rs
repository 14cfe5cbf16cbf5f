//! INTERSECT and EXCEPT, with and without ALL.

use super::parts::{Parts, Sizes};
use super::{EngineError, Operator, State, StepContext};
use crate::arrangement::Arrangement;
use crate::delta::Delta;
use arrow::datatypes::SchemaRef;

/// Which set operation, by the SQL standard.
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

impl SetOperationKind {
    /// How often a row is in the output that is so often in the left and the right input.
    fn count(self, left: i64, right: i64) -> i64 {
        let (left, right) = (left.max(0), right.max(0));
        match self {
            Self::Intersect { all: true } => left.min(right),
            Self::Intersect { all: false } => i64::from(left > 0 && right > 0),
            Self::Except { all: true } => (left - right).max(0),
            Self::Except { all: false } => i64::from(left > 0 && right == 0),
        }
    }
}

/// INTERSECT or EXCEPT of two inputs with the same column types. NULLs are equal to each other.
///
/// State: the different rows of each side with their weights.
pub struct SetOperation {
    kind: SetOperationKind,
    schema: SchemaRef,
    sides: Sides,
}

struct Sides {
    left: Arrangement,
    right: Arrangement,
}

impl SetOperation {
    /// The operation over two inputs, with output `schema`.
    pub fn new(kind: SetOperationKind, schema: SchemaRef) -> Result<Self, EngineError> {
        let keys: Vec<usize> = (0..schema.fields().len()).collect();
        let left = Arrangement::new(&schema, &keys)?;
        let right = Arrangement::new(&schema, &keys)?;
        Ok(Self { kind, schema, sides: Sides { left, right } })
    }
}

impl Operator for SetOperation {
    fn name(&self) -> &'static str {
        "set_operation"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, inputs: &[&Delta], _context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let kind = self.kind;
        let left =
            step_side(&mut self.sides.left, &mut self.sides.right, inputs[0], |own, other| kind.count(own, other))?;
        let right =
            step_side(&mut self.sides.right, &mut self.sides.left, inputs[1], |own, other| kind.count(other, own))?;
        let parts = [left.with_schema(self.schema.clone())?, right.with_schema(self.schema.clone())?];
        Ok(Delta::concat(&self.schema, &parts)?)
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.sides)
    }
}

fn step_side(
    own: &mut Arrangement,
    other: &mut Arrangement,
    input: &Delta,
    count: impl Fn(i64, i64) -> i64,
) -> Result<Delta, EngineError> {
    let encoded = own.encode(&input.rows)?;
    own.fetch(&encoded)?;
    other.fetch(&encoded)?;
    let (mut indices, mut weights) = (Vec::new(), Vec::new());
    for (row, &weight) in input.weights.values().iter().enumerate() {
        let (before, after) = own.add(&encoded, row, weight)?;
        let across = other.weight(&encoded, row);
        let change = count(after, across) - count(before, across);
        if change != 0 {
            indices.push(row as u32);
            weights.push(change);
        }
    }
    own.compact();
    Ok(input.pick(indices, weights)?)
}

impl Parts for Sides {
    fn parts(&mut self) -> Vec<&mut dyn State> {
        vec![&mut self.left, &mut self.right]
    }

    fn sizes(&self) -> Vec<Sizes> {
        vec![Sizes::of(&self.left), Sizes::of(&self.right)]
    }
}
