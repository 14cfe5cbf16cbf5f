//! Looks at a folder of checkpoints without opening it as a store: reads every block of every run that the manifest names,
//! changes nothing, and names each damage.

use std::path::{Path, PathBuf};

use weir_environment::Environment;

use super::read::{Cursor, Run};
use super::run::Section;
use super::{MANIFEST, failed, from_hexadecimal, manifest};
use crate::operators::EngineError;

/// A part of a checkpoint that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub path: PathBuf,
    /// Where in it the damage begins, in bytes.
    pub position: u64,
    /// Whose state it is; None when it is all of the file.
    pub state: Option<String>,
    /// What does not fit.
    pub what: String,
}

/// What the files of a folder of checkpoints hold.
#[derive(Debug, Clone, Default)]
pub struct Inspection {
    /// The epoch of the checkpoint; None when there is no manifest, or it cannot be read.
    pub epoch: Option<u64>,
    /// What the caller stored with it.
    pub payload: Vec<u8>,
    /// Files that are whole.
    pub files: usize,
    /// Keys and values that are whole.
    pub entries: u64,
    /// Bytes of the runs.
    pub bytes: u64,
    /// Every damage.
    pub damages: Vec<Damage>,
}

/// Looks at the checkpoints in `folder`.
///
/// # Errors
/// [`EngineError::Checkpoint`] when a file cannot be read, or is of another version.
pub fn inspect(environment: &Environment, folder: &Path) -> Result<Inspection, EngineError> {
    let storage = &environment.storage;
    let mut found = Inspection::default();
    let path = folder.join(MANIFEST);
    if !storage.exists(&path) {
        let left = if storage.exists(folder) { storage.list(folder) } else { Ok(Vec::new()) };
        let left = left.map_err(|e| failed("list", folder, &e))?;
        if left.iter().any(|entry| entry.name.starts_with("run-")) {
            // Runs without a manifest: also what a crash leaves before the first checkpoint. The caller knows which.
            found.bytes = left.iter().map(|entry| entry.len).sum();
        }
        return Ok(found);
    }
    let bytes = storage.read(&path).map_err(|e| failed("read", &path, &e))?;
    let manifest = match manifest::decode(&path, &bytes) {
        Ok(manifest) => manifest,
        Err(error) => {
            found.damages.push(damage(&path, error, None));
            return Ok(found);
        }
    };
    found.epoch = Some(manifest.epoch);
    found.files += 1;
    match from_hexadecimal(&manifest.payload) {
        Some(payload) => found.payload = payload,
        None => found.damages.push(Damage {
            path: path.clone(),
            position: 0,
            state: None,
            what: "what is stored with the checkpoint is not hexadecimal".into(),
        }),
    }
    for info in manifest.runs {
        found.bytes += info.bytes;
        let file = folder.join(&info.file);
        if !storage.exists(&file) {
            let what = format!("the file is missing, and {MANIFEST} names it (or is that of another day)");
            found.damages.push(Damage { path: file, position: 0, state: None, what });
            continue;
        }
        let run = match Run::open(environment, folder, info) {
            Ok(run) => run,
            Err(error) => {
                found.damages.push(damage(&file, error, None));
                continue;
            }
        };
        let before = found.damages.len();
        for section in &run.info.states {
            match inspect_section(&run, section) {
                Ok(entries) => found.entries += entries,
                Err(error) => found.damages.push(damage(&file, error, Some(section.id.clone()))),
            }
        }
        found.files += usize::from(found.damages.len() == before);
    }
    Ok(found)
}

/// Reads all of a section; how many entries it has.
fn inspect_section(run: &Run, section: &Section) -> Result<u64, EngineError> {
    run.guide(section)?;
    let mut cursor = Cursor::new(run, section);
    let mut entries = 0;
    cursor.advance()?;
    while cursor.key().is_some() {
        entries += 1;
        cursor.advance()?;
    }
    if entries != section.entries {
        let what = format!("a section has {entries} entries, {} were written", section.entries);
        return Err(run.file.damaged(section.start, &what));
    }
    Ok(entries)
}

/// An error about a file as a damage: one of another format can be a damaged number of the format too.
fn damage(file: &Path, error: EngineError, state: Option<String>) -> Damage {
    match error {
        EngineError::CheckpointDamaged { path, position, what } => Damage { path, position, state, what },
        other => Damage { path: file.to_path_buf(), position: 0, state, what: other.to_string() },
    }
}
