//! Reading a topic: the sparse index of a segment, and blocks of checked batches.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::Mutex;
use weir_environment::{ReadFile, Storage};

use super::batch::Block;
use super::{BATCH, Shared};
use crate::JournalError;
use crate::entry::{self, ENTRY_BYTES, Entry, SEAL};
use crate::segment::{self, HEADER_BYTES, Scanner, Segment};

/// The index has a point for about every so many bytes.
const INDEX_INTERVAL_BYTES: u64 = 32 << 10;
/// Ranges of a block are 32 bits wide.
const BLOCK_BYTES_MAX: usize = 1 << 30;

/// A segment as readers see it.
pub(super) struct ReadSegment {
    segment: Segment,
    /// Bytes of it that may be read.
    len: AtomicU64,
    file: OnceLock<Arc<dyn ReadFile>>,
    index: Mutex<Index>,
}

/// Some batches of a segment: (offset of the first record, position), growing, as far as the segment was walked.
struct Index {
    points: Vec<(u64, u64)>,
}

impl ReadSegment {
    pub(super) fn new(segment: Segment) -> Self {
        Self {
            len: AtomicU64::new(segment.len),
            index: Mutex::new(Index { points: vec![(segment.first, HEADER_BYTES)] }),
            file: OnceLock::new(),
            segment,
        }
    }

    pub(super) fn first(&self) -> u64 {
        self.segment.first
    }

    pub(super) fn log(&self) -> Option<u32> {
        self.segment.log
    }

    pub(super) fn path(&self) -> &Path {
        &self.segment.path
    }

    pub(super) fn len(&self) -> u64 {
        self.len.load(Ordering::Acquire)
    }

    pub(super) fn set_len(&self, len: u64) {
        self.len.store(len, Ordering::Release);
    }

    fn file(&self, storage: &dyn Storage) -> Result<Arc<dyn ReadFile>, JournalError> {
        if let Some(file) = self.file.get() {
            return Ok(file.clone());
        }
        let opened = storage.open_read(self.path()).map_err(|e| JournalError::io("open", self.path(), e))?;
        Ok(self.file.get_or_init(|| opened.into()).clone())
    }

    /// Where the batch that holds record `offset` starts. The record is durable, so it is there.
    fn locate(&self, file: &dyn ReadFile, limit: u64, offset: u64) -> Result<u64, JournalError> {
        let (mut expected, mut at, is_frontier) = {
            let index = self.index.lock();
            let point = index.points.partition_point(|&(first, _)| first <= offset).max(1);
            let (first, position) = index.points[point - 1];
            (first, position, point == index.points.len())
        };
        let mut point_at = at;
        let mut walked = Vec::new();
        let mut scanner = Scanner::new(file, &self.segment, limit);
        loop {
            let Some((entry, end)) = scanner.entry(at)?.filter(|(entry, _)| continues(entry, expected)) else {
                let records = Some(expected..offset.max(expected) + 1);
                return Err(JournalError::corrupt(self.path(), at, records, "no batch starts here"));
            };
            if is_frontier && at - point_at >= INDEX_INTERVAL_BYTES {
                walked.push((expected, at));
                point_at = at;
            }
            expected += u64::from(entry.count);
            if offset < expected {
                break;
            }
            at = end;
        }
        if !walked.is_empty() {
            let mut index = self.index.lock();
            let last = index.points.last().map_or(0, |&(first, _)| first);
            index.points.extend(walked.into_iter().filter(|&(first, _)| first > last));
        }
        Ok(at)
    }
}

fn continues(entry: &Entry, expected: u64) -> bool {
    entry.number == expected && (entry.kind == SEAL || (entry.kind == BATCH && entry.count > 0))
}

impl Shared {
    pub(super) fn read(&self, from: u64, bytes_max: usize) -> Result<Block, JournalError> {
        let (segment, limit, end) = {
            let log = self.log.read();
            let begin = log.segments.front().map_or(0, |segment| segment.first());
            if from < begin || from > log.durable_end {
                let path = self.folder.clone();
                return Err(JournalError::OutOfRange { path, from, begin, end: log.durable_end });
            }
            if from == log.durable_end {
                return Ok(Block { first_offset: from, ..Block::default() });
            }
            let after = log.segments.partition_point(|segment| segment.first() <= from);
            let segment = log.segments[after - 1].clone();
            let end = log.segments.get(after).map_or(log.durable_end, |next| next.first());
            (segment.clone(), segment.len(), end)
        };
        let file = segment.file(&*self.environment.storage)?;
        let at = segment.locate(&*file, limit, from)?;
        let bytes_max = bytes_max.clamp(1, BLOCK_BYTES_MAX);
        let raw = read_batches(&*file, &segment, at, limit, bytes_max)?;
        Gather { segment: &segment, from, end, bytes_max }.run(raw, at)
    }
}

