//! One graph of operators for all models: deltas of sources in, deltas of models out.
//!
//! Nodes stand in an order in which every node comes after its inputs; a step visits them once, and passes over those
//! whose inputs have no news and whose time has not come. A model is read by others as its consolidated delta.

mod memory;

use crate::checkpoint::StateReader;
use crate::delta::{Delta, Relation};
use crate::operators::{EngineError, Operator, RowError, StateKey, StepContext};
use crate::physical::conform;
use crate::planner::ModelPlan;
use crate::rewrite::{GraphBuilder, Source};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::WriterBuilder;
use arrow::json::writer::LineDelimited;
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;
use weir_environment::Workers;

/// Columns of the error rows of models: `model`, `expression`, `row` (JSON), `message`.
pub static ERROR_SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    let column = |name: &str| Field::new(name, DataType::Utf8, true);
    Arc::new(Schema::new(vec![column("model"), column("expression"), column("row"), column("message")]))
});

/// What one step did.
#[derive(Debug, Clone, Default)]
pub struct StepOutput {
    /// The change of each model that changed, consolidated, in dependency order.
    pub models: Vec<(Relation, Delta)>,
    /// The change of the error rows of each model where they changed, consolidated; schema [`ERROR_SCHEMA`].
    pub errors: Vec<(Relation, Delta)>,
}

/// One operator, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct OperatorDescription {
    /// State id: a stable fingerprint of the sub-plan.
    pub id: String,
    /// What kind of operator.
    pub operator: &'static str,
    /// Details: expressions, keys.
    pub detail: String,
    /// Ids of the inputs; a relation's name for a source.
    pub inputs: Vec<String>,
    /// Models that use it.
    pub models: Vec<Relation>,
    /// Whether it remembers anything.
    pub keeps_state: bool,
    /// Rows remembered, as far as they are in memory.
    pub state_rows: usize,
    /// Bytes of memory held by what is remembered.
    pub state_bytes: usize,
    /// Rows taken in since the graph was built.
    pub rows_in: u64,
    /// Rows emitted since the graph was built.
    pub rows_out: u64,
    /// Time spent in it since the graph was built; zero where nobody measures ([`Dataflow::measure`]).
    pub elapsed: Duration,
}

/// Reads a clock that never goes backwards.
pub type Stopwatch = Arc<dyn Fn() -> Duration + Send + Sync>;

/// The graph.
pub struct Dataflow {
    nodes: Vec<Node>,
    models: Vec<Model>,
    inputs: HashMap<Relation, SchemaRef>,
    /// No step was made yet: operators that emit without input do.
    fresh: bool,
    /// What tells the time that operators take.
    stopwatch: Option<Stopwatch>,
    /// Where state is that memory does not hold.
    disk: Option<StateReader>,
}

struct Node {
    id: String,
    operator: Box<dyn Operator>,
    inputs: Vec<Source>,
    detail: String,
    /// Models whose own plan it is part of: their rows fail when its rows do.
    models: Vec<usize>,
    rows_in: u64,
    rows_out: u64,
    elapsed: Duration,
}

struct Model {
    name: Relation,
    schema: SchemaRef,
    output: Source,
}

impl Dataflow {
    /// Builds the graph on one thread. `models` come in dependency order; `inputs` are the relations that deltas will come
    /// for. Equal sub-plans are shared.
    pub fn build(models: &[ModelPlan], inputs: &[(Relation, SchemaRef)]) -> Result<Self, EngineError> {
        Self::build_on(&Workers::new(1), models, inputs)
    }

