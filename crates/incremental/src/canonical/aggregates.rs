//! GROUP BY: keys and arguments become columns, calls take a form that does not depend on the order of their input.

use super::columns::{Below, column, named, project, rebind};
use super::floats::{canonical_floats, holds_floats};
use super::ordered::sorted_whole;
use super::{Result, canonicalise, extremes, grouping_sets, sums, unsupported};
use arrow::datatypes::DataType;
use datafusion::common::DataFusionError;
use datafusion::logical_expr::expr::{AggregateFunction, Sort as SortKey};
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr, LogicalPlan};
use std::sync::Arc;

/// Aggregates that operators keep by themselves; the others are computed again for touched groups.
pub(crate) fn is_kept_incrementally(call: &AggregateFunction) -> bool {
    let basic = ["count", "sum", "avg", "min", "max", "bool_and", "bool_or"];
    call.params.order_by.is_empty() && basic.contains(&call.func.name())
}

/// GROUP BY over columns.
pub(super) fn aggregated(aggregate: &Aggregate) -> Result<LogicalPlan> {
    let from = aggregate.input.schema();
    let input = canonicalise(&aggregate.input)?;
    let mut below = Below::none(&input);
    let sets = match aggregate.group_expr.as_slice() {
        [Expr::GroupingSet(set)] => Some(grouping_sets::members(set)),
        _ => None,
    };
    let mut groups = Vec::with_capacity(aggregate.group_expr.len());
    for group in grouping_set_to_exprlist(&aggregate.group_expr)? {
        groups.push(below.place(rebind(group, from, input.schema())?)?);
    }
    let mut calls = Vec::with_capacity(aggregate.aggr_expr.len());
    let mut general = false;
    for (index, call) in aggregate.aggr_expr.iter().enumerate() {
        let Expr::AggregateFunction(call) = rebind(call, from, input.schema())? else {
            return Err(DataFusionError::Internal(format!("not an aggregate: {call}")).into());
        };
        let call = canonical_call(call, &mut below)?;
        general |= !is_kept_incrementally(&call);
        calls.push(Expr::AggregateFunction(call).alias(format!("__aggregate_{index}")));
    }
    let mut plan = below.build(input)?;
    if general {
        plan = sorted_whole(plan, Vec::new(), &groups)?;
    }
    let width = aggregate.schema.fields().len() - calls.len();
    let plan = match sets {
        Some(sets) => {
            let id = aggregate.schema.field(groups.len()).data_type();
            grouping_sets::expanded(plan, &sets, &groups, &calls, id)?
        }
        None => LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(plan), groups, calls)?),
    };
    let columns = (0..plan.schema().fields().len())
        .map(|index| {
            let value = column(&plan, index);
            let computed = index >= width && holds_floats(plan.schema().field(index).data_type());
            if computed { canonical_floats(value) } else { value }
        })
        .collect();
    Ok(project(plan, named(columns, &aggregate.schema))?)
}

/// A call whose arguments are columns or literals, that does not depend on the order of its input.
fn canonical_call(call: AggregateFunction, below: &mut Below) -> Result<AggregateFunction> {
    let AggregateFunction { mut func, mut params } = call;
    if func.name().starts_with("approx_") {
        return unsupported(
            format!("{} would give a result that depends on how the input arrived", func.name()),
            "use the exact function: count(DISTINCT x), median(x), percentile_cont(0.9) WITHIN GROUP (ORDER BY x)",
        );
    }
    // What is kept by operators is kept of columns; only `count(1)` counts rows.
    let counts_rows = func.name() == "count" && !params.distinct;
    let of_columns = is_kept_incrementally(&AggregateFunction { func: func.clone(), params: params.clone() });
    params.args = params
        .args
        .into_iter()
        .map(|argument| match &argument {
            Expr::Literal(value, _) if !of_columns || (counts_rows && !value.is_null()) => Ok(argument),
            _ => below.place(argument),
        })
        .collect::<datafusion::common::Result<_>>()?;
    if let Some(filter) = params.filter {
        params.filter = Some(Box::new(below.place(*filter)?));
    }
    let mut order = Vec::with_capacity(params.order_by.len());
    for key in params.order_by {
        order.push(SortKey::new(below.place(key.expr)?, key.asc, key.nulls_first));
    }
    if orders_its_input(func.name()) && !params.distinct {
        for argument in &params.args {
            let there = order.iter().any(|key: &SortKey| key.expr == *argument);
            if !there && !matches!(argument, Expr::Literal(_, _)) {
                order.push(SortKey::new(argument.clone(), true, false));
            }
        }
    }
    params.order_by = order;
    if let Some(form) = float_form(func.name(), &params.args, below)? {
        func = form;
    }
    Ok(AggregateFunction { func, params })
}

/// The form of an aggregate of floats that does not depend on order.
pub(super) fn float_form(name: &str, arguments: &[Expr], below: &Below) -> Result<Option<Arc<AggregateUDF>>> {
    let [argument] = arguments else {
        return Ok(None);
    };
    Ok(match below.type_of(argument)? {
        DataType::Float64 => sums::exact_form(name).or_else(|| extremes::total_form(name)),
        DataType::Float32 | DataType::Float16 => extremes::total_form(name),
        _ => None,
    })
}

fn orders_its_input(aggregate: &str) -> bool {
    matches!(aggregate, "array_agg" | "string_agg" | "first_value" | "last_value" | "nth_value")
}
