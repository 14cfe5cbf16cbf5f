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
use crate::check::CheckState;
use crate::contents::Totals;
use crate::input::Cursor;
use crate::keyed::Positions;
use crate::measure::SavedSums;
use crate::watermark::Watermarks;
use weir_incremental::Relation;
use weir_journal::{Compression, PackedFrame};

/// Kind of a frame of admitted rows; its name is the source.
pub const FRAME_ADMITTED: u8 = 1;
/// Kind of a frame of a system relation's delta; its name is the relation.
pub const FRAME_SYSTEM: u8 = 2;
/// Kind of a frame of what a recomputation changed; its name is the model.
pub const FRAME_RECOMPUTED: u8 = 3;

/// Version of the encodings of this file. 2: recomputed models.
pub const FRAMES_VERSION: u32 = 2;

/// Batches of fewer rows, on average, are encoded as one.
const BATCH_ROWS_MIN: usize = 4096;

const POSITION_COLUMNS: [&str; 4] = ["_partition", "_offset", "_arrival", "_time"];

/// What becomes a frame.
#[derive(Debug)]
pub enum Unpacked {
    /// Rows of a source, batch by batch, with their positions.
    Admitted(Relation, Vec<RecordBatch>, Positions),
    /// A change of a relation, with its weights as a column; the kind of the frame.
    Changed(u8, Relation, RecordBatch),
}

impl Unpacked {
    /// Encodes and compresses it.
    pub fn pack(self, compression: Compression) -> Result<PackedFrame, ArrowError> {
        let (kind, bytes) = match self {
            Self::Admitted(name, mut rows, positions) => {
                if positions.offsets.len() < rows.len() * BATCH_ROWS_MIN {
                    rows = vec![arrow::compute::concat_batches(&rows[0].schema(), &rows)?];
                }
                (FRAME_ADMITTED, encode_admitted(PackedFrame::begin(&name), &rows, &positions)?)
            }
            Self::Changed(kind, name, batch) => {
                (kind, encode(PackedFrame::begin(&name), std::iter::once(Ok(batch.clone())), &batch.schema())?)
            }
        };
        Ok(PackedFrame::pack(kind, bytes, compression))
    }
}

/// Appends batches of one schema.
fn encode(
    bytes: Vec<u8>,
    batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>,
    schema: &SchemaRef,
) -> Result<Vec<u8>, ArrowError> {
    let mut writer = StreamWriter::try_new(bytes, schema)?;
    for batch in batches {
        writer.write(&batch?)?;
    }
    writer.into_inner()
}

/// Decodes the payload of a frame.
pub fn decode(bytes: &Bytes) -> Result<Vec<RecordBatch>, ArrowError> {
    StreamReader::try_new(std::io::Cursor::new(bytes.clone()), None)?.collect()
}

/// Appends admitted rows with their positions.
fn encode_admitted(bytes: Vec<u8>, rows: &[RecordBatch], positions: &Positions) -> Result<Vec<u8>, ArrowError> {
    let own = rows.first().map(RecordBatch::schema);
    let mut fields: Vec<Field> = own.iter().flat_map(|s| s.fields().iter().map(|f| f.as_ref().clone())).collect();
    fields.push(Field::new(POSITION_COLUMNS[0], DataType::Int32, false));
    fields.extend(POSITION_COLUMNS[1..].iter().map(|name| Field::new(*name, DataType::Int64, false)));
    let schema = Arc::new(Schema::new(fields));
    let mut from = 0;
    let batches = rows.iter().map(|rows| {
        let range = from..from + rows.num_rows();
        from = range.end;
        let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
        columns.push(Arc::new(positions.partitions[range.clone()].iter().map(|p| *p as i32).collect::<Int32Array>()));
        columns.push(Arc::new(positions.offsets[range.clone()].iter().map(|o| *o as i64).collect::<Int64Array>()));
        columns.push(Arc::new(Int64Array::from(positions.arrivals[range.clone()].to_vec())));
        columns.push(Arc::new(Int64Array::from(positions.times[range].to_vec())));
        RecordBatch::try_new(schema.clone(), columns)
    });
    encode(bytes, batches, &schema)
}

/// Decodes the payload of a frame of admitted rows, with the relation's schema.
pub fn decode_admitted(bytes: &Bytes, schema: &SchemaRef) -> Result<(RecordBatch, Positions), ArrowError> {
    let batches = decode(bytes)?;
    let Some(first) = batches.first() else {
        return Err(ArrowError::ParseError("a frame of admitted rows is empty".into()));
    };
    let batch = arrow::compute::concat_batches(&first.schema(), &batches)?;
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
    /// How each check stands that is not clear.
    #[serde(default)]
    pub checks: BTreeMap<String, CheckState>,
    /// Measures that are counted from this epoch on, by relation and measure, with what the relation held: for those
    /// that were declared after its rows came.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub measures: SavedMeasures,
    /// The epoch's ledger entry, as chained.
    pub ledger: serde_json::Value,
}

/// Sums by relation and measure.
pub type SavedMeasures = BTreeMap<String, BTreeMap<String, SavedSums>>;

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
    /// Sums of the measures of all relations.
    #[serde(default)]
    pub measures: SavedMeasures,
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