    /// The same on several: operators deal their keys to them.
    pub fn build_on(
        workers: &Workers,
        models: &[ModelPlan],
        inputs: &[(Relation, SchemaRef)],
    ) -> Result<Self, EngineError> {
        let inputs: HashMap<Relation, SchemaRef> = inputs.iter().cloned().collect();
        let grows = models.iter().flat_map(|model| model.reads_growing.iter().cloned()).collect();
        let mut builder = GraphBuilder::new(inputs.clone(), grows, workers.clone());
        let mut built = Vec::with_capacity(models.len());
        for model in models {
            for relation in &model.reads {
                let known = inputs.contains_key(relation) || built.iter().any(|m: &Model| m.name == *relation);
                if !known {
                    return Err(EngineError::Internal(format!(
                        "`{}` reads `{relation}` before it is there",
                        model.name
                    )));
                }
            }
            let output = builder.add(&model.plan)?;
            builder.add_relation(model.name.clone(), model.schema.clone());
            built.push(Model { name: model.name.clone(), schema: model.schema.clone(), output });
        }
        let mut nodes: Vec<Node> = builder
            .nodes
            .into_iter()
            .map(|node| Node {
                id: node.id,
                operator: node.operator,
                inputs: node.inputs,
                detail: node.detail,
                models: Vec::new(),
                rows_in: 0,
                rows_out: 0,
                elapsed: Duration::ZERO,
            })
            .collect();
        for (index, model) in built.iter().enumerate() {
            let mut pending = vec![model.output.clone()];
            while let Some(source) = pending.pop() {
                if let Source::Node(node) = source
                    && !nodes[node].models.contains(&index)
                {
                    nodes[node].models.push(index);
                    pending.extend(nodes[node].inputs.iter().cloned());
                }
            }
        }
        Ok(Self { nodes, models: built, inputs, fresh: true, stopwatch: None, disk: None })
    }

    /// From now on the time that each operator takes is told by `stopwatch`, read twice for each operator that has work.
    pub fn measure(&mut self, stopwatch: Stopwatch) {
        self.stopwatch = Some(stopwatch);
    }

    /// Takes the epoch's clock (microseconds UTC, never less than the last) and the deltas of inputs that have news.
    /// After an error the graph must be rebuilt and restored.
    pub fn step(&mut self, now: i64, inputs: &HashMap<Relation, Delta>) -> Result<StepOutput, EngineError> {
        let mut relations: HashMap<Relation, Delta> = HashMap::with_capacity(inputs.len());
        for (relation, delta) in inputs {
            if !delta.is_empty() && self.inputs.contains_key(relation) {
                relations.insert(relation.clone(), delta.clone());
            }
        }
        let mut deltas: Vec<Option<Delta>> = Vec::with_capacity(self.nodes.len());
        let mut failed: Vec<Vec<RowError>> = self.models.iter().map(|_| Vec::new()).collect();
        let mut output = StepOutput::default();
        let mut next_model = 0;
        for index in 0..self.nodes.len() {
            self.finish_models(index, &mut next_model, &deltas, &mut relations, &mut output)?;
            let node = &self.nodes[index];
            let due = node.operator.next_due().is_some_and(|due| due <= now);
            let starts = self.fresh && node.operator.emits_at_start();
            let news = node.inputs.iter().any(|source| delta_of(source, &deltas, &relations).is_some());
            if !(news || due || starts) {
                deltas.push(None);
                continue;
            }
            let empty: Vec<Delta> = node.inputs.iter().map(|source| Delta::empty(self.schema_of(source))).collect();
            let arguments: Vec<&Delta> = node
                .inputs
                .iter()
                .zip(&empty)
                .map(|(source, empty)| delta_of(source, &deltas, &relations).unwrap_or(empty))
                .collect();
            let mut errors = Vec::new();
            let started = self.stopwatch.as_ref().map(|read| read());
            let node = &mut self.nodes[index];
            let delta = node.operator.step(&arguments, &mut StepContext { now, errors: &mut errors })?;
            if let (Some(read), Some(started)) = (&self.stopwatch, started) {
                node.elapsed += read().saturating_sub(started);
            }
            node.rows_in += arguments.iter().map(|delta| delta.len() as u64).sum::<u64>();
            node.rows_out += delta.len() as u64;
            for model in &node.models {
                failed[*model].extend(errors.iter().cloned());
            }
            deltas.push((!delta.is_empty()).then_some(delta));
        }
        self.finish_models(self.nodes.len(), &mut next_model, &deltas, &mut relations, &mut output)?;
        for (model, failed) in self.models.iter().zip(failed) {
            let errors = error_rows(&model.name, &failed)?.consolidate()?;
            if !errors.is_empty() {
                output.errors.push((model.name.clone(), errors));
            }
        }
        self.fresh = false;
        Ok(output)
    }

    /// The earliest instant at which some output changes with no input.
    pub fn next_due(&self) -> Option<i64> {
        self.nodes.iter().filter_map(|node| node.operator.next_due()).min()
    }

