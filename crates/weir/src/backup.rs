//! Backups: a copy of the data folder as of one moment, with a manifest of checksums.
//!
//! While a pipeline runs, lake and checkpoints are held still for as long as it takes to give every file a second name
//! (a hard link), which is not long; what is copied are those. Files that never change are kept under `files/` and are
//! copied once, however many backups are made into the same place; the others are below a folder of their own for each
//! backup. The manifest is replaced at the end: until then the backup before is whole.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use weir_environment::mirror::{InMemory, Keeping, MirrorTarget, Root};
use weir_environment::{Environment, ReadFile};
use weir_pipeline::EpochNumber;
use weir_project::Project;
use xxhash_rust::xxh3::Xxh3;

use crate::host;
use crate::mirror::{ACCEPTED, ACCEPTED_FILE, read_small, roots};
use crate::restore::reach;

/// The manifest's name.
pub const MANIFEST: &str = "backup.json";
/// Says that a place is one for backups although it has no manifest yet.
const UNFINISHED: &str = "backup.unfinished";
const MANIFEST_FORMAT: u32 = 1;
/// Where files are that never change.
const LASTING: &str = "files/";
/// How folders begin of what one backup has for itself.
const CUT: &str = "cut-";
/// Folder of second names, in the data folder.
pub const LINKS: &str = "backup";
const PIECE_BYTES: usize = 1 << 20;

/// What a backup holds.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    format: u32,
    /// Whose epochs.
    lineage: String,
    /// The last of them.
    pub epoch: EpochNumber,
    /// When it was made, µs UTC.
    made_at: i64,
    files: Vec<FileEntry>,
}

/// A file of a backup.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct FileEntry {
    /// Its name in the data folder.
    name: String,
    /// Its name in the backup.
    stored: String,
    /// Bytes.
    len: u64,
    /// XXH3, 128 bits, hexadecimal.
    checksum: String,
}

/// What making a backup did.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Made {
    /// The last epoch.
    pub epoch: EpochNumber,
    /// Files in the backup.
    pub files: u64,
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that were not there from a backup before.
    pub bytes_copied: u64,
}

/// A data folder that backups are made of.
pub struct Source {
    /// The project.
    pub project: Project,
    /// The machine, not followed by a mirror.
    pub environment: Environment,
}

/// The second names of a data folder's files, as of one moment; gone when dropped.
pub struct Frozen {
    folder: PathBuf,
    files: Vec<FrozenFile>,
}

