//! Recovery: the committed epochs behind the checkpoint run again, and must give what the ledger recorded.

use std::collections::HashMap;

use serde_json::Value;
use weir_incremental::Relation;
use weir_journal::EpochReader;

use super::batches::weighted;
use super::{Core, PipelineError};
use crate::EpochNumber;
use crate::change::Change;
use crate::frames::{self, CommitRecord, FRAME_ADMITTED, FRAME_RECOMPUTED, FRAME_SYSTEM, FRAMES_VERSION};

impl Core {
    /// Reads the epochs that the journal still has.
    pub fn journal(&self) -> EpochReader {
        self.journal.reader()
    }

    /// Runs the committed epochs behind the checkpoint again.
    pub(super) fn replay(&mut self) -> Result<(), PipelineError> {
        let Some(last) = self.journal.last() else { return Ok(()) };
        while self.epoch < last.epoch {
            let epoch = self.epoch + 1;
            let committed = self.journal.read(epoch)?;
            let record = commit_record(epoch, &committed.payload)?;
            if record.version > FRAMES_VERSION {
                return Err(PipelineError::State(format!(
                    "epoch {epoch} has format {}, this program reads up to {FRAMES_VERSION}: use the newer program",
                    record.version
                )));
            }
            let mut inputs = HashMap::new();
            let mut changes = Vec::new();
            for frame in &committed.frames {
                match frame.kind {
                    FRAME_ADMITTED => {
                        let Some(admission) =
                            self.admissions.iter_mut().find(|a| a.name.as_ref() == frame.name.as_str())
                        else {
                            continue;
                        };
                        let schema = self.spec.sources.iter().find(|s| s.name == admission.name).map(|s| &s.schema);
                        let Some(schema) = schema else { continue };
                        let (rows, positions) = frames::decode_admitted(&frame.payload, schema)?;
                        inputs.insert(admission.name.clone(), admission.apply(&rows, &positions)?);
                    }
                    FRAME_RECOMPUTED => {
                        for batch in frames::decode(&frame.payload)? {
                            inputs.insert(Relation::from(frame.name.as_str()), weighted(&batch)?);
                        }
                    }
                    FRAME_SYSTEM => {
                        for batch in frames::decode(&frame.payload)? {
                            let delta = weighted(&batch)?;
                            changes.push(Change::new(Relation::from(frame.name.as_str()), delta)?);
                        }
                    }
                    kind => {
                        return Err(PipelineError::State(format!("epoch {epoch} has a frame of unknown kind {kind}")));
                    }
                }
            }
            changes.extend(self.step(record.clock, &inputs)?);
            self.check_against_ledger(epoch, &record, &changes)?;
            // Rows that were late or repeats are in no frame, and may have moved them.
            for admission in &mut self.admissions {
                if let Some(watermarks) = record.watermarks.get(admission.name.as_ref()) {
                    admission.watermarks = watermarks.clone();
                }
            }
            self.finish(epoch, record, changes)?;
        }
        Ok(())
    }

    /// Gives the ledger what its file does not have of the epochs up to the checkpoint: a crash can come between the two, and
    /// the journal keeps commit records until the ledger has them.
    pub(super) fn complete_ledger(&mut self) -> Result<(), PipelineError> {
        let last = self.ledger.lock().last_epoch().unwrap_or(0);
        for epoch in last + 1..=self.epoch {
            let committed = self.journal.read(epoch).map_err(|error| {
                PipelineError::State(format!("the ledger ends with epoch {last}, and cannot be continued: {error}"))
            })?;
            let record = commit_record(epoch, &committed.payload)?;
            self.ledger_backlog.push_back((epoch, record.ledger.to_string()));
        }
        // At once: no epoch may follow for a long time, and whoever asks for the head should get it.
        if let Err(error) = self.write_ledger() {
            tracing::warn!(%error, "the ledger's file is behind");
        }
        Ok(())
    }

    fn check_against_ledger(
        &self,
        epoch: EpochNumber,
        record: &CommitRecord,
        changes: &[Change],
    ) -> Result<(), PipelineError> {
        for (name, entry) in record.ledger["relations"].as_object().into_iter().flatten() {
            let wanted = entry["change"].as_str().unwrap_or_default();
            let found = changes
                .iter()
                .filter(|c| c.relation.as_ref() == name.as_str())
                .fold(0u128, |sum, c| sum.wrapping_add(c.checksum));
            if format!("{found:032x}") != wanted {
                return Err(PipelineError::Mismatch { epoch, relation: name.clone() });
            }
        }
        // Sums that the epoch did not have, or that are not kept any more, say nothing against it.
        for (name, count) in Self::count_changes(changes) {
            let told = &record.ledger["relations"][name.as_ref()]["measures"];
            for (measure, entry) in self.measures_entry(&name, &count) {
                if told.get(&measure).is_some_and(|told| !same_sums(told, &entry)) {
                    return Err(PipelineError::Mismatch { epoch, relation: format!("{name}: {measure}") });
                }
            }
        }
        Ok(())
    }
}

/// Whether two entries of a measure tell the same: totals count where both know them.
fn same_sums(told: &Value, found: &Value) -> bool {
    let groups = |entry: &Value| entry.as_array().map(Vec::len);
    let pairs = told.as_array().into_iter().flatten().zip(found.as_array().into_iter().flatten());
    let same = |(told, found): (&Value, &Value)| {
        let both = |part: &str| told.get(part).zip(found.get(part)).is_none_or(|(told, found)| told == found);
        ["group", "in", "out", "total"].into_iter().all(both)
    };
    groups(told) == groups(found) && pairs.into_iter().all(same)
}

/// Reads the payload of a commit record.
pub fn commit_record(epoch: EpochNumber, payload: &[u8]) -> Result<CommitRecord, PipelineError> {
    serde_json::from_slice(payload)
        .map_err(|e| PipelineError::State(format!("the commit record of epoch {epoch} cannot be read: {e}")))
}
