//! Rows as 128-bit hashes, for finding equal ones without keeping them.

use arrow::array::RecordBatch;
use arrow::datatypes::Schema;
use arrow_row::{RowConverter, SortField};
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_128_with_seed;

use super::LakeError;

/// Hashes of some columns of rows. Seeded by chance, so that nobody can prepare rows that collide.
pub(crate) struct RowKeys {
    converter: RowConverter,
    columns: Vec<usize>,
    seed: u64,
}

impl RowKeys {
    /// For rows of `schema`, by `columns`.
    pub fn new(schema: &Schema, columns: &[usize]) -> Result<Self, LakeError> {
        Self::with_seed(schema, columns, Uuid::new_v4().as_u128() as u64)
    }

    /// As [`RowKeys::new`], with hashes that another run will find again.
    pub fn with_seed(schema: &Schema, columns: &[usize], seed: u64) -> Result<Self, LakeError> {
        let fields = columns.iter().map(|index| SortField::new(schema.field(*index).data_type().clone()));
        Ok(Self { converter: RowConverter::new(fields.collect())?, columns: columns.to_vec(), seed })
    }

    /// One hash a row.
    pub fn of(&self, batch: &RecordBatch) -> Result<Vec<u128>, LakeError> {
        if self.columns.is_empty() {
            return Ok(vec![0; batch.num_rows()]);
        }
        let columns: Vec<_> = self.columns.iter().map(|index| batch.column(*index).clone()).collect();
        let rows = self.converter.convert_columns(&columns)?;
        Ok(rows.iter().map(|row| xxh3_128_with_seed(row.as_ref(), self.seed)).collect())
    }
}
