//! Canonical plans: one plan for both tempos, in a form whose result depends on nothing but contents and clock.
//!
//! What holds of a canonical plan:
//! - Columns have no qualifiers, and names are unique at every node; positions and types are those of the plan it was
//!   made from.
//! - Keys of groups and joins, arguments and conditions of aggregates, partitions and orders of windows are columns:
//!   what must be computed is computed by a projection below.
//! - Every float that crosses an edge is canonical ([`floats`]); sums and averages of floats are exact ([`sums`]).
//! - Ordered constructs stand above a sort that ends with the whole row.
//! - The clock appears only in filters of the form `lower <= clock AND clock < upper` ([`clock_bounds`]).

pub(crate) mod clock;
mod columns;
pub mod floats;
pub(crate) mod sums;

use crate::errors::{PlanError, PlanErrorKind};
use arrow::datatypes::{DataType, Field, Fields};
use clock::{Bounds, bounds_of, reads_clock};
pub(crate) use columns::project;
use columns::{Below, column, named, pick, rebind, scan_columns, unique_names};
use datafusion::common::{Column, DFSchema, DataFusionError, JoinConstraint, JoinType, NullEquality, TableReference};
use datafusion::logical_expr::expr::{AggregateFunction, Sort as SortKey, WindowFunction};
use datafusion::logical_expr::utils::{conjunction, generate_sort_key, split_conjunction_owned};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Distinct, Expr, ExprSchemable, Filter, Join, Limit, LogicalPlan, Operator, Sort, Union,
    Unnest, Window, WindowFunctionDefinition, col, lit,
};
use floats::{canonical_floats, holds_floats};
use std::sync::Arc;

/// Why a plan has no canonical form.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// To be told to the author of the query.
    Mistake(Box<PlanError>),
    /// DataFusion would not.
    Failed(DataFusionError),
}

impl From<DataFusionError> for Refusal {
    fn from(error: DataFusionError) -> Self {
        Refusal::Failed(error)
    }
}

type Result<T> = std::result::Result<T, Refusal>;

fn refuse<T>(kind: PlanErrorKind, message: impl Into<String>, hint: impl Into<String>) -> Result<T> {
    Err(Refusal::Mistake(Box::new(PlanError::new(kind, message).with_hint(hint))))
}

fn unsupported<T>(message: impl Into<String>, hint: impl Into<String>) -> Result<T> {
    refuse(PlanErrorKind::Unsupported, message, hint)
}

/// The canonical form of an analysed and optimised plan.
pub(crate) fn canonicalise(plan: &LogicalPlan) -> Result<LogicalPlan> {
    match plan {
        LogicalPlan::Filter(_) | LogicalPlan::SubqueryAlias(_) => {}
        _ => refuse_clock(plan)?,
    }
    match plan {
        LogicalPlan::TableScan(scan) => {
            if !scan.filters.is_empty() || scan.fetch.is_some() {
                return Err(DataFusionError::Internal("a scan with filters or a limit".into()).into());
            }
            Ok(scan_columns(plan)?)
        }
        LogicalPlan::SubqueryAlias(alias) => canonicalise(&alias.input),
        LogicalPlan::Projection(projection) => {
            let input = canonicalise(&projection.input)?;
            let columns = rebind_all(&projection.expr, projection.input.schema(), input.schema())?;
            Ok(project(input, named(columns, plan.schema()))?)
        }
        LogicalPlan::Filter(filter) => filtered(filter),
        LogicalPlan::Union(union) => unioned(union),
        LogicalPlan::Distinct(Distinct::All(input)) => {
            Ok(LogicalPlan::Distinct(Distinct::All(Arc::new(canonicalise(input)?))))
        }
        LogicalPlan::Distinct(Distinct::On(on)) => {
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
            let first = first_of_each(sorted, keys, order)?;
            Ok(project(first, named(selected, plan.schema()))?)
        }
        LogicalPlan::Aggregate(aggregate) => aggregated(aggregate),
        LogicalPlan::Window(window) => windowed(window),
        LogicalPlan::Join(join) => joined(join),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => canonicalise(&sort.input),
        LogicalPlan::Sort(sort) => {
            let fetch = sort.fetch.map(|n| Box::new(lit(n as i64)));
            limited(&sort.input, sort.expr.clone(), None, fetch)
        }
        LogicalPlan::Limit(limit) => limit_over(limit, &limit.input),
        LogicalPlan::Unnest(unnest) => unnested(unnest),
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => Ok(scan_columns(plan)?),
        LogicalPlan::RecursiveQuery(_) => unsupported(
            "WITH RECURSIVE cannot be kept up to date",
            "write out the levels that occur, each a join, and UNION ALL them",
        ),
        LogicalPlan::Subquery(_) => {
            unsupported("this subquery cannot be turned into a join", "write it as a join, or as a model of its own")
        }
        other => unsupported(
            format!("a model is a SELECT; {} is not part of one", other.display()),
            "keep a single SELECT in the file",
        ),
    }
}

