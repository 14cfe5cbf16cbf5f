//! GROUP BY: keys and arguments become columns, calls take a form that does not depend on the order of their input.

use super::columns::{Below, column, named, project, rebind};
use super::floats::{canonical_floats, holds_floats};
use super::ordered::sorted_whole;
use super::{Result, canonicalise, extremes, grouping_sets, sums, unsupported};
use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, DataFusionError, ScalarValue};
use datafusion::functions_nested::expr_fn::array_reverse;
use datafusion::logical_expr::expr::{AggregateFunction, Sort as SortKey};
use datafusion::logical_expr::utils::grouping_set_to_exprlist;
use datafusion::logical_expr::{Aggregate, AggregateUDF, Expr, ExprSchemable, LogicalPlan};
use std::sync::Arc;

/// Aggregates that operators keep by themselves; the others are computed again for touched groups.
pub(crate) fn is_kept_incrementally(call: &AggregateFunction, input: &DFSchema) -> bool {
    // Lists and structs with NULLs in them are ordered by DataFusion in a way of its own.
    let nested = || call.params.args.iter().any(|e| e.get_type(input).is_ok_and(|data_type| data_type.is_nested()));
    let extreme = matches!(call.func.name(), "min" | "max");
    let basic = BASIC.contains(&call.func.name()) && call.params.args.len() <= 1;
    call.params.order_by.is_empty() && basic && !(extreme && nested())
}

const BASIC: [&str; 7] = ["count", "sum", "avg", "min", "max", "bool_and", "bool_or"];

/// GROUP BY over columns.
pub(super) fn aggregated(aggregate: &Aggregate) -> Result<LogicalPlan> {
    let from = aggregate.input.schema();
    let input = canonicalise(&aggregate.input)?;
    let mut below = Below::none(&input);
    let sets = match aggregate.group_expr.as_slice() {
        [Expr::GroupingSet(set)] => Some(grouping_sets::members(set)),
        _ => None,
    };
    // The optimiser may find that two keys are one; the plan has a column for each all the same.
    let as_written =
        sets.is_none() && aggregate.schema.fields().len() == aggregate.group_expr.len() + aggregate.aggr_expr.len();
    let keys = match as_written {
        true => aggregate.group_expr.iter().collect(),
        false => grouping_set_to_exprlist(&aggregate.group_expr)?,
    };
    let mut groups: Vec<Expr> = Vec::with_capacity(keys.len());
    for group in keys {
        groups.push(below.place(rebind(group, from, input.schema())?)?);
    }
    let mut calls = Vec::with_capacity(aggregate.aggr_expr.len());
    let mut reversed = Vec::new();
    for (index, call) in aggregate.aggr_expr.iter().enumerate() {
        let Expr::AggregateFunction(call) = rebind(call, from, input.schema())? else {
            return Err(DataFusionError::Internal(format!("not an aggregate: {call}")).into());
        };
        let mut call = canonical_call(call, &mut below)?;
        if descends_distinct(&call) {
            call.params.order_by.iter_mut().for_each(turn_around);
            reversed.push(index);
        }
        calls.push(call);
    }
    let mut plan = below.build(input)?;
    let general = calls.iter().any(|call| !is_kept_incrementally(call, plan.schema()));
    let call = |(index, call)| Expr::AggregateFunction(call).alias(format!("__aggregate_{index}"));
    let calls: Vec<Expr> = calls.into_iter().enumerate().map(call).collect();
    if general {
        plan = sorted_whole(plan, Vec::new(), &groups)?;
    }
    let width = aggregate.schema.fields().len() - calls.len();
    let mut distinct: Vec<Expr> = Vec::with_capacity(groups.len());
    for group in &groups {
        if !distinct.contains(group) {
            distinct.push(group.clone());
        }
    }
    let plan = match sets {
        Some(sets) => {
            let id = aggregate.schema.field(groups.len()).data_type();
            grouping_sets::expanded(plan, &sets, &groups, &calls, id)?
        }
        None => {
            let count = calls.len();
            let plan = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(plan), distinct.clone(), calls)?);
            let of_groups = groups.iter().filter_map(|group| distinct.iter().position(|other| other == group));
            let places = of_groups.chain(distinct.len()..distinct.len() + count);
            let columns = places.enumerate().map(|(index, place)| (column(&plan, place), format!("__column_{index}")));
            let columns = columns.collect();
            if distinct.len() == groups.len() { plan } else { project(plan, columns)? }
        }
    };
    let columns = (0..plan.schema().fields().len())
        .map(|index| {
            let value = column(&plan, index);
            let turned = index >= width && reversed.contains(&(index - width));
            let value = if turned { array_reverse(value) } else { value };
            let computed = index >= width && holds_floats(plan.schema().field(index).data_type());
            if computed { canonical_floats(value) } else { value }
        })
        .collect();
    Ok(project(plan, named(columns, &aggregate.schema))?)
}

