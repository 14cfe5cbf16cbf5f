//! DISTINCT within groups: the different values of each group, with their weights.

use super::super::{EngineError, State};
use super::by_group::{ByGroup, Elsewhere, NUMBER_BYTES, decode_weight, split};
use crate::arrangement::{EMPTY, RowEncoding, Table, hash_of};
use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

pub(super) struct Seen {
    encoding: RowEncoding,
    /// The key of a row is the number of its group and the value.
    table: Table,
}

impl Seen {
    pub fn new(values: DataType) -> Result<Self, EngineError> {
        Ok(Self { encoding: RowEncoding::new(vec![values])?, table: Table::default() })
    }

    /// Adds values with their weights, and replaces these by the changes of how often each different value counts.
    pub fn add(
        &mut self,
        values: &ArrayRef,
        weights: &mut [i64],
        groups: &[u32],
        elsewhere: Option<&Elsewhere<'_>>,
    ) -> Result<(), EngineError> {
        let values = self.encoding.encode(std::slice::from_ref(values), weights.len())?;
        let counting =
            |weights: &[i64]| -> Vec<usize> { (0..weights.len()).filter(|&row| weights[row] != 0).collect() };
        let rows = counting(weights);
        let mut key = Vec::new();
        if let Some(elsewhere) = elsewhere {
            self.fetch(rows.iter().map(|&row| (groups[row], values.get(row))), elsewhere)?;
        }
        for row in rows {
            row_of(groups[row], values.get(row), &mut key);
            let (before, after) = self.table.add(hash_of(&key), &key, &[], weights[row])?;
            weights[row] = i64::from(after > 0) - i64::from(before > 0);
        }
        self.table.compact();
        Ok(())
    }

    fn fetch<'a>(
        &mut self,
        values: impl Iterator<Item = (u32, &'a [u8])>,
        elsewhere: &Elsewhere<'_>,
    ) -> Result<(), EngineError> {
        let groups = elsewhere.groups;
        let (mut row, mut missing) = (Vec::new(), Vec::new());
        for (group, value) in values {
            row_of(group, value, &mut row);
            if groups.is_on_disk(group) && !self.table.has(hash_of(&row), &row) {
                missing.push([groups.key(group), value].concat());
            }
        }
        elsewhere.disk.lookup(missing.iter().map(Vec::as_slice).collect(), &mut |key, _, value| {
            let malformed =
                || EngineError::StateCorrupt { state: "aggregate".into(), reason: "a value is malformed".into() };
            let (weight, group_len) = decode_weight(value).ok_or_else(malformed)?;
            let (group, value) = key.split_at_checked(group_len).ok_or_else(malformed)?;
            let group = groups.number(hash_of(group), group).ok_or_else(malformed)?;
            self.load(group, value, weight)
        })
    }

    pub fn rows(&self) -> usize {
        self.table.rows()
    }

    pub fn bytes(&self) -> usize {
        self.table.bytes()
    }

    pub fn unused_bytes(&self) -> usize {
        self.table.unused_bytes()
    }
}

fn row_of(group: u32, value: &[u8], row: &mut Vec<u8>) {
    row.clear();
    row.extend_from_slice(&group.to_le_bytes());
    row.extend_from_slice(value);
}

impl ByGroup for Seen {
    fn changes(&mut self, emit: &mut dyn FnMut(u32, &[u8], Option<i64>)) {
        self.table.row_changes(&mut |row, _, weight| {
            let (group, value) = split(row);
            emit(group, value, weight);
        });
    }

    fn load(&mut self, group: u32, value: &[u8], weight: i64) -> Result<(), EngineError> {
        let mut row = Vec::with_capacity(NUMBER_BYTES + value.len());
        row_of(group, value, &mut row);
        if self.table.is_gone(&row) { Ok(()) } else { self.table.load(&row, &[], weight) }
    }

    fn comes_with_group(&self) -> bool {
        false
    }

    fn track(&mut self) {
        self.table.track();
    }

    fn durable(&mut self) {
        self.table.durable();
    }

    fn evict(&mut self, bytes: usize) -> usize {
        self.table.evict_where(bytes, &mut |rows, head| rows.is_clean(head) && !rows.was_touched(head))
    }

    fn forget_groups(&mut self, leaves: &[bool]) {
        self.table.evict_where(usize::MAX, &mut |rows, head| {
            head != EMPTY && leaves[split(rows.row(rows.any(head))).0 as usize]
        });
    }

    fn live_bytes(&self) -> usize {
        self.table.bytes() - self.table.unused_bytes()
    }
}
