//! The first rows of an order, of all rows or of each partition: ORDER BY with LIMIT, and `row_number() .. <= k`.

use super::{EngineError, Operator, State, StepContext, tolerant::batch_of};
use crate::arrangement::{EncodedRows, Head, Multisets, Record, RowEncoding, Table, hash_of};
use crate::delta::Delta;
use arrow::array::{ArrayRef, UInt64Array};
use arrow::compute::SortOptions;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use std::cmp::Ordering;
use std::ops::Range;
use std::sync::Arc;

/// Shows the rows at the places `skip..skip + fetch` of each partition's order, which the whole row settles where it is
/// tied. A row of weight n takes n places.
///
/// Algorithm, for each partition that the delta touches: copy the rows that are shown, apply the delta, and walk over
/// both lists, which have one order, to emit what differs. State: all rows, by partition, in order; those up to the last
/// place alone when rows are promised never to go. A step costs as much as the changed rows and, for each touched
/// partition, those up to the last that is shown.
pub struct TopK {
    schema: SchemaRef,
    input: SchemaRef,
    /// The columns that part the rows, then the others, those of the order first.
    keys: Vec<usize>,
    rest: Vec<usize>,
    key_encoding: RowEncoding,
    rest_encoding: RowEncoding,
    row_encoding: RowEncoding,
    skip: i64,
    end: i64,
    number: Number,
    insert_only: bool,
    kept: Table,
}

/// The last column of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Number {
    /// There is none beside those of the input.
    Absent,
    /// 1, whatever the place.
    One,
    /// The place, from 1.
    Place,
}

impl TopK {
    /// Orders rows of `input` within `partition` by columns; without `fetch` shows all but the first `skip`.
    pub fn new(
        input: SchemaRef,
        partition: Vec<usize>,
        order: Vec<(usize, SortOptions)>,
        skip: usize,
        fetch: Option<usize>,
    ) -> Result<Self, EngineError> {
        let mut keys: Vec<(usize, SortOptions)> = Vec::new();
        for column in partition {
            if !keys.iter().any(|(key, _)| *key == column) {
                keys.push((column, SortOptions::default()));
            }
        }
        let whole = (0..input.fields().len()).map(|column| (column, SortOptions::default()));
        let mut rest: Vec<(usize, SortOptions)> = Vec::new();
        for (column, options) in order.into_iter().chain(whole) {
            if !keys.iter().chain(&rest).any(|(other, _)| *other == column) {
                rest.push((column, options));
            }
        }
        let typed = |columns: &[(usize, SortOptions)]| -> Vec<(DataType, SortOptions)> {
            columns.iter().map(|&(column, options)| (input.field(column).data_type().clone(), options)).collect()
        };
        let (key_fields, rest_fields) = (typed(&keys), typed(&rest));
        let end = fetch.map_or(i64::MAX, |fetch| i64::try_from(skip.saturating_add(fetch)).unwrap_or(i64::MAX));
        Ok(Self {
            schema: input.clone(),
            key_encoding: RowEncoding::ordered(key_fields.clone())?,
            rest_encoding: RowEncoding::ordered(rest_fields.clone())?,
            row_encoding: RowEncoding::ordered([key_fields, rest_fields].concat())?,
            keys: keys.into_iter().map(|(column, _)| column).collect(),
            rest: rest.into_iter().map(|(column, _)| column).collect(),
            input,
            skip: i64::try_from(skip).unwrap_or(i64::MAX),
            end,
            number: Number::Absent,
            insert_only: false,
            kept: Table::default(),
        })
    }

    /// Adds a last column of this name with the place of each row, from 1.
    pub fn numbered(self, name: &str) -> Self {
        self.with_number(name, Number::Place)
    }

    /// Adds a last column of this name that is 1, for when nobody asks at which of the first places a row is.
    pub fn marked(self, name: &str) -> Self {
        self.with_number(name, Number::One)
    }

    fn with_number(mut self, name: &str, number: Number) -> Self {
        let fields = self.input.fields().iter().cloned();
        let column = Arc::new(Field::new(name, DataType::UInt64, true));
        self.schema = Arc::new(Schema::new(fields.chain([column]).collect::<Vec<_>>()));
        self.number = number;
        self
    }

    /// Promises that the input never takes a row away: rows beyond the last place are then forgotten.
    pub fn insert_only(mut self) -> Self {
        self.insert_only = self.end < i64::MAX;
        self
    }

