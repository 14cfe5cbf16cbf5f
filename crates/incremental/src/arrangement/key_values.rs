//! Values by key, as bytes: in memory as far as they are of use, the rest in the last checkpoint.

use super::arena::{Arena, DIRTY, FREE, IN_FLIGHT, NONE, PERSISTED, RECENT, Record};
use super::gone::Gone;
use super::index::{Index, hash_of};
use crate::checkpoint::Disk;
use crate::operators::{EngineError, State, StateKey};

/// A map from bytes to bytes that outgrows memory as the state of operators does: keys are fetched, by the batch, before
/// they are read or written.
#[derive(Default)]
pub struct KeyValues {
    index: Index,
    /// A record's key is the key, its rest the value.
    values: Arena,
    len: usize,
    /// Records with [`DIRTY`]; may also name records that were freed, or some twice.
    changed: Vec<Record>,
    gone: Gone,
    /// Records with [`IN_FLIGHT`]; may also name records that were freed.
    in_flight: Vec<Record>,
    disk: Option<Disk>,
    /// Whether the disk may have keys that memory does not.
    partial: bool,
    /// The shard of the index that eviction goes on with.
    hand: usize,
}

impl std::fmt::Debug for KeyValues {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("KeyValues").field("len", &self.len).finish_non_exhaustive()
    }
}

impl KeyValues {
    /// Brings keys into memory.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] when the disk cannot be read.
    pub fn fetch<'a>(&mut self, keys: impl Iterator<Item = &'a [u8]>) -> Result<(), EngineError> {
        let Some(disk) = self.disk.clone().filter(|_| self.partial) else { return Ok(()) };
        let mut missing = Vec::new();
        for key in keys {
            match self.record(key) {
                Some(record) => self.values.set_flags(record, self.values.flags(record) | RECENT),
                None if self.gone.has(key) => {}
                None => missing.push(key),
            }
        }
        disk.lookup(missing, &mut |key, _, value| self.restore(key, value))
    }

    /// The value of a key that was fetched.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.record(key).map(|record| &self.values.get(record)[key.len()..])
    }

    /// The value of any key, wherever it is. Leaves it there.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] when the disk cannot be read.
    pub fn find(&self, key: &[u8]) -> Result<Option<Vec<u8>>, EngineError> {
        let mut found = self.get(key).map(<[u8]>::to_vec);
        if found.is_none()
            && !self.gone.has(key)
            && let Some(disk) = self.disk.as_ref().filter(|_| self.partial)
        {
            disk.lookup(vec![key], &mut |_, _, value| {
                found = Some(value.to_vec());
                Ok(())
            })?;
        }
        Ok(found)
    }

    /// Gives a key that was fetched a value.
    ///
    /// # Errors
    /// [`EngineError::Internal`] when it is too large.
    pub fn set(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let values = &mut self.values;
        let place = self.index.entry(hash_of(key), |record| is(values, record, key));
        let mut flags = 0;
        if let Some(record) = place.value() {
            if values.overwrite(record, value) {
                self.mark(record);
                return Ok(());
            }
            flags = values.flags(record) & PERSISTED;
            values.remove(record);
            self.len -= 1;
        }
        let Some(record) = values.insert(key, value, 0, flags) else {
            return Err(EngineError::Internal("a map outgrew 32 GiB, or a value 128 MiB".into()));
        };
        place.set(Some(record));
        self.len += 1;
        self.mark(record);
        Ok(())
    }

    /// Takes a key that was fetched away.
    pub fn remove(&mut self, key: &[u8]) {
        let values = &mut self.values;
        let place = self.index.entry(hash_of(key), |record| is(values, record, key));
        if let Some(record) = place.value() {
            place.set(None);
            if values.flags(record) & PERSISTED != 0 {
                self.gone.insert(key, key.len());
            }
            values.remove(record);
            self.len -= 1;
        }
    }

    /// Takes everything away, also from checkpoints: the next has to start over.
    pub fn clear(&mut self) {
        *self = Self { disk: self.disk.take(), ..Self::default() };
    }

    /// Makes everything that is in memory part of the next [`State::changes`].
    pub fn mark_all_changed(&mut self) {
        let records: Vec<Record> = self.index.values_mut().map(|record| *record).collect();
        records.into_iter().for_each(|record| self.mark(record));
    }

    /// Number of keys in memory.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no key is in memory.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn record(&self, key: &[u8]) -> Option<Record> {
        self.index.get(hash_of(key), |record| is(&self.values, record, key))
    }

    fn mark(&mut self, record: Record) {
        let flags = self.values.flags(record);
        if flags & DIRTY != 0 {
            return;
        }
        self.values.set_flags(record, flags | DIRTY);
        self.changed.push(record);
        if self.changed.len() > 4096 + 2 * self.len {
            self.changed = self.records_with(DIRTY);
        }
    }

    fn records_with(&mut self, flag: u32) -> Vec<Record> {
        let values = &self.values;
        self.index.values_mut().map(|record| *record).filter(|&record| values.flags(record) & flag != 0).collect()
    }

    fn compact(&mut self) {
        let old = std::mem::take(&mut self.values);
        for record in self.index.values_mut() {
            let (key, value) = old.get(*record).split_at(old.key_len(*record));
            // A part of what fitted into an arena fits into an empty one.
            *record = self.values.insert(key, value, 0, old.flags(*record)).unwrap_or(NONE);
        }
        self.changed = self.records_with(DIRTY);
        self.in_flight = self.records_with(IN_FLIGHT);
    }
}

