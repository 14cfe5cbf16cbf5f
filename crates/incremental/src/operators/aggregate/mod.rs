//! GROUP BY: aggregates kept by group.
//!
//! A step encodes and hashes the group columns of the whole delta, finds the groups, takes their results, adds the delta
//! to them column by column, takes their results again, and emits the difference of those that changed.

mod accumulators;
mod by_group;
mod call;
mod extremes;
mod groups;
mod kept;
mod seen;

use self::call::Call;
pub use self::call::{AggregateCall, AggregateFunction};
use self::groups::Groups;
use self::kept::Kept;
use super::{EngineError, Operator, State, StepContext, tolerant::batch_of};
use crate::arrangement::{canonical_floats, hash_of};
use crate::delta::Delta;
use arrow::array::{Array, ArrayRef, BooleanArray, Int64Array, UInt32Array, make_comparator};
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::{concat, filter, take};
use arrow::datatypes::SchemaRef;

/// Groups by columns and computes aggregates; NULLs group together.
///
/// Without group columns there is always exactly one output row, from the first step on. State: by group the weight of
/// its rows, and what each aggregate needs; for `min`, `max` and DISTINCT every different value with its weight.
pub struct Aggregate {
    schema: SchemaRef,
    columns: Vec<usize>,
    kept: Kept,
}

impl Aggregate {
    /// Groups rows of `input` by `groups`. `schema` is the output's: the group columns, then one column a call. Calls
    /// that are not [`AggregateCall::is_supported`] are an error.
    pub fn new(
        input: SchemaRef,
        groups: Vec<usize>,
        calls: Vec<AggregateCall>,
        schema: SchemaRef,
    ) -> Result<Self, EngineError> {
        let types = groups.iter().map(|&column| input.field(column).data_type().clone()).collect();
        let calls = calls.into_iter().map(|call| Call::new(&input, call)).collect::<Result<_, _>>()?;
        Ok(Self { schema, columns: groups, kept: Kept::new(Groups::new(types)?, calls) })
    }

    /// Promises that the input never takes a row away, which saves the memory of all values for `min` and `max`.
    pub fn insert_only(mut self) -> Self {
        for call in &mut self.kept.calls {
            call.accumulator.insert_only();
        }
        self
    }
}

impl Operator for Aggregate {
    fn name(&self) -> &'static str {
        "aggregate"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn emits_at_start(&self) -> bool {
        self.columns.is_empty()
    }

    fn step(&mut self, inputs: &[&Delta], _context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let input = inputs[0];
        let global = self.columns.is_empty();
        if global {
            self.kept.fetch(&self.kept.groups.encode(&[], 1)?)?;
        }
        let starts = global && self.kept.groups.is_empty();
        if input.is_empty() && !starts {
            return Ok(Delta::empty(self.schema.clone()));
        }
        let columns: Vec<ArrayRef> = self.columns.iter().map(|&column| input.rows.column(column).clone()).collect();
        let keys = self.kept.groups.encode(&columns, input.len())?;
        self.kept.fetch(&keys)?;

        let Kept { groups, calls, .. } = &mut self.kept;
        let found = groups.find(&keys)?;
        let (of_row, touched, first_rows) = (found.of_row, found.touched, found.first_rows);
        let touched = if starts { vec![groups.one(hash_of(&[]), &[])?] } else { touched };
        for call in calls.iter_mut() {
            call.accumulator.grow(groups.len());
        }
        let existed: Vec<bool> =
            if global { vec![!starts] } else { touched.iter().map(|&group| groups.weight(group) != 0).collect() };
        let before = results(calls, &touched)?;

        self.kept.update(input, &of_row)?;

        let Kept { groups, calls, .. } = &mut self.kept;
        let mut exist = Vec::with_capacity(touched.len());
        for &group in &touched {
            let weight = groups.weight(group);
            if weight < 0 {
                return Err(EngineError::NegativeWeight { operator: "aggregate" });
            }
            exist.push(global || weight > 0);
        }
        let after = results(calls, &touched)?;
        let changed = changed(&before, &after, touched.len())?;
        let keys = first_rows_of(&columns, first_rows)?;
        let output = difference(&self.schema, &keys, (&before, &existed), (&after, &exist), &changed)?;

        for (&group, &exists) in touched.iter().zip(&exist) {
            if exists {
                groups.mark(group);
            } else {
                groups.remove(group);
                for call in calls.iter_mut() {
                    call.accumulator.forget(group);
                }
            }
        }
        groups.compact();
        Ok(output)
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        Some(&mut self.kept)
    }
}

fn results(calls: &[Call], groups: &[u32]) -> Result<Vec<ArrayRef>, EngineError> {
    calls.iter().map(|call| call.accumulator.evaluate(groups)).collect()
}

fn first_rows_of(columns: &[ArrayRef], rows: Vec<u32>) -> Result<Vec<ArrayRef>, EngineError> {
    let rows = UInt32Array::from(rows);
    columns.iter().map(|column| Ok(canonical_floats(&take(column, &rows, None)?)?)).collect()
}

/// Which rows differ in any column.
fn changed(before: &[ArrayRef], after: &[ArrayRef], rows: usize) -> Result<Vec<bool>, EngineError> {
    let mut changed = vec![false; rows];
    for (before, after) in before.iter().zip(after) {
        if before.data_type().is_nested() {
            let compare = make_comparator(before, after, Default::default())?;
            for (row, changed) in changed.iter_mut().enumerate() {
                *changed |= compare(row, row).is_ne();
            }
        } else {
            let differs = distinct(before, after)?;
            for row in differs.values().set_indices() {
                changed[row] = true;
            }
        }
    }
    Ok(changed)
}

/// Takes away the results of groups that changed or went, and adds those of groups that changed or came.
fn difference(
    schema: &SchemaRef,
    keys: &[ArrayRef],
    (before, existed): (&[ArrayRef], &[bool]),
    (after, exist): (&[ArrayRef], &[bool]),
    changed: &[bool],
) -> Result<Delta, EngineError> {
    let mask = |this: &[bool], that: &[bool]| -> BooleanArray {
        this.iter().zip(that).zip(changed).map(|((&this, &that), &changed)| Some(this && (changed || !that))).collect()
    };
    let (old, new) = (mask(existed, exist), mask(exist, existed));
    let pieces = keys.iter().zip(keys).chain(before.iter().zip(after));
    let columns = pieces
        .map(|(before, after)| Ok(concat(&[&filter(before, &old)?, &filter(after, &new)?])?))
        .collect::<Result<Vec<_>, EngineError>>()?;
    let (old, new) = (old.true_count(), new.true_count());
    let weights: Int64Array =
        std::iter::repeat_n(-1, old).chain(std::iter::repeat_n(1, new)).collect::<Vec<_>>().into();
    Ok(Delta::new(batch_of(schema.clone(), columns, old + new)?, weights))
}
