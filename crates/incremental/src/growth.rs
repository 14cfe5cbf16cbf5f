//! Which remembered state nothing bounds, told from the plan before anything runs.
//!
//! An edge *grows* when rows come to it for as long as rows come in, and no clock, key or limit takes them away: a stream
//! grows, a keyed table does not, a filter against `now()` ends it. State over an edge that grows is unbounded.

use crate::canonical::{clock_bounds, is_kept_incrementally};
use crate::dataflow::OperatorDescription;
use crate::delta::Relation;
use crate::planner::ModelPlan;
use crate::rewrite::{fingerprint, is_append_only, never_changes, top_of_each};
use datafusion::common::JoinType;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, Join, LogicalPlan};
use std::collections::BTreeMap;

/// State that grows for as long as rows come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnboundedState {
    /// Fingerprint of the sub-plan whose operator keeps it.
    plan: String,
    /// What is kept, in one phrase: "every row of `clicks` for a join".
    pub kept: String,
    /// What would bound it.
    pub hint: String,
    /// Whether it keeps rows as they come, and not one of each key or value that the query names.
    pub every_row: bool,
}

impl UnboundedState {
    /// Whether it is the state of this operator.
    pub fn is_of(&self, operator: &OperatorDescription) -> bool {
        // Behind the fingerprint an id says in which form the state is kept.
        operator.keeps_state && operator.id.starts_with(&self.plan)
    }
}

/// What is known of how relations grow. Models come in dependency order.
#[derive(Debug, Clone, Default)]
pub struct Growth {
    /// Relations that grow, each with the stream that makes it grow.
    growing: BTreeMap<Relation, Relation>,
}

impl Growth {
    /// Knows the streams: relations whose rows are never taken away.
    pub fn of(streams: impl IntoIterator<Item = Relation>) -> Self {
        Self { growing: streams.into_iter().map(|stream| (stream.clone(), stream)).collect() }
    }

    /// The unbounded state of a model, that of its inputs' operators first. The model is known from then on.
    pub fn add(&mut self, model: &ModelPlan) -> Vec<UnboundedState> {
        let mut visit = Visit { growing: &self.growing, model, found: Vec::new() };
        let stream = visit.plan(&model.plan);
        let found = visit.found;
        if let Some(stream) = stream {
            self.growing.insert(model.name.clone(), stream);
        }
        found
    }
}

/// A walk through one model's plan.
struct Visit<'a> {
    growing: &'a BTreeMap<Relation, Relation>,
    model: &'a ModelPlan,
    found: Vec<UnboundedState>,
}

