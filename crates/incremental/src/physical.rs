//! Canonical plans as DataFusion runs them: tolerant projections and filters, and rows at hand as a leaf.

use crate::canonical::nodes::SpecialNode;
use crate::operators::{EngineError, tolerant};
use crate::planner::session_config;
use crate::rewrite::physical_expression;
use arrow::array::{BooleanArray, RecordBatch, RecordBatchOptions};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::Session;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DFSchema, DFSchemaRef, DataFusionError, Result};
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::context::SessionState;
use datafusion::execution::{SendableRecordBatchStream, SessionStateBuilder, TaskContext};
use datafusion::logical_expr::SortExpr;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNode, UserDefinedLogicalNodeCore};
use datafusion::physical_expr::{
    Distribution, EquivalenceProperties, LexOrdering, Partitioning, PhysicalExpr, create_physical_sort_exprs,
};
use datafusion::physical_plan::InputDistributionRequirements;
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::sorts::sort::SortExec;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, ExecutionPlanProperties, PlanProperties, collect,
};
use datafusion::physical_planner::{DefaultPhysicalPlanner, ExtensionPlanner, PhysicalPlanner};
use futures::StreamExt;
use std::cmp::Ordering;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

mod condition;
mod failures;
mod operated;

pub(crate) use condition::tolerant_condition;
pub(crate) use failures::Failures;
use operated::Operated;

/// Rows as a plan.
pub(crate) fn rows(batch: &RecordBatch) -> Result<LogicalPlan> {
    let schema = Arc::new(DFSchema::try_from(batch.schema().as_ref().clone())?);
    Ok(extension(Node { kind: Kind::Rows(batch.clone()), inputs: Vec::new(), schema }))
}

/// `filter`, then `expressions`, over `input`; rows that fail go to `failures`.
pub(crate) fn tolerant_map(
    input: LogicalPlan,
    filter: Option<Expr>,
    expressions: Vec<Expr>,
    schema: DFSchemaRef,
    failures: Failures,
) -> LogicalPlan {
    extension(Node { kind: Kind::Map { filter, expressions, failures }, inputs: vec![input], schema })
}

/// `input` sorted by columns. DataFusion's own sort would be cut down to what the node above asks for, and ties would
/// then fall as they may.
pub(crate) fn sorted(input: LogicalPlan, keys: Vec<SortExpr>) -> LogicalPlan {
    let schema = input.schema().clone();
    extension(Node { kind: Kind::Sort(keys), inputs: vec![input], schema })
}

/// `input` as it is; `failures` are those of its condition, and complete when it has been read to its end.
pub(crate) fn watched(input: LogicalPlan, failures: Failures) -> LogicalPlan {
    let schema = input.schema().clone();
    extension(Node { kind: Kind::Watched(failures), inputs: vec![input], schema })
}

/// A node of ours over all rows of its inputs; rows that fail go to `failures`.
pub(crate) fn operated(
    special: SpecialNode,
    inputs: Vec<LogicalPlan>,
    schema: DFSchemaRef,
    failures: Failures,
) -> LogicalPlan {
    extension(Node { kind: Kind::Operated { special, failures }, inputs, schema })
}

/// The columns of `input` cast to `schema`.
pub(crate) fn conforming(input: LogicalPlan, schema: DFSchemaRef) -> LogicalPlan {
    extension(Node { kind: Kind::Conform, inputs: vec![input], schema })
}

fn extension(node: Node) -> LogicalPlan {
    LogicalPlan::Extension(Extension { node: Arc::new(node) })
}

/// The batch with the names and types of `schema`.
pub(crate) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> std::result::Result<RecordBatch, EngineError> {
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (column, field) in batch.columns().iter().zip(schema.fields()) {
        let same = column.data_type() == field.data_type();
        columns.push(if same { column.clone() } else { cast(column, field.data_type())? });
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema.clone(), columns, &options)?)
}

/// The planner of batch runs.
pub(crate) fn planner() -> DefaultPhysicalPlanner {
    DefaultPhysicalPlanner::with_extension_planners(vec![Arc::new(Nodes)])
}

/// Runs a plan whose leaves are at hand, on this thread.
pub(crate) fn run_local(plan: LogicalPlan) -> std::result::Result<RecordBatch, EngineError> {
    static STATE: LazyLock<SessionState> = LazyLock::new(|| {
        let mut config = session_config();
        // One batch is sorted in place: nothing is spawned.
        config.options_mut().execution.sort_in_place_threshold_bytes = usize::MAX;
        SessionStateBuilder::new().with_config(config).build()
    });
    let work = async {
        let physical = planner().create_physical_plan(&plan, &*STATE).await?;
        let schema = physical.schema();
        let batches = collect(physical, STATE.task_ctx()).await?;
        Ok(concat_batches(&schema, &batches)?)
    };
    // All of it is in memory and on this thread: pending only means that an operator lets others go first.
    let mut work = std::pin::pin!(tokio::task::unconstrained(work));
    let waker = futures::task::noop_waker();
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(result) = work.as_mut().poll(&mut context) {
            return result;
        }
        std::thread::yield_now();
    }
}

