//! Joins: keys become columns, NOT IN becomes two joins.

use super::clock::reads_clock;
use super::columns::{self, Below, column, named, pick, project, rebind};
use super::{Result, canonicalise, refuse, unsupported};
use crate::errors::PlanErrorKind;
use arrow::datatypes::{DataType, Field};
use datafusion::common::{Column, DFSchema, JoinConstraint, JoinType, NullEquality};
use datafusion::logical_expr::{Distinct, Expr, Join, LogicalPlan, col, lit};
use std::collections::HashMap;
use std::sync::Arc;

/// Joins on columns.
pub(super) fn joined(join: &Join) -> Result<LogicalPlan> {
    let (from_left, from_right) = (join.left.schema(), join.right.schema());
    let left = canonicalise(&join.left)?;
    let right = canonicalise(&join.right)?;
    let (left_width, right_width) = (left.schema().fields().len(), right.schema().fields().len());
    let mut below_left = Below::all(&left);
    let mut below_right = Below::all(&right);
    let mut on = Vec::with_capacity(join.on.len());
    for (one, other) in &join.on {
        let (one, other) = if rebind(one, from_left, left.schema()).is_ok() { (one, other) } else { (other, one) };
        on.push((
            below_left.place_index(rebind(one, from_left, left.schema())?)?,
            below_right.place_index(rebind(other, from_right, right.schema())?)?,
        ));
    }
    // A mark of an earlier join must not stand beside the new one under the same name.
    let mark =
        DFSchema::from_unqualified_fields(vec![Field::new("mark", DataType::Boolean, false)].into(), HashMap::new())?;
    let left = match join.join_type {
        JoinType::LeftMark => below_left.build_apart(left, &mark)?,
        _ => below_left.build(left)?,
    };
    let right = match join.join_type {
        JoinType::RightMark => below_right.build_apart(right, &left.schema().join(&mark)?)?,
        _ => below_right.build_apart(right, left.schema())?,
    };
    let (all_left, all_right) = (left.schema().fields().len(), right.schema().fields().len());
    let on: Vec<(Expr, Expr)> = on.into_iter().map(|(l, r)| (column(&left, l), column(&right, r))).collect();

    // Names of the two sides as the condition sees them.
    let both = from_left.join(from_right)?;
    let visible: Vec<Column> = (0..left_width)
        .map(|i| Column::new_unqualified(left.schema().field(i).name()))
        .chain((0..right_width).map(|i| Column::new_unqualified(right.schema().field(i).name())))
        .collect();
    let filter = match &join.filter {
        Some(filter) => {
            let filter = columns::rebind_to(filter, &both, &visible)?;
            (filter != lit(true)).then_some(filter)
        }
        None => None,
    };
    if filter.as_ref().is_some_and(reads_clock) {
        return refuse(
            PlanErrorKind::NonDeterministic,
            "now() can only be compared in WHERE, not in the condition of this join",
            "filter the relation in a subquery before joining it",
        );
    }
    if join.null_aware {
        return null_aware_anti(left, right, on, filter, left_width);
    }
    // A pair on which the condition fails is an error and no pair.
    let plan = LogicalPlan::Join(Join::try_new(
        Arc::new(left),
        Arc::new(right),
        on,
        filter,
        join.join_type,
        JoinConstraint::On,
        join.null_equality,
        false,
    )?);
    let right_columns = all_left..all_left + right_width;
    let kept: Vec<usize> = match join.join_type {
        JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
            (0..left_width).chain(right_columns).collect()
        }
        JoinType::LeftSemi | JoinType::LeftAnti => (0..left_width).collect(),
        JoinType::LeftMark => (0..left_width).chain([all_left]).collect(),
        JoinType::RightSemi | JoinType::RightAnti => (0..right_width).collect(),
        JoinType::RightMark => (0..right_width).chain([all_right]).collect(),
    };
    let columns = kept.into_iter().map(|index| column(&plan, index)).collect();
    Ok(project(plan, named(columns, &join.schema))?)
}

/// `x NOT IN (SELECT y ..)`: no equal y; and when there is any y, x is not NULL and no y is. With a filter: among the y
/// for which it holds.
fn null_aware_anti(
    left: LogicalPlan,
    right: LogicalPlan,
    on: Vec<(Expr, Expr)>,
    filter: Option<Expr>,
    width: usize,
) -> Result<LogicalPlan> {
    let both = left.schema().join(right.schema())?;
    let sure = filter.as_ref().is_none_or(|filter| columns::cannot_fail(filter, &both));
    let ([(x, y)], true) = (on.as_slice(), sure) else {
        return unsupported(
            "this NOT IN cannot be kept up to date",
            "write it as NOT EXISTS (SELECT 1 FROM .. WHERE ..)",
        );
    };
    let join = |left: LogicalPlan, right: LogicalPlan, on: Vec<(Expr, Expr)>, filter: Option<Expr>| {
        Join::try_new(
            Arc::new(left),
            Arc::new(right),
            on,
            filter,
            JoinType::LeftAnti,
            JoinConstraint::On,
            NullEquality::NullEqualsNothing,
            false,
        )
        .map(LogicalPlan::Join)
    };
    if let Some(filter) = filter {
        let plan = join(left, right.clone(), vec![(x.clone(), y.clone())], Some(filter.clone()))?;
        let unknown = filter.and(y.clone().is_null().or(x.clone().is_null()));
        return Ok(pick(join(plan, right, Vec::new(), Some(unknown))?, 0..width)?);
    }
    let nulls = project(right.clone(), vec![(y.clone().is_null(), "__is_null".into())])?;
    let nulls = LogicalPlan::Distinct(Distinct::All(Arc::new(nulls)));
    let plan = join(left, right, vec![(x.clone(), y.clone())], None)?;
    let unknown = col(Column::new_unqualified("__is_null")).or(x.clone().is_null());
    let plan = join(plan, nulls, Vec::new(), Some(unknown))?;
    Ok(pick(plan, 0..width)?)
}