    /// The records of a partition up to the last place, in order, with the places that each takes.
    fn first(&self, head: Head, end: i64) -> Vec<(Record, i64)> {
        let stored = self.kept.stored();
        let mut records: Vec<(Record, i64)> = Vec::new();
        let mut places = 0_i64;
        for record in stored.records(head) {
            records.push((record, stored.row_weight(record)));
            places = places.saturating_add(stored.row_weight(record));
            if records.len() > Multisets::UNORDERED_MAX && places >= end {
                break; // so many are kept in order
            }
        }
        if !records.is_sorted_by_key(|&(record, _)| stored.row(record)) {
            records.sort_unstable_by_key(|&(record, _)| stored.row(record));
        }
        records
    }

    /// What is shown of a partition: records and how often.
    fn shown(&self, head: Head) -> Result<Vec<(Record, i64)>, EngineError> {
        let mut place = 0_i64;
        let mut shown = self.first(head, self.end);
        if shown.iter().any(|&(_, weight)| weight < 0) {
            return Err(EngineError::NegativeWeight { operator: "top_k" });
        }
        shown.retain_mut(|(_, weight)| {
            let after = place.saturating_add(*weight);
            let count = after.min(self.end) - place.max(self.skip);
            place = after;
            *weight = count;
            count > 0
        });
        Ok(shown)
    }

    /// Adds rows of one partition.
    fn apply(&mut self, batch: &Batch, rows: &mut [u32], weights: &[i64]) -> Result<(), EngineError> {
        let mut room = self.end;
        if self.insert_only {
            rows.sort_unstable_by_key(|&row| batch.rest.get(row as usize));
        }
        for &row in rows.iter() {
            let (row, weight) = (row as usize, weights[row as usize]);
            if self.insert_only {
                if weight < 0 {
                    return Err(EngineError::NegativeWeight { operator: "top_k" });
                }
                if room <= 0 {
                    break;
                }
                room = room.saturating_sub(weight);
            }
            let key = batch.keys.get(row);
            self.kept.add(batch.hashes[row], key, batch.rest.get(row), weight)?;
        }
        if self.insert_only
            && let Some(&row) = rows.first()
        {
            self.trim(batch.hashes[row as usize], batch.keys.get(row as usize))?;
        }
        Ok(())
    }

    /// Forgets the rows of a partition beyond the last place.
    fn trim(&mut self, hash: u64, key: &[u8]) -> Result<(), EngineError> {
        let mut place = 0_i64;
        let mut beyond = Vec::new();
        for (record, weight) in self.first(self.kept.probe(hash, key), i64::MAX) {
            if place >= self.end {
                beyond.push((self.kept.stored().row(record)[key.len()..].to_vec(), weight));
            }
            place = place.saturating_add(weight);
        }
        for (rest, weight) in beyond {
            self.kept.add(hash, key, &rest, -weight)?;
        }
        Ok(())
    }
}

/// An encoded delta.
struct Batch {
    keys: EncodedRows,
    rest: EncodedRows,
    hashes: Vec<u64>,
}

impl Batch {
    /// The rows of each partition, together, and where each partition's are.
    fn by_partition(&self) -> (Vec<u32>, Vec<Range<usize>>) {
        let mut seen: HashTable<(u64, u32, u32)> = HashTable::new();
        let mut sizes: Vec<usize> = Vec::new();
        let partitions: Vec<u32> = (0..self.hashes.len() as u32)
            .map(|row| {
                let (hash, key) = (self.hashes[row as usize], self.keys.get(row as usize));
                let same = |&(h, first, _): &(u64, u32, u32)| h == hash && self.keys.get(first as usize) == key;
                let partition = match seen.entry(hash, same, |&(h, _, _)| h) {
                    Entry::Occupied(entry) => entry.get().2,
                    Entry::Vacant(entry) => {
                        sizes.push(0);
                        entry.insert((hash, row, sizes.len() as u32 - 1)).get().2
                    }
                };
                sizes[partition as usize] += 1;
                partition
            })
            .collect();
        let mut ranges = Vec::with_capacity(sizes.len());
        let mut start = 0;
        for size in sizes {
            ranges.push(start..start);
            start += size;
        }
        let mut rows = vec![0; partitions.len()];
        for (row, partition) in partitions.into_iter().enumerate() {
            let range: &mut Range<usize> = &mut ranges[partition as usize];
            rows[range.end] = row as u32;
            range.end += 1;
        }
        (rows, ranges)
    }
}

/// Rows that are no longer stored.
#[derive(Default)]
struct Copies {
    bytes: Vec<u8>,
}

impl Copies {
    fn add(&mut self, row: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(row);
        start..self.bytes.len()
    }
}

/// A change of the output: a copied or a stored row, its weight, and its place from 1 where places count.
enum Shown {
    Copied(Range<usize>),
    Stored(Record),
}

#[derive(Default)]
struct Changes {
    rows: Vec<Shown>,
    weights: Vec<i64>,
    places: Vec<u64>,
}

