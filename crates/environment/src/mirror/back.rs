//! The way back: from a mirror into folders that are empty.

use std::collections::BTreeSet;
use std::io;
use std::path::PathBuf;

use super::Root;
use super::target::{MirrorTarget, each_piece};
use crate::Storage;

/// Copies a mirror into the folders of `roots`, durably; returns the bytes. The roots come in the order they were mirrored
/// in and are read from the last to the first, so that a mirror which goes on meanwhile gives a log that is ahead of what
/// was made of it, not behind. `progress` is told bytes copied.
///
/// # Errors
/// What mirror or folders answer.
pub fn copy_back(
    target: &dyn MirrorTarget,
    storage: &dyn Storage,
    roots: &[Root],
    progress: &dyn Fn(u64),
) -> io::Result<u64> {
    let mut copied = 0;
    for root in roots.iter().rev() {
        let mut folders: BTreeSet<PathBuf> = BTreeSet::new();
        for (remote, len) in target.list(root.name)? {
            let name = remote.strip_prefix(root.name).unwrap_or(&remote).trim_start_matches('/');
            if (root.order)(name).is_none() {
                continue;
            }
            let path = root.folder.join(name);
            let folder = path.parent().unwrap_or(&root.folder).to_path_buf();
            if folders.insert(folder.clone()) {
                storage.create_dir_all(&folder)?;
            }
            let content = target.open_read(&remote)?;
            let mut file = storage.open_append(&path)?;
            file.truncate(0)?;
            each_piece(&*content, len, &mut |piece| file.append(piece).map(|()| true))?;
            file.sync()?;
            copied += len;
            progress(copied);
        }
        folders.iter().try_for_each(|folder| storage.sync_dir(folder))?;
    }
    Ok(copied)
}
