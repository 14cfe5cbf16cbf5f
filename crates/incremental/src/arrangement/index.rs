//! A hash index from keys to numbers of four bytes; the keys themselves are kept elsewhere.
//!
//! 256 tables by the uppermost byte of the hash, so that growing moves a 256th of the keys at a time.

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;
use xxhash_rust::xxh3::xxh3_64;

/// The hash of a key, the same on every machine and for ever: it also assigns keys to virtual partitions.
pub(crate) fn hash_of(key: &[u8]) -> u64 {
    xxh3_64(key)
}

#[derive(Clone, Copy)]
struct Slot {
    /// The lower half of the key's hash, so that growing does not touch the keys.
    hash: u32,
    value: u32,
}

fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

pub(crate) struct Index {
    shards: Vec<HashTable<Slot>>,
}

impl Default for Index {
    fn default() -> Self {
        Self { shards: (0..Self::SHARDS).map(|_| HashTable::new()).collect() }
    }
}

impl Index {
    /// Number of shards.
    pub const SHARDS: usize = 256;

    /// The value of a key; `is` tells whether a value belongs to it.
    pub fn get(&self, hash: u64, is: impl Fn(u32) -> bool) -> Option<u32> {
        let low = hash as u32;
        self.shards[(hash >> 56) as usize]
            .find(spread(low), |slot| slot.hash == low && is(slot.value))
            .map(|slot| slot.value)
    }

    /// Values that may be those of keys, told by the hashes alone. Beside that, the slots are in the caches then: these
    /// lookups do not wait for each other, as those of an operator do, which have much to do between them.
    pub fn candidates(&self, hashes: &[u64]) -> Vec<u32> {
        let candidate = |hash: &u64| {
            let low = *hash as u32;
            self.shards[(hash >> 56) as usize].find(spread(low), |slot| slot.hash == low).map(|slot| slot.value)
        };
        hashes.iter().filter_map(candidate).collect()
    }

    /// Whether so many lookups are worth [`Index::candidates`] first: state beyond the caches, and more than a few keys.
    pub fn is_worth_warming(lookups: usize, state_bytes: usize) -> bool {
        lookups >= 32 && state_bytes > 2 << 20
    }

    /// The place of a key; `is` tells whether a value belongs to it.
    pub fn entry(&mut self, hash: u64, is: impl Fn(u32) -> bool) -> Place<'_> {
        let hash_low = hash as u32;
        let entry = self.shards[(hash >> 56) as usize].entry(
            spread(hash_low),
            |slot| slot.hash == hash_low && is(slot.value),
            |slot| spread(slot.hash),
        );
        Place { hash_low, entry }
    }

    /// All values.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut u32> {
        self.shards.iter_mut().flat_map(|shard| shard.iter_mut().map(|slot| &mut slot.value))
    }

    /// Drops the values of one of [`Index::SHARDS`] shards for which `keep` says no.
    pub fn retain_shard(&mut self, shard: usize, mut keep: impl FnMut(u32) -> bool) {
        let table = &mut self.shards[shard];
        table.retain(|slot| keep(slot.value));
        if table.len() < table.capacity() / 4 {
            table.shrink_to(table.len() * 2, |slot| spread(slot.hash));
        }
    }

    /// Number of keys.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.shards.iter().map(HashTable::len).sum()
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.shards.iter().map(HashTable::allocation_size).sum()
    }
}

/// Where the value of one key is, or would be.
pub(crate) struct Place<'a> {
    hash_low: u32,
    entry: Entry<'a, Slot>,
}

impl Place<'_> {
    /// The key's value.
    pub fn value(&self) -> Option<u32> {
        match &self.entry {
            Entry::Occupied(entry) => Some(entry.get().value),
            Entry::Vacant(_) => None,
        }
    }

    /// Gives the key a value, or takes it away.
    pub fn set(self, value: Option<u32>) {
        match (self.entry, value) {
            (Entry::Occupied(mut entry), Some(value)) => entry.get_mut().value = value,
            (Entry::Vacant(entry), Some(value)) => {
                entry.insert(Slot { hash: self.hash_low, value });
            }
            (Entry::Occupied(entry), None) => {
                let table = entry.remove().1.into_table();
                if table.capacity() > 64 && table.len() < table.capacity() / 8 {
                    table.shrink_to(table.len() * 2, |slot| spread(slot.hash));
                }
            }
            (Entry::Vacant(_), None) => {}
        }
    }
}
