//! State of operators: the rows of a relation with their weights, found by key.
//!
//! Deltas come in and rows go out by batches: keys are encoded and hashed once for a whole delta, then probed. Rows
//! are kept as bytes in an arena, the key's columns first.
//!
//! Not all rows need be in memory. What holds of a partial [`Table`]:
//! 1. A key that is in the index has all its rows in memory.
//! 2. The disk has all rows of a key that is not, but for those that [`Multisets::is_gone`] names.
//! 3. Only keys leave memory whose rows are in a durable checkpoint as they are.
//!
//! So whoever probes or adds to keys has them fetched before, by the batch.

mod arena;
mod canonical;
mod encoding;
mod gone;
mod index;
mod key_values;
mod multisets;

pub(crate) use arena::{Arena, NONE as NO_RECORD, Record};
pub use canonical::{canonical_batch, canonical_floats};
pub(crate) use encoding::{EncodedRows, RowEncoding};
pub(crate) use gone::Gone;
pub(crate) use index::{Index, hash_of};
pub use key_values::KeyValues;
pub(crate) use multisets::{EMPTY, Head, Multisets};

use crate::checkpoint::Disk;
use crate::operators::{EngineError, State, StateKey};
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Schema};

/// Rows by key.
pub(crate) struct Arrangement {
    keys: Vec<usize>,
    rest: Vec<usize>,
    key_encoding: RowEncoding,
    rest_encoding: RowEncoding,
    row_encoding: RowEncoding,
    /// For each column of the schema its place among key columns followed by the rest.
    order: Vec<usize>,
    table: Table,
}

/// Rows as bytes, with their weights, by key.
#[derive(Default)]
pub(crate) struct Table {
    index: Index,
    rows: Multisets,
    disk: Option<Disk>,
    /// Whether the disk may have keys that memory does not.
    partial: bool,
    /// The shard of the index that eviction goes on with.
    hand: usize,
}

/// A batch ready for probing and applying.
pub(crate) struct Encoded {
    pub keys: EncodedRows,
    pub rest: EncodedRows,
    pub hashes: Vec<u64>,
}

fn columns(batch: &RecordBatch, indices: &[usize]) -> Vec<ArrayRef> {
    indices.iter().map(|&column| batch.column(column).clone()).collect()
}

impl Arrangement {
    /// An arrangement of rows of `schema` by `keys`; other columns keep their order.
    pub fn new(schema: &Schema, keys: &[usize]) -> Result<Self, EngineError> {
        let columns = schema.fields().len();
        let rest: Vec<usize> = (0..columns).filter(|column| !keys.contains(column)).collect();
        let types = |columns: &[usize]| -> Vec<DataType> {
            columns.iter().map(|&column| schema.field(column).data_type().clone()).collect()
        };
        let all: Vec<usize> = keys.iter().chain(&rest).copied().collect();
        // A column may be named twice among the keys; the first is as good as the second.
        let order = (0..columns).map(|column| all.iter().position(|&c| c == column).unwrap_or_default()).collect();
        Ok(Self {
            key_encoding: RowEncoding::new(types(keys))?,
            rest_encoding: RowEncoding::new(types(&rest))?,
            row_encoding: RowEncoding::new(types(&all))?,
            keys: keys.to_vec(),
            rest,
            order,
            table: Table::default(),
        })
    }

    /// Encodes a batch of the arrangement's schema.
    pub fn encode(&self, batch: &RecordBatch) -> Result<Encoded, EngineError> {
        let rest = self.rest_encoding.encode(&columns(batch, &self.rest), batch.num_rows())?;
        Ok(Encoded { rest, ..self.encode_keys(batch)? })
    }

    /// Encodes a batch for probing alone.
    pub fn encode_keys(&self, batch: &RecordBatch) -> Result<Encoded, EngineError> {
        let keys = self.key_encoding.encode(&columns(batch, &self.keys), batch.num_rows())?;
        let rest = EncodedRows::default();
        let hashes = (0..keys.len()).map(|row| hash_of(keys.get(row))).collect();
        Ok(Encoded { keys, rest, hashes })
    }

    /// Brings rows with the keys of a batch into memory. Keys must be fetched before they are probed or added to.
    pub fn fetch(&mut self, batch: &Encoded) -> Result<(), EngineError> {
        self.table.warm(&batch.hashes);
        let keys = batch.hashes.iter().enumerate().map(|(row, &hash)| (hash, batch.keys.get(row)));
        self.table.fetch(keys)
    }

