//! Rows by value: each different row once, with the number of times that it is there.

use super::LineageError;
use crate::arrangement::RowEncoding;
use crate::delta::Delta;
use arrow::array::{ArrayRef, BooleanArray, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef};
use hashbrown::HashMap;

/// Different rows of one schema, in the order in which they came.
#[derive(Debug)]
pub struct RowSet {
    schema: SchemaRef,
    parts: Vec<Delta>,
    /// How often each row is there, by its bytes.
    times: HashMap<Box<[u8]>, i64, ahash::RandomState>,
}

/// Whether rows can be told apart by the bytes of a column of this type.
pub(super) fn has_bytes(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(_, _) => false,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            has_bytes(field.data_type())
        }
        DataType::Struct(fields) => fields.iter().all(|field| has_bytes(field.data_type())),
        _ => true,
    }
}

/// The columns that rows are told apart by, as bytes.
pub(super) fn encoded(columns: &[ArrayRef], rows: usize) -> Result<crate::arrangement::EncodedRows, LineageError> {
    let columns: Vec<ArrayRef> = columns.iter().filter(|c| has_bytes(c.data_type())).cloned().collect();
    let encoding = RowEncoding::new(columns.iter().map(|c| c.data_type().clone()).collect())?;
    Ok(encoding.encode(&columns, rows)?)
}

impl RowSet {
    /// No rows.
    pub fn new(schema: SchemaRef) -> Self {
        let times = HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4));
        Self { schema, parts: Vec::new(), times }
    }

    /// Adds the rows that are not there yet, each as often as it is in `rows`. Of a row that is there already the number
    /// stays: it comes from looking at the same contents again.
    pub fn add(&mut self, rows: &RecordBatch) -> Result<(), LineageError> {
        let bytes = encoded(rows.columns(), rows.num_rows())?;
        let mut counts: HashMap<&[u8], i64, ahash::RandomState> =
            HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4));
        for row in 0..rows.num_rows() {
            *counts.entry(bytes.get(row)).or_default() += 1;
        }
        let (mut indices, mut weights) = (Vec::new(), Vec::new());
        for row in 0..rows.num_rows() {
            let row_bytes = bytes.get(row);
            if !self.times.contains_key(row_bytes) {
                let times = counts.get(row_bytes).copied().unwrap_or(1);
                self.times.insert(row_bytes.into(), times);
                indices.push(row as u32);
                weights.push(times);
            }
        }
        if !indices.is_empty() {
            self.parts.push(Delta::inserts(rows.clone()).pick(indices, weights)?);
        }
        Ok(())
    }

    /// Number of different rows.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The rows with the number of times that each is there.
    pub fn delta(&self) -> Result<Delta, LineageError> {
        Ok(Delta::concat(&self.schema, &self.parts)?)
    }

    /// Each row once.
    pub fn distinct(&self) -> Result<RecordBatch, LineageError> {
        Ok(self.delta()?.rows)
    }

    /// Whether each row of `other` is here as often as there.
    pub fn covers(&self, other: &RowSet) -> Result<bool, LineageError> {
        Ok(other.times.iter().all(|(row, times)| self.times.get(row) == Some(times)))
    }

    /// Which of the rows are here.
    pub fn mask(&self, columns: &[ArrayRef], rows: usize) -> Result<BooleanArray, LineageError> {
        let bytes = encoded(columns, rows)?;
        Ok((0..rows).map(|row| Some(self.times.contains_key(bytes.get(row)))).collect())
    }
}

/// Finds rows by value.
#[derive(Debug)]
pub struct RowIndex {
    places: HashMap<Box<[u8]>, usize, ahash::RandomState>,
}

impl RowIndex {
    /// Of the rows of a batch; of equal ones the first.
    ///
    /// # Errors
    /// When rows cannot be told apart.
    pub fn new(rows: &RecordBatch) -> Result<Self, LineageError> {
        let bytes = encoded(rows.columns(), rows.num_rows())?;
        let mut places = HashMap::with_hasher(ahash::RandomState::with_seeds(1, 2, 3, 4));
        for row in 0..rows.num_rows() {
            places.entry(Box::from(bytes.get(row))).or_insert(row);
        }
        Ok(Self { places })
    }

    /// For each of the rows, which must be of the same column types, the index of its equal.
    ///
    /// # Errors
    /// When rows cannot be told apart.
    pub fn find(&self, columns: &[ArrayRef], rows: usize) -> Result<Vec<Option<usize>>, LineageError> {
        let bytes = encoded(columns, rows)?;
        Ok((0..rows).map(|row| self.places.get(bytes.get(row)).copied()).collect())
    }
}