fn is(values: &Arena, record: Record, key: &[u8]) -> bool {
    values.key_len(record) == key.len() && values.get(record)[..key.len()] == *key
}

/// Keys and values as they are.
impl State for KeyValues {
    fn changes(&mut self, emit: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>)) {
        let tracks = self.disk.is_some();
        self.gone.take(tracks, &mut |key, _| emit(StateKey { bytes: key, prefix: key.len() }, None));
        let emitted = PERSISTED | if tracks { IN_FLIGHT } else { 0 };
        for record in std::mem::take(&mut self.changed) {
            let flags = self.values.flags(record);
            if flags & FREE == 0 && flags & DIRTY != 0 {
                self.values.set_flags(record, flags & !DIRTY | emitted);
                if tracks {
                    self.in_flight.push(record);
                }
                let (key, value) = self.values.get(record).split_at(self.values.key_len(record));
                emit(StateKey { bytes: key, prefix: key.len() }, Some(value));
            }
        }
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let Some(record) = self.values.insert(key, value, 0, PERSISTED) else {
            return Err(EngineError::Internal("a map outgrew 32 GiB, or a value 128 MiB".into()));
        };
        self.len += 1;
        self.index.entry(hash_of(key), |_| false).set(Some(record));
        Ok(())
    }

    fn attach(&mut self, disk: &Disk, resident: bool) -> Result<(), EngineError> {
        self.partial = !resident && !disk.is_empty();
        self.disk = Some(disk.clone());
        Ok(())
    }

    fn durable(&mut self) {
        self.gone.durable();
        for record in std::mem::take(&mut self.in_flight) {
            let flags = self.values.flags(record);
            if flags & FREE == 0 {
                self.values.set_flags(record, flags & !IN_FLIGHT);
            }
        }
    }

    fn evict(&mut self, bytes: usize) -> usize {
        if self.disk.is_none() {
            return 0;
        }
        let (values, len, mut freed) = (&mut self.values, &mut self.len, 0);
        // Twice around, because the first time spares what was of use.
        for _ in 0..2 * Index::SHARDS {
            if freed >= bytes {
                break;
            }
            self.index.retain_shard(self.hand, |record| {
                let flags = values.flags(record);
                let stays = flags & (DIRTY | IN_FLIGHT | RECENT | PERSISTED) != PERSISTED;
                if stays {
                    values.set_flags(record, flags & !RECENT);
                } else {
                    freed += values.record_bytes(record);
                    values.remove(record);
                    *len -= 1;
                }
                stays
            });
            self.hand = (self.hand + 1) % Index::SHARDS;
        }
        self.partial |= freed > 0;
        if self.values.unused_bytes() > self.values.bytes() / 2 {
            self.compact();
        }
        freed
    }

    fn rows(&self) -> usize {
        self.len
    }

    fn bytes(&self) -> usize {
        self.index.bytes() + self.values.bytes() + (self.changed.len() + self.in_flight.len()) * 4 + self.gone.bytes()
    }

    fn unused_bytes(&self) -> usize {
        self.values.unused_bytes()
    }
}
