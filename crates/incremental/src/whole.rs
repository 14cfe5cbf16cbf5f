//! Plans that are run in batch only: what DataFusion can plan and deltas cannot keep.
//!
//! Their result depends on nothing but contents and clock: every relation is read in the order of its whole rows, in one
//! partition, so that ties, sums of floats and approximations fall the same way each time.

use crate::batch::scanned;
use crate::canonical::{WorkTable, clock};
use crate::delta::Relation;
use crate::errors::{PlanError, PlanErrorKind};
use crate::operators::EngineError;
use crate::physical;
use crate::planner::RelationSource;
use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use datafusion::common::Column;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::datasource::cte_worktable::CteWorkTable;
use datafusion::datasource::provider_as_source;
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::{Expr, LogicalPlan, SortExpr, TableScan};
use std::sync::Arc;

/// Refuses what batch cannot run either.
pub(crate) fn check(plan: &LogicalPlan) -> Result<(), PlanError> {
    let (mut left, mut special) = (false, false);
    // The closures never fail.
    let _ = plan.apply(|node| {
        left |= matches!(node, LogicalPlan::Subquery(_));
        special |= matches!(node, LogicalPlan::Extension(_));
        let _ = node.apply_expressions(|expression| {
            let _ = expression.apply(|e| {
                left |= matches!(
                    e,
                    Expr::ScalarSubquery(_) | Expr::InSubquery(_) | Expr::Exists(_) | Expr::SetComparison(_)
                );
                Ok(TreeNodeRecursion::Continue)
            });
            Ok(TreeNodeRecursion::Continue)
        });
        Ok(TreeNodeRecursion::Continue)
    });
    if left {
        let message = "this subquery cannot be turned into a join";
        let hint = "write it as a join, or as a model of its own";
        return Err(PlanError::new(PlanErrorKind::Unsupported, message).with_hint(hint));
    }
    if special {
        let message = "as-of joins and counting set operations cannot stand in a query that is run in batch only";
        let hint = "make the join or set operation a model of its own";
        return Err(PlanError::new(PlanErrorKind::Unsupported, message).with_hint(hint));
    }
    Ok(())
}

/// Every relation that the plan reads, sorted, each once; not the work tables of recursive queries.
pub(crate) fn relations_of(plan: &LogicalPlan) -> Vec<Relation> {
    let mut found = Vec::new();
    // The closure never fails.
    let _ = plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && reads_relation(scan)
        {
            found.push(Relation::from(scan.table_name.to_string()));
        }
        Ok(TreeNodeRecursion::Continue)
    });
    found.sort();
    found.dedup();
    found
}

/// The plan over `tables` as of the clock `now`.
pub(crate) fn runnable(
    plan: &LogicalPlan,
    tables: &(dyn Fn(&Relation) -> Option<Arc<dyn TableProvider>> + Sync),
    now: i64,
) -> Result<LogicalPlan, EngineError> {
    let mut failure = None;
    let runnable = plan.clone().transform_up(|node| {
        if let LogicalPlan::TableScan(scan) = &node
            && reads_relation(scan)
        {
            return Ok(match scanned(scan, tables) {
                Ok(contents) => Transformed::yes(in_order(contents)),
                Err(error) => {
                    failure = Some(error);
                    Transformed::no(node)
                }
            });
        }
        if let LogicalPlan::TableScan(scan) = &node
            && scan.source.is::<WorkTable>()
        {
            let table = CteWorkTable::new(&scan.table_name.to_string(), scan.source.schema());
            let source = provider_as_source(Arc::new(table));
            return Ok(Transformed::yes(LogicalPlan::TableScan(TableScan { source, ..scan.clone() })));
        }
        let names = NamePreserver::new(&node);
        node.map_expressions(|expression| {
            let name = names.save(&expression);
            let reads = clock::reads_clock(&expression);
            let bound = Transformed::new_transformed(clock::at(expression, now)?, reads);
            Ok(bound.update_data(|e| name.restore(e)))
        })
    })?;
    failure.map_or(Ok(runnable.data), Err)
}

fn reads_relation(scan: &TableScan) -> bool {
    scan.source.is::<RelationSource>()
}

/// Sorted by all columns that have an order.
fn in_order(plan: LogicalPlan) -> LogicalPlan {
    let columns = plan.schema().iter().filter(|(_, field)| !matches!(field.data_type(), DataType::Map(_, _)));
    let keys = columns.map(|column| SortExpr::new(Expr::Column(Column::from(column)), true, false)).collect();
    physical::sorted(plan, keys)
}
