//! Segment files: the files of checksummed entries that topics, the epoch journal and the ledger are made of.
//!
//! Invariants:
//! - A folder's segments follow each other without a gap; only the last one is written to.
//! - A segment is created, its header synced and its name made durable before an entry is written to it.
//! - Every segment but the last ends with a seal that names the first number of the next, and is synced.
//! - After a failed write or sync nothing is written before the file was cut back to a length that is known to be
//!   durable, and synced: bytes whose sync failed are never trusted, nor synced again as if they were fine.
//!
//! Layout: a header of 32 bytes, then entries ([`crate::entry`]). The header's layout is the same for every version:
//!
//! | bytes | field |
//! |---|---|
//! | 0..8 | magic: which journal |
//! | 8..10 | format version |
//! | 10..12 | 1: the salt's upper half is the log's identity; 0: written before there was one |
//! | 12..20 | salt: where checksums of the entries start; random, but for the identity |
//! | 20..28 | first: number of the first entry, also the file's name |
//! | 28..32 | crc32c of bytes 0..28 |
//!
//! The identity is drawn when a folder's first segment is created, and all later ones have it: a segment of another log,
//! whose numbers happen to fit, is told from our own.
//!
//! Write: entries are appended, then synced. When the last segment is full, a seal is appended and synced, and the
//! next one created. Seals are also written, without a sync, behind an entry that has become durable.
//!
//! Read: from a known position, header by header; a body is checked before it is used.
//!
//! Delete: whole segments, the oldest first, each removal made durable before the next: a crash leaves no gap.
//!
//! Recover: the last segment is read from its start to the first byte X that does not continue it. If any entry
//! behind X checks out and says that more than X was durable when it was written, bytes that had been synced are
//! gone: that is damage, and is refused. If none does, what follows X was never acknowledged: it was torn by a crash
//! and is cut off. (Damage in the very last entry cannot be told from a tear, unless the seal that follows it when
//! writing pauses is there.) A last segment with a torn header holds nothing, and is removed.
//!
//! What then follows the highest `durable_to` of any entry may be in the operating system's memory only: the process was
//! killed before its sync, or even after the sync failed, in which case another sync would succeed and mean nothing.
//! Seals there are cut off. If anything else is there, or no entry vouches for the header, the segment is copied to a new file, which is synced and takes
//! its name: nobody is told of a record before it is durable for certain, and at no moment is there no durable copy of
//! one that was acknowledged.

use std::ops::Range;
use std::path::{Path, PathBuf};

use memchr::memmem;
use weir_environment::{AppendFile, Environment, ReadFile, Storage};

use crate::entry::{self, Draft, ENTRY_BYTES, ENTRY_MAGIC, Entry, SEAL, u32_at, u64_at};
use crate::{Compression, JournalError};

/// Bytes of a segment's header.
pub(crate) const HEADER_BYTES: u64 = 32;
/// What the header of a segment says whose salt holds the identity of its log.
const IDENTIFIED: u16 = 1;
/// Bytes that are read at once while walking over entries.
const WINDOW_BYTES: usize = 64 << 10;
/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;

/// Which journal a file belongs to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Format {
    pub(crate) magic: [u8; 8],
    pub(crate) version: u16,
    /// Extension of the file names.
    pub(crate) suffix: &'static str,
}

/// A segment file.
#[derive(Debug, Clone)]
pub(crate) struct Segment {
    /// Number of its first entry.
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
    pub(crate) salt: u64,
    /// Which log it belongs to; None when it was written before that was noted.
    pub(crate) log: Option<u32>,
    /// Bytes in it.
    pub(crate) len: u64,
}

/// What a segment's header says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Header {
    pub(crate) salt: u64,
    pub(crate) log: Option<u32>,
}

/// Where the file of a segment lies.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) first: u64,
    pub(crate) path: PathBuf,
    pub(crate) len: u64,
}