    /// The rows that have a key: [`EMPTY`] when there are none.
    pub fn probe(&self, hash: u64, key: &[u8]) -> Head {
        self.table.probe(hash, key)
    }

    /// Adds `weight` to one row of an encoded batch; returns its weight before and after.
    pub fn add(&mut self, batch: &Encoded, row: usize, weight: i64) -> Result<(i64, i64), EngineError> {
        self.table.add(batch.hashes[row], batch.keys.get(row), batch.rest.get(row), weight)
    }

    /// Adds a batch, weight by weight.
    pub fn apply(&mut self, batch: &Encoded, weights: &[i64]) -> Result<(), EngineError> {
        for (row, &weight) in weights.iter().enumerate() {
            self.add(batch, row, weight)?;
        }
        self.compact();
        Ok(())
    }

    /// The weight of one row of an encoded batch.
    pub fn weight(&self, batch: &Encoded, row: usize) -> i64 {
        let key = batch.keys.get(row);
        let head = self.probe(batch.hashes[row], key);
        self.table.rows.weight(head, key.len(), batch.rest.get(row))
    }

    /// The stored rows; records are valid until the next change.
    pub fn stored(&self) -> &Multisets {
        &self.table.rows
    }

    /// The columns, in the order of the schema, of stored rows.
    pub fn decode(&self, records: &[u32]) -> Result<Vec<ArrayRef>, EngineError> {
        let rows = records.iter().map(|&record| self.table.rows.row(record));
        let columns = self.row_encoding.decode(rows)?;
        Ok(self.order.iter().map(|&place| columns[place].clone()).collect())
    }

    /// Gives memory back after many rows have gone.
    pub fn compact(&mut self) {
        self.table.compact();
    }
}

impl Table {
    /// Whether the disk may have keys that memory does not.
    pub fn is_partial(&self) -> bool {
        self.partial
    }

    /// Brings what is known of keys from memory into the processor's caches.
    pub fn warm(&self, hashes: &[u64]) {
        if Index::is_worth_warming(hashes.len(), self.rows.bytes()) {
            self.rows.warm(&self.index.candidates(hashes));
        }
    }

