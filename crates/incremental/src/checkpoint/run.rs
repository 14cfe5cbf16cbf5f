//! A run: one immutable file of sorted keys and values, in checksummed and compressed blocks.
//!
//! Layout, little endian: the magic `WEIRCKPT`, a u32 version; then blocks. A block: u32 length of the stored bytes, u32 length
//! before compression, u64 xxh3 of the stored bytes, the stored bytes (LZ4). Within: u32 key length, u32 value length
//! (2^32-1: a removal), key, value. The blocks of one state follow each other; the manifest says where each state begins
//! and ends.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weir_environment::{AppendFile, Environment, ReadFile};
use xxhash_rust::xxh3::xxh3_64;

use super::failed;
use crate::operators::EngineError;

const MAGIC: &[u8; 8] = b"WEIRCKPT";
const VERSION: u32 = 1;
const HEADER_BYTES: u64 = 12;
const BLOCK_HEADER_BYTES: usize = 16;
const BLOCK_BYTES: usize = 64 << 10;
const REMOVED: u32 = u32::MAX;
/// Larger blocks than any value needs: a length beyond it is damage.
const BLOCK_BYTES_MAX: u32 = 1 << 30;

/// What the manifest says of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RunInfo {
    pub file: String,
    pub bytes: u64,
    pub states: Vec<Section>,
}

/// The blocks of one state within a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Section {
    pub id: String,
    start: u64,
    end: u64,
    entries: u64,
}

pub(super) struct RunWriter {
    path: PathBuf,
    name: String,
    file: Box<dyn AppendFile>,
    states: Vec<Section>,
    block: Vec<u8>,
    at: u64,
}

impl RunWriter {
    pub fn create(environment: &Environment, folder: &Path, number: u64) -> Result<Self, EngineError> {
        let name = format!("run-{number:010}.weir");
        let path = folder.join(&name);
        if environment.storage.exists(&path) {
            // Left over from an attempt that failed.
            environment.storage.remove_file(&path).map_err(|e| failed("remove", &path, &e))?;
        }
        let mut file = environment.storage.open_append(&path).map_err(|e| failed("create", &path, &e))?;
        let mut header = MAGIC.to_vec();
        header.extend_from_slice(&VERSION.to_le_bytes());
        file.append(&header).map_err(|e| failed("write", &path, &e))?;
        Ok(Self { path, name, file, states: Vec::new(), block: Vec::new(), at: HEADER_BYTES })
    }

