//! The catalogue of a files input: which files it reads, in which order, and what they held.
//!
//! An append-only file of lines beside the log, each JSON, a tab, and the lower half of the JSON's xxh3 (8 hexadecimal
//! digits; lines of earlier releases have neither). Invariants:
//! - an entry's index never changes, so the order of reading is a fact once it was decided;
//! - a line is synced before a cursor that depends on it is given out;
//! - what is reported once (a file that changed, one that cannot be read) is an entry too, so that reading again
//!   from an older cursor reports it in the same place;
//! - a line cut short by a crash is at the end, and no cursor depends on it: it is cut off.

use std::collections::HashMap;
use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use weir_environment::{AppendFile, Storage};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

use super::content::fold;
use super::cursor::Sum;

/// Length in bytes and modification time in µs since 1970: what tells, without reading, that a file is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Stamp {
    pub length: u64,
    pub modified: i64,
}

/// What an entry is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Kind {
    /// A file to read.
    File,
    /// A file that was read before has another content now (this sum).
    Changed(Sum),
    /// A file that could not be opened, and why.
    Unreadable(String),
}

/// One step in the order of reading.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub name: Box<str>,
    pub stamp: Stamp,
    pub kind: Kind,
    pub finished: Option<Finished>,
    /// Chain behind this entry, once it and all before are finished.
    chain: Option<u128>,
}

/// What reading a file to its end found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Finished {
    /// Uncompressed bytes.
    pub length: u64,
    /// Hash of its stored bytes.
    pub sum: Sum,
    /// It was given up at `length`, since what followed had changed or gone.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub given_up: bool,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Entry { name: String, stamp: Stamp, kind: Kind },
    Stamp { entry: u64, stamp: Stamp },
    Finished { entry: u64, found: Finished },
}

fn sum_of(json: &[u8]) -> u32 {
    xxh3_64(json) as u32
}

/// The JSON of a line without its end, checked where it can be. JSON text has no tab.
fn opened(line: &[u8]) -> Result<&[u8], String> {
    let Some(tab) = memchr::memchr(b'\t', line) else { return Ok(line) };
    let (json, sum) = (&line[..tab], &line[tab + 1..]);
    if format!("{:08x}", sum_of(json)).as_bytes() == sum { Ok(json) } else { Err("its checksum does not fit".into()) }
}

/// Whether a line of a catalogue, without its end, is one that could have been written.
pub(super) fn is_whole(line: &[u8]) -> bool {
    line.is_empty() || opened(line).is_ok_and(|json| serde_json::from_slice::<Line>(json).is_ok())
}

/// The catalogue, open for appending.
pub(super) struct Catalogue {
    file: Box<dyn AppendFile>,
    unwritten: Vec<u8>,
    entries: Vec<Entry>,
    /// Latest entry of a name that says what the file held: a file or a change.
    by_name: HashMap<Box<str>, usize>,
    /// Names reported as unreadable, until they can be read.
    unreadable: HashMap<Box<str>, String>,
}

impl Catalogue {
    /// Opens or creates the catalogue at `path`; its folder exists. Fails with `InvalidData` when a line other than
    /// the last is broken.
    pub fn open(storage: &dyn Storage, path: &Path) -> io::Result<Self> {
        let text = if storage.exists(path) { storage.read(path)? } else { Vec::new() };
        let mut file = storage.open_append(path)?;
        let whole = memchr::memrchr(b'\n', &text).map_or(0, |end| end + 1);
        if whole < text.len() {
            file.truncate(whole as u64)?;
        }
        if let Some(parent) = path.parent() {
            storage.sync_dir(parent)?;
        }
        let mut catalogue = Self {
            file,
            unwritten: Vec::new(),
            entries: Vec::new(),
            by_name: HashMap::new(),
            unreadable: HashMap::new(),
        };
        for (number, line) in text[..whole].split(|byte| *byte == b'\n').enumerate() {
            if line.is_empty() {
                continue;
            }
            let line = opened(line).and_then(|json| serde_json::from_slice(json).map_err(|error| error.to_string()));
            let line = line.map_err(|error| {
                let place = format!("{}:{}", path.display(), number + 1);
                io::Error::new(io::ErrorKind::InvalidData, format!("{place}: not a line of a file catalogue: {error}"))
            })?;
            catalogue.take(line);
        }
        Ok(catalogue)
    }

