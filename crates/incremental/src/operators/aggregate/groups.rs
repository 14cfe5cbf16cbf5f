//! The groups of an aggregate: dense numbers for group keys, reused when a group is gone.

use super::super::EngineError;
use crate::arrangement::{Arena, EncodedRows, Gone, Index, NO_RECORD, Record, RowEncoding, hash_of};
use arrow::array::ArrayRef;
use arrow::datatypes::DataType;

/// The group stands in the list of changes.
const CHANGED: u8 = 1;
/// The last checkpoint has the group.
const PERSISTED: u8 = 2;
const MARKED: u8 = 4;
/// A checkpoint that is being written has the group.
const IN_FLIGHT: u8 = 8;
/// The group was of use since eviction last came by.
const RECENT: u8 = 16;
/// The group is gone, and its number is not free yet: what it had on disk still goes by the number.
const RETIRED: u8 = 32;

pub(super) struct Groups {
    encoding: RowEncoding,
    index: Index,
    /// The group's key and the weight of its rows; [`NO_RECORD`] for a free number.
    records: Vec<Record>,
    keys: Arena,
    flags: Vec<u8>,
    free: Vec<u32>,
    changed: Vec<u32>,
    /// Keys of groups of the last checkpoint that are gone.
    gone: Gone,
    /// Their numbers: since the last emission of changes, and before.
    retired: Vec<u32>,
    retired_in_flight: Vec<u32>,
    /// Whether it matters which checkpoints are durable.
    tracks: bool,
    in_flight: Vec<u32>,
    /// The shard of the index that eviction goes on with.
    hand: usize,
}

