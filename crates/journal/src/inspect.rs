//! Looks at the files of a topic, the epoch journal or the ledger without opening them: reads every byte, changes none,
//! and names each damage, not only the first.
//!
//! Opening recovers from a crash, refuses what it cannot explain at the first such place, and leaves the bodies of older
//! segments to whoever reads them. This reads all of it, goes on behind a damage where the next whole entry is, and says
//! which numbers lie between. What a crash may have left at the end of the last segment is no damage: it was never
//! acknowledged. Whether an end is the right one, only another store can tell; see the callers.

use std::ops::Range;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use weir_environment::{Environment, Storage};

use crate::entry::{Entry, SEAL};
use crate::epochs::{self, Commit, Committing};
use crate::ledger::{self, Hash, LedgerEntry};
use crate::segment::{self, Format, HEADER_BYTES, OF_ANOTHER_LOG, Place, Scanner, Segment};
use crate::topic::{self, Block};
use crate::{JournalError, topic::BATCH};

/// Bytes that are not what was written, or that are missing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it the damage begins, in bytes.
    pub position: u64,
    /// The number that has to come next there.
    pub next: u64,
    /// The record offsets or epochs that it takes away; None when they are not known, or none is touched.
    pub records: Option<Range<u64>>,
    /// What does not fit.
    pub what: String,
}

/// One segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentState {
    /// The file.
    pub path: PathBuf,
    /// The number it begins with.
    pub first: u64,
    /// The number behind the last whole entry in it.
    pub end: u64,
    /// Its length in bytes.
    pub bytes: u64,
    /// Whether every byte of it is what was written.
    pub whole: bool,
    /// Where its first damage begins; its length when there is none.
    pub whole_to: u64,
}

/// What the files of a folder hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspection {
    /// The segments, oldest first.
    pub segments: Vec<SegmentState>,
    /// Every damage, in order.
    pub damages: Vec<Damage>,
    /// How many records, epochs or entries are whole.
    pub count: u64,
    /// The first number that is whole; equal to `end` when none is.
    pub begin: u64,
    /// The number behind the last whole one.
    pub end: u64,
    /// Bytes at the end that a crash left unfinished.
    pub unfinished_bytes: u64,
    /// Which log it is.
    pub identity: Option<u32>,
}

/// Looks at a topic.
///
/// # Errors
/// When a file cannot be read, or is of another version.
pub fn topic(environment: &Environment, folder: &Path) -> Result<Inspection, JournalError> {
    let mut records = Records { next: 0, count: 0, begin: None };
    walk(environment, topic::FORMAT, folder, &mut records)
}

/// Looks at the epoch journal; `take` is given each whole commit record.
///
/// # Errors
/// When a file cannot be read, or is of another version.
pub fn epochs(
    environment: &Environment,
    folder: &Path,
    take: &mut dyn FnMut(Commit),
) -> Result<Inspection, JournalError> {
    let mut epochs = Epochs { next: 1, count: 0, begin: None, open: None, take };
    walk(environment, epochs::FORMAT, folder, &mut epochs)
}

/// Looks at the ledger, computing its chain again; `take` is given each entry that fits the one before.
///
/// # Errors
/// When a file cannot be read, or is of another version.
pub fn ledger(
    environment: &Environment,
    folder: &Path,
    take: &mut dyn FnMut(LedgerEntry),
) -> Result<Inspection, JournalError> {
    let mut entries = Entries { next: 1, count: 0, begin: None, head: Some(Hash::default()), take };
    let mut found = walk(environment, ledger::FORMAT, folder, &mut entries)?;
    if let Some(first) = found.segments.first().filter(|segment| segment.first > 0) {
        let (path, what) = (first.path.clone(), "the segments before it are missing".to_owned());
        found.damages.insert(0, Damage { path, position: 0, next: 1, records: Some(1..first.first), what });
    }
    Ok(found)
}

/// What the entries of one of the journals have to be.
trait Content {
    /// Takes the next entry; the error says why it cannot be the next.
    fn visit(&mut self, entry: &Entry, stored: &[u8]) -> Result<(), String>;
    /// The number that has to come next.
    fn next(&self) -> u64;
    /// Whether the walk may go on with this entry behind a damage.
    fn restarts(&self, entry: &Entry) -> bool;
    /// Goes on with this number.
    fn skip_to(&mut self, number: u64);
    /// Whole ones so far, and the first of them.
    fn seen(&self) -> (u64, Option<u64>);
}

