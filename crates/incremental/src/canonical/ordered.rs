//! Ordered constructs: windows, LIMIT and DISTINCT ON stand above a sort that ends with the whole row.

use super::aggregates::float_form;
use super::columns::{Below, column, named, pick, project, rebind};
use super::floats::{canonical_floats, holds_floats};
use super::{Result, canonicalise, rebind_all, refuse_clock};
use arrow::datatypes::DataType;
use datafusion::common::{Column, DataFusionError};
use datafusion::logical_expr::expr::{Sort as SortKey, WindowFunction};
use datafusion::logical_expr::utils::generate_sort_key;
use datafusion::logical_expr::{
    Distinct, DistinctOn, Expr, ExprSchemable, Filter, Limit, LogicalPlan, Sort, Window, WindowFunctionDefinition, col,
    lit,
};
use std::sync::Arc;

/// Window functions over an input sorted down to the whole row.
pub(super) fn windowed(window: &Window) -> Result<LogicalPlan> {
    let from = window.input.schema();
    let input = canonicalise(&window.input)?;
    let width = input.schema().fields().len();
    let mut below = Below::all(&input);
    let mut calls = Vec::with_capacity(window.window_expr.len());
    for call in &window.window_expr {
        let Expr::WindowFunction(call) = rebind(call, from, input.schema())? else {
            return Err(DataFusionError::Internal(format!("not a window function: {call}")).into());
        };
        let WindowFunction { mut fun, mut params } = *call;
        params.args = params
            .args
            .into_iter()
            .map(|argument| if matches!(argument, Expr::Literal(_, _)) { Ok(argument) } else { below.place(argument) })
            .collect::<datafusion::common::Result<_>>()?;
        params.partition_by =
            params.partition_by.into_iter().map(|e| below.place(e)).collect::<datafusion::common::Result<_>>()?;
        for key in &mut params.order_by {
            key.expr = below.place(key.expr.clone())?;
        }
        if let Some(filter) = params.filter {
            params.filter = Some(Box::new(below.place(*filter)?));
        }
        if let WindowFunctionDefinition::AggregateUDF(function) = &fun
            && let Some(form) = float_form(function.name(), &params.args, &below)?
        {
            fun = WindowFunctionDefinition::AggregateUDF(form);
        }
        calls.push(WindowFunction { fun, params });
    }
    let plan = below.build(input)?;
    let Some(first) = calls.first() else {
        return Err(DataFusionError::Internal("a window without functions".into()).into());
    };
    let keys = generate_sort_key(&first.params.partition_by, &first.params.order_by)?;
    let plan = sorted_whole(plan, keys.into_iter().map(|(key, _)| key).collect(), &[])?;
    let all = plan.schema().fields().len();
    let count = calls.len();
    let calls = calls
        .into_iter()
        .enumerate()
        .map(|(index, call)| Expr::WindowFunction(Box::new(call)).alias(format!("__window_{index}")))
        .collect();
    let plan = LogicalPlan::Window(Window::try_new(calls, Arc::new(plan))?);
    let columns = (0..width)
        .map(|index| column(&plan, index))
        .chain((all..all + count).map(|index| {
            let value = column(&plan, index);
            if holds_floats(plan.schema().field(index).data_type()) { canonical_floats(value) } else { value }
        }))
        .collect();
    Ok(project(plan, named(columns, &window.schema))?)
}

/// Sorts by `order`, then `first`, then the other columns: the order is total up to equal rows.
pub(super) fn sorted_whole(plan: LogicalPlan, order: Vec<SortKey>, first: &[Expr]) -> Result<LogicalPlan> {
    let mut keys: Vec<SortKey> = Vec::new();
    let whole = (0..plan.schema().fields().len()).map(|index| column(&plan, index));
    let rest = first.iter().cloned().chain(whole).map(|e| SortKey::new(e, true, false));
    for key in order.into_iter().chain(rest) {
        let nested = matches!(key.expr.get_type(plan.schema())?, DataType::Map(_, _));
        if !nested && !keys.iter().any(|k| k.expr == key.expr) {
            keys.push(key);
        }
    }
    Ok(LogicalPlan::Sort(Sort { expr: keys, input: Arc::new(plan), fetch: None }))
}

