//! A change of a relation: rows with weights.

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::compute::{concat, concat_batches};
use arrow::datatypes::SchemaRef;
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
                let weights: Vec<&dyn Array> = many.iter().map(|d| &d.weights as &dyn Array).collect();
                let weights: ArrayRef = concat(&weights)?;
                let weights = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&weights).clone();
                Ok(Delta::new(rows, weights))
            }
        }
    }
}
