//! The machine itself behind the traits: system clock, local files, threads.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use crate::{AppendFile, Clock, Entry, Environment, Joined, Lock, Micros, Random, ReadFile, Spawn, Storage, Workers};

pub(crate) fn environment() -> Environment {
    Environment {
        clock: Arc::new(SystemClock { start: Instant::now() }),
        random: Arc::new(SystemRandom),
        storage: Arc::new(LocalStorage),
        spawn: Arc::new(Threads),
        workers: Workers::of_the_machine(),
    }
}

#[derive(Debug)]
struct SystemClock {
    start: Instant,
}

impl Clock for SystemClock {
    fn now(&self) -> Micros {
        match SystemTime::now().duration_since(UNIX_EPOCH) {
            Ok(since) => since.as_micros() as Micros,
            Err(before) => -(before.duration().as_micros() as Micros),
        }
    }

    fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }
}

#[derive(Debug)]
struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        rand::random()
    }
}

#[derive(Debug)]
struct LocalStorage;

impl Storage for LocalStorage {
    fn open_append(&self, path: &Path) -> io::Result<Box<dyn AppendFile>> {
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let len = file.metadata()?.len();
        Ok(Box::new(LocalAppend { file, len }))
    }

    fn open_read(&self, path: &Path) -> io::Result<Box<dyn ReadFile>> {
        Ok(Box::new(LocalRead(File::open(path)?)))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        // The nearest ancestor that exists, then downwards: each new name is synced in its parent.
        let mut missing = Vec::new();
        let mut at = path;
        while !at.as_os_str().is_empty() && !at.is_dir() {
            missing.push(at);
            match at.parent() {
                Some(parent) => at = parent,
                None => break,
            }
        }
        for folder in missing.into_iter().rev() {
            match std::fs::create_dir(folder) {
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists && folder.is_dir() => {}
                other => other?,
            }
            self.sync_dir(parent_of(folder))?;
        }
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(path)? {
            let entry = entry?;
            let metadata = match entry.metadata() {
                Ok(metadata) => metadata,
                // Removed since the folder was read.
                Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
                Err(e) => return Err(e),
            };
            let is_dir = metadata.is_dir();
            entries.push(Entry {
                name: entry.file_name().to_string_lossy().into_owned(),
                len: if is_dir { 0 } else { metadata.len() },
                is_dir,
            });
        }
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(entries)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_dir_all(path)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        File::open(path)?.sync_all()
    }

    fn exists(&self, path: &Path) -> bool {
        path.exists()
    }

    fn lock(&self, path: &Path) -> io::Result<Box<dyn Lock>> {
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(LocalLock { _file: file, path: path.to_path_buf() })),
            Err(TryLockError::WouldBlock) => {
                Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{} is locked", path.display())))
            }
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    fn available_bytes(&self, path: &Path) -> io::Result<u64> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        let stat = rustix::fs::statvfs(path)?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }
}

fn parent_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

struct LocalAppend {
    file: File,
    len: u64,
}

impl AppendFile for LocalAppend {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn truncate(&mut self, len: u64) -> io::Result<()> {
        self.file.set_len(len)?;
        self.len = len;
        Ok(())
    }

    fn len(&self) -> u64 {
        self.len
    }
}

struct LocalRead(File);

impl ReadFile for LocalRead {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.read_at(buffer, offset) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }
}

/// The operating system lets go of the lock when the file is closed, also by a process that dies.
#[derive(Debug)]
struct LocalLock {
    _file: File,
    #[allow(dead_code, reason = "shown by Debug")]
    path: PathBuf,
}

impl Lock for LocalLock {}

#[derive(Debug)]
struct Threads;

impl Spawn for Threads {
    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> Box<dyn Joined> {
        spawn_thread(name, work)
    }
}

/// Starts a thread; panics like [`std::thread::spawn`] when the operating system has no more.
pub(crate) fn spawn_thread(name: &str, work: Box<dyn FnOnce() + Send>) -> Box<dyn Joined> {
    match std::thread::Builder::new().name(name.to_owned()).spawn(work) {
        Ok(thread) => Box::new(Thread(thread)),
        Err(error) => panic!("cannot start the thread {name}: {error}"),
    }
}

struct Thread(JoinHandle<()>);

impl Joined for Thread {
    fn join(self: Box<Self>) -> bool {
        self.0.join().is_ok()
    }
}