fn walk(
    environment: &Environment,
    format: Format,
    folder: &Path,
    content: &mut dyn Content,
) -> Result<Inspection, JournalError> {
    let storage = &*environment.storage;
    let mut found = Inspection::default();
    let places = if storage.exists(folder) { segment::places(storage, format, folder)? } else { Vec::new() };
    found.identity = identity(storage, format, &places);
    for (index, place) in places.iter().enumerate() {
        let following = places.get(index + 1);
        let damages_before = found.damages.len();
        let header = match segment::read_header(storage, format, &place.path, place.first) {
            Ok(Some(header)) => header,
            Ok(None) if segment::is_unborn(place, index, places.len()) => {
                found.unfinished_bytes += place.len;
                break;
            }
            other => {
                let what = match other {
                    Ok(_) => "its header does not check out".to_owned(),
                    Err(JournalError::Corrupt { what, .. }) => what,
                    Err(JournalError::Refused { message, .. }) => message,
                    Err(other) => return Err(other),
                };
                let records = following.map(|next| place.first..next.first);
                found.damages.push(Damage { path: place.path.clone(), position: 0, next: place.first, records, what });
                found.segments.push(state(place, place.first, false, 0));
                content.skip_to(following.map_or(place.first, |next| next.first));
                continue;
            }
        };
        if index == 0 {
            content.skip_to(place.first);
        }
        if header.log != found.identity {
            let what = OF_ANOTHER_LOG.to_owned();
            let records = following.map(|next| place.first..next.first);
            let (path, next) = (place.path.clone(), place.first);
            found.damages.push(Damage { path, position: 10, next, records, what });
        }
        let segment = Segment {
            first: place.first,
            path: place.path.clone(),
            salt: header.salt,
            log: header.log,
            len: place.len,
        };
        found.unfinished_bytes += walk_segment(environment, &segment, following, content, &mut found.damages)?;
        let damage = found.damages.get(damages_before);
        let whole_to = damage.map_or(place.len, |damage| damage.position.min(place.len));
        found.segments.push(state(place, content.next(), damage.is_none(), whole_to));
        if let Some(following) = following {
            content.skip_to(following.first);
        }
    }
    found.end = content.next();
    let (count, begin) = content.seen();
    found.count = count;
    found.begin = begin.unwrap_or(found.end);
    Ok(found)
}

/// Which log most of the segments are of, the first of several.
fn identity(storage: &dyn Storage, format: Format, places: &[Place]) -> Option<u32> {
    let mut logs: Vec<(Option<u32>, usize)> = Vec::new();
    for place in places {
        // What cannot be read is told where the segment's turn comes.
        let Ok(Some(header)) = segment::read_header(storage, format, &place.path, place.first) else { continue };
        match logs.iter_mut().find(|(log, _)| *log == header.log) {
            Some((_, count)) => *count += 1,
            None => logs.push((header.log, 1)),
        }
    }
    logs.iter().rev().max_by_key(|(_, count)| *count).and_then(|(log, _)| *log)
}

fn state(place: &Place, end: u64, whole: bool, whole_to: u64) -> SegmentState {
    let Place { first, path, len } = place.clone();
    SegmentState { path, first, end, bytes: len, whole, whole_to }
}

/// Walks over one segment; returns how many bytes at its end a crash has left unfinished.
fn walk_segment(
    environment: &Environment,
    segment: &Segment,
    following: Option<&Place>,
    content: &mut dyn Content,
    damages: &mut Vec<Damage>,
) -> Result<u64, JournalError> {
    let path = &segment.path;
    let file = environment.storage.open_read(path).map_err(|e| JournalError::io("open", path, e))?;
    let mut scanner = Scanner::new(&*file, segment, segment.len);
    let mut at = HEADER_BYTES;
    let mut sealed_for = None;
    while at < segment.len {
        let outcome = match scanner.entry(at)? {
            None => Err("no entry starts here".to_owned()),
            Some((entry, end)) => match scanner.stored(at, &entry)? {
                None => Err("the entry is not what was written".to_owned()),
                Some(stored) => content.visit(&entry, stored).map(|()| (entry, end)),
            },
        };
        let what = match outcome {
            Ok((entry, end)) => {
                sealed_for = (entry.kind == SEAL).then_some(entry.number);
                at = end;
                continue;
            }
            Err(what) => what,
        };
        sealed_for = None;
        // An entry that is written says how much had been synced before: only that can be damaged.
        let is_tail = following.is_none() && scanner.find(at, |entry| entry.durable_to > at)?.is_none();
        if is_tail {
            return Ok(segment.len - at);
        }
        let next = content.next();
        let resumed = scanner.find(at + 1, |entry| entry.number >= next && content.restarts(entry))?;
        let until = resumed.map(|(_, entry)| entry.number).or(following.map(|following| following.first));
        let records = until.filter(|until| *until > next).map(|until| next..until);
        damages.push(Damage { path: path.clone(), position: at, next, records, what });
        let Some((position, entry)) = resumed else { return Ok(0) };
        content.skip_to(entry.number);
        at = position;
    }
    let Some(following) = following else { return Ok(0) };
    let (from, what) = match sealed_for {
        Some(number) if number == following.first => return Ok(0),
        Some(number) if number < following.first => (number, "the segment that should follow it is missing"),
        Some(number) => (number, "the segment that follows it begins too early"),
        None => (content.next(), "the segment is cut short"),
    };
    let records = (from < following.first).then_some(from..following.first);
    damages.push(Damage { path: path.clone(), position: segment.len, next: from, records, what: what.to_owned() });
    Ok(0)
}

