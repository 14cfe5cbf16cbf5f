//! Why a row is there: joins the pipeline's answer with what a process has open.

use std::collections::BTreeMap;

use weir_environment::Workers;
use weir_incremental::Relation;
use weir_incremental::batch::BatchLimits;
use weir_incremental::lineage::{LineageError, LineageLimits};
use weir_journal::EpochReader;
use weir_pipeline::input::InputRef;
use weir_pipeline::why::{Answer, Ground, Question, WhyError};
use weir_server::{Failure, FailureKind};

use super::{Service, internal};
use crate::host::Host;
use crate::wiring::Inputs;

/// Where rows came from, as far as this process can read it.
pub struct Origins {
    sql: BTreeMap<Relation, String>,
    inputs: BTreeMap<String, InputRef>,
    journal: EpochReader,
}

impl Origins {
    /// Of an open pipeline.
    pub fn of(host: &Host, inputs: &Inputs) -> Self {
        Self {
            sql: host.project.models.iter().map(|model| (model.name.clone(), model.sql.clone())).collect(),
            inputs: inputs.inputs.iter().map(|(name, (input, _))| (name.clone(), input.clone())).collect(),
            journal: host.core.journal(),
        }
    }
}

impl Service {
    /// Why a row is there, or is not, at the present epoch; joins, sorts and aggregates take `memory_max` bytes at most.
    pub async fn answer_why(&self, question: &Question, memory_max: usize) -> Result<Answer, Failure> {
        let Some(origins) = &self.origins else {
            return Err(Failure::new(FailureKind::Unavailable, "the inputs are not open here"));
        };
        let snapshot = self.contents.pin();
        let threads = Workers::of_the_machine().threads();
        let ground = Ground {
            spec: &self.spec,
            sql: &origins.sql,
            snapshot: &snapshot,
            journal: Some(&origins.journal),
            ledger: &self.ledger_entries()?,
            inputs: &origins.inputs,
            limits: LineageLimits {
                batch: BatchLimits { threads, memory_max: Some(memory_max) },
                ..LineageLimits::default()
            },
        };
        ground.answer(question).await.map_err(|error| match error {
            WhyError::Question { message, hint } => Failure { hint, ..Failure::new(FailureKind::Request, message) },
            WhyError::Lineage(error @ LineageError::TooMany { .. }) => Failure {
                hint: Some("ask about a row that fewer rows take part in".into()),
                ..Failure::new(FailureKind::Limit, error.to_string())
            },
            other => internal(other),
        })
    }
}

#[cfg(test)]
mod tests;
