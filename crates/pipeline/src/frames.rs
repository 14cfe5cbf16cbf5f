//! What an epoch writes to the journal, encoded: admitted rows with their positions as Arrow IPC streams, and the
//! commit record as JSON.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, Int32Array, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int32Type, Int64Type, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::EpochNumber;
use crate::admission::Counts;
use crate::contents::Totals;
use crate::input::Cursor;
use crate::keyed::Positions;
use crate::watermark::Watermarks;

/// Kind of a frame of admitted rows; its name is the source.
pub const FRAME_ADMITTED: u8 = 1;
/// Kind of a frame of a system relation's delta; its name is the relation.
pub const FRAME_SYSTEM: u8 = 2;
/// Kind of a frame of what a recomputation changed; its name is the model.
pub const FRAME_RECOMPUTED: u8 = 3;

/// Version of the encodings of this file. 2: recomputed models.
pub const FRAMES_VERSION: u32 = 2;

const POSITION_COLUMNS: [&str; 4] = ["_partition", "_offset", "_arrival", "_time"];

/// Encodes batches of one schema.
pub fn encode(batches: &[RecordBatch], schema: &SchemaRef) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), schema)?;
    for batch in batches {
        writer.write(batch)?;
    }
    writer.into_inner()
}

/// Decodes what [`encode`] wrote.
pub fn decode(bytes: &Bytes) -> Result<Vec<RecordBatch>, ArrowError> {
    StreamReader::try_new(std::io::Cursor::new(bytes.clone()), None)?.collect()
}

/// Encodes admitted rows with their positions.
pub fn encode_admitted(rows: &RecordBatch, positions: &Positions) -> Result<Vec<u8>, ArrowError> {
    let mut fields: Vec<Field> = rows.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new(POSITION_COLUMNS[0], DataType::Int32, false));
    fields.extend(POSITION_COLUMNS[1..].iter().map(|name| Field::new(*name, DataType::Int64, false)));
    let schema = Arc::new(Schema::new(fields));
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns.push(Arc::new(positions.partitions.iter().map(|p| *p as i32).collect::<Int32Array>()));
    columns.push(Arc::new(positions.offsets.iter().map(|o| *o as i64).collect::<Int64Array>()));
    columns.push(Arc::new(Int64Array::from(positions.arrivals.clone())));
    columns.push(Arc::new(Int64Array::from(positions.times.clone())));
    encode(&[RecordBatch::try_new(schema.clone(), columns)?], &schema)
}

/// Decodes what [`encode_admitted`] wrote, with the relation's schema.
pub fn decode_admitted(bytes: &Bytes, schema: &SchemaRef) -> Result<(RecordBatch, Positions), ArrowError> {
    let batches = decode(bytes)?;
    let Some(batch) = batches.first() else {
        return Err(ArrowError::ParseError("a frame of admitted rows is empty".into()));
    };
    let width = schema.fields().len();
    if batch.num_columns() != width + POSITION_COLUMNS.len() {
        return Err(ArrowError::SchemaError(format!(
            "a frame of admitted rows has {} columns, the source has {width}",
            batch.num_columns() - POSITION_COLUMNS.len()
        )));
    }
    let longs = |i: usize| batch.column(width + i).as_primitive::<Int64Type>().values().to_vec();
    let positions = Positions {
        partitions: batch.column(width).as_primitive::<Int32Type>().values().iter().map(|p| *p as u32).collect(),
        offsets: longs(1).into_iter().map(|o| o as u64).collect(),
        arrivals: longs(2),
        times: longs(3),
    };
    Ok((RecordBatch::try_new(schema.clone(), batch.columns()[..width].to_vec())?, positions))
}

/// Where an input's reader stands in the middle of a poll.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InputPosition {
    /// Start of the next poll.
    pub cursor: Cursor,
    /// Records of that poll which earlier epochs have taken.
    pub skip: u64,
    /// Records taken so far, and those that no source claimed.
    pub records: u64,
    /// Of those, records that no source claimed.
    pub unrouted: u64,
    /// Bytes taken in so far.
    pub bytes: u64,
}

/// The payload of an epoch's commit record: all that recovery needs beside the frames.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct CommitRecord {
    /// Version of this encoding.
    pub version: u32,
    /// The epoch's reading of the clock, µs UTC.
    pub clock: i64,
    /// Every input's position after the epoch.
    pub inputs: BTreeMap<String, InputPosition>,
    /// Every source's counts over all epochs so far.
    pub counts: BTreeMap<String, Counts>,
    /// Every source's watermarks after the epoch.
    pub watermarks: BTreeMap<String, Watermarks>,
    /// When each model that is recomputed as a whole was computed last.
    #[serde(default)]
    pub recomputed: BTreeMap<String, RecomputedAt>,
    /// The epoch's ledger entry, as chained.
    pub ledger: serde_json::Value,
}

/// What a model's contents were computed from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecomputedAt {
    /// The epoch whose contents were read.
    pub epoch: EpochNumber,
    /// The clock of the computation, µs UTC.
    pub clock: i64,
    /// Rows and checksums of the relations it read.
    pub inputs: BTreeMap<String, SavedTotals>,
}

impl RecomputedAt {
    /// Whether what was read is no longer what there is, told by rows and checksums.
    pub fn is_stale(&self, now: impl Fn(&str) -> Totals) -> bool {
        self.inputs.iter().any(|(name, then)| then.totals() != Some(now(name)))
    }
}

/// What a checkpoint says beside the state itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CheckpointRecord {
    /// Version of this encoding.
    pub version: u32,
    /// The commit record of the checkpoint's epoch.
    pub commit: CommitRecord,
    /// Rows and checksums of all relations.
    pub totals: BTreeMap<String, SavedTotals>,
    /// Fingerprint of the project's meaning when it was taken.
    pub fingerprint: String,
}

/// [`Totals`] with the checksum as hexadecimal text, since JSON has no 128-bit numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SavedTotals {
    rows: i64,
    checksum: String,
}

impl From<Totals> for SavedTotals {
    fn from(totals: Totals) -> Self {
        Self { rows: totals.rows, checksum: format!("{:032x}", totals.checksum) }
    }
}

impl SavedTotals {
    /// Back to numbers; None when the text is not hexadecimal.
    pub fn totals(&self) -> Option<Totals> {
        Some(Totals { rows: self.rows, checksum: u128::from_str_radix(&self.checksum, 16).ok()? })
    }
}
