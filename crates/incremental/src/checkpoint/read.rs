//! Runs that are open for reading: what is in memory of each, and cursors over their entries.

use std::collections::HashMap;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use weir_environment::{Environment, ReadFile};
use xxhash_rust::xxh3::xxh3_64;

use super::failed;
use super::filter::Filter;
use super::run::{
    BLOCK_HEADER_BYTES, ENTRY_HEADER_BYTES, HEADER_BYTES, MAGIC, REMOVED, RunInfo, Section, VERSION, VERSION_MIN,
};
use crate::operators::{EngineError, StateKey};

/// Larger blocks than any value or filter needs: a length beyond it is damage.
const BLOCK_BYTES_MAX: u32 = 1 << 30;

/// A run of the manifest, open. Readers may go on with it when the manifest has moved on.
#[derive(Clone)]
pub(super) struct Run {
    pub info: Arc<RunInfo>,
    pub file: Arc<RunFile>,
}

/// An open file, removed with its last reader once it is replaced.
pub(super) struct RunFile {
    environment: Environment,
    path: PathBuf,
    file: Box<dyn ReadFile>,
    /// By where the section begins.
    guides: Mutex<HashMap<u64, Arc<Guide>>>,
    replaced: AtomicBool,
}

/// What leads to the entries of one section, kept in memory from its first lookup on.
pub(super) struct Guide {
    pub filter: Filter,
    separators: Vec<u8>,
    blocks: Vec<BlockPlace>,
}

/// A block: its separator, as a range of all separators, and where it begins in the file.
struct BlockPlace {
    start: u32,
    end: u32,
    at: u64,
}

impl Guide {
    fn decode(index: &[u8], filter: &[u8]) -> Option<Self> {
        let (mut separators, mut blocks, mut rest) = (Vec::new(), Vec::new(), index);
        while !rest.is_empty() {
            let (at, after) = rest.split_first_chunk::<8>()?;
            let (length, after) = after.split_first_chunk::<4>()?;
            let (separator, after) = after.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            let start = separators.len() as u32;
            separators.extend_from_slice(separator);
            blocks.push(BlockPlace { start, end: separators.len() as u32, at: u64::from_le_bytes(*at) });
            rest = after;
        }
        Some(Self { filter: Filter::decode(filter)?, separators, blocks })
    }

    /// Where the last block begins whose separator is not greater: the first key not less than `key` is in it, or is the
    /// first of the next.
    fn block_of(&self, key: &[u8]) -> Option<u64> {
        let separator = |block: &BlockPlace| &self.separators[block.start as usize..block.end as usize];
        let after = self.blocks.partition_point(|block| separator(block) <= key);
        self.blocks.get(after.saturating_sub(1)).map(|block| block.at)
    }

    fn bytes(&self) -> usize {
        self.filter.bytes() + self.separators.len() + self.blocks.len() * size_of::<BlockPlace>()
    }
}

impl Run {
    /// Opens a run that the manifest names.
    pub fn open(environment: &Environment, folder: &Path, info: RunInfo) -> Result<Self, EngineError> {
        let path = folder.join(&info.file);
        let file = environment.storage.open_read(&path).map_err(|e| failed("open", &path, &e))?;
        let (guides, replaced) = (Mutex::default(), AtomicBool::new(false));
        let file = RunFile { environment: environment.clone(), path, file, guides, replaced };
        let length = file.file.len().map_err(|e| failed("read", &file.path, &e))?;
        if length != info.bytes {
            let what = format!("it has {length} bytes, {} were written", info.bytes);
            return Err(file.damaged(length.min(info.bytes), &what));
        }
        let mut header = [0; HEADER_BYTES as usize];
        file.fill(0, &mut header)?;
        if &header[..8] != MAGIC {
            return Err(file.damaged(0, "it does not begin like a checkpoint"));
        }
        let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(EngineError::Checkpoint(format!(
                "{} has format {version}, this program reads {VERSION}",
                file.path.display()
            )));
        }
        let mut identity = [0; 8];
        if version > VERSION_MIN {
            identity.copy_from_slice(&header[12..]);
        }
        if u64::from_le_bytes(identity) != info.identity {
            return Err(file.damaged(12, "it is another run than the one that the manifest names"));
        }
        Ok(Self { info: Arc::new(info), file: Arc::new(file) })
    }

    /// The run without the sections of states for which `drop` says yes.
    pub fn without(&self, drop: &dyn Fn(&str) -> bool) -> Self {
        if !self.info.states.iter().any(|s| drop(&s.id)) {
            return self.clone();
        }
        let mut info = RunInfo::clone(&self.info);
        info.states.retain(|s| !drop(&s.id));
        Self { info: Arc::new(info), file: self.file.clone() }
    }

    /// Has the file removed when nobody reads it any more.
    pub fn replace(&self) {
        self.file.replaced.store(true, Ordering::Release);
    }

    /// The guide to a section, read when it is not in memory yet.
    pub fn guide(&self, section: &Section) -> Result<Arc<Guide>, EngineError> {
        if let Some(guide) = self.file.guides.lock().get(&section.start) {
            return Ok(guide.clone());
        }
        let mut filter = Vec::new();
        let mut index = Vec::new();
        self.file.read_block(section.end, &mut index)?;
        self.file.read_block(section.filter, &mut filter)?;
        let guide = Guide::decode(&index, &filter)
            .ok_or_else(|| self.file.damaged(section.end, "the index of a section is malformed"))?;
        let guide = Arc::new(guide);
        self.file.guides.lock().insert(section.start, guide.clone());
        Ok(guide)
    }

    /// Bytes of memory that guides take.
    pub fn guide_bytes(&self) -> usize {
        self.file.guides.lock().values().map(|guide| guide.bytes()).sum()
    }
}

