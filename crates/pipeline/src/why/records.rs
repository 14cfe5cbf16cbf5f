//! From rows of a source to the records they were.
//!
//! A row of the history has no position. It is found again, from what is most certain to what is least:
//! 1. History has the epoch that admitted it (of a keyed source that no sink follows: the one it was landed with).
//! 2. The journal's frames of that epoch have each row's partition, offset and arrival, as long as they are kept.
//! 3. The input, read again and decoded, gives records that become the same row, as long as it has them. Of several the
//!    one is named that admission keeps: the first of a stream, the last of a keyed source.
//!
//! What is gone is said to be gone, with the range of offsets that the ledger's counts leave.

use std::collections::{BTreeMap, BTreeSet};

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{Int64Type, SchemaRef};
use datafusion::logical_expr::lit;
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use weir_incremental::lineage::{RowIndex, narrowing};
use weir_incremental::{Delta, Relation};
use weir_schemas::Attribute;

use super::answer::{RecordTold, SourceTold, instant};
use super::{Ground, WhyError, column};
use crate::EpochNumber;
use crate::contents::{EPOCH, WEIGHT};
use crate::frames::{FRAME_ADMITTED, decode_admitted};
use crate::input::{Chunk, Cursor, InputRef};
use crate::prepare::prepare_chunk;
use crate::spec::SourceSpec;

/// Bytes of an input that one question reads again at most.
pub(super) const SEARCH_BYTES_MAX: u64 = 4 << 30;
/// Bytes asked of an input at once.
pub(super) const POLL_BYTES: usize = 8 << 20;
/// Epochs of the journal that are looked through for a row whose epoch is not sure.
const EPOCHS_MAX: u64 = 256;

/// Where a record is.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub partition: u32,
    pub offset: u64,
    pub arrival: i64,
    pub epoch: Option<EpochNumber>,
    pub raw: Option<Vec<u8>>,
    pub file: Option<String>,
}

impl Found {
    /// The record at `index` of a chunk.
    pub fn of_chunk(chunk: &Chunk, index: usize) -> Self {
        let files = chunk.attributes.columns.iter().find(|(attribute, _)| *attribute == Attribute::File);
        let file = files.and_then(|(_, names)| {
            let names = names.as_string_opt::<i32>()?;
            names.is_valid(index).then(|| names.value(index).to_owned())
        });
        Self {
            partition: chunk.partition,
            offset: chunk.offsets[index],
            arrival: chunk.arrivals[index],
            epoch: None,
            raw: Some(chunk.records.get(index).to_vec()),
            file,
        }
    }
}

/// How an input ended that was read again.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// The first offset that it still has.
    pub first: Option<u64>,
    /// Why it was not read to its end.
    pub broken_off: Option<String>,
}

/// Polls an input from a cursor until `each` says that it has enough, nothing more comes or the bound is met.
pub(super) async fn read_again(
    input: &InputRef,
    from: Cursor,
    each: &mut (dyn FnMut(&Chunk) -> Result<bool, WhyError> + Send),
) -> Result<Read, WhyError> {
    let mut read = Read::default();
    let (mut cursor, mut bytes) = (from, 0u64);
    loop {
        let polled = match input.poll(&cursor, POLL_BYTES).await {
            Ok(polled) => polled,
            Err(error) => {
                read.broken_off = Some(error.to_string());
                return Ok(read);
            }
        };
        for chunk in &polled.chunks {
            read.first = read.first.or(chunk.offsets.first().copied());
            bytes += chunk.records.buffer.len() as u64;
            if !each(chunk)? {
                return Ok(read);
            }
        }
        if polled.cursor == cursor || (polled.chunks.is_empty() && !polled.more) {
            return Ok(read);
        }
        if bytes > SEARCH_BYTES_MAX {
            read.broken_off = Some(format!("more than {} GiB would have to be read again", SEARCH_BYTES_MAX >> 30));
            return Ok(read);
        }
        cursor = polled.cursor;
    }
}