/// Bytes of the file from `at` on: whole batches, at least one, about `bytes_max` bytes.
fn read_batches(
    file: &dyn ReadFile,
    segment: &ReadSegment,
    at: u64,
    limit: u64,
    bytes_max: usize,
) -> Result<Vec<u8>, JournalError> {
    let mut wanted = bytes_max.max(4096).min((limit - at) as usize);
    loop {
        let mut raw = vec![0; wanted];
        let filled = segment::read_full(file, segment.path(), at, &mut raw)?;
        raw.truncate(filled);
        let first = entry::parse(&raw, segment.segment.salt).map_or(0, |entry| entry.len() as usize);
        if first <= filled || filled < wanted {
            return Ok(raw);
        }
        wanted = first;
    }
}

/// Turns bytes of a segment into a block.
struct Gather<'a> {
    segment: &'a ReadSegment,
    from: u64,
    /// Behind the last durable record of the segment.
    end: u64,
    bytes_max: usize,
}

impl Gather<'_> {
    fn run(&self, raw: Vec<u8>, position: u64) -> Result<Block, JournalError> {
        let found = self.entries(&raw, position)?;
        let mut block = Block { first_offset: self.from, ..Block::default() };
        let corrupt = |at: usize, entry: &Entry, what: &str| {
            JournalError::corrupt(self.segment.path(), position + at as u64, segment::numbers(entry), what)
        };
        let plain = found.iter().all(|(_, entry)| entry.is_plain());
        let mut buffer = if plain {
            Vec::new()
        } else {
            Vec::with_capacity(found.iter().map(|(_, entry)| entry.body_len as usize).sum())
        };
        for (at, entry) in &found {
            let stored = *at + ENTRY_BYTES..*at + entry.len() as usize;
            let skip = self.from.saturating_sub(entry.number);
            let (source, body) = if plain {
                (raw.as_slice(), stored)
            } else {
                let start = buffer.len();
                let body = entry.open(&raw[stored]).map_err(|what| corrupt(*at, entry, &what))?;
                buffer.extend_from_slice(&body);
                (buffer.as_slice(), start..buffer.len())
            };
            if block.decode(source, body.start, body.end, entry.count, skip).is_none() {
                return Err(corrupt(*at, entry, "the batch does not hold the records that it says"));
            }
        }
        block.buffer = Bytes::from(if plain { raw } else { buffer });
        Ok(block)
    }

    /// The batches at the start of `raw` that are wanted, checked; at least one.
    fn entries(&self, raw: &[u8], position: u64) -> Result<Vec<(usize, Entry)>, JournalError> {
        let salt = self.segment.segment.salt;
        let mut found: Vec<(usize, Entry)> = Vec::new();
        let (mut at, mut bytes) = (0, 0);
        let mut expected = None;
        let next = |expected: Option<u64>| expected.unwrap_or(self.from);
        while next(expected) < self.end && (found.is_empty() || bytes < self.bytes_max) {
            if raw.len() - at < ENTRY_BYTES && !found.is_empty() {
                break;
            }
            let entry = entry::parse(&raw[at..], salt).filter(|e| continues(e, expected.unwrap_or(e.number)));
            let Some(entry) = entry else {
                let records = Some(next(expected)..next(expected) + 1);
                let at = position + at as u64;
                return Err(JournalError::corrupt(self.segment.path(), at, records, "no batch starts here"));
            };
            let len = entry.len() as usize;
            if raw.len() - at < len && !found.is_empty() {
                break;
            }
            if entry.kind == BATCH {
                if !found.is_empty() && bytes + entry.body_len as usize > self.bytes_max {
                    break;
                }
                let stored = raw.get(at + ENTRY_BYTES..at + len).unwrap_or_default();
                if !entry.checks(salt, stored) {
                    let what = "the batch is not what was written";
                    let at = position + at as u64;
                    return Err(JournalError::corrupt(self.segment.path(), at, segment::numbers(&entry), what));
                }
                found.push((at, entry));
                bytes += entry.body_len as usize;
            }
            expected = Some(entry.number + u64::from(entry.count));
            at += len;
        }
        Ok(found)
    }
}