struct FrozenFile {
    name: String,
    path: PathBuf,
    /// How much of it belongs to the moment; all there is by then, for topics and catalogues: they may be ahead.
    len: Option<u64>,
    lasting: bool,
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // What is left is removed by the next backup.
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Source {
    /// Gives every file a second name. Lake and checkpoints must be held still meanwhile.
    ///
    /// The roots are taken from the last to the first, so that a log that grows meanwhile is ahead, never behind.
    pub fn freeze(&self) -> anyhow::Result<Frozen> {
        let folder = self.project.dir.join(".weir").join(LINKS);
        if folder.exists() {
            std::fs::remove_dir_all(&folder).with_context(|| format!("{} is in the way", folder.display()))?;
        }
        let mut frozen = Frozen { folder, files: Vec::new() };
        for root in roots(&self.project).into_iter().rev() {
            freeze_root(&root, &mut frozen).with_context(|| format!("{} cannot be frozen", root.folder.display()))?;
        }
        let accepted = self.project.dir.join(".weir").join(ACCEPTED_FILE);
        let path = frozen.folder.join(ACCEPTED_FILE);
        std::fs::copy(&accepted, &path).with_context(|| format!("{} cannot be read", accepted.display()))?;
        frozen.files.push(FrozenFile { name: ACCEPTED_FILE.into(), path, len: None, lasting: false });
        Ok(frozen)
    }

    /// Copies what is frozen to a place for backups. `progress` is told bytes done and bytes in all.
    pub fn copy(
        &self,
        frozen: &Frozen,
        target: &Arc<dyn MirrorTarget>,
        progress: &dyn Fn(u64, u64),
    ) -> anyhow::Result<Made> {
        let unusable = || format!("{} cannot be written", target.place());
        let lineage = host::lineage(&self.environment, &self.project.dir.join(".weir"))?.unwrap_or_default();
        let before = Backup::open(target.clone())?;
        let leftovers = read_small(&**target, UNFINISHED).with_context(unusable)?.is_some();
        if before.is_none() && !leftovers && !target.list("").with_context(unusable)?.is_empty() {
            bail!("{} is not empty and holds no backup: name an empty folder", target.place());
        }
        put_small(&**target, UNFINISHED, b"").with_context(unusable)?;
        let known: HashMap<String, FileEntry> = match before {
            Some(backup) if backup.manifest.lineage == lineage.id => {
                backup.manifest.files.into_iter().map(|file| (file.stored.clone(), file)).collect()
            }
            _ => HashMap::new(),
        };
        let there: BTreeMap<String, u64> = target.list("").with_context(unusable)?.into_iter().collect();
        let made_at = self.environment.clock.now();
        let cut = format!("{CUT}{made_at}/");
        let total: u64 = frozen.files.iter().map(FrozenFile::bytes).sum();
        let mut made = Made::default();
        let mut files = Vec::with_capacity(frozen.files.len());
        for file in &frozen.files {
            let stored = format!("{}{}", if file.lasting { LASTING } else { &cut }, file.name);
            let len = file.bytes();
            let entry = match known.get(&stored) {
                Some(entry) if file.lasting && entry.len == len && there.get(&stored) == Some(&len) => entry.clone(),
                _ => {
                    let content = self.environment.storage.open_read(&file.path)?;
                    let checksum = checksum(&*content, len, &mut |_| {}).context(file.name.clone())?;
                    let has = there.get(&stored) == Some(&len)
                        && checksum_of(&**target, &stored, len).is_ok_and(|theirs| theirs == checksum);
                    if !has {
                        target.put(&stored, &*content, len).with_context(unusable)?;
                        made.bytes_copied += len;
                    }
                    FileEntry { name: file.name.clone(), stored, len, checksum }
                }
            };
            made.bytes += len;
            made.files += 1;
            files.push(entry);
            progress(made.bytes, total);
        }
        let mut manifest = Manifest { format: MANIFEST_FORMAT, lineage: lineage.id, epoch: 0, made_at, files };
        let copied = Backup { target: target.clone(), manifest: manifest.clone() };
        manifest.epoch = reach(&self.environment, &self.project, &*copied.target())?.epoch;
        made.epoch = manifest.epoch;
        put_small(&**target, MANIFEST, &serde_json::to_vec(&manifest)?).with_context(unusable)?;
        // Nothing but what backups before this one had.
        let named: BTreeSet<&String> = manifest.files.iter().map(|file| &file.stored).collect();
        for name in there.keys().filter(|name| name.starts_with(LASTING) || name.starts_with(CUT)) {
            if !named.contains(name) {
                target.remove(name).with_context(unusable)?;
            }
        }
        target.remove(UNFINISHED).with_context(unusable)?;
        Ok(made)
    }
}

impl FrozenFile {
    fn bytes(&self) -> u64 {
        self.len.or_else(|| std::fs::metadata(&self.path).ok().map(|file| file.len())).unwrap_or(0)
    }
}

/// All files below a folder, names from it on. The names in a folder are read after all that is below it.
fn files_below(folder: &Path, prefix: &str, found: &mut Vec<String>) -> io::Result<()> {
    let names = |folder: &Path| -> io::Result<Vec<(String, bool)>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            names.push((entry.file_name().to_string_lossy().into_owned(), entry.file_type()?.is_dir()));
        }
        Ok(names)
    };
    for (name, _) in names(folder)?.into_iter().filter(|(_, is_dir)| *is_dir) {
        files_below(&folder.join(&name), &format!("{prefix}{name}/"), found)?;
    }
    found.extend(names(folder)?.into_iter().filter(|(_, is_dir)| !is_dir).map(|(name, _)| format!("{prefix}{name}")));
    Ok(())
}

fn freeze_root(root: &Root, frozen: &mut Frozen) -> io::Result<()> {
    let mut names = Vec::new();
    match files_below(&root.folder, "", &mut names) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    }
    let mut placed: Vec<_> = names.into_iter().filter_map(|name| Some(((root.order)(&name)?, name))).collect();
    placed.sort();
    // The newest segments first: those that are removed meanwhile are the oldest.
    placed.reverse();
    for (place, name) in placed {
        let (path, second) = (root.folder.join(&name), frozen.folder.join(root.name).join(&name));
        std::fs::create_dir_all(second.parent().unwrap_or(&frozen.folder))?;
        let replaced = place.changes || (root.keeping == Keeping::Whole && place.rank > 0);
        let named = match replaced {
            true => std::fs::copy(&path, &second).map(|_| ()),
            false => std::fs::hard_link(&path, &second).or_else(|error| match error.kind() {
                io::ErrorKind::NotFound => Err(error),
                // On another file system.
                _ => std::fs::copy(&path, &second).map(|_| ()),
            }),
        };
        match named {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        }
        let lasting = matches!(root.keeping, Keeping::Whole | Keeping::Settled) && !replaced && root.name != ACCEPTED;
        let ahead = matches!(root.name, "log" | "files");
        let len = if ahead { None } else { Some(std::fs::metadata(&second)?.len()) };
        frozen.files.push(FrozenFile { name: format!("{}/{name}", root.name), path: second, len, lasting });
    }
    Ok(())
}