/// Encoded keys of the rows of a batch.
pub(super) struct Keys {
    keys: EncodedRows,
    hashes: Vec<u64>,
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
            changed: Vec::new(),
            gone: Gone::default(),
            retired: Vec::new(),
            retired_in_flight: Vec::new(),
            tracks: false,
            in_flight: Vec::new(),
            hand: 0,
        })
    }

    /// The keys of rows.
    pub fn encode(&self, columns: &[ArrayRef], rows: usize) -> Result<Keys, EngineError> {
        let keys = self.encoding.encode(columns, rows)?;
        let hashes = (0..rows).map(|row| hash_of(keys.get(row))).collect();
        Ok(Keys { keys, hashes })
    }

    /// Finds the group of each row, and makes those that are new, with a weight of 0.
    pub fn find(&mut self, keys: &Keys) -> Result<Found, EngineError> {
        let rows = keys.hashes.len();
        if Index::is_worth_warming(rows, self.keys.bytes()) {
            let groups = self.index.candidates(&keys.hashes);
            self.keys.warm(groups.into_iter().map(|group| self.records[group as usize]));
        }
        let mut found = Found { of_row: Vec::with_capacity(rows), touched: Vec::new(), first_rows: Vec::new() };
        for (row, &hash) in keys.hashes.iter().enumerate() {
            let group = self.one(hash, keys.keys.get(row))?;
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

    /// The keys that only the disk may have.
    pub fn missing<'a>(&mut self, keys: &'a Keys) -> Vec<&'a [u8]> {
        let mut missing = Vec::new();
        for (row, &hash) in keys.hashes.iter().enumerate() {
            let key = keys.keys.get(row);
            match self.number(hash, key) {
                Some(group) => self.flags[group as usize] |= RECENT,
                None if self.gone.has(key) => {}
                None => missing.push(key),
            }
        }
        missing
    }

    /// The number of a key's group.
    pub fn number(&self, hash: u64, key: &[u8]) -> Option<u32> {
        self.index.get(hash, |group| self.keys.get(self.records[group as usize]) == key)
    }

    /// The key of a group, also when it is gone and its number is not free yet.
    pub fn key(&self, group: u32) -> &[u8] {
        self.keys.get(self.records[group as usize])
    }

    /// Whether the disk may have something of a group that counts.
    pub fn is_on_disk(&self, group: u32) -> bool {
        self.flags[group as usize] & PERSISTED != 0 && !self.gone.has(self.key(group))
    }

    /// The group of a key, made when it is new.
    pub fn one(&mut self, hash: u64, key: &[u8]) -> Result<u32, EngineError> {
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

    /// A group is gone.
    pub fn remove(&mut self, group: u32) {
        let at = group as usize;
        let key = self.keys.get(self.records[at]);
        self.index.entry(hash_of(key), |other| other == group).set(None);
        if self.flags[at] & PERSISTED != 0 {
            self.gone.insert(key, key.len());
            self.flags[at] |= RETIRED;
            self.retired.push(group);
        } else {
            self.free_number(group);
        }
    }

    fn free_number(&mut self, group: u32) {
        let record = std::mem::replace(&mut self.records[group as usize], NO_RECORD);
        self.keys.remove(record);
        // The number stays in the list of changes, so the flag stays too.
        self.flags[group as usize] &= CHANGED;
        self.free.push(group);
        if self.free.len() == self.records.len() {
            self.index = Index::default();
            self.records = Vec::new();
            self.keys = Arena::default();
            self.flags = Vec::new();
            self.free = Vec::new();
            self.changed = Vec::new();
            self.in_flight = Vec::new();
        }
    }

    /// Gives memory back after many groups have gone.
    pub fn compact(&mut self) {
        if self.keys.is_sparse() {
            self.compact_keys();
        }
    }

    fn compact_keys(&mut self) {
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

    /// Number of groups in memory.
    pub fn rows(&self) -> usize {
        self.records.len() - self.free.len() - self.retired.len() - self.retired_in_flight.len()
    }

    pub fn bytes(&self) -> usize {
        let lists = self.free.len() + self.retired.len() + self.retired_in_flight.len() + self.in_flight.len();
        self.keys.bytes() + self.index.bytes() + self.records.len() * 5 + lists * 4 + self.gone.bytes()
    }

    /// Bytes of [`Groups::bytes`] that hold nothing.
    pub fn unused_bytes(&self) -> usize {
        self.keys.unused_bytes() + self.free.len() * 5
    }

    /// The share of numbers that are free.
    pub fn free_share(&self) -> f64 {
        self.free.len() as f64 / self.records.len().max(1) as f64
    }

    /// Emits what changed since the last call, removals first: the key, the group and its weight.
    pub fn changes(&mut self, emit: &mut dyn FnMut(&[u8], Option<(u32, i64)>)) {
        self.gone.take(self.tracks, &mut |key, _| emit(key, None));
        let emitted = PERSISTED | if self.tracks { IN_FLIGHT } else { 0 };
        for group in std::mem::take(&mut self.changed) {
            let flags = &mut self.flags[group as usize];
            *flags &= !CHANGED;
            let record = self.records[group as usize];
            if record != NO_RECORD && *flags & RETIRED == 0 {
                *flags |= emitted;
                if self.tracks {
                    self.in_flight.push(group);
                }
                emit(self.keys.get(record), Some((group, self.keys.weight(record))));
            }
        }
        self.retired_in_flight.append(&mut self.retired);
        if !self.tracks {
            self.free_retired();
        }
    }

    /// From now on remembers what was emitted until [`Groups::durable`].
    pub fn track(&mut self) {
        self.tracks = true;
    }

    /// The checkpoint of everything that was emitted is durable.
    pub fn durable(&mut self) {
        self.gone.durable();
        for group in std::mem::take(&mut self.in_flight) {
            self.flags[group as usize] &= !IN_FLIGHT;
        }
        self.free_retired();
    }

    fn free_retired(&mut self) {
        for group in std::mem::take(&mut self.retired_in_flight) {
            self.free_number(group);
        }
    }

    /// Forgets about so many groups of those that the disk has as they are; returns their numbers, which are free then.
    pub fn evict(&mut self, count: usize) -> Vec<u32> {
        let (flags, mut evicted) = (&mut self.flags, Vec::new());
        // Twice around, because the first time spares what was of use.
        for _ in 0..2 * Index::SHARDS {
            if evicted.len() >= count {
                break;
            }
            self.index.retain_shard(self.hand, |group| {
                let flags = &mut flags[group as usize];
                let stays = *flags & (CHANGED | PERSISTED | IN_FLIGHT | RECENT) != PERSISTED;
                *flags &= !RECENT;
                if !stays {
                    evicted.push(group);
                }
                stays
            });
            self.hand = (self.hand + 1) % Index::SHARDS;
        }
        evicted.iter().for_each(|&group| self.free_number(group));
        if self.keys.unused_bytes() > self.keys.bytes() / 2 {
            self.compact_keys();
        }
        evicted
    }

    /// Takes back a group that the disk has and that is not in memory; returns its number.
    pub fn load(&mut self, key: &[u8], weight: i64) -> Result<u32, EngineError> {
        let group = self.one(hash_of(key), key)?;
        self.add(group, weight);
        self.flags[group as usize] |= PERSISTED;
        Ok(group)
    }
}

fn full() -> EngineError {
    EngineError::Internal("the groups of one aggregate outgrew 32 GiB, or a group key 128 MiB".into())
}
