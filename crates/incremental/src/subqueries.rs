//! Scalar subqueries inside aggregates become columns of a projection below, where the optimiser can make joins of them.

use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, Result};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Projection};
use std::sync::Arc;

/// The plan without scalar subqueries in keys and arguments of aggregates; names and types stay.
pub(crate) fn lift_out_of_aggregates(plan: LogicalPlan) -> Result<LogicalPlan> {
    let lifted = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Aggregate(aggregate) => lift(aggregate),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(lifted.data)
}

fn lift(aggregate: Aggregate) -> Result<Transformed<LogicalPlan>> {
    let mut subqueries: Vec<Expr> = Vec::new();
    let names = NamePreserver::new_for_projection();
    let mut replaced = |expressions: &[Expr]| -> Result<Vec<Expr>> {
        let replace = |expression: &Expr| {
            let name = names.save(expression);
            let without = expression.clone().transform_down(|e| {
                if !matches!(e, Expr::ScalarSubquery(_)) {
                    return Ok(Transformed::no(e));
                }
                let index = subqueries.iter().position(|other| *other == e).unwrap_or_else(|| {
                    subqueries.push(e);
                    subqueries.len() - 1
                });
                let column = Expr::Column(Column::new_unqualified(name_of(index)));
                Ok(Transformed::new(column, true, TreeNodeRecursion::Jump))
            })?;
            Ok(name.restore(without.data))
        };
        expressions.iter().map(replace).collect()
    };
    let groups = replaced(&aggregate.group_expr)?;
    let calls = replaced(&aggregate.aggr_expr)?;
    if subqueries.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Aggregate(aggregate)));
    }
    let columns = aggregate.input.schema().columns().into_iter().map(Expr::Column);
    let computed = subqueries.into_iter().enumerate().map(|(index, subquery)| subquery.alias(name_of(index)));
    let below = Projection::try_new(columns.chain(computed).collect(), aggregate.input)?;
    let below = Arc::new(LogicalPlan::Projection(below));
    Ok(Transformed::yes(LogicalPlan::Aggregate(Aggregate::try_new(below, groups, calls)?)))
}

fn name_of(index: usize) -> String {
    format!("__subquery_{index}")
}
