//! Deltas, and what was set aside, as batches of the journal's frames.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use arrow::error::ArrowError;
use weir_incremental::{Delta, Relation};

use crate::EpochNumber;
use crate::prepare::SetAside;
use crate::spec::{late_schema, quarantine_schema};

/// Rows with a last column `_weight`.
pub(super) fn with_weights(delta: &Delta) -> Result<RecordBatch, ArrowError> {
    let mut fields: Vec<_> = delta.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("_weight", DataType::Int64, false)));
    let mut columns = delta.rows.columns().to_vec();
    columns.push(Arc::new(delta.weights.clone()));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

/// What [`with_weights`] made a batch of.
pub(super) fn weighted(batch: &RecordBatch) -> Result<Delta, ArrowError> {
    let width = batch.num_columns().saturating_sub(1);
    let schema = Arc::new(batch.schema().project(&(0..width).collect::<Vec<_>>())?);
    let weights = batch.column(width).as_primitive::<Int64Type>().clone();
    Ok(Delta::new(RecordBatch::try_new(schema, batch.columns()[..width].to_vec())?, weights))
}

fn preamble(aside: &SetAside) -> Option<&[u8]> {
    (!aside.preamble.is_empty()).then_some(aside.preamble.as_ref())
}

pub(super) fn quarantine_batch(
    epoch: EpochNumber,
    rows: &[(Relation, u32, i64, SetAside)],
) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| Some(r.0.as_ref())).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| Some(r.3.reason.as_str())).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| Some(r.3.message.as_str())).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| Some(r.3.raw.as_ref())).collect::<BinaryArray>()),
        Arc::new(rows.iter().map(|r| preamble(&r.3)).collect::<BinaryArray>()),
        Arc::new(rows.iter().map(|r| Some(r.2)).collect::<TimestampMicrosecondArray>()),
        Arc::new(rows.iter().map(|r| i64::from(r.1)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.3.offset as i64).collect::<Int64Array>()),
        Arc::new(Int64Array::from_value(epoch as i64, rows.len())),
    ];
    RecordBatch::try_new(quarantine_schema(), columns)
}

pub(super) fn late_batch(
    epoch: EpochNumber,
    rows: &[(Relation, u32, i64, i64, SetAside)],
) -> Result<RecordBatch, ArrowError> {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| Some(r.0.as_ref())).collect::<StringArray>()),
        Arc::new(rows.iter().map(|r| Some(r.3)).collect::<TimestampMicrosecondArray>()),
        Arc::new(rows.iter().map(|r| Some(r.4.raw.as_ref())).collect::<BinaryArray>()),
        Arc::new(rows.iter().map(|r| preamble(&r.4)).collect::<BinaryArray>()),
        Arc::new(rows.iter().map(|r| Some(r.2)).collect::<TimestampMicrosecondArray>()),
        Arc::new(rows.iter().map(|r| i64::from(r.1)).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.4.offset as i64).collect::<Int64Array>()),
        Arc::new(Int64Array::from_value(epoch as i64, rows.len())),
    ];
    RecordBatch::try_new(late_schema(), columns)
}
