//! Where a mirror is kept, and the simplest such place: another folder, on another disk.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::{AppendFile, ReadFile, Storage};

/// Bytes that are copied at once.
const COPY_BYTES: usize = 1 << 20;

/// A place that holds copies of files under names like `log/clicks/00000000000000000000.topic`.
///
/// - MUST: what an operation did is durable after the next [`MirrorTarget::flush`] that succeeds, and after a `put`,
///   `rename` or `remove` that succeeds, at once.
/// - MUST: an operation that failed may be given again, and then has the same effect as if it were the first time.
/// - MUST: a file that was `put` is seen wholly or not at all.
pub trait MirrorTarget: Send + Sync + fmt::Debug {
    /// Where it is, for people.
    fn place(&self) -> String;
    /// Makes `bytes` the end of a file, behind its first `at` bytes; what followed these is gone. Creates the file when
    /// `at` is 0.
    fn append(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// Cuts a file to `len` bytes. One that is missing has none.
    fn truncate(&self, name: &str, len: u64) -> io::Result<()>;
    /// Returns when all appends and truncations so far are durable.
    fn flush(&self) -> io::Result<()>;
    /// Replaces a file by the first `len` bytes of `content`.
    fn put(&self, name: &str, content: &dyn ReadFile, len: u64) -> io::Result<()>;
    /// Renames a file over another. Done already when only the other is there.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file. Done already when it is not there.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Names and lengths of all files whose names begin with `folder/` (all there are, when it is empty), sorted.
    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>>;
    /// Opens a file for reading.
    fn open_read(&self, name: &str) -> io::Result<Arc<dyn ReadFile>>;
}

/// Bytes in memory, read as a file.
#[derive(Debug, Clone)]
pub struct InMemory(pub Arc<[u8]>);

impl ReadFile for InMemory {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let rest = self.0.get(usize::try_from(offset).unwrap_or(usize::MAX)..).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.len() as u64)
    }
}

/// Calls `take` with the first `len` bytes of a file, piece by piece.
pub(super) fn each_piece(
    file: &dyn ReadFile,
    len: u64,
    take: &mut dyn FnMut(&[u8]) -> io::Result<bool>,
) -> io::Result<()> {
    let mut buffer = vec![0; COPY_BYTES.min(usize::try_from(len).unwrap_or(COPY_BYTES))];
    let mut at = 0;
    while at < len {
        let wanted = buffer.len().min((len - at) as usize);
        let filled = read_full(file, at, &mut buffer[..wanted])?;
        if filled < wanted {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read"));
        }
        if !take(&buffer[..wanted])? {
            return Ok(());
        }
        at += wanted as u64;
    }
    Ok(())
}

