//! A model in batch: the canonical plan as an ordinary DataFusion plan over the contents of its inputs.

use crate::canonical::nodes::special;
use crate::canonical::{self, clock};
use crate::dataflow::error_rows;
use crate::delta::Relation;
use crate::operators::{EngineError, RowError};
use crate::physical::{self, Failures};
use crate::planner::{ModelPlan, PlanForm, session_config};
use crate::rewrite;
use crate::whole;
use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::{DFSchema, DataFusionError, TableReference};
use datafusion::datasource::provider_as_source;
use datafusion::execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder};
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder};
use datafusion::logical_expr::{
    Aggregate, Distinct, Expr, Join, Limit, LogicalPlan, LogicalPlanBuilder, TableScan, Union, Unnest, Window,
};
use datafusion::physical_plan::{collect, execute_stream};
use datafusion::physical_planner::PhysicalPlanner;
use futures::TryStreamExt;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Bounds of one run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Memory in bytes for sorts, joins and aggregates; none: unbounded. Beyond it, operators that can spill do.
    pub memory_max: Option<usize>,
    /// Threads that share a model's work, where its plan allows it. The rows are the same.
    pub threads: usize,
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self { memory_max: None, threads: 1 }
    }
}

impl BatchLimits {
    /// A runtime within these bounds.
    pub(crate) fn runtime(&self) -> Result<Arc<RuntimeEnv>, DataFusionError> {
        let builder = RuntimeEnvBuilder::new();
        let builder = match self.memory_max {
            Some(bytes) => builder.with_memory_limit(bytes, 1.0),
            None => builder,
        };
        Ok(Arc::new(builder.build()?))
    }
}

/// What a run gives.
#[derive(Debug, Clone, Default)]
pub struct BatchOutput {
    /// The model's rows, each with weight 1; schema is the model's.
    pub rows: Vec<RecordBatch>,
    /// The rows that failed; schema is [`crate::dataflow::ERROR_SCHEMA`].
    pub errors: Vec<RecordBatch>,
}

/// Runs the model over `tables`, the contents of the relations it reads, as of the clock `now` (microseconds UTC).
/// Must be called within a Tokio runtime.
pub async fn run(
    plan: &ModelPlan,
    tables: &(dyn Fn(&Relation) -> Option<Arc<dyn TableProvider>> + Sync),
    now: i64,
    limits: BatchLimits,
) -> Result<BatchOutput, EngineError> {
    let failures = Mutex::new(BTreeMap::new());
    let runnable = Runnable { tables, now, failures: &failures };
    let (whole, threads) = match plan.form {
        PlanForm::Canonical => (runnable.of(&plan.plan)?, limits.threads),
        // What such a plan gives can depend on the order in which rows come.
        PlanForm::Whole => (whole::runnable(&plan.plan, tables, now)?, 1),
    };
    let config = session_config().with_target_partitions(threads);
    let state = SessionStateBuilder::new().with_config(config).with_runtime_env(limits.runtime()?).build();
    let batches = collect(physical::planner().create_physical_plan(&whole, &state).await?, state.task_ctx()).await?;
    // What DataFusion had no need to read can fail all the same. Each turn reads one sub-plan to its end.
    let mut last = None;
    while let Some((id, unread)) = unread(&failures) {
        if last.replace(id.clone()) == Some(id) {
            return Err(EngineError::Internal(format!("{} was not read to its end", unread.display())));
        }
        let part = physical::planner().create_physical_plan(&runnable.of(&unread)?, &state).await?;
        execute_stream(part, state.task_ctx())?.try_for_each(|_| std::future::ready(Ok(()))).await?;
    }
    let rows = batches
        .iter()
        .filter(|batch| batch.num_rows() > 0)
        .map(|batch| physical::conform(batch, &plan.schema))
        .collect::<Result<Vec<_>, _>>()?;
    let failures = failed(failures.into_inner());
    let errors = error_rows(&plan.name, &failures)?.consolidate()?.expand()?;
    let errors = if errors.num_rows() == 0 { Vec::new() } else { vec![errors] };
    Ok(BatchOutput { rows, errors })
}

