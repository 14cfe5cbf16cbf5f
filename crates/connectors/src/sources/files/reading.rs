//! Reading the catalogue's files one after the other into chunks, from any cursor.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{ArrayRef, StringArray, TimestampMicrosecondArray};
use bytes::Bytes;
use weir_pipeline::input::{Chunk, Cursor, Incident, InputError, Place, Polled};
use weir_schemas::{Attribute, Attributes, Framer, Records};

use super::FilesSettings;
use super::catalogue::{Catalogue, Finished, Kind, Stamp};
use super::content::{Content, End, Packing, blocks_of, sum_of};
use super::cursor::{Position, Sum, to_hex};
use super::folder::{Folder, stamp_of};

/// About how many bytes are framed at once.
const CHUNK_SIZE: usize = 8 << 20;
/// Smaller pieces are put together in one chunk.
const SMALL_SIZE_MAX: usize = 1 << 20;
/// A record longer than this cannot be taken in (positions within a chunk have 32 bits).
const RECORD_SIZE_MAX: usize = 1 << 30;
/// Most bytes of what cannot be read that an incident carries.
const RAW_SIZE_MAX: usize = 64 * 1024;
/// Least time between two looks for files that have changed since they were read.
const WIDE_LOOK_INTERVAL: Duration = Duration::from_secs(10);

/// Everything behind an open files input.
pub(super) struct Reading {
    settings: FilesSettings,
    folder: Folder,
    catalogue: Catalogue,
    /// The file in the middle of which the last poll ended.
    current: Option<Open>,
    /// Entry up to which polls have come.
    reached: u64,
    wide_look_due: Duration,
}

/// A file being read.
struct Open {
    entry: u64,
    /// Uncompressed position up to which records were given out.
    at: u64,
    content: Content,
    framer: Box<dyn Framer>,
    /// Bytes behind `at` that are no whole record yet.
    rest: Vec<u8>,
}

enum Opened {
    Open(Box<Open>),
    /// The rest of the file cannot be had: it is over where it stands, with this incident.
    GivenUp(&'static str, String),
}

fn retry(path: &Path, error: &io::Error) -> InputError {
    InputError::Retry(format!("{}: {error}", path.display()))
}

impl Reading {
    pub fn open(settings: FilesSettings) -> Result<Self, InputError> {
        let folder = Folder::new(&settings.root, &settings.pattern, settings.settle)
            .map_err(|error| InputError::Stopped(format!("`{}` is not a path pattern: {error}", settings.pattern)))?;
        let catalogue =
            Catalogue::open(&*settings.storage, &settings.catalogue).map_err(|error| match error.kind() {
                io::ErrorKind::InvalidData => InputError::Stopped(error.to_string()),
                _ => retry(&settings.catalogue, &error),
            })?;
        Ok(Self { settings, folder, catalogue, current: None, reached: 0, wide_look_due: Duration::ZERO })
    }

    /// Whether a poll from where the last one ended would find something.
    pub fn is_behind(&mut self) -> Result<bool, InputError> {
        if self.reached >= self.catalogue.len() && self.current.is_none() {
            self.look()?;
        }
        Ok(self.reached < self.catalogue.len() || self.current.is_some())
    }

