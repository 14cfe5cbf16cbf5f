//! The outside world behind traits: clock, randomness, storage and threads.
//!
//! Everything below the connectors reaches the machine only through an [`Environment`], so that a
//! simulation can replace all of it and replay a run from one seed. This crate knows nothing else of Weir.

mod allocator;
pub mod mirror;
mod real;
mod simulated;
mod workers;

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub use allocator::keep_freed_memory;
pub use simulated::{Fault, Operation, Simulator};
pub use workers::Workers;

/// Microseconds since 1970-01-01T00:00:00Z, the unit of every instant in Weir.
pub type Micros = i64;

/// Reads time.
pub trait Clock: Send + Sync + fmt::Debug {
    /// Wall-clock time. May jump, also backwards.
    fn now(&self) -> Micros;
    /// Time since some fixed start; never goes backwards.
    fn elapsed(&self) -> Duration;
}

/// Draws random numbers (never for secrets).
pub trait Random: Send + Sync + fmt::Debug {
    /// A uniformly distributed number.
    fn next_u64(&self) -> u64;
}

/// One name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// File name without its folder.
    pub name: String,
    /// Length in bytes; 0 for folders.
    pub len: u64,
    /// Whether it is a folder.
    pub is_dir: bool,
}

/// A file that only grows at its end (or is truncated by recovery).
pub trait AppendFile: Send {
    /// Appends all of `bytes`. After an error the file's end is unknown until reopened.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Returns when everything appended so far survives a crash of the machine (`fdatasync`).
    fn sync(&mut self) -> io::Result<()>;
    /// Cuts the file to `len` bytes.
    fn truncate(&mut self, len: u64) -> io::Result<()>;
    /// Present length in bytes.
    fn len(&self) -> u64;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A file read at positions.
pub trait ReadFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes at `offset`; returns how many (0 at the end). May read short.
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize>;
    /// Present length in bytes.
    fn len(&self) -> io::Result<u64>;
    /// Whether the file has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
}

/// An exclusive lock on a folder, held until dropped or the process ends.
pub trait Lock: Send + Sync + fmt::Debug {}

/// A file system. Paths are absolute or relative to the process.
pub trait Storage: Send + Sync + fmt::Debug {
    /// Opens for appending, creating the file (and no folder) when it is missing.
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn AppendFile>>;
    /// Opens for reading.
    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadFile>>;
    /// Creates a folder and its parents, durably.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// What a folder holds, sorted by name.
    fn list(&self, path: &Path) -> io::Result<Vec<Entry>>;
    /// Renames atomically within one file system; durable after [`Storage::sync_dir`] of the folder.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file.
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a folder and all in it.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes creations, renames and removals in a folder durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Whether the path names anything.
    fn exists(&self, path: &Path) -> bool;
    /// Takes the lock file at `path`, or fails with `WouldBlock` when another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>>;
    /// Bytes that can still be written on the file system that holds `path`.
    fn available_bytes(&self, path: &Path) -> io::Result<u64>;

    /// The whole file.
    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let file = self.open_read(path)?;
        let mut bytes = vec![0; file.len()? as usize];
        let mut filled = 0;
        while filled < bytes.len() {
            match file.read_at(filled as u64, &mut bytes[filled..])? {
                0 => break,
                count => filled += count,
            }
        }
        bytes.truncate(filled);
        Ok(bytes)
    }

    /// Replaces a file so that after a crash it is wholly old or wholly new; durable on return.
    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let folder = path.parent().map(Path::to_path_buf).unwrap_or_else(|| PathBuf::from("."));
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let temporary = folder.join(format!(".{name}.tmp"));
        if self.exists(&temporary) {
            self.remove_file(&temporary)?;
        }
        let mut file = self.open_append(&temporary)?;
        file.append(bytes)?;
        file.sync()?;
        drop(file);
        self.rename(&temporary, path)?;
        self.sync_dir(&folder)
    }
}

/// Starts threads.
pub trait Spawn: Send + Sync + fmt::Debug {
    /// Runs `work` on a thread of its own.
    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> Box<dyn Joined>;
}

/// A started thread.
pub trait Joined: Send + Sync {
    /// Waits until the work has returned; false when it panicked.
    fn join(self: Box<Self>) -> bool;
}

/// All of it together; cheap to clone.
#[derive(Debug, Clone)]
pub struct Environment {
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// Files.
    pub storage: Arc<dyn Storage>,
    /// Threads that do one thing each.
    pub spawn: Arc<dyn Spawn>,
    /// Threads that share one computation.
    pub workers: Workers,
}

impl Environment {
    /// The machine itself: system clock, operating system's randomness, local files, threads.
    pub fn real() -> Self {
        real::environment()
    }

    /// A world in memory that forgets what was not synced when it crashes, and fails when it is told to. The
    /// [`Simulator`] steers it; equal seeds give equal worlds.
    pub fn simulated(seed: u64) -> (Self, Simulator) {
        let simulator = Simulator::new(seed);
        (simulator.environment(), simulator)
    }
}
