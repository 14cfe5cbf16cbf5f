//! UNNEST: a row for each element of list columns, columns for the fields of struct columns.

use super::{EngineError, Operator, StepContext};
use crate::delta::Delta;
use arrow::array::{ArrayRef, AsArray, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use datafusion::common::UnnestOptions;
use datafusion::datasource::memory::MemorySourceConfig;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::unnest::{ListUnnest, UnnestExec};
use futures::TryStreamExt;
use futures::executor::block_on;
use std::sync::Arc;

/// Unnests list columns into rows and struct columns into columns. Linear, without state.
///
/// The work is done by DataFusion's own operator over one batch, with the weight as a further column.
pub struct Unnest {
    schema: SchemaRef,
    input_weighted: SchemaRef,
    output_weighted: SchemaRef,
    lists: Vec<ListUnnest>,
    structs: Vec<usize>,
    options: UnnestOptions,
}

impl Unnest {
    /// From rows of `input` to rows of `output`: `lists` names (column of input, depth) of the lists to unnest and
    /// `structs` the struct columns to spread, exactly as DataFusion's `UnnestExec` takes them.
    pub fn new(
        input: SchemaRef,
        output: SchemaRef,
        lists: Vec<(usize, usize)>,
        structs: Vec<usize>,
        options: UnnestOptions,
    ) -> Result<Self, EngineError> {
        let lists = lists
            .into_iter()
            .map(|(index_in_input_schema, depth)| ListUnnest { index_in_input_schema, depth })
            .collect();
        Ok(Self {
            input_weighted: with_weight(&input),
            output_weighted: with_weight(&output),
            schema: output,
            lists,
            structs,
            options,
        })
    }
}

impl Operator for Unnest {
    fn name(&self) -> &'static str {
        "unnest"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, inputs: &[&Delta], _context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let input = inputs[0];
        if input.is_empty() {
            return Ok(Delta::empty(self.schema.clone()));
        }
        let mut columns = input.rows.columns().to_vec();
        columns.push(Arc::new(input.weights.clone()) as ArrayRef);
        let batch = RecordBatch::try_new(self.input_weighted.clone(), columns)?;
        let source = MemorySourceConfig::try_new_exec(&[vec![batch]], self.input_weighted.clone(), None)?;
        let unnest = UnnestExec::new(
            source,
            self.lists.clone(),
            self.structs.clone(),
            self.output_weighted.clone(),
            self.options.clone(),
        )?;
        let batches: Vec<RecordBatch> = block_on(unnest.execute(0, Arc::new(TaskContext::default()))?.try_collect())?;
        let mut rows = concat_batches(&self.output_weighted, &batches)?;
        let weights = rows.remove_column(self.schema.fields().len());
        let weights = weights.as_primitive::<Int64Type>().clone();
        Ok(Delta::new(rows, weights).with_schema(self.schema.clone())?)
    }
}

/// The schema with a last column for the weight.
fn with_weight(schema: &Schema) -> SchemaRef {
    let mut fields: Vec<_> = schema.fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("_weight", DataType::Int64, false)));
    Arc::new(Schema::new(fields))
}
