//! As-of join: each left row with the nearest right row of its key in time.
//!
//! The contract: a left row `(k, t)` is paired with the last right row of key `k` whose time is at or before `t` (or
//! before `t`), where right rows of one time are ordered by their columns from left to right, NULLs first. Its weight is the
//! left row's, however often the right row is there. Without such a row it is left out, or (`outer`) stands beside NULLs.
//! A NULL in a key or time matches nothing. "The next one after" is the same with time turned around; of several rows of
//! one time it is again the last by columns.
//!
//! The algorithm: both sides are kept in order of (key, time, row).
//!
//! ```text
//! left            l1    l2   l3        l4  l5
//! right       r1           r2      r3            <- taking r2 away moves l3 to r1; bringing it moves it back
//! ```
//!
//! 1. A right row that comes or goes moves exactly the left rows between it and the next right row: from the right row
//!    before it to itself, or back. Rows go in ascending order and come in descending order, so that one step moves a left
//!    row at most twice.
//! 2. Left rows of the delta are matched with what the right side then is.
//!
//! The law: the cost of a step follows its delta and the left rows that it moves.

use super::parts::{Parts, Sizes};
use super::{EngineError, Operator, State, StateKey, StepContext, tolerant::batch_of};
use crate::arrangement::RowEncoding;
use crate::delta::Delta;
use arrow::array::{Array, ArrayRef, new_null_array};
use arrow::compute::SortOptions;
use arrow::datatypes::{Schema, SchemaRef};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

/// Which right row is nearest to a left row, by their times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Nearest {
    /// The last with `left >= right`.
    AtOrBefore,
    /// The last with `left > right`.
    Before,
    /// The first with `left <= right`.
    AtOrAfter,
    /// The first with `left < right`.
    After,
}

/// The as-of join of two inputs.
///
/// State: the rows of both sides that can match, in order, in memory.
pub struct AsOfJoin {
    /// Whether a right row matches a left row of its own time.
    inclusive: bool,
    outer: bool,
    schema: SchemaRef,
    right_schema: SchemaRef,
    left_layout: Layout,
    right_layout: Layout,
    kept: Sides,
}

struct Sides {
    left: Ordered,
    right: Ordered,
}

/// What an as-of join is made of.
#[derive(Debug, Clone)]
pub struct AsOfConditions {
    /// Pairs of equal columns (left index, right index; of one type).
    pub on: Vec<(usize, usize)>,
    /// The columns of time (left index, right index; of one type).
    pub times: (usize, usize),
    /// Which right row is nearest.
    pub nearest: Nearest,
    /// Whether left rows without a match stay, beside NULLs.
    pub outer: bool,
}

impl AsOfJoin {
    /// The join of rows of `left` and `right`; `output` has the left columns, then the right ones.
    pub fn new(
        left: SchemaRef,
        right: SchemaRef,
        conditions: AsOfConditions,
        output: SchemaRef,
    ) -> Result<Self, EngineError> {
        let AsOfConditions { on, times, nearest, outer } = conditions;
        for &(l, r) in on.iter().chain([&times]) {
            let (l, r) = (left.field(l).data_type(), right.field(r).data_type());
            if !l.equals_datatype(r) {
                return Err(EngineError::Internal(format!("an as-of join of {l} with {r}")));
            }
        }
        let (left_keys, right_keys): (Vec<_>, Vec<_>) = on.into_iter().unzip();
        let descending = matches!(nearest, Nearest::AtOrAfter | Nearest::After);
        Ok(Self {
            inclusive: matches!(nearest, Nearest::AtOrBefore | Nearest::AtOrAfter),
            outer,
            schema: output,
            left_layout: Layout::new(&left, left_keys, times.0, descending)?,
            right_layout: Layout::new(&right, right_keys, times.1, descending)?,
            right_schema: right,
            kept: Sides { left: Ordered::default(), right: Ordered::default() },
        })
    }

