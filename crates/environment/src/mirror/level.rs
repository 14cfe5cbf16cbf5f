//! Comparing a folder with its mirror, and making good what the mirror lacks.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::target::{each_piece, files_below, read_full};
use super::{Keeping, KnownRoot, Shared};
use crate::ReadFile;

/// Longer files are compared at their ends and in places between.
const COMPARED_BYTES_MAX: u64 = 128 << 20;
const SAMPLE_BYTES: u64 = 1 << 20;
const SAMPLES: u64 = 16;

/// See [`super::Mirror::level`].
pub(super) fn level(shared: &Shared, progress: &dyn Fn(u64)) -> io::Result<()> {
    let mut copied = 0;
    let mut superfluous = Vec::new();
    for root in &shared.roots {
        let mut there: BTreeMap<String, u64> = shared.target.list(root.name)?.into_iter().collect();
        let mut files: Vec<_> = files_below(&*shared.storage, &root.folder)?
            .into_iter()
            .filter_map(|(name, len)| Some(((root.order)(&name)?, name, len)))
            .collect();
        files.sort();
        for (place, name, len) in files {
            let remote = format!("{}/{name}", root.name);
            let before = there.remove(&remote);
            let ours = shared.storage.open_read(&root.folder.join(&name))?;
            // What others write once has a name of its own for each content.
            let trusted = root.keeping == Keeping::Settled && !place.changes;
            let shared_bytes = match before {
                Some(before) if trusted && before == len => len,
                Some(before) if !trusted => agreeing(shared, &*ours, &remote, before.min(len))?,
                _ => 0,
            };
            match before {
                Some(before) if before == len && shared_bytes == len => {}
                Some(before) if shared_bytes == before && is_growing(root) => {
                    append(shared, &remote, &*ours, before, len)?;
                    copied += len - before;
                }
                Some(_) if shared_bytes == len && is_growing(root) => {
                    shared.target.truncate(&remote, len)?;
                    shared.target.flush()?;
                }
                _ => {
                    shared.target.put(&remote, &*ours, len)?;
                    copied += len;
                }
            }
            if root.keeping == Keeping::Settled {
                let content = if place.changes { read(&*ours, len)? } else { Arc::from([]) };
                root.known.lock().insert(name, content);
            }
            progress(copied);
        }
        superfluous.extend(there.into_keys());
    }
    superfluous.iter().try_for_each(|name| shared.target.remove(name))
}

/// See [`super::Mirror::has_gap`]: segments follow each other, so a mirror that was kept up has one that is still here.
pub(super) fn has_gap(shared: &Shared) -> io::Result<bool> {
    for root in shared.roots.iter().filter(|root| root.keeping == Keeping::Acknowledged) {
        let mut folders: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, _) in files_below(&*shared.storage, &root.folder)? {
            if (root.order)(&name).is_some() {
                let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                folders.entry(folder.to_owned()).or_default().push(name);
            }
        }
        let there: BTreeMap<String, u64> = shared.target.list(root.name)?.into_iter().collect();
        for segments in folders.into_values() {
            let number = |name: &String| name.rsplit('/').next()?.split('.').next()?.parse::<u64>().ok();
            let complete = segments.iter().filter_map(number).min().is_some_and(|first| first <= 1);
            let common = segments.iter().any(|name| there.contains_key(&format!("{}/{name}", root.name)));
            if !complete && !common {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn is_growing(root: &KnownRoot) -> bool {
    matches!(root.keeping, Keeping::Acknowledged | Keeping::Growing)
}

fn append(shared: &Shared, remote: &str, ours: &dyn ReadFile, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    let tail = Tail { file: ours, from };
    each_piece(&tail, to - from, &mut |piece| {
        shared.target.append(remote, at, piece)?;
        at += piece.len() as u64;
        Ok(true)
    })?;
    shared.target.flush()
}

/// A file from a position on.
struct Tail<'a> {
    file: &'a dyn ReadFile,
    from: u64,
}

impl ReadFile for Tail<'_> {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read_at(self.from + offset, buffer)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.len()?.saturating_sub(self.from))
    }
}

fn read(file: &dyn ReadFile, len: u64) -> io::Result<Arc<[u8]>> {
    let mut bytes = Vec::new();
    each_piece(file, len, &mut |piece| {
        bytes.extend_from_slice(piece);
        Ok(true)
    })?;
    Ok(bytes.into())
}

/// `len` when the first `len` bytes are the same here and there, otherwise 0.
fn agreeing(shared: &Shared, ours: &dyn ReadFile, remote: &str, len: u64) -> io::Result<u64> {
    let theirs = shared.target.open_read(remote)?;
    let equal = |from: u64, len: u64| -> io::Result<bool> {
        let mut at = from;
        let mut equal = true;
        let mut other = Vec::new();
        each_piece(&Tail { file: ours, from }, len, &mut |piece| {
            other.resize(piece.len(), 0);
            let filled = read_full(&*theirs, at, &mut other)?;
            at += piece.len() as u64;
            equal = filled == piece.len() && other == piece;
            Ok(equal)
        })?;
        Ok(equal)
    };
    if len <= COMPARED_BYTES_MAX {
        return Ok(if equal(0, len)? { len } else { 0 });
    }
    for sample in 0..SAMPLES {
        if !equal((len - SAMPLE_BYTES) * sample / (SAMPLES - 1), SAMPLE_BYTES)? {
            return Ok(0);
        }
    }
    Ok(len)
}
