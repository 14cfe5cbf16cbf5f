//! Files and names of the simulated disk: what is there now, and what would be left after a crash.
//!
//! - A file's durable content is `bytes[..stable]` followed by `cut`; `pending` leads from there to `bytes`.
//! - `names` is what running programs see; `durable_names` and the changes in `name_changes` are what a crash chooses from.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::ManualClock;
use super::faults::{Fault, Faults, Operation, Verdict};

/// Loss happens by whole sectors.
const SECTOR: usize = 512;

/// Number of a file, whatever its names are.
pub(super) type FileId = u64;

#[derive(Debug)]
pub(super) struct Disk {
    /// Counts starts of the machine and of the process; what was opened at an earlier one is dead.
    boot: u64,
    down: bool,
    random: StdRng,
    /// Moves on when operations take time.
    clock: Arc<ManualClock>,
    files: HashMap<FileId, File>,
    next_file: FileId,
    names: BTreeMap<PathBuf, FileId>,
    durable_names: BTreeMap<PathBuf, FileId>,
    name_changes: Vec<NameChange>,
    folders: BTreeSet<PathBuf>,
    locks: HashSet<PathBuf>,
    pub(super) capacity: Option<u64>,
    pub(super) faults: Faults,
}

#[derive(Debug, Clone)]
enum NameChange {
    Add { path: PathBuf, file: FileId },
    Move { from: PathBuf, to: PathBuf, file: FileId },
    Remove { path: PathBuf },
}

#[derive(Debug, Default)]
struct File {
    bytes: Vec<u8>,
    /// Length of the prefix of `bytes` that is durable.
    stable: usize,
    /// Durable bytes behind `stable` that a truncation took away, not yet durably.
    cut: Vec<u8>,
    pending: Vec<Change>,
    /// Ranges of `bytes` that a failed sync may have lost: they read well until the crash.
    doomed: Vec<(usize, usize)>,
}

#[derive(Debug)]
enum Change {
    Append(Vec<u8>),
    Truncate(usize),
}

pub(super) fn down() -> io::Error {
    io::Error::other("the machine is down")
}

fn not_found(path: &Path) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, format!("{}: no such file or folder", path.display()))
}

impl Disk {
    pub(super) fn new(seed: u64, clock: Arc<ManualClock>) -> Self {
        Self {
            boot: 0,
            down: false,
            random: StdRng::seed_from_u64(seed),
            clock,
            files: HashMap::new(),
            next_file: 0,
            names: BTreeMap::new(),
            durable_names: BTreeMap::new(),
            name_changes: Vec::new(),
            folders: BTreeSet::new(),
            locks: HashSet::new(),
            capacity: None,
            faults: Faults::default(),
        }
    }

    pub(super) fn boot(&self) -> u64 {
        self.boot
    }

    pub(super) fn is_down(&self) -> bool {
        self.down
    }

    pub(super) fn used_bytes(&self) -> u64 {
        self.names.values().map(|id| self.files[id].bytes.len() as u64).sum()
    }

    fn check(&self, boot: u64) -> io::Result<()> {
        if self.down || boot != self.boot { Err(down()) } else { Ok(()) }
    }

    /// Lets an operation through. `Ok(false)`: it happens, but the machine is down before it can be reported.
    fn admit(&mut self, boot: u64, operation: Operation) -> io::Result<bool> {
        self.check(boot)?;
        self.take_time();
        match self.faults.judge(operation) {
            Verdict::Go => Ok(true),
            Verdict::Fail(error) => Err(error),
            Verdict::Down => {
                self.down = true;
                if self.random.random() { Ok(false) } else { Err(down()) }
            }
        }
    }

    fn take_time(&mut self) {
        if let Some(slow_max) = self.faults.slow_max {
            let took = self.random.random_range(0..=slow_max.as_micros() as u64);
            self.clock.advance(Duration::from_micros(took));
            self.faults.count(Fault::Slow);
        }
    }

    fn report(reported: bool) -> io::Result<()> {
        if reported { Ok(()) } else { Err(down()) }
    }

    fn has_folder(&self, path: &Path) -> bool {
        path.as_os_str().is_empty() || path == Path::new("/") || path == Path::new(".") || self.folders.contains(path)
    }

    fn parent_exists(&self, path: &Path) -> io::Result<()> {
        match path.parent() {
            Some(parent) if self.has_folder(parent) => Ok(()),
            _ => Err(not_found(path)),
        }
    }

    // Names.

