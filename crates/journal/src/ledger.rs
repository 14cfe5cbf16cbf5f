//! The ledger: entries chained by SHA-256, so that a change of history shows.
//!
//! Invariants:
//! - Entries are in the order of their epochs, at most one an epoch.
//! - The hash of an entry is SHA-256 over the hash before it (32 zero bytes for the first), its epoch and the length
//!   of its payload (both u64, little endian), and its payload. Whoever changes an entry has to change every hash after it,
//!   and whoever noted the head sees it.
//! - Entries are written after the commit of their epoch, which holds what is needed to write them again. So they are
//!   synced now and then only, and the tail that a crash takes is completed from the epoch journal.
//!
//! Layout: segment files ([`crate::segment`]) named by their first epoch. The number of an entry is its epoch, its body
//! the hash (32 bytes), then the payload.
//!
//! Write: each entry is appended at once, and synced with [`Ledger::sync`]. After an error the ledger is back at the
//! last sync; [`Ledger::last_epoch`] tells from where on to append again.
//!
//! Read: from the start of the segment that holds the epoch. [`Ledger::verify`] computes every hash again.
//!
//! Delete: never.
//!
//! Recover: as in [`crate::segment`].

use std::collections::VecDeque;
use std::fmt;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use weir_environment::Environment;

use crate::entry::{self, Draft, SEAL};
use crate::segment::{self, Format, HEADER_BYTES, Scanner, Segment, SegmentWriter, Sense};
use crate::{Compression, JournalError};

pub(crate) const FORMAT: Format = Format { magic: *b"WEIRLEDG", version: 1, suffix: "ledger" };
pub(crate) const ENTRY: u8 = 1;
const HASH_BYTES: usize = 32;
/// Entries are read from the file in chunks of about so many bytes.
const CHUNK_BYTES: usize = 256 << 10;

/// A SHA-256 hash. Its text form is lower-case hexadecimal.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Hash(pub [u8; HASH_BYTES]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Hash({self})")
    }
}

impl Hash {
    /// The hash of the entry that follows the one with this hash.
    pub fn next(&self, epoch: u64, payload: &[u8]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(self.0);
        hasher.update(epoch.to_le_bytes());
        hasher.update((payload.len() as u64).to_le_bytes());
        hasher.update(payload);
        Self(hasher.finalize().into())
    }
}

/// How the ledger is kept.
#[derive(Debug, Clone)]
pub struct LedgerOptions {
    /// A segment this long is followed by a new one.
    pub segment_bytes: u64,
    /// How entries are compressed.
    pub compression: Compression,
}

impl Default for LedgerOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, compression: Compression::Zstd }
    }
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LedgerEntry {
    /// The epoch it is of.
    pub epoch: u64,
    /// What it says.
    pub payload: Bytes,
    /// The chain's hash up to and with it.
    pub hash: Hash,
}

/// The first entry that does not fit its chain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the ledger's entry of epoch {epoch} does not fit: {what} ({} at byte {position})", path.display())]
pub struct Misfit {
    /// Its epoch, or the one that is to be expected there.
    pub epoch: u64,
    /// The file it is in.
    pub path: PathBuf,
    /// Where in the file, in bytes.
    pub position: u64,
    /// What is wrong with it.
    pub what: String,
}

/// Why a ledger is not verified.
#[derive(Debug, Clone, thiserror::Error)]
pub enum VerifyError {
    /// It was changed, or is damaged.
    #[error(transparent)]
    Misfit(Misfit),
    /// It could not be read.
    #[error(transparent)]
    Unread(JournalError),
}

impl From<JournalError> for VerifyError {
    fn from(error: JournalError) -> Self {
        match error {
            JournalError::Corrupt { path, position, records, what } => {
                Self::Misfit(Misfit { epoch: records.map_or(0, |epochs| epochs.start), path, position, what })
            }
            other => Self::Unread(other),
        }
    }
}

/// The ledger, open for writing. There is one.
pub struct Ledger {
    environment: Environment,
    folder: PathBuf,
    options: LedgerOptions,
    /// All segments but the last.
    closed_segments: Vec<Segment>,
    segment: SegmentWriter,
    /// The last entry written.
    written: End,
    /// The last entry that was synced.
    synced: End,
    /// Whether the segment is closed, and its successor (of this first epoch) may exist.
    closed_for: Option<u64>,
}