    fn take(&mut self, line: Line) {
        match line {
            Line::Entry { name, stamp, kind } => {
                let name: Box<str> = name.into();
                let index = self.entries.len();
                match &kind {
                    Kind::Unreadable(why) => {
                        self.unreadable.insert(name.clone(), why.clone());
                    }
                    Kind::File | Kind::Changed(_) => {
                        self.unreadable.remove(&name);
                        self.by_name.insert(name.clone(), index);
                    }
                }
                self.entries.push(Entry { name, stamp, kind, finished: None, chain: None });
            }
            Line::Stamp { entry, stamp } => {
                if let Some(entry) = self.entries.get_mut(entry as usize) {
                    entry.stamp = stamp;
                }
            }
            Line::Finished { entry, found } => {
                let index = entry as usize;
                if index < self.entries.len() && self.entries[index].finished.is_none() {
                    self.entries[index].finished = Some(found);
                }
            }
        }
    }

    fn append(&mut self, line: Line) {
        // Names, numbers and strings always serialise.
        let json = serde_json::to_vec(&line).unwrap_or_default();
        self.unwritten.extend_from_slice(&json);
        self.unwritten.extend_from_slice(format!("\t{:08x}\n", sum_of(&json)).as_bytes());
        self.take(line);
    }

    /// Adds an entry at the end.
    pub fn add(&mut self, name: &str, stamp: Stamp, kind: Kind) {
        self.append(Line::Entry { name: name.to_owned(), stamp, kind });
    }

    /// Notes that entry `index`, of which nothing was read yet, has grown or changed.
    pub fn restamp(&mut self, index: u64, stamp: Stamp) {
        self.append(Line::Stamp { entry: index, stamp });
    }

    /// Notes what reading entry `index` found; false when it found something else before.
    pub fn finish(&mut self, index: u64, found: Finished) -> bool {
        match self.entries[index as usize].finished {
            Some(before) => before == found,
            None => {
                self.append(Line::Finished { entry: index, found });
                true
            }
        }
    }

    /// Makes durable what was added.
    pub fn sync(&mut self) -> io::Result<()> {
        if self.unwritten.is_empty() {
            return Ok(());
        }
        let end = self.file.len();
        let written = self.file.append(&self.unwritten).and_then(|()| self.file.sync());
        match written {
            Ok(()) => self.unwritten.clear(),
            // The lines stay in `unwritten`, to be written whole the next time.
            Err(_) => self.file.truncate(end)?,
        }
        written
    }

    /// Entry `index`.
    pub fn get(&self, index: u64) -> Option<&Entry> {
        self.entries.get(index as usize)
    }

    /// How many entries there are.
    pub fn len(&self) -> u64 {
        self.entries.len() as u64
    }

    /// Chain over the entries before `index`; none when one of them is not finished.
    pub fn chain_before(&mut self, index: u64) -> Option<Sum> {
        let index = index as usize;
        if index > self.entries.len() {
            return None;
        }
        let known = self.entries[..index].iter().rposition(|entry| entry.chain.is_some());
        let mut chain = known.and_then(|known| self.entries[known].chain).unwrap_or(0);
        for entry in &mut self.entries[known.map_or(0, |known| known + 1)..index] {
            let (sum, length) = match (&entry.kind, entry.finished) {
                (Kind::File, Some(found)) => (found.sum.0, found.length),
                (Kind::File, None) => return None,
                (Kind::Changed(sum), _) => (sum.0, 0),
                (Kind::Unreadable(why), _) => (xxh3_128(why.as_bytes()), 0),
            };
            chain = fold(chain, &[xxh3_128(entry.name.as_bytes()), sum, u128::from(length)]);
            entry.chain = Some(chain);
        }
        Some(Sum(chain))
    }

    /// What is known of a file's content: its stamp and, once it was read, its sum.
    pub fn known(&self, name: &str) -> Option<(Stamp, Option<Sum>)> {
        let entry = &self.entries[*self.by_name.get(name)?];
        let sum = match &entry.kind {
            Kind::Changed(sum) => Some(*sum),
            _ => entry.finished.filter(|found| !found.given_up).map(|found| found.sum),
        };
        Some((entry.stamp, sum))
    }

    /// Takes note, for this process, that a file's stamp changed and its content did not.
    pub fn touch(&mut self, name: &str, stamp: Stamp) {
        if let Some(index) = self.by_name.get(name) {
            self.entries[*index].stamp = stamp;
        }
    }

    /// Whether this failure to open `name` is the one reported last.
    pub fn told_unreadable(&self, name: &str, why: &str) -> bool {
        self.unreadable.get(name).is_some_and(|told| told == why)
    }

    /// Names of all files that were seen.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.by_name.keys().map(AsRef::as_ref)
    }
}