    /// Emits everything that changed in state since the last call: state id, key, value (None: removed).
    pub fn state_changes(&mut self, emit: &mut dyn FnMut(&str, StateKey<'_>, Option<&[u8]>)) {
        for Node { id, operator, .. } in &mut self.nodes {
            if let Some(state) = operator.state() {
                state.changes(&mut |key, value| emit(id, key, value));
            }
        }
    }

    /// Ids of all state that the graph keeps, for dropping what a checkpoint has beyond them.
    pub fn state_ids(&mut self) -> Vec<String> {
        let stateful = self.nodes.iter_mut().filter_map(|node| node.operator.state().map(|_| node.id.clone()));
        stateful.collect()
    }

    /// Every operator, inputs before those that read them.
    pub fn describe(&mut self) -> Vec<OperatorDescription> {
        let ids: Vec<String> = self.nodes.iter().map(|node| node.id.clone()).collect();
        let models: Vec<Relation> = self.models.iter().map(|model| model.name.clone()).collect();
        let describe = |node: &mut Node| {
            let state = node.operator.state().map(|state| (state.rows(), state.bytes()));
            let (state_rows, state_bytes) = state.unwrap_or_default();
            OperatorDescription {
                id: node.id.clone(),
                operator: node.operator.name(),
                detail: node.detail.clone(),
                inputs: node
                    .inputs
                    .iter()
                    .map(|source| match source {
                        Source::Relation(relation) => relation.to_string(),
                        Source::Node(node) => ids[*node].clone(),
                    })
                    .collect(),
                models: node.models.iter().map(|index| models[*index].clone()).collect(),
                keeps_state: state.is_some(),
                state_rows,
                state_bytes,
                rows_in: node.rows_in,
                rows_out: node.rows_out,
                elapsed: node.elapsed,
            }
        };
        self.nodes.iter_mut().map(describe).collect()
    }

    /// Publishes the models whose last node comes before `index`.
    fn finish_models(
        &self,
        index: usize,
        next_model: &mut usize,
        deltas: &[Option<Delta>],
        relations: &mut HashMap<Relation, Delta>,
        output: &mut StepOutput,
    ) -> Result<(), EngineError> {
        while let Some(model) = self.models.get(*next_model) {
            if matches!(model.output, Source::Node(node) if node >= index) {
                break;
            }
            *next_model += 1;
            let Some(delta) = delta_of(&model.output, deltas, relations) else {
                continue;
            };
            let delta = Delta::new(conform(&delta.rows, &model.schema)?, delta.weights.clone()).consolidate()?;
            if !delta.is_empty() {
                relations.insert(model.name.clone(), delta.clone());
                output.models.push((model.name.clone(), delta));
            }
        }
        Ok(())
    }

    fn schema_of(&self, source: &Source) -> SchemaRef {
        match source {
            Source::Node(node) => self.nodes[*node].operator.schema(),
            Source::Relation(relation) => {
                let model = || self.models.iter().find(|m| m.name == *relation).map(|m| m.schema.clone());
                // `build` has checked that every relation is known.
                self.inputs.get(relation).cloned().or_else(model).unwrap_or_else(|| Arc::new(Schema::empty()))
            }
        }
    }
}

fn delta_of<'a>(
    source: &Source,
    deltas: &'a [Option<Delta>],
    relations: &'a HashMap<Relation, Delta>,
) -> Option<&'a Delta> {
    match source {
        Source::Node(node) => deltas.get(*node)?.as_ref(),
        Source::Relation(relation) => relations.get(relation),
    }
}

/// Rows that failed as rows of [`ERROR_SCHEMA`].
pub(crate) fn error_rows(model: &Relation, failed: &[RowError]) -> Result<Delta, EngineError> {
    let mut rows = Vec::with_capacity(failed.len());
    for failure in failed {
        rows.push(json_of(&failure.row)?);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(failed.iter().map(|_| model.as_ref()))),
        Arc::new(StringArray::from_iter_values(failed.iter().map(|f| f.expression.as_str()))),
        Arc::new(StringArray::from(rows)),
        Arc::new(StringArray::from_iter_values(failed.iter().map(|f| f.message.as_str()))),
    ];
    let weights: Int64Array = failed.iter().map(|f| Some(f.weight)).collect();
    Ok(Delta::new(RecordBatch::try_new(ERROR_SCHEMA.clone(), columns)?, weights))
}

/// One row as a JSON object, NULLs included.
fn json_of(row: &RecordBatch) -> Result<String, EngineError> {
    let mut bytes = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut bytes);
    writer.write(row)?;
    writer.finish()?;
    drop(writer);
    Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
}