    /// Records behind `cursor`, and whether files are there that will soon be settled.
    pub fn poll(&mut self, cursor: &Cursor, bytes_max: usize) -> Result<(Polled, bool), InputError> {
        let mut position = Position::parse(cursor)?;
        if self.catalogue.chain_before(position.entry) != Some(position.chain) {
            return Err(InputError::Stopped(format!(
                "{}: this list of files read does not belong to the stored cursor `{}`; restore it, or start the \
                 source anew",
                self.settings.catalogue.display(),
                cursor.0
            )));
        }
        let mut settling = if position.entry >= self.catalogue.len() { self.look()? } else { false };
        let mut builder = ChunkBuilder::default();
        let bytes_max = bytes_max.max(1);
        while builder.taken < bytes_max && position.entry < self.catalogue.len() {
            match self.step(&mut position, (bytes_max - builder.taken).min(CHUNK_SIZE), &mut builder) {
                Ok(()) => {}
                Err(InputError::Retry(_)) if builder.taken > 0 => break,
                Err(error) => {
                    self.current = None;
                    return Err(error);
                }
            }
        }
        if builder.taken > 0 && position.entry >= self.catalogue.len() {
            settling = self.look()?;
        }
        let chunks = builder.finish();
        self.catalogue.sync().map_err(|error| retry(&self.settings.catalogue, &error))?;
        self.reached = position.entry;
        let more = position.entry < self.catalogue.len() || settling;
        Ok((Polled { chunks, cursor: position.cursor(), more }, settling))
    }

    /// The entry in which an offset lies, and the offset of its first byte.
    fn entry_of(&self, offset: u64) -> Option<(u64, u64)> {
        let mut base = 0;
        for index in 0..self.catalogue.len() {
            let entry = self.catalogue.get(index)?;
            let extent = match (&entry.kind, entry.finished) {
                (Kind::File, Some(found)) => found.length + 1,
                // The file being read is the last.
                (Kind::File, None) => return (offset >= base).then_some((index, base)),
                _ => 1,
            };
            if offset < base + extent {
                return Some((index, base));
            }
            base += extent;
        }
        None
    }

    /// The beginning of the file in which an offset lies.
    pub fn cursor_at(&mut self, offset: u64) -> Cursor {
        let found = self.entry_of(offset);
        let found = found.and_then(|(entry, base)| Some((entry, base, self.catalogue.chain_before(entry)?)));
        match found {
            Some((entry, base, chain)) => Position { entry, base, chain, ..Position::default() }.cursor(),
            None => Cursor::default(),
        }
    }

    /// The file in which an offset lies, and the byte.
    pub fn place(&self, offset: u64) -> Option<Place> {
        let (index, base) = self.entry_of(offset)?;
        let name = self.catalogue.get(index)?.name.to_string();
        Some(Place { file: name, byte: offset - base })
    }

    /// Adds to the catalogue what is new; returns whether more will soon be settled.
    fn look(&mut self) -> Result<bool, InputError> {
        let now = self.settings.clock.now();
        let elapsed = self.settings.clock.elapsed();
        let catalogue = &self.catalogue;
        let mut looked = self.folder.look(now, elapsed, &|name| catalogue.known(name).is_some());
        for (name, stamp) in std::mem::take(&mut looked.settled) {
            match std::fs::File::open(self.folder.path(&name)) {
                Ok(_) => self.catalogue.add(&name, stamp, Kind::File),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    self.folder.wait_for(&name, elapsed);
                    looked.unreadable.push((name, error.to_string()));
                }
            }
        }
        for (name, why) in looked.unreadable {
            if !self.catalogue.told_unreadable(&name, &why) {
                self.catalogue.add(&name, Stamp { length: 0, modified: now }, Kind::Unreadable(why));
            }
        }
        if elapsed >= self.wide_look_due {
            self.look_for_changes(now);
            let cost = self.settings.clock.elapsed().saturating_sub(elapsed);
            self.wide_look_due = elapsed + WIDE_LOOK_INTERVAL.max(cost * 20);
        }
        self.catalogue.sync().map_err(|error| retry(&self.settings.catalogue, &error))?;
        Ok(looked.settling)
    }

