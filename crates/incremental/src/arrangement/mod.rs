//! State of operators: the rows of a relation with their weights, found by key.
//!
//! Deltas come in and rows go out by batches: keys are encoded and hashed once for a whole delta, then probed. Rows
//! are kept as bytes in an arena, the key's columns first.

mod arena;
mod canonical;
mod encoding;
mod index;
mod multisets;

pub(crate) use arena::{Arena, NONE as NO_RECORD, Record};
pub use canonical::{canonical_batch, canonical_floats};
pub(crate) use encoding::{EncodedRows, RowEncoding};
pub(crate) use index::{Index, hash_of};
pub(crate) use multisets::{EMPTY, Head, Multisets};

use crate::operators::{EngineError, State};
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
}

/// A batch ready for probing and applying.
pub(crate) struct Encoded {
    pub keys: EncodedRows,
    pub rest: EncodedRows,
    pub hashes: Vec<u64>,
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
        let pick = |columns: &[usize]| -> Vec<ArrayRef> {
            columns.iter().map(|&column| batch.column(column).clone()).collect()
        };
        let keys = self.key_encoding.encode(&pick(&self.keys), batch.num_rows())?;
        let rest = self.rest_encoding.encode(&pick(&self.rest), batch.num_rows())?;
        let hashes = (0..keys.len()).map(|row| hash_of(keys.get(row))).collect();
        Ok(Encoded { keys, rest, hashes })
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

/// Key: the row's bytes. Value: the length of its key and its weight.
impl State for Table {
    fn changes(&mut self, emit: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        self.rows.changes(&mut |row, value| match value {
            None => emit(row, None),
            Some((key_len, weight)) => {
                let mut value = [0; 12];
                value[..4].copy_from_slice(&(key_len as u32).to_le_bytes());
                value[4..].copy_from_slice(&weight.to_le_bytes());
                emit(row, Some(&value));
            }
        });
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let corrupt =
            || EngineError::StateCorrupt { state: "arrangement".into(), reason: "a row's weight is malformed".into() };
        let (key_len, weight) = value.split_first_chunk::<4>().ok_or_else(corrupt)?;
        let weight = i64::from_le_bytes(weight.try_into().map_err(|_| corrupt())?);
        let (key, rest) = key.split_at_checked(u32::from_le_bytes(*key_len) as usize).ok_or_else(corrupt)?;
        self.add(hash_of(key), key, rest, weight)?;
        self.rows.mark_persisted();
        Ok(())
    }

    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn bytes(&self) -> usize {
        self.index.bytes() + self.rows.bytes()
    }
}

impl State for Arrangement {
    fn changes(&mut self, emit: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        self.table.changes(emit);
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        self.table.restore(key, value)
    }

    fn rows(&self) -> usize {
        self.table.rows()
    }

    fn bytes(&self) -> usize {
        self.table.bytes()
    }
}

#[cfg(test)]
mod tests;