/// The bounds of a filter that [`canonicalise`] made of the clock: columns `lower` and `upper`.
pub(crate) fn clock_bounds(predicate: &Expr) -> Option<(Option<Column>, Option<Column>)> {
    if !reads_clock(predicate) {
        return None;
    }
    let (mut lower, mut upper) = (None, None);
    for part in datafusion::logical_expr::utils::split_conjunction(predicate) {
        let Expr::BinaryExpr(BinaryExpr { left, op, right }) = part else {
            return None;
        };
        match (left.as_ref(), op, right.as_ref()) {
            (Expr::Column(bound), Operator::LtEq, Expr::Placeholder(_)) => lower = Some(bound.clone()),
            (Expr::Placeholder(_), Operator::Lt, Expr::Column(bound)) => upper = Some(bound.clone()),
            _ => return None,
        }
    }
    Some((lower, upper))
}

fn refuse_clock(plan: &LogicalPlan) -> Result<()> {
    if plan.expressions().iter().any(reads_clock) {
        return refuse(
            PlanErrorKind::NonDeterministic,
            "now() can only be compared in WHERE: elsewhere the result would change with every tick of the clock",
            "compare a column with it, as in `WHERE at > now() - INTERVAL '7 days'`",
        );
    }
    Ok(())
}

fn rebind_all(expressions: &[Expr], from: &DFSchema, to: &DFSchema) -> Result<Vec<Expr>> {
    Ok(expressions.iter().map(|e| rebind(e, from, to)).collect::<datafusion::common::Result<_>>()?)
}

fn filtered(filter: &Filter) -> Result<LogicalPlan> {
    let input = canonicalise(&filter.input)?;
    let predicate = rebind(&filter.predicate, filter.input.schema(), input.schema())?;
    let (timed, plain): (Vec<_>, Vec<_>) = split_conjunction_owned(predicate).into_iter().partition(reads_clock);
    let mut plan = input;
    if let Some(plain) = conjunction(plain) {
        plan = LogicalPlan::Filter(Filter::try_new(plain, Arc::new(plan))?);
    }
    if timed.is_empty() {
        return Ok(plan);
    }
    let width = plan.schema().fields().len();
    let mut below = Below::all(&plan);
    let mut conditions = Vec::new();
    for condition in timed {
        let Some(Bounds { lower, upper }) = bounds_of(&condition, plan.schema())? else {
            return refuse(
                PlanErrorKind::NonDeterministic,
                "now() is not compared in a way whose times can be foreseen",
                "compare a column with now() plus or minus an interval, and join such comparisons with AND only",
            );
        };
        if let Some(lower) = lower {
            conditions.push(below.place(lower)?.lt_eq(clock::clock()));
        }
        if let Some(upper) = upper {
            conditions.push(clock::clock().lt(below.place(upper)?));
        }
    }
    plan = below.build(plan)?;
    // A filter takes one bound of each kind.
    let (mut lowers, mut uppers): (Vec<_>, Vec<_>) =
        conditions.into_iter().partition(|c| matches!(c, Expr::BinaryExpr(b) if b.op == Operator::LtEq));
    while !(lowers.is_empty() && uppers.is_empty()) {
        if let Some(both) = conjunction(lowers.pop().into_iter().chain(uppers.pop())) {
            plan = LogicalPlan::Filter(Filter::try_new(both, Arc::new(plan))?);
        }
    }
    Ok(pick(plan, 0..width)?)
}