/// DISTINCT ON keeps the first row of each key; of these a limit takes some, in the order of the keys.
pub(super) fn distinct_on(on: &DistinctOn, limit: Option<&Limit>) -> Result<LogicalPlan> {
    let sort = on.sort_expr.clone().unwrap_or_default();
    let input = canonicalise(&on.input)?;
    let mut below = Below::all(&input);
    let place = |below: &mut Below, e: &Expr| -> Result<Expr> {
        Ok(below.place(rebind(e, on.input.schema(), input.schema())?)?)
    };
    let keys = on.on_expr.iter().map(|e| place(&mut below, e)).collect::<Result<Vec<_>>>()?;
    let selected = on.select_expr.iter().map(|e| place(&mut below, e)).collect::<Result<Vec<_>>>()?;
    let mut order = Vec::with_capacity(sort.len());
    for key in &sort {
        order.push(SortKey::new(place(&mut below, &key.expr)?, key.asc, key.nulls_first));
    }
    let sorted = sorted_whole(below.build(input)?, order.clone(), &keys)?;
    let by_key: Vec<SortKey> = order.iter().take(keys.len()).cloned().collect();
    let mut first = first_of_each(sorted, keys, order)?;
    if let Some(limit) = limit {
        first = LogicalPlan::Limit(Limit {
            skip: limit.skip.clone(),
            fetch: limit.fetch.clone(),
            input: Arc::new(sorted_whole(first, by_key, &selected)?),
        });
    }
    Ok(project(first, named(selected, &on.schema))?)
}

/// The first row of each partition of a sorted plan.
fn first_of_each(sorted: LogicalPlan, keys: Vec<Expr>, order: Vec<SortKey>) -> Result<LogicalPlan> {
    let width = sorted.schema().fields().len();
    let number = datafusion::functions_window::row_number::row_number_udwf();
    let Expr::WindowFunction(mut call) =
        Expr::WindowFunction(Box::new(WindowFunction::new(WindowFunctionDefinition::WindowUDF(number), Vec::new())))
    else {
        return Err(DataFusionError::Internal("not a window function".into()).into());
    };
    // The input's order must begin with the partition.
    let order: Vec<SortKey> = order.into_iter().filter(|key| !keys.contains(&key.expr)).collect();
    let plan = match sorted {
        LogicalPlan::Sort(Sort { expr, input, fetch }) => {
            let mut by: Vec<SortKey> = generate_sort_key(&keys, &order)?.into_iter().map(|(key, _)| key).collect();
            for key in expr {
                if !by.iter().any(|k| k.expr == key.expr) {
                    by.push(key);
                }
            }
            LogicalPlan::Sort(Sort { expr: by, input, fetch })
        }
        other => other,
    };
    call.params.partition_by = keys;
    call.params.order_by = order;
    let call = Expr::WindowFunction(call).alias("__window_0");
    let plan = LogicalPlan::Window(Window::try_new(vec![call], Arc::new(plan))?);
    let first = col(Column::new_unqualified("__window_0")).eq(lit(1u64));
    let plan = LogicalPlan::Filter(Filter::try_new(first, Arc::new(plan))?);
    Ok(pick(plan, 0..width)?)
}

/// LIMIT goes below projections, next to the sort it belongs to.
pub(super) fn limit_over(limit: &Limit, input: &LogicalPlan) -> Result<LogicalPlan> {
    match input {
        LogicalPlan::Projection(projection) => {
            refuse_clock(input)?;
            let below = limit_over(limit, &projection.input)?;
            let columns = rebind_all(&projection.expr, projection.input.schema(), below.schema())?;
            Ok(project(below, named(columns, input.schema()))?)
        }
        LogicalPlan::SubqueryAlias(alias) => limit_over(limit, &alias.input),
        LogicalPlan::Distinct(Distinct::On(on)) => distinct_on(on, Some(limit)),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
            limited(&sort.input, sort.expr.clone(), limit.skip.clone(), limit.fetch.clone())
        }
        other => limited(other, Vec::new(), limit.skip.clone(), limit.fetch.clone()),
    }
}

/// The rows of a LIMIT by an order that ends with the whole row.
pub(super) fn limited(
    input: &LogicalPlan,
    order: Vec<SortKey>,
    skip: Option<Box<Expr>>,
    fetch: Option<Box<Expr>>,
) -> Result<LogicalPlan> {
    let from = input.schema();
    let plan = canonicalise(input)?;
    let width = plan.schema().fields().len();
    let mut below = Below::all(&plan);
    let mut keys = Vec::with_capacity(order.len());
    for key in &order {
        keys.push(SortKey::new(below.place(rebind(&key.expr, from, plan.schema())?)?, key.asc, key.nulls_first));
    }
    let plan = sorted_whole(below.build(plan)?, keys, &[])?;
    let plan = LogicalPlan::Limit(Limit { skip, fetch, input: Arc::new(plan) });
    Ok(pick(plan, 0..width)?)
}
