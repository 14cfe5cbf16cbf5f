//! Rows that come and go by schedule.

use super::{EngineError, Operator, State, StateKey, StepContext};
use crate::arrangement::{EMPTY, Head, Multisets, RowEncoding};
use crate::delta::Delta;
use arrow::array::{Array, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, SchemaRef, TimeUnit, TimestampMicrosecondType};
use std::collections::BTreeMap;

/// Shows a row at clock t iff lower <= t (a NULL bound: never) and t < upper (a NULL bound: never).
///
/// Bounds are timestamp-microsecond columns. State: the rows that have something before them, by the instant of it: to
/// appear, or to disappear; in memory. The clock never goes back: an earlier one counts as the latest seen.
pub struct TemporalFilter {
    schema: SchemaRef,
    lower: Option<usize>,
    upper: Option<usize>,
    encoding: RowEncoding,
    now: i64,
    waiting: Waiting,
}

/// Rows by due instant. Their key is the instant, 8 bytes big-endian.
#[derive(Default)]
struct Waiting {
    by_due: BTreeMap<i64, Head>,
    rows: Multisets,
}

impl TemporalFilter {
    /// A filter of rows of `input` by the columns `lower` (inclusive) and `upper` (exclusive); a side without a column
    /// has no bound.
    pub fn new(input: SchemaRef, lower: Option<usize>, upper: Option<usize>) -> Result<Self, EngineError> {
        for column in lower.iter().chain(&upper) {
            let data_type = input.field(*column).data_type();
            if !matches!(data_type, DataType::Timestamp(TimeUnit::Microsecond, _)) {
                return Err(EngineError::Internal(format!("a bound of a temporal filter is {data_type}")));
            }
        }
        let types = input.fields().iter().map(|field| field.data_type().clone()).collect();
        let encoding = RowEncoding::new(types)?;
        Ok(Self { schema: input, lower, upper, encoding, now: i64::MIN, waiting: Waiting::default() })
    }

    /// The rows whose instant has come: those that appear, and those that disappear.
    fn fall_due(&mut self) -> Result<Delta, EngineError> {
        let Some((&first, _)) = self.waiting.by_due.first_key_value() else {
            return Ok(Delta::empty(self.schema.clone()));
        };
        if first > self.now {
            return Ok(Delta::empty(self.schema.clone()));
        }
        let (mut rows, mut weights, mut dues) = (Vec::new(), Vec::new(), Vec::new());
        for (&due, &head) in self.waiting.by_due.range(..=self.now) {
            for record in self.waiting.rows.records(head) {
                rows.push(self.waiting.rows.row(record)[8..].to_vec());
                weights.push(self.waiting.rows.row_weight(record));
                dues.push(due);
            }
        }
        for ((row, &weight), &due) in rows.iter().zip(&weights).zip(&dues) {
            self.waiting.add(due, row, -weight)?;
        }
        let columns = self.encoding.decode(rows.iter().map(Vec::as_slice))?;
        let batch = RecordBatch::try_new(self.schema.clone(), columns)?;
        let bounds = Bounds::of(&batch, self.lower, self.upper);
        let (mut indices, mut changes) = (Vec::new(), Vec::new());
        for (row, &weight) in weights.iter().enumerate() {
            let (lower, upper) = bounds.get(row);
            let appears = dues[row] == lower;
            if !appears {
                indices.push(row as u32);
                changes.push(-weight);
            } else if self.now < upper {
                indices.push(row as u32);
                changes.push(weight);
                if upper < i64::MAX {
                    self.waiting.add(upper, &rows[row], weight)?;
                }
            }
        }
        Ok(Delta::new(batch, Int64Array::from(weights)).pick(indices, changes)?)
    }

