//! Reading committed epochs, also from other threads than the writer's.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use weir_environment::{Environment, ReadFile, Storage};

use super::{BEGIN, COMMIT, COMMIT_HEAD_BYTES, Committed, FRAME, Frame};
use crate::JournalError;
use crate::entry::{self, ENTRY_BYTES, Entry, salted, u32_at, u64_at};
use crate::segment::{self, HEADER_BYTES, Scanner, Segment};

/// The running account of an epoch's entries that its commit record closes.
#[derive(Debug, Clone)]
pub(crate) struct Committing {
    pub(super) epoch: u64,
    pub(super) frames: u32,
    /// Bytes of begin and frames.
    pub(super) bytes: u64,
    /// Over their headers, which hold the checksums of their bodies.
    pub(super) checksum: u32,
}

impl Committing {
    pub(crate) fn new(epoch: u64) -> Self {
        Self { epoch, frames: 0, bytes: 0, checksum: 0 }
    }

    /// Adds an entry with this header and so many bytes of body.
    pub(super) fn add(&mut self, kind: u8, header: &[u8; ENTRY_BYTES], stored: usize) {
        if kind != COMMIT {
            self.account(kind, (ENTRY_BYTES + stored) as u64, u32_at(header, 4));
        }
    }

    /// Adds an entry as read.
    pub(crate) fn add_parsed(&mut self, entry: &Entry) {
        self.account(entry.kind, entry.len(), entry.header_crc);
    }

    fn account(&mut self, kind: u8, bytes: u64, header_crc: u32) {
        self.frames += u32::from(kind == FRAME);
        self.bytes += bytes;
        self.checksum = salted(u64::from(self.checksum), &header_crc.to_le_bytes());
    }

    /// The payload of the commit record, when it is the one of this epoch.
    pub(crate) fn payload(&self, body: &[u8]) -> Option<Bytes> {
        let payload = body.get(COMMIT_HEAD_BYTES..)?;
        let fits = u32_at(body, 0) == self.frames && u64_at(body, 4) == self.bytes && u32_at(body, 12) == self.checksum;
        fits.then(|| Bytes::copy_from_slice(payload))
    }
}

/// What the writer and the readers have in common.
pub(super) struct Shared {
    environment: Environment,
    folder: PathBuf,
    log: RwLock<VecDeque<Arc<EpochSegment>>>,
}

/// A segment as readers see it.
struct EpochSegment {
    segment: Segment,
    file: OnceLock<Arc<dyn ReadFile>>,
    index: Mutex<Index>,
}

/// Where the epochs of a segment begin, by number from the segment's first.
struct Index {
    positions: Vec<u64>,
    /// Where the last of them ends.
    end: u64,
    /// Whether `positions` is filled in.
    known: bool,
}

/// Reads committed epochs. Cheap to clone.
#[derive(Clone)]
pub struct EpochReader {
    shared: Arc<Shared>,
}

impl std::fmt::Debug for EpochReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EpochReader").field("folder", &self.shared.folder).finish_non_exhaustive()
    }
}

impl EpochReader {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    /// As [`super::EpochJournal::read`].
    ///
    /// # Errors
    /// [`JournalError::OutOfRange`] when it is not kept, [`JournalError::Corrupt`].
    pub fn read(&self, epoch: u64) -> Result<Committed, JournalError> {
        self.shared.read(epoch)
    }

    /// The first epoch that is kept; None before the first commit.
    pub fn first_epoch(&self) -> Option<u64> {
        self.shared.first_epoch()
    }

    /// The last committed epoch; None before the first commit.
    pub fn last_epoch(&self) -> Option<u64> {
        let (begin, end) = self.shared.bounds();
        (begin < end).then(|| end - 1)
    }
}

impl Shared {
    pub(super) fn new(
        environment: Environment,
        folder: PathBuf,
        old: Vec<Segment>,
        last: &Segment,
        positions: Vec<u64>,
    ) -> Self {
        let mut log: VecDeque<_> = old
            .into_iter()
            .map(|segment| {
                let end = segment.len;
                Arc::new(EpochSegment::new(segment, Index { positions: Vec::new(), end, known: false }))
            })
            .collect();
        let index = Index { positions, end: last.len, known: true };
        log.push_back(Arc::new(EpochSegment::new(last.clone(), index)));
        Self { environment, folder, log: RwLock::new(log) }
    }

    /// The first epoch kept, and the one behind the last.
    fn bounds(&self) -> (u64, u64) {
        let log = self.log.read();
        let begin = log.front().map_or(1, |segment| segment.segment.first);
        let end = log.back().map_or(1, |last| last.segment.first + last.index.lock().positions.len() as u64);
        (begin, end)
    }

    pub(super) fn first_epoch(&self) -> Option<u64> {
        let (begin, end) = self.bounds();
        (begin < end).then_some(begin)
    }

    /// The writer committed an epoch to the last segment.
    pub(super) fn committed(&self, epoch: u64, start: u64, end: u64) {
        let log = self.log.read();
        if let Some(last) = log.back() {
            let mut index = last.index.lock();
            debug_assert_eq!(epoch, last.segment.first + index.positions.len() as u64);
            index.positions.push(start);
            index.end = end;
        }
    }

    /// The writer closed its segment, `len` bytes long, and goes on with a new one.
    pub(super) fn rotated(&self, len: u64, next: &Segment) {
        let index = Index { positions: Vec::new(), end: next.len, known: true };
        let mut log = self.log.write();
        if let Some(closed) = log.back() {
            closed.index.lock().end = len;
        }
        log.push_back(Arc::new(EpochSegment::new(next.clone(), index)));
    }

