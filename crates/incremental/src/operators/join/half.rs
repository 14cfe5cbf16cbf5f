//! Half a step of a join: one side's delta meets the other side, which stands still.

use super::super::{EngineError, RowError, StepContext, tolerant};
use super::side::{Contributions, Side};
use super::{Alone, Join, Passing};
use crate::arrangement::{EMPTY, Encoded, Head};
use crate::delta::{Delta, pick_rows};
use arrow::array::{ArrayRef, Int64Array, UInt32Array};
use arrow::compute::filter_record_batch;
use std::collections::BTreeMap;

/// So many pairs are built at a time, so that a filter can throw most of a large product away.
const PAIRS_MAX: usize = 32 * 1024;

/// Rows of the delta with the other side's records.
#[derive(Default)]
struct Pairs {
    rows: Vec<u32>,
    records: Vec<u32>,
    weights: Vec<i64>,
}

/// What the filter said of the pairs.
#[derive(Default)]
struct Passed {
    /// For each row of the delta the weight of its partners.
    own: Vec<i64>,
    /// For each record of the other side the weight of its partners in the delta.
    other: BTreeMap<u32, i64>,
}

impl Join {
    /// Applies the delta of one side.
    pub(super) fn half(
        &mut self,
        is_left: bool,
        delta: &Delta,
        output: &mut Vec<Delta>,
        context: &mut StepContext<'_>,
    ) -> Result<(), EngineError> {
        if delta.is_empty() {
            return Ok(());
        }
        let own = self.sides(is_left).0;
        let (delta, lonely) = own.part(delta)?;
        if let Some(lonely) = lonely {
            let mut alone = Contributions::default();
            for (row, &weight) in lonely.weights.values().iter().enumerate() {
                alone.come(own.alone, row as u32, weight, false);
            }
            output.extend(self.contributed(is_left, alone, Some(&lonely))?);
        }
        let passes = self.passing == Some(if is_left { Passing::Left } else { Passing::Right });
        let encoded = if passes { own.rows.encode_keys(&delta.rows)? } else { own.rows.encode(&delta.rows)? };
        let (own, other) = self.sides_mut(is_left);
        if !passes {
            own.rows.fetch(&encoded)?;
        }
        other.rows.fetch(&encoded)?;
        let heads: Vec<Head> =
            (0..delta.len()).map(|row| other.rows.probe(encoded.hashes[row], encoded.keys.get(row))).collect();

        let passed = if self.pairs || self.filter.is_some() {
            self.emit_pairs(is_left, &delta, &heads, output, context)?
        } else {
            Passed::default()
        };
        if passes {
            return Ok(());
        }

        let (own, other) = self.sides(is_left);
        let by_row = self.filter.is_some();
        let mut alone = Contributions::default();
        if own.alone != Alone::Nothing {
            for (row, &weight) in delta.weights.values().iter().enumerate() {
                let partners = if by_row { passed.own[row] } else { other.rows.stored().total(heads[row]) };
                alone.come(own.alone, row as u32, weight, partners > 0);
            }
        }
        output.extend(self.contributed(is_left, alone, Some(&delta))?);

        if by_row {
            self.flip_rows(is_left, &passed, output)?;
            self.apply_with_partners(is_left, &delta, &encoded, &passed)
        } else {
            self.apply_and_flip_keys(is_left, &delta, &encoded, &heads, output)
        }
    }

    /// The own and the other side.
    fn sides(&self, is_left: bool) -> (&Side, &Side) {
        let sides = &self.sides;
        if is_left { (&sides.left, &sides.right) } else { (&sides.right, &sides.left) }
    }

    fn sides_mut(&mut self, is_left: bool) -> (&mut Side, &mut Side) {
        let sides = &mut self.sides;
        if is_left { (&mut sides.left, &mut sides.right) } else { (&mut sides.right, &mut sides.left) }
    }

    /// Emits what rows of a side give on their own: rows of `delta`, or stored ones.
    fn contributed(
        &self,
        is_left: bool,
        alone: Contributions,
        delta: Option<&Delta>,
    ) -> Result<Option<Delta>, EngineError> {
        if alone.rows.is_empty() {
            return Ok(None);
        }
        let side = self.sides(is_left).0;
        let columns = match delta {
            Some(delta) => pick_rows(&delta.rows, &UInt32Array::from(alone.rows.clone()))?.columns().to_vec(),
            None => side.rows.decode(&alone.rows)?,
        };
        Ok(Some(alone.output(side.alone, is_left, columns, &self.schema)?))
    }

    /// Builds, filters and emits the pairs of a delta.
    fn emit_pairs(
        &self,
        is_left: bool,
        delta: &Delta,
        heads: &[Head],
        output: &mut Vec<Delta>,
        context: &mut StepContext<'_>,
    ) -> Result<Passed, EngineError> {
        let stored = self.sides(is_left).1.rows.stored();
        let mut passed = Passed { own: vec![0; delta.len()], other: BTreeMap::new() };
        let mut pairs = Pairs::default();
        for (row, (&head, &weight)) in heads.iter().zip(delta.weights.values()).enumerate() {
            if head == EMPTY {
                continue;
            }
            for record in stored.records(head) {
                pairs.rows.push(row as u32);
                pairs.records.push(record);
                pairs.weights.push(weight.wrapping_mul(stored.row_weight(record)));
                if pairs.rows.len() == PAIRS_MAX {
                    let full = std::mem::take(&mut pairs);
                    self.emit_some(is_left, delta, full, &mut passed, output, context)?;
                }
            }
        }
        self.emit_some(is_left, delta, pairs, &mut passed, output, context)?;
        Ok(passed)
    }

