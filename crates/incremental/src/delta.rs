//! A change of a relation: rows with weights.

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch, RecordBatchOptions,
};
use arrow::compute::{concat, concat_batches, filter, filter_record_batch};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::error::ArrowError;
use std::sync::Arc;

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
                let weights: Vec<&dyn Array> =
                    many.iter().map(|d| &d.weights as &dyn Array).collect();
                let weights: ArrayRef = concat(&weights)?;
                let weights = weights.as_primitive::<Int64Type>().clone();
                Ok(Delta::new(rows, weights))
            }
        }
    }

    /// The same rows with each weight turned around: what takes this change back.
    pub fn negate(&self) -> Delta {
        let weights = self
            .weights
            .values()
            .iter()
            .map(|w| w.wrapping_neg())
            .collect();
        Delta::new(self.rows.clone(), Int64Array::new(weights, None))
    }

    /// The rows for which `mask` is true.
    pub fn filter(&self, mask: &BooleanArray) -> Result<Delta, ArrowError> {
        let rows = filter_record_batch(&self.rows, mask)?;
        let weights = filter(&self.weights, mask)?;
        Ok(Delta::new(
            rows,
            weights.as_primitive::<Int64Type>().clone(),
        ))
    }

    /// The same rows under another schema with the same column types.
    pub fn with_schema(&self, schema: SchemaRef) -> Result<Delta, ArrowError> {
        let options = RecordBatchOptions::new().with_row_count(Some(self.len()));
        let columns = self.rows.columns().to_vec();
        let rows = RecordBatch::try_new_with_options(schema, columns, &options)?;
        Ok(Delta::new(rows, self.weights.clone()))
    }
}