/// Records of a topic.
struct Records {
    next: u64,
    count: u64,
    begin: Option<u64>,
}

impl Content for Records {
    fn visit(&mut self, entry: &Entry, stored: &[u8]) -> Result<(), String> {
        match entry.kind {
            SEAL if entry.number == self.next => Ok(()),
            BATCH if entry.number == self.next && entry.count > 0 => {
                let body = entry.open(stored)?;
                let mut block = Block::default();
                block
                    .decode(&body, 0, body.len(), entry.count, 0)
                    .ok_or("the batch does not hold the records that it says")?;
                self.begin.get_or_insert(self.next);
                self.next += u64::from(entry.count);
                self.count += u64::from(entry.count);
                Ok(())
            }
            _ => Err(format!("number {} stands where {} has to come", entry.number, self.next)),
        }
    }

    fn next(&self) -> u64 {
        self.next
    }

    fn restarts(&self, entry: &Entry) -> bool {
        matches!(entry.kind, SEAL | BATCH)
    }

    fn skip_to(&mut self, number: u64) {
        self.next = number;
    }

    fn seen(&self) -> (u64, Option<u64>) {
        (self.count, self.begin)
    }
}

/// Epochs of the journal.
struct Epochs<'a> {
    next: u64,
    count: u64,
    begin: Option<u64>,
    open: Option<Committing>,
    take: &'a mut dyn FnMut(Commit),
}

impl Content for Epochs<'_> {
    fn visit(&mut self, entry: &Entry, stored: &[u8]) -> Result<(), String> {
        if entry.number != self.next {
            return Err(format!("epoch {} stands where {} has to come", entry.number, self.next));
        }
        let body = entry.open(stored)?;
        match (entry.kind, &mut self.open) {
            (SEAL, None) => {}
            (epochs::BEGIN, None) => {
                let mut committing = Committing::new(entry.number);
                committing.add_parsed(entry);
                self.open = Some(committing);
            }
            (epochs::FRAME, Some(committing)) => committing.add_parsed(entry),
            (epochs::COMMIT, Some(committing)) => {
                let payload = committing.payload(&body).ok_or("the commit record is of other frames")?;
                (self.take)(Commit { epoch: entry.number, payload });
                self.open = None;
                self.begin.get_or_insert(self.next);
                self.next += 1;
                self.count += 1;
            }
            _ => return Err("its entries are out of order".into()),
        }
        Ok(())
    }

    fn next(&self) -> u64 {
        self.next
    }

    fn restarts(&self, entry: &Entry) -> bool {
        matches!(entry.kind, SEAL | epochs::BEGIN)
    }

    fn skip_to(&mut self, number: u64) {
        self.next = number;
        self.open = None;
    }

    fn seen(&self) -> (u64, Option<u64>) {
        (self.count, self.begin)
    }
}

/// Entries of the ledger.
struct Entries<'a> {
    next: u64,
    count: u64,
    begin: Option<u64>,
    /// None behind a damage, until the next entry says it.
    head: Option<Hash>,
    take: &'a mut dyn FnMut(LedgerEntry),
}

impl Content for Entries<'_> {
    fn visit(&mut self, entry: &Entry, stored: &[u8]) -> Result<(), String> {
        // A note that was written before the first entry has the number of the segment, 0.
        if entry.kind == SEAL && (entry.number >= self.next || self.count == 0) {
            return Ok(());
        }
        if entry.number < self.next {
            return Err("its epoch is not after the one before".into());
        }
        if entry.kind != ledger::ENTRY {
            return Err("it is no entry of a ledger".into());
        }
        let body = Bytes::from(entry.open(stored)?.into_owned());
        let (hash, payload) = ledger::split(&body).ok_or("it is too short for an entry of a ledger")?;
        if self.head.is_some_and(|head| head.next(entry.number, &payload) != hash) {
            return Err("its hash is not that of its contents and the entry before".into());
        }
        self.head = Some(hash);
        self.begin.get_or_insert(entry.number);
        self.next = entry.number + 1;
        self.count += 1;
        (self.take)(LedgerEntry { epoch: entry.number, payload, hash });
        Ok(())
    }

    fn next(&self) -> u64 {
        self.next
    }

    fn restarts(&self, entry: &Entry) -> bool {
        matches!(entry.kind, SEAL | ledger::ENTRY)
    }

    fn skip_to(&mut self, number: u64) {
        // The first segment is named 0, and the first epoch is 1.
        let number = number.max(1);
        if number > self.next {
            // Whether what follows fits what is gone, nobody can tell.
            self.head = None;
        }
        self.next = number;
    }

    fn seen(&self) -> (u64, Option<u64>) {
        (self.count, self.begin)
    }
}