    /// Brings rows of keys into memory. Keys must be fetched before they are probed or added to.
    pub fn fetch<'a>(&mut self, keys: impl Iterator<Item = (u64, &'a [u8])>) -> Result<(), EngineError> {
        let Some(disk) = self.disk.clone().filter(|_| self.partial) else { return Ok(()) };
        let mut missing = Vec::new();
        for (hash, key) in keys {
            match self.probe(hash, key) {
                EMPTY => missing.push(key),
                head => self.rows.touch(head),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let mut row = Vec::new();
        disk.lookup(missing, &mut |key, rest, value| {
            row.clear();
            row.extend_from_slice(key);
            row.extend_from_slice(rest);
            if self.rows.is_gone(&row) {
                return Ok(());
            }
            self.load(key, rest, weight_of(value)?.1)
        })
    }

    /// Whether a key is in memory; if so it counts as of use.
    pub fn has(&mut self, hash: u64, key: &[u8]) -> bool {
        let head = self.probe(hash, key);
        if head != EMPTY {
            self.rows.touch(head);
        }
        head != EMPTY
    }

    /// Whether what the disk has of a row counts no more.
    pub fn is_gone(&self, row: &[u8]) -> bool {
        self.rows.is_gone(row)
    }

    /// From now on remembers what was emitted until it is durable.
    pub fn track(&mut self) {
        self.rows.track();
    }

    /// Emits what changed since the last call: a row's bytes, the length of its key, its weight.
    pub fn row_changes(&mut self, emit: &mut dyn FnMut(&[u8], usize, Option<i64>)) {
        self.rows.changes(emit);
    }

    /// Takes back a row that a checkpoint has and that is not there.
    pub fn load(&mut self, key: &[u8], rest: &[u8], weight: i64) -> Result<(), EngineError> {
        let rows = &mut self.rows;
        let place = self.index.entry(hash_of(key), |head| rows.has_key(head, key));
        let head = rows.load(place.value().unwrap_or(EMPTY), key, rest, weight)?;
        place.set((head != EMPTY).then_some(head));
        Ok(())
    }

    /// Forgets keys that `choose` picks of those that the disk has, until so many bytes are free; returns how many are.
    pub fn evict_where(&mut self, bytes: usize, choose: &mut dyn FnMut(&mut Multisets, Head) -> bool) -> usize {
        let (rows, mut freed) = (&mut self.rows, 0);
        // Twice around, because the first time spares what was of use.
        for _ in 0..2 * Index::SHARDS {
            if freed >= bytes {
                break;
            }
            self.index.retain_shard(self.hand, |head| {
                let goes = choose(rows, head);
                if goes {
                    freed += rows.evict(head);
                }
                !goes
            });
            self.hand = (self.hand + 1) % Index::SHARDS;
        }
        self.partial |= freed > 0;
        if self.rows.unused_bytes() > self.rows.bytes() / 2 {
            self.rows.compact(self.index.values_mut());
        }
        freed
    }

    /// The rows that have a key: [`EMPTY`] when there are none.
    pub fn probe(&self, hash: u64, key: &[u8]) -> Head {
        self.index.get(hash, |head| self.rows.has_key(head, key)).unwrap_or(EMPTY)
    }

    /// Adds `weight` to a row; returns its weight before and after.
    pub fn add(&mut self, hash: u64, key: &[u8], rest: &[u8], weight: i64) -> Result<(i64, i64), EngineError> {
        let rows = &mut self.rows;
        let place = self.index.entry(hash, |head| rows.has_key(head, key));
        let added = rows.add(place.value().unwrap_or(EMPTY), key, rest, weight)?;
        place.set((added.head != EMPTY).then_some(added.head));
        Ok((added.before, added.after))
    }

    /// The stored rows; records are valid until the next change.
    pub fn stored(&self) -> &Multisets {
        &self.rows
    }

    /// The weight of a row.
    pub fn weight(&self, hash: u64, key: &[u8], rest: &[u8]) -> i64 {
        self.rows.weight(self.probe(hash, key), key.len(), rest)
    }

    /// Gives memory back after many rows have gone.
    pub fn compact(&mut self) {
        if self.rows.is_sparse() {
            self.rows.compact(self.index.values_mut());
        }
    }
}

/// The length of a row's key, and its weight.
fn weight_of(value: &[u8]) -> Result<(usize, i64), EngineError> {
    let parts = value.split_first_chunk::<4>().and_then(|(key_len, weight)| {
        Some((u32::from_le_bytes(*key_len) as usize, i64::from_le_bytes(weight.try_into().ok()?)))
    });
    parts.ok_or_else(|| corrupt("a row's weight is malformed"))
}

fn corrupt(reason: &str) -> EngineError {
    EngineError::StateCorrupt { state: "arrangement".into(), reason: reason.to_owned() }
}

/// Key: the row's bytes, looked up by its key. Value: the length of its key and its weight.
impl State for Table {
    fn changes(&mut self, emit: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>)) {
        self.rows.changes(&mut |row, key_len, weight| {
            let key = StateKey { bytes: row, prefix: key_len };
            let Some(weight) = weight else { return emit(key, None) };
            let mut value = [0; 12];
            value[..4].copy_from_slice(&(key_len as u32).to_le_bytes());
            value[4..].copy_from_slice(&weight.to_le_bytes());
            emit(key, Some(&value));
        });
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let (key_len, weight) = weight_of(value)?;
        let (key, rest) = key.split_at_checked(key_len).ok_or_else(|| corrupt("a row is shorter than its key"))?;
        self.load(key, rest, weight)
    }

    fn attach(&mut self, disk: &Disk, resident: bool) -> Result<(), EngineError> {
        self.rows.track();
        self.partial = !resident && !disk.is_empty();
        self.disk = Some(disk.clone());
        Ok(())
    }

    fn durable(&mut self) {
        self.rows.durable();
    }

    fn evict(&mut self, bytes: usize) -> usize {
        if self.disk.is_none() {
            return 0;
        }
        self.evict_where(bytes, &mut |rows, head| rows.is_clean(head) && !rows.was_touched(head))
    }

    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn bytes(&self) -> usize {
        self.index.bytes() + self.rows.bytes()
    }

    fn unused_bytes(&self) -> usize {
        self.rows.unused_bytes()
    }
}

impl State for Arrangement {
    fn changes(&mut self, emit: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>)) {
        self.table.changes(emit);
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        self.table.restore(key, value)
    }

    fn attach(&mut self, disk: &Disk, resident: bool) -> Result<(), EngineError> {
        self.table.attach(disk, resident)
    }

    fn durable(&mut self) {
        self.table.durable();
    }

    fn evict(&mut self, bytes: usize) -> usize {
        self.table.evict(bytes)
    }

    fn rows(&self) -> usize {
        self.table.rows()
    }

    fn bytes(&self) -> usize {
        self.table.bytes()
    }

    fn unused_bytes(&self) -> usize {
        self.table.unused_bytes()
    }
}

#[cfg(test)]
mod tests;
