//! The state of a keyed source: for every key its current row, or the tombstone of its removal.
//!
//! A key's current row is the maximum of (version, arrival, partition, offset), so any order and any cut of the
//! same records give the same table. A removal leaves a tombstone with its position, so that an older row that comes
//! later does not bring the key back.

use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_row::{RowConverter, Rows, SortField};
use hashbrown::HashMap;
use weir_incremental::{Delta, EngineError, KeyValues, State};

use crate::state::{StateReader, StateWriter, decode_error};

/// Where admitted rows came from: one value a row.
#[derive(Debug, Clone, Default)]
pub struct Positions {
    /// Partition of the input.
    pub partitions: Vec<u32>,
    /// Offset within the partition.
    pub offsets: Vec<u64>,
    /// Arrival, µs UTC.
    pub arrivals: Vec<i64>,
    /// Event time (arrival where the source declares none), µs UTC.
    pub times: Vec<i64>,
}

impl Positions {
    /// Keeps the rows at `indices`.
    pub fn take(&self, indices: &[u32]) -> Self {
        let pick = |i: &u32| *i as usize;
        Self {
            partitions: indices.iter().map(|i| self.partitions[pick(i)]).collect(),
            offsets: indices.iter().map(|i| self.offsets[pick(i)]).collect(),
            arrivals: indices.iter().map(|i| self.arrivals[pick(i)]).collect(),
            times: indices.iter().map(|i| self.times[pick(i)]).collect(),
        }
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.offsets.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.offsets.is_empty()
    }

    /// Appends the rows of `other`.
    pub fn extend(&mut self, other: &Positions) {
        self.partitions.extend_from_slice(&other.partitions);
        self.offsets.extend_from_slice(&other.offsets);
        self.arrivals.extend_from_slice(&other.arrivals);
        self.times.extend_from_slice(&other.times);
    }
}

/// What decides which row of a key is current: version, arrival, partition, offset.
type Order<'a> = (Option<&'a [u8]>, i64, u32, u64);

fn write_entry(bytes: &mut Vec<u8>, (version, arrival, partition, offset): Order<'_>, row: Option<&[u8]>) {
    bytes.clear();
    let mut writer = StateWriter(bytes);
    writer.optional(version);
    writer.i64(arrival);
    writer.u64(u64::from(partition));
    writer.u64(offset);
    writer.optional(row);
}

/// The order of an entry and its row; none for a tombstone.
fn read_entry(bytes: &[u8]) -> Result<(Order<'_>, Option<&[u8]>), ArrowError> {
    let mut reader = StateReader(bytes);
    let version = reader.optional()?;
    let arrival = reader.i64()?;
    let partition = u32::try_from(reader.u64()?).map_err(|_| decode_error("a keyed row's partition"))?;
    let offset = reader.u64()?;
    Ok(((version, arrival, partition, offset), reader.optional()?))
}

fn state_error(error: EngineError) -> ArrowError {
    ArrowError::ExternalError(Box::new(error))
}

/// What a batch of rows did to the table.
#[derive(Debug)]
pub struct Applied {
    /// The change of the table: at most one retraction and one insertion a key.
    pub delta: Delta,
    /// Indices of rows that lost against a later row that was there already or in the batch, at the time they came.
    pub superseded: Vec<u32>,
}

/// The table itself.
#[derive(Debug)]
pub struct KeyedTable {
    schema: SchemaRef,
    keys: Vec<usize>,
    version: Option<usize>,
    deleted: Option<usize>,
    key_converter: RowConverter,
    row_converter: RowConverter,
    version_converter: Option<RowConverter>,
    entries: KeyValues,
}

fn converter(schema: &SchemaRef, columns: impl Iterator<Item = usize>) -> Result<RowConverter, ArrowError> {
    RowConverter::new(columns.map(|i| SortField::new(schema.field(i).data_type().clone())).collect())
}

