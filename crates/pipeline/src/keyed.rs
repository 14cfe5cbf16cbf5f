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
use arrow_row::{OwnedRow, RowConverter, Rows, SortField};
use hashbrown::HashMap;
use weir_incremental::Delta;

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

#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    version: Option<OwnedRow>,
    arrival: i64,
    partition: u32,
    offset: u64,
    /// None: a tombstone.
    row: Option<Box<[u8]>>,
}

impl Entry {
    fn order(&self) -> (Option<arrow_row::Row<'_>>, i64, u32, u64) {
        (self.version.as_ref().map(OwnedRow::row), self.arrival, self.partition, self.offset)
    }
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
    entries: HashMap<Box<[u8]>, Entry, ahash::RandomState>,
    changed: hashbrown::HashSet<Box<[u8]>, ahash::RandomState>,
    live: usize,
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
        let state = ahash::RandomState::with_seeds(1, 2, 3, 4);
        Ok(Self {
            key_converter: converter(&schema, keys.iter().copied())?,
            row_converter: converter(&schema, 0..schema.fields().len())?,
            version_converter: version.map(|v| converter(&schema, std::iter::once(v))).transpose()?,
            schema,
            keys,
            version,
            deleted,
            entries: HashMap::with_hasher(state.clone()),
            changed: hashbrown::HashSet::with_hasher(state),
            live: 0,
        })
    }

    /// Number of keys that have a row.
    pub fn len(&self) -> usize {
        self.live
    }

    /// Whether no key has a row.
    pub fn is_empty(&self) -> bool {
        self.live == 0
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

        let mut superseded = Vec::new();
        // What each touched key had before this batch.
        let mut before: HashMap<Box<[u8]>, Option<Box<[u8]>>, ahash::RandomState> =
            HashMap::with_hasher(self.entries.hasher().clone());
        for index in 0..rows.num_rows() {
            let key: &[u8] = keys.row(index).data();
            let removal = deleted.as_ref().is_some_and(|d| d.is_valid(index) && d.value(index));
            let entry = Entry {
                version: versions.as_ref().map(|v| v.row(index).owned()),
                arrival: positions.arrivals[index],
                partition: positions.partitions[index],
                offset: positions.offsets[index],
                row: (!removal).then(|| Box::from(encoded.row(index).data())),
            };
            let old = match self.entries.get_mut(key) {
                Some(present) => {
                    if present.order() > entry.order() {
                        superseded.push(index as u32);
                        continue;
                    }
                    std::mem::replace(present, entry).row
                }
                None => {
                    self.entries.insert(Box::from(key), entry);
                    None
                }
            };
            if !before.contains_key(key) {
                before.insert(Box::from(key), old);
            }
        }

        let mut removed: Vec<Box<[u8]>> = Vec::new();
        let mut added: Vec<&[u8]> = Vec::new();
        for (key, old) in &mut before {
            let new = self.entries.get(key.as_ref()).and_then(|e| e.row.as_deref());
            self.live = self.live + usize::from(new.is_some()) - usize::from(old.is_some());
            if old.as_deref() == new {
                continue;
            }
            if let Some(old) = old.take() {
                removed.push(old);
            }
            if let Some(new) = new {
                added.push(new);
            }
        }
        let delta = self.delta(&removed, &added)?;
        for key in before.into_keys() {
            self.changed.insert(key);
        }
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
        match self.entries.get(rows.row(0).data()).and_then(|e| e.row.as_deref()) {
            Some(row) => Ok(Some(self.decode(std::iter::once(row))?)),
            None => Ok(None),
        }
    }

    /// Makes everything part of the next [`KeyedTable::changes`].
    pub fn mark_all_changed(&mut self) {
        self.changed.extend(self.entries.keys().cloned());
    }

    /// Emits what changed since the last call: key and value bytes, no value for what is gone.
    pub fn changes(&mut self, emit: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        let mut value = Vec::new();
        for key in self.changed.drain() {
            match self.entries.get(&key) {
                Some(entry) => {
                    value.clear();
                    let mut writer = StateWriter(&mut value);
                    writer.optional(entry.version.as_ref().map(|v| v.row().data().to_vec()).as_deref());
                    writer.i64(entry.arrival);
                    writer.u64(u64::from(entry.partition));
                    writer.u64(entry.offset);
                    writer.optional(entry.row.as_deref());
                    emit(&key, Some(&value));
                }
                None => emit(&key, None),
            }
        }
    }

    /// Puts back one entry that [`KeyedTable::changes`] emitted.
    pub fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArrowError> {
        let mut reader = StateReader(value);
        let version = reader.optional()?;
        let version = match (version, &self.version_converter) {
            (Some(bytes), Some(converter)) => Some(converter.parser().parse(bytes).owned()),
            (None, None) => None,
            _ => return Err(decode_error("a keyed row's version")),
        };
        let arrival = reader.i64()?;
        let partition = u32::try_from(reader.u64()?).map_err(|_| decode_error("a keyed row's partition"))?;
        let offset = reader.u64()?;
        let row = reader.optional()?.map(Box::from);
        self.live += usize::from(row.is_some());
        self.entries.insert(Box::from(key), Entry { version, arrival, partition, offset, row });
        Ok(())
    }
}

