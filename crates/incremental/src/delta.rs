//! A change of a relation: rows with weights.

use crate::arrangement::{EncodedRows, RowEncoding, hash_of};
use crate::operators::EngineError;
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions, UInt32Array};
use arrow::compute::{concat, concat_batches, filter, filter_record_batch, take};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::error::ArrowError;
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::sync::Arc;
use xxhash_rust::xxh3::xxh3_128;

/// Name of a relation as SQL knows it, lower case, with its schema where it has one: `finance.daily`.
pub type Relation = Arc<str>;

/// A multiset of rows with weights: +n adds a row n times, -n takes it away n times.
///
/// A relation's contents are the sum of its deltas. Rows may repeat and cancel until consolidated.
#[derive(Debug, Clone)]
pub struct Delta {
    /// The rows; the schema is the relation's.
    pub rows: RecordBatch,
    /// One weight a row.
    pub weights: Int64Array,
}

impl Delta {
    /// Every row once.
    pub fn inserts(rows: RecordBatch) -> Self {
        let weights = Int64Array::from_value(1, rows.num_rows());
        Self { rows, weights }
    }

    /// Rows with their weights. Panics when the lengths differ: that is a mistake of ours.
    pub fn new(rows: RecordBatch, weights: Int64Array) -> Self {
        assert_eq!(rows.num_rows(), weights.len(), "one weight a row");
        Self { rows, weights }
    }

    /// No change.
    pub fn empty(schema: SchemaRef) -> Self {
        Self::inserts(RecordBatch::new_empty(schema))
    }

    /// Number of weighted rows (not the sum of weights).
    pub fn len(&self) -> usize {
        self.rows.num_rows()
    }

    /// Whether there is nothing in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The relation's schema.
    pub fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    /// One delta that holds all of `parts`, in order. `schema` is for the case of none.
    pub fn concat(schema: &SchemaRef, parts: &[Delta]) -> Result<Delta, ArrowError> {
        match parts {
            [] => Ok(Delta::empty(schema.clone())),
            [one] => Ok(one.clone()),
            many => {
                let rows = concat_batches(schema, many.iter().map(|d| &d.rows))?;
                let weights: Vec<&dyn Array> = many.iter().map(|d| &d.weights as &dyn Array).collect();
                let weights: ArrayRef = concat(&weights)?;
                let weights = weights.as_primitive::<Int64Type>().clone();
                Ok(Delta::new(rows, weights))
            }
        }
    }

    /// The same rows with each weight turned around: what takes this change back.
    pub fn negate(&self) -> Delta {
        let weights = self.weights.values().iter().map(|w| w.wrapping_neg()).collect();
        Delta::new(self.rows.clone(), Int64Array::new(weights, None))
    }

    /// The rows for which `mask` is true.
    pub fn filter(&self, mask: &BooleanArray) -> Result<Delta, ArrowError> {
        let rows = filter_record_batch(&self.rows, mask)?;
        let weights = filter(&self.weights, mask)?;
        Ok(Delta::new(rows, weights.as_primitive::<Int64Type>().clone()))
    }

    /// The same rows under another schema with the same column types.
    pub fn with_schema(&self, schema: SchemaRef) -> Result<Delta, ArrowError> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.len()));
        let columns = self.rows.columns().to_vec();
        let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok(Delta::new(rows, self.weights.clone()))
    }

    /// The rows at `indices`, with `weights` of their own.
    pub fn pick(&self, indices: Vec<u32>, weights: Vec<i64>) -> Result<Delta, ArrowError> {
        let rows = pick_rows(&self.rows, &UInt32Array::from(indices))?;
        Ok(Delta::new(rows, Int64Array::from(weights)))
    }

    /// The same change with each row at most once and no weight of zero. Rows keep the order of their first place.
    pub fn consolidate(&self) -> Result<Delta, EngineError> {
        let rows = self.encoded()?;
        // The row at which each different row is first met, found by the row's hash.
        let mut seen: HashTable<(u64, u32)> = HashTable::with_capacity(self.len());
        let mut sums = vec![0_i64; self.len()];
        for (row, &weight) in self.weights.values().iter().enumerate() {
            let bytes = rows.get(row);
            let hash = hash_of(bytes);
            let same = |&(h, first): &(u64, u32)| h == hash && rows.get(first as usize) == bytes;
            let first = match seen.entry(hash, same, |&(h, _)| h) {
                Entry::Occupied(entry) => entry.get().1,
                Entry::Vacant(entry) => entry.insert((hash, row as u32)).get().1,
            };
            sums[first as usize] = sums[first as usize].wrapping_add(weight);
        }
        let kept = sums.iter().filter(|&&weight| weight != 0).count();
        if kept == self.len() {
            return Ok(self.clone());
        }
        let indices: Vec<u32> = (0..self.len() as u32).filter(|&row| sums[row as usize] != 0).collect();
        sums.retain(|&weight| weight != 0);
        Ok(self.pick(indices, sums)?)
    }

    /// A number that equal changes share whatever their order, cuts and repetitions: the checksum of a sum of deltas is
    /// the wrapping sum of their checksums, and that of nothing is 0.
    ///
    /// The sum over the rows of xxh3-128 of the row's canonical bytes, times the weight, modulo 2^128. Names of columns
    /// do not count; -0.0 is 0.0, and all NaN are one.
    pub fn checksum(&self) -> Result<u128, EngineError> {
        // So many rows' bytes stay in the caches.
        const CHUNK: usize = 1024;
        let encoding = self.encoding()?;
        let mut sum: u128 = 0;
        for from in (0..self.len()).step_by(CHUNK) {
            let rows = self.rows.slice(from, CHUNK.min(self.len() - from));
            let encoded = encoding.encode(rows.columns(), rows.num_rows())?;
            for (row, &weight) in self.weights.values()[from..from + rows.num_rows()].iter().enumerate() {
                sum = sum.wrapping_add(xxh3_128(encoded.get(row)).wrapping_mul(i128::from(weight) as u128));
            }
        }
        Ok(sum)
    }

    /// The rows, each as often as its weight says. Fails when the consolidated change takes rows away.
    pub fn expand(&self) -> Result<RecordBatch, EngineError> {
        if self.weights.values().iter().all(|&weight| weight == 1) {
            return Ok(self.rows.clone());
        }
        let one = self.consolidate()?;
        let mut indices = Vec::with_capacity(one.len());
        for (row, &weight) in one.weights.values().iter().enumerate() {
            let times = usize::try_from(weight).map_err(|_| EngineError::NegativeWeight { operator: "expand" })?;
            indices.extend(std::iter::repeat_n(row as u32, times));
        }
        Ok(pick_rows(&one.rows, &UInt32Array::from(indices))?)
    }

    fn encoding(&self) -> Result<RowEncoding, ArrowError> {
        let fields = self.rows.schema_ref().fields();
        RowEncoding::new(fields.iter().map(|field| field.data_type().clone()).collect())
    }

    fn encoded(&self) -> Result<EncodedRows, ArrowError> {
        self.encoding()?.encode(self.rows.columns(), self.len())
    }
}

/// The rows at `indices`, which also works for no columns.
pub(crate) fn pick_rows(rows: &RecordBatch, indices: &UInt32Array) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(indices.len()));
    let columns = rows.columns().iter().map(|column| take(column, indices, None)).collect::<Result<_, _>>()?;
    RecordBatch::try_new_with_options(rows.schema(), columns, &options)
}
