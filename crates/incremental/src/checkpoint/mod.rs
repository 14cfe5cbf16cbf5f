//! Checkpoints of state: immutable sorted runs and a manifest that names the epoch they add up to.
//!
//! Invariants:
//! 1. The manifest is replaced atomically and names only runs that are durable; whatever else lies in the folder is left over
//!    from a crash and removed at the next opening.
//! 2. A key's value is that of the newest run that has the key; a removal hides older values.
//! 3. Runs are merged so that each is at least twice as large as the next newer one: writing costs a logarithm of what is
//!    kept, and a restore reads few files. Merging into the oldest run drops removals.
//! 4. Restoring streams: one block of each run is in memory at a time.

mod changes;
mod run;

use std::path::{Path, PathBuf};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use weir_environment::Environment;

pub use changes::StateChanges;
use run::{RunInfo, RunReader, RunWriter};

use crate::operators::EngineError;

const MANIFEST: &str = "manifest.json";
const MANIFEST_VERSION: u32 = 1;

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Manifest {
    version: u32,
    epoch: u64,
    /// Hexadecimal: opaque to this crate.
    payload: String,
    /// Number of the next run.
    next_run: u64,
    /// Oldest first.
    runs: Vec<RunInfo>,
}

/// The checkpoints of one project, in one folder. One process at a time may have it open.
#[derive(Debug)]
pub struct CheckpointStore {
    environment: Environment,
    folder: PathBuf,
    manifest: Mutex<Manifest>,
}

fn failed(action: &str, path: &Path, error: &std::io::Error) -> EngineError {
    EngineError::Checkpoint(format!("cannot {action} {}: {error}", path.display()))
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn from_hexadecimal(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) {
        return None;
    }
    (0..text.len()).step_by(2).map(|i| u8::from_str_radix(text.get(i..i + 2)?, 16).ok()).collect()
}

impl CheckpointStore {
    /// Opens the folder, creating it when it is missing, and removes what a crash has left.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] when storage fails, when the manifest is damaged or of a newer program.
    pub fn open(environment: &Environment, folder: &Path) -> Result<Self, EngineError> {
        let storage = &environment.storage;
        storage.create_dir_all(folder).map_err(|e| failed("create", folder, &e))?;
        let path = folder.join(MANIFEST);
        let manifest = if storage.exists(&path) {
            let bytes = storage.read(&path).map_err(|e| failed("read", &path, &e))?;
            let manifest: Manifest = serde_json::from_slice(&bytes)
                .map_err(|e| EngineError::Checkpoint(format!("{} is damaged: {e}", path.display())))?;
            if manifest.version > MANIFEST_VERSION {
                return Err(EngineError::Checkpoint(format!(
                    "{} has format {}, this program reads up to {MANIFEST_VERSION}: use the newer program",
                    path.display(),
                    manifest.version
                )));
            }
            manifest
        } else {
            Manifest { version: MANIFEST_VERSION, ..Manifest::default() }
        };
        let store =
            Self { environment: environment.clone(), folder: folder.to_path_buf(), manifest: Mutex::new(manifest) };
        store.remove_leftovers()?;
        Ok(store)
    }

    fn remove_leftovers(&self) -> Result<(), EngineError> {
        let storage = &self.environment.storage;
        let manifest = self.manifest.lock();
        for entry in storage.list(&self.folder).map_err(|e| failed("list", &self.folder, &e))? {
            let named = entry.name == MANIFEST || manifest.runs.iter().any(|r| r.file == entry.name);
            if !named && !entry.is_dir {
                let path = self.folder.join(&entry.name);
                storage.remove_file(&path).map_err(|e| failed("remove", &path, &e))?;
            }
        }
        Ok(())
    }

    /// The newest checkpoint's epoch and payload; None before the first.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] when the manifest is damaged.
    pub fn latest(&self) -> Result<Option<(u64, Vec<u8>)>, EngineError> {
        let manifest = self.manifest.lock();
        if manifest.epoch == 0 {
            return Ok(None);
        }
        let payload = from_hexadecimal(&manifest.payload)
            .ok_or_else(|| EngineError::Checkpoint("the manifest of the checkpoint is damaged".into()))?;
        Ok(Some((manifest.epoch, payload)))
    }

