//! Repeats of a record: which identities were admitted, and when.
//!
//! A row repeats an admitted one when the columns `by` are equal and their times are no further apart than `within`.
//! Identities are kept as 128-bit hashes. They are let go of once the watermark shows that every row that could
//! repeat them would be late; without a declared lateness nothing is ever late, so nothing is let go of.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use arrow_row::{RowConverter, SortField};
use hashbrown::{HashMap, HashSet};
use xxhash_rust::xxh3::xxh3_128;

use crate::state::decode_error;

/// Identities admitted so far.
#[derive(Debug)]
pub struct Dedupe {
    columns: Vec<usize>,
    within_us: i64,
    converter: RowConverter,
    admitted: HashMap<u128, i64, ahash::RandomState>,
    changed: HashSet<u128, ahash::RandomState>,
    swept_at: i64,
}

impl Dedupe {
    /// Identity by `columns` of `schema`, within `within_us` microseconds.
    pub fn new(schema: &SchemaRef, columns: Vec<usize>, within_us: i64) -> Result<Self, ArrowError> {
        let fields = columns.iter().map(|i| SortField::new(schema.field(*i).data_type().clone())).collect();
        let state = ahash::RandomState::with_seeds(9, 10, 11, 12);
        Ok(Self {
            columns,
            within_us,
            converter: RowConverter::new(fields)?,
            admitted: HashMap::with_hasher(state.clone()),
            changed: HashSet::with_hasher(state),
            swept_at: i64::MIN,
        })
    }

    /// Judges rows in order; `true` for one that repeats an admitted row. Rows judged `false` are admitted from now on.
    pub fn apply(&mut self, rows: &RecordBatch, times: &[i64]) -> Result<Vec<bool>, ArrowError> {
        let columns: Vec<_> = self.columns.iter().map(|i| rows.column(*i).clone()).collect();
        let identities = self.converter.convert_columns(&columns)?;
        let mut repeats = Vec::with_capacity(times.len());
        for (index, time) in times.iter().enumerate() {
            let identity = xxh3_128(identities.row(index).data());
            let repeat = match self.admitted.get_mut(&identity) {
                Some(first) if time.abs_diff(*first) <= self.within_us as u64 => true,
                Some(first) => {
                    *first = *time;
                    false
                }
                None => {
                    self.admitted.insert(identity, *time);
                    false
                }
            };
            if !repeat {
                self.changed.insert(identity);
            }
            repeats.push(repeat);
        }
        Ok(repeats)
    }

    /// Lets go of identities whose repeats would all be late at `watermark` (µs; rows older than it are late).
    pub fn advance(&mut self, watermark: i64) {
        // Sweeping costs the whole map, so it waits until a quarter of the window has passed.
        if watermark < self.swept_at.saturating_add((self.within_us / 4).max(1)) {
            return;
        }
        self.swept_at = watermark;
        let within = self.within_us;
        let changed = &mut self.changed;
        self.admitted.retain(|identity, time| {
            let keep = time.saturating_add(within) >= watermark;
            if !keep {
                changed.insert(*identity);
            }
            keep
        });
    }

    /// Number of identities kept.
    pub fn len(&self) -> usize {
        self.admitted.len()
    }

    /// Whether none is kept.
    pub fn is_empty(&self) -> bool {
        self.admitted.is_empty()
    }

    /// Makes everything part of the next [`Dedupe::changes`].
    pub fn mark_all_changed(&mut self) {
        self.changed.extend(self.admitted.keys().copied());
    }

    /// Emits what changed since the last call.
    pub fn changes(&mut self, emit: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        for identity in self.changed.drain() {
            let time = self.admitted.get(&identity).map(|t| t.to_le_bytes());
            emit(&identity.to_le_bytes(), time.as_ref().map(<[u8; 8]>::as_slice));
        }
    }

    /// Puts back one identity.
    pub fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), ArrowError> {
        let identity = <[u8; 16]>::try_from(key).map_err(|_| decode_error("an identity"))?;
        let time = <[u8; 8]>::try_from(value).map_err(|_| decode_error("an identity's time"))?;
        self.admitted.insert(u128::from_le_bytes(identity), i64::from_le_bytes(time));
        Ok(())
    }
}