    /// Compares the files that were read with what they are now.
    fn look_for_changes(&mut self, now: i64) {
        let settle = i64::try_from(self.settings.settle.as_micros()).unwrap_or(i64::MAX);
        let mut different: Vec<(String, Stamp, Sum)> = Vec::new();
        for name in self.catalogue.names() {
            // A file that is gone, or not readable now, was read: that is no change of its content.
            let Ok(stamp) = stamp_of(&self.folder.path(name)) else { continue };
            if let Some((seen, Some(sum))) = self.catalogue.known(name)
                && seen != stamp
                && now.saturating_sub(stamp.modified) >= settle
            {
                different.push((name.to_owned(), stamp, sum));
            }
        }
        different.sort_by(|one, other| one.0.cmp(&other.0));
        for (name, stamp, sum) in different {
            match sum_of(&self.folder.path(&name), stamp.length) {
                Ok(found) if found == sum => self.catalogue.touch(&name, stamp),
                Ok(found) => self.catalogue.add(&name, stamp, Kind::Changed(found)),
                // It is looked at again the next time.
                Err(_) => {}
            }
        }
    }

    /// Reads about `size` bytes of the file at `position`, which it moves. An entry that is no file is an incident.
    fn step(&mut self, position: &mut Position, size: usize, builder: &mut ChunkBuilder) -> Result<(), InputError> {
        let Some(entry) = self.catalogue.get(position.entry) else { return Ok(()) };
        let name = entry.name.clone();
        let stamp = entry.stamp;
        let incident = match &entry.kind {
            Kind::File => None,
            Kind::Changed(_) => {
                let message = format!("{name}: its content has changed since it was read; it is not read again");
                Some(("file_changed", message))
            }
            Kind::Unreadable(why) => Some(("unreadable_file", format!("{name}: {why}"))),
        };
        if let Some((reason, message)) = incident {
            builder.incident(Incident { offset: position.base, reason, message, raw: Vec::new() });
            return self.next_entry(position, 1);
        }
        let packing = Packing::of(&name);
        let mut open = match self.open_at(position)? {
            Opened::Open(open) => open,
            Opened::GivenUp(reason, message) => {
                let offset = position.base + position.at;
                builder.incident(Incident { offset, reason, message, raw: Vec::new() });
                return self.give_up(position);
            }
        };
        let path = self.folder.path(&name);
        let mut buffer = std::mem::take(&mut open.rest);
        let (bytes, records, used, end) = loop {
            let wanted = size.max(buffer.len());
            buffer.reserve(wanted);
            let end = open.content.read(&mut buffer, wanted).map_err(|error| retry(&path, &error))?;
            let bytes = Bytes::from(std::mem::take(&mut buffer));
            let (records, used) = open.framer.frame(&bytes, end == Some(End::Complete));
            if used > 0 || end.is_some() || bytes.len() > RECORD_SIZE_MAX {
                break (bytes, records, used, end);
            }
            // One record is longer than all that was read.
            buffer = Vec::from(bytes);
        };
        let offset = position.base + position.at;
        let unused = offset + used as u64;
        let rest = bytes.slice(used..);
        builder.piece(bytes, records, offset, &name, stamp.modified);
        builder.taken(if packing == Packing::Plain { used as u64 } else { 0 }, used.max(1));
        position.at += used as u64;

        let too_long = end.is_none() && used == 0;
        if end.is_none() && !too_long {
            open.at = position.at;
            position.resume = to_hex(&open.framer.resume_token());
            position.blocks = open.content.blocks_before(position.at);
            open.rest = rest.to_vec();
            self.current = Some(*open);
            return Ok(());
        }
        let packed = if packing == Packing::Gzip { "gzip" } else { "Zstandard" };
        let incident = match end {
            None => Some(("record_too_long", format!("{name}: a record is longer than {RECORD_SIZE_MAX} bytes"))),
            Some(End::Complete) if rest.is_empty() => None,
            Some(End::Complete) => Some((
                "unfinished_record",
                format!("{name}: its last {} bytes, from byte {}, are no whole record", rest.len(), position.at),
            )),
            Some(End::Truncated) => Some((
                if packing == Packing::Gzip { "truncated_gzip" } else { "truncated_zstd" },
                format!("{name}: the {packed} data are cut short; what follows byte {} is missing", position.at),
            )),
            Some(End::Damaged) => Some((
                if packing == Packing::Gzip { "damaged_gzip" } else { "damaged_zstd" },
                format!("{name}: the {packed} data are damaged; what follows byte {} cannot be read", position.at),
            )),
            Some(End::Shrunk) => {
                Some(("file_changed", format!("{name}: has become shorter than {} bytes", stamp.length)))
            }
        };
        if let Some((reason, message)) = incident {
            let raw = rest[..rest.len().min(RAW_SIZE_MAX)].to_vec();
            builder.incident(Incident { offset: unused, reason, message, raw });
        }
        if end == Some(End::Shrunk) {
            return self.give_up(position);
        }
        if packing != Packing::Plain {
            builder.taken(stamp.length, 0);
        }
        let length = position.at + rest.len() as u64;
        let sum = open.content.sum().map_err(|error| retry(&path, &error))?;
        if !self.catalogue.finish(position.entry, Finished { length, sum, given_up: false }) {
            return Err(changed(&path));
        }
        self.next_entry(position, length + 1)
    }

