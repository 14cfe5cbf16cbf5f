//! One side of a join: its rows, and what they give on their own.

use super::super::{EngineError, tolerant::batch_of};
use super::Alone;
use crate::arrangement::{Arrangement, Encoded, Table, hash_of};
use crate::delta::Delta;
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, new_null_array};
use arrow::buffer::NullBuffer;
use arrow::compute::not;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

pub(super) struct Side {
    pub keys: Vec<usize>,
    pub alone: Alone,
    pub rows: Arrangement,
    /// With a filter, when rows give something on their own: the number of partners by row.
    pub partners: Table,
    null_equal: bool,
}

impl Side {
    pub fn new(schema: SchemaRef, keys: Vec<usize>, alone: Alone, null_equal: bool) -> Result<Self, EngineError> {
        let rows = Arrangement::new(&schema, &keys)?;
        Ok(Self { keys, alone, rows, partners: Table::default(), null_equal })
    }

    /// Parts a delta into rows that can have partners, and rows that cannot because their key holds a NULL.
    pub fn part(&self, delta: &Delta) -> Result<(Delta, Option<Delta>), EngineError> {
        if self.null_equal {
            return Ok((delta.clone(), None));
        }
        let nulls = self
            .keys
            .iter()
            .map(|&key| delta.rows.column(key).logical_nulls())
            .reduce(|all, one| NullBuffer::union(all.as_ref(), one.as_ref()))
            .flatten();
        match nulls {
            Some(nulls) if nulls.null_count() > 0 => {
                let valid = BooleanArray::new(nulls.into_inner(), None);
                Ok((delta.filter(&valid)?, Some(delta.filter(&not(&valid)?)?)))
            }
            _ => Ok((delta.clone(), None)),
        }
    }

    /// Brings the numbers of partners of stored rows into memory.
    pub fn fetch_partners_of(&mut self, records: impl Iterator<Item = u32>) -> Result<(), EngineError> {
        let stored = self.rows.stored();
        self.partners.fetch(records.map(|record| stored.row(record)).map(|row| (hash_of(row), row)))
    }

    /// Brings the numbers of partners of a batch's rows into memory.
    pub fn fetch_partners(&mut self, batch: &Encoded) -> Result<(), EngineError> {
        if self.alone == Alone::Nothing || !self.partners.is_partial() {
            return Ok(());
        }
        let rows = (0..batch.keys.len()).map(|row| [batch.keys.get(row), batch.rest.get(row)].concat());
        let rows: Vec<Vec<u8>> = rows.collect();
        self.partners.fetch(rows.iter().map(|row| (hash_of(row), row.as_slice())))
    }

    /// The number of partners, by the bytes of a row.
    pub fn partners_of(&self, row: &[u8]) -> i64 {
        self.partners.weight(hash_of(row), row, &[])
    }

    pub fn add_partners(&mut self, row: &[u8], count: i64) -> Result<(), EngineError> {
        if count != 0 {
            self.partners.add(hash_of(row), row, &[], count)?;
        }
        Ok(())
    }
}

/// Rows of one side with what they give on their own.
#[derive(Default)]
pub(super) struct Contributions {
    /// Index into a delta, or record.
    pub rows: Vec<u32>,
    pub weights: Vec<i64>,
    marks: Vec<bool>,
}

impl Contributions {
    /// A row of this weight has come, and has a partner or not.
    pub fn come(&mut self, alone: Alone, row: u32, weight: i64, matched: bool) {
        let counts = match alone {
            Alone::Nothing => false,
            Alone::Padded | Alone::Unmatched => !matched,
            Alone::Matched => matched,
            Alone::Mark => true,
        };
        if counts {
            self.rows.push(row);
            self.weights.push(weight);
            self.marks.push(matched);
        }
    }

    /// A row of this weight has found its first partner or lost its last.
    pub fn flip(&mut self, alone: Alone, row: u32, weight: i64, matched: bool) {
        self.come(alone, row, weight.wrapping_neg(), !matched);
        self.come(alone, row, weight, matched);
    }

    /// The output for these rows, whose `columns` are given.
    pub fn output(
        self,
        alone: Alone,
        is_left: bool,
        mut columns: Vec<ArrayRef>,
        output: &SchemaRef,
    ) -> Result<Delta, EngineError> {
        let rows = self.rows.len();
        match alone {
            Alone::Mark => columns.push(Arc::new(BooleanArray::from(self.marks))),
            Alone::Padded => {
                let fields = output.fields();
                let missing = fields.len() - columns.len();
                let fields = if is_left { &fields[columns.len()..] } else { &fields[..missing] };
                let nulls = fields.iter().map(|field| new_null_array(field.data_type(), rows));
                if is_left {
                    columns.extend(nulls);
                } else {
                    columns = nulls.chain(columns).collect();
                }
            }
            _ => {}
        }
        Ok(Delta::new(batch_of(output.clone(), columns, rows)?, Int64Array::from(self.weights)))
    }
}
