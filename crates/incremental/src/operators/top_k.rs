//! ORDER BY with LIMIT: the rows at some places of the order.

use super::{EngineError, Operator, State, StepContext, tolerant::batch_of};
use crate::arrangement::{EMPTY, Head, Multisets, RowEncoding};
use crate::delta::Delta;
use arrow::array::ArrayRef;
use arrow::compute::SortOptions;
use arrow::datatypes::SchemaRef;
use std::collections::BTreeMap;

/// Shows the rows at the places `skip..skip + fetch` of an order, which the whole row settles where it is tied.
///
/// State: all rows, in order. A step costs as much as the changed rows and those up to the last that is shown.
pub struct TopK {
    schema: SchemaRef,
    order: Vec<usize>,
    skip: usize,
    fetch: Option<usize>,
    /// The order's columns, then all columns.
    encoding: RowEncoding,
    kept: Ordered,
}

/// All rows as one multiset.
struct Ordered {
    head: Head,
    rows: Multisets,
}

impl TopK {
    /// Orders rows of `input` by columns; without `fetch` shows all but the first `skip`.
    pub fn new(
        input: SchemaRef,
        order: Vec<(usize, SortOptions)>,
        skip: usize,
        fetch: Option<usize>,
    ) -> Result<Self, EngineError> {
        let sorted = order.iter().map(|&(column, options)| (input.field(column).data_type().clone(), options));
        let all = input.fields().iter().map(|field| (field.data_type().clone(), SortOptions::default()));
        let encoding = RowEncoding::ordered(sorted.chain(all).collect())?;
        let order = order.into_iter().map(|(column, _)| column).collect();
        let kept = Ordered { head: EMPTY, rows: Multisets::default() };
        Ok(Self { schema: input, order, skip, fetch, encoding, kept })
    }

    /// The rows that are shown now, and how often.
    fn shown(&self) -> BTreeMap<Vec<u8>, i64> {
        let rows = &self.kept.rows;
        let mut records: Vec<u32> = Vec::new();
        let end = self.fetch.map_or(i64::MAX, |fetch| self.skip.saturating_add(fetch) as i64);
        // Few rows are not kept in order; many are, and then the first suffice.
        let sorted = rows.rows() > Multisets::UNORDERED_MAX;
        let mut seen = 0_i64;
        for record in rows.records(self.kept.head) {
            if sorted && seen >= end {
                break;
            }
            seen = seen.saturating_add(rows.row_weight(record));
            records.push(record);
        }
        records.sort_by_key(|&record| rows.row(record));
        let mut shown = BTreeMap::new();
        let mut place = 0_i64;
        for record in records {
            let after = place.saturating_add(rows.row_weight(record));
            let count = after.min(end) - place.max(self.skip as i64);
            if count > 0 {
                shown.insert(rows.row(record).to_vec(), count);
            }
            place = after;
        }
        shown
    }
}

impl Operator for TopK {
    fn name(&self) -> &'static str {
        "top_k"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, inputs: &[&Delta], _context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let input = inputs[0];
        if input.is_empty() {
            return Ok(Delta::empty(self.schema.clone()));
        }
        let mut changes = self.shown();
        changes.values_mut().for_each(|count| *count = -*count);
        let sorted = self.order.iter().map(|&column| input.rows.column(column).clone());
        let columns: Vec<ArrayRef> = sorted.chain(input.rows.columns().iter().cloned()).collect();
        let encoded = self.encoding.encode(&columns, input.len())?;
        for (row, &weight) in input.weights.values().iter().enumerate() {
            self.kept.add(encoded.get(row), weight)?;
        }
        if self.kept.rows.is_sparse() {
            self.kept.rows.compact(std::iter::once(&mut self.kept.head));
        }
        for (row, count) in self.shown() {
            *changes.entry(row).or_default() += count;
        }
        changes.retain(|_, count| *count != 0);
        let mut columns = self.encoding.decode(changes.keys().map(Vec::as_slice))?;
        let columns = columns.split_off(self.order.len());
        let rows = batch_of(self.schema.clone(), columns, changes.len())?;
        Ok(Delta::new(rows, changes.values().copied().collect::<Vec<_>>().into()))
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.kept)
    }
}

impl Ordered {
    fn add(&mut self, row: &[u8], weight: i64) -> Result<(), EngineError> {
        self.head = self.rows.add(self.head, &[], row, weight)?.head;
        Ok(())
    }
}

/// Key: the row. Value: the weight.
impl State for Ordered {
    fn changes(&mut self, emit: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        self.rows.changes(&mut |row, value| match value {
            None => emit(row, None),
            Some((_, weight)) => emit(row, Some(&weight.to_le_bytes())),
        });
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let Ok(weight) = value.try_into() else {
            let reason = "the weight of a row is malformed".into();
            return Err(EngineError::StateCorrupt { state: "top_k".into(), reason });
        };
        self.add(key, i64::from_le_bytes(weight))?;
        self.rows.mark_persisted();
        Ok(())
    }

    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn bytes(&self) -> usize {
        self.rows.bytes()
    }
}
