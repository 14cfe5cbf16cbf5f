//! The groups of an aggregate: dense numbers for group keys, reused when a group is gone.

use super::super::EngineError;
use crate::arrangement::{Arena, Index, NO_RECORD, Record, RowEncoding, hash_of};
use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

const CHANGED: u8 = 1;
const PERSISTED: u8 = 2;
const MARKED: u8 = 4;

pub(super) struct Groups {
    encoding: RowEncoding,
    index: Index,
    /// The group's key and the weight of its rows; [`NO_RECORD`] for a free number.
    records: Vec<Record>,
    keys: Arena,
    flags: Vec<u8>,
    free: Vec<u32>,
    /// Whether `free` must be made anew.
    restored: bool,
    changed: Vec<u32>,
    removed: Vec<Box<[u8]>>,
}

/// The groups of the rows of a batch.
pub(super) struct Found {
    /// For each row its group.
    pub of_row: Vec<u32>,
    /// Each group once.
    pub touched: Vec<u32>,
    /// For each touched group its first row.
    pub first_rows: Vec<u32>,
}

impl Groups {
    pub fn new(types: Vec<DataType>) -> Result<Self, EngineError> {
        Ok(Self {
            encoding: RowEncoding::new(types)?,
            index: Index::default(),
            records: Vec::new(),
            keys: Arena::default(),
            flags: Vec::new(),
            free: Vec::new(),
            restored: false,
            changed: Vec::new(),
            removed: Vec::new(),
        })
    }

    /// Finds the group of each row, and makes those that are new, with a weight of 0.
    pub fn find(&mut self, columns: &[ArrayRef], rows: usize) -> Result<Found, EngineError> {
        let keys = self.encoding.encode(columns, rows)?;
        let hashes: Vec<u64> = (0..rows).map(|row| hash_of(keys.get(row))).collect();
        let mut found = Found { of_row: Vec::with_capacity(rows), touched: Vec::new(), first_rows: Vec::new() };
        for (row, &hash) in hashes.iter().enumerate() {
            let group = self.one(hash, keys.get(row))?;
            found.of_row.push(group);
            let flags = &mut self.flags[group as usize];
            if *flags & MARKED == 0 {
                *flags |= MARKED;
                found.touched.push(group);
                found.first_rows.push(row as u32);
            }
        }
        for &group in &found.touched {
            self.flags[group as usize] &= !MARKED;
        }
        Ok(found)
    }

    /// The group of a key, made when it is new.
    pub fn one(&mut self, hash: u64, key: &[u8]) -> Result<u32, EngineError> {
        self.make_free_list();
        let (keys, records) = (&mut self.keys, &mut self.records);
        let place = self.index.entry(hash, |group| {
            let record = records[group as usize];
            keys.get(record) == key
        });
        if let Some(group) = place.value() {
            return Ok(group);
        }
        let record = keys.insert(key, &[], 0, 0).ok_or_else(full)?;
        let group = match self.free.pop() {
            Some(group) => {
                records[group as usize] = record;
                group
            }
            None => {
                records.push(record);
                self.flags.push(0);
                u32::try_from(records.len() - 1).map_err(|_| full())?
            }
        };
        place.set(Some(group));
        Ok(group)
    }

    /// The weight of a group's rows.
    pub fn weight(&self, group: u32) -> i64 {
        self.keys.weight(self.records[group as usize])
    }

    pub fn add(&mut self, group: u32, weight: i64) {
        let record = self.records[group as usize];
        self.keys.set_weight(record, self.keys.weight(record).wrapping_add(weight));
    }

    /// Says that a group changed.
    pub fn mark(&mut self, group: u32) {
        let flags = &mut self.flags[group as usize];
        if *flags & CHANGED == 0 {
            *flags |= CHANGED;
            self.changed.push(group);
        }
    }

    /// Frees the number of a group.
    pub fn remove(&mut self, group: u32) {
        let record = std::mem::replace(&mut self.records[group as usize], NO_RECORD);
        let key = self.keys.get(record);
        self.index.entry(hash_of(key), |other| other == group).set(None);
        if self.flags[group as usize] & PERSISTED != 0 {
            self.removed.push(key.into());
        }
        // The number stays in the list of changes, so the flag stays too.
        self.flags[group as usize] &= CHANGED;
        self.keys.remove(record);
        self.free.push(group);
        if self.free.len() == self.records.len() {
            self.index = Index::default();
            self.records = Vec::new();
            self.keys = Arena::default();
            self.flags = Vec::new();
            self.free = Vec::new();
            self.changed = Vec::new();
        }
    }

    /// Gives memory back after many groups have gone.
    pub fn compact(&mut self) {
        if !self.keys.is_sparse() {
            return;
        }
        let old = std::mem::take(&mut self.keys);
        for record in self.records.iter_mut().filter(|record| **record != NO_RECORD) {
            // A part of what fitted into an arena fits into an empty one.
            *record = self.keys.insert(old.get(*record), &[], old.weight(*record), 0).unwrap_or(NO_RECORD);
        }
    }

    /// One more than the greatest number of a group.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.rows() == 0
    }

    /// Number of groups.
    pub fn rows(&self) -> usize {
        if self.restored {
            return self.records.iter().filter(|&&record| record != NO_RECORD).count();
        }
        self.records.len() - self.free.len()
    }

    pub fn bytes(&self) -> usize {
        self.keys.bytes() + self.index.bytes() + self.records.len() * 5 + self.free.len() * 4
    }

    /// Emits what changed since the last call, removals first: 0 and the key, the group and its weight.
    pub fn changes(&mut self, emit: &mut dyn FnMut(&[u8], Option<(u32, i64)>)) {
        let mut tagged = Vec::new();
        for key in std::mem::take(&mut self.removed) {
            tagged.clear();
            tagged.push(0);
            tagged.extend_from_slice(&key);
            emit(&tagged, None);
        }
        for group in std::mem::take(&mut self.changed) {
            self.flags[group as usize] &= !CHANGED;
            let record = self.records[group as usize];
            if record != NO_RECORD {
                self.flags[group as usize] |= PERSISTED;
                tagged.clear();
                tagged.push(0);
                tagged.extend_from_slice(self.keys.get(record));
                emit(&tagged, Some((group, self.keys.weight(record))));
            }
        }
    }

    /// Takes a group back under its number.
    pub fn restore(&mut self, group: u32, key: &[u8], weight: i64) -> Result<(), EngineError> {
        let at = group as usize;
        if at >= self.records.len() {
            self.records.resize(at + 1, NO_RECORD);
            self.flags.resize(at + 1, 0);
        }
        if self.records[at] != NO_RECORD {
            let reason = format!("group {group} is there twice");
            return Err(EngineError::StateCorrupt { state: "aggregate".into(), reason });
        }
        self.records[at] = self.keys.insert(key, &[], weight, 0).ok_or_else(full)?;
        self.flags[at] = PERSISTED;
        self.index.entry(hash_of(key), |_| false).set(Some(group));
        self.restored = true;
        Ok(())
    }

    fn make_free_list(&mut self) {
        if std::mem::take(&mut self.restored) {
            let numbers = 0..self.records.len() as u32;
            self.free = numbers.filter(|&group| self.records[group as usize] == NO_RECORD).collect();
        }
    }
}

fn full() -> EngineError {
    EngineError::Internal("the groups of one aggregate outgrew 32 GiB, or a group key 512 MiB".into())
}