/// The segment files of a folder in their order.
pub(crate) fn places(storage: &dyn Storage, format: Format, folder: &Path) -> Result<Vec<Place>, JournalError> {
    let mut places = Vec::new();
    for entry in storage.list(folder).map_err(|e| JournalError::io("list", folder, e))? {
        let first = entry.name.strip_suffix(format.suffix).and_then(|n| n.strip_suffix('.'));
        if let Some(first) = first.and_then(|digits| digits.parse::<u64>().ok()) {
            places.push(Place { first, path: folder.join(&entry.name), len: entry.len });
        }
    }
    places.sort_by_key(|place| place.first);
    Ok(places)
}

/// Whether a crash may have left this while it created the segment.
pub(crate) fn is_unborn(place: &Place, index: usize, count: usize) -> bool {
    index + 1 == count && place.len <= HEADER_BYTES && (index > 0 || place.first <= 1)
}

/// Why a segment cannot follow another one.
pub(crate) const OF_ANOTHER_LOG: &str = "it is a segment of another log than those beside it";

/// The segments of a folder, their headers and seals checked; the last is not recovered yet.
pub(crate) fn open_all(environment: &Environment, format: Format, folder: &Path) -> Result<Vec<Segment>, JournalError> {
    let storage = &*environment.storage;
    storage.create_dir_all(folder).map_err(|e| JournalError::io("create", folder, e))?;
    let places = places(storage, format, folder)?;
    let count = places.len();
    let mut segments: Vec<Segment> = Vec::with_capacity(count);
    for (index, place) in places.into_iter().enumerate() {
        let Some(header) = read_header(storage, format, &place.path, place.first)? else {
            if is_unborn(&place, index, count) {
                tracing::info!(path = %place.path.display(), "removing a segment whose creation a crash interrupted");
                remove(storage, folder, &place.path)?;
                break;
            }
            return Err(JournalError::corrupt(&place.path, 0, None, "its header does not check out"));
        };
        if let Some(previous) = segments.last() {
            if previous.log != header.log {
                return Err(JournalError::corrupt(&place.path, 10, None, OF_ANOTHER_LOG));
            }
            check_seal(storage, previous, place.first)?;
        }
        let Place { first, path, len } = place;
        segments.push(Segment { first, path, salt: header.salt, log: header.log, len });
    }
    // A name that is seen may not be durable yet, when its creator was killed.
    storage.sync_dir(folder).map_err(|e| JournalError::io("sync", folder, e))?;
    Ok(segments)
}

/// What the header says; None when it is torn or damaged.
pub(crate) fn read_header(
    storage: &dyn Storage,
    format: Format,
    path: &Path,
    first: u64,
) -> Result<Option<Header>, JournalError> {
    let file = storage.open_read(path).map_err(|e| JournalError::io("open", path, e))?;
    let mut header = [0; HEADER_BYTES as usize];
    if read_full(&*file, path, 0, &mut header)? < header.len() || u32_at(&header, 28) != crc32c::crc32c(&header[..28]) {
        return Ok(None);
    }
    let refuse = |message: String| Err(JournalError::Refused { path: path.to_path_buf(), message });
    if header[..8] != format.magic {
        return refuse("it was made by another program, or by another part of Weir; it was not touched".into());
    }
    let version = u16::from_le_bytes([header[8], header[9]]);
    if version != format.version {
        return refuse(format!(
            "it has format version {version}, and this Weir reads version {}; run the Weir that wrote it",
            format.version
        ));
    }
    if u64_at(&header, 20) != first {
        return Err(JournalError::corrupt(path, 20, None, "its name is not the one it was created with"));
    }
    let salt = u64_at(&header, 12);
    let log = (header[10..12] == IDENTIFIED.to_le_bytes()).then_some((salt >> 32) as u32);
    Ok(Some(Header { salt, log }))
}