impl Ground<'_> {
    /// The records of rows of a source.
    pub(super) async fn linked(
        &self,
        relation: &Relation,
        rows: &Delta,
        limit: usize,
        whole: Option<String>,
    ) -> Result<SourceTold, WhyError> {
        let count = rows.weights.values().iter().sum::<i64>().unsigned_abs();
        let mut told = SourceTold { source: relation.to_string(), rows: count, whole, ..SourceTold::default() };
        let Some(source) = self.spec.sources.iter().find(|source| source.name == *relation) else {
            told.notes.push("a relation of Weir's own: its rows are no records".into());
            told.records = weir_schemas::to_json_rows(&rows.rows.slice(0, rows.len().min(limit)))
                .into_iter()
                .map(|row| RecordTold { row, times: 1, ..RecordTold::default() })
                .collect();
            return Ok(told);
        };
        told.input = source.input.clone();
        let shown = rows.rows.slice(0, rows.len().min(limit));
        let shown = RecordBatch::try_new(source.schema.clone(), shown.columns().to_vec())?;
        // The limit is of records: a row that is there often is shown as often as there is room.
        let times = &rows.weights.values()[..shown.num_rows()];
        let mut room = i64::try_from(limit).unwrap_or(i64::MAX);
        let room_for = |weight: &i64| {
            let some = (*weight).min(room);
            room -= some;
            some
        };
        let wanted: Vec<i64> = times.iter().map(room_for).collect();
        let index = RowIndex::new(&shown)?;
        let epochs = self.epochs_of(source, &shown, &index).await?;
        let mut found = self.in_journal(source, &epochs, &index, &wanted)?;
        if let Some(input) = self.inputs.get(&source.input) {
            self.raw_of(input, &mut found, &mut told.notes).await?;
            self.search(source, input, &epochs, &index, &wanted, &mut found, &mut told.notes).await?;
        } else {
            told.notes.push(format!("the input `{}` is not open here, so that nothing was read again", source.input));
        }
        let rendered = weir_schemas::to_json_rows(&shown);
        for (row, rendered) in rendered.into_iter().enumerate().filter(|(row, _)| wanted[*row] > 0) {
            let epoch = epochs.get(&row).and_then(|epochs| epochs.first().copied());
            if found[row].is_empty() {
                let mut record =
                    RecordTold { row: rendered, times: times[row].unsigned_abs(), epoch, ..RecordTold::default() };
                record.taken_in = epoch.and_then(|epoch| self.clock_of(epoch));
                record.note = Some(self.gone(source, epoch));
                told.records.push(record);
                continue;
            }
            for found in &found[row] {
                told.records.push(self.record(source, rendered.clone(), times[row].unsigned_abs(), found, epoch).await);
            }
        }
        Ok(told)
    }

    /// A record that was found.
    pub(super) async fn record(
        &self,
        source: &SourceSpec,
        row: serde_json::Value,
        times: u64,
        found: &Found,
        epoch: Option<EpochNumber>,
    ) -> RecordTold {
        let epoch = found.epoch.or(epoch);
        let place = match self.inputs.get(&source.input) {
            Some(input) => input.place(found.offset).await,
            None => None,
        };
        let told = RecordTold {
            row,
            times,
            offset: Some(found.offset),
            partition: Some(found.partition),
            byte: place.as_ref().map(|place| place.byte),
            file: place.map(|place| place.file).or_else(|| found.file.clone()),
            arrival: Some(instant(found.arrival)),
            epoch,
            taken_in: epoch.and_then(|epoch| self.clock_of(epoch)),
            ..RecordTold::default()
        };
        match &found.raw {
            Some(raw) => told.with_raw(raw),
            None => RecordTold { note: Some("its bytes are gone: the log was freed up to there".into()), ..told },
        }
    }

    /// By row the epochs in which history has it, the earliest first (of a keyed source the last first: an earlier row with
    /// the same values may have been replaced in between).
    async fn epochs_of(
        &self,
        source: &SourceSpec,
        rows: &RecordBatch,
        index: &RowIndex,
    ) -> Result<BTreeMap<usize, Vec<EpochNumber>>, WhyError> {
        let mut epochs: BTreeMap<usize, BTreeSet<EpochNumber>> = BTreeMap::new();
        let width = source.schema.fields().len();
        for part in self.snapshot.changes(&source.name).await? {
            let mut frame = SessionContext::new().read_table(part)?.filter(column(WEIGHT).gt(lit(0i64)))?;
            if let Some(condition) = narrowing(rows) {
                frame = frame.filter(condition)?;
            }
            let mut stream = frame.execute_stream().await?;
            while let Some(batch) = stream.try_next().await? {
                let batch = conformed(&batch, &source.schema)?;
                let of = batch.column(batch.num_columns() - 1).as_primitive::<Int64Type>();
                for (row, at) in index.find(&batch.columns()[..width], batch.num_rows())?.into_iter().enumerate() {
                    if let Some(at) = at {
                        epochs.entry(at).or_default().insert(of.value(row).unsigned_abs());
                    }
                }
            }
        }
        let keyed = !source.keys.is_empty();
        let ordered = |epochs: BTreeSet<EpochNumber>| -> Vec<EpochNumber> {
            if keyed { epochs.into_iter().rev().collect() } else { epochs.into_iter().collect() }
        };
        Ok(epochs.into_iter().map(|(row, epochs)| (row, ordered(epochs))).collect())
    }

    /// Positions of the rows whose epochs the journal still has.
    fn in_journal(
        &self,
        source: &SourceSpec,
        epochs: &BTreeMap<usize, Vec<EpochNumber>>,
        index: &RowIndex,
        times: &[i64],
    ) -> Result<Vec<Vec<Found>>, WhyError> {
        let mut found: Vec<Vec<Found>> = vec![Vec::new(); times.len()];
        let Some(journal) = self.journal else { return Ok(found) };
        let (Some(first), keyed) = (journal.first_epoch(), !source.keys.is_empty()) else { return Ok(found) };
        let mut wanted: BTreeMap<EpochNumber, Vec<usize>> = BTreeMap::new();
        for (row, epochs) in epochs {
            for epoch in epochs.iter().take(if keyed { 1 } else { epochs.len() }) {
                // A keyed source's changes may have been landed together, under the last of their epochs.
                let since = if keyed { epoch.saturating_sub(EPOCHS_MAX) } else { *epoch };
                for epoch in since.max(first)..=*epoch {
                    wanted.entry(epoch).or_default().push(*row);
                }
            }
        }
        for (epoch, rows) in wanted.into_iter().rev() {
            if keyed && rows.iter().all(|row| !found[*row].is_empty()) {
                continue;
            }
            // What is released meanwhile is looked for in the input.
            let Ok(committed) = journal.read(epoch) else { continue };
            for frame in committed.frames.iter().filter(|f| f.kind == FRAME_ADMITTED && f.name == *source.name) {
                let (batch, positions) = decode_admitted(&frame.payload, &source.schema)?;
                let places = index.find(batch.columns(), batch.num_rows())?;
                for (at, row) in places.into_iter().enumerate().filter_map(|(at, row)| Some((at, row?))) {
                    if !rows.contains(&row) || (!keyed && found[row].len() as i64 >= times[row]) {
                        continue;
                    }
                    let place = Found {
                        partition: positions.partitions[at],
                        offset: positions.offsets[at],
                        arrival: positions.arrivals[at],
                        epoch: Some(epoch),
                        raw: None,
                        file: None,
                    };
                    let rank = |f: &Found| (f.arrival, f.partition, f.offset);
                    match found[row].first_mut() {
                        Some(before) if keyed => {
                            if rank(&place) > rank(before) {
                                *before = place;
                            }
                        }
                        _ => found[row].push(place),
                    }
                }
            }
        }
        Ok(found)
    }

    /// The bytes of records whose positions are known.
    async fn raw_of(
        &self,
        input: &InputRef,
        found: &mut [Vec<Found>],
        notes: &mut Vec<String>,
    ) -> Result<(), WhyError> {
        let offsets: BTreeSet<u64> = found.iter().flatten().map(|found| found.offset).collect();
        let mut raw: BTreeMap<(u32, u64), Found> = BTreeMap::new();
        for offset in &offsets {
            if raw.keys().any(|(_, have)| have == offset) {
                continue;
            }
            let mut note = |chunk: &Chunk| {
                for (index, at) in chunk.offsets.iter().enumerate().filter(|(_, at)| offsets.contains(at)) {
                    raw.insert((chunk.partition, *at), Found::of_chunk(chunk, index));
                }
                Ok(chunk.offsets.last().is_none_or(|last| last < offset))
            };
            let read = read_again(input, input.cursor_at(*offset).await, &mut note).await?;
            if let Some(why) = read.broken_off {
                notes.push(format!("bytes could not be read again: {why}"));
                break;
            }
        }
        for found in found.iter_mut().flatten() {
            if let Some(read) = raw.get(&(found.partition, found.offset)) {
                found.raw.clone_from(&read.raw);
                found.file.clone_from(&read.file);
            }
        }
        Ok(())
    }

    /// Looks in the input for records that become the rows whose positions nobody knows.
    #[allow(clippy::too_many_arguments)]
    async fn search(
        &self,
        source: &SourceSpec,
        input: &InputRef,
        epochs: &BTreeMap<usize, Vec<EpochNumber>>,
        index: &RowIndex,
        times: &[i64],
        found: &mut [Vec<Found>],
        notes: &mut Vec<String>,
    ) -> Result<(), WhyError> {
        let keyed = !source.keys.is_empty();
        let missing: BTreeSet<usize> =
            (0..times.len()).filter(|row| found[*row].is_empty() && times[*row] > 0).collect();
        if missing.is_empty() {
            return Ok(());
        }
        // Where offsets number records, the ledger's counts say which of them an epoch took.
        let range = missing.iter().try_fold((u64::MAX, 0), |(from, to), row| {
            let epochs = epochs.get(row).filter(|_| !keyed && input.numbers_records())?;
            let first = self.offsets_of(&source.input, *epochs.first()?)?;
            let last = self.offsets_of(&source.input, *epochs.last()?)?;
            Some((from.min(first.0), to.max(last.1)))
        });
        let (from, end) = match range {
            Some((from, to)) => (input.cursor_at(from).await, to),
            None => (Cursor::default(), u64::MAX),
        };
        let mut look = |chunk: &Chunk| {
            let prepared = prepare_chunk(std::slice::from_ref(&source.reader), chunk.clone());
            let prepared = &prepared.sources[0];
            for (at, row) in index.find(prepared.rows.columns(), prepared.rows.num_rows())?.into_iter().enumerate() {
                let Some(row) = row.filter(|row| missing.contains(row)) else { continue };
                let record = Found::of_chunk(chunk, prepared.records[at] as usize);
                if record.offset >= end {
                    continue;
                }
                if keyed {
                    found[row] = vec![record];
                } else if (found[row].len() as i64) < times[row] {
                    found[row].push(record);
                }
            }
            let enough = !keyed && missing.iter().all(|row| found[*row].len() as i64 >= times[*row]);
            Ok(!enough && chunk.offsets.last().is_none_or(|last| *last < end))
        };
        if let Some(why) = read_again(input, from, &mut look).await?.broken_off {
            notes.push(format!("`{}` could not be read again to its end: {why}", source.input));
        }
        Ok(())
    }

    /// Why the record of a row cannot be shown.
    fn gone(&self, source: &SourceSpec, epoch: Option<EpochNumber>) -> String {
        let input = &source.input;
        let Some(epoch) = epoch else {
            return format!("no record that becomes this row is left in `{input}`");
        };
        match self.offsets_of(input, epoch) {
            Some((from, to))
                if self.inputs.get(input).is_some_and(|i| i.numbers_records()) && source.keys.is_empty() =>
            {
                format!("its bytes are gone: it was one of the records {from} to {} of `{input}`", to.saturating_sub(1))
            }
            _ => format!("no record that becomes this row is left in `{input}`"),
        }
    }

    /// Records that an input had given before an epoch, and with it.
    fn offsets_of(&self, input: &str, epoch: EpochNumber) -> Option<(u64, u64)> {
        let mut before = 0;
        for entry in self.ledger {
            let records = entry["inputs"][input]["records"].as_u64().unwrap_or(0);
            if entry["epoch"].as_u64()? == epoch {
                return Some((before, before + records));
            }
            before += records;
        }
        None
    }

    pub(super) fn clock_of(&self, epoch: EpochNumber) -> Option<String> {
        let place = self.ledger.binary_search_by_key(&epoch, |entry| entry["epoch"].as_u64().unwrap_or(0)).ok()?;
        self.ledger[place]["clock"].as_i64().map(instant)
    }
}

/// Columns of the source, then weight and epoch, whatever types history has them in.
fn conformed(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, WhyError> {
    let mut columns = Vec::with_capacity(schema.fields().len() + 2);
    let mut fields = Vec::with_capacity(schema.fields().len() + 2);
    for field in schema.fields() {
        let held = batch.column(batch.schema().index_of(field.name())?);
        let same = held.data_type() == field.data_type();
        columns.push(if same { held.clone() } else { arrow::compute::cast(held, field.data_type())? });
        fields.push(field.as_ref().clone().with_nullable(true));
    }
    for name in [WEIGHT, EPOCH] {
        let place = batch.schema().index_of(name)?;
        columns.push(batch.column(place).clone());
        fields.push(batch.schema().field(place).clone());
    }
    Ok(RecordBatch::try_new(std::sync::Arc::new(arrow::datatypes::Schema::new(fields)), columns)?)
}