/// The rows of a canonical plan, or of a part of one, as they come. Rows that fail are left out, and not told.
pub(crate) async fn stream(
    plan: &LogicalPlan,
    tables: &(dyn Fn(&Relation) -> Option<Arc<dyn TableProvider>> + Sync),
    now: i64,
    limits: BatchLimits,
) -> Result<SendableRecordBatchStream, EngineError> {
    let failures = Mutex::new(BTreeMap::new());
    let whole = Runnable { tables, now, failures: &failures }.of(plan)?;
    let config = session_config().with_target_partitions(limits.threads);
    let state = SessionStateBuilder::new().with_config(config).with_runtime_env(limits.runtime()?).build();
    let physical = physical::planner().create_physical_plan(&whole, &state).await?;
    Ok(execute_stream(physical, state.task_ctx())?)
}

/// What failed at the nodes of a plan that can fail, by the fingerprint of the sub-plan.
type FailuresByPlan = BTreeMap<String, Fallible>;

struct Fallible {
    plan: LogicalPlan,
    /// One for each place where the sub-plan stands, and each time that it was run.
    places: Vec<Failures>,
}

/// A sub-plan that can fail and was nowhere read to its end.
fn unread(failures: &Mutex<FailuresByPlan>) -> Option<(String, LogicalPlan)> {
    let failures = failures.lock();
    let unread = failures.iter().find(|(_, fallible)| !fallible.places.iter().any(Failures::is_complete));
    unread.map(|(id, fallible)| (id.clone(), fallible.plan.clone()))
}

/// A sub-plan that stands at several places fails once, as in the graph, where it is one node.
fn failed(by_plan: FailuresByPlan) -> Vec<RowError> {
    let complete = |fallible: Fallible| fallible.places.into_iter().find(Failures::is_complete);
    by_plan.into_values().filter_map(complete).flat_map(|place| place.take()).collect()
}

/// Turns a canonical plan into one that DataFusion's physical planner takes.
struct Runnable<'a> {
    tables: &'a (dyn Fn(&Relation) -> Option<Arc<dyn TableProvider>> + Sync),
    now: i64,
    failures: &'a Mutex<FailuresByPlan>,
}

