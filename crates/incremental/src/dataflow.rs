//! One graph of operators for all models: deltas of sources in, deltas of models out.

use crate::delta::{Delta, Relation};
use crate::operators::EngineError;
use crate::planner::ModelPlan;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::collections::HashMap;
use std::sync::{Arc, LazyLock};

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
    /// Rows remembered.
    pub state_rows: usize,
    /// Bytes of memory held by what is remembered.
    pub state_bytes: usize,
    /// Rows emitted since the graph was built.
    pub rows_out: u64,
}

/// The graph.
pub struct Dataflow {}

impl Dataflow {
    /// Builds the graph. `models` come in dependency order; `inputs` are the relations that deltas will come for.
    /// Equal sub-plans are shared.
    pub fn build(models: &[ModelPlan], inputs: &[(Relation, SchemaRef)]) -> Result<Self, EngineError> {
        let _ = (models, inputs);
        Err(EngineError::Internal("not built yet".into()))
    }

    /// Takes the epoch's clock (microseconds UTC, never less than the last) and the deltas of inputs that have news.
    /// After an error the graph must be rebuilt and restored.
    pub fn step(&mut self, now: i64, inputs: &HashMap<Relation, Delta>) -> Result<StepOutput, EngineError> {
        let _ = (now, inputs);
        Err(EngineError::Internal("not built yet".into()))
    }

    /// The earliest instant at which some output changes with no input.
    pub fn next_due(&self) -> Option<i64> {
        None
    }

    /// Emits everything that changed in state since the last call: state id, key, value (None: removed).
    pub fn state_changes(&mut self, emit: &mut dyn FnMut(&str, &[u8], Option<&[u8]>)) {
        let _ = emit;
    }

    /// Takes state back, before the first step. For each state id of the graph, `source` is called with the id and a
    /// function that takes each key and value; ids that a checkpoint does not know yield nothing.
    pub fn restore(
        &mut self,
        source: &mut dyn FnMut(
            &str,
            &mut dyn FnMut(&[u8], &[u8]) -> Result<(), EngineError>,
        ) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let _ = source;
        Ok(())
    }

    /// Ids of all state that the graph keeps, for dropping what a checkpoint has beyond them.
    pub fn state_ids(&self) -> Vec<String> {
        Vec::new()
    }

    /// Every operator, inputs before those that read them.
    pub fn describe(&mut self) -> Vec<OperatorDescription> {
        Vec::new()
    }
}