fn unioned(union: &Union) -> Result<LogicalPlan> {
    let names = unique_names(union.schema.fields().iter().map(|f| f.name().as_str()));
    let mut inputs = Vec::with_capacity(union.inputs.len());
    for input in &union.inputs {
        let input = canonicalise(input)?;
        let mut columns = Vec::with_capacity(names.len());
        for (index, (name, field)) in names.iter().zip(union.schema.fields()).enumerate() {
            let same = input.schema().field(index).data_type() == field.data_type();
            let value = column(&input, index);
            let value = if same { value } else { datafusion::logical_expr::cast(value, field.data_type().clone()) };
            columns.push((value, name.clone()));
        }
        inputs.push(Arc::new(project(input, columns)?));
    }
    let fields: Fields = names
        .iter()
        .enumerate()
        .map(|(index, name)| {
            let nullable = inputs.iter().any(|input| input.schema().field(index).is_nullable());
            Field::new(name, union.schema.field(index).data_type().clone(), nullable)
        })
        .collect();
    let schema = Arc::new(DFSchema::from_unqualified_fields(fields, Default::default())?);
    Ok(LogicalPlan::Union(Union { inputs, schema }))
}

/// Aggregates that operators keep by themselves; the others are computed again for touched groups.
pub(crate) fn is_kept_incrementally(call: &AggregateFunction) -> bool {
    let basic = ["count", "sum", "avg", "min", "max", "bool_and", "bool_or"];
    call.params.order_by.is_empty() && basic.contains(&call.func.name())
}

