//! Incremental SQL: deltas, arrangements, operators, the plan rewrite and the dataflow graph.
//!
//! The law of the crate: for every model `Q` and every sequence of input deltas `d1..dn`, the sum of the
//! deltas that a [`Dataflow`] emits for `Q` equals `Q` run in batch ([`batch`]) over `d1 + .. + dn`, at the
//! clock of the last epoch, row for row and weight for weight, whatever the cuts. This crate does not know
//! sources, sinks or the network.

mod arrangement;
pub mod batch;
pub mod canonical;
pub mod checkpoint;
mod constant;
pub mod dataflow;
pub mod delta;
pub mod errors;
pub mod exact;
pub mod growth;
pub mod lineage;
pub mod operators;
mod physical;
pub mod planner;
pub mod query;
mod rewrite;
mod statement;
mod subqueries;
pub mod types;
mod whole;

pub use arrangement::{KeyValues, canonical_batch, canonical_floats};
pub use batch::{BatchLimits, BatchOutput};
pub use dataflow::{Dataflow, StepOutput};
pub use delta::{Delta, Relation};
pub use errors::{PlanError, PlanErrorKind};
pub use growth::{Growth, UnboundedState};
pub use operators::{EngineError, Operator, RowError, State, StateKey, StepContext};
pub use planner::{ModelPlan, PlanForm, Planner, RelationTraits};
pub use query::QuerySession;