impl Drop for RunFile {
    fn drop(&mut self) {
        if self.replaced.load(Ordering::Acquire) {
            // What cannot be removed now is removed at the next opening.
            let _ = self.environment.storage.remove_file(&self.path);
        }
    }
}

impl RunFile {
    pub(super) fn damaged(&self, at: u64, what: &str) -> EngineError {
        EngineError::CheckpointDamaged { path: self.path.clone(), position: at, what: what.to_owned() }
    }

    fn fill(&self, at: u64, buffer: &mut [u8]) -> Result<(), EngineError> {
        let mut filled = 0;
        while filled < buffer.len() {
            let read = self.file.read_at(at + filled as u64, &mut buffer[filled..]);
            match read.map_err(|e| failed("read", &self.path, &e))? {
                0 => return Err(self.damaged(at, "it ends too early")),
                count => filled += count,
            }
        }
        Ok(())
    }

    /// Unpacks the block at a place into `block`; returns where the next begins.
    fn read_block(&self, at: u64, block: &mut Vec<u8>) -> Result<u64, EngineError> {
        let mut header = [0; BLOCK_HEADER_BYTES];
        self.fill(at, &mut header)?;
        let number =
            |from: usize| u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]]);
        let (stored, raw) = (number(0), number(4));
        let mut sum = [0; 8];
        sum.copy_from_slice(&header[8..]);
        if stored > BLOCK_BYTES_MAX || raw > BLOCK_BYTES_MAX {
            return Err(self.damaged(at, "a block has an impossible length"));
        }
        let mut bytes = vec![0; stored as usize];
        self.fill(at + BLOCK_HEADER_BYTES as u64, &mut bytes)?;
        if xxh3_64(&bytes) != u64::from_le_bytes(sum) {
            return Err(self.damaged(at, "a block is not what was written"));
        }
        block.resize(raw as usize, 0);
        match lz4_flex::block::decompress_into(&bytes, block) {
            Ok(length) if length == raw as usize => Ok(at + BLOCK_HEADER_BYTES as u64 + u64::from(stored)),
            _ => Err(self.damaged(at, "a block cannot be decompressed")),
        }
    }
}

/// Goes through the entries of one section in order.
pub(super) struct Cursor {
    file: Arc<RunFile>,
    guide: Option<Arc<Guide>>,
    /// Where the block in memory begins; `None` before the first.
    loaded: Option<u64>,
    /// Where the block after it begins.
    at: u64,
    end: u64,
    block: Vec<u8>,
    /// Where the next entry starts in the block.
    next: usize,
    entry: Option<Entry>,
}

/// An entry's key and value, as ranges of the block.
struct Entry {
    key: Range<usize>,
    prefix: usize,
    value: Option<Range<usize>>,
}

impl Cursor {
    /// A cursor before the first entry of a section.
    pub fn new(run: &Run, section: &Section) -> Self {
        Self {
            file: run.file.clone(),
            guide: None,
            loaded: None,
            at: section.start,
            end: section.end,
            block: Vec::new(),
            next: 0,
            entry: None,
        }
    }

    /// A cursor that seeks.
    pub fn with_guide(run: &Run, section: &Section, guide: Arc<Guide>) -> Self {
        Self { guide: Some(guide), ..Self::new(run, section) }
    }

    /// Goes to the next entry.
    pub fn advance(&mut self) -> Result<(), EngineError> {
        self.entry = None;
        if self.next >= self.block.len() {
            if self.at >= self.end {
                return Ok(());
            }
            self.load(self.at)?;
        }
        let number = |from: usize| -> Option<u32> {
            let bytes: [u8; 4] = self.block.get(from..from + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        let cut_off = || self.file.damaged(self.loaded.unwrap_or_default(), "an entry is cut off");
        let (Some(key), Some(prefix), Some(value)) = (number(self.next), number(self.next + 4), number(self.next + 8))
        else {
            return Err(cut_off());
        };
        let start = self.next + ENTRY_HEADER_BYTES;
        let key = start..start + key as usize;
        let value_end = key.end + if value == REMOVED { 0 } else { value as usize };
        let prefix = prefix as usize;
        if value_end > self.block.len() || prefix > key.len() {
            return Err(cut_off());
        }
        let value = (value != REMOVED).then_some(key.end..value_end);
        self.next = value_end;
        self.entry = Some(Entry { key, prefix, value });
        Ok(())
    }

    /// Goes to the first entry whose key is not less. Keys that are sought must not descend.
    pub fn seek(&mut self, key: &[u8]) -> Result<(), EngineError> {
        if self.key().is_some_and(|present| present.bytes >= key) {
            return Ok(());
        }
        let at_end = self.loaded.is_some() && self.entry.is_none();
        let Some(block) = self.guide.as_ref().and_then(|guide| guide.block_of(key)).filter(|_| !at_end) else {
            return Ok(());
        };
        if self.loaded.is_none_or(|loaded| loaded < block) {
            self.load(block)?;
            self.advance()?;
        }
        while self.key().is_some_and(|present| present.bytes < key) {
            self.advance()?;
        }
        Ok(())
    }

    fn load(&mut self, at: u64) -> Result<(), EngineError> {
        self.at = self.file.read_block(at, &mut self.block)?;
        self.loaded = Some(at);
        self.next = 0;
        Ok(())
    }

    /// The present key; None at the end.
    pub fn key(&self) -> Option<StateKey<'_>> {
        self.entry.as_ref().map(|entry| StateKey { bytes: &self.block[entry.key.clone()], prefix: entry.prefix })
    }

    /// The present value; None for a removal.
    pub fn value(&self) -> Option<&[u8]> {
        self.entry.as_ref()?.value.clone().map(|value| &self.block[value])
    }
}
