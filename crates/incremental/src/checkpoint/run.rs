//! A run: one immutable file of sorted keys and values, in checksummed and compressed blocks.
//!
//! Layout, little endian: the magic `WEIRCKPT`, a u32 version, a random u64 that the manifest has too (so that no other run
//! passes for this one; files of version 2 have none); then one section a state: its data blocks, an index block, a
//! filter block. The manifest says where each begins. A block: u32 length of the stored bytes, u32 length before
//! compression, u64 xxh3 of the stored bytes, the stored bytes (LZ4).
//!
//! - A data block holds entries: u32 key length, u32 length of the key's part that it is looked up by, u32 value length
//!   (2^32-1: a removal), key, value.
//! - The index block holds for each data block: u64 where it begins, u32 length of a separator, the separator, which is
//!   greater than all keys before the block and not greater than its first.
//! - The filter block is a [`Filter`] of the parts that keys are looked up by.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use weir_environment::{AppendFile, Environment, Workers};
use xxhash_rust::xxh3::xxh3_64;

use super::failed;
use super::filter::Filter;
use crate::operators::{EngineError, StateKey};

pub(super) const MAGIC: &[u8; 8] = b"WEIRCKPT";
pub(super) const VERSION: u32 = 3;
/// The oldest version that is read: its files do not say which run they are.
pub(super) const VERSION_MIN: u32 = 2;
pub(super) const HEADER_BYTES: u64 = 20;
pub(super) const BLOCK_HEADER_BYTES: usize = 16;
/// Small, because a lookup of one key reads and unpacks one whole block.
const BLOCK_BYTES: usize = 8 << 10;
/// So many blocks are compressed side by side and written as one.
const BLOCKS_AT_ONCE: usize = 128;
pub(super) const REMOVED: u32 = u32::MAX;
pub(super) const ENTRY_HEADER_BYTES: usize = 12;

/// What the manifest says of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct RunInfo {
    pub file: String,
    pub bytes: u64,
    /// What the file's header says too; 0 for a file of version 2.
    #[serde(default)]
    pub identity: u64,
    pub states: Vec<Section>,
}

impl RunInfo {
    /// The part of the run that belongs to a state.
    pub fn section(&self, state: &str) -> Option<&Section> {
        self.states.iter().find(|s| s.id == state)
    }
}

/// The part of a run that belongs to one state.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Section {
    pub id: String,
    /// Where data blocks begin.
    pub start: u64,
    /// Where they end and the index block begins.
    pub end: u64,
    /// Where the filter block begins.
    pub filter: u64,
    pub entries: u64,
}

