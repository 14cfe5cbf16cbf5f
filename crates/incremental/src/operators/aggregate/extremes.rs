//! `min` and `max`: the ordered values of each group, so that the extreme one can be taken away.

use super::super::EngineError;
use super::accumulators::Accumulator;
use super::by_group::{ByGroup, NUMBER_BYTES, split};
use crate::arrangement::{EMPTY, Head, Multisets, RowEncoding};
use arrow::array::{ArrayRef, UInt32Array, new_null_array};
use arrow::compute::take;
use arrow::datatypes::DataType;

pub(super) struct Extremes {
    encoding: RowEncoding,
    output: DataType,
    greatest: bool,
    insert_only: bool,
    values: Values,
}

/// The values by group. The key of a value is its group's number, 4 bytes.
#[derive(Default)]
struct Values {
    heads: Vec<Head>,
    sets: Multisets,
}

impl Extremes {
    pub fn new(data_type: &DataType, greatest: bool) -> Result<Self, EngineError> {
        let encoding = RowEncoding::new(vec![data_type.clone()])?;
        let output = data_type.clone();
        Ok(Self { encoding, output, greatest, insert_only: false, values: Values::default() })
    }

    fn extreme(&self, group: u32) -> Option<u32> {
        let head = self.values.heads[group as usize];
        if self.greatest { self.values.sets.last(head) } else { self.values.sets.first(head) }
    }

    /// Keeps only the extreme value of a group that loses none.
    fn replace(&mut self, group: u32, value: &[u8], weight: i64) -> Result<(), EngineError> {
        if weight < 0 {
            return Err(EngineError::NegativeWeight { operator: "aggregate" });
        }
        if let Some(record) = self.extreme(group) {
            let old = &self.values.sets.row(record)[NUMBER_BYTES..];
            if (self.greatest && value <= old) || (!self.greatest && value >= old) {
                return Ok(());
            }
            let (old, weight) = (old.to_vec(), self.values.sets.row_weight(record));
            self.values.add(group, &old, -weight)?;
        }
        self.values.add(group, value, weight)
    }
}

impl Accumulator for Extremes {
    fn grow(&mut self, groups: usize) {
        self.values.grow(groups);
    }

    fn update(&mut self, values: Option<&ArrayRef>, weights: &[i64], groups: &[u32]) -> Result<(), EngineError> {
        let values = self.encoding.encode(values.map_or(&[], std::slice::from_ref), weights.len())?;
        for (row, (&weight, &group)) in weights.iter().zip(groups).enumerate() {
            if weight == 0 {
                continue;
            }
            if self.insert_only {
                self.replace(group, values.get(row), weight)?;
            } else {
                self.values.add(group, values.get(row), weight)?;
            }
        }
        if self.values.sets.is_sparse() {
            self.values.sets.compact(self.values.heads.iter_mut());
        }
        Ok(())
    }

    fn evaluate(&self, groups: &[u32]) -> Result<ArrayRef, EngineError> {
        let mut found = Vec::new();
        let places: UInt32Array = groups
            .iter()
            .map(|&group| {
                let record = self.extreme(group)?;
                found.push(&self.values.sets.row(record)[NUMBER_BYTES..]);
                Some(found.len() as u32 - 1)
            })
            .collect();
        if found.is_empty() {
            return Ok(new_null_array(&self.output, groups.len()));
        }
        let all_found = found.len() == groups.len();
        let column = self.encoding.decode(found)?.swap_remove(0);
        if all_found {
            return Ok(column);
        }
        Ok(take(&column, &places, None)?)
    }

    fn forget(&mut self, group: u32) {
        self.values.heads[group as usize] = EMPTY;
    }

    fn encode(&self, _group: u32, _bytes: &mut Vec<u8>) {}

    fn decode(&mut self, _group: u32, _bytes: &mut &[u8]) -> Option<()> {
        Some(())
    }

    fn insert_only(&mut self) {
        self.insert_only = true;
    }

    fn part(&mut self) -> Option<&mut dyn ByGroup> {
        Some(&mut self.values)
    }

    fn sizes(&self) -> (usize, usize) {
        (self.values.rows(), self.values.bytes())
    }

    fn dense_bytes(&self) -> usize {
        self.values.heads.capacity() * 4
    }

    fn unused_bytes(&self) -> usize {
        self.values.sets.unused_bytes()
    }
}

impl Values {
    fn grow(&mut self, groups: usize) {
        self.heads.resize(groups.max(self.heads.len()), EMPTY);
    }

    fn add(&mut self, group: u32, value: &[u8], weight: i64) -> Result<(), EngineError> {
        let head = &mut self.heads[group as usize];
        *head = self.sets.add(*head, &group.to_le_bytes(), value, weight)?.head;
        Ok(())
    }

    fn rows(&self) -> usize {
        self.sets.rows()
    }

    fn bytes(&self) -> usize {
        self.sets.bytes() + self.heads.capacity() * 4
    }
}

impl ByGroup for Values {
    fn changes(&mut self, emit: &mut dyn FnMut(u32, &[u8], Option<i64>)) {
        self.sets.changes(&mut |row, _, weight| {
            let (group, value) = split(row);
            emit(group, value, weight);
        });
    }

    fn load(&mut self, group: u32, value: &[u8], weight: i64) -> Result<(), EngineError> {
        self.grow(group as usize + 1);
        let head = &mut self.heads[group as usize];
        *head = self.sets.load(*head, &group.to_le_bytes(), value, weight)?;
        Ok(())
    }

    fn comes_with_group(&self) -> bool {
        true
    }

    fn track(&mut self) {
        self.sets.track();
    }

    fn durable(&mut self) {
        self.sets.durable();
    }

    fn evict(&mut self, _bytes: usize) -> usize {
        0
    }

    fn forget_groups(&mut self, leaves: &[bool]) {
        for (head, _) in self.heads.iter_mut().zip(leaves).filter(|(_, leaves)| **leaves) {
            self.sets.evict(std::mem::replace(head, EMPTY));
        }
        if self.sets.unused_bytes() > self.sets.bytes() / 2 {
            self.sets.compact(self.heads.iter_mut());
        }
    }

    fn live_bytes(&self) -> usize {
        self.sets.bytes() - self.sets.unused_bytes()
    }
}