impl KeyedTable {
    /// A table of rows of `schema` identified by the columns `keys`; `version` and `deleted` as in the source file.
    pub fn new(
        schema: SchemaRef,
        keys: Vec<usize>,
        version: Option<usize>,
        deleted: Option<usize>,
    ) -> Result<Self, ArrowError> {
        Ok(Self {
            key_converter: converter(&schema, keys.iter().copied())?,
            row_converter: converter(&schema, 0..schema.fields().len())?,
            version_converter: version.map(|v| converter(&schema, std::iter::once(v))).transpose()?,
            schema,
            keys,
            version,
            deleted,
            entries: KeyValues::default(),
        })
    }

    /// Applies rows in order.
    pub fn apply(&mut self, rows: &RecordBatch, positions: &Positions) -> Result<Applied, ArrowError> {
        let columns = |indices: &[usize]| indices.iter().map(|i| rows.column(*i).clone()).collect::<Vec<_>>();
        let keys = self.key_converter.convert_columns(&columns(&self.keys))?;
        let encoded = self.row_converter.convert_columns(rows.columns())?;
        let versions: Option<Rows> = match (&self.version_converter, self.version) {
            (Some(converter), Some(column)) => Some(converter.convert_columns(&columns(&[column]))?),
            _ => None,
        };
        let deleted: Option<BooleanArray> = self.deleted.map(|column| rows.column(column).as_boolean().clone());

        self.entries.fetch((0..rows.num_rows()).map(|index| keys.row(index).data())).map_err(state_error)?;
        let mut superseded = Vec::new();
        // What each touched key had before this batch, and a row of the batch with the key.
        let mut before: HashMap<Box<[u8]>, Option<Box<[u8]>>, ahash::RandomState> =
            HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4));
        let mut bytes = Vec::new();
        for index in 0..rows.num_rows() {
            let key: &[u8] = keys.row(index).data();
            let removal = deleted.as_ref().is_some_and(|d| d.is_valid(index) && d.value(index));
            let version = versions.as_ref().map(|v| v.row(index));
            let order: Order<'_> = (
                version.as_ref().map(|version| version.data()),
                positions.arrivals[index],
                positions.partitions[index],
                positions.offsets[index],
            );
            let present = self.entries.get(key).map(read_entry).transpose()?;
            if present.is_some_and(|(present, _)| present > order) {
                superseded.push(index as u32);
                continue;
            }
            if !before.contains_key(key) {
                before.insert(Box::from(key), present.and_then(|(_, row)| row).map(Box::from));
            }
            write_entry(&mut bytes, order, (!removal).then(|| encoded.row(index).data()));
            self.entries.set(key, &bytes).map_err(state_error)?;
        }

        let mut removed: Vec<Box<[u8]>> = Vec::new();
        let mut added: Vec<&[u8]> = Vec::new();
        for (key, old) in &mut before {
            let new = self.entries.get(key).map(read_entry).transpose()?.and_then(|(_, row)| row);
            if old.as_deref() == new {
                continue;
            }
            removed.extend(old.take());
            added.extend(new);
        }
        let delta = self.delta(&removed, &added)?;
        Ok(Applied { delta, superseded })
    }

    fn decode<'a>(&self, rows: impl Iterator<Item = &'a [u8]>) -> Result<RecordBatch, ArrowError> {
        let parser = self.row_converter.parser();
        let columns = self.row_converter.convert_rows(rows.map(|bytes| parser.parse(bytes)))?;
        RecordBatch::try_new(self.schema.clone(), columns)
    }

    fn delta(&self, removed: &[Box<[u8]>], added: &[&[u8]]) -> Result<Delta, ArrowError> {
        let minus = self.decode(removed.iter().map(AsRef::as_ref))?;
        let plus = self.decode(added.iter().copied())?;
        let weights: Int64Array =
            std::iter::repeat_n(-1i64, removed.len()).chain(std::iter::repeat_n(1i64, added.len())).collect();
        Ok(Delta::new(concat_batches(&self.schema, [&minus, &plus])?, weights))
    }

    /// The current row of a key given as one-row columns of the key's types, or None.
    pub fn lookup(&self, key: &[arrow::array::ArrayRef]) -> Result<Option<RecordBatch>, ArrowError> {
        let rows = self.key_converter.convert_columns(key)?;
        let entry = self.entries.find(rows.row(0).data()).map_err(state_error)?;
        match entry.as_deref().map(read_entry).transpose()? {
            Some((_, Some(row))) => Ok(Some(self.decode(std::iter::once(row))?)),
            _ => Ok(None),
        }
    }

    /// Makes everything in memory part of the next checkpoint.
    pub fn mark_all_changed(&mut self) {
        self.entries.mark_all_changed();
    }

    /// The rows and tombstones by key, as checkpoints have them.
    pub fn state(&mut self) -> &mut dyn State {
        &mut self.entries
    }
}