fn aggregated(aggregate: &Aggregate) -> Result<LogicalPlan> {
    let from = aggregate.input.schema();
    let input = canonicalise(&aggregate.input)?;
    let mut below = Below::none(&input);
    let mut groups = Vec::with_capacity(aggregate.group_expr.len());
    for group in &aggregate.group_expr {
        if matches!(group, Expr::GroupingSet(_)) {
            return unsupported(
                "GROUPING SETS, ROLLUP and CUBE cannot be kept up to date",
                "write a SELECT for each grouping and UNION ALL them",
            );
        }
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
    let width = groups.len();
    let plan = LogicalPlan::Aggregate(Aggregate::try_new(Arc::new(plan), groups, calls)?);
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
    params.args = params
        .args
        .into_iter()
        .map(|argument| if matches!(argument, Expr::Literal(_, _)) { Ok(argument) } else { below.place(argument) })
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
    if let [argument] = params.args.as_slice()
        && let Some(exact) = sums::exact_form(func.name())
        && below.type_of(argument)? == DataType::Float64
    {
        func = exact;
    }
    Ok(AggregateFunction { func, params })
}

fn orders_its_input(aggregate: &str) -> bool {
    matches!(aggregate, "array_agg" | "string_agg" | "first_value" | "last_value" | "nth_value")
}

fn windowed(window: &Window) -> Result<LogicalPlan> {
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
            && let [argument] = params.args.as_slice()
            && let Some(exact) = sums::exact_form(function.name())
            && below.type_of(argument)? == DataType::Float64
        {
            fun = WindowFunctionDefinition::AggregateUDF(exact);
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
fn sorted_whole(plan: LogicalPlan, order: Vec<SortKey>, first: &[Expr]) -> Result<LogicalPlan> {
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
fn limit_over(limit: &Limit, input: &LogicalPlan) -> Result<LogicalPlan> {
    match input {
        LogicalPlan::Projection(projection) => {
            refuse_clock(input)?;
            let below = limit_over(limit, &projection.input)?;
            let columns = rebind_all(&projection.expr, projection.input.schema(), below.schema())?;
            Ok(project(below, named(columns, input.schema()))?)
        }
        LogicalPlan::SubqueryAlias(alias) => limit_over(limit, &alias.input),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => {
            limited(&sort.input, sort.expr.clone(), limit.skip.clone(), limit.fetch.clone())
        }
        other => limited(other, Vec::new(), limit.skip.clone(), limit.fetch.clone()),
    }
}

fn limited(
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

fn unnested(unnest: &Unnest) -> Result<LogicalPlan> {
    let input = canonicalise(&unnest.input)?;
    let names = unique_names(unnest.schema.fields().iter().map(|f| f.name().as_str()));
    let fields: Fields = names
        .iter()
        .zip(unnest.schema.fields())
        .map(|(name, field)| Field::new(name, field.data_type().clone(), true))
        .collect();
    let mut lists = unnest.list_type_columns.clone();
    for (index, list) in &mut lists {
        let position = unnest.schema.index_of_column(&list.output_column);
        let position = position.or_else(|_| unnest.input.schema().index_of_column(&list.output_column));
        let _ = index;
        list.output_column = Column::new_unqualified(&names[position?.min(names.len() - 1)]);
    }
    let exec_columns = unnest
        .exec_columns
        .iter()
        .map(|c| {
            let index = unnest.input.schema().index_of_column(c)?;
            Ok(Column::new_unqualified(input.schema().field(index).name()))
        })
        .collect::<datafusion::common::Result<_>>()?;
    let schema = Arc::new(DFSchema::from_unqualified_fields(fields, Default::default())?);
    Ok(LogicalPlan::Unnest(Unnest {
        input: Arc::new(input),
        exec_columns,
        list_type_columns: lists,
        struct_type_columns: unnest.struct_type_columns.clone(),
        dependency_indices: unnest.dependency_indices.clone(),
        schema,
        options: unnest.options.clone(),
    }))
}

fn joined(join: &Join) -> Result<LogicalPlan> {
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
    let left = below_left.build(left)?;
    let right = below_right.build_apart(right, left.schema())?;
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
    let inner = join.join_type == JoinType::Inner;
    let (inside, above) = match filter {
        Some(filter) if columns::cannot_fail(&filter) => (Some(filter), None),
        Some(filter) if inner => (None, Some(filter)),
        Some(filter) => {
            return unsupported(
                format!("the condition `{filter}` of an outer join can fail on a row"),
                "compute it as a column of each side in a subquery, and join on comparisons of columns",
            );
        }
        None => (None, None),
    };
    let mut plan = LogicalPlan::Join(Join::try_new(
        Arc::new(left),
        Arc::new(right),
        on,
        inside,
        join.join_type,
        JoinConstraint::On,
        join.null_equality,
        false,
    )?);
    if let Some(above) = above {
        plan = LogicalPlan::Filter(Filter::try_new(above, Arc::new(plan))?);
    }
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

/// `x NOT IN (SELECT y ..)`: no equal y; and when there is any y, x is not NULL and no y is.
fn null_aware_anti(
    left: LogicalPlan,
    right: LogicalPlan,
    on: Vec<(Expr, Expr)>,
    filter: Option<Expr>,
    width: usize,
) -> Result<LogicalPlan> {
    let ([(x, y)], None) = (on.as_slice(), filter) else {
        return unsupported(
            "this NOT IN cannot be kept up to date",
            "write it as NOT EXISTS (SELECT 1 FROM .. WHERE ..)",
        );
    };
    let nulls = project(right.clone(), vec![(y.clone().is_null(), "__is_null".into())])?;
    let nulls = LogicalPlan::Distinct(Distinct::All(Arc::new(nulls)));
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
    let plan = join(left, right, vec![(x.clone(), y.clone())], None)?;
    let unknown = col(Column::new_unqualified("__is_null")).or(x.clone().is_null());
    let plan = join(plan, nulls, Vec::new(), Some(unknown))?;
    Ok(pick(plan, 0..width)?)
}

/// Every relation that the plan scans, sorted, each once.
pub(crate) fn relations_of(plan: &LogicalPlan) -> datafusion::common::Result<Vec<TableReference>> {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    let mut found = Vec::new();
    plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            found.push(scan.table_name.clone());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    found.sort_by_key(ToString::to_string);
    found.dedup();
    Ok(found)
}