/// Reads until the buffer is full or the file ends; returns how many bytes.
pub(super) fn read_full(file: &dyn ReadFile, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(offset + filled as u64, &mut buffer[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    Ok(filled)
}

/// All files below a folder, with their lengths: names from the folder on, sorted; none when it is missing. The names
/// in a folder are read after all that is below it.
pub(super) fn files_below(storage: &dyn Storage, folder: &Path) -> io::Result<Vec<(String, u64)>> {
    fn walk(storage: &dyn Storage, folder: &Path, prefix: &str, found: &mut Vec<(String, u64)>) -> io::Result<()> {
        let entries = match storage.list(folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let mut has_folders = false;
        for entry in entries.iter().filter(|entry| entry.is_dir) {
            has_folders = true;
            walk(storage, &folder.join(&entry.name), &format!("{prefix}{}/", entry.name), found)?;
        }
        let entries = if has_folders { storage.list(folder)? } else { entries };
        found.extend(entries.into_iter().filter(|e| !e.is_dir).map(|e| (format!("{prefix}{}", e.name), e.len)));
        Ok(())
    }
    let mut found = Vec::new();
    walk(storage, folder, "", &mut found)?;
    found.sort();
    Ok(found)
}

/// A mirror in a folder: the same files under the same names, so that any tool can look at them.
pub struct FolderTarget {
    storage: Arc<dyn Storage>,
    root: PathBuf,
    open: Mutex<Open>,
}

/// Files that grow, and what of them is not durable yet.
#[derive(Default)]
struct Open {
    files: HashMap<String, Box<dyn AppendFile>>,
    unsynced: BTreeSet<String>,
    folders: BTreeSet<PathBuf>,
}

/// Files are kept open up to so many.
const FILES_OPEN_MAX: usize = 64;
/// How the copy is named that will take a file's name when it is whole.
const PART_SUFFIX: &str = ".part";

impl fmt::Debug for FolderTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("FolderTarget").field("root", &self.root).finish_non_exhaustive()
    }
}

impl FolderTarget {
    /// A mirror in `root`, which is made when it is first written to.
    pub fn new(storage: Arc<dyn Storage>, root: impl Into<PathBuf>) -> Self {
        Self { storage, root: root.into(), open: Mutex::default() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn parent(&self, name: &str) -> PathBuf {
        self.path(name).parent().map_or_else(|| self.root.clone(), Path::to_path_buf)
    }

    fn missing(&self, name: &str, what: &str) -> io::Error {
        io::Error::new(io::ErrorKind::InvalidData, format!("{}: {what}", self.path(name).display()))
    }

    fn opened<'a>(&self, open: &'a mut Open, name: &str) -> io::Result<&'a mut Box<dyn AppendFile>> {
        if !open.files.contains_key(name) {
            if open.files.len() >= FILES_OPEN_MAX {
                let Open { files, unsynced, .. } = open;
                files.retain(|name, _| unsynced.contains(name));
            }
            let (path, parent) = (self.path(name), self.parent(name));
            if !self.storage.exists(&path) {
                self.storage.create_dir_all(&parent)?;
                open.folders.insert(parent);
            }
            let file = self.storage.open_append(&path)?;
            open.files.insert(name.to_owned(), file);
        }
        open.files.get_mut(name).ok_or_else(|| self.missing(name, "is not open"))
    }

    /// Does something with the open files; after an error nothing is known of them, and they are opened anew.
    fn with_open(&self, act: impl FnOnce(&mut Open) -> io::Result<()>) -> io::Result<()> {
        let mut open = self.open.lock();
        let outcome = act(&mut open);
        if outcome.is_err() {
            open.files.clear();
            open.unsynced.clear();
        }
        outcome
    }
}

impl MirrorTarget for FolderTarget {
    fn place(&self) -> String {
        self.root.display().to_string()
    }

    fn append(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.with_open(|open| {
            open.unsynced.insert(name.to_owned());
            let file = self.opened(open, name)?;
            if file.len() > at {
                file.truncate(at)?;
            } else if file.len() < at {
                return Err(self.missing(name, "is shorter than it was left; somebody else has changed it"));
            }
            file.append(bytes)
        })
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        if len == 0 && !self.storage.exists(&self.path(name)) {
            return Ok(());
        }
        self.with_open(|open| {
            open.unsynced.insert(name.to_owned());
            let file = self.opened(open, name)?;
            match file.len() {
                before if before > len => file.truncate(len),
                before if before < len => Err(self.missing(name, "is shorter than it was left")),
                _ => Ok(()),
            }
        })
    }

    fn flush(&self) -> io::Result<()> {
        self.with_open(|open| {
            let Open { files, unsynced, folders } = open;
            for name in unsynced.iter() {
                if let Some(file) = files.get_mut(name) {
                    file.sync()?;
                }
            }
            for folder in folders.iter() {
                self.storage.sync_dir(folder)?;
            }
            unsynced.clear();
            folders.clear();
            Ok(())
        })
    }

    fn put(&self, name: &str, content: &dyn ReadFile, len: u64) -> io::Result<()> {
        let (path, parent) = (self.path(name), self.parent(name));
        let base = path.file_name().map(|base| base.to_string_lossy().into_owned()).unwrap_or_default();
        let part = parent.join(format!(".{base}{PART_SUFFIX}"));
        self.storage.create_dir_all(&parent)?;
        if self.storage.exists(&part) {
            self.storage.remove_file(&part)?;
        }
        let mut file = self.storage.open_append(&part)?;
        each_piece(content, len, &mut |piece| file.append(piece).map(|()| true))?;
        file.sync()?;
        drop(file);
        self.open.lock().files.remove(name);
        self.storage.rename(&part, &path)?;
        self.storage.sync_dir(&parent)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let (source, target) = (self.path(from), self.path(to));
        let mut open = self.open.lock();
        open.files.remove(from);
        open.files.remove(to);
        drop(open);
        if self.storage.exists(&source) {
            self.storage.rename(&source, &target)?;
        } else if !self.storage.exists(&target) {
            return Err(self.missing(from, "is gone; somebody else has changed the mirror"));
        }
        self.storage.sync_dir(&self.parent(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.open.lock().files.remove(name);
        match self.storage.remove_file(&self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
            Ok(()) => self.storage.sync_dir(&self.parent(name)),
        }
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let prefix = if folder.is_empty() { String::new() } else { format!("{folder}/") };
        let files = files_below(&*self.storage, &self.path(folder))?;
        let whole = files.into_iter().filter(|(name, _)| !name.ends_with(PART_SUFFIX));
        Ok(whole.map(|(name, len)| (format!("{prefix}{name}"), len)).collect())
    }

    fn open_read(&self, name: &str) -> io::Result<Arc<dyn ReadFile>> {
        Ok(self.storage.open_read(&self.path(name))?.into())
    }
}