/// A logical node of ours.
#[derive(Debug)]
struct Node {
    kind: Kind,
    inputs: Vec<LogicalPlan>,
    schema: DFSchemaRef,
}

#[derive(Debug, Clone)]
enum Kind {
    Rows(RecordBatch),
    Map { filter: Option<Expr>, expressions: Vec<Expr>, failures: Failures },
    Conform,
    Sort(Vec<SortExpr>),
    Operated { special: SpecialNode, failures: Failures },
    Watched(Failures),
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Node {}

impl PartialOrd for Node {
    fn partial_cmp(&self, _other: &Self) -> Option<Ordering> {
        None
    }
}

impl Hash for Node {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.schema.hash(state);
    }
}

impl UserDefinedLogicalNodeCore for Node {
    fn name(&self) -> &str {
        match self.kind {
            Kind::Rows(_) => "Rows",
            Kind::Map { .. } => "TolerantMap",
            Kind::Conform => "Conform",
            Kind::Sort(_) => "WholeSort",
            Kind::Operated { .. } => "Operated",
            Kind::Watched(_) => "Watched",
        }
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.inputs.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    /// None: the node is made when optimisation is over.
    fn expressions(&self) -> Vec<Expr> {
        Vec::new()
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(UserDefinedLogicalNodeCore::name(self))
    }

    fn with_exprs_and_inputs(&self, _expressions: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        Ok(Self { kind: self.kind.clone(), inputs, schema: self.schema.clone() })
    }
}

/// Plans [`Node`]s.
struct Nodes;

#[async_trait]
impl ExtensionPlanner for Nodes {
    async fn plan_extension(
        &self,
        _planner: &dyn PhysicalPlanner,
        node: &dyn UserDefinedLogicalNode,
        logical_inputs: &[&LogicalPlan],
        physical_inputs: &[Arc<dyn ExecutionPlan>],
        _session: &dyn Session,
        _context: &PhysicalPlanningContext,
    ) -> Result<Option<Arc<dyn ExecutionPlan>>> {
        let Some(node) = node.as_any().downcast_ref::<Node>() else {
            return Ok(None);
        };
        let work = match &node.kind {
            Kind::Rows(batch) => {
                return Ok(Some(MemorySourceConfig::try_new_exec(&[vec![batch.clone()]], batch.schema(), None)?));
            }
            Kind::Sort(keys) => {
                let input = logical_inputs[0].schema();
                let context = PhysicalPlanningContext::default();
                let keys = create_physical_sort_exprs(keys, input, &ExecutionProps::new(), &context)?;
                return Ok(Some(match LexOrdering::new(keys) {
                    Some(ordering) => Arc::new(WholeSort::new(physical_inputs[0].clone(), ordering)),
                    None => physical_inputs[0].clone(),
                }));
            }
            Kind::Operated { special, failures } => {
                let (inputs, failures) = (physical_inputs.to_vec(), failures.clone());
                return Ok(Some(Arc::new(Operated::new(special.clone(), inputs, failures))));
            }
            Kind::Conform => Work::Conform,
            Kind::Watched(failures) => Work::Watch(failures.clone()),
            Kind::Map { filter, expressions, failures } => {
                let input = logical_inputs[0].schema();
                let physical = |e: &Expr| physical_expression(e, input).map_err(external);
                Work::Map {
                    filter: filter.as_ref().map(physical).transpose()?,
                    expressions: expressions.iter().map(physical).collect::<Result<_>>()?,
                    failures: failures.clone(),
                }
            }
        };
        let schema = node.schema.inner().clone();
        Ok(Some(Arc::new(RowWise::new(physical_inputs[0].clone(), schema, Arc::new(work)))))
    }
}

fn external(error: EngineError) -> DataFusionError {
    match error {
        EngineError::DataFusion(error) => error,
        other => DataFusionError::External(Box::new(other)),
    }
}

/// What is done to each batch.
#[derive(Debug)]
enum Work {
    Conform,
    Watch(Failures),
    Map { filter: Option<Arc<dyn PhysicalExpr>>, expressions: Vec<Arc<dyn PhysicalExpr>>, failures: Failures },
}

impl Work {
    fn apply(&self, batch: RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
        let (filter, expressions, failures) = match self {
            Work::Conform => return conform(&batch, schema).map_err(external),
            Work::Watch(_) => return Ok(batch),
            Work::Map { filter, expressions, failures } => (filter, expressions, failures),
        };
        let mut batch = batch;
        if let Some(filter) = filter {
            let (mask, failed) = tolerant::evaluate_filter(filter, &batch)?;
            failures.report(&batch, failed);
            batch = filter_record_batch(&batch, &mask)?;
        }
        let evaluated = tolerant::evaluate(expressions, &batch)?;
        let kept = evaluated.kept(batch.num_rows());
        failures.report(&batch, evaluated.failures);
        let rows = kept.as_ref().map_or(batch.num_rows(), BooleanArray::true_count);
        let made = tolerant::batch_of(unchecked(schema, &evaluated.columns), evaluated.columns, rows)?;
        conform(&made, schema).map_err(external)
    }