/// Checks that a segment which is not the last is closed, and followed by the one that starts at `next`.
fn check_seal(storage: &dyn Storage, segment: &Segment, next: u64) -> Result<(), JournalError> {
    let file = storage.open_read(&segment.path).map_err(|e| JournalError::io("open", &segment.path, e))?;
    let mut header = [0; ENTRY_BYTES];
    if segment.len >= HEADER_BYTES + ENTRY_BYTES as u64 {
        read_full(&*file, &segment.path, segment.len - ENTRY_BYTES as u64, &mut header)?;
    }
    match entry::parse(&header, segment.salt) {
        Some(seal) if seal.kind == SEAL && seal.number == next => Ok(()),
        Some(seal) if seal.kind == SEAL => {
            let missing = seal.number.min(next)..seal.number.max(next);
            let what = "the segment that should follow it is missing";
            Err(JournalError::corrupt(&segment.path, segment.len, Some(missing), what))
        }
        _ => {
            // Where does it stop to make sense?
            let mut scanner = Scanner::new(&*file, segment, segment.len);
            let mut at = HEADER_BYTES;
            let mut number = segment.first;
            while let Some((entry, _)) = scanner.entry(at)? {
                at += entry.len();
                number = entry.number + u64::from(entry.count);
            }
            Err(JournalError::corrupt(
                &segment.path,
                at,
                Some(number..next.max(number + 1)),
                "the segment is cut short or overwritten",
            ))
        }
    }
}

/// Removes a segment, durably.
pub(crate) fn remove(storage: &dyn Storage, folder: &Path, path: &Path) -> Result<(), JournalError> {
    storage.remove_file(path).map_err(|e| JournalError::io("remove", path, e))?;
    storage.sync_dir(folder).map_err(|e| JournalError::io("sync", folder, e))
}

/// Reads until the buffer is full or the file ends; returns how many bytes.
pub(crate) fn read_full(
    file: &dyn ReadFile,
    path: &Path,
    position: u64,
    buffer: &mut [u8],
) -> Result<usize, JournalError> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(position + filled as u64, &mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(e) => return Err(JournalError::io("read", path, e)),
        }
    }
    Ok(filled)
}

/// Walks over the entries of a segment up to a length, through a window of bytes.
pub(crate) struct Scanner<'a> {
    file: &'a dyn ReadFile,
    path: &'a Path,
    salt: u64,
    limit: u64,
    window: Vec<u8>,
    window_at: u64,
}

impl<'a> Scanner<'a> {
    pub(crate) fn new(file: &'a dyn ReadFile, segment: &'a Segment, limit: u64) -> Self {
        Self { file, path: &segment.path, salt: segment.salt, limit, window: Vec::new(), window_at: 0 }
    }

    /// Bytes `at..at + len`; None when they go beyond the end.
    pub(crate) fn bytes(&mut self, at: u64, len: usize) -> Result<Option<&[u8]>, JournalError> {
        if at.checked_add(len as u64).is_none_or(|end| end > self.limit) {
            return Ok(None);
        }
        let inside = at >= self.window_at && at + len as u64 <= self.window_at + self.window.len() as u64;
        if !inside {
            let wanted = len.max(WINDOW_BYTES).min((self.limit - at) as usize);
            self.window.resize(wanted, 0);
            self.window_at = at;
            let filled = read_full(self.file, self.path, at, &mut self.window)?;
            self.window.truncate(filled);
            if filled < len {
                return Ok(None);
            }
        }
        let start = (at - self.window_at) as usize;
        Ok(Some(&self.window[start..start + len]))
    }

    /// The entry at a position and where it ends; None when none is whole there. The body is not checked.
    pub(crate) fn entry(&mut self, at: u64) -> Result<Option<(Entry, u64)>, JournalError> {
        let salt = self.salt;
        let limit = self.limit;
        let entry = self.bytes(at, ENTRY_BYTES)?.and_then(|bytes| entry::parse(bytes, salt));
        Ok(entry.map(|entry| (entry, at + entry.len())).filter(|&(_, end)| end <= limit))
    }

