//! The epoch journal: what happened in each epoch, and the one record that makes it count.
//!
//! Invariants:
//! - Epochs are numbered 1, 2, 3 and so on, without a gap.
//! - An epoch counts if and only if its commit record is whole, and every entry between its begin and its commit is
//!   the one that was written: the commit record carries their number, their length and a checksum of their checksums.
//! - [`EpochJournal::commit`] returns success only when all that is durable. There is no other commit point in Weir.
//! - After a failed commit the epoch does not count for this process; if the machine crashes before another epoch is
//!   begun it may be found committed, wholly. (Nobody acted on it, so both are right.)
//!
//! Layout: segment files ([`crate::segment`]) named by their first epoch. The number of an entry is its epoch. Kinds:
//!
//! | kind | body |
//! |---|---|
//! | 1 begin | the intent |
//! | 2 frame; its tag is the caller's kind | length of the name (u16), the name, the payload |
//! | 3 commit | frames (u32), bytes from begin to here (u64), checksum over the headers of begin and frames (u32), payload |
//!
//! Write: entries are gathered in memory and written out now and then, long bodies as they are; the commit record is written with what is left,
//! then one `fdatasync`. An epoch is never split over segments. When anything fails, the segment is cut back to the
//! last commit.
//!
//! Read: a segment's index of epochs leads to the begin; everything up to the commit is read and checked.
//!
//! Delete: [`EpochJournal::release`] removes whole segments.
//!
//! Recover: as in [`crate::segment`], and whatever follows the last commit is cut off.

mod read;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use weir_environment::Environment;

pub(crate) use self::read::Committing;
pub use self::read::EpochReader;
use self::read::Shared;
use crate::entry::{self, Draft, ENTRY_BYTES, Packed, SEAL};
use crate::segment::{self, Format, SegmentWriter, Sense};
use crate::{Compression, JournalError};

pub(crate) const FORMAT: Format = Format { magic: *b"WEIREPOC", version: 1, suffix: "epochs" };
pub(crate) const BEGIN: u8 = 1;
pub(crate) const FRAME: u8 = 2;
pub(crate) const COMMIT: u8 = 3;
/// Bytes before the payload of a commit record.
const COMMIT_HEAD_BYTES: usize = 16;
/// An epoch's entries are written out when so many bytes of them are gathered.
const GATHERED_BYTES_MAX: usize = 1 << 20;
/// The longest intent, payload or frame.
const PAYLOAD_BYTES_MAX: usize = entry::BODY_BYTES_MAX - (1 << 17);

/// How the epoch journal is kept.
#[derive(Debug, Clone)]
pub struct EpochJournalOptions {
    /// A segment this long is followed by a new one, after the epoch under way.
    pub segment_bytes: u64,
    /// How intents, frames and payloads are compressed.
    pub compression: Compression,
    /// Epochs are refused as [`JournalError::DiskFull`] when less than this would be left on the disk.
    pub disk_reserve_bytes: u64,
}

impl Default for EpochJournalOptions {
    fn default() -> Self {
        Self { segment_bytes: 64 << 20, compression: Compression::default(), disk_reserve_bytes: 64 << 20 }
    }
}

/// The record that makes an epoch count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Commit {
    /// The epoch.
    pub epoch: u64,
    /// What the caller stored in the record.
    pub payload: Bytes,
}

/// Part of an epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The caller's kind.
    pub kind: u8,
    /// The caller's name.
    pub name: String,
    /// The bytes.
    pub payload: Bytes,
}

/// A frame as it is stored: compressed once, on whatever thread, and written as often as it takes.
#[derive(Debug, Clone)]
pub struct PackedFrame {
    kind: u8,
    body: Packed,
}

impl PackedFrame {
    /// Begins the bytes of a frame of this name; the payload is to be appended.
    ///
    /// # Panics
    /// When the name is longer than 65,535 bytes.
    pub fn begin(name: &str) -> Vec<u8> {
        let Ok(name_len) = u16::try_from(name.len()) else { panic!("the name of a frame is too long: {name}") };
        let mut bytes = Vec::with_capacity(2 + name.len());
        bytes.extend_from_slice(&name_len.to_le_bytes());
        bytes.extend_from_slice(name.as_bytes());
        bytes
    }

    /// Packs what [`PackedFrame::begin`] began.
    pub fn pack(kind: u8, bytes: Vec<u8>, compression: Compression) -> Self {
        Self { kind, body: Packed::new(bytes, compression) }
    }
}