/// Where a chain ends.
#[derive(Clone, Copy, Default)]
struct End {
    epoch: Option<u64>,
    head: Hash,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger").field("folder", &self.folder).field("head", &self.written.head).finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens the ledger in `folder`, creating both when they are missing, and recovers it from a crash. Does not
    /// compute hashes again; [`Ledger::verify`] does.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] when synced bytes are damaged, [`JournalError::Refused`] for files of another version.
    pub fn open(
        environment: &Environment,
        folder: impl AsRef<Path>,
        options: LedgerOptions,
    ) -> Result<Self, JournalError> {
        let folder = folder.as_ref().to_path_buf();
        let mut closed_segments = segment::open_all(environment, FORMAT, &folder)?;
        let mut end = End::default();
        let segment = match closed_segments.pop() {
            None => SegmentWriter::create(environment, FORMAT, &folder, 0)?,
            Some(last) => segment::recover(environment, last, |_, entry, stored| {
                if end.epoch.is_some_and(|last| entry.number <= last) {
                    return Sense::Nonsense;
                }
                match entry.kind {
                    SEAL => Sense::Keep,
                    ENTRY => match entry.open(stored).ok().and_then(|body| split(&body.into_owned().into())) {
                        Some((head, _)) => {
                            end = End { epoch: Some(entry.number), head };
                            Sense::Keep
                        }
                        None => Sense::Nonsense,
                    },
                    _ => Sense::Nonsense,
                }
            })?,
        };
        let mut ledger = Self {
            environment: environment.clone(),
            folder,
            options,
            closed_segments,
            segment,
            written: end,
            synced: end,
            closed_for: None,
        };
        if end.epoch.is_none()
            && let Some(previous) = ledger.closed_segments.last()
        {
            // Nothing was appended to the last segment; the head is in the one before.
            let mut entries = LedgerEntries::new(environment.clone(), vec![previous.clone()], 0);
            let last = entries
                .try_fold(end, |_, entry| entry.map(|entry| End { epoch: Some(entry.epoch), head: entry.hash }))?;
            ledger.written = last;
            ledger.synced = last;
        }
        ledger.note_durable();
        Ok(ledger)
    }

    /// Appends the entry of an epoch; returns the chain's new head. Durable after the next [`Ledger::sync`].
    ///
    /// # Panics
    /// When the epoch is not greater than the last.
    ///
    /// # Errors
    /// After an error the ledger is as it was at the last sync: see [`Ledger::last_epoch`].
    pub fn append(&mut self, epoch: u64, payload: &[u8]) -> Result<Hash, JournalError> {
        if self.segment.suspect {
            self.reset()?;
        }
        assert!(self.written.epoch.is_none_or(|last| epoch > last), "entries are in the order of epochs");
        self.rotate(epoch)?;
        let head = self.written.head.next(epoch, payload);
        let mut body = Vec::with_capacity(HASH_BYTES + payload.len());
        body.extend_from_slice(&head.0);
        body.extend_from_slice(payload);
        let mut encoded = Vec::new();
        let draft =
            Draft { kind: ENTRY, number: epoch, count: 1, durable_to: self.segment.durable_to, ..Draft::default() };
        entry::encode(&mut encoded, self.segment.segment.salt, &draft, &body, self.options.compression);
        let outcome = self.segment.append(&encoded);
        self.or_reset(outcome)?;
        self.written = End { epoch: Some(epoch), head };
        Ok(head)
    }

    /// Makes all entries durable.
    ///
    /// # Errors
    /// After an error the ledger is as it was at the last sync: see [`Ledger::last_epoch`].
    pub fn sync(&mut self) -> Result<(), JournalError> {
        if self.segment.suspect {
            self.reset()?;
        }
        if self.segment.durable_to < self.segment.segment.len {
            let outcome = self.segment.sync();
            self.or_reset(outcome)?;
            self.synced = self.written;
            self.note_durable();
        }
        Ok(())
    }

    /// The epoch of the last entry; None when there is none.
    pub fn last_epoch(&self) -> Option<u64> {
        self.written.epoch
    }

    /// The hash of the last entry; all zero when there is none.
    pub fn head(&self) -> Hash {
        self.written.head
    }

    /// Bytes of all segments.
    pub fn bytes_on_disk(&self) -> u64 {
        self.closed_segments.iter().map(|segment| segment.len).sum::<u64>() + self.segment.segment.len
    }

    /// The entries of epochs `from` and later, as there are now. May be read while others are appended.
    pub fn entries(&self, from: u64) -> LedgerEntries {
        let mut segments = self.closed_segments.clone();
        segments.push(self.segment.segment.clone());
        let skip = segments.partition_point(|segment| segment.first <= from).saturating_sub(1);
        segments.drain(..skip);
        LedgerEntries::new(self.environment.clone(), segments, from)
    }

    /// Computes the chain again from the first entry.
    ///
    /// # Errors
    /// The first entry that does not fit, or why the ledger could not be read.
    pub fn verify(&self) -> Result<(), VerifyError> {
        if self.entries(0).verify(&mut |_| Ok(()))? != self.written.head {
            return Err(VerifyError::Misfit(Misfit {
                epoch: self.written.epoch.unwrap_or(0),
                path: self.segment.segment.path.clone(),
                position: self.segment.segment.len,
                what: "the last entry is not the one that was appended".into(),
            }));
        }
        Ok(())
    }