    /// The file at `position`, open there.
    fn open_at(&mut self, position: &Position) -> Result<Opened, InputError> {
        if let Some(open) = self.current.take()
            && (open.entry, open.at) == (position.entry, position.at)
        {
            return Ok(Opened::Open(Box::new(open)));
        }
        let Some(entry) = self.catalogue.get(position.entry) else {
            return Err(InputError::Stopped(format!("there is no file number {}", position.entry)));
        };
        let (name, mut stamp, finished) = (entry.name.clone(), entry.stamp, entry.finished);
        let path = self.folder.path(&name);
        let packing = Packing::of(&name);
        if let Some(found) = finished.filter(|found| found.given_up) {
            return if position.at >= found.length {
                Ok(Opened::GivenUp("file_changed", format!("{name}: has changed or gone while it was being read")))
            } else {
                Err(changed(&path))
            };
        }
        let now = match stamp_of(&path) {
            Ok(now) => now,
            Err(error) if error.kind() == io::ErrorKind::NotFound && finished.is_some() => {
                let path = path.display();
                return Err(InputError::Stopped(format!(
                    "{path}: the file was read, has to be read again, and is gone; put it back as it was"
                )));
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Opened::GivenUp("file_missing", format!("{name}: is gone before it was read to its end")));
            }
            Err(error) => return Err(retry(&path, &error)),
        };
        if now != stamp {
            if let Some(found) = finished {
                if sum_of(&path, now.length).map_err(|error| retry(&path, &error))? != found.sum {
                    return Err(changed(&path));
                }
                self.catalogue.touch(&name, now);
                stamp = now;
            } else if position.at == 0 {
                self.catalogue.restamp(position.entry, now);
                stamp = now;
            } else {
                let same = match (packing, position.blocks) {
                    (Packing::Plain, Some(blocks)) => {
                        now.length >= position.at
                            && blocks_of(&path, position.at).map_err(|error| retry(&path, &error))? == blocks
                    }
                    _ => now.length == stamp.length,
                };
                if !same {
                    let message = format!("{name}: has changed while it was being read, after byte {}", position.at);
                    return Ok(Opened::GivenUp("file_changed", message));
                }
            }
        }
        let content = Content::open(&path, packing, stamp.length, position.at, position.blocks)
            .map_err(|error| retry(&path, &error))?;
        let framer = self.settings.format.framer(position.resume_token().as_deref());
        Ok(Opened::Open(Box::new(Open { entry: position.entry, at: position.at, content, framer, rest: Vec::new() })))
    }

    fn give_up(&mut self, position: &mut Position) -> Result<(), InputError> {
        let found = Finished { length: position.at, sum: Sum::default(), given_up: true };
        if !self.catalogue.finish(position.entry, found) {
            let name = self.catalogue.get(position.entry).map(|entry| entry.name.clone()).unwrap_or_default();
            return Err(changed(&self.folder.path(&name)));
        }
        self.next_entry(position, position.at + 1)
    }

    /// Moves `position` behind its entry, which takes `extent` offsets.
    fn next_entry(&mut self, position: &mut Position, extent: u64) -> Result<(), InputError> {
        let entry = position.entry + 1;
        let Some(chain) = self.catalogue.chain_before(entry) else {
            return Err(InputError::Stopped(format!(
                "{}: file number {} is not finished, and a later one is",
                self.settings.catalogue.display(),
                position.entry
            )));
        };
        *position = Position { entry, base: position.base + extent, chain, ..Position::default() };
        Ok(())
    }
}