    /// The oldest segment, when it is not the last and holds only epochs before `before`.
    pub(super) fn releasable(&self, before: u64) -> Option<PathBuf> {
        let log = self.log.read();
        let next = log.get(1)?.segment.first;
        (next <= before).then(|| log[0].segment.path.clone())
    }

    pub(super) fn forget_oldest(&self) {
        self.log.write().pop_front();
    }

    pub(super) fn bytes_before_last(&self) -> u64 {
        let log = self.log.read();
        log.iter().take(log.len().saturating_sub(1)).map(|segment| segment.index.lock().end).sum()
    }

    pub(super) fn read(&self, epoch: u64) -> Result<Committed, JournalError> {
        let (begin, end) = self.bounds();
        let out_of_range = || {
            let (begin, end) = self.bounds();
            JournalError::OutOfRange { path: self.folder.clone(), from: epoch, begin, end }
        };
        if epoch < begin || epoch >= end {
            return Err(out_of_range());
        }
        let segment = {
            let log = self.log.read();
            match log.partition_point(|segment| segment.segment.first <= epoch).checked_sub(1) {
                Some(index) => log[index].clone(),
                None => return Err(out_of_range()),
            }
        };
        match segment.read(&*self.environment.storage, epoch) {
            // Released since it was looked up.
            Err(JournalError::Retry { .. }) if epoch < self.bounds().0 => Err(out_of_range()),
            other => other,
        }
    }
}

impl EpochSegment {
    fn new(segment: Segment, index: Index) -> Self {
        Self { segment, file: OnceLock::new(), index: Mutex::new(index) }
    }

    fn file(&self, storage: &dyn Storage) -> Result<Arc<dyn ReadFile>, JournalError> {
        if let Some(file) = self.file.get() {
            return Ok(file.clone());
        }
        let path = &self.segment.path;
        let opened = storage.open_read(path).map_err(|e| JournalError::io("open", path, e))?;
        Ok(self.file.get_or_init(|| opened.into()).clone())
    }

    /// Where an epoch starts and at most ends.
    fn range(&self, file: &dyn ReadFile, epoch: u64) -> Result<(u64, u64), JournalError> {
        let path = &self.segment.path;
        let mut index = self.index.lock();
        if !index.known {
            let mut positions = Vec::new();
            let mut scanner = Scanner::new(file, &self.segment, index.end);
            let mut at = HEADER_BYTES;
            while at < index.end {
                let next = self.segment.first + positions.len() as u64;
                let Some((entry, end)) = scanner.entry(at)? else {
                    let what = "no entry starts here";
                    let epoch = next.saturating_sub(1).max(self.segment.first);
                    return Err(JournalError::corrupt(path, at, Some(epoch..next + 1), what));
                };
                if entry.kind == BEGIN {
                    positions.push(at);
                }
                at = end;
            }
            index.positions = positions;
            index.known = true;
        }
        let nth = (epoch - self.segment.first) as usize;
        let Some(&start) = index.positions.get(nth) else {
            return Err(JournalError::corrupt(path, index.end, Some(epoch..epoch + 1), "the epoch is missing"));
        };
        Ok((start, index.positions.get(nth + 1).copied().unwrap_or(index.end)))
    }

    fn read(&self, storage: &dyn Storage, epoch: u64) -> Result<Committed, JournalError> {
        let file = self.file(storage)?;
        let path = &self.segment.path;
        let (start, end) = self.range(&*file, epoch)?;
        let mut raw = vec![0; (end - start) as usize];
        let filled = segment::read_full(&*file, path, start, &mut raw)?;
        raw.truncate(filled);
        let raw = Bytes::from(raw);
        let corrupt = |at: usize, what: &str| {
            JournalError::corrupt(path, start + at as u64, Some(epoch..epoch + 1), format!("epoch {epoch}: {what}"))
        };

        let mut committing = Committing::new(epoch);
        let mut intent = None;
        let mut frames = Vec::new();
        let mut at = 0;
        loop {
            let entry = entry::parse(&raw[at..], self.segment.salt).filter(|entry| entry.number == epoch);
            let entry = entry.ok_or_else(|| corrupt(at, "no entry of it starts here"))?;
            let until = at + entry.len() as usize;
            let stored = raw.get(at + ENTRY_BYTES..until).filter(|stored| entry.checks(self.segment.salt, stored));
            let stored = stored.ok_or_else(|| corrupt(at, "an entry is not what was written"))?;
            let body = if entry.is_plain() {
                raw.slice_ref(stored)
            } else {
                Bytes::from(entry.open(stored).map_err(|what| corrupt(at, &what))?.into_owned())
            };
            match (entry.kind, intent.is_some()) {
                (BEGIN, false) => intent = Some(body),
                (FRAME, true) => {
                    let frame = frame(entry.tag, &body).ok_or_else(|| corrupt(at, "a frame has no name"))?;
                    frames.push(frame);
                }
                (COMMIT, true) => {
                    let payload = committing.payload(&body);
                    let payload = payload.ok_or_else(|| corrupt(at, "the commit record is of other frames"))?;
                    return Ok(Committed { epoch, intent: intent.unwrap_or_default(), frames, payload });
                }
                _ => return Err(corrupt(at, "its entries are out of order")),
            }
            committing.add_parsed(&entry);
            at = until;
        }
    }
}

fn frame(tag: u32, body: &Bytes) -> Option<Frame> {
    let name_len = usize::from(u16::from_le_bytes([*body.first()?, *body.get(1)?]));
    let name = std::str::from_utf8(body.get(2..2 + name_len)?).ok()?;
    Some(Frame { kind: u8::try_from(tag).ok()?, name: name.to_owned(), payload: body.slice(2 + name_len..) })
}
