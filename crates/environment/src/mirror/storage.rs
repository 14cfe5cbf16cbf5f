//! The storage that a mirrored pipeline writes to: the disk itself, with everything that matters noted for the mirror.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::operation::{Lane, Operation};
use super::target::{InMemory, files_below};
use super::{Keeping, Shared};
use crate::{AppendFile, Entry, Lock, ReadFile, Storage};

/// A disk whose mirrored folders are followed.
#[derive(Debug)]
pub(super) struct MirroredStorage {
    pub(super) shared: Arc<Shared>,
}

impl MirroredStorage {
    fn inner(&self) -> &dyn Storage {
        &*self.shared.storage
    }

    /// The lane and the name in the mirror of a file that is followed.
    fn place(&self, path: &Path) -> Option<(Keeping, String)> {
        self.shared.locate(path).filter(|(keeping, _)| *keeping != Keeping::Settled)
    }
}

impl Keeping {
    fn lane(self) -> Lane {
        match self {
            Self::Acknowledged | Self::Growing => Lane::Log,
            Self::Whole | Self::Settled => Lane::Bulk,
        }
    }
}

impl Storage for MirroredStorage {
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        let file = self.inner().open_append(path)?;
        Ok(match self.place(path) {
            None => file,
            Some((Keeping::Whole | Keeping::Settled, name)) => {
                let written = Arc::from(self.inner().open_read(path)?);
                Box::new(WholeFile { file, written, shared: self.shared.clone(), name, changed: false })
            }
            Some((keeping, name)) => {
                // Nobody waits for a draft: what it replaces is there until it is whole.
                let waits = keeping == Keeping::Acknowledged && self.shared.order_of(path).is_some();
                Box::new(GrowingFile {
                    file,
                    shared: self.shared.clone(),
                    name,
                    waits,
                    unshipped: None,
                    changed: false,
                })
            }
        })
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        self.inner().open_read(path)
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner().create_dir_all(path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        self.inner().list(path)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner().rename(from, to)?;
        if let (Some((keeping, from)), Some((_, to))) = (self.place(from), self.place(to)) {
            self.shared.push(keeping.lane(), Operation::Rename { from, to });
        }
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner().remove_file(path)?;
        if let Some((keeping, name)) = self.place(path) {
            self.shared.push(keeping.lane(), Operation::Remove { name });
        }
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let files = match self.place(path) {
            Some(_) => files_below(self.inner(), path)?,
            None => Vec::new(),
        };
        self.inner().remove_dir_all(path)?;
        for (file, _) in files {
            if let Some((keeping, name)) = self.place(&path.join(file)) {
                self.shared.push(keeping.lane(), Operation::Remove { name });
            }
        }
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner().sync_dir(path)
    }

    fn exists(&self, path: &Path) -> bool {
        self.inner().exists(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.inner().lock(path)
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        self.inner().available_bytes(path)
    }

    fn write_atomic(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        self.inner().write_atomic(path, bytes)?;
        if let Some((keeping, name)) = self.place(path) {
            let content = Arc::new(InMemory(bytes.into()));
            self.shared.push(keeping.lane(), Operation::Put { name, content, len: bytes.len() as u64 });
        }
        Ok(())
    }
}

/// A file that is shipped as it grows.
struct GrowingFile {
    file: Box<dyn AppendFile>,
    shared: Arc<Shared>,
    name: String,
    /// Whether somebody waits for an answer until its bytes are durable.
    waits: bool,
    /// The last operation that brought bytes and was not waited for.
    unshipped: Option<u64>,
    /// Whether it changed since the last sync.
    changed: bool,
}

impl AppendFile for GrowingFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.waits {
            self.shared.admit()?;
        }
        let at = self.file.len();
        self.file.append(bytes)?;
        let append = Operation::Append { name: self.name.clone(), at, bytes: bytes.into() };
        self.unshipped = Some(self.shared.push(Lane::Log, append));
        self.changed = true;
        Ok(())
    }

    /// Waits for the mirror where that was asked for, but never on account of a truncation alone: bytes that the mirror
    /// still has behind it were never acknowledged, and it will cut them before it takes others.
    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        if std::mem::take(&mut self.changed) {
            self.shared.push(Lane::Log, Operation::Sync { name: self.name.clone() });
        }
        if let Some(operation) = self.unshipped
            && self.waits
        {
            self.shared.wait_for_acknowledged(operation)?;
        }
        self.unshipped = None;
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.truncate(len)?;
        self.shared.push(Lane::Log, Operation::Truncate { name: self.name.clone(), len });
        self.changed = true;
        Ok(())
    }

    fn len(&self) -> u64 {
        self.file.len()
    }
}

/// A file that is shipped when it is whole.
struct WholeFile {
    file: Box<dyn AppendFile>,
    /// The same file, so that it can be copied even when it has lost its name by then.
    written: Arc<dyn ReadFile>,
    shared: Arc<Shared>,
    name: String,
    changed: bool,
}

impl AppendFile for WholeFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.changed = true;
        self.file.append(bytes)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync()?;
        if std::mem::take(&mut self.changed) {
            let (content, len) = (self.written.clone(), self.file.len());
            self.shared.push(Lane::Bulk, Operation::Put { name: self.name.clone(), content, len });
        }
        Ok(())
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.changed = true;
        self.file.truncate(len)
    }

    fn len(&self) -> u64 {
        self.file.len()
    }
}
