//! GROUPING SETS, ROLLUP and CUBE: a plain aggregate for each set, and their union.

use super::Result;
use super::columns::{column, project};
use arrow::datatypes::DataType;
use datafusion::common::ScalarValue;
use datafusion::functions_aggregate::count::count_udaf;
use datafusion::logical_expr::expr::{AggregateFunction, GroupingSet};
use datafusion::logical_expr::{Aggregate, Expr, LogicalPlan, Union, cast, lit};
use std::sync::Arc;

/// For each set the positions of its members among [`GroupingSet::distinct_expr`].
pub(super) fn members(set: &GroupingSet) -> Vec<Vec<usize>> {
    match set {
        GroupingSet::Rollup(all) => (0..=all.len()).map(|len| (0..len).collect()).collect(),
        GroupingSet::Cube(all) => (0..1_usize << all.len())
            .map(|mask| (0..all.len()).filter(|index| mask >> index & 1 == 1).collect())
            .collect(),
        GroupingSet::GroupingSets(sets) => {
            let distinct = set.distinct_expr();
            let place = |e: &Expr| distinct.iter().position(|one| *one == e);
            sets.iter().map(|set| set.iter().filter_map(place).collect()).collect()
        }
    }
}

/// The union of an aggregate for each set over one input. Its columns are the distinct `groups`, NULL where a set lacks
/// them, the grouping id, and the calls: those of DataFusion's own node.
pub(super) fn expanded(
    input: LogicalPlan,
    sets: &[Vec<usize>],
    groups: &[Expr],
    calls: &[Expr],
    grouping_id: &DataType,
) -> Result<LogicalPlan> {
    let input = Arc::new(input);
    let mut branches: Vec<Arc<LogicalPlan>> = Vec::with_capacity(sets.len());
    for (index, set) in sets.iter().enumerate() {
        let mut keys: Vec<usize> = set.clone();
        keys.sort_unstable();
        keys.dedup();
        // Two keys may be the same column.
        let mut by: Vec<Expr> = Vec::with_capacity(keys.len());
        for &key in &keys {
            if !by.contains(&groups[key]) {
                by.push(groups[key].clone());
            }
        }
        let mut wanted = calls.to_vec();
        if keys.is_empty() && wanted.is_empty() {
            // One row for all: an aggregate must have something to compute.
            let call = AggregateFunction::new_udf(count_udaf(), vec![lit(1)], false, None, Vec::new(), None);
            wanted.push(Expr::AggregateFunction(call).alias("__rows"));
        }
        let plan = LogicalPlan::Aggregate(Aggregate::try_new(input.clone(), by.clone(), wanted)?);
        let mut columns = Vec::with_capacity(groups.len() + 1 + calls.len());
        for (place, group) in groups.iter().enumerate() {
            let value = match by.iter().position(|key| key == group).filter(|_| keys.contains(&place)) {
                Some(key) => column(&plan, key),
                None => null_like(group, &input)?,
            };
            columns.push((value, format!("__group_{place}")));
        }
        let repeats = sets[..index].iter().filter(|other| *other == set).count();
        let id = cast(lit(id_of(&keys, groups.len(), repeats)), grouping_id.clone());
        columns.push((id, "__grouping_id".into()));
        for call in 0..calls.len() {
            columns.push((column(&plan, by.len() + call), format!("__aggregate_{call}")));
        }
        branches.push(Arc::new(project(plan, columns)?));
    }
    if let [one] = branches.as_slice() {
        return Ok(one.as_ref().clone());
    }
    Ok(LogicalPlan::Union(Union::try_new_with_loose_types(branches)?))
}

/// A bit for each group that the set lacks, the first group's uppermost; above them how many equal sets came before.
fn id_of(keys: &[usize], groups: usize, repeats: usize) -> u64 {
    let lacking = (0..groups).filter(|group| !keys.contains(group));
    let mask = lacking.fold(0_u64, |mask, group| mask | 1 << (groups - 1 - group));
    mask | (repeats as u64).checked_shl(groups as u32).unwrap_or(0)
}

fn null_like(group: &Expr, input: &LogicalPlan) -> Result<Expr> {
    use datafusion::logical_expr::ExprSchemable;
    let data_type = group.get_type(input.schema())?;
    Ok(Expr::Literal(ScalarValue::try_from(&data_type)?, None))
}