    pub(super) fn open_append(&mut self, boot: u64, path: &Path) -> io::Result<FileId> {
        self.check(boot)?;
        if let Some(&file) = self.names.get(path) {
            return Ok(file);
        }
        self.parent_exists(path)?;
        let reported = self.admit(boot, Operation::Create)?;
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, File::default());
        self.names.insert(path.to_path_buf(), file);
        self.name_changes.push(NameChange::Add { path: path.to_path_buf(), file });
        Self::report(reported)?;
        Ok(file)
    }

    pub(super) fn open_read(&mut self, boot: u64, path: &Path) -> io::Result<FileId> {
        self.admit(boot, Operation::Read)?;
        self.names.get(path).copied().ok_or_else(|| not_found(path))
    }

    pub(super) fn create_dir_all(&mut self, boot: u64, path: &Path) -> io::Result<()> {
        self.check(boot)?;
        if self.has_folder(path) {
            return Ok(());
        }
        let reported = self.admit(boot, Operation::CreateFolder)?;
        for folder in path.ancestors() {
            if !self.has_folder(folder) {
                self.folders.insert(folder.to_path_buf());
            }
        }
        Self::report(reported)
    }

    /// Names directly in a folder: (name, length, whether it is a folder).
    pub(super) fn list(&mut self, boot: u64, path: &Path) -> io::Result<Vec<(String, u64, bool)>> {
        self.admit(boot, Operation::Read)?;
        if !self.has_folder(path) {
            return Err(not_found(path));
        }
        let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let inside = |p: &Path| p.parent() == Some(path);
        let files = self.names.iter().filter(|(p, _)| inside(p));
        let mut entries: Vec<_> = files.map(|(p, id)| (name(p), self.files[id].bytes.len() as u64, false)).collect();
        entries.extend(self.folders.iter().filter(|p| inside(p)).map(|p| (name(p), 0, true)));
        entries.sort();
        Ok(entries)
    }

    pub(super) fn rename(&mut self, boot: u64, from: &Path, to: &Path) -> io::Result<()> {
        self.check(boot)?;
        let &file = self.names.get(from).ok_or_else(|| not_found(from))?;
        self.parent_exists(to)?;
        let reported = self.admit(boot, Operation::Rename)?;
        let change = NameChange::Move { from: from.to_path_buf(), to: to.to_path_buf(), file };
        change.apply(&mut self.names);
        self.name_changes.push(change);
        Self::report(reported)
    }

    pub(super) fn remove_file(&mut self, boot: u64, path: &Path) -> io::Result<()> {
        self.check(boot)?;
        if !self.names.contains_key(path) {
            return Err(not_found(path));
        }
        let reported = self.admit(boot, Operation::Remove)?;
        self.names.remove(path);
        self.name_changes.push(NameChange::Remove { path: path.to_path_buf() });
        Self::report(reported)
    }

    pub(super) fn remove_dir_all(&mut self, boot: u64, path: &Path) -> io::Result<()> {
        self.check(boot)?;
        if !self.has_folder(path) {
            return Err(not_found(path));
        }
        let reported = self.admit(boot, Operation::Remove)?;
        let inside: Vec<PathBuf> = self.names.keys().filter(|p| p.starts_with(path)).cloned().collect();
        for path in inside {
            self.names.remove(&path);
            self.name_changes.push(NameChange::Remove { path });
        }
        self.folders.retain(|folder| !folder.starts_with(path));
        Self::report(reported)
    }

    pub(super) fn sync_dir(&mut self, boot: u64, path: &Path) -> io::Result<()> {
        let reported = self.admit(boot, Operation::SyncFolder)?;
        if !self.has_folder(path) {
            return Err(not_found(path));
        }
        let (covered, rest) =
            std::mem::take(&mut self.name_changes).into_iter().partition(|change: &NameChange| change.is_in(path));
        self.name_changes = rest;
        let covered: Vec<NameChange> = covered;
        covered.iter().for_each(|change| change.apply(&mut self.durable_names));
        Self::report(reported)
    }

    pub(super) fn exists(&self, path: &Path) -> bool {
        self.names.contains_key(path) || self.has_folder(path)
    }

    pub(super) fn lock(&mut self, boot: u64, path: &Path) -> io::Result<()> {
        self.check(boot)?;
        self.parent_exists(path)?;
        if self.locks.insert(path.to_path_buf()) {
            Ok(())
        } else {
            Err(io::Error::new(io::ErrorKind::WouldBlock, format!("{} is locked", path.display())))
        }
    }

    pub(super) fn unlock(&mut self, boot: u64, path: &Path) {
        if boot == self.boot {
            self.locks.remove(path);
        }
    }

    pub(super) fn available_bytes(&self, boot: u64) -> io::Result<u64> {
        self.check(boot)?;
        Ok(self.capacity.map_or(1 << 40, |capacity| capacity.saturating_sub(self.used_bytes())))
    }

    // Contents.

    pub(super) fn append(&mut self, boot: u64, id: FileId, bytes: &[u8]) -> io::Result<()> {
        self.check(boot)?;
        self.take_time();
        let room = self.capacity.map_or(u64::MAX, |capacity| capacity.saturating_sub(self.used_bytes()));
        let (count, outcome) = match self.faults.judge(Operation::Append) {
            Verdict::Go if bytes.len() as u64 <= room => (bytes.len(), Ok(())),
            Verdict::Go => {
                self.faults.count(Fault::Full);
                (room as usize, Err(io::ErrorKind::StorageFull.into()))
            }
            Verdict::Fail(error) => (self.random.random_range(0..=bytes.len()), Err(error)),
            Verdict::Down => {
                self.down = true;
                (self.random.random_range(0..=bytes.len()), Err(down()))
            }
        };
        if count > 0 {
            let file = self.file(id);
            file.bytes.extend_from_slice(&bytes[..count]);
            file.pending.push(Change::Append(bytes[..count].to_vec()));
        }
        outcome
    }

    pub(super) fn sync(&mut self, boot: u64, id: FileId) -> io::Result<()> {
        match self.admit(boot, Operation::Sync) {
            Ok(reported) => {
                let file = self.file(id);
                file.stable = file.bytes.len();
                file.cut.clear();
                file.pending.clear();
                Self::report(reported)
            }
            Err(error) => {
                if !self.down && self.check(boot).is_ok() && self.random.random() {
                    let file = self.file(id);
                    file.doomed.push((file.stable, file.bytes.len()));
                }
                Err(error)
            }
        }
    }

    pub(super) fn truncate(&mut self, boot: u64, id: FileId, len: u64) -> io::Result<()> {
        let reported = self.admit(boot, Operation::Truncate)?;
        let file = self.file(id);
        let len = (len as usize).min(file.bytes.len());
        if len < file.stable {
            let mut cut = file.bytes[len..file.stable].to_vec();
            cut.append(&mut file.cut);
            file.cut = cut;
            file.stable = len;
        }
        file.bytes.truncate(len);
        file.pending.push(Change::Truncate(len));
        file.doomed.retain_mut(|(from, to)| {
            *to = (*to).min(len);
            from < to
        });
        Self::report(reported)
    }

    pub(super) fn len(&mut self, boot: u64, id: FileId) -> io::Result<u64> {
        self.check(boot)?;
        Ok(self.file(id).bytes.len() as u64)
    }

    pub(super) fn read_at(&mut self, boot: u64, id: FileId, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.admit(boot, Operation::Read)?;
        let bytes = &self.files.entry(id).or_default().bytes;
        let start = (offset as usize).min(bytes.len());
        let mut count = buffer.len().min(bytes.len() - start);
        if let Some(every) = self.faults.short_read_every
            && count > 1
            && self.random.random_ratio(1, every)
        {
            count = self.random.random_range(1..count);
            self.faults.count(Fault::ShortRead);
        }
        buffer[..count].copy_from_slice(&bytes[start..start + count]);
        Ok(count)
    }

    fn file(&mut self, id: FileId) -> &mut File {
        self.files.entry(id).or_default()
    }

    // What the simulator does to the disk.

    pub(super) fn flip(&mut self, path: &Path, position: u64, mask: u8) -> bool {
        let Some(id) = self.names.get(path) else {
            return false;
        };
        let file = self.files.entry(*id).or_default();
        match file.bytes.get_mut(position as usize) {
            Some(byte) => {
                *byte ^= mask;
                self.faults.count(Fault::Flipped);
                true
            }
            None => false,
        }
    }

    /// Every file with its length, by name.
    pub(super) fn names(&self) -> Vec<(PathBuf, u64)> {
        self.names.iter().map(|(path, id)| (path.clone(), self.files[id].bytes.len() as u64)).collect()
    }

    pub(super) fn plant(&mut self, path: &Path, bytes: &[u8]) {
        let file = self.next_file;
        self.next_file += 1;
        self.files.insert(file, File { bytes: bytes.to_vec(), stable: bytes.len(), ..File::default() });
        for names in [&mut self.names, &mut self.durable_names] {
            names.insert(path.to_path_buf(), file);
        }
        for folder in path.ancestors().skip(1) {
            self.folders.insert(folder.to_path_buf());
        }
    }

    pub(super) fn kill(&mut self) {
        self.boot += 1;
        self.down = false;
        self.locks.clear();
        self.faults.clear();
        self.forget_unnamed();
    }

    pub(super) fn crash(&mut self) {
        let changes = std::mem::take(&mut self.name_changes);
        let ordered = self.random.random_bool(0.5);
        let cut = self.random.random_range(0..=changes.len());
        for (index, change) in changes.iter().enumerate() {
            let survives = if ordered { index < cut } else { self.random.random() };
            if survives {
                change.apply(&mut self.durable_names);
            } else {
                self.faults.count(Fault::LostName);
            }
        }
        self.names = self.durable_names.clone();
        // Each file's losses are drawn in the order of names, so that a seed repeats them.
        let ids: Vec<FileId> = self.names.values().copied().collect();
        for id in ids {
            let (random, faults) = (&mut self.random, &mut self.faults);
            self.files.entry(id).or_default().crash(random, faults);
        }
        for path in self.names.keys() {
            for folder in path.ancestors().skip(1) {
                self.folders.insert(folder.to_path_buf());
            }
        }
        self.kill();
    }

    /// Nothing that is dead can read files without a name any more.
    fn forget_unnamed(&mut self) {
        let named: HashSet<FileId> = self.names.values().chain(self.durable_names.values()).copied().collect();
        let changing: HashSet<FileId> = self.name_changes.iter().filter_map(NameChange::file).collect();
        self.files.retain(|id, _| named.contains(id) || changing.contains(id));
    }
}

