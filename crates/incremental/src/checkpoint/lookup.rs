//! Reading state by key, by the batch, while checkpoints go on being written.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_64;

use super::Shared;
use super::read::{Cursor, Guide, Run};
use crate::operators::EngineError;

/// So many keys are looked up before what was found is handed on.
const LOOKUP_KEYS_MAX: usize = 4096;

/// Reads the newest checkpoint of a store; cheap to clone, and to use from any thread.
///
/// Each call reads one checkpoint, whatever is written meanwhile.
#[derive(Clone, Debug)]
pub struct StateReader(pub(super) Arc<Shared>);

/// One state, or a part of one whose keys share a tag.
#[derive(Clone, Debug)]
pub struct Disk {
    reader: StateReader,
    state: Arc<str>,
    tag: Vec<u8>,
}

/// An entry of one run under a sought prefix.
struct Found {
    prefix: u32,
    /// 0 is the newest run.
    age: u32,
    start: usize,
    key: u32,
    /// None for a removal.
    value: Option<u32>,
}

impl StateReader {
    /// One state.
    pub fn state(&self, id: &str) -> Disk {
        Disk { reader: self.clone(), state: id.into(), tag: Vec::new() }
    }

    /// Entries and bytes on disk that a state has, at most: a key that several runs have counts in each.
    pub fn size_of(&self, id: &str) -> (usize, usize) {
        let runs = self.0.runs();
        let sections = runs.iter().filter_map(|run| run.info.section(id));
        sections.fold((0, 0), |(entries, bytes), section| {
            (entries + section.entries as usize, bytes + section.end.saturating_sub(section.start) as usize)
        })
    }

    /// Bytes of memory that filters and indexes of blocks take.
    pub fn bytes(&self) -> usize {
        self.0.runs().iter().map(Run::guide_bytes).sum()
    }

    /// Calls `take` with each entry whose key begins with one of `prefixes`, which must be in order and different: the
    /// number of the prefix, key and value; in order of keys.
    fn lookup(
        &self,
        state: &str,
        prefixes: &[&[u8]],
        take: &mut dyn FnMut(usize, &[u8], &[u8]) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let runs = self.0.runs();
        let mut readers: Vec<(Arc<Guide>, Cursor)> = Vec::new();
        for run in runs.iter().rev() {
            if let Some(section) = run.info.section(state) {
                let guide = run.guide(section)?;
                let cursor = Cursor::with_guide(run, section, guide.clone());
                readers.push((guide, cursor));
            }
        }
        for (number, chunk) in prefixes.chunks(LOOKUP_KEYS_MAX).enumerate() {
            let hashes: Vec<u64> = chunk.iter().map(|prefix| xxh3_64(prefix)).collect();
            let (mut found, mut bytes) = (Vec::new(), Vec::new());
            for (age, (guide, cursor)) in readers.iter_mut().enumerate() {
                for (place, prefix) in chunk.iter().enumerate() {
                    if !guide.filter.may_have(hashes[place]) {
                        continue;
                    }
                    cursor.seek(prefix)?;
                    while let Some(key) = cursor.key().filter(|key| key.bytes.starts_with(prefix)) {
                        let (start, value) = (bytes.len(), cursor.value());
                        bytes.extend_from_slice(key.bytes);
                        bytes.extend_from_slice(value.unwrap_or_default());
                        found.push(Found {
                            prefix: place as u32,
                            age: age as u32,
                            start,
                            key: key.bytes.len() as u32,
                            value: value.map(|value| value.len() as u32),
                        });
                        cursor.advance()?;
                    }
                }
            }
            let key = |entry: &Found| &bytes[entry.start..entry.start + entry.key as usize];
            let same_run = found.windows(2).all(|pair: &[Found]| pair[0].age == pair[1].age);
            if !same_run {
                found.sort_unstable_by(|a, b| (a.prefix, key(a), a.age).cmp(&(b.prefix, key(b), b.age)));
                found.dedup_by(|later, kept| later.prefix == kept.prefix && key(later) == key(kept));
            }
            for entry in &found {
                if let Some(value) = entry.value {
                    let end = entry.start + entry.key as usize;
                    let place = number * LOOKUP_KEYS_MAX + entry.prefix as usize;
                    take(place, key(entry), &bytes[end..end + value as usize])?;
                }
            }
        }
        Ok(())
    }
}

impl Disk {
    /// The part of the state whose keys go on with these bytes.
    pub fn part(&self, tag: &[u8]) -> Self {
        Self { tag: [&self.tag, tag].concat(), ..self.clone() }
    }

    /// Whether the checkpoint knows nothing of the whole state.
    pub fn is_empty(&self) -> bool {
        self.reader.0.runs().iter().all(|run| run.info.section(&self.state).is_none())
    }

    /// Calls `take` with the entries under each of `prefixes`, which are the parts that keys are looked up by, in any
    /// order: the prefix, what follows it in the key, the value. Entries of one prefix come together.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] when a file cannot be read or is damaged; what `take` answers ends the lookup.
    pub fn lookup(
        &self,
        mut prefixes: Vec<&[u8]>,
        take: &mut dyn FnMut(&[u8], &[u8], &[u8]) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        prefixes.sort_unstable();
        prefixes.dedup();
        let tag = self.tag.len();
        let mut bytes = Vec::with_capacity(prefixes.iter().map(|prefix| tag + prefix.len()).sum());
        let mut ends = Vec::with_capacity(prefixes.len());
        for prefix in &prefixes {
            bytes.extend_from_slice(&self.tag);
            bytes.extend_from_slice(prefix);
            ends.push(bytes.len());
        }
        let starts = std::iter::once(0).chain(ends.iter().copied());
        let tagged: Vec<&[u8]> = starts.zip(&ends).map(|(start, &end)| &bytes[start..end]).collect();
        self.reader.lookup(&self.state, &tagged, &mut |place, key, value| {
            let prefix = prefixes[place];
            take(prefix, &key[tag + prefix.len()..], value)
        })
    }

    /// Calls `take` with every key and value, in the order of keys.
    ///
    /// # Errors
    /// As [`Disk::lookup`].
    pub fn each(&self, take: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), EngineError>) -> Result<(), EngineError> {
        let runs = self.reader.0.runs();
        super::merged(&runs, &self.state, &self.tag, &mut |key, value| {
            let Some(key) = key.bytes.strip_prefix(self.tag.as_slice()) else { return Ok(false) };
            if let Some(value) = value {
                take(key, value)?;
            }
            Ok(true)
        })
    }
}