    /// The body of an entry as stored, checked; None when it is not what was written.
    pub(crate) fn stored(&mut self, at: u64, entry: &Entry) -> Result<Option<&[u8]>, JournalError> {
        let salt = self.salt;
        let stored = self.bytes(at + ENTRY_BYTES as u64, entry.stored_len as usize)?;
        Ok(stored.filter(|stored| entry.checks(salt, stored)))
    }

    /// The first entry behind `from` that says that more than `from` was durable.
    fn witness(&mut self, from: u64) -> Result<Option<Entry>, JournalError> {
        Ok(self.find(from, |entry| entry.durable_to > from)?.map(|(_, entry)| entry))
    }

    /// The first entry from `from` on whose header checks out and is `wanted`, and its position.
    pub(crate) fn find(
        &mut self,
        from: u64,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Result<Option<(u64, Entry)>, JournalError> {
        let finder = memmem::Finder::new(&ENTRY_MAGIC);
        let mut at = from;
        while at + ENTRY_BYTES as u64 <= self.limit {
            let len = WINDOW_BYTES.min((self.limit - at) as usize);
            let salt = self.salt;
            let Some(bytes) = self.bytes(at, len)? else { break };
            for start in finder.find_iter(bytes) {
                if let Some(entry) = entry::parse(&bytes[start..], salt).filter(&wanted) {
                    return Ok(Some((at + start as u64, entry)));
                }
            }
            if at + len as u64 == self.limit {
                break;
            }
            // Windows overlap, so that no header falls between two.
            at += (len - ENTRY_BYTES + 1) as u64;
        }
        Ok(None)
    }
}

/// What [`recover`]'s visitor says about an entry.
pub(crate) enum Sense {
    /// It continues the segment, and what ends here may stay.
    Keep,
    /// It continues the segment, but is to be cut off unless something kept follows.
    Open,
    /// It does not belong here.
    Nonsense,
}

/// Recovers the last segment: reads it whole, shows each entry (position, header, body as stored) to `visit`, cuts
/// off what a crash tore, refuses damage, and syncs.
pub(crate) fn recover(
    environment: &Environment,
    segment: Segment,
    mut visit: impl FnMut(u64, &Entry, &[u8]) -> Sense,
) -> Result<SegmentWriter, JournalError> {
    let path = segment.path.clone();
    let file = environment.storage.open_read(&path).map_err(|e| JournalError::io("open", &path, e))?;
    let len = file.len().map_err(|e| JournalError::io("read", &path, e))?;
    let mut scanner = Scanner::new(&*file, &segment, len);
    let (mut at, mut keep_to, mut number) = (HEADER_BYTES, HEADER_BYTES, segment.first);
    // Up to where the entries say that all is durable, and where the last one ends that is not a seal.
    let (mut durable_to, mut solid_to) = (HEADER_BYTES, HEADER_BYTES);
    while let Some((entry, end)) = scanner.entry(at)? {
        let Some(stored) = scanner.stored(at, &entry)? else { break };
        match visit(at, &entry, stored) {
            Sense::Keep => {
                keep_to = end;
                if entry.kind != SEAL {
                    solid_to = end;
                }
            }
            Sense::Open => {}
            Sense::Nonsense => break,
        }
        durable_to = durable_to.max(entry.durable_to.min(at));
        number = entry.number + u64::from(entry.count);
        at = end;
    }
    if at < len
        && let Some(witness) = scanner.witness(at)?
    {
        let records = number..witness.number.max(number + 1);
        return Err(JournalError::corrupt(&path, at, Some(records), "bytes that were durable do not check out"));
    }
    let keep_to = if solid_to <= durable_to { keep_to.min(durable_to) } else { solid_to };
    if keep_to < len {
        tracing::info!(path = %path.display(), bytes = len - keep_to, "cutting off what was not finished");
    }
    // Before the first entry was written, the header was synced.
    if solid_to > durable_to || at == HEADER_BYTES {
        copy_in_place(environment, &*file, &path, keep_to)?;
    }
    drop(file);
    let mut writer = SegmentWriter {
        environment: environment.clone(),
        file: environment.storage.open_append(&path).map_err(|e| JournalError::io("open", &path, e))?,
        segment: Segment { len: keep_to, ..segment },
        durable_to: keep_to,
        sealed_for: None,
        suspect: true,
    };
    writer.reset(keep_to)?;
    Ok(writer)
}

/// Replaces a file by a durable copy of its first `len` bytes.
fn copy_in_place(environment: &Environment, file: &dyn ReadFile, path: &Path, len: u64) -> Result<(), JournalError> {
    let storage = &*environment.storage;
    let temporary = path.with_extension("copy");
    let mut copy = storage.open_append(&temporary).map_err(|e| JournalError::io("create", &temporary, e))?;
    // What an attempt that was interrupted left.
    copy.truncate(0).map_err(|e| JournalError::io("truncate", &temporary, e))?;
    let mut at = 0;
    let mut buffer = vec![0; COPY_BYTES.min(len as usize)];
    while at < len {
        let wanted = buffer.len().min((len - at) as usize);
        let filled = read_full(file, path, at, &mut buffer[..wanted])?;
        if filled < wanted {
            return Err(JournalError::corrupt(path, at + filled as u64, None, "the file became shorter"));
        }
        copy.append(&buffer[..wanted]).map_err(|e| JournalError::io("write", &temporary, e))?;
        at += wanted as u64;
    }
    copy.sync().map_err(|e| JournalError::io("sync", &temporary, e))?;
    storage.rename(&temporary, path).map_err(|e| JournalError::io("rename", &temporary, e))?;
    let folder = path.parent().unwrap_or(path);
    storage.sync_dir(folder).map_err(|e| JournalError::io("sync", folder, e))
}

/// Writes to the last segment of a folder.
pub(crate) struct SegmentWriter {
    environment: Environment,
    file: Box<dyn AppendFile>,
    /// The segment; its `len` counts what was written.
    pub(crate) segment: Segment,
    /// Bytes of it that are durable.
    pub(crate) durable_to: u64,
    /// The number of the seal it ends with.
    sealed_for: Option<u64>,
    /// Whether its end is not what we think: it has to be cut before the next write.
    pub(crate) suspect: bool,
}

impl SegmentWriter {
    /// Creates the first segment of a log, durably and empty.
    pub(crate) fn create(
        environment: &Environment,
        format: Format,
        folder: &Path,
        first: u64,
    ) -> Result<Self, JournalError> {
        let log = (environment.random.next_u64() >> 32) as u32;
        Self::create_of(environment, format, folder, first, Some(log))
    }

