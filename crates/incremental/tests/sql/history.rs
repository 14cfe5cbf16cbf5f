//! Histories: rows that come and go, cut into epochs.
//!
//! A history is a list of lives of rows, ordered in ticks, and a list of cuts between ticks. So it can be made smaller by
//! leaving out lives or cuts, and stays sound: nothing is taken away that is not there.

use super::harness::{Chance, Row, SECOND, START, batch_of, schemas, value};
use arrow::array::Int64Array;
use arrow::record_batch::RecordBatch;
use std::collections::HashMap;
use weir_incremental::{Delta, Relation};

const DAY: i64 = 86_400 * SECOND;

/// A row from the tick at which it comes to that at which it goes.
#[derive(Debug, Clone)]
pub struct Life {
    /// Index into [`schemas`].
    pub relation: usize,
    /// The row.
    pub row: Row,
    /// When it comes.
    pub born: usize,
    /// When it goes: after it has come.
    pub died: usize,
}

/// Lives of rows, cut into epochs.
#[derive(Debug, Clone)]
pub struct History {
    /// In no order.
    pub lives: Vec<Life>,
    /// For each epoch the tick before which it ends, ascending, and its clock.
    pub epochs: Vec<(usize, i64)>,
    /// No row ever goes.
    pub grows: bool,
}

impl History {
    /// Draws about `epochs` epochs. Some histories are cut at every tick, some not at all. In the last epoch every row
    /// that is left goes, unless the relations only grow.
    pub fn draw(chance: &mut Chance, epochs: usize, grows: bool) -> Self {
        let mut lives: Vec<Life> = Vec::new();
        let mut alive: Vec<Vec<usize>> = vec![Vec::new(); schemas().len()];
        let ticks = 5 + 9 * epochs;
        for tick in 0..ticks {
            let relation = [0, 0, 0, 1, 1, 2][chance.below(6) as usize];
            let there = alive[relation].len();
            let any = |chance: &mut Chance| chance.below(there as u64) as usize;
            let change = match (there, grows) {
                (0, _) => 9,
                (_, true) => 6 + chance.below(4),
                (_, false) => chance.below(10),
            };
            let row = match change {
                0..3 => {
                    let index = any(chance);
                    lives[alive[relation].swap_remove(index)].died = tick;
                    continue;
                }
                // A row is replaced by one that differs in some columns, now and then several times in a row.
                3..6 => {
                    let index = if chance.once_in(3) { there - 1 } else { any(chance) };
                    let old = alive[relation].remove(index);
                    lives[old].died = tick;
                    let mut row = lives[old].row.clone();
                    for (place, field) in schemas()[relation].1.fields().iter().enumerate().skip(1) {
                        if chance.once_in(3) {
                            row[place] = value(field.data_type(), field.name(), chance);
                        }
                    }
                    row
                }
                // A row that is there already, or almost: a tie.
                6..8 => {
                    let mut row = lives[alive[relation][any(chance)]].row.clone();
                    if chance.once_in(2) {
                        row[0] = value(schemas()[relation].1.field(0).data_type(), "id", chance);
                    }
                    row
                }
                _ => schemas()[relation].1.fields().iter().map(|f| value(f.data_type(), f.name(), chance)).collect(),
            };
            alive[relation].push(lives.len());
            lives.push(Life { relation, row, born: tick, died: if grows { usize::MAX } else { ticks } });
        }
        let style = chance.below(4);
        let mut now = START + 2 * DAY;
        let mut cuts = Vec::new();
        for tick in 1..=ticks {
            let cut = match style {
                0 => tick == ticks,
                1 => tick % (ticks / epochs.max(1)).max(1) == 0 || tick == ticks,
                2 => tick + 2 * epochs > ticks,
                _ => chance.once_in(9) || tick == ticks,
            };
            if cut {
                now += [1, SECOND, 3600 * SECOND, DAY, 5 * DAY][chance.below(5) as usize];
                cuts.push((tick, now));
            }
        }
        // All that is left goes in an epoch of its own.
        now += DAY;
        cuts.push((ticks + 1, now));
        Self { lives, epochs: cuts, grows }
    }

    /// The deltas of epoch `index`.
    pub fn deltas(&self, index: usize) -> HashMap<Relation, Delta> {
        let start = if index == 0 { 0 } else { self.epochs[index - 1].0 };
        let end = self.epochs[index].0;
        let within = |tick: usize| start <= tick && tick < end;
        let mut changes: Vec<Vec<(usize, &Row, i64)>> = vec![Vec::new(); schemas().len()];
        for life in &self.lives {
            if within(life.born) {
                changes[life.relation].push((2 * life.born + 1, &life.row, 1));
            }
            if within(life.died) {
                changes[life.relation].push((2 * life.died, &life.row, -1));
            }
        }
        let mut deltas = HashMap::new();
        for ((relation, schema), mut changes) in schemas().into_iter().zip(changes) {
            if !changes.is_empty() {
                changes.sort_by_key(|(order, _, _)| *order);
                let rows: Vec<Row> = changes.iter().map(|(_, row, _)| (*row).clone()).collect();
                let weights: Vec<i64> = changes.iter().map(|(_, _, weight)| *weight).collect();
                deltas.insert(relation, Delta::new(batch_of(&schema, &rows), Int64Array::from(weights)));
            }
        }
        deltas
    }

    /// What each relation holds at the end of epoch `index`.
    pub fn contents(&self, index: usize) -> Vec<(Relation, RecordBatch)> {
        let end = self.epochs[index].0;
        let held = |(relation, (name, schema)): (usize, (Relation, arrow::datatypes::SchemaRef))| {
            let there = self.lives.iter().filter(|l| l.relation == relation && l.born < end && l.died >= end);
            let rows: Vec<Row> = there.map(|life| life.row.clone()).collect();
            (name, batch_of(&schema, &rows))
        };
        schemas().into_iter().enumerate().map(held).collect()
    }

    /// Whether anything is there at the end.
    pub fn ends_empty(&self) -> bool {
        self.epochs.last().is_some_and(|(end, _)| self.lives.iter().all(|life| life.died < *end))
    }
}
