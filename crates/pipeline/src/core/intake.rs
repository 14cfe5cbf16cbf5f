//! Takes records into an epoch: admission chunk by chunk, and what was set aside with its reasons.

use std::collections::BTreeMap;

use arrow::array::RecordBatch;
use bytes::Bytes;
use serde_json::{Value, json};
use weir_incremental::{Delta, Relation};

use super::{Core, EpochInput, PipelineError};
use crate::EpochNumber;
use crate::admission::{Counts, RowsAside};
use crate::conservation::{self, SourceFlow};
use crate::frames::CommitRecord;
use crate::keyed::Positions;
use crate::measure::MeasureSpec;
use crate::prepare::{PreparedChunk, SetAside};

/// What one source got in an epoch.
#[derive(Default)]
pub(super) struct SourceEpoch {
    pub counts: Counts,
    pub rows: Vec<RecordBatch>,
    pub positions: Positions,
    pub deltas: Vec<Delta>,
    /// All rows that could be decoded, for a source with measures.
    pub read: Vec<RecordBatch>,
    pub aside: RowsAside,
}

impl SourceEpoch {
    /// What its rows came to in each measure. What a stream admits is what comes to its relation, and is not summed here.
    pub fn flows(
        read: &[RecordBatch],
        admitted: Option<&[RecordBatch]>,
        aside: &RowsAside,
        measures: &[MeasureSpec],
    ) -> Result<Vec<SourceFlow>, PipelineError> {
        let flow = |measure: &MeasureSpec| {
            Ok(SourceFlow {
                read: measure.of_batches(read)?,
                admitted: measure.of_batches(admitted.unwrap_or_default())?,
                late: measure.of_batches(&aside.late)?,
                duplicate: measure.of_batches(&aside.duplicate)?,
                superseded: measure.of_batches(&aside.superseded)?,
                quarantined: measure.of_batches(&aside.quarantined)?,
            })
        };
        measures.iter().map(flow).collect()
    }
}

/// What an epoch takes in.
#[derive(Default)]
pub(super) struct Intake {
    /// By index of the source.
    pub sources: BTreeMap<usize, SourceEpoch>,
    /// Source, partition, arrival, record.
    pub quarantined: Vec<(Relation, u32, i64, SetAside)>,
    /// Source, partition, arrival, event time, record.
    pub late: Vec<(Relation, u32, i64, i64, SetAside)>,
    /// What leaves the quarantine or the late relation.
    pub removed: Vec<(Relation, Delta)>,
    /// The ledger's words for each input.
    pub inputs: serde_json::Map<String, Value>,
}

impl Intake {
    /// How often each reason came up for a source.
    pub fn reasons(&self, source: &Relation) -> BTreeMap<&str, u64> {
        let mut reasons = BTreeMap::new();
        for (_, _, _, aside) in self.quarantined.iter().filter(|(of, ..)| of == source) {
            *reasons.entry(aside.reason.as_str()).or_default() += 1;
        }
        reasons
    }

    /// What was set aside is what was counted.
    pub fn check(&self) -> Result<(), String> {
        let counted = |pick: fn(&Counts) -> u64| self.sources.values().map(|source| pick(&source.counts)).sum();
        conservation::check_aside("quarantined", self.quarantined.len(), counted(|counts| counts.quarantined))?;
        conservation::check_aside("late", self.late.len(), counted(|counts| counts.late))
    }
}