/// A committed epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Committed {
    /// Its number.
    pub epoch: u64,
    /// What it was begun with.
    pub intent: Bytes,
    /// Its frames, in the order they were written.
    pub frames: Vec<Frame>,
    /// What it was committed with.
    pub payload: Bytes,
}

/// The epoch journal, open for writing. There is one.
pub struct EpochJournal {
    environment: Environment,
    folder: PathBuf,
    options: EpochJournalOptions,
    shared: Arc<Shared>,
    segment: SegmentWriter,
    /// Length of the segment up to the last commit.
    committed_to: u64,
    last: Option<Commit>,
    state: State,
    /// Where the epoch under way starts.
    begun_at: u64,
    /// Entries that are not written out yet.
    gathered: Vec<u8>,
    /// Whether the segment is closed, and its successor may exist: nothing more is written to it.
    closed: bool,
}

enum State {
    Idle,
    Open(Committing),
    /// Something failed; the epoch has to be begun again.
    Abandoned,
}

impl fmt::Debug for EpochJournal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.last.as_ref().map(|commit| commit.epoch);
        f.debug_struct("EpochJournal").field("folder", &self.folder).field("last", &last).finish_non_exhaustive()
    }
}

impl EpochJournal {
    /// Opens the journal in `folder`, creating both when they are missing, and recovers it from a crash.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] when bytes of committed epochs are damaged (as far as the last segment and the ends
    /// of the others show it; reading finds the rest), [`JournalError::Refused`] for files of another version.
    pub fn open(
        environment: &Environment,
        folder: impl AsRef<Path>,
        options: EpochJournalOptions,
    ) -> Result<Self, JournalError> {
        let mut journal = Self::recover(environment, folder.as_ref(), options)?;
        if journal.last.is_none() && journal.segment.segment.first > 1 {
            // The segment was created and nothing was committed to it; the last commit is in the one before.
            let committed = journal.read(journal.segment.segment.first - 1)?;
            journal.last = Some(Commit { epoch: committed.epoch, payload: committed.payload });
        }
        Ok(journal)
    }

    /// Opens a journal whose only segment is empty, and to begin with `epoch`.
    pub(crate) fn open_before(
        environment: &Environment,
        folder: &Path,
        options: EpochJournalOptions,
        epoch: u64,
    ) -> Result<Self, JournalError> {
        let mut journal = Self::recover(environment, folder, options)?;
        journal.last = (epoch > 1).then(|| Commit { epoch: epoch - 1, payload: Bytes::new() });
        Ok(journal)
    }

    fn recover(environment: &Environment, folder: &Path, options: EpochJournalOptions) -> Result<Self, JournalError> {
        let folder = folder.to_path_buf();
        let mut segments = segment::open_all(environment, FORMAT, &folder)?;
        let mut recovery = Recovery::default();
        let mut segment = match segments.pop() {
            None => SegmentWriter::create(environment, FORMAT, &folder, 1)?,
            Some(last) => {
                recovery.next = last.first;
                segment::recover(environment, last, |at, entry, stored| recovery.visit(at, entry, stored))?
            }
        };
        segment.note_durable(recovery.next.max(segment.segment.first));
        let positions = std::mem::take(&mut recovery.positions);
        let shared = Arc::new(Shared::new(environment.clone(), folder.clone(), segments, &segment.segment, positions));
        Ok(Self {
            environment: environment.clone(),
            folder,
            options,
            shared,
            committed_to: segment.durable_to,
            segment,
            last: recovery.last,
            state: State::Idle,
            begun_at: 0,
            gathered: Vec::new(),
            closed: false,
        })
    }

    /// The last commit; None before the first.
    pub fn last(&self) -> Option<Commit> {
        self.last.clone()
    }

    /// Begins an epoch, the one after the last; an epoch that failed is begun again.
    ///
    /// # Panics
    /// When another epoch is under way, or `epoch` is not the next.
    ///
    /// # Errors
    /// Nothing is under way after an error.
    pub fn begin(&mut self, epoch: u64, intent: &[u8]) -> Result<(), JournalError> {
        assert!(!matches!(self.state, State::Open(_)), "epoch {epoch} begins while another is under way");
        let next = self.last.as_ref().map_or(1, |commit| commit.epoch + 1);
        assert_eq!(epoch, next, "epochs are consecutive");
        self.state = State::Abandoned;
        self.gathered.clear();
        if self.segment.suspect {
            self.segment.reset(self.committed_to)?;
        }
        self.check_room(intent.len())?;
        self.rotate(epoch)?;
        self.begun_at = self.segment.segment.len;
        self.state = State::Open(Committing::new(epoch));
        self.push_plain(BEGIN, intent.to_vec())
    }

