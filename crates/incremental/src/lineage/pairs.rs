//! What the rows of one side of a join are matched with on the other.

use super::LineageError;
use super::select::{Asking, given, list, pick, schema_of};
use arrow::array::RecordBatch;
use datafusion::common::{JoinType, NullEquality};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, Filter, Join, LogicalPlan};
use std::sync::Arc;

/// The side of a join from which the other is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Left,
    Right,
}

impl Side {
    /// This side of a join, and the other.
    pub fn of(self, join: &Join) -> (&LogicalPlan, &LogicalPlan) {
        match self {
            Side::Left => (&join.left, &join.right),
            Side::Right => (&join.right, &join.left),
        }
    }

    /// This side's key of an equality, and the other's.
    pub fn key(self, on: &(Expr, Expr)) -> (&Expr, &Expr) {
        match self {
            Side::Left => (&on.0, &on.1),
            Side::Right => (&on.1, &on.0),
        }
    }
}

impl Asking<'_> {
    /// For each of the rows of one side the pairs that it is in: the left parts and the right parts, in the same order.
    pub async fn matches(
        &self,
        join: &Join,
        from: Side,
        rows: &RecordBatch,
    ) -> Result<(RecordBatch, RecordBatch), LineageError> {
        let (own, other) = from.of(join);
        let probe = given(own)?;
        let other = self.narrowed(other, join.null_equality, &join.on, from, own, rows)?;
        let (left, right) = if from == Side::Left { (probe, other) } else { (other, probe) };
        let left_width = left.schema().fields().len();
        let pairs = LogicalPlan::Join(Join::try_new(
            Arc::new(left),
            Arc::new(right),
            join.on.clone(),
            join.filter.clone(),
            JoinType::Inner,
            join.join_constraint,
            join.null_equality,
            false,
        )?);
        let pairs = if rows.num_rows() == 0 {
            RecordBatch::new_empty(schema_of(&pairs))
        } else {
            self.all(&pairs, Some(rows)).await?
        };
        Ok((pick(&pairs, 0..left_width)?, pick(&pairs, left_width..pairs.num_columns())?))
    }

    /// The other side, as far as its keys can match those of the rows.
    pub fn narrowed(
        &self,
        other: &LogicalPlan,
        null_equality: NullEquality,
        on: &[(Expr, Expr)],
        from: Side,
        own: &LogicalPlan,
        rows: &RecordBatch,
    ) -> Result<LogicalPlan, LineageError> {
        let mut conditions = Vec::new();
        for pair in on {
            let (mine, theirs) = from.key(pair);
            let Some(place) = mine.try_as_col().and_then(|c| own.schema().index_of_column(c).ok()) else { continue };
            let mut values = rows.column(place).clone();
            if null_equality == NullEquality::NullEqualsNothing {
                values = arrow::compute::filter(&values, &arrow::compute::is_not_null(&values)?)?;
            }
            conditions.extend(list(theirs.clone(), &values));
        }
        Ok(match conjunction(conditions) {
            Some(condition) => LogicalPlan::Filter(Filter::try_new(condition, Arc::new(other.clone()))?),
            None => other.clone(),
        })
    }
}