    fn emit_some(
        &self,
        is_left: bool,
        delta: &Delta,
        pairs: Pairs,
        passed: &mut Passed,
        output: &mut Vec<Delta>,
        context: &mut StepContext<'_>,
    ) -> Result<(), EngineError> {
        if pairs.rows.is_empty() {
            return Ok(());
        }
        let count = pairs.rows.len();
        let own: Vec<ArrayRef> = pick_rows(&delta.rows, &UInt32Array::from(pairs.rows.clone()))?.columns().to_vec();
        let (own_side, other_side) = self.sides(is_left);
        let other = other_side.rows.decode(&pairs.records)?;
        let columns = if is_left { [own, other].concat() } else { [other, own].concat() };
        let Some(filter) = &self.filter else {
            let rows = tolerant::batch_of(self.schema.clone(), columns, count)?;
            output.push(Delta::new(rows, Int64Array::from(pairs.weights)));
            return Ok(());
        };
        let rows = tolerant::batch_of(self.pair_schema.clone(), columns, count)?;
        let (mask, failures) = tolerant::evaluate_filter(filter, &rows)?;
        context.errors.extend(failures.into_iter().map(|failure| RowError {
            expression: failure.expression,
            message: failure.message,
            row: rows.slice(failure.row, 1),
            weight: pairs.weights[failure.row],
        }));
        let stored = other_side.rows.stored();
        for pair in mask.values().set_indices() {
            let (row, record) = (pairs.rows[pair], pairs.records[pair]);
            if own_side.alone != Alone::Nothing {
                let own = &mut passed.own[row as usize];
                *own = own.wrapping_add(stored.row_weight(record));
            }
            if other_side.alone != Alone::Nothing {
                let other = passed.other.entry(record).or_default();
                *other = other.wrapping_add(delta.weights.value(row as usize));
            }
        }
        if self.pairs {
            let kept = filter_record_batch(&rows, &mask)?;
            let weights = mask.values().set_indices().map(|pair| pairs.weights[pair]).collect::<Vec<_>>();
            let rows = tolerant::batch_of(self.schema.clone(), kept.columns().to_vec(), kept.num_rows())?;
            output.push(Delta::new(rows, Int64Array::from(weights)));
        }
        Ok(())
    }

    /// With a filter: rows of the other side whose number of partners changed.
    fn flip_rows(&mut self, is_left: bool, passed: &Passed, output: &mut Vec<Delta>) -> Result<(), EngineError> {
        let other = self.sides_mut(is_left).1;
        other.fetch_partners_of(passed.other.keys().copied())?;
        let mut flips = Contributions::default();
        for (&record, &change) in &passed.other {
            let row = other.rows.stored().row(record).to_vec();
            let before = other.partners_of(&row);
            let after = before.wrapping_add(change);
            other.add_partners(&row, change)?;
            if (before > 0) != (after > 0) {
                flips.flip(other.alone, record, other.rows.stored().row_weight(record), after > 0);
            }
        }
        output.extend(self.contributed(!is_left, flips, None)?);
        Ok(())
    }

    /// With a filter: adds the delta to the own side, which remembers the partners of rows that come.
    fn apply_with_partners(
        &mut self,
        is_left: bool,
        delta: &Delta,
        encoded: &Encoded,
        passed: &Passed,
    ) -> Result<(), EngineError> {
        let own = self.sides_mut(is_left).0;
        own.fetch_partners(encoded)?;
        let mut bytes = Vec::new();
        for (row, &weight) in delta.weights.values().iter().enumerate() {
            let (before, after) = own.rows.add(encoded, row, weight)?;
            if own.alone != Alone::Nothing && (before == 0) != (after == 0) {
                bytes.clear();
                bytes.extend_from_slice(encoded.keys.get(row));
                bytes.extend_from_slice(encoded.rest.get(row));
                let partners = passed.own[row];
                own.add_partners(&bytes, if after == 0 { -partners } else { partners })?;
            }
        }
        own.rows.compact();
        own.partners.compact();
        Ok(())
    }

    /// Without a filter all rows of a key have the same partners: adds the delta to the own side, and emits the other
    /// side's rows of keys that came or went.
    fn apply_and_flip_keys(
        &mut self,
        is_left: bool,
        delta: &Delta,
        encoded: &Encoded,
        heads: &[Head],
        output: &mut Vec<Delta>,
    ) -> Result<(), EngineError> {
        let (own, other) = self.sides_mut(is_left);
        if other.alone == Alone::Nothing {
            return own.rows.apply(encoded, delta.weights.values());
        }
        // One row for each key that has rows on the other side.
        let mut touched: Vec<usize> = (0..delta.len()).filter(|&row| heads[row] != EMPTY).collect();
        touched.sort_unstable_by_key(|&row| heads[row]);
        touched.dedup_by_key(|row| heads[*row]);
        let is_there = |own: &Side, row: usize| {
            own.rows.stored().total(own.rows.probe(encoded.hashes[row], encoded.keys.get(row))) > 0
        };
        let before: Vec<bool> = touched.iter().map(|&row| is_there(own, row)).collect();
        own.rows.apply(encoded, delta.weights.values())?;
        let mut flips = Contributions::default();
        for (&row, &before) in touched.iter().zip(&before) {
            let after = is_there(own, row);
            if before != after {
                for record in other.rows.stored().records(heads[row]) {
                    flips.flip(other.alone, record, other.rows.stored().row_weight(record), after);
                }
            }
        }
        output.extend(self.contributed(!is_left, flips, None)?);
        Ok(())
    }
}