    /// Where rows that fail are left.
    fn failures(&self) -> Option<&Failures> {
        match self {
            Work::Conform => None,
            Work::Watch(failures) | Work::Map { failures, .. } => Some(failures),
        }
    }
}

/// The schema's names with the columns' own types.
fn unchecked(schema: &SchemaRef, columns: &[arrow::array::ArrayRef]) -> SchemaRef {
    let fields = schema.fields().iter().zip(columns);
    let fields = fields.map(|(f, c)| arrow::datatypes::Field::new(f.name(), c.data_type().clone(), true));
    Arc::new(arrow::datatypes::Schema::new(fields.collect::<Vec<_>>()))
}

/// Applies [`Work`] to each batch of its input.
#[derive(Debug)]
struct RowWise {
    input: Arc<dyn ExecutionPlan>,
    schema: SchemaRef,
    work: Arc<Work>,
    properties: Arc<PlanProperties>,
}

impl RowWise {
    fn new(input: Arc<dyn ExecutionPlan>, schema: SchemaRef, work: Arc<Work>) -> Self {
        let partitions = input.output_partitioning().partition_count();
        let properties = PlanProperties::new(
            EquivalenceProperties::new(schema.clone()),
            Partitioning::UnknownPartitioning(partitions),
            EmissionType::Incremental,
            Boundedness::Bounded,
        );
        Self { input, schema, work, properties: Arc::new(properties) }
    }
}

impl DisplayAs for RowWise {
    fn fmt_as(&self, _type: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.work.as_ref() {
            Work::Conform => f.write_str("Conform"),
            Work::Watch(_) => f.write_str("Watch"),
            Work::Map { filter: None, .. } => f.write_str("TolerantMap"),
            Work::Map { filter: Some(filter), .. } => write!(f, "TolerantMap: filter={filter}"),
        }
    }
}

impl ExecutionPlan for RowWise {
    fn name(&self) -> &str {
        "RowWise"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        if let Work::Map { filter, expressions, .. } = self.work.as_ref() {
            for expression in filter.iter().chain(expressions) {
                if f(expression)? == TreeNodeRecursion::Stop {
                    return Ok(TreeNodeRecursion::Stop);
                }
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(RowWise::new(children[0].clone(), self.schema.clone(), self.work.clone())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        let (work, schema) = (self.work.clone(), self.schema.clone());
        let output = input.map(move |batch| work.apply(batch?, &schema));
        let Some(failures) = self.work.failures() else {
            return Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), output)));
        };
        let mut end = Some(failures.reader(self.properties.output_partitioning().partition_count()));
        let output = output.chain(futures::stream::iter(std::iter::from_fn(move || {
            if let Some(end) = end.take() {
                end.reached();
            }
            None
        })));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), output)))
    }
}

/// Sorts its whole input; the optimiser sees a node that has that order, and nothing that it could weaken.
#[derive(Debug)]
struct WholeSort {
    input: Arc<dyn ExecutionPlan>,
    ordering: LexOrdering,
    properties: Arc<PlanProperties>,
}

impl WholeSort {
    fn new(input: Arc<dyn ExecutionPlan>, ordering: LexOrdering) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new_with_orderings(input.schema(), [ordering.clone()]),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { input, ordering, properties: Arc::new(properties) }
    }
}

impl DisplayAs for WholeSort {
    fn fmt_as(&self, _type: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "WholeSort: {}", self.ordering)
    }
}

impl ExecutionPlan for WholeSort {
    fn name(&self) -> &str {
        "WholeSort"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition])
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for key in &self.ordering {
            if f(&key.expr)? == TreeNodeRecursion::Stop {
                return Ok(TreeNodeRecursion::Stop);
            }
        }
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(WholeSort::new(children[0].clone(), self.ordering.clone())))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        SortExec::new(self.ordering.clone(), self.input.clone()).execute(partition, context)
    }
}
