//! Weighted multisets of rows, each behind a head of four bytes.
//!
//! A multiset of few rows is a chain through its records; one of many is an ordered list of records, so that finding
//! one, and the first and last, stay cheap. All records live in one arena. Rows of one multiset share a key, which is
//! stored with each row.

use super::arena::{Arena, DIRTY, FREE, IN_FLIGHT, NONE, PERSISTED, RECENT, Record};
use super::gone::Gone;
use crate::operators::EngineError;

/// A multiset: [`EMPTY`], the first record of a chain, or (uppermost bit set) the number of an ordered list.
pub(crate) type Head = u32;

/// The empty multiset.
pub(crate) const EMPTY: Head = NONE;

const BIG: u32 = 1 << 31;
/// A chain this long becomes an ordered list; half as many rows make it a chain again.
const CHAIN_MAX: usize = 8;
const CHUNK_MAX: usize = 512;

#[derive(Default)]
pub(crate) struct Multisets {
    arena: Arena,
    big: Vec<Ordered>,
    big_free: Vec<u32>,
    /// Records in ordered lists.
    listed: usize,
    rows: usize,
    /// Records with [`DIRTY`]; may also name records that were freed, or some twice.
    changed: Vec<Record>,
    /// Rows of the last checkpoint that are gone.
    gone: Gone,
    /// Whether it matters which checkpoints are durable.
    tracks: bool,
    /// Records with [`IN_FLIGHT`]; may also name records that were freed.
    in_flight: Vec<Record>,
}

/// What [`Multisets::add`] did.
pub(crate) struct Added {
    pub head: Head,
    pub before: i64,
    pub after: i64,
}

impl Multisets {
    /// A multiset of more rows than this keeps them in order.
    pub const UNORDERED_MAX: usize = CHAIN_MAX;

    /// Adds `weight` to the row `key` + `rest` of the multiset `head`, whose rows all have `key`.
    pub fn add(&mut self, head: Head, key: &[u8], rest: &[u8], weight: i64) -> Result<Added, EngineError> {
        self.add_with(head, key, rest, weight, DIRTY)
    }

    /// Takes back a row that a checkpoint has and that is not there.
    pub fn load(&mut self, head: Head, key: &[u8], rest: &[u8], weight: i64) -> Result<Head, EngineError> {
        Ok(self.add_with(head, key, rest, weight, PERSISTED)?.head)
    }

    /// Adds; a new record gets `flags`.
    fn add_with(&mut self, head: Head, key: &[u8], rest: &[u8], weight: i64, flags: u32) -> Result<Added, EngineError> {
        if head != EMPTY && head & BIG != 0 {
            return self.add_big(head, key, rest, weight, flags);
        }
        let (mut previous, mut record, mut count) = (NONE, head, 0);
        while record != NONE {
            if self.arena.get(record)[key.len()..] == *rest {
                let before = self.arena.weight(record);
                let after = before.wrapping_add(weight);
                let mut head = head;
                if after == 0 {
                    let next = self.arena.link(record);
                    if previous == NONE {
                        head = next;
                    } else {
                        self.arena.set_link(previous, next);
                    }
                    self.discard(record);
                } else {
                    self.arena.set_weight(record, after);
                    self.mark(record);
                }
                return Ok(Added { head, before, after });
            }
            previous = record;
            record = self.arena.link(record);
            count += 1;
        }
        if weight == 0 {
            return Ok(Added { head, before: 0, after: 0 });
        }
        let record = self.insert(key, rest, weight, flags)?;
        self.arena.set_link(record, head);
        let mut head = record;
        if count + 1 > CHAIN_MAX {
            head = self.grow(head);
        }
        Ok(Added { head, before: 0, after: weight })
    }

    fn add_big(&mut self, head: Head, key: &[u8], rest: &[u8], weight: i64, flags: u32) -> Result<Added, EngineError> {
        let index = (head & !BIG) as usize;
        match self.big[index].find(&self.arena, key.len(), rest) {
            Ok(place) => {
                let record = self.big[index].at(place);
                let before = self.arena.weight(record);
                let after = before.wrapping_add(weight);
                self.big[index].total = self.big[index].total.wrapping_add(weight);
                if after != 0 {
                    self.arena.set_weight(record, after);
                    self.mark(record);
                    return Ok(Added { head, before, after });
                }
                self.big[index].remove(place);
                self.listed -= 1;
                self.discard(record);
                Ok(Added { head: self.shrink(head), before, after })
            }
            Err(_) if weight == 0 => Ok(Added { head, before: 0, after: 0 }),
            Err(place) => {
                let record = self.insert(key, rest, weight, flags)?;
                self.big[index].insert(place, record);
                self.listed += 1;
                self.big[index].total = self.big[index].total.wrapping_add(weight);
                Ok(Added { head, before: 0, after: weight })
            }
        }
    }