    /// The right row that a left row is paired with; the left row is not among the right ones.
    fn matched(&self, left: &Place) -> Option<&[u8]> {
        let (key, time) = (&left.row[..left.key], &left.row[..left.time]);
        // All right rows of this time are before the end of the time's prefix, and none before its beginning.
        let end = if self.inclusive { after_prefix(time) } else { Some(time.to_vec()) };
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let (last, _) = self.kept.right.rows.range::<[u8], _>((Bound::Included(key), end)).next_back()?;
        last.starts_with(key).then_some(last.as_ref())
    }

    /// The right row before `right` and of its key.
    fn before(&self, right: &Place) -> Option<&[u8]> {
        let key = &right.row[..right.key];
        let range = (Bound::Included(key), Bound::Excluded(right.row.as_slice()));
        let (last, _) = self.kept.right.rows.range::<[u8], _>(range).next_back()?;
        last.starts_with(key).then_some(last.as_ref())
    }

    /// The left rows that are paired with `right` when it is there.
    fn paired(&self, right: &Place) -> impl Iterator<Item = (&[u8], i64)> {
        let range = (Bound::Excluded(right.row.as_slice()), Bound::Unbounded);
        let next = self.kept.right.rows.range::<[u8], _>(range).next();
        let key = &right.row[..right.key];
        let next = next.filter(|(row, _)| row.starts_with(key));
        // The first left row of this time, or the first of a later one; up to that of the next right row.
        let edge = |time: &[u8]| if self.inclusive { Some(time.to_vec()) } else { after_prefix(time) };
        let start = edge(&right.row[..right.time]);
        let end = match next {
            Some((row, stored)) => edge(&row[..stored.time as usize]),
            None => after_prefix(key),
        };
        let empty = match (&start, &end) {
            (None, _) => true,
            (Some(start), Some(end)) => start >= end,
            (Some(_), None) => false,
        };
        let start = start.map_or(Bound::Unbounded, Bound::Included);
        let end = end.map_or(Bound::Unbounded, Bound::Excluded);
        let rows = (!empty).then(|| self.kept.left.rows.range::<Vec<u8>, _>((start, end)));
        rows.into_iter().flatten().map(|(row, stored)| (row.as_slice(), stored.weight))
    }

    /// Applies the right delta, and notes which left rows it moves.
    fn change_right(&mut self, delta: &Delta, pairs: &mut Pairs) -> Result<(), EngineError> {
        let mut changes: BTreeMap<Vec<u8>, (Place, i64)> = BTreeMap::new();
        for (place, weight) in self.right_layout.places(delta)?.1 {
            changes.entry(place.row.clone()).or_insert((place, 0)).1 += weight;
        }
        let mut coming = Vec::new();
        for (place, weight) in changes.into_values() {
            let before = self.kept.right.weight(&place.row);
            match (before > 0, before + weight > 0) {
                (false, true) => coming.push((place, weight)),
                (true, false) => {
                    self.kept.right.add(&place, weight)?;
                    let other = self.before(&place);
                    for (left, times) in self.paired(&place) {
                        pairs.add(left, Some(&place.row), -times);
                        pairs.add(left, other, times);
                    }
                }
                _ => self.kept.right.add(&place, weight)?,
            }
        }
        for (place, weight) in coming.into_iter().rev() {
            let other = self.before(&place);
            for (left, times) in self.paired(&place) {
                pairs.add(left, other, -times);
                pairs.add(left, Some(&place.row), times);
            }
            self.kept.right.add(&place, weight)?;
        }
        Ok(())
    }

    /// The pairs as rows of the output.
    fn output(&self, pairs: Pairs) -> Result<Delta, EngineError> {
        let outer = self.outer;
        let shown = pairs.0.iter().filter(|((_, right), weight)| **weight != 0 && (outer || right.is_some()));
        let (padded, matched): (Vec<_>, Vec<_>) = shown.partition(|((_, right), _)| right.is_none());
        let mut parts = Vec::new();
        for (group, has_right) in [(matched, true), (padded, false)] {
            if group.is_empty() {
                continue;
            }
            let mut columns = self.left_layout.decode(group.iter().map(|((left, _), _)| left.as_slice()))?;
            if has_right {
                let rights = group.iter().filter_map(|((_, right), _)| right.as_deref());
                columns.extend(self.right_layout.decode(rights)?);
            } else {
                let nulls = self.right_schema.fields().iter().map(|f| new_null_array(f.data_type(), group.len()));
                columns.extend(nulls);
            }
            let weights: Vec<i64> = group.iter().map(|(_, weight)| **weight).collect();
            let rows = batch_of(self.schema.clone(), columns, group.len())?;
            parts.push(Delta::new(rows, weights.into()));
        }
        Ok(Delta::concat(&self.schema, &parts)?)
    }

