//! Puts new files in the place of damaged ones, which the caller has moved aside: an empty segment where a log goes on, a
//! journal of one epoch, the whole part of a segment.

use std::path::Path;

use weir_environment::Environment;

use crate::epochs::{self, EpochJournal, EpochJournalOptions};
use crate::segment::{self, SegmentWriter};
use crate::{Commit, JournalError, topic};

/// Begins the files of a topic at an offset, with nothing in them; `identity` is that of the log that they go on with.
///
/// # Errors
/// When the storage fails.
pub fn begin_topic(
    environment: &Environment,
    folder: &Path,
    offset: u64,
    identity: Option<u32>,
) -> Result<(), JournalError> {
    environment.storage.create_dir_all(folder).map_err(|e| JournalError::io("create", folder, e))?;
    SegmentWriter::create_of(environment, topic::FORMAT, folder, offset, identity).map(|_| ())
}

/// Begins the files of an epoch journal with one epoch that holds nothing but its commit.
///
/// # Errors
/// When the storage fails.
pub fn begin_epochs(environment: &Environment, folder: &Path, commit: &Commit) -> Result<(), JournalError> {
    environment.storage.create_dir_all(folder).map_err(|e| JournalError::io("create", folder, e))?;
    SegmentWriter::create(environment, epochs::FORMAT, folder, commit.epoch)?;
    let options = EpochJournalOptions { disk_reserve_bytes: 0, ..EpochJournalOptions::default() };
    let mut journal = EpochJournal::open_before(environment, folder, options, commit.epoch)?;
    journal.begin(commit.epoch, &[])?;
    journal.commit(&commit.payload).map(|_| ())
}

/// Writes the first `len` bytes of the file at `from` to `to`, durably.
///
/// # Errors
/// When the storage fails, or the file is shorter.
pub fn copy_whole_part(environment: &Environment, from: &Path, to: &Path, len: u64) -> Result<(), JournalError> {
    let storage = &*environment.storage;
    let file = storage.open_read(from).map_err(|e| JournalError::io("open", from, e))?;
    let mut bytes = vec![0; len as usize];
    let filled = segment::read_full(&*file, from, 0, &mut bytes)?;
    if filled < bytes.len() {
        return Err(JournalError::corrupt(from, filled as u64, None, "the file became shorter"));
    }
    storage.write_atomic(to, &bytes).map_err(|e| JournalError::io("write", to, e))
}
