//! Checkpoints of state: immutable sorted runs and a manifest that names the epoch they add up to. They are also where
//! state lives that memory does not hold.
//!
//! Invariants:
//! 1. The manifest is replaced atomically and names only runs that are durable; whatever else lies in the folder is left over
//!    from a crash and removed at the next opening.
//! 2. A key's value is that of the newest run that has the key; a removal hides older values.
//! 3. Runs are merged so that each is at least twice as large as the next newer one: writing costs a logarithm of what is
//!    kept, and a lookup asks few files. Merging into the oldest run drops removals. A checkpoint is committed before
//!    the merges that follow it.
//! 4. A run is removed when the manifest no longer names it and the last reader has let go of it.
//! 5. Reading streams: one block of each run is in memory at a time, beside the filter and the index of each section that
//!    was ever looked into (about 1.3 bytes a key, and 20 bytes for each 8 KiB).

mod changes;
mod filter;
pub mod inspect;
mod lookup;
mod manifest;
mod read;
mod run;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use weir_environment::Environment;
use weir_environment::mirror::{Place, Root};

pub use changes::StateChanges;
pub use lookup::{Disk, StateReader};
use manifest::Manifest;
use read::{Cursor, Run};
use run::{RunInfo, RunWriter};

use crate::operators::{EngineError, StateKey};

const MANIFEST: &str = "manifest.json";

/// What is common to the store and its readers.
pub(crate) struct Shared {
    environment: Environment,
    folder: PathBuf,
    current: Mutex<Current>,
}

#[derive(Clone, Default)]
struct Current {
    epoch: u64,
    payload: String,
    next_run: u64,
    /// Oldest first.
    runs: Arc<Vec<Run>>,
}

impl Shared {
    fn runs(&self) -> Arc<Vec<Run>> {
        self.current.lock().runs.clone()
    }
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("CheckpointStore").field("folder", &self.folder).finish_non_exhaustive()
    }
}

/// The checkpoints of one project, in one folder. One process at a time may have it open, and one thread may write.
#[derive(Debug)]
pub struct CheckpointStore(Arc<Shared>);

/// The place of a checkpoint's file in a mirror: runs come before the manifest that names them.
pub fn shipping_order(name: &str) -> Option<Place> {
    Root::by_name(name).map(|place| Place { rank: u8::from(name == MANIFEST), ..place })
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
    /// [`EngineError::Checkpoint`] when storage fails, when the manifest is damaged or of another program's format.
    pub fn open(environment: &Environment, folder: &Path) -> Result<Self, EngineError> {
        let storage = &environment.storage;
        storage.create_dir_all(folder).map_err(|e| failed("create", folder, &e))?;
        let path = folder.join(MANIFEST);
        let mut current = Current::default();
        let has_manifest = storage.exists(&path);
        if has_manifest {
            let bytes = storage.read(&path).map_err(|e| failed("read", &path, &e))?;
            let manifest = manifest::decode(&path, &bytes)?;
            let runs = manifest.runs.into_iter().map(|info| Run::open(environment, folder, info));
            current = Current {
                epoch: manifest.epoch,
                payload: manifest.payload,
                next_run: manifest.next_run,
                runs: Arc::new(runs.collect::<Result<_, _>>()?),
            };
        }
        let shared =
            Shared { environment: environment.clone(), folder: folder.to_path_buf(), current: Mutex::new(current) };
        let store = Self(Arc::new(shared));
        // Without a manifest nothing is known to be left over: it may be what is missing.
        if has_manifest {
            // The manifest that is seen may be one whose name is not durable yet; what the one before needs stays until it is.
            storage.sync_dir(folder).map_err(|e| failed("sync", folder, &e))?;
            store.remove_leftovers()?;
        }
        Ok(store)
    }

    fn remove_leftovers(&self) -> Result<(), EngineError> {
        let Shared { environment, folder, .. } = &*self.0;
        let runs = self.0.runs();
        for entry in environment.storage.list(folder).map_err(|e| failed("list", folder, &e))? {
            let known = entry.name == MANIFEST || runs.iter().any(|r| r.info.file == entry.name);
            if !known && !entry.is_dir {
                let path = folder.join(&entry.name);
                environment.storage.remove_file(&path).map_err(|e| failed("remove", &path, &e))?;
            }
        }
        Ok(())
    }

    /// Reads what checkpoints hold, from any thread.
    pub fn reader(&self) -> StateReader {
        StateReader(self.0.clone())
    }

    /// The newest checkpoint's epoch and payload; None before the first.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] when the manifest is damaged.
    pub fn latest(&self) -> Result<Option<(u64, Vec<u8>)>, EngineError> {
        let current = self.0.current.lock();
        if current.epoch == 0 {
            return Ok(None);
        }
        let payload = from_hexadecimal(&current.payload)
            .ok_or_else(|| EngineError::Checkpoint("the manifest of the checkpoint is damaged".into()))?;
        Ok(Some((current.epoch, payload)))
    }

    /// Adds what changed since the last checkpoint; on return, the checkpoint of `epoch` is durable.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] when storage fails; the checkpoint before is still whole then, and the same call may be
    /// made again.
    pub fn write(&self, epoch: u64, changes: &mut StateChanges, payload: &[u8]) -> Result<(), EngineError> {
        let mut current = self.0.current.lock().clone();
        changes.sort(&self.0.environment.workers);
        let mut runs: Vec<Run> = current.runs.iter().map(|run| run.without(&|id| changes.starts_over(id))).collect();
        if !changes.is_empty() {
            let mut writer = self.create_run(&mut current)?;
            let mut state = None;
            for (id, key, value) in changes.iter() {
                if state != Some(id) {
                    writer.begin(id, changes.count(id))?;
                    state = Some(id);
                }
                writer.put(key, value)?;
            }
            runs.push(self.open_run(writer.finish()?)?);
        }
        current.epoch = epoch;
        current.payload = hexadecimal(payload);
        current.runs = Arc::new(runs);
        self.commit(current)?;
        if let Err(error) = self.merge_where_due() {
            // The checkpoint is whole; merging goes on with the next.
            tracing::warn!(%error, "runs of the checkpoint could not be merged");
        }
        Ok(())
    }

    fn create_run(&self, current: &mut Current) -> Result<RunWriter, EngineError> {
        let writer = RunWriter::create(&self.0.environment, &self.0.folder, current.next_run)?;
        current.next_run += 1;
        // Whatever becomes of it: a manifest that names it may be on disk though its commit failed, and a crash may bring it up.
        self.0.current.lock().next_run = current.next_run;
        Ok(writer)
    }

    fn open_run(&self, info: RunInfo) -> Result<Run, EngineError> {
        Run::open(&self.0.environment, &self.0.folder, info)
    }

    fn commit(&self, current: Current) -> Result<(), EngineError> {
        let Shared { environment, folder, .. } = &*self.0;
        let path = folder.join(MANIFEST);
        let manifest = Manifest {
            epoch: current.epoch,
            payload: current.payload.clone(),
            next_run: current.next_run,
            runs: current.runs.iter().map(|run| RunInfo::clone(&run.info)).collect(),
        };
        let bytes = manifest::encode(&manifest)?;
        environment.storage.sync_dir(folder).map_err(|e| failed("sync", folder, &e))?;
        environment.storage.write_atomic(&path, &bytes).map_err(|e| failed("write", &path, &e))?;
        *self.0.current.lock() = current;
        Ok(())
    }

    fn merge_where_due(&self) -> Result<(), EngineError> {
        let mut current = self.0.current.lock().clone();
        let mut runs: Vec<Run> = current.runs.to_vec();
        let mut replaced = Vec::new();
        while let [.., older, newer] = runs.as_slice()
            && older.info.bytes < 2 * newer.info.bytes
        {
            let pair = [older.clone(), newer.clone()];
            let mut writer = self.create_run(&mut current)?;
            merge(&pair, &mut writer, runs.len() == 2)?;
            let merged = self.open_run(writer.finish()?)?;
            runs.truncate(runs.len() - 2);
            runs.push(merged);
            replaced.extend(pair);
        }
        if !replaced.is_empty() {
            current.runs = Arc::new(runs);
            self.commit(current)?;
            replaced.iter().for_each(Run::replace);
        }
        Ok(())
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
        self.reader().state(state).each(take)
    }

    /// Forgets all state of ids for which `keep` says no; the space is freed as runs are merged.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] when storage fails.
    pub fn retain(&self, keep: &dyn Fn(&str) -> bool) -> Result<(), EngineError> {
        let mut current = self.0.current.lock().clone();
        if current.runs.iter().all(|run| run.info.states.iter().all(|state| keep(&state.id))) {
            return Ok(());
        }
        current.runs = Arc::new(current.runs.iter().map(|run| run.without(&|id| !keep(id))).collect());
        self.commit(current)
    }

    /// Bytes of all runs.
    pub fn bytes_on_disk(&self) -> u64 {
        self.0.runs().iter().map(|run| run.info.bytes).sum()
    }
}

