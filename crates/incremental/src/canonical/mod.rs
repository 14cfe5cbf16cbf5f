//! Canonical plans: one plan for both tempos, in a form whose result depends on nothing but contents and clock.
//!
//! What holds of a canonical plan:
//! - Columns have no qualifiers, and names are unique at every node; positions and types are those of the plan it was
//!   made from.
//! - Keys of groups and joins, arguments and conditions of aggregates, partitions and orders of windows are columns:
//!   what must be computed is computed by a projection below.
//! - Every float that crosses an edge is canonical ([`floats`]); sums and averages of floats are exact ([`sums`]), and
//!   the order of floats is total ([`extremes`]).
//! - Ordered constructs stand above a sort that ends with the whole row.
//! - What DataFusion does not have is a node of ours ([`nodes`]) over canonical plans.
//! - The clock appears only in filters of the form `lower <= clock AND clock < upper` ([`clock_bounds`]).

mod aggregates;
pub(crate) mod as_of;
pub(crate) mod clock;
mod columns;
mod extremes;
pub mod floats;
mod grouping_sets;
mod joins;
pub(crate) mod nodes;
mod ordered;
mod recursion;
mod set_operations;
mod sums;

pub(crate) use aggregates::is_kept_incrementally;
pub(crate) use recursion::{WorkTable, refuse_stray_reads};

use crate::errors::{PlanError, PlanErrorKind};
use arrow::datatypes::{Field, Fields};
use clock::{Bounds, bounds_of, reads_clock};
use columns::{Below, column, named, pick, rebind, scan_columns, unique_names};
pub(crate) use columns::{cannot_fail, project, scan_columns as unqualified};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError, TableReference};
use datafusion::logical_expr::utils::{conjunction, split_conjunction_owned};
use datafusion::logical_expr::{BinaryExpr, Distinct, Expr, Filter, LogicalPlan, Operator, Union, Unnest, lit};
use nodes::{Special, SpecialNode};
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
        LogicalPlan::Distinct(Distinct::On(on)) => ordered::distinct_on(on, None),
        LogicalPlan::Aggregate(aggregate) => aggregates::aggregated(aggregate),
        LogicalPlan::Window(window) => ordered::windowed(window),
        LogicalPlan::Join(join) => joins::joined(join),
        LogicalPlan::Sort(sort) if sort.fetch.is_none() => canonicalise(&sort.input),
        LogicalPlan::Sort(sort) => {
            let fetch = sort.fetch.map(|n| Box::new(lit(n as i64)));
            ordered::limited(&sort.input, sort.expr.clone(), None, fetch)
        }
        LogicalPlan::Limit(limit) => ordered::limit_over(limit, &limit.input),
        LogicalPlan::Unnest(unnest) => unnested(unnest),
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => Ok(scan_columns(plan)?),
        LogicalPlan::RecursiveQuery(query) => recursion::recursive(query),
        LogicalPlan::Extension(_) => match nodes::special(plan) {
            Some(node) => special(node),
            None => Err(DataFusionError::Internal(format!("no canonical form of {}", plan.display())).into()),
        },
        LogicalPlan::Subquery(_) => {
            unsupported("this subquery cannot be turned into a join", "write it as a join, or as a model of its own")
        }
        other => unsupported(
            format!("a model is a SELECT; {} is not part of one", other.display()),
            "keep a single SELECT in the file",
        ),
    }
}

/// What SQL means by operations that DataFusion does not have, or not as the standard says, as nodes of ours: to be done
/// before the plan is analysed.
pub(crate) fn with_special_nodes(plan: LogicalPlan) -> datafusion::common::Result<LogicalPlan> {
    let done = plan.transform_up_with_subqueries(|node| match node {
        LogicalPlan::Join(join) => Ok(match as_of::from_join(&join)?.or(set_operations::from_join(&join)?) {
            Some(special) => Transformed::yes(special),
            None => Transformed::no(LogicalPlan::Join(join)),
        }),
        other => Ok(Transformed::no(other)),
    })?;
    Ok(done.data)
}

fn special(node: &SpecialNode) -> Result<LogicalPlan> {
    match (&node.kind, node.inputs.as_slice()) {
        (Special::IntersectAll | Special::ExceptAll, [left, right]) => set_operations::canonical(node, left, right),
        (Special::AsOf(conditions), [left, right]) => as_of::canonical(node, conditions, left, right),
        _ => Err(DataFusionError::Internal(format!("{node:?} is not of analysed plans")).into()),
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
        let Some(Bounds { lower, upper }) = bounds_of(&condition)? else {
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

fn unnested(unnest: &Unnest) -> Result<LogicalPlan> {
    let input = canonicalise(&unnest.input)?;
    let names = unique_names(unnest.schema.fields().iter().map(|f| f.name().as_str()));
    let fields: Fields = names
        .iter()
        .zip(unnest.schema.fields())
        .map(|(name, field)| Field::new(name, field.data_type().clone(), true))
        .collect();
    let mut lists = unnest.list_type_columns.clone();
    for (_, list) in &mut lists {
        let position = unnest.schema.index_of_column(&list.output_column)?;
        list.output_column = Column::new_unqualified(&names[position]);
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

/// Every relation that the plan scans, sorted, each once.
pub(crate) fn relations_of(plan: &LogicalPlan) -> datafusion::common::Result<Vec<TableReference>> {
    use datafusion::common::tree_node::TreeNodeRecursion;
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
