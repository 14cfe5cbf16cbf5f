//! From SQL text to a [`ModelPlan`]: parse, resolve, check, optimise, canonicalise.

use crate::delta::Relation;
use crate::errors::{PlanError, PlanErrorKind};
use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use datafusion::execution::FunctionRegistry;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SessionState;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::PhysicalExpr;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What is known of a relation beside its columns.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RelationTraits {
    /// Its deltas never take a row away.
    pub append_only: bool,
    /// Columns that identify a row; empty when none do.
    pub key: Vec<String>,
}

/// One model, ready to be kept up to date ([`crate::Dataflow`]) or run in batch ([`crate::batch`]).
#[derive(Debug, Clone)]
pub struct ModelPlan {
    /// The model's name.
    pub name: Relation,
    /// The canonical plan that both tempos run.
    pub plan: LogicalPlan,
    /// Columns of the model: unique names, types that the lake keeps exactly, all nullable.
    pub schema: SchemaRef,
    /// The relations it reads, sorted, each once.
    pub reads: Vec<Relation>,
    /// Its deltas never take a row away.
    pub append_only: bool,
    /// Of the canonical plan: equal for texts that mean the same, as far as the planner can tell. 32 hexadecimal digits.
    pub fingerprint: String,
    /// Whether rows come and go with the clock.
    pub uses_now: bool,
}

/// Plans statements over the relations it was told of. Touches nothing outside.
pub struct Planner {
    state: SessionState,
    relations: BTreeMap<Relation, (SchemaRef, RelationTraits)>,
}

impl Planner {
    /// A planner without relations. `register` adds the functions beyond DataFusion's own.
    pub fn new(
        register: &dyn Fn(&mut dyn FunctionRegistry) -> Result<(), DataFusionError>,
    ) -> Result<Self, DataFusionError> {
        let mut state = SessionStateBuilder::new().with_default_features().build();
        register(&mut state)?;
        Ok(Self { state, relations: BTreeMap::new() })
    }

    /// Makes a relation known, or replaces what is known of it.
    pub fn add_relation(&mut self, relation: Relation, schema: SchemaRef, traits: RelationTraits) {
        self.relations.insert(relation, (schema, traits));
    }

    /// Plans the model `name`. The error holds all mistakes that could be told.
    pub fn plan(&self, name: &str, sql: &str) -> Result<ModelPlan, PlanError> {
        let _ = (name, sql);
        Err(PlanError::new(PlanErrorKind::Unsupported, "models cannot be planned yet"))
    }

    /// Plans an expression over one row of `schema` (for `where` and `[enrich]`). Clock and chance are refused.
    pub fn expression(&self, schema: &SchemaRef, sql: &str) -> Result<Arc<dyn PhysicalExpr>, PlanError> {
        let _ = (schema, sql, &self.state);
        Err(PlanError::new(PlanErrorKind::Unsupported, "expressions cannot be planned yet"))
    }
}