    /// Adds an entry; states and the keys within a state come in order.
    pub fn put(&mut self, state: &str, key: &[u8], value: Option<&[u8]>) -> Result<(), EngineError> {
        if self.states.last().is_none_or(|s| s.id != state) {
            self.flush()?;
            self.states.push(Section { id: state.to_owned(), start: self.at, end: self.at, entries: 0 });
        }
        self.block.extend_from_slice(&(key.len() as u32).to_le_bytes());
        self.block.extend_from_slice(&value.map_or(REMOVED, |v| v.len() as u32).to_le_bytes());
        self.block.extend_from_slice(key);
        self.block.extend_from_slice(value.unwrap_or_default());
        if let Some(section) = self.states.last_mut() {
            section.entries += 1;
        }
        if self.block.len() >= BLOCK_BYTES { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<(), EngineError> {
        if self.block.is_empty() {
            return Ok(());
        }
        let stored = lz4_flex::block::compress(&self.block);
        let mut bytes = Vec::with_capacity(BLOCK_HEADER_BYTES + stored.len());
        bytes.extend_from_slice(&(stored.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&(self.block.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&xxh3_64(&stored).to_le_bytes());
        bytes.extend_from_slice(&stored);
        self.file.append(&bytes).map_err(|e| failed("write", &self.path, &e))?;
        self.at += bytes.len() as u64;
        self.block.clear();
        if let Some(section) = self.states.last_mut() {
            section.end = self.at;
        }
        Ok(())
    }

    /// Makes the run durable (its name is, with the next sync of the folder).
    pub fn finish(mut self) -> Result<RunInfo, EngineError> {
        self.flush()?;
        self.file.sync().map_err(|e| failed("sync", &self.path, &e))?;
        Ok(RunInfo { file: self.name, bytes: self.at, states: self.states })
    }
}

pub(super) struct RunReader {
    path: PathBuf,
    file: Box<dyn ReadFile>,
    at: u64,
    end: u64,
    block: Vec<u8>,
    /// Where the next entry starts in the block.
    next: usize,
    /// Key and value of the present entry, as ranges of the block.
    entry: Option<(std::ops::Range<usize>, Option<std::ops::Range<usize>>)>,
}

impl RunReader {
    /// Opens the part of a run that belongs to a state; None when it has none.
    pub fn open(
        environment: &Environment,
        folder: &Path,
        run: &RunInfo,
        state: &str,
    ) -> Result<Option<Self>, EngineError> {
        let Some(section) = run.states.iter().find(|s| s.id == state) else { return Ok(None) };
        let path = folder.join(&run.file);
        let file = environment.storage.open_read(&path).map_err(|e| failed("open", &path, &e))?;
        let reader = Self { path, file, at: section.start, end: section.end, block: Vec::new(), next: 0, entry: None };
        let mut header = [0; HEADER_BYTES as usize];
        reader.fill(0, &mut header)?;
        if &header[..8] != MAGIC {
            return Err(reader.damaged(0, "it does not begin like a checkpoint"));
        }
        let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        if version > VERSION {
            return Err(EngineError::Checkpoint(format!(
                "{} has format {version}, this program reads up to {VERSION}: use the newer program",
                reader.path.display()
            )));
        }
        Ok(Some(reader))
    }

    fn damaged(&self, at: u64, what: &str) -> EngineError {
        EngineError::Checkpoint(format!("{} is damaged at byte {at}: {what}", self.path.display()))
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

    /// Goes to the next entry.
    pub fn advance(&mut self) -> Result<(), EngineError> {
        self.entry = None;
        if self.next >= self.block.len() {
            if self.at >= self.end {
                return Ok(());
            }
            self.load()?;
        }
        let at = self.at;
        let number = |from: usize| -> Option<u32> {
            let bytes: [u8; 4] = self.block.get(from..from + 4)?.try_into().ok()?;
            Some(u32::from_le_bytes(bytes))
        };
        let (Some(key), Some(value)) = (number(self.next), number(self.next + 4)) else {
            return Err(self.damaged(at, "an entry is cut off"));
        };
        let key = self.next + 8..self.next + 8 + key as usize;
        let value_end = key.end + if value == REMOVED { 0 } else { value as usize };
        if value_end > self.block.len() {
            return Err(self.damaged(at, "an entry is cut off"));
        }
        let value = (value != REMOVED).then_some(key.end..value_end);
        self.next = value_end;
        self.entry = Some((key, value));
        Ok(())
    }

    fn load(&mut self) -> Result<(), EngineError> {
        let mut header = [0; BLOCK_HEADER_BYTES];
        self.fill(self.at, &mut header)?;
        let number =
            |from: usize| u32::from_le_bytes([header[from], header[from + 1], header[from + 2], header[from + 3]]);
        let (stored, raw) = (number(0), number(4));
        let mut sum = [0; 8];
        sum.copy_from_slice(&header[8..]);
        if stored > BLOCK_BYTES_MAX || raw > BLOCK_BYTES_MAX {
            return Err(self.damaged(self.at, "a block has an impossible length"));
        }
        let mut bytes = vec![0; stored as usize];
        self.fill(self.at + BLOCK_HEADER_BYTES as u64, &mut bytes)?;
        if xxh3_64(&bytes) != u64::from_le_bytes(sum) {
            return Err(self.damaged(self.at, "a block is not what was written"));
        }
        self.block = lz4_flex::block::decompress(&bytes, raw as usize)
            .map_err(|_| self.damaged(self.at, "a block cannot be decompressed"))?;
        self.next = 0;
        self.at += (BLOCK_HEADER_BYTES + bytes.len()) as u64;
        Ok(())
    }

    /// The present key; None at the end.
    pub fn key(&self) -> Option<&[u8]> {
        self.entry.as_ref().map(|(key, _)| &self.block[key.clone()])
    }

    /// The present value; None for a removal.
    pub fn value(&self) -> Option<&[u8]> {
        self.entry.as_ref()?.1.clone().map(|value| &self.block[value])
    }
}