    /// Adds what changed since the last checkpoint; on return, the checkpoint of `epoch` is durable.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] when storage fails; the checkpoint before is still whole then, and the same call may be
    /// made again.
    pub fn write(&self, epoch: u64, changes: &mut StateChanges, payload: &[u8]) -> Result<(), EngineError> {
        let mut manifest = self.manifest.lock().clone();
        changes.sort();
        if !changes.is_empty() {
            let mut writer = RunWriter::create(&self.environment, &self.folder, manifest.next_run)?;
            manifest.next_run += 1;
            for (state, key, value) in changes.iter() {
                writer.put(state, key, value)?;
            }
            manifest.runs.push(writer.finish()?);
        }
        let mut replaced = Vec::new();
        while let [.., older, newer] = manifest.runs.as_slice()
            && older.bytes < 2 * newer.bytes
        {
            let merged = self.merge(older, newer, manifest.next_run, manifest.runs.len() == 2)?;
            manifest.next_run += 1;
            replaced.extend(manifest.runs.drain(manifest.runs.len() - 2..).map(|r| r.file));
            manifest.runs.push(merged);
        }
        manifest.epoch = epoch;
        manifest.payload = hexadecimal(payload);
        self.commit(manifest)?;
        for file in replaced {
            let path = self.folder.join(file);
            self.environment.storage.remove_file(&path).map_err(|e| failed("remove", &path, &e))?;
        }
        Ok(())
    }

    fn commit(&self, manifest: Manifest) -> Result<(), EngineError> {
        let path = self.folder.join(MANIFEST);
        let bytes = serde_json::to_vec(&manifest).map_err(|e| EngineError::Checkpoint(e.to_string()))?;
        let storage = &self.environment.storage;
        storage.sync_dir(&self.folder).map_err(|e| failed("sync", &self.folder, &e))?;
        storage.write_atomic(&path, &bytes).map_err(|e| failed("write", &path, &e))?;
        *self.manifest.lock() = manifest;
        Ok(())
    }

    fn merge(&self, older: &RunInfo, newer: &RunInfo, number: u64, oldest: bool) -> Result<RunInfo, EngineError> {
        let mut writer = RunWriter::create(&self.environment, &self.folder, number)?;
        let mut states: Vec<&str> = older.states.iter().chain(&newer.states).map(|s| s.id.as_str()).collect();
        states.sort_unstable();
        states.dedup();
        for state in states {
            let mut failure = None;
            self.merged(&[older, newer], state, &mut |key, value| {
                if value.is_none() && oldest {
                    return Ok(());
                }
                writer.put(state, key, value).inspect_err(|_| failure = Some(()))
            })?;
        }
        writer.finish()
    }

    /// Calls `take` with every key of a state in order: the value of the newest run that has it, None for a removal.
    fn merged(
        &self,
        runs: &[&RunInfo],
        state: &str,
        take: &mut dyn FnMut(&[u8], Option<&[u8]>) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let mut readers = Vec::new();
        // Newest first, so that the first reader with the smallest key has its value.
        for run in runs.iter().rev() {
            if let Some(mut reader) = RunReader::open(&self.environment, &self.folder, run, state)? {
                reader.advance()?;
                readers.push(reader);
            }
        }
        loop {
            let mut least: Option<usize> = None;
            for (index, reader) in readers.iter().enumerate() {
                let Some(key) = reader.key() else { continue };
                if least.and_then(|l| readers[l].key()).is_none_or(|smallest| key < smallest) {
                    least = Some(index);
                }
            }
            let Some(least) = least else { return Ok(()) };
            let key = readers[least].key().unwrap_or_default().to_vec();
            take(&key, readers[least].value())?;
            for reader in &mut readers {
                if reader.key() == Some(&key) {
                    reader.advance()?;
                }
            }
        }
    }

    /// Calls `take` with every key and value of a state, in the order of keys.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] names the file when one is damaged; what `take` answers ends the restore.
    pub fn restore(
        &self,
        state: &str,
        take: &mut dyn FnMut(&[u8], &[u8]) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let manifest = self.manifest.lock().clone();
        let runs: Vec<&RunInfo> = manifest.runs.iter().collect();
        self.merged(&runs, state, &mut |key, value| value.map_or(Ok(()), |value| take(key, value)))
    }

    /// Forgets all state of ids for which `keep` says no; the space is freed as runs are merged.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] when storage fails.
    pub fn retain(&self, keep: &dyn Fn(&str) -> bool) -> Result<(), EngineError> {
        let mut manifest = self.manifest.lock().clone();
        for run in &mut manifest.runs {
            run.states.retain(|s| keep(&s.id));
        }
        self.commit(manifest)
    }

    /// Bytes of all runs.
    pub fn bytes_on_disk(&self) -> u64 {
        self.manifest.lock().runs.iter().map(|r| r.bytes).sum()
    }
}