    /// The weight of a row in a multiset; 0 when it is not there.
    pub fn weight(&self, head: Head, key_len: usize, rest: &[u8]) -> i64 {
        if head != EMPTY && head & BIG != 0 {
            let list = &self.big[(head & !BIG) as usize];
            return list.find(&self.arena, key_len, rest).map_or(0, |place| self.arena.weight(list.at(place)));
        }
        self.records(head)
            .find(|&record| self.arena.get(record)[key_len..] == *rest)
            .map_or(0, |record| self.arena.weight(record))
    }

    /// The records of a multiset; in order when there are many.
    pub fn records(&self, head: Head) -> Records<'_> {
        if head != EMPTY && head & BIG != 0 {
            let list = &self.big[(head & !BIG) as usize];
            return Records::Ordered { chunks: &list.chunks, chunk: 0, index: 0 };
        }
        Records::Chain { arena: &self.arena, next: head }
    }

    /// The sum of the weights of a multiset.
    pub fn total(&self, head: Head) -> i64 {
        if head != EMPTY && head & BIG != 0 {
            return self.big[(head & !BIG) as usize].total;
        }
        self.records(head).fold(0, |sum, record| sum.wrapping_add(self.arena.weight(record)))
    }

    /// The least row of a multiset.
    pub fn first(&self, head: Head) -> Option<Record> {
        if head != EMPTY && head & BIG != 0 {
            return self.big[(head & !BIG) as usize].chunks.first()?.first().copied();
        }
        self.records(head).min_by_key(|&record| self.arena.get(record))
    }

    /// The greatest row of a multiset.
    pub fn last(&self, head: Head) -> Option<Record> {
        if head != EMPTY && head & BIG != 0 {
            return self.big[(head & !BIG) as usize].chunks.last()?.last().copied();
        }
        self.records(head).max_by_key(|&record| self.arena.get(record))
    }

    /// The bytes of a record: key, then rest.
    pub fn row(&self, record: Record) -> &[u8] {
        self.arena.get(record)
    }

    /// The weight of a record.
    pub fn row_weight(&self, record: Record) -> i64 {
        self.arena.weight(record)
    }

    /// Brings the first records of multisets into the processor's caches.
    pub fn warm(&self, heads: &[Head]) {
        self.arena.warm(heads.iter().copied().filter(|head| head & BIG == 0));
    }

    /// Whether the multiset, which is not empty, has the key.
    pub fn has_key(&self, head: Head, key: &[u8]) -> bool {
        let record = self.any(head);
        self.arena.key_len(record) == key.len() && self.arena.get(record)[..key.len()] == *key
    }

    /// Number of different rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of memory held; those of ordered lists are told by their records, a fifth of their chunks being empty.
    pub fn bytes(&self) -> usize {
        let lists = self.listed * 5 + self.big.len() * (size_of::<Ordered>() + size_of::<Vec<Record>>());
        self.arena.bytes() + lists + (self.changed.len() + self.in_flight.len()) * 4 + self.gone.bytes()
    }

    /// Bytes of [`Multisets::bytes`] that hold nothing.
    pub fn unused_bytes(&self) -> usize {
        self.arena.unused_bytes()
    }

    /// Whether [`Multisets::compact`] would give much memory back.
    pub fn is_sparse(&self) -> bool {
        self.arena.is_sparse()
    }

    /// Moves all records to a new arena. `heads` must name every multiset.
    pub fn compact<'a>(&mut self, heads: impl Iterator<Item = &'a mut Head>) {
        let old = std::mem::take(&mut self.arena);
        self.changed = Vec::new();
        self.in_flight = Vec::new();
        let mut copy = |record: Record, arena: &mut Arena| {
            let (key, rest) = old.get(record).split_at(old.key_len(record));
            let flags = old.flags(record);
            // A part of what fitted into an arena fits into an empty one.
            let moved = arena.insert(key, rest, old.weight(record), flags).unwrap_or(NONE);
            if flags & DIRTY != 0 {
                self.changed.push(moved);
            }
            if flags & IN_FLIGHT != 0 {
                self.in_flight.push(moved);
            }
            moved
        };
        for head in heads {
            if *head == EMPTY {
                continue;
            }
            if *head & BIG != 0 {
                let list = &mut self.big[(*head & !BIG) as usize];
                for record in list.chunks.iter_mut().flatten() {
                    *record = copy(*record, &mut self.arena);
                }
                continue;
            }
            let mut chain = NONE;
            let mut record = *head;
            while record != NONE {
                let moved = copy(record, &mut self.arena);
                self.arena.set_link(moved, chain);
                chain = moved;
                record = old.link(record);
            }
            *head = chain;
        }
    }

    /// Emits what changed since the last call, removals first: a row's bytes, the length of its key, its weight.
    pub fn changes(&mut self, emit: &mut dyn FnMut(&[u8], usize, Option<i64>)) {
        self.gone.take(self.tracks, &mut |row, key_len| emit(row, key_len, None));
        let emitted = PERSISTED | if self.tracks { IN_FLIGHT } else { 0 };
        for record in std::mem::take(&mut self.changed) {
            let flags = self.arena.flags(record);
            if flags & FREE == 0 && flags & DIRTY != 0 {
                self.arena.set_flags(record, flags & !DIRTY | emitted);
                if self.tracks {
                    self.in_flight.push(record);
                }
                emit(self.arena.get(record), self.arena.key_len(record), Some(self.arena.weight(record)));
            }
        }
    }

    /// From now on remembers what was emitted until [`Multisets::durable`], so that the rest can be evicted.
    pub fn track(&mut self) {
        self.tracks = true;
    }

    /// The checkpoint of everything that was emitted is durable.
    pub fn durable(&mut self) {
        self.gone.durable();
        for record in std::mem::take(&mut self.in_flight) {
            let flags = self.arena.flags(record);
            if flags & FREE == 0 {
                self.arena.set_flags(record, flags & !IN_FLIGHT);
            }
        }
    }

    /// Whether what the disk has of a row counts no more.
    pub fn is_gone(&self, row: &[u8]) -> bool {
        self.gone.has(row)
    }

    /// Whether the disk has the multiset, which is not empty, as it is.
    pub fn is_clean(&self, head: Head) -> bool {
        self.records(head).all(|record| self.arena.flags(record) & (DIRTY | IN_FLIGHT | PERSISTED) == PERSISTED)
    }

    /// Says that the multiset, which is not empty, was of use.
    pub fn touch(&mut self, head: Head) {
        let record = self.any(head);
        self.arena.set_flags(record, self.arena.flags(record) | RECENT);
    }

    /// Whether the multiset, which is not empty, was of use since the last call.
    pub fn was_touched(&mut self, head: Head) -> bool {
        let record = self.any(head);
        let flags = self.arena.flags(record);
        self.arena.set_flags(record, flags & !RECENT);
        flags & RECENT != 0
    }

    /// Forgets a multiset that the disk has; returns the bytes that are free now.
    pub fn evict(&mut self, head: Head) -> usize {
        let records: Vec<Record> = self.records(head).collect();
        if head != EMPTY && head & BIG != 0 {
            let list = std::mem::take(&mut self.big[(head & !BIG) as usize]);
            self.listed -= list.len;
            self.big_free.push(head & !BIG);
        }
        let bytes = records.iter().map(|&record| self.arena.record_bytes(record)).sum();
        records.into_iter().for_each(|record| self.free(record));
        bytes
    }

    /// A record of the multiset, which is not empty.
    pub fn any(&self, head: Head) -> Record {
        if head & BIG == 0 { head } else { self.big[(head & !BIG) as usize].chunks[0][0] }
    }

    fn insert(&mut self, key: &[u8], rest: &[u8], weight: i64, flags: u32) -> Result<Record, EngineError> {
        let record = self.arena.insert(key, rest, weight, flags & !DIRTY).ok_or_else(|| {
            EngineError::Internal("the state of one operator outgrew 32 GiB, or a row 128 MiB".into())
        })?;
        self.rows += 1;
        if flags & DIRTY != 0 {
            self.mark(record);
        }
        Ok(record)
    }

    fn mark(&mut self, record: Record) {
        let flags = self.arena.flags(record);
        if flags & DIRTY == 0 {
            self.arena.set_flags(record, flags | DIRTY);
            self.changed.push(record);
            if self.changed.len() > 4096 + 2 * self.rows {
                self.forget_stale_changes();
            }
        }
    }

    /// Drops repeated entries and those of freed records from the list of changes.
    fn forget_stale_changes(&mut self) {
        let arena = &mut self.arena;
        self.changed.retain(|&record| {
            let flags = arena.flags(record);
            let first = flags & FREE == 0 && flags & DIRTY != 0;
            if first {
                arena.set_flags(record, flags & !DIRTY);
            }
            first
        });
        for &record in &self.changed {
            arena.set_flags(record, arena.flags(record) | DIRTY);
        }
    }

    fn discard(&mut self, record: Record) {
        if self.arena.flags(record) & PERSISTED != 0 {
            self.gone.insert(self.arena.get(record), self.arena.key_len(record));
        }
        self.free(record);
    }

    fn free(&mut self, record: Record) {
        self.arena.remove(record);
        self.rows -= 1;
        if self.rows == 0 {
            self.arena = Arena::default();
            self.changed = Vec::new();
            self.in_flight = Vec::new();
            self.big = Vec::new();
            self.big_free = Vec::new();
            self.listed = 0;
        }
    }

    fn grow(&mut self, chain: Head) -> Head {
        let mut records: Vec<Record> = self.records(chain).collect();
        records.sort_unstable_by_key(|&record| self.arena.get(record));
        self.listed += records.len();
        let list = Ordered { total: self.total(chain), len: records.len(), chunks: vec![records] };
        let index = match self.big_free.pop() {
            Some(index) => {
                self.big[index as usize] = list;
                index
            }
            None => {
                self.big.push(list);
                self.big.len() as u32 - 1
            }
        };
        BIG | index
    }

    fn shrink(&mut self, head: Head) -> Head {
        let index = head & !BIG;
        let Some(list) = self.big.get_mut(index as usize) else {
            return EMPTY; // all rows of all multisets are gone
        };
        if list.len > CHAIN_MAX / 2 {
            return head;
        }
        let list = std::mem::take(list);
        self.listed -= list.len;
        self.big_free.push(index);
        let mut chain = NONE;
        for record in list.chunks.into_iter().flatten() {
            self.arena.set_link(record, chain);
            chain = record;
        }
        chain
    }
}

