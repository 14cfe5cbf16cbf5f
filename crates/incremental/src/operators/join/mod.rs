//! Joins of two inputs: inner, outer, semi, anti and mark, by equal keys and a filter.
//!
//! A step applies the left delta while the right side stands still, then the right delta while the left side stands
//! still. One such half emits (see `half.rs`)
//!
//! 1. the pairs of the delta's rows with the other side's,
//! 2. what each of the delta's rows contributes on its own (padded, semi, anti, mark), and
//! 3. the rows of the other side that thereby found their first partner or lost their last.

mod half;
mod side;

use self::side::Side;
use super::parts::{Parts, Sizes};
use super::{EngineError, Operator, State, StepContext};
use crate::delta::Delta;
use arrow::datatypes::{Schema, SchemaRef};
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

/// What a side's rows give on their own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Alone {
    /// Nothing.
    Nothing,
    /// The row beside NULLs, while it has no partner.
    Padded,
    /// The row, while it has a partner.
    Matched,
    /// The row, while it has no partner.
    Unmatched,
    /// The row and whether it has a partner.
    Mark,
}

impl JoinKind {
    /// Whether pairs are emitted, and what left and right rows give on their own.
    fn rules(self) -> (bool, Alone, Alone) {
        match self {
            Self::Inner => (true, Alone::Nothing, Alone::Nothing),
            Self::Left => (true, Alone::Padded, Alone::Nothing),
            Self::Right => (true, Alone::Nothing, Alone::Padded),
            Self::Full => (true, Alone::Padded, Alone::Padded),
            Self::LeftSemi => (false, Alone::Matched, Alone::Nothing),
            Self::RightSemi => (false, Alone::Nothing, Alone::Matched),
            Self::LeftAnti => (false, Alone::Unmatched, Alone::Nothing),
            Self::RightAnti => (false, Alone::Nothing, Alone::Unmatched),
            Self::LeftMark => (false, Alone::Mark, Alone::Nothing),
            Self::RightMark => (false, Alone::Nothing, Alone::Mark),
        }
    }
}

/// A condition beyond the equality of keys.
#[derive(Debug, Clone)]
pub struct JoinFilter {
    /// A boolean expression over the left columns followed by the right columns.
    pub expression: Arc<dyn PhysicalExpr>,
}

/// A join by equality of columns, with a filter; without columns a cross join.
///
/// A pair for which the filter fails becomes a row error and counts as no pair.
///
/// Beside a side that has all its rows from the first step on, the rows of the other only pass by.
///
/// State: the rows of both sides by key, but for those that pass by and those whose key holds a NULL and so has no partner; with a filter, for
/// each row of a side that gives something on its own, how many partners it has.
pub struct Join {
    pairs: bool,
    filter: Option<Arc<dyn PhysicalExpr>>,
    pair_schema: SchemaRef,
    schema: SchemaRef,
    sides: Sides,
    /// Whether rows of the left side pass by, or those of the right.
    passing: Option<Passing>,
}

/// The side whose rows need not be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passing {
    /// The left one: the right one never changes.
    Left,
    /// The right one: the left one never changes.
    Right,
}

struct Sides {
    left: Side,
    right: Side,
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
        for &(l, r) in &on {
            let (l, r) = (left.field(l).data_type(), right.field(r).data_type());
            if !l.equals_datatype(r) {
                return Err(EngineError::Internal(format!("a join of {l} with {r}")));
            }
        }
        let (pairs, left_alone, right_alone) = kind.rules();
        let (left_keys, right_keys) = on.into_iter().unzip();
        let pair_fields: Vec<_> = left.fields().iter().chain(right.fields()).cloned().collect();
        let sides = Sides {
            left: Side::new(left, left_keys, left_alone, null_equal)?,
            right: Side::new(right, right_keys, right_alone, null_equal)?,
        };
        let filter = filter.map(|filter| filter.expression);
        Ok(Self {
            pairs,
            filter,
            pair_schema: Arc::new(Schema::new(pair_fields)),
            schema: output,
            sides,
            passing: None,
        })
    }

    /// For an inner join of which one side never changes after the first step: the rows of the other are not kept.
    pub fn passing(mut self, side: Option<Passing>) -> Self {
        self.passing = side;
        self
    }
}

impl Operator for Join {
    fn name(&self) -> &'static str {
        "join"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, inputs: &[&Delta], context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let mut output = Vec::new();
        // What passes by must find all rows of the other side.
        let right_first = self.passing == Some(Passing::Left);
        for is_left in [!right_first, right_first] {
            self.half(is_left, inputs[usize::from(!is_left)], &mut output, context)?;
        }
        Ok(Delta::concat(&self.schema, &output)?)
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.sides)
    }
}

impl Parts for Sides {
    fn parts(&mut self) -> Vec<&mut dyn State> {
        vec![&mut self.left.rows, &mut self.right.rows, &mut self.left.partners, &mut self.right.partners]
    }

    fn sizes(&self) -> Vec<Sizes> {
        let Self { left, right } = self;
        let partners = [&left.partners, &right.partners].map(|part| Sizes::of(part).without_rows());
        [Sizes::of(&left.rows), Sizes::of(&right.rows)].into_iter().chain(partners).collect()
    }
}