    /// Left rows that can match nothing, beside NULLs.
    fn lonely(&self, rows: &Delta) -> Result<Delta, EngineError> {
        let mut columns = rows.rows.columns().to_vec();
        columns.extend(self.right_schema.fields().iter().map(|f| new_null_array(f.data_type(), rows.len())));
        Ok(Delta::new(batch_of(self.schema.clone(), columns, rows.len())?, rows.weights.clone()))
    }
}

impl Operator for AsOfJoin {
    fn name(&self) -> &'static str {
        "as_of_join"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, inputs: &[&Delta], _context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let mut pairs = Pairs::default();
        self.change_right(inputs[1], &mut pairs)?;
        let (lonely, places) = self.left_layout.places(inputs[0])?;
        for (place, weight) in places {
            let right = self.matched(&place);
            pairs.add(&place.row, right, weight);
            self.kept.left.add(&place, weight)?;
        }
        let mut output = self.output(pairs)?;
        if self.outer && !lonely.is_empty() {
            output = Delta::concat(&self.schema, &[output, self.lonely(&lonely)?])?;
        }
        Ok(output)
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.kept)
    }
}

/// Changes of pairs: a left row, its right row, and how often.
#[derive(Default)]
struct Pairs(BTreeMap<(Vec<u8>, Option<Vec<u8>>), i64>);

impl Pairs {
    fn add(&mut self, left: &[u8], right: Option<&[u8]>, weight: i64) {
        *self.0.entry((left.to_vec(), right.map(<[u8]>::to_vec))).or_default() += weight;
    }
}

/// How rows of a side are written: key, time, then the other columns.
struct Layout {
    keys: Vec<usize>,
    /// All columns as written.
    written: Vec<usize>,
    key_encoding: RowEncoding,
    time_encoding: RowEncoding,
    encoding: RowEncoding,
    /// For each column of the schema its place among those written.
    order: Vec<usize>,
}

/// A row as bytes, and where in it the key and the time end.
struct Place {
    row: Vec<u8>,
    key: usize,
    time: usize,
}

impl Layout {
    fn new(schema: &Schema, keys: Vec<usize>, time: usize, descending: bool) -> Result<Self, EngineError> {
        let first: Vec<usize> = keys.iter().copied().chain([time]).collect();
        let rest = (0..schema.fields().len()).filter(|column| !first.contains(column));
        let written: Vec<usize> = first.iter().copied().chain(rest).collect();
        let columns: Vec<_> = written
            .iter()
            .enumerate()
            .map(|(place, &column)| {
                let descending = descending && place == keys.len();
                (schema.field(column).data_type().clone(), SortOptions { descending, nulls_first: true })
            })
            .collect();
        let order = (0..schema.fields().len())
            .map(|column| written.iter().position(|&c| c == column).unwrap_or_default())
            .collect();
        Ok(Self {
            key_encoding: RowEncoding::ordered(columns[..keys.len()].to_vec())?,
            time_encoding: RowEncoding::ordered(columns[keys.len()..=keys.len()].to_vec())?,
            encoding: RowEncoding::ordered(columns)?,
            keys,
            written,
            order,
        })
    }