/// Iterates over the records of a multiset.
pub(crate) enum Records<'a> {
    /// Along the links.
    Chain {
        /// Where the links are.
        arena: &'a Arena,
        /// The record to come.
        next: Record,
    },
    /// Through the chunks.
    Ordered {
        /// All chunks.
        chunks: &'a [Vec<Record>],
        /// The present chunk.
        chunk: usize,
        /// The record to come in it.
        index: usize,
    },
}

impl Iterator for Records<'_> {
    type Item = Record;

    fn next(&mut self) -> Option<Record> {
        match self {
            Records::Chain { next: NONE, .. } => None,
            Records::Chain { arena, next } => {
                let record = *next;
                *next = arena.link(record);
                Some(record)
            }
            Records::Ordered { chunks, chunk, index } => {
                let records = chunks.get(*chunk)?;
                let record = records[*index];
                *index += 1;
                if *index == records.len() {
                    (*chunk, *index) = (*chunk + 1, 0);
                }
                Some(record)
            }
        }
    }
}

/// Records in order of their bytes, in chunks none of which is empty.
#[derive(Default)]
struct Ordered {
    chunks: Vec<Vec<Record>>,
    len: usize,
    total: i64,
}

impl Ordered {
    fn at(&self, (chunk, index): (usize, usize)) -> Record {
        self.chunks[chunk][index]
    }