impl Changes {
    fn add(&mut self, row: Shown, weight: i64, place: i64) {
        self.rows.push(row);
        self.weights.push(weight);
        self.places.push(place as u64);
    }

    /// Emits what differs between two lists in one order, where places do not count.
    fn differ(&mut self, copies: &Copies, stored: &Multisets, before: Vec<Copied>, after: Vec<(Record, i64)>) {
        let (mut before, mut after) = (before.into_iter().peekable(), after.into_iter().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((old, _)), Some((new, _))) => copies.bytes[old.clone()].cmp(stored.row(*new)),
            };
            let old = if order.is_le() { before.next() } else { None };
            let new = if order.is_ge() { after.next() } else { None };
            match (old, new) {
                (Some((_, old)), Some((record, new))) if old != new => {
                    self.add(Shown::Stored(record), new - old, 0);
                }
                (Some((copy, old)), None) => self.add(Shown::Copied(copy), -old, 0),
                (None, Some((record, new))) => self.add(Shown::Stored(record), new, 0),
                _ => {}
            }
        }
    }

    /// Emits what differs between two lists place by place, from the place `skip` + 1.
    fn differ_by_place(
        &mut self,
        copies: &Copies,
        stored: &Multisets,
        skip: i64,
        before: Vec<Copied>,
        after: Vec<(Record, i64)>,
    ) {
        let spread = |count: i64| usize::try_from(count).unwrap_or(0);
        let mut before = before.into_iter().flat_map(|(copy, count)| std::iter::repeat_n(copy, spread(count)));
        let mut after = after.into_iter().flat_map(|(record, count)| std::iter::repeat_n(record, spread(count)));
        let mut place = skip;
        loop {
            place += 1;
            let (old, new) = (before.next(), after.next());
            match (old, new) {
                (None, None) => return,
                (Some(old), Some(new)) if copies.bytes[old.clone()] == *stored.row(new) => {}
                (old, new) => {
                    if let Some(old) = old {
                        self.add(Shown::Copied(old), -1, place);
                    }
                    if let Some(new) = new {
                        self.add(Shown::Stored(new), 1, place);
                    }
                }
            }
        }
    }
}

/// A copied row and how often it was shown.
type Copied = (Range<usize>, i64);

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
        let pick = |columns: &[usize]| -> Vec<ArrayRef> {
            columns.iter().map(|&column| input.rows.column(column).clone()).collect()
        };
        let keys = self.key_encoding.encode(&pick(&self.keys), input.len())?;
        let rest = self.rest_encoding.encode(&pick(&self.rest), input.len())?;
        let hashes = (0..input.len()).map(|row| hash_of(keys.get(row))).collect();
        let batch = Batch { keys, rest, hashes };
        self.kept.warm(&batch.hashes);
        self.kept.fetch(batch.hashes.iter().enumerate().map(|(row, &hash)| (hash, batch.keys.get(row))))?;
        let (mut rows, partitions) = batch.by_partition();

        let mut copies = Copies::default();
        let mut changes = Changes::default();
        for partition in partitions {
            let rows = &mut rows[partition];
            let (hash, key) = (batch.hashes[rows[0] as usize], batch.keys.get(rows[0] as usize));
            let shown = self.shown(self.kept.probe(hash, key))?;
            let stored = self.kept.stored();
            let before = shown.into_iter().map(|(record, count)| (copies.add(stored.row(record)), count)).collect();
            self.apply(&batch, rows, input.weights.values())?;
            let after = self.shown(self.kept.probe(hash, key))?;
            let stored = self.kept.stored();
            if self.number == Number::Place {
                changes.differ_by_place(&copies, stored, self.skip, before, after);
            } else {
                changes.differ(&copies, stored, before, after);
            }
        }

        let stored = self.kept.stored();
        let decoded = self.row_encoding.decode(changes.rows.iter().map(|row| match row {
            Shown::Copied(range) => &copies.bytes[range.clone()],
            Shown::Stored(record) => stored.row(*record),
        }))?;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; decoded.len()];
        for (&column, decoded) in self.keys.iter().chain(&self.rest).zip(decoded) {
            columns[column] = Some(decoded);
        }
        let mut columns: Vec<ArrayRef> = columns.into_iter().flatten().collect();
        match self.number {
            Number::Absent => {}
            Number::One => columns.push(Arc::new(UInt64Array::from_value(1, changes.rows.len()))),
            Number::Place => columns.push(Arc::new(UInt64Array::from(changes.places))),
        }
        let output = batch_of(self.schema.clone(), columns, changes.rows.len())?;
        self.kept.compact();
        Ok(Delta::new(output, changes.weights.into()))
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.kept)
    }
}