    /// Creates the segment that follows this one. What an attempt that failed left at its place is replaced.
    pub(crate) fn create_next(&self, format: Format, folder: &Path, first: u64) -> Result<Self, JournalError> {
        Self::create_of(&self.environment, format, folder, first, self.segment.log)
    }

    /// Creates a segment of a log.
    pub(crate) fn create_of(
        environment: &Environment,
        format: Format,
        folder: &Path,
        first: u64,
        log: Option<u32>,
    ) -> Result<Self, JournalError> {
        let path = folder.join(format!("{first:020}.{}", format.suffix));
        let random = environment.random.next_u64();
        let salt = log.map_or(random, |log| u64::from(log) << 32 | random >> 32);
        let mut header = [0; HEADER_BYTES as usize];
        header[..8].copy_from_slice(&format.magic);
        header[8..10].copy_from_slice(&format.version.to_le_bytes());
        if log.is_some() {
            header[10..12].copy_from_slice(&IDENTIFIED.to_le_bytes());
        }
        header[12..20].copy_from_slice(&salt.to_le_bytes());
        header[20..28].copy_from_slice(&first.to_le_bytes());
        let crc = crc32c::crc32c(&header[..28]);
        header[28..32].copy_from_slice(&crc.to_le_bytes());
        let storage = &environment.storage;
        let mut file = storage.open_append(&path).map_err(|e| JournalError::io("create", &path, e))?;
        if !file.is_empty() {
            file.truncate(0).map_err(|e| JournalError::io("truncate", &path, e))?;
        }
        file.append(&header).map_err(|e| JournalError::io("write", &path, e))?;
        file.sync().map_err(|e| JournalError::io("sync", &path, e))?;
        storage.sync_dir(folder).map_err(|e| JournalError::io("sync", folder, e))?;
        Ok(Self {
            environment: environment.clone(),
            file,
            segment: Segment { first, path, salt, log, len: HEADER_BYTES },
            durable_to: HEADER_BYTES,
            sealed_for: None,
            suspect: false,
        })
    }