    /// Where the row is, or where it belongs.
    fn find(&self, arena: &Arena, key_len: usize, rest: &[u8]) -> Result<(usize, usize), (usize, usize)> {
        let row = |record: Record| &arena.get(record)[key_len..];
        let chunk = self.chunks.partition_point(|records| row(records[0]) <= rest).saturating_sub(1);
        let Some(records) = self.chunks.get(chunk) else {
            return Err((0, 0));
        };
        match records.binary_search_by(|&record| row(record).cmp(rest)) {
            Ok(index) => Ok((chunk, index)),
            Err(index) => Err((chunk, index)),
        }
    }

    fn insert(&mut self, (chunk, index): (usize, usize), record: Record) {
        self.len += 1;
        let Some(records) = self.chunks.get_mut(chunk) else {
            self.chunks.push(vec![record]);
            return;
        };
        records.insert(index, record);
        if records.len() > CHUNK_MAX {
            // Rows often come in ascending order: then full chunks stay behind.
            let at_end = index + 1 == records.len();
            let middle = if at_end { CHUNK_MAX } else { CHUNK_MAX / 2 };
            let upper = records.split_off(middle);
            self.chunks.insert(chunk + 1, upper);
        }
    }

    fn remove(&mut self, (chunk, index): (usize, usize)) {
        self.len -= 1;
        self.chunks[chunk].remove(index);
        if self.chunks[chunk].is_empty() {
            self.chunks.remove(chunk);
        }
    }
}