impl NameChange {
    fn apply(&self, names: &mut BTreeMap<PathBuf, FileId>) {
        match self {
            Self::Add { path, file } => {
                names.insert(path.clone(), *file);
            }
            Self::Move { from, to, file } => {
                if names.get(from) == Some(file) {
                    names.remove(from);
                }
                names.insert(to.clone(), *file);
            }
            Self::Remove { path } => {
                names.remove(path);
            }
        }
    }

    fn is_in(&self, folder: &Path) -> bool {
        match self {
            Self::Add { path, .. } | Self::Remove { path } => path.parent() == Some(folder),
            Self::Move { from, to, .. } => from.parent() == Some(folder) || to.parent() == Some(folder),
        }
    }

    fn file(&self) -> Option<FileId> {
        match self {
            Self::Add { file, .. } | Self::Move { file, .. } => Some(*file),
            Self::Remove { .. } => None,
        }
    }
}

impl File {
    fn crash(&mut self, random: &mut StdRng, faults: &mut Faults) {
        for &(from, to) in &self.doomed {
            let stable = self.stable;
            if from < stable {
                faults.count(Fault::LostBySync);
            }
            self.bytes[from.min(stable)..to.min(stable)].fill(0);
        }
        let mut left = self.bytes[..self.stable].to_vec();
        left.append(&mut self.cut);
        let happened = random.random_range(0..=self.pending.len());
        if happened < self.pending.len() {
            faults.count(Fault::LostChanges);
        }
        let mut fresh_from = left.len();
        for (index, change) in self.pending.iter().take(happened).enumerate() {
            match change {
                Change::Append(bytes) => {
                    let torn = index + 1 == happened && random.random();
                    let count = if torn { random.random_range(0..=bytes.len()) } else { bytes.len() };
                    if count < bytes.len() {
                        faults.count(Fault::TornAppend);
                    }
                    left.extend_from_slice(&bytes[..count]);
                }
                Change::Truncate(len) => {
                    left.truncate(*len);
                    fresh_from = fresh_from.min(*len);
                }
            }
        }
        if fresh_from < left.len() && random.random_bool(0.3) {
            lose_sectors(&mut left, fresh_from, random);
            faults.count(Fault::LostSectors);
        }
        *self = File { stable: left.len(), bytes: left, ..File::default() };
    }
}

/// Zeroes some of the sectors from `from` on, but never a byte before it.
fn lose_sectors(bytes: &mut [u8], from: usize, random: &mut StdRng) {
    let mut start = from;
    while start < bytes.len() {
        let end = ((start / SECTOR + 1) * SECTOR).min(bytes.len());
        if random.random() {
            bytes[start..end].fill(0);
        }
        start = end;
    }
}