    fn take_in(&mut self, input: &Delta) -> Result<Delta, EngineError> {
        let encoded = self.encoding.encode(input.rows.columns(), input.len())?;
        let bounds = Bounds::of(&input.rows, self.lower, self.upper);
        let (mut indices, mut weights) = (Vec::new(), Vec::new());
        for (row, &weight) in input.weights.values().iter().enumerate() {
            let (lower, upper) = bounds.get(row);
            if lower >= upper || self.now >= upper {
                continue;
            }
            if self.now < lower {
                self.waiting.add(lower, encoded.get(row), weight)?;
                continue;
            }
            indices.push(row as u32);
            weights.push(weight);
            if upper < i64::MAX {
                self.waiting.add(upper, encoded.get(row), weight)?;
            }
        }
        Ok(input.pick(indices, weights)?)
    }
}

impl Operator for TemporalFilter {
    fn name(&self) -> &'static str {
        "temporal_filter"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, inputs: &[&Delta], context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        self.now = self.now.max(context.now);
        let due = self.fall_due()?;
        let new = self.take_in(inputs[0])?.with_schema(self.schema.clone())?;
        if self.waiting.rows.is_sparse() {
            self.waiting.rows.compact(self.waiting.by_due.values_mut());
        }
        if due.is_empty() {
            return Ok(new);
        }
        Ok(Delta::concat(&self.schema, &[due, new])?)
    }

    fn next_due(&self) -> Option<i64> {
        self.waiting.by_due.first_key_value().map(|(&due, _)| due)
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.waiting)
    }
}

impl Waiting {
    fn add(&mut self, due: i64, row: &[u8], weight: i64) -> Result<(), EngineError> {
        let head = self.by_due.get(&due).copied().unwrap_or(EMPTY);
        let added = self.rows.add(head, &due.to_be_bytes(), row, weight)?;
        if added.head == EMPTY {
            self.by_due.remove(&due);
        } else if added.head != head {
            self.by_due.insert(due, added.head);
        }
        Ok(())
    }
}

/// Key: the instant, then the row. Value: the weight.
impl State for Waiting {
    fn changes(&mut self, emit: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>)) {
        self.rows.changes(&mut |row, _, weight| {
            let key = StateKey { bytes: row, prefix: row.len() };
            emit(key, weight.map(i64::to_le_bytes).as_ref().map(|weight| weight.as_slice()));
        });
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let (Some((due, row)), Ok(weight)) = (key.split_first_chunk::<8>(), value.try_into()) else {
            let reason = "a waiting row is malformed".into();
            return Err(EngineError::StateCorrupt { state: "temporal_filter".into(), reason });
        };
        let due = i64::from_be_bytes(*due);
        let head = self.by_due.get(&due).copied().unwrap_or(EMPTY);
        let head = self.rows.load(head, &due.to_be_bytes(), row, i64::from_le_bytes(weight))?;
        self.by_due.insert(due, head);
        Ok(())
    }

    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn bytes(&self) -> usize {
        self.rows.bytes() + self.by_due.len() * 16
    }
}

/// The bounds of the rows of a batch, as half-open intervals.
struct Bounds<'a> {
    lower: Option<&'a arrow::array::TimestampMicrosecondArray>,
    upper: Option<&'a arrow::array::TimestampMicrosecondArray>,
}

impl<'a> Bounds<'a> {
    fn of(batch: &'a RecordBatch, lower: Option<usize>, upper: Option<usize>) -> Self {
        let column = |index: usize| batch.column(index).as_primitive::<TimestampMicrosecondType>();
        Self { lower: lower.map(column), upper: upper.map(column) }
    }

    /// An empty interval when a bound is NULL.
    fn get(&self, row: usize) -> (i64, i64) {
        let never = (i64::MAX, i64::MIN);
        let lower = match self.lower {
            None => i64::MIN,
            Some(column) if column.is_null(row) => return never,
            Some(column) => column.value(row),
        };
        match self.upper {
            None => (lower, i64::MAX),
            Some(column) if column.is_null(row) => never,
            Some(column) => (lower, column.value(row)),
        }
    }
}