impl Visit<'_> {
    /// Notes what the operator of a plan keeps: something of each row, or of each key or value.
    fn keeps(&mut self, plan: &LogicalPlan, (every_row, kept): (bool, String), hint: &str) {
        let state = UnboundedState { plan: fingerprint(plan), kept, hint: hint.into(), every_row };
        if !self.found.contains(&state) {
            self.found.push(state);
        }
    }

    /// Whether no row of the plan's output is ever taken away, so that operators forget what can show no more.
    fn only_grows(&self, plan: &LogicalPlan) -> bool {
        is_append_only(plan, &|relation| self.model.reads_growing.iter().any(|grows| grows.as_ref() == relation))
    }

    /// The stream that makes the plan's output grow, if one does; what its operators keep is noted.
    fn plan(&mut self, plan: &LogicalPlan) -> Option<Relation> {
        if let LogicalPlan::TableScan(scan) = plan {
            return self.growing.get(scan.table_name.to_string().as_str()).cloned();
        }
        if let LogicalPlan::Filter(filter) = plan
            && let Ok(Some(top)) = top_of_each(&filter.input, &filter.predicate, None)
        {
            let stream = self.plan(top.input)?;
            let every_row = !self.only_grows(top.input);
            let what = if every_row { "every row" } else { "the first rows of each partition" };
            self.keeps(top.window, (every_row, format!("{what} of `{stream}` for row_number()")), RECENT);
            return Some(stream);
        }
        let inputs: Vec<Option<Relation>> = plan.inputs().into_iter().map(|input| self.plan(input)).collect();
        let stream = inputs.iter().flatten().next().cloned()?;
        match plan {
            LogicalPlan::Projection(_) | LogicalPlan::Union(_) | LogicalPlan::Unnest(_) | LogicalPlan::Sort(_) => {}
            LogicalPlan::Filter(filter) => {
                if clock_bounds(&filter.predicate).is_some_and(|(_, upper)| upper.is_some()) {
                    return None;
                }
            }
            LogicalPlan::Distinct(Distinct::All(_)) => {
                self.keeps(plan, (false, format!("each different row of `{stream}` for DISTINCT")), RECENT);
            }
            LogicalPlan::Aggregate(aggregate) => {
                if let Some(kept) = self.kept_by_aggregate(aggregate, &stream) {
                    self.keeps(plan, kept, RECENT);
                }
                return (!aggregate.group_expr.is_empty()).then_some(stream);
            }
            LogicalPlan::Join(join) => {
                let mut sides: Vec<String> = inputs.iter().flatten().map(|side| format!("`{side}`")).collect();
                let hint = if sides.len() > 1 { RECENT_SIDES } else { RECENT };
                sides.dedup();
                if join.join_type == JoinType::Inner && (never_changes(&join.left) || never_changes(&join.right)) {
                    return Some(stream);
                }
                self.keeps(plan, (true, format!("every row of {} for a join", sides.join(" and of "))), hint);
                return grown_by_join(join, &inputs);
            }
            LogicalPlan::Window(_) => {
                self.keeps(plan, (true, format!("every row of `{stream}` for a window function")), RECENT);
            }
            LogicalPlan::Limit(limit) => {
                let bounded = limit.fetch.is_some();
                let sorted = match limit.input.as_ref() {
                    LogicalPlan::Sort(sort) => sort.input.as_ref(),
                    other => other,
                };
                if !(bounded && self.only_grows(sorted)) {
                    self.keeps(plan, (true, format!("every row of `{stream}` for ORDER BY with LIMIT")), RECENT);
                }
                return (!bounded).then_some(stream);
            }
            _ => self.keeps(plan, (true, format!("rows of `{stream}`")), RECENT),
        }
        Some(stream)
    }

    fn kept_by_aggregate(&self, aggregate: &Aggregate, stream: &Relation) -> Option<(bool, String)> {
        let calls = || {
            aggregate.aggr_expr.iter().filter_map(|call| match call.clone().unalias() {
                Expr::AggregateFunction(call) => Some(call),
                _ => None,
            })
        };
        if let Some(call) = calls().find(|call| !is_kept_incrementally(call, aggregate.input.schema())) {
            return Some((true, format!("every row of `{stream}` for {}()", call.func.name())));
        }
        if let Some(call) = calls().find(|call| call.params.distinct) {
            return Some((false, format!("each different value of `{stream}` for {}(DISTINCT)", call.func.name())));
        }
        if !self.only_grows(&aggregate.input)
            && let Some(call) = calls().find(|call| matches!(call.func.name(), "min" | "max"))
        {
            return Some((false, format!("each different value of `{stream}` for {}()", call.func.name())));
        }
        let keys: Vec<String> = aggregate.group_expr.iter().map(|key| written(key, &aggregate.input)).collect();
        (!keys.is_empty()).then(|| (false, format!("a group for each {} of `{stream}`", keys.join(", "))))
    }
}

const RECENT: &str = "keep what is recent: `WHERE at > now() - INTERVAL '7 days'`";
const RECENT_SIDES: &str = "keep what is recent of both sides: `WHERE at > now() - INTERVAL '7 days'`";

/// A key as the query has it: canonical plans compute keys by a projection below, under names of their own.
fn written(key: &Expr, input: &LogicalPlan) -> String {
    if let (Expr::Column(column), LogicalPlan::Projection(projection)) = (key, input)
        && let Some(index) = projection.schema.maybe_index_of_column(column)
        && let Some(computed) = projection.expr.get(index)
    {
        return computed.clone().unalias().to_string();
    }
    key.to_string()
}

/// The stream that makes a join's output grow: a join that only filters one side grows with that side.
fn grown_by_join(join: &Join, inputs: &[Option<Relation>]) -> Option<Relation> {
    let (left, right) = (inputs.first().cloned().flatten(), inputs.get(1).cloned().flatten());
    match join.join_type {
        JoinType::LeftSemi | JoinType::LeftAnti | JoinType::LeftMark => left,
        JoinType::RightSemi | JoinType::RightAnti | JoinType::RightMark => right,
        _ => left.or(right),
    }
}
