//! Nodes of ours in batch: the operator takes all rows of its inputs as one delta.

use super::{Failures, conform, external};
use crate::canonical::nodes::SpecialNode;
use crate::delta::Delta;
use crate::operators::{EngineError, StepContext};
use crate::rewrite::special_operator;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::common::Result;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::execution::memory_pool::MemoryConsumer;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_expr::{Distribution, EquivalenceProperties, Partitioning, PhysicalExpr};
use datafusion::physical_plan::execution_plan::{Boundedness, EmissionType};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{
    DisplayAs, DisplayFormatType, ExecutionPlan, InputDistributionRequirements, PlanProperties,
};
use futures::TryStreamExt;
use std::fmt;
use std::sync::Arc;

/// Collects its inputs, within the limit of memory, and runs the operator once.
#[derive(Debug)]
pub(super) struct Operated {
    special: SpecialNode,
    inputs: Vec<Arc<dyn ExecutionPlan>>,
    failures: Failures,
    properties: Arc<PlanProperties>,
}

impl Operated {
    pub fn new(special: SpecialNode, inputs: Vec<Arc<dyn ExecutionPlan>>, failures: Failures) -> Self {
        let properties = PlanProperties::new(
            EquivalenceProperties::new(nullable(special.schema.inner())),
            Partitioning::UnknownPartitioning(1),
            EmissionType::Final,
            Boundedness::Bounded,
        );
        Self { special, inputs, failures, properties: Arc::new(properties) }
    }
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields = schema.fields().iter().map(|f| Field::new(f.name(), f.data_type().clone(), true));
    Arc::new(Schema::new(fields.collect::<Vec<_>>()))
}

fn run(special: &SpecialNode, inputs: Vec<RecordBatch>, failures: &Failures) -> Result<RecordBatch, EngineError> {
    let schemas = inputs.iter().map(RecordBatch::schema).collect();
    let mut operator = special_operator(special, schemas)?;
    let deltas: Vec<Delta> = inputs.into_iter().map(Delta::inserts).collect();
    let mut errors = Vec::new();
    let mut context = StepContext { now: 0, errors: &mut errors };
    let output = operator.step(&deltas.iter().collect::<Vec<_>>(), &mut context)?;
    failures.extend(errors);
    output.consolidate()?.expand()
}

impl DisplayAs for Operated {
    fn fmt_as(&self, _type: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Operated: {:?}", self.special.kind)
    }
}

impl ExecutionPlan for Operated {
    fn name(&self) -> &str {
        "Operated"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        &self.properties
    }

    fn input_distribution_requirements(&self) -> InputDistributionRequirements {
        InputDistributionRequirements::new(vec![Distribution::SinglePartition; self.inputs.len()])
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        self.inputs.iter().collect()
    }

    /// None: the operator makes its own.
    fn apply_expressions(
        &self,
        _f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(Arc::new(Operated::new(self.special.clone(), children, self.failures.clone())))
    }

    fn execute(&self, _partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let reservation = MemoryConsumer::new("Operated").register(context.memory_pool());
        let streams = self.inputs.iter().map(|input| input.execute(0, context.clone())).collect::<Result<Vec<_>>>()?;
        let schemas: Vec<SchemaRef> =
            self.special.inputs.iter().map(|input| nullable(input.schema().inner())).collect();
        let (special, failures) = (self.special.clone(), self.failures.clone());
        let output = async move {
            let mut inputs = Vec::with_capacity(streams.len());
            for (mut stream, schema) in streams.into_iter().zip(schemas) {
                let mut batches = Vec::new();
                while let Some(batch) = stream.try_next().await? {
                    // Once as it comes, once as the operator keeps it.
                    reservation.try_grow(2 * batch.get_array_memory_size())?;
                    batches.push(conform(&batch, &schema).map_err(external)?);
                }
                inputs.push(concat_batches(&schema, &batches)?);
            }
            let end = failures.reader(1);
            let output = run(&special, inputs, &failures).map_err(external)?;
            end.reached();
            Ok(output)
        };
        let schema = self.schema();
        Ok(Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::once(output))))
    }
}