/// Writes two neighbouring runs, the older first, as one.
fn merge(runs: &[Run; 2], writer: &mut RunWriter, oldest: bool) -> Result<(), EngineError> {
    let mut states: Vec<&str> = runs.iter().flat_map(|run| run.info.states.iter().map(|s| s.id.as_str())).collect();
    states.sort_unstable();
    states.dedup();
    for state in states {
        let entries: u64 = runs.iter().filter_map(|run| run.info.section(state)).map(|section| section.entries).sum();
        writer.begin(state, usize::try_from(entries).unwrap_or(usize::MAX))?;
        merged(runs, state, &[], &mut |key, value| {
            if value.is_some() || !oldest {
                writer.put(key, value)?;
            }
            Ok(true)
        })?;
    }
    Ok(())
}

/// Calls `take` with the keys of a state from `from` on, in order, until it says no: the value of the newest run that has
/// the key, None for a removal. Runs come oldest first.
fn merged(
    runs: &[Run],
    state: &str,
    from: &[u8],
    take: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>) -> Result<bool, EngineError>,
) -> Result<(), EngineError> {
    let mut cursors = Vec::new();
    // Newest first, so that the first cursor with the smallest key has its value.
    for run in runs.iter().rev() {
        if let Some(section) = run.info.section(state) {
            let mut cursor = if from.is_empty() {
                Cursor::new(run, section)
            } else {
                Cursor::with_guide(run, section, run.guide(section)?)
            };
            if from.is_empty() {
                cursor.advance()?;
            } else {
                cursor.seek(from)?;
            }
            cursors.push(cursor);
        }
    }
    let mut present = Vec::new();
    loop {
        let mut least: Option<(usize, StateKey<'_>)> = None;
        for (index, cursor) in cursors.iter().enumerate() {
            if let Some(key) = cursor.key()
                && least.is_none_or(|(_, smallest)| key.bytes < smallest.bytes)
            {
                least = Some((index, key));
            }
        }
        let Some((index, key)) = least else { return Ok(()) };
        if !take(key, cursors[index].value())? {
            return Ok(());
        }
        present.clear();
        present.extend_from_slice(key.bytes);
        for cursor in &mut cursors {
            if cursor.key().is_some_and(|key| key.bytes == present) {
                cursor.advance()?;
            }
        }
    }
}
