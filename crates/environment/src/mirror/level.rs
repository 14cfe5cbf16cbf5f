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
/// A segment gets more than its header once the header and its name are durable; a shorter one may be gone with a crash.
const BEGUN_BYTES: u64 = 32;

/// A file of ours beside the mirror's.
struct Pair<'a> {
    root: &'a KnownRoot,
    name: String,
    changes: bool,
    len: u64,
    /// Bytes that the mirror has; None when it has no such file.
    before: Option<u64>,
    /// How many of the first bytes are the same.
    same: u64,
}

/// See [`super::Mirror::level`].
pub(super) fn level(shared: &Shared, progress: &dyn Fn(u64)) -> io::Result<()> {
    let mut pairs: Vec<Pair<'_>> = Vec::new();
    let mut superfluous = Vec::new();
    // All is looked at before anything is changed: what the mirror has may be all that is left.
    for root in &shared.roots {
        let mut there: BTreeMap<String, u64> = shared.target.list(root.name)?.into_iter().collect();
        let mut files: Vec<_> = files_below(&*shared.storage, &root.folder)?
            .into_iter()
            .filter_map(|(name, len)| Some(((root.order)(&name)?, name, len)))
            .collect();
        files.sort();
        let of_root = pairs.len();
        for (place, name, len) in files {
            let remote = format!("{}/{name}", root.name);
            let before = there.remove(&remote);
            // What others write once has a name of its own for each content.
            let trusted = root.keeping == Keeping::Settled && !place.changes;
            let same = match before {
                Some(before) if trusted && before == len => len,
                Some(before) if !trusted => {
                    let ours = shared.storage.open_read(&root.folder.join(&name))?;
                    agreeing(shared, &*ours, &remote, before.min(len))?
                }
                _ => 0,
            };
            pairs.push(Pair { root, name, changes: place.changes, len, before, same });
        }
        if is_growing(root) {
            // Drafts of the mirror's own are none of ours.
            let lacking = there.iter().filter_map(|(name, len)| {
                let name = name.strip_prefix(root.name)?.strip_prefix('/')?;
                (root.order)(name).map(|_| (name, *len))
            });
            refuse_loss(shared, &pairs[of_root..], lacking)?;
        }
        superfluous.extend(there.into_keys());
    }
    let mut copied = 0;
    for Pair { root, name, changes, len, before, same } in pairs {
        let remote = format!("{}/{name}", root.name);
        let ours = shared.storage.open_read(&root.folder.join(&name))?;
        match before {
            Some(before) if before == len && same == len => {}
            Some(before) if same == before && is_growing(root) => {
                append(shared, &remote, &*ours, before, len)?;
                copied += len - before;
            }
            Some(_) if same == len && is_growing(root) => {
                shared.target.truncate(&remote, len)?;
                shared.target.flush()?;
            }
            _ => {
                shared.target.put(&remote, &*ours, len)?;
                copied += len;
            }
        }
        if root.keeping == Keeping::Settled {
            let content = if changes { read(&*ours, len)? } else { Arc::from([]) };
            root.known.lock().insert(name, content);
        }
        progress(copied);
    }
    superfluous.iter().try_for_each(|name| shared.target.remove(name))
}

/// The number of a segment, and the folder that it is in.
fn segment(name: &str) -> Option<(&str, u64)> {
    let (folder, base) = name.rsplit_once('/').unwrap_or(("", name));
    Some((folder, base.split('.').next()?.parse().ok()?))
}

/// Segments but the last of a folder never change, and go from the first on. Where ours differ, or we lack one that is not
/// older than all of ours, the disk has lost something, and the mirror must not lose it too.
fn refuse_loss<'a>(
    shared: &Shared,
    ours: &[Pair<'_>],
    lacking: impl Iterator<Item = (&'a str, u64)>,
) -> io::Result<()> {
    let mut ranges: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (folder, number) in ours.iter().filter_map(|pair| segment(&pair.name)) {
        let range = ranges.entry(folder).or_insert((number, number));
        *range = (range.0.min(number), range.1.max(number));
    }
    let lacking: Vec<(&str, u64)> = lacking.collect();
    let mut theirs: BTreeMap<&str, u64> = BTreeMap::new();
    let kept = ours.iter().filter(|pair| pair.before.is_some()).map(|pair| pair.name.as_str());
    for (folder, number) in kept.chain(lacking.iter().map(|(name, _)| *name)).filter_map(segment) {
        let last = theirs.entry(folder).or_default();
        *last = number.max(*last);
    }
    let refuse = |name: &str, what: &str| {
        let place = shared.target.place();
        Err(io::Error::other(format!(
            "{name} {what} the mirror {place}: this disk has lost something, or the mirror is of another time; nothing was \
             changed there. `weir doctor` says what of this folder is damaged, `weir restore {place}` into an empty folder \
             brings back what the mirror has; a mirror in another place begins anew"
        )))
    };
    for pair in ours {
        let Some((folder, number)) = segment(&pair.name) else { continue };
        // The mirror's last may end in what a crash has left, and we have gone on from before that.
        let is_last = ranges.get(folder).is_some_and(|range| range.1 == number)
            || theirs.get(folder).is_none_or(|last| *last <= number);
        let differs = pair.before.is_some_and(|before| pair.same < before);
        if differs && !is_last {
            return refuse(&pair.root.folder.join(&pair.name).display().to_string(), "is not what it was in");
        }
    }
    for (name, len) in lacking {
        let Some((folder, number)) = segment(name) else { continue };
        let older = ranges.get(folder).is_some_and(|(first, _)| number < *first);
        if !older && len > BEGUN_BYTES {
            return refuse(name, "is missing here and is in");
        }
    }
    Ok(())
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