impl Core {
    /// Admits all records of an epoch; moves the inputs' positions in `record`.
    pub(super) fn take_in(
        &mut self,
        epoch: EpochNumber,
        input: &mut EpochInput,
        record: &mut CommitRecord,
    ) -> Result<Intake, PipelineError> {
        let mut intake = Intake::default();
        let by_input = self.spec.inputs();
        for part in std::mem::take(&mut input.parts) {
            let indices = by_input.get(&part.input).cloned().unwrap_or_default();
            let position = record.inputs.entry(part.input.clone()).or_default();
            let (mut records, mut unrouted, mut bytes) = (0u64, 0u64, 0u64);
            for chunk in &part.chunks {
                records += chunk.len() as u64 + chunk.chunk.incidents.len() as u64;
                unrouted += chunk.unrouted.len() as u64;
                bytes += chunk.chunk.bytes;
                let claimed = self.admit_chunk(chunk, &indices, true, &mut intake)?;
                conservation::check_chunk(chunk, claimed).map_err(|detail| PipelineError::Conservation {
                    epoch,
                    detail: format!("input `{}`: {detail}", part.input),
                })?;
            }
            position.cursor = part.cursor;
            position.skip = part.skip;
            position.records += records;
            position.unrouted += unrouted;
            position.bytes += bytes;
            intake.inputs.insert(part.input, json!({"records": records, "unrouted": unrouted, "bytes": bytes}));
        }
        if let Some(replay) = input.replay.take() {
            let mut records = 0;
            for chunk in &replay.chunks {
                let claimed = self.admit_chunk(chunk, &[replay.source], replay.check_lateness, &mut intake)?;
                conservation::check_chunk(chunk, claimed)
                    .map_err(|detail| PipelineError::Conservation { epoch, detail: format!("replay: {detail}") })?;
                records += claimed;
            }
            intake.inputs.insert("(replay)".into(), json!({"records": records}));
            intake.removed = replay.removed;
        }
        intake.check().map_err(|detail| PipelineError::Conservation { epoch, detail })?;
        Ok(intake)
    }

    /// Admits one chunk for the sources at `indices`; returns how many records and unreadable parts they claim.
    fn admit_chunk(
        &mut self,
        chunk: &PreparedChunk,
        indices: &[usize],
        check_lateness: bool,
        intake: &mut Intake,
    ) -> Result<u64, PipelineError> {
        let partition = chunk.chunk.partition;
        let mut claimed = 0;
        for (place, index) in indices.iter().enumerate() {
            let Some(prepared) = chunk.sources.get(place) else { continue };
            let admitted = self.admissions[*index].admit(chunk, prepared, check_lateness)?;
            let spec = &self.spec.sources[*index];
            let name = &spec.name;
            let entry = intake.sources.entry(*index).or_default();
            claimed += admitted.counts.records;
            entry.counts.add(&admitted.counts);
            if place == 0 {
                // What is no record at all is the first source's.
                let incidents = chunk.chunk.incidents.len() as u64;
                entry.counts.records += incidents;
                entry.counts.quarantined += incidents;
                claimed += incidents;
                let arrival = chunk.chunk.arrivals.last().copied().unwrap_or_else(|| self.environment.clock.now());
                intake.quarantined.extend(chunk.chunk.incidents.iter().map(|i| {
                    let aside = SetAside {
                        record: 0,
                        offset: i.offset,
                        reason: i.reason.to_owned(),
                        message: i.message.clone(),
                        raw: i.raw.clone().into(),
                        preamble: Bytes::new(),
                    };
                    (name.clone(), partition, arrival, aside)
                }));
            }
            let arrival = |aside: &SetAside| chunk.chunk.arrivals[aside.record as usize];
            let rejects = prepared.rejects.iter().chain(&admitted.rejects);
            intake.quarantined.extend(rejects.map(|r| (name.clone(), partition, arrival(r), r.clone())));
            intake.late.extend(
                admitted.late.into_iter().map(|l| (name.clone(), partition, arrival(&l.aside), l.time, l.aside)),
            );
            if !spec.measures.is_empty() {
                entry.read.push(prepared.rows.clone());
                entry.read.extend(prepared.rejected.iter().map(|(rows, _)| rows.clone()));
                entry.aside.extend(admitted.aside);
            }
            if admitted.rows.num_rows() > 0 {
                entry.rows.push(admitted.rows);
                entry.positions.extend(&admitted.positions);
            }
            if !admitted.delta.is_empty() {
                entry.deltas.push(admitted.delta);
            }
        }
        Ok(claimed)
    }
}