pub(super) struct RunWriter {
    path: PathBuf,
    name: String,
    identity: u64,
    file: Box<dyn AppendFile>,
    states: Vec<Section>,
    block: Vec<u8>,
    /// What separates the block from those before.
    separator: Vec<u8>,
    /// Blocks that are full, with their separators.
    full: Vec<(Vec<u8>, Vec<u8>)>,
    workers: Workers,
    at: u64,
    index: Vec<u8>,
    filter: Filter,
    last_key: Vec<u8>,
    last_prefix: usize,
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
        let identity = environment.random.next_u64().max(1);
        header.extend_from_slice(&identity.to_le_bytes());
        file.append(&header).map_err(|e| failed("write", &path, &e))?;
        Ok(Self {
            path,
            name,
            identity,
            file,
            states: Vec::new(),
            block: Vec::new(),
            separator: Vec::new(),
            full: Vec::new(),
            workers: environment.workers.clone(),
            at: HEADER_BYTES,
            index: Vec::new(),
            filter: Filter::for_keys(0),
            last_key: Vec::new(),
            last_prefix: 0,
        })
    }

    /// Begins the section of a state, of at most so many entries. States come in order.
    pub fn begin(&mut self, state: &str, entries_max: usize) -> Result<(), EngineError> {
        self.end_section()?;
        self.filter = Filter::for_keys(entries_max);
        self.states.push(Section { id: state.to_owned(), start: self.at, end: self.at, filter: self.at, entries: 0 });
        Ok(())
    }

    /// Adds an entry to the section; keys come in order, each once.
    pub fn put(&mut self, key: StateKey<'_>, value: Option<&[u8]>) -> Result<(), EngineError> {
        let Some(section) = self.states.last_mut() else {
            return Err(EngineError::Internal("an entry of no state".into()));
        };
        let first = section.entries == 0;
        section.entries += 1;
        if self.block.is_empty() {
            let shared = self.last_key.iter().zip(key.bytes).take_while(|(a, b)| a == b).count();
            let separator = if first { &[] } else { &key.bytes[..(shared + 1).min(key.bytes.len())] };
            self.separator = separator.to_vec();
        }
        let looked_up = &key.bytes[..key.prefix];
        if first || self.last_key.get(..self.last_prefix) != Some(looked_up) {
            self.filter.insert(xxh3_64(looked_up));
        }
        self.last_key.clear();
        self.last_key.extend_from_slice(key.bytes);
        self.last_prefix = key.prefix;
        self.block.extend_from_slice(&(key.bytes.len() as u32).to_le_bytes());
        self.block.extend_from_slice(&(key.prefix as u32).to_le_bytes());
        self.block.extend_from_slice(&value.map_or(REMOVED, |v| v.len() as u32).to_le_bytes());
        self.block.extend_from_slice(key.bytes);
        self.block.extend_from_slice(value.unwrap_or_default());
        if self.block.len() < BLOCK_BYTES {
            return Ok(());
        }
        self.end_block();
        if self.full.len() < BLOCKS_AT_ONCE { Ok(()) } else { self.flush() }
    }

    fn end_block(&mut self) {
        if !self.block.is_empty() {
            let next = Vec::with_capacity(self.block.len());
            self.full.push((std::mem::take(&mut self.separator), std::mem::replace(&mut self.block, next)));
        }
    }

    /// Compresses the full blocks, side by side, and writes them.
    fn flush(&mut self) -> Result<(), EngineError> {
        if self.full.is_empty() {
            return Ok(());
        }
        let stored =
            self.workers.each(std::mem::take(&mut self.full), |(separator, block)| (separator, stored(&block)));
        let mut bytes = Vec::with_capacity(stored.iter().map(|(_, stored)| stored.len()).sum());
        for (separator, stored) in stored {
            self.index.extend_from_slice(&(self.at + bytes.len() as u64).to_le_bytes());
            self.index.extend_from_slice(&(separator.len() as u32).to_le_bytes());
            self.index.extend_from_slice(&separator);
            bytes.extend_from_slice(&stored);
        }
        self.append(&bytes)
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), EngineError> {
        self.file.append(bytes).map_err(|e| failed("write", &self.path, &e))?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn end_section(&mut self) -> Result<(), EngineError> {
        self.end_block();
        self.flush()?;
        let (end, index) = (self.at, std::mem::take(&mut self.index));
        let Some(section) = self.states.last_mut() else { return Ok(()) };
        section.end = end;
        if section.entries == 0 {
            self.states.pop();
            return Ok(());
        }
        self.append(&stored(&index))?;
        let filter = self.at;
        if let Some(section) = self.states.last_mut() {
            section.filter = filter;
        }
        let bits = self.filter.encode();
        self.append(&stored(&bits))
    }

    /// Makes the run durable (its name is, with the next sync of the folder).
    pub fn finish(mut self) -> Result<RunInfo, EngineError> {
        self.end_section()?;
        self.file.sync().map_err(|e| failed("sync", &self.path, &e))?;
        Ok(RunInfo { file: self.name, bytes: self.at, identity: self.identity, states: self.states })
    }
}

/// A block as it is stored.
fn stored(block: &[u8]) -> Vec<u8> {
    let stored = lz4_flex::block::compress(block);
    let mut bytes = Vec::with_capacity(BLOCK_HEADER_BYTES + stored.len());
    bytes.extend_from_slice(&(stored.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&(block.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&xxh3_64(&stored).to_le_bytes());
    bytes.extend_from_slice(&stored);
    bytes
}