/// Rows of a keyed model by key, kept for lookups.
#[derive(Debug)]
pub struct KeyIndex {
    schema: SchemaRef,
    keys: Vec<usize>,
    key_converter: RowConverter,
    row_converter: RowConverter,
    rows: KeyValues,
    starts_over: bool,
}

impl KeyIndex {
    /// An index of rows of `schema` by the columns `keys`.
    pub fn new(schema: SchemaRef, keys: Vec<usize>) -> Result<Self, ArrowError> {
        Ok(Self {
            key_converter: converter(&schema, keys.iter().copied())?,
            row_converter: converter(&schema, 0..schema.fields().len())?,
            schema,
            keys,
            rows: KeyValues::default(),
            starts_over: false,
        })
    }

    /// Types of the key columns, in order.
    pub fn key_types(&self) -> Vec<arrow::datatypes::DataType> {
        self.keys.iter().map(|i| self.schema.field(*i).data_type().clone()).collect()
    }

    /// Applies a consolidated delta. Returns how many rows broke the key: insertions beside a row that stays.
    pub fn apply(&mut self, delta: &Delta) -> Result<usize, ArrowError> {
        let columns: Vec<_> = self.keys.iter().map(|i| delta.rows.column(*i).clone()).collect();
        let keys = self.key_converter.convert_columns(&columns)?;
        let encoded = self.row_converter.convert_columns(delta.rows.columns())?;
        self.rows.fetch((0..delta.len()).map(|index| keys.row(index).data())).map_err(state_error)?;
        let mut broken = 0;
        for pass in [-1i64, 1] {
            for index in 0..delta.len() {
                let weight = delta.weights.value(index);
                if weight.signum() != pass {
                    continue;
                }
                let key = keys.row(index);
                let row = encoded.row(index);
                if pass < 0 {
                    if self.rows.get(key.data()).is_some_and(|r| r == row.data()) {
                        self.rows.remove(key.data());
                    }
                } else {
                    broken += usize::from(weight > 1) + usize::from(self.rows.get(key.data()).is_some());
                    self.rows.set(key.data(), row.data()).map_err(state_error)?;
                }
            }
        }
        Ok(broken)
    }

    /// The row of a key given as one-row columns of the key's types.
    pub fn lookup(&self, key: &[arrow::array::ArrayRef]) -> Result<Option<RecordBatch>, ArrowError> {
        let rows = self.key_converter.convert_columns(key)?;
        let Some(row) = self.rows.find(rows.row(0).data()).map_err(state_error)? else { return Ok(None) };
        let parser = self.row_converter.parser();
        let columns = self.row_converter.convert_rows(std::iter::once(parser.parse(&row)))?;
        Ok(Some(RecordBatch::try_new(self.schema.clone(), columns)?))
    }

    /// The model's columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Lets go of every row; the next checkpoint starts over.
    pub fn clear(&mut self) {
        self.rows.clear();
        self.starts_over = true;
    }

    /// Makes everything in memory part of the next checkpoint.
    pub fn mark_all_changed(&mut self) {
        self.rows.mark_all_changed();
    }

    /// Whether what checkpoints have of the index counts no more; asked once a checkpoint.
    pub fn starts_over(&mut self) -> bool {
        std::mem::take(&mut self.starts_over)
    }

    /// The rows by key, as checkpoints have them.
    pub fn state(&mut self) -> &mut dyn State {
        &mut self.rows
    }
}

/// Shared handle of an index that lookups read while epochs write.
pub type SharedIndex = Arc<parking_lot::RwLock<KeyIndex>>;