    /// Adds a frame to the epoch under way.
    ///
    /// # Panics
    /// When no epoch was begun.
    ///
    /// # Errors
    /// The epoch is abandoned after an error.
    pub fn frame(&mut self, frame: &PackedFrame) -> Result<(), JournalError> {
        self.check_open()?;
        self.push(FRAME, frame.kind, &frame.body)
    }

    /// How frames are packed here.
    pub fn compression(&self) -> Compression {
        self.options.compression
    }

    /// Commits the epoch under way: when this returns, it counts, whatever happens.
    ///
    /// # Panics
    /// When no epoch was begun.
    ///
    /// # Errors
    /// The epoch is abandoned after an error.
    pub fn commit(&mut self, payload: &[u8]) -> Result<Commit, JournalError> {
        self.check_open()?;
        let State::Open(committing) = &self.state else { unreachable!("checked above") };
        let mut body = Vec::with_capacity(COMMIT_HEAD_BYTES + payload.len());
        body.extend_from_slice(&committing.frames.to_le_bytes());
        body.extend_from_slice(&committing.bytes.to_le_bytes());
        body.extend_from_slice(&committing.checksum.to_le_bytes());
        body.extend_from_slice(payload);
        let epoch = committing.epoch;
        let outcome = self
            .push_plain(COMMIT, body)
            .and_then(|()| self.check_room(self.gathered.len()))
            .and_then(|()| self.write_out())
            .and_then(|()| self.segment.sync());
        if let Err(error) = outcome {
            self.abandon();
            return Err(error);
        }
        let commit = Commit { epoch, payload: Bytes::copy_from_slice(payload) };
        self.shared.committed(epoch, self.begun_at, self.segment.durable_to);
        self.committed_to = self.segment.durable_to;
        self.last = Some(commit.clone());
        self.state = State::Idle;
        self.segment.note_durable(epoch + 1);
        Ok(commit)
    }

    /// Gives up the epoch under way, if any.
    ///
    /// # Errors
    /// When the file could not be cut back; it is tried again before the next epoch.
    pub fn abort(&mut self) -> Result<(), JournalError> {
        self.state = State::Idle;
        self.gathered.clear();
        if self.segment.suspect || self.segment.segment.len > self.segment.durable_to {
            self.segment.reset(self.committed_to)?;
        }
        Ok(())
    }

    /// A committed epoch.
    ///
    /// # Errors
    /// [`JournalError::OutOfRange`] when it is not kept, [`JournalError::Corrupt`].
    pub fn read(&self, epoch: u64) -> Result<Committed, JournalError> {
        self.shared.read(epoch)
    }

    /// Reads from other threads, while this one writes.
    pub fn reader(&self) -> EpochReader {
        EpochReader::new(self.shared.clone())
    }

    /// The first epoch that is kept; None before the first commit.
    pub fn first_epoch(&self) -> Option<u64> {
        self.shared.first_epoch()
    }

    /// Removes the segments that hold only epochs before `before`. The last commit always stays.
    ///
    /// # Errors
    /// [`JournalError::Retry`]; what was removed before stays removed.
    pub fn release(&mut self, before: u64) -> Result<(), JournalError> {
        // An empty last segment must not be left alone: the last commit is in the one before.
        let before = before.min(self.last.as_ref().map_or(0, |commit| commit.epoch));
        while let Some(oldest) = self.shared.releasable(before) {
            segment::remove(&*self.environment.storage, &self.folder, &oldest)?;
            self.shared.forget_oldest();
        }
        Ok(())
    }

    /// Bytes of all segments.
    pub fn bytes_on_disk(&self) -> u64 {
        self.shared.bytes_before_last() + self.segment.segment.len
    }

    fn check_open(&self) -> Result<(), JournalError> {
        match self.state {
            State::Open(_) => Ok(()),
            State::Abandoned => Err(JournalError::Retry {
                action: "go on with the epoch in",
                path: self.folder.clone(),
                source: Arc::new(std::io::Error::other("it was abandoned after an error; begin it again")),
            }),
            State::Idle => panic!("no epoch was begun"),
        }
    }

