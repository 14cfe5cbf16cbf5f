//! The storage traits over a simulated disk, each handle bound to the start of the machine it was opened at.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use super::files::{Disk, FileId};
use crate::{AppendFile, Entry, Lock, ReadFile, Storage};

#[derive(Debug)]
pub(super) struct SimulatedStorage {
    disk: Arc<Mutex<Disk>>,
    boot: u64,
}

impl SimulatedStorage {
    pub(super) fn new(disk: Arc<Mutex<Disk>>, boot: u64) -> Self {
        Self { disk, boot }
    }
}

impl Storage for SimulatedStorage {
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        let mut disk = self.disk.lock();
        let file = disk.open_append(self.boot, path)?;
        let len = disk.len(self.boot, file)?;
        Ok(Box::new(SimulatedAppend { disk: self.disk.clone(), boot: self.boot, file, len }))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        let file = self.disk.lock().open_read(self.boot, path)?;
        Ok(Box::new(SimulatedRead { disk: self.disk.clone(), boot: self.boot, file }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.lock().create_dir_all(self.boot, path)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let entries = self.disk.lock().list(self.boot, path)?;
        Ok(entries.into_iter().map(|(name, len, is_dir)| Entry { name, len, is_dir }).collect())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.lock().rename(self.boot, from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.disk.lock().remove_file(self.boot, path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.disk.lock().remove_dir_all(self.boot, path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.disk.lock().sync_dir(self.boot, path)
    }

    fn exists(&self, path: &Path) -> bool {
        self.disk.lock().exists(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        self.disk.lock().lock(self.boot, path)?;
        Ok(Box::new(SimulatedLock { disk: self.disk.clone(), boot: self.boot, path: path.to_path_buf() }))
    }

    fn available_bytes(&self, _path: &Path) -> io::Result<u64> {
        self.disk.lock().available_bytes(self.boot)
    }
}

struct SimulatedAppend {
    disk: Arc<Mutex<Disk>>,
    boot: u64,
    file: FileId,
    len: u64,
}

impl AppendFile for SimulatedAppend {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.disk.lock().append(self.boot, self.file, bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.disk.lock().sync(self.boot, self.file)
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.disk.lock().truncate(self.boot, self.file, len)?;
        self.len = len;
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }
}

struct SimulatedRead {
    disk: Arc<Mutex<Disk>>,
    boot: u64,
    file: FileId,
}

impl ReadFile for SimulatedRead {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.disk.lock().read_at(self.boot, self.file, offset, buffer)
    }

    fn len(&self) -> io::Result<u64> {
        self.disk.lock().len(self.boot, self.file)
    }
}

#[derive(Debug)]
struct SimulatedLock {
    disk: Arc<Mutex<Disk>>,
    boot: u64,
    path: PathBuf,
}

impl Drop for SimulatedLock {
    fn drop(&mut self) {
        self.disk.lock().unlock(self.boot, &self.path);
    }
}

impl Lock for SimulatedLock {}