    fn rotate(&mut self, epoch: u64) -> Result<(), JournalError> {
        let empty = self.written.epoch.is_none_or(|last| last < self.segment.segment.first);
        let full = self.segment.segment.len >= self.options.segment_bytes && !empty;
        if self.closed_for.is_none() && !full {
            return Ok(());
        }
        // A successor that may exist has its first epoch in its name; no entry is before that one.
        let first = self.closed_for.unwrap_or(epoch);
        let outcome = self.segment.seal(first);
        self.or_reset(outcome)?;
        self.synced = self.written;
        self.closed_for = Some(first);
        let next = self.segment.create_next(FORMAT, &self.folder, first)?;
        self.closed_segments.push(self.segment.segment.clone());
        self.segment = next;
        self.closed_for = None;
        Ok(())
    }

    fn note_durable(&mut self) {
        let next = self.written.epoch.map_or(self.segment.segment.first, |last| last + 1);
        self.segment.note_durable(next.max(self.segment.segment.first));
    }

    fn or_reset(&mut self, outcome: Result<(), JournalError>) -> Result<(), JournalError> {
        if outcome.is_err() {
            // If this fails too, it is tried again before the next write.
            let _ = self.reset();
        }
        outcome
    }

    fn reset(&mut self) -> Result<(), JournalError> {
        self.written = self.synced;
        self.segment.reset(self.segment.durable_to)
    }
}

/// Hash and payload of an entry's body.
pub(crate) fn split(body: &Bytes) -> Option<(Hash, Bytes)> {
    let hash = body.get(..HASH_BYTES)?.try_into().ok()?;
    Some((Hash(hash), body.slice(HASH_BYTES..)))
}

/// Entries in the order of their epochs; ends after an error.
pub struct LedgerEntries {
    environment: Environment,
    segments: VecDeque<Segment>,
    /// Position in the first of the segments.
    at: u64,
    from: u64,
    chunk: VecDeque<(LedgerEntry, PathBuf, u64)>,
}

impl fmt::Debug for LedgerEntries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerEntries").field("from", &self.from).finish_non_exhaustive()
    }
}

impl LedgerEntries {
    fn new(environment: Environment, segments: Vec<Segment>, from: u64) -> Self {
        Self { environment, segments: segments.into(), at: HEADER_BYTES, from, chunk: VecDeque::new() }
    }

    /// Computes the chain again and shows each entry to `sense`, which may find fault with what it says; gives the hash of
    /// the last one. For entries from the first on.
    ///
    /// # Errors
    /// The first entry that does not fit, or why they could not be read.
    pub fn verify(mut self, sense: &mut dyn FnMut(&LedgerEntry) -> Result<(), String>) -> Result<Hash, VerifyError> {
        let mut end = End::default();
        while let Some((entry, path, position)) = self.next_located()? {
            let misfit =
                |what: String| VerifyError::Misfit(Misfit { epoch: entry.epoch, path: path.clone(), position, what });
            if end.epoch.is_some_and(|last| entry.epoch <= last) {
                return Err(misfit("its epoch is not after the one before".into()));
            }
            if end.head.next(entry.epoch, &entry.payload) != entry.hash {
                return Err(misfit("its hash is not that of its contents and the entry before".into()));
            }
            sense(&entry).map_err(misfit)?;
            end = End { epoch: Some(entry.epoch), head: entry.hash };
        }
        Ok(end.head)
    }

    fn next_located(&mut self) -> Result<Option<(LedgerEntry, PathBuf, u64)>, JournalError> {
        while self.chunk.is_empty() {
            let Some(segment) = self.segments.front() else { return Ok(None) };
            let segment = segment.clone();
            if self.at >= segment.len {
                self.segments.pop_front();
                self.at = HEADER_BYTES;
            } else if let Err(error) = self.fill(&segment) {
                self.segments.clear();
                return Err(error);
            }
        }
        Ok(self.chunk.pop_front())
    }

    fn fill(&mut self, segment: &Segment) -> Result<(), JournalError> {
        let path = &segment.path;
        let file = self.environment.storage.open_read(path).map_err(|e| JournalError::io("open", path, e))?;
        let mut scanner = Scanner::new(&*file, segment, segment.len);
        let mut bytes = 0;
        let mut expected = self.from.max(segment.first);
        while self.at < segment.len && bytes < CHUNK_BYTES {
            let at = self.at;
            let corrupt = |epoch: u64, what: &str| JournalError::corrupt(path, at, Some(epoch..epoch + 1), what);
            let Some((entry, end)) = scanner.entry(at)? else { return Err(corrupt(expected, "no entry starts here")) };
            let changed = || corrupt(entry.number, "the entry is not what was written");
            if entry.kind == ENTRY && entry.number >= self.from {
                let stored = scanner.stored(at, &entry)?.ok_or_else(changed)?;
                let body = entry.open(stored).map_err(|what| corrupt(entry.number, &what))?;
                let (hash, payload) = split(&Bytes::from(body.into_owned())).ok_or_else(changed)?;
                bytes += payload.len() + HASH_BYTES;
                self.chunk.push_back((LedgerEntry { epoch: entry.number, payload, hash }, path.clone(), at));
            }
            expected = entry.number + u64::from(entry.count);
            self.at = end;
        }
        Ok(())
    }
}

impl Iterator for LedgerEntries {
    type Item = Result<LedgerEntry, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_located().map(|located| located.map(|(entry, ..)| entry)).transpose()
    }
}