    /// The rows of a delta that can match, and apart from them the rows that cannot.
    fn places(&self, delta: &Delta) -> Result<(Delta, Vec<(Place, i64)>), EngineError> {
        let columns: Vec<ArrayRef> = self.written.iter().map(|&column| delta.rows.column(column).clone()).collect();
        let keys = self.key_encoding.encode(&columns[..self.keys.len()], delta.len())?;
        let times = self.time_encoding.encode(&columns[self.keys.len()..=self.keys.len()], delta.len())?;
        let rows = self.encoding.encode(&columns, delta.len())?;
        let (mut lonely, mut places) = (Vec::new(), Vec::with_capacity(delta.len()));
        for (row, &weight) in delta.weights.values().iter().enumerate() {
            if columns[..=self.keys.len()].iter().any(|column| column.is_null(row)) {
                lonely.push(row as u32);
                continue;
            }
            let key = keys.get(row).len();
            let place = Place { row: rows.get(row).to_vec(), key, time: key + times.get(row).len() };
            places.push((place, weight));
        }
        let weights = lonely.iter().map(|&row| delta.weights.value(row as usize)).collect();
        Ok((delta.pick(lonely, weights)?, places))
    }

    /// The columns of rows, in the order of the schema.
    fn decode<'a>(&'a self, rows: impl Iterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, EngineError> {
        let columns = self.encoding.decode(rows)?;
        Ok(self.order.iter().map(|&place| columns[place].clone()).collect())
    }
}

/// The least bytes that are above all that begin with `prefix`; none when there are no such.
fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != u8::MAX)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

/// Rows of one side in order.
#[derive(Default)]
struct Ordered {
    rows: BTreeMap<Vec<u8>, Stored>,
    changed: BTreeSet<Vec<u8>>,
    bytes: usize,
}

#[derive(Clone, Copy)]
struct Stored {
    weight: i64,
    /// Where the key and the time end.
    key: u32,
    time: u32,
}

impl Ordered {
    fn weight(&self, row: &[u8]) -> i64 {
        self.rows.get(row).map_or(0, |stored| stored.weight)
    }

    fn add(&mut self, place: &Place, weight: i64) -> Result<(), EngineError> {
        let too_long = |_| EngineError::Internal("a row of more than 4 GiB".into());
        let key = u32::try_from(place.key).map_err(too_long)?;
        let time = u32::try_from(place.time).map_err(too_long)?;
        let after = self.weight(&place.row) + weight;
        if after == 0 {
            if self.rows.remove(&place.row).is_some() {
                self.bytes -= place.row.len();
            }
        } else if self.rows.insert(place.row.clone(), Stored { weight: after, key, time }).is_none() {
            self.bytes += place.row.len();
        }
        self.changed.insert(place.row.clone());
        Ok(())
    }
}

/// Key: the row. Value: the weight, and where key and time end.
impl State for Ordered {
    fn changes(&mut self, emit: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>)) {
        for row in std::mem::take(&mut self.changed) {
            let key = StateKey { bytes: &row, prefix: row.len() };
            match self.rows.get(&row) {
                None => emit(key, None),
                Some(stored) => {
                    let mut value = stored.weight.to_le_bytes().to_vec();
                    value.extend(stored.key.to_le_bytes());
                    value.extend(stored.time.to_le_bytes());
                    emit(key, Some(&value));
                }
            }
        }
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let corrupt =
            || EngineError::StateCorrupt { state: "as_of_join".into(), reason: "a row's weight is malformed".into() };
        let (weight, ends) = value.split_first_chunk::<8>().ok_or_else(corrupt)?;
        let (key_end, time_end) = ends.split_first_chunk::<4>().ok_or_else(corrupt)?;
        let time = u32::from_le_bytes(time_end.try_into().map_err(|_| corrupt())?);
        let stored = Stored { weight: i64::from_le_bytes(*weight), key: u32::from_le_bytes(*key_end), time };
        if stored.key > stored.time || stored.time as usize > key.len() {
            return Err(corrupt());
        }
        self.bytes += key.len();
        self.rows.insert(key.to_vec(), stored);
        Ok(())
    }

    fn rows(&self) -> usize {
        self.rows.len()
    }

    fn bytes(&self) -> usize {
        self.bytes + self.rows.len() * (size_of::<Vec<u8>>() + size_of::<Stored>())
    }
}

impl Parts for Sides {
    fn parts(&mut self) -> Vec<&mut dyn State> {
        vec![&mut self.left, &mut self.right]
    }

    fn sizes(&self) -> Vec<Sizes> {
        vec![Sizes::of(&self.left), Sizes::of(&self.right)]
    }
}