fn changed(path: &Path) -> InputError {
    let path = path.display();
    InputError::Stopped(format!(
        "{path}: the file has changed since it was read, and has to be read again; put it back as it was"
    ))
}

/// Gathers what is read: large pieces become chunks as they are, small ones are put together.
#[derive(Default)]
struct ChunkBuilder {
    chunks: Vec<Chunk>,
    pending: Chunk,
    buffer: Vec<u8>,
    names: Vec<(Box<str>, usize)>,
    taken: usize,
}

impl ChunkBuilder {
    fn incident(&mut self, incident: Incident) {
        self.pending.incidents.push(incident);
        self.taken += 1;
    }

    fn taken(&mut self, counted: u64, used: usize) {
        self.pending.bytes += counted;
        self.taken += used;
    }

    /// Adds `records`, cut from `bytes`, of which the first stands at `offset`.
    fn piece(&mut self, bytes: Bytes, records: Records, offset: u64, name: &str, modified: i64) {
        if records.is_empty() {
            return;
        }
        let count = records.len();
        let own = std::ptr::eq(records.buffer.as_ptr(), bytes.as_ptr());
        let large = records.buffer.len() >= SMALL_SIZE_MAX;
        let overfull = self.buffer.len() + records.buffer.len() > CHUNK_SIZE;
        if large || overfull || self.pending.records.preamble != records.preamble {
            self.cut();
        }
        let shift = self.buffer.len() as u32;
        let mut place = offset;
        self.pending.offsets.extend(records.ranges.iter().map(|(start, _)| {
            // A framer that makes a buffer of its own says nothing of where its records stood.
            let at = if own { offset + u64::from(*start) } else { place };
            place += 1;
            at
        }));
        self.pending.arrivals.extend(std::iter::repeat_n(modified, count));
        self.names.push((name.into(), count));
        if large {
            self.pending.records = records;
            self.cut();
        } else {
            self.buffer.extend_from_slice(&records.buffer);
            let moved = records.ranges.iter().map(|(start, length)| (start + shift, *length));
            self.pending.records.ranges.extend(moved);
            self.pending.records.preamble = records.preamble;
        }
    }

    fn cut(&mut self) {
        let mut chunk = std::mem::take(&mut self.pending);
        let buffer = std::mem::take(&mut self.buffer);
        if !buffer.is_empty() {
            chunk.records.buffer = buffer.into();
        }
        let names = std::mem::take(&mut self.names);
        if chunk.records.is_empty() && chunk.incidents.is_empty() && chunk.bytes == 0 {
            return;
        }
        let files = names.iter().flat_map(|(name, count)| std::iter::repeat_n(Some(name.as_ref()), *count));
        let files: ArrayRef = Arc::new(files.collect::<StringArray>());
        let arrivals = TimestampMicrosecondArray::from(chunk.arrivals.clone()).with_timezone("UTC");
        let arrivals: ArrayRef = Arc::new(arrivals);
        chunk.attributes = Attributes { columns: vec![(Attribute::File, files), (Attribute::Arrival, arrivals)] };
        self.chunks.push(chunk);
    }

    fn finish(mut self) -> Vec<Chunk> {
        self.cut();
        self.chunks
    }
}
