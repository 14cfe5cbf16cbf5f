//! Weighted records of bytes in large blocks, without an allocation a record.
//!
//! A record is named by its position in units of 16 bytes: the block in the upper 16 bits, the unit within it in the
//! lower ones. It has a header (link u32, length and flags u32, weight i64, length of the key u32; little endian), then
//! its bytes: a key and the rest.
//! Freed records are kept in lists by size class for reuse.

/// Where a record is. The uppermost bit is always 0.
pub(crate) type Record = u32;

/// No record.
pub(crate) const NONE: Record = u32::MAX;

const UNIT: usize = 16;
const HEADER: usize = 20;
const BLOCK_UNITS: usize = 1 << 16;
const BLOCKS_MAX: usize = 1 << 15;
/// Classes 1..=64 are exact numbers of units; above, four classes for each doubling up to a whole block.
const CLASSES: usize = 64 + 4 * 10 + 1;

/// The record differs from the last checkpoint and stands in the list of changes.
pub(super) const DIRTY: u32 = 1 << 31;
/// The last checkpoint has the record.
pub(super) const PERSISTED: u32 = 1 << 30;
/// The record is free.
pub(super) const FREE: u32 = 1 << 29;
/// A checkpoint that is being written has the record.
pub(super) const IN_FLIGHT: u32 = 1 << 28;
/// The record was of use since eviction last came by.
pub(super) const RECENT: u32 = 1 << 27;
const LENGTH: u32 = RECENT - 1;

/// The longest record, in bytes.
pub(super) const RECORD_SIZE_MAX: usize = LENGTH as usize;

#[derive(Default)]
pub(crate) struct Arena {
    blocks: Vec<Box<[u8]>>,
    /// The block that is being filled and its first unused unit.
    tail: Option<(usize, usize)>,
    free: Vec<Record>,
    free_blocks: Vec<usize>,
    units_live: usize,
    units_used: usize,
}

impl Arena {
    /// Stores `key` followed by `rest`. `None` when the arena is full (32 GiB).
    pub fn insert(&mut self, key: &[u8], rest: &[u8], weight: i64, flags: u32) -> Option<Record> {
        let len = key.len() + rest.len();
        if len > RECORD_SIZE_MAX {
            return None;
        }
        let record = self.allocate(units_of(len))?;
        let (block, at) = place(record);
        let bytes = &mut self.blocks[block][at..];
        write_u32(bytes, 0, NONE);
        write_u32(bytes, 4, len as u32 | flags);
        bytes[8..16].copy_from_slice(&weight.to_le_bytes());
        write_u32(bytes, 16, key.len() as u32);
        let bytes = &mut bytes[HEADER..HEADER + len];
        bytes[..key.len()].copy_from_slice(key);
        bytes[key.len()..].copy_from_slice(rest);
        Some(record)
    }

    /// Replaces what follows the key when it is as long; false when it is not.
    pub fn overwrite(&mut self, record: Record, rest: &[u8]) -> bool {
        let (len, key_len) = (self.get(record).len(), self.key_len(record));
        let fits = len - key_len == rest.len();
        if fits {
            let (block, at) = place(record);
            self.blocks[block][at + HEADER + key_len..at + HEADER + len].copy_from_slice(rest);
        }
        fits
    }

    /// Gives a record's space back.
    pub fn remove(&mut self, record: Record) {
        let units = units_of(self.get(record).len());
        self.units_live -= units;
        let (block, at) = place(record);
        if units > BLOCK_UNITS {
            self.units_used -= units;
            self.blocks[block] = Box::default();
            self.free_blocks.push(block);
            return;
        }
        let class = class_of(units).0;
        if self.free.is_empty() {
            self.free = vec![NONE; CLASSES];
        }
        let bytes = &mut self.blocks[block][at..];
        write_u32(bytes, 0, self.free[class]);
        write_u32(bytes, 4, FREE);
        self.free[class] = record;
    }

    /// Brings records into the processor's caches; no read waits for another.
    pub fn warm(&self, records: impl Iterator<Item = Record>) {
        std::hint::black_box(records.fold(0, |sum, record| sum ^ self.link(record)));
    }