/// A call whose arguments are columns or literals, that does not depend on the order of its input.
fn canonical_call(call: AggregateFunction, below: &mut Below) -> Result<AggregateFunction> {
    let AggregateFunction { mut func, mut params } = call;
    // The sketch of approx_distinct is the same whatever the order of what it has seen.
    if func.name().starts_with("approx_") && func.name() != "approx_distinct" {
        return unsupported(
            format!("{} would give a result that depends on how the input arrived", func.name()),
            "use the exact function: count(DISTINCT x), median(x), percentile_cont(0.9) WITHIN GROUP (ORDER BY x)",
        );
    }
    // Literals are settings of the others, as the separator of string_agg; basic aggregates add them up.
    let counts_rows = func.name() == "count" && !params.distinct;
    let basic = BASIC.contains(&func.name());
    let stays =
        |argument: &Expr| matches!(argument, Expr::Literal(value, _) if !basic || (counts_rows && !value.is_null()));
    params.args = params
        .args
        .into_iter()
        .map(|argument| if stays(&argument) { Ok(argument) } else { below.place(typed(argument)) })
        .collect::<datafusion::common::Result<_>>()?;
    if let Some(filter) = params.filter {
        params.filter = Some(Box::new(below.place(*filter)?));
    }
    let mut order = Vec::with_capacity(params.order_by.len());
    for key in params.order_by {
        order.push(SortKey::new(below.place(key.expr)?, key.asc, key.nulls_first));
    }
    if orders_its_input(func.name()) && !params.distinct {
        // Ties in the direction of the keys before them, so that one order is the other turned around.
        let (asc, nulls_first) = order.last().map_or((true, false), |key: &SortKey| (key.asc, key.nulls_first));
        for argument in &params.args {
            let there = order.iter().any(|key: &SortKey| key.expr == *argument);
            if !there && !matches!(argument, Expr::Literal(_, _)) {
                order.push(SortKey::new(argument.clone(), asc, nulls_first));
            }
        }
    }
    params.order_by = order;
    if let Some(form) = float_form(func.name(), &params.args, below)? {
        func = form;
    }
    Ok(AggregateFunction { func, params })
}

/// `array_agg(DISTINCT x ORDER BY x DESC)`: over sorted input DataFusion takes the list that ascends for it.
fn descends_distinct(call: &AggregateFunction) -> bool {
    let descends = matches!(call.params.order_by.as_slice(), [key] if !key.asc);
    call.func.name() == "array_agg" && call.params.distinct && descends
}

fn turn_around(key: &mut SortKey) {
    key.asc = !key.asc;
    key.nulls_first = !key.nulls_first;
}

/// A NULL of no type as one of some type, which a column can hold.
fn typed(argument: Expr) -> Expr {
    match argument {
        Expr::Literal(ScalarValue::Null, metadata) => Expr::Literal(ScalarValue::Int64(None), metadata),
        other => other,
    }
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