    fn check_room(&self, bytes: usize) -> Result<(), JournalError> {
        let available = self.environment.storage.available_bytes(&self.folder);
        let available = available.map_err(|e| JournalError::io("examine", &self.folder, e))?;
        if available < self.options.disk_reserve_bytes.saturating_add((bytes + ENTRY_BYTES) as u64) {
            return Err(JournalError::DiskFull { path: self.folder.clone() });
        }
        Ok(())
    }

    fn push_plain(&mut self, kind: u8, body: Vec<u8>) -> Result<(), JournalError> {
        let body = Packed::new(body, self.options.compression);
        self.push(kind, 0, &body)
    }

    /// Gathers an entry of the epoch under way, and writes out when much is gathered.
    fn push(&mut self, kind: u8, tag: u8, body: &Packed) -> Result<(), JournalError> {
        assert!(body.body_len() <= PAYLOAD_BYTES_MAX, "{} bytes are too many for one frame", body.body_len());
        let State::Open(committing) = &mut self.state else { unreachable!("callers check that an epoch is open") };
        let draft = Draft {
            kind,
            number: committing.epoch,
            count: u32::from(kind == COMMIT),
            tag: u32::from(tag),
            durable_to: self.segment.durable_to,
            ..Draft::default()
        };
        let header = body.header(self.segment.segment.salt, &draft);
        committing.add(kind, &header, body.stored().len());
        self.gathered.extend_from_slice(&header);
        if kind == COMMIT || self.gathered.len() + body.stored().len() < GATHERED_BYTES_MAX {
            self.gathered.extend_from_slice(body.stored());
            return Ok(());
        }
        let room = self.check_room(self.gathered.len() + body.stored().len());
        let outcome = room.and_then(|()| self.write_out()).and_then(|()| self.segment.append(body.stored()));
        if outcome.is_err() {
            self.abandon();
        }
        outcome
    }

    fn write_out(&mut self) -> Result<(), JournalError> {
        let outcome = self.segment.append(&self.gathered);
        self.gathered.clear();
        self.gathered.shrink_to(2 * GATHERED_BYTES_MAX);
        outcome
    }

    fn abandon(&mut self) {
        self.state = State::Abandoned;
        self.gathered.clear();
        // If this fails, the segment stays suspect, and it is tried again before the next epoch.
        self.segment.suspect = true;
        let _ = self.segment.reset(self.committed_to);
    }

    /// Goes on with a new segment when the present one is long enough.
    fn rotate(&mut self, epoch: u64) -> Result<(), JournalError> {
        let full = self.segment.segment.len >= self.options.segment_bytes;
        if !self.closed && (!full || self.segment.segment.first == epoch) {
            return Ok(());
        }
        if let Err(error) = self.segment.seal(epoch) {
            // The seal is no part of any epoch; what is before it stays.
            self.segment.suspect = true;
            return Err(error);
        }
        self.committed_to = self.segment.durable_to;
        self.closed = true;
        let next = self.segment.create_next(FORMAT, &self.folder, epoch)?;
        self.shared.rotated(self.segment.segment.len, &next.segment);
        self.segment = next;
        self.committed_to = self.segment.durable_to;
        self.closed = false;
        Ok(())
    }
}

/// What recovery learns from the last segment.
#[derive(Default)]
struct Recovery {
    /// The epoch that has to come next.
    next: u64,
    open: Option<(u64, Committing)>,
    last: Option<Commit>,
    /// Where each epoch begins.
    positions: Vec<u64>,
}

impl Recovery {
    fn visit(&mut self, at: u64, entry: &entry::Entry, stored: &[u8]) -> Sense {
        if entry.number != self.next {
            return Sense::Nonsense;
        }
        match (entry.kind, &mut self.open) {
            (SEAL, None) => Sense::Keep,
            (BEGIN, None) => {
                let mut committing = Committing::new(entry.number);
                committing.add_parsed(entry);
                self.open = Some((at, committing));
                Sense::Open
            }
            (FRAME, Some((_, committing))) => {
                committing.add_parsed(entry);
                Sense::Open
            }
            (COMMIT, Some((start, committing))) => {
                let Some(payload) = entry.open(stored).ok().and_then(|body| committing.payload(&body)) else {
                    return Sense::Nonsense;
                };
                self.positions.push(*start);
                self.last = Some(Commit { epoch: entry.number, payload });
                self.next += 1;
                self.open = None;
                Sense::Keep
            }
            _ => Sense::Nonsense,
        }
    }
}