    /// Appends whole entries. After an error the segment has to be [`SegmentWriter::reset`].
    pub(crate) fn append(&mut self, entries: &[u8]) -> Result<(), JournalError> {
        self.sealed_for = None;
        match self.file.append(entries) {
            Ok(()) => {
                self.segment.len += entries.len() as u64;
                Ok(())
            }
            Err(e) => {
                self.suspect = true;
                Err(JournalError::io("write", &self.segment.path, e))
            }
        }
    }

    /// Makes all that was appended durable. After an error the segment has to be [`SegmentWriter::reset`].
    pub(crate) fn sync(&mut self) -> Result<(), JournalError> {
        match self.file.sync() {
            Ok(()) => {
                self.durable_to = self.segment.len;
                Ok(())
            }
            Err(e) => {
                self.suspect = true;
                Err(JournalError::io("sync", &self.segment.path, e))
            }
        }
    }

    /// Cuts the file to `len` bytes, which are durable, and makes that durable. Until it succeeds, nothing may be written.
    pub(crate) fn reset(&mut self, len: u64) -> Result<(), JournalError> {
        assert!(len <= self.durable_to, "only durable bytes are known to be good");
        self.suspect = true;
        self.sealed_for = None;
        let path = &self.segment.path;
        let mut file = self.environment.storage.open_append(path).map_err(|e| JournalError::io("open", path, e))?;
        if file.len() < len {
            return Err(JournalError::corrupt(path, file.len(), None, "the file is shorter than what was synced"));
        }
        if file.len() > len {
            file.truncate(len).map_err(|e| JournalError::io("truncate", path, e))?;
        }
        file.sync().map_err(|e| JournalError::io("sync", path, e))?;
        self.file = file;
        self.segment.len = len;
        self.durable_to = len;
        self.suspect = false;
        Ok(())
    }

    /// Appends a seal, not synced: a note for recovery that all before it is durable. Failing is no loss.
    pub(crate) fn note_durable(&mut self, next: u64) {
        if self.suspect || self.durable_to < self.segment.len || self.sealed_for.is_some() {
            return;
        }
        let mut seal = Vec::with_capacity(ENTRY_BYTES);
        let draft = Draft { kind: SEAL, number: next, durable_to: self.durable_to, ..Draft::default() };
        entry::encode(&mut seal, self.segment.salt, &draft, &[], Compression::None);
        if self.append(&seal).is_ok() {
            self.sealed_for = Some(next);
        }
    }

    /// Closes the segment before the one that starts at `next`.
    pub(crate) fn seal(&mut self, next: u64) -> Result<(), JournalError> {
        if self.sealed_for != Some(next) {
            let mut seal = Vec::with_capacity(ENTRY_BYTES);
            let draft = Draft { kind: SEAL, number: next, durable_to: self.durable_to, ..Draft::default() };
            entry::encode(&mut seal, self.segment.salt, &draft, &[], Compression::None);
            self.append(&seal)?;
            self.sealed_for = Some(next);
        }
        if self.durable_to < self.segment.len { self.sync() } else { Ok(()) }
    }
}

/// A damaged range of numbers, for errors about entries.
pub(crate) fn numbers(entry: &Entry) -> Option<Range<u64>> {
    Some(entry.number..entry.number + u64::from(entry.count.max(1)))
}