impl Runnable<'_> {
    /// Where a node leaves the rows that fail.
    fn failures(&self, plan: &LogicalPlan) -> Failures {
        let failures = Failures::default();
        let mut all = self.failures.lock();
        let fallible = all
            .entry(rewrite::fingerprint(plan))
            .or_insert_with(|| Fallible { plan: plan.clone(), places: Vec::new() });
        fallible.places.push(failures.clone());
        failures
    }

    /// The same for a node that computes `expressions` of rows of `input`, where they can fail.
    fn failures_of<'e>(
        &self,
        plan: &LogicalPlan,
        input: &DFSchema,
        mut expressions: impl Iterator<Item = &'e Expr>,
    ) -> Failures {
        if expressions.all(|e| canonical::cannot_fail(e, input)) { Failures::default() } else { self.failures(plan) }
    }

    fn of(&self, plan: &LogicalPlan) -> Result<LogicalPlan, EngineError> {
        let below = |input: &LogicalPlan| self.of(input).map(Arc::new);
        Ok(match plan {
            LogicalPlan::TableScan(scan) => scanned(scan, self.tables)?,
            LogicalPlan::Projection(projection) => {
                let (input, filter) = match projection.input.as_ref() {
                    LogicalPlan::Filter(filter) if !clock::reads_clock(&filter.predicate) => {
                        (&filter.input, Some(filter.predicate.clone()))
                    }
                    _ => (&projection.input, None),
                };
                let expressions: Vec<Expr> = projection.expr.iter().map(|e| e.clone().unalias()).collect();
                let schema = nullable(&projection.schema)?;
                let failures = self.failures_of(plan, input.schema(), expressions.iter().chain(&filter));
                physical::tolerant_map(self.of(input)?, filter, expressions, schema, failures)
            }
            LogicalPlan::Filter(filter) => {
                let predicate = clock::at(filter.predicate.clone(), self.now)?;
                let schema = filter.input.schema();
                let columns = schema.columns().into_iter().map(Expr::Column).collect();
                let failures = self.failures_of(plan, schema, std::iter::once(&predicate));
                let input = self.of(&filter.input)?;
                physical::tolerant_map(input, Some(predicate), columns, nullable(schema)?, failures)
            }
            LogicalPlan::Distinct(Distinct::All(input)) => {
                let columns = input.schema().columns().into_iter().map(Expr::Column).collect();
                LogicalPlan::Aggregate(Aggregate::try_new(below(input)?, columns, Vec::new())?)
            }
            LogicalPlan::Aggregate(aggregate) => {
                let input = below(&aggregate.input)?;
                let (groups, calls) = (aggregate.group_expr.clone(), aggregate.aggr_expr.clone());
                LogicalPlan::Aggregate(Aggregate::try_new(input, groups, calls)?)
            }
            LogicalPlan::Window(window) => {
                LogicalPlan::Window(Window::try_new(window.window_expr.clone(), below(&window.input)?)?)
            }
            LogicalPlan::Sort(sort) => physical::sorted(self.of(&sort.input)?, sort.expr.clone()),
            LogicalPlan::Limit(limit) => LogicalPlan::Limit(Limit { input: below(&limit.input)?, ..limit.clone() }),
            LogicalPlan::Union(union) => {
                let inputs = union.inputs.iter().map(|input| below(input)).collect::<Result<Vec<_>, _>>()?;
                LogicalPlan::Union(Union { inputs, schema: nullable(&union.schema)? })
            }
            LogicalPlan::Join(join) => {
                let (left, right) = (below(&join.left)?, below(&join.right)?);
                let both = join.left.schema().join(join.right.schema())?;
                let fallible = join.filter.as_ref().filter(|filter| !canonical::cannot_fail(filter, &both));
                let failures = fallible.map(|filter| (filter, self.failures(plan)));
                let filter = match &failures {
                    Some((filter, failures)) => Some(physical::tolerant_condition(filter, &both, failures.clone())?),
                    None => join.filter.clone(),
                };
                let joined = LogicalPlan::Join(Join::try_new(
                    left,
                    right,
                    join.on.clone(),
                    filter,
                    join.join_type,
                    join.join_constraint,
                    join.null_equality,
                    join.null_aware,
                )?);
                match failures {
                    Some((_, failures)) => physical::watched(joined, failures),
                    None => joined,
                }
            }
            LogicalPlan::Unnest(unnest) => {
                LogicalPlan::Unnest(Unnest { input: below(&unnest.input)?, ..unnest.clone() })
            }
            LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => plan.clone(),
            other => {
                let Some(node) = special(other) else {
                    return Err(EngineError::Internal(format!("no batch form of {}", other.display())));
                };
                let inputs = node.inputs.iter().map(|input| self.of(input)).collect::<Result<Vec<_>, _>>()?;
                physical::operated(node.clone(), inputs, nullable(&node.schema)?, self.failures(plan))
            }
        })
    }
}

/// A scan over the contents of its relation.
pub(crate) fn scanned(
    scan: &TableScan,
    tables: &(dyn Fn(&Relation) -> Option<Arc<dyn TableProvider>> + Sync),
) -> Result<LogicalPlan, EngineError> {
    let relation = Relation::from(scan.table_name.to_string());
    let provider =
        tables(&relation).ok_or_else(|| EngineError::Internal(format!("no contents of `{relation}` to run over")))?;
    let held = provider.schema();
    let wanted = scan.projected_schema.fields().iter().map(|f| held.index_of(f.name()));
    let projection = wanted.collect::<Result<Vec<_>, _>>()?;
    let name = TableReference::bare("contents");
    let scanned = LogicalPlanBuilder::scan(name, provider_as_source(provider), Some(projection))?.build()?;
    Ok(physical::conforming(scanned, nullable(&scan.projected_schema)?))
}

/// The schema with every column nullable, as on every edge of the graph.
fn nullable(schema: &DFSchema) -> Result<Arc<DFSchema>, DataFusionError> {
    let fields = schema
        .iter()
        .map(|(qualifier, field)| (qualifier.cloned(), Arc::new(field.as_ref().clone().with_nullable(true))));
    Ok(Arc::new(DFSchema::new_with_metadata(fields.collect(), Default::default())?))
}
