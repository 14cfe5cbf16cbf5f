//! Which remembered state nothing bounds, told from the plan before anything runs.
//!
//! An edge *grows* when rows come to it for as long as rows come in, and no clock, key or limit takes them away: a stream
//! grows, a keyed table does not, a filter against `now()` ends it. State over an edge that grows is unbounded.

use crate::canonical::{clock_bounds, is_kept_incrementally};
use crate::delta::Relation;
use crate::planner::ModelPlan;
use crate::rewrite::fingerprint;
use datafusion::common::JoinType;
use datafusion::logical_expr::{Aggregate, Distinct, Expr, Join, LogicalPlan};
use std::collections::BTreeMap;

/// State that grows for as long as rows come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnboundedState {
    /// Id of the operator that keeps it, as in [`crate::dataflow::OperatorDescription::id`].
    pub id: String,
    /// What is kept, in one phrase: "every row of `clicks` for a join".
    pub kept: String,
    /// What would bound it.
    pub hint: String,
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
        let mut found = Vec::new();
        if let Some(stream) = self.visit(&model.plan, &mut found) {
            self.growing.insert(model.name.clone(), stream);
        }
        found
    }

    /// The stream that makes the plan's output grow, if one does; what its operators keep goes to `found`.
    fn visit(&self, plan: &LogicalPlan, found: &mut Vec<UnboundedState>) -> Option<Relation> {
        if let LogicalPlan::TableScan(scan) = plan {
            return self.growing.get(scan.table_name.to_string().as_str()).cloned();
        }
        let inputs: Vec<Option<Relation>> = plan.inputs().into_iter().map(|input| self.visit(input, found)).collect();
        let stream = inputs.iter().flatten().next().cloned()?;
        let mut keeps = |kept: String, hint: &str| {
            let state = UnboundedState { id: fingerprint(plan), kept, hint: hint.into() };
            if !found.contains(&state) {
                found.push(state);
            }
        };
        match plan {
            LogicalPlan::Projection(_) | LogicalPlan::Union(_) | LogicalPlan::Unnest(_) | LogicalPlan::Sort(_) => {}
            LogicalPlan::Filter(filter) => {
                if clock_bounds(&filter.predicate).is_some_and(|(_, upper)| upper.is_some()) {
                    return None;
                }
            }
            LogicalPlan::Distinct(Distinct::All(_)) => {
                keeps(format!("each different row of `{stream}` for DISTINCT"), RECENT);
            }
            LogicalPlan::Aggregate(aggregate) => {
                if let Some(kept) = kept_by_aggregate(aggregate, &stream) {
                    keeps(kept, RECENT);
                }
                return (!aggregate.group_expr.is_empty()).then_some(stream);
            }
            LogicalPlan::Join(join) => {
                let sides = inputs.iter().flatten().map(|side| format!("`{side}`")).collect::<Vec<_>>();
                let hint = if sides.len() == 2 {
                    "keep both sides to a time with `WHERE at > now() - INTERVAL '7 days'`"
                } else {
                    "keep the stream to a time with `WHERE at > now() - INTERVAL '7 days'`"
                };
                let same = sides.windows(2).all(|pair| pair[0] == pair[1]);
                let of = if same { sides[0].clone() } else { sides.join(" and of ") };
                keeps(format!("every row of {of} for a join"), hint);
                return grown_by_join(join, &inputs);
            }
            LogicalPlan::Window(_) => keeps(format!("every row of `{stream}` for a window function"), RECENT),
            LogicalPlan::Limit(limit) => {
                keeps(format!("every row of `{stream}` for ORDER BY with LIMIT"), RECENT);
                return limit.fetch.is_none().then_some(stream);
            }
            _ => keeps(format!("rows of `{stream}`"), RECENT),
        }
        Some(stream)
    }
}

const RECENT: &str = "keep what is recent: `WHERE at > now() - INTERVAL '7 days'`";

fn kept_by_aggregate(aggregate: &Aggregate, stream: &Relation) -> Option<String> {
    let calls = || {
        aggregate.aggr_expr.iter().filter_map(|call| match call.clone().unalias() {
            Expr::AggregateFunction(call) => Some(call),
            _ => None,
        })
    };
    if let Some(call) = calls().find(|call| !is_kept_incrementally(call)) {
        return Some(format!("every row of `{stream}` for {}()", call.func.name()));
    }
    if let Some(call) = calls().find(|call| call.params.distinct) {
        return Some(format!("each different value of `{stream}` for {}(DISTINCT)", call.func.name()));
    }
    let keys: Vec<String> = aggregate.group_expr.iter().map(|key| written(key, &aggregate.input)).collect();
    (!keys.is_empty()).then(|| format!("a group for each {} of `{stream}`", keys.join(", ")))
}

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
