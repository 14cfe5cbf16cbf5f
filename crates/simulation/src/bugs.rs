//! Bugs that can be planted, to show that a run finds them: in the storage, in the driver, in the lake or in a sink. The
//! product's own code is the same with all of them.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use weir_environment::{AppendFile, Entry, Lock, ReadFile, Simulator, Storage};

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Bug {
    /// Clients are answered when their records are queued, before they are written and synced.
    AcknowledgedBeforeSync,
    /// Syncing a topic's segment does nothing.
    TopicNotSynced,
    /// Syncing the epoch journal does nothing: an epoch is reported before it is durable.
    CommitNotSynced,
    /// Of an epoch in the journal, a crash may leave the commit record without the frames before it.
    CommitBeforeFrames,
    /// Syncing a folder does nothing: names are not durable.
    FolderNotSynced,
    /// Truncating does nothing.
    TruncateIgnored,
    /// A checkpoint's manifest names runs that were never synced.
    CheckpointNotSynced,
    /// Appends to the ledger's file get lost now and then.
    LedgerEntryLost,
    /// A checkpoint is written though the lake does not have its epoch yet.
    CheckpointBeforeLanding,
    /// The log is freed up to what was read ahead, which no epoch has taken yet.
    LogFreedTooFar,
    /// The journal is freed when a checkpoint is taken, before it is written.
    JournalFreedTooEarly,
    /// A start forgets that part of a poll was taken already.
    SkipForgotten,
    /// A start reads on from where an input is at the end, not from the commit record's cursor.
    CursorBeforeData,
    /// A landing is reported before it is durable.
    LandingNotDurable,
    /// What a landing that did not end left in a table stays when it is repeated.
    LeftoversKept,
    /// The lake merges changes that a reader has pinned, or a sink has not seen.
    MergedUnderReader,
    /// A sink's epoch is committed before its rows.
    SinkCursorFirst,
    /// A sink's rows are committed before its epoch, so that changes are applied twice.
    SinkCursorLast,
    /// A reader pins an epoch for each relation that it reads.
    ReaderMixesEpochs,
}

impl Bug {
    /// All of them.
    pub const ALL: [Bug; 19] = [
        Self::AcknowledgedBeforeSync,
        Self::TopicNotSynced,
        Self::CommitNotSynced,
        Self::CommitBeforeFrames,
        Self::FolderNotSynced,
        Self::TruncateIgnored,
        Self::CheckpointNotSynced,
        Self::LedgerEntryLost,
        Self::CheckpointBeforeLanding,
        Self::LogFreedTooFar,
        Self::JournalFreedTooEarly,
        Self::SkipForgotten,
        Self::CursorBeforeData,
        Self::LandingNotDurable,
        Self::LeftoversKept,
        Self::MergedUnderReader,
        Self::SinkCursorFirst,
        Self::SinkCursorLast,
        Self::ReaderMixesEpochs,
    ];

    /// The bug of that name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|bug| bug.to_string() == name)
    }
}

impl fmt::Display for Bug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// Bytes of the epoch journal that the last sync made durable: file, from, to.
type LastSync = Arc<Mutex<Option<(PathBuf, u64, u64)>>>;

/// Storage with a bug.
#[derive(Debug)]
pub struct BuggyStorage {
    inner: Arc<dyn Storage>,
    bug: Bug,
    last_sync: LastSync,
    appends: Arc<AtomicU64>,
}

impl BuggyStorage {
    /// Puts the bug before a storage.
    pub fn new(inner: Arc<dyn Storage>, bug: Bug) -> Self {
        Self { inner, bug, last_sync: LastSync::default(), appends: Arc::default() }
    }

    /// What [`Bug::CommitBeforeFrames`] does to a disk that has crashed: the front of what was synced last is not there.
    pub fn crashed(&self, simulator: &Simulator) {
        let Some((path, from, to)) = self.last_sync.lock().take() else { return };
        let Ok(mut bytes) = simulator.environment().storage.read(&path) else { return };
        let end = (from + (to - from) / 2) as usize;
        if self.bug == Bug::CommitBeforeFrames && end <= bytes.len() {
            bytes[from as usize..end].fill(0);
            simulator.plant(&path, &bytes);
        }
    }
}

struct BuggyFile {
    inner: Box<dyn AppendFile>,
    path: PathBuf,
    bug: Bug,
    last_sync: LastSync,
    synced_to: u64,
    appends: Arc<AtomicU64>,
}

impl BuggyFile {
    fn is(&self, suffix: &str) -> bool {
        self.path.extension().is_some_and(|extension| extension == suffix)
    }

    fn is_in(&self, folder: &str) -> bool {
        self.path.parent().is_some_and(|parent| parent.ends_with(folder))
    }
}

impl AppendFile for BuggyFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.bug == Bug::LedgerEntryLost
            && self.is_in("ledger")
            && !self.inner.is_empty()
            && self.appends.fetch_add(1, Ordering::Relaxed) % 5 == 4
        {
            return Ok(());
        }
        self.inner.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        match self.bug {
            Bug::TopicNotSynced if self.is("topic") && self.synced_to > 0 => return Ok(()),
            Bug::CommitNotSynced if self.is("epochs") && self.synced_to > 0 => return Ok(()),
            Bug::CheckpointNotSynced if self.is_in("checkpoints") && !self.is("tmp") => return Ok(()),
            _ => {}
        }
        self.inner.sync()?;
        if self.is("epochs") && self.inner.len() > self.synced_to && self.synced_to > 0 {
            *self.last_sync.lock() = Some((self.path.clone(), self.synced_to, self.inner.len()));
        }
        self.synced_to = self.inner.len();
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        if self.bug == Bug::TruncateIgnored {
            return Ok(());
        }
        self.inner.truncate(len)
    }

    fn len(&self) -> u64 {
        self.inner.len()
    }
}

impl Storage for BuggyStorage {
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        let inner = self.inner.open_append(path)?;
        let synced_to = inner.len();
        let (last_sync, appends) = (self.last_sync.clone(), self.appends.clone());
        Ok(Box::new(BuggyFile { inner, path: path.to_path_buf(), bug: self.bug, last_sync, synced_to, appends }))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        self.inner.open_read(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.inner.list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        if self.bug == Bug::FolderNotSynced { Ok(()) } else { self.inner.sync_dir(path) }
    }

    fn exists(&self, path: &Path) -> bool {
        self.inner.exists(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.inner.lock(path)
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        self.inner.available_bytes(path)
    }
}