    pub fn get(&self, record: Record) -> &[u8] {
        let (block, at) = place(record);
        let bytes = &self.blocks[block][at..];
        let len = (read_u32(bytes, 4) & LENGTH) as usize;
        &bytes[HEADER..HEADER + len]
    }

    pub fn key_len(&self, record: Record) -> usize {
        let (block, at) = place(record);
        read_u32(&self.blocks[block][at..], 16) as usize
    }

    pub fn link(&self, record: Record) -> Record {
        let (block, at) = place(record);
        read_u32(&self.blocks[block][at..], 0)
    }

    pub fn set_link(&mut self, record: Record, link: Record) {
        let (block, at) = place(record);
        write_u32(&mut self.blocks[block][at..], 0, link);
    }

    pub fn weight(&self, record: Record) -> i64 {
        let (block, at) = place(record);
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.blocks[block][at + 8..at + 16]);
        i64::from_le_bytes(bytes)
    }

    pub fn set_weight(&mut self, record: Record, weight: i64) {
        let (block, at) = place(record);
        self.blocks[block][at + 8..at + 16].copy_from_slice(&weight.to_le_bytes());
    }

    /// Flags of a record; [`FREE`] for one in a block that is gone.
    pub fn flags(&self, record: Record) -> u32 {
        let (block, at) = place(record);
        match self.blocks.get(block).and_then(|block| block.get(at..at + UNIT)) {
            Some(bytes) => read_u32(bytes, 4) & !LENGTH,
            None => FREE,
        }
    }

    pub fn set_flags(&mut self, record: Record, flags: u32) {
        let (block, at) = place(record);
        let bytes = &mut self.blocks[block][at..];
        let len = read_u32(bytes, 4) & LENGTH;
        write_u32(bytes, 4, len | flags);
    }

    /// Bytes of all blocks in use, garbage included.
    pub fn bytes(&self) -> usize {
        self.units_used * UNIT
    }

    /// Bytes of [`Arena::bytes`] that hold nothing.
    pub fn unused_bytes(&self) -> usize {
        (self.units_used - self.units_live) * UNIT
    }

    /// Bytes that a record takes.
    pub fn record_bytes(&self, record: Record) -> usize {
        units_of(self.get(record).len()) * UNIT
    }

    /// Whether two thirds of what was ever written is garbage.
    pub fn is_sparse(&self) -> bool {
        self.units_used > BLOCK_UNITS && self.units_live < self.units_used / 3
    }

    fn allocate(&mut self, units: usize) -> Option<Record> {
        if units > BLOCK_UNITS {
            let block = self.new_block(units)?;
            self.units_live += units;
            self.units_used += units;
            return Some((block << 16) as Record);
        }
        let (class, size) = class_of(units);
        if let Some(&record) = self.free.get(class)
            && record != NONE
        {
            self.free[class] = self.link(record);
            self.units_live += units;
            return Some(record);
        }
        let (block, unit) = match self.tail {
            Some((block, unit)) if unit + size <= BLOCK_UNITS => (block, unit),
            _ => (self.new_block(BLOCK_UNITS)?, 0),
        };
        self.tail = Some((block, unit + size));
        self.units_live += units;
        self.units_used += size;
        Some((block << 16 | unit) as Record)
    }

    fn new_block(&mut self, units: usize) -> Option<usize> {
        let bytes = vec![0; units * UNIT].into_boxed_slice();
        if let Some(block) = self.free_blocks.pop() {
            self.blocks[block] = bytes;
            return Some(block);
        }
        if self.blocks.len() >= BLOCKS_MAX {
            return None;
        }
        self.blocks.push(bytes);
        Some(self.blocks.len() - 1)
    }
}

fn place(record: Record) -> (usize, usize) {
    ((record >> 16) as usize, (record & 0xffff) as usize * UNIT)
}

fn units_of(len: usize) -> usize {
    (HEADER + len).div_ceil(UNIT)
}

/// The size class of a record of so many units, and the units it is given.
fn class_of(units: usize) -> (usize, usize) {
    if units <= 64 {
        return (units, units);
    }
    let exponent = (units - 1).ilog2() as usize;
    let step = 1 << (exponent - 2);
    let quarter = (units - (1 << exponent)).div_ceil(step);
    (64 + (exponent - 6) * 4 + quarter, (1 << exponent) + quarter * step)
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn write_u32(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
}
