//! The state of sources, models and lookups: in memory within its budget, and in checkpoints.

use std::collections::{BTreeMap, HashSet};

use arrow::datatypes::SchemaRef;
use weir_incremental::Relation;
use weir_incremental::checkpoint::{CheckpointStore, StateChanges};
use weir_incremental::operators::State;

use super::{Core, PipelineError};
use crate::EpochNumber;
use crate::admission::Admission;
use crate::frames::{CheckpointRecord, FRAMES_VERSION, InputPosition};

/// State that changed since the last checkpoint, ready to be written on another thread.
#[derive(Debug)]
pub struct PendingCheckpoint {
    /// The epoch it belongs to.
    pub epoch: EpochNumber,
    record: CheckpointRecord,
    changes: StateChanges,
}

impl PendingCheckpoint {
    /// Writes and commits it; after an error it may be written again.
    pub fn write(&mut self, store: &CheckpointStore) -> Result<(), PipelineError> {
        let payload = serde_json::to_vec(&self.record).map_err(|e| PipelineError::State(e.to_string()))?;
        store.write(self.epoch, &mut self.changes, &payload)?;
        Ok(())
    }

    /// Where every input stood at its epoch.
    pub fn inputs(&self) -> &BTreeMap<String, InputPosition> {
        &self.record.commit.inputs
    }
}

/// How the models' state stands to its budget.
#[derive(Default)]
pub(super) struct Memory {
    pub(super) exceeded: bool,
    /// Bytes that a checkpoint could not make dispensable.
    needed: usize,
}

/// The last checkpoint's epoch, 0 when there is none, and what it says.
pub(super) fn latest(store: &CheckpointStore) -> Result<(EpochNumber, Option<CheckpointRecord>), PipelineError> {
    let Some((epoch, payload)) = store.latest()? else { return Ok((0, None)) };
    let record = serde_json::from_slice(&payload)
        .map_err(|e| PipelineError::State(format!("the checkpoint of epoch {epoch} cannot be read: {e}")))?;
    Ok((epoch, Some(record)))
}

impl Core {
    /// Says where checkpoints have the state of sources and lookups.
    pub(super) fn attach_own_state(&mut self) -> Result<(), PipelineError> {
        for admission in &mut self.admissions {
            for role in admission.roles() {
                let state = source_state(admission, role);
                admission.attach(role, &self.checkpoints.state(&state))?;
            }
        }
        for (name, index) in &self.indexes {
            let mut index = index.write();
            let state = index_state(name, index.schema());
            index.state().attach(&self.checkpoints.state(&state), false)?;
        }
        Ok(())
    }

    /// Has checkpoints forget the state of what is no longer in the folder.
    pub(super) fn forget_others(&mut self, store: &CheckpointStore) -> Result<(), PipelineError> {
        let mut known: HashSet<String> = self.dataflow.state_ids().into_iter().collect();
        for admission in &self.admissions {
            known.extend(admission.roles().into_iter().map(|role| source_state(admission, role)));
        }
        known.extend(self.indexes.iter().map(|(name, index)| index_state(name, index.read().schema())));
        Ok(store.retain(&|state| known.contains(state))?)
    }

    /// Calls `act` with the state of each source and lookup that can leave memory.
    fn each_own_state(&mut self, act: &mut dyn FnMut(&mut dyn State)) {
        self.admissions.iter_mut().filter_map(Admission::state).for_each(&mut *act);
        self.indexes.values().for_each(|index| act(index.write().state()));
    }

    /// Has state leave memory where there is too much of it; false when there still is.
    pub(super) fn keep_within_budget(&mut self) -> bool {
        let mut indexes: Vec<_> = self.indexes.values().map(|index| index.write()).collect();
        let mut own: Vec<&mut dyn State> = self.admissions.iter_mut().filter_map(Admission::state).collect();
        own.extend(indexes.iter_mut().map(|index| index.state()));
        self.dataflow.keep_within_beside(&mut own, self.spec.settings.state_bytes_max)
    }

    fn state_bytes(&mut self) -> usize {
        let mut bytes = self.dataflow.state_bytes();
        self.each_own_state(&mut |state| bytes += state.bytes());
        bytes
    }

    /// Whether so much state has changed since the last checkpoint that only another lets memory keep to its bound.
    pub fn needs_checkpoint(&mut self) -> bool {
        let quarter = self.spec.settings.state_bytes_max / 4;
        self.memory.exceeded && self.state_bytes() > self.memory.needed + quarter
    }

    /// Takes what changed since the last checkpoint; None when nothing did.
    pub fn take_checkpoint(&mut self) -> Option<PendingCheckpoint> {
        if !std::mem::take(&mut self.changed_since_checkpoint) {
            return None;
        }
        let mut changes = StateChanges::default();
        self.taken = self.epoch;
        if std::mem::take(&mut self.starts_over) {
            self.dataflow.state_ids().iter().for_each(|state| changes.start_over(state));
        }
        for admission in &mut self.admissions {
            for role in admission.roles() {
                let state = source_state(admission, role);
                admission.changes(role, &mut |key, value| changes.put(&state, key, value));
            }
        }
        for (name, index) in &self.indexes {
            let mut index = index.write();
            let state = index_state(name, index.schema());
            if index.starts_over() {
                changes.start_over(&state);
            }
            index.state().changes(&mut |key, value| changes.put_key(&state, key, value));
        }
        self.dataflow.state_changes(&mut |state, key, value| changes.put_key(state, key, value));
        let totals = self.contents.totals().into_iter().map(|(name, t)| (name, t.into())).collect();
        let record = CheckpointRecord {
            version: FRAMES_VERSION,
            commit: self.last.clone(),
            totals,
            measures: self.contents.save_measures(),
            fingerprint: self.spec.fingerprint.clone(),
        };
        Some(PendingCheckpoint { epoch: self.epoch, record, changes })
    }

    /// Frees what the checkpoint of `epoch` has made dispensable.
    pub fn release(&mut self, epoch: EpochNumber) -> Result<(), PipelineError> {
        if epoch >= self.taken {
            self.dataflow.durable();
            self.each_own_state(&mut |state| state.durable());
            self.memory.exceeded = !self.keep_within_budget();
            self.memory.needed = if self.memory.exceeded { self.state_bytes() } else { 0 };
        }
        self.write_ledger()?;
        self.ledger.lock().sync()?;
        self.ledger_backlog.clear();
        // The checkpoint's own epoch stays: what it was can be told, and a mirror finds a segment that it knows.
        self.journal.release(epoch)?;
        Ok(())
    }
}

/// Name of a source's state in checkpoints: with other columns, or another key, it is another state.
fn source_state(admission: &Admission, role: &str) -> String {
    let (source, schema) = (&admission.name, admission.schema());
    let keys: Vec<&str> = admission.keys().iter().map(|key| schema.field(*key).name().as_str()).collect();
    format!("source:{source}:{role}:{:016x}:{}", schema_hash(schema), keys.join(","))
}

fn index_state(model: &Relation, schema: &SchemaRef) -> String {
    format!("index:{model}:{:016x}", schema_hash(schema))
}

fn schema_hash(schema: &SchemaRef) -> u64 {
    let mut text = String::new();
    for field in schema.fields() {
        text.push_str(field.name());
        text.push('\0');
        text.push_str(&field.data_type().to_string());
        text.push('\0');
    }
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}