/// Rows of a keyed model by key, kept for lookups.
#[derive(Debug)]
pub struct KeyIndex {
    schema: SchemaRef,
    keys: Vec<usize>,
    key_converter: RowConverter,
    row_converter: RowConverter,
    rows: HashMap<Box<[u8]>, Box<[u8]>, ahash::RandomState>,
    changed: hashbrown::HashSet<Box<[u8]>, ahash::RandomState>,
}

impl KeyIndex {
    /// An index of rows of `schema` by the columns `keys`.
    pub fn new(schema: SchemaRef, keys: Vec<usize>) -> Result<Self, ArrowError> {
        let state = ahash::RandomState::with_seeds(5, 6, 7, 8);
        Ok(Self {
            key_converter: converter(&schema, keys.iter().copied())?,
            row_converter: converter(&schema, 0..schema.fields().len())?,
            schema,
            keys,
            rows: HashMap::with_hasher(state.clone()),
            changed: hashbrown::HashSet::with_hasher(state),
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
                    if self.rows.get(key.data()).is_some_and(|r| r.as_ref() == row.data()) {
                        self.rows.remove(key.data());
                    }
                } else {
                    broken += usize::from(weight > 1);
                    if self.rows.insert(Box::from(key.data()), Box::from(row.data())).is_some() {
                        broken += 1;
                    }
                }
                if !self.changed.contains(key.data()) {
                    self.changed.insert(Box::from(key.data()));
                }
            }
        }
        Ok(broken)
    }

    /// The row of a key given as one-row columns of the key's types.
    pub fn lookup(&self, key: &[arrow::array::ArrayRef]) -> Result<Option<RecordBatch>, ArrowError> {
        let rows = self.key_converter.convert_columns(key)?;
        let Some(row) = self.rows.get(rows.row(0).data()) else { return Ok(None) };
        let parser = self.row_converter.parser();
        let columns = self.row_converter.convert_rows(std::iter::once(parser.parse(row)))?;
        Ok(Some(RecordBatch::try_new(self.schema.clone(), columns)?))
    }

    /// The model's columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// Lets go of every row.
    pub fn clear(&mut self) {
        self.changed.extend(self.rows.drain().map(|(key, _)| key));
    }

    /// Makes everything part of the next [`KeyIndex::changes`].
    pub fn mark_all_changed(&mut self) {
        self.changed.extend(self.rows.keys().cloned());
    }

    /// Emits what changed since the last call.
    pub fn changes(&mut self, emit: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        for key in self.changed.drain() {
            emit(&key, self.rows.get(&key).map(AsRef::as_ref));
        }
    }

    /// Puts back one entry.
    pub fn restore(&mut self, key: &[u8], value: &[u8]) {
        self.rows.insert(Box::from(key), Box::from(value));
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Shared handle of an index that lookups read while epochs write.
pub type SharedIndex = Arc<parking_lot::RwLock<KeyIndex>>;