fn put_small(target: &dyn MirrorTarget, name: &str, bytes: &[u8]) -> io::Result<()> {
    target.put(name, &InMemory(bytes.into()), bytes.len() as u64)
}

fn checksum(content: &dyn ReadFile, len: u64, progress: &mut dyn FnMut(u64)) -> io::Result<String> {
    let mut hash = Xxh3::new();
    let mut buffer = vec![0; PIECE_BYTES];
    let mut at = 0;
    while at < len {
        let wanted = buffer.len().min(usize::try_from(len - at).unwrap_or(usize::MAX));
        let count = content.read_at(at, &mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is shorter than it should be"));
        }
        hash.update(&buffer[..count]);
        at += count as u64;
        progress(count as u64);
    }
    Ok(format!("{:032x}", hash.digest128()))
}

fn checksum_of(target: &dyn MirrorTarget, name: &str, len: u64) -> io::Result<String> {
    let content = target.open_read(name)?;
    if content.len()? != len {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file has another length than it should"));
    }
    checksum(&*content, len, &mut |_| {})
}

/// A backup that is there.
#[derive(Debug, Clone)]
pub struct Backup {
    target: Arc<dyn MirrorTarget>,
    /// What it holds.
    pub manifest: Manifest,
}

impl Backup {
    /// The backup at a place; None when there is none.
    pub fn open(target: Arc<dyn MirrorTarget>) -> anyhow::Result<Option<Self>> {
        let place = target.place();
        let bytes = read_small(&*target, MANIFEST).with_context(|| format!("{place} cannot be read"))?;
        let Some(bytes) = bytes else { return Ok(None) };
        let manifest: Manifest = serde_json::from_slice(&bytes).with_context(|| format!("{MANIFEST} of {place}"))?;
        if manifest.format > MANIFEST_FORMAT {
            bail!(
                "{place} has format {}, this program reads up to {MANIFEST_FORMAT}: use the newer program",
                manifest.format
            );
        }
        Ok(Some(Self { target, manifest }))
    }

    /// Reads everything and compares it with its checksums. `progress` is told bytes read.
    ///
    /// # Errors
    /// Names the first file that is not what it was.
    pub fn verify(&self, progress: &dyn Fn(u64)) -> anyhow::Result<()> {
        let mut read = 0;
        for file in &self.manifest.files {
            let found = checksum_of(&*self.target, &file.stored, file.len);
            let found = found.with_context(|| format!("{} of {}", file.stored, self.target.place()))?;
            if found != file.checksum {
                bail!(
                    "{} of {} is damaged: its checksum is not that of the manifest",
                    file.stored,
                    self.target.place()
                );
            }
            read += file.len;
            progress(read);
        }
        Ok(())
    }

    /// Its files under the names they have in a data folder.
    pub fn target(&self) -> Arc<dyn MirrorTarget> {
        let files = self.manifest.files.iter().map(|file| (file.name.clone(), (file.stored.clone(), file.len)));
        Arc::new(BackupFiles { target: self.target.clone(), files: files.collect() })
    }
}

/// A backup read as a mirror is.
struct BackupFiles {
    target: Arc<dyn MirrorTarget>,
    files: BTreeMap<String, (String, u64)>,
}

impl fmt::Debug for BackupFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("BackupFiles").field("target", &self.target).finish_non_exhaustive()
    }
}

fn read_only() -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "a backup is only read")
}

impl MirrorTarget for BackupFiles {
    fn place(&self) -> String {
        self.target.place()
    }

    fn append(&self, _name: &str, _at: u64, _bytes: &[u8]) -> io::Result<()> {
        Err(read_only())
    }

    fn truncate(&self, _name: &str, _len: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn flush(&self) -> io::Result<()> {
        Err(read_only())
    }

    fn put(&self, _name: &str, _content: &dyn ReadFile, _len: u64) -> io::Result<()> {
        Err(read_only())
    }

    fn rename(&self, _from: &str, _to: &str) -> io::Result<()> {
        Err(read_only())
    }

    fn remove(&self, _name: &str) -> io::Result<()> {
        Err(read_only())
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let below =
            |name: &str| folder.is_empty() || name.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/'));
        let files = self.files.iter().filter(|(name, _)| below(name));
        Ok(files.map(|(name, (_, len))| (name.clone(), *len)).collect())
    }

    fn open_read(&self, name: &str) -> io::Result<Arc<dyn ReadFile>> {
        let (stored, _) =
            self.files.get(name).ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("no {name} in it")))?;
        self.target.open_read(stored)
    }
}
