//! Checksums of a Delta log, which has none of its own: a flipped digit in it would move rows, or the landed epoch.
//!
//! Each commit of ours says in its `commitInfo`, where the protocol leaves room, the table it belongs to and the xxh3 of the
//! whole commit (with zeros in that place), seeded with the commit's version: a commit that was changed, moved to another
//! version or to another table does not fit. Beside each checkpoint of the log lies `.<version>.checkpoint.sum`, which no
//! other reader looks at, with the xxh3 of the checkpoint. Commits of other programs are left unchecked.

use std::collections::{BTreeMap, BTreeSet};

use deltalake::kernel::Version;
use deltalake::logstore::object_store::{Error, ObjectStore, ObjectStoreExt, path::Path};
use futures::TryStreamExt;
use memchr::memmem;
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use super::LakeError;

/// The field of `commitInfo` for the checksum.
pub(super) const FIELD: &str = "weirSum";
/// What stands in it while the checksum is computed.
pub(super) const EMPTY: &str = "0000000000000000";
/// The field of `commitInfo` for the table's id.
pub(super) const TABLE_FIELD: &str = "weirTable";

/// How the checksum of a checkpoint of the log ends in its name.
pub(super) const CHECKPOINT_SUM: &str = ".checkpoint.sum";
const LOG: &str = "_delta_log";

/// A file of a log that is missing or not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LogDamage {
    pub file: String,
    pub what: String,
}

impl From<LogDamage> for LakeError {
    fn from(LogDamage { file, what }: LogDamage) -> Self {
        Self::Damaged { file, what }
    }
}

/// Puts the checksum into a commit that has [`EMPTY`] in its place.
pub(super) fn seal(version: Version, mut body: Vec<u8>) -> Vec<u8> {
    if let Some(at) = place_of(&body, FIELD)
        && body[at..].starts_with(EMPTY.as_bytes())
    {
        let sum = format!("{:016x}", xxh3_64_with_seed(&body, version));
        body[at..at + EMPTY.len()].copy_from_slice(sum.as_bytes());
    }
    body
}

/// Where the text begins that a field of the first line holds.
fn place_of(body: &[u8], field: &str) -> Option<usize> {
    let line = body.split(|byte| *byte == b'\n').next()?;
    let label = format!("\"{field}\":\"");
    Some(memmem::find(line, label.as_bytes())? + label.len())
}

/// Whether a commit is what was written; its table, where it says one.
fn check_commit(version: Version, body: &[u8]) -> Result<Option<String>, &'static str> {
    let table = place_of(body, TABLE_FIELD);
    let Some(at) = place_of(body, FIELD) else {
        return if table.is_none() { Ok(None) } else { Err("its checksum is gone") };
    };
    let changed = Err("its bytes are not what was written");
    let Some(stored) = body.get(at..at + EMPTY.len()) else { return changed };
    let mut bare = body.to_vec();
    bare[at..at + EMPTY.len()].copy_from_slice(EMPTY.as_bytes());
    if format!("{:016x}", xxh3_64_with_seed(&bare, version)).as_bytes() != stored {
        return changed;
    }
    let Some(table) = table else { return changed };
    let id = body[table..].split(|byte| *byte == b'"').next().unwrap_or_default();
    Ok(Some(String::from_utf8_lossy(id).into_owned()))
}

/// What a log consists of.
#[derive(Default)]
struct Listing {
    commits: BTreeMap<Version, Path>,
    checkpoints: BTreeMap<Version, Path>,
    sums: BTreeSet<Version>,
}

async fn list(store: &dyn ObjectStore) -> Result<Listing, Error> {
    let mut listing = Listing::default();
    let mut files = store.list(Some(&Path::from(LOG)));
    while let Some(meta) = files.try_next().await? {
        let name = meta.location.filename().unwrap_or_default();
        let version = |suffix: &str| name.strip_suffix(suffix).and_then(|digits| digits.parse::<Version>().ok());
        if let Some(version) = version(".checkpoint.parquet") {
            listing.checkpoints.insert(version, meta.location.clone());
        } else if let Some(version) = version(".json") {
            listing.commits.insert(version, meta.location.clone());
        } else if let Some(hidden) = name.strip_prefix('.').and_then(|name| name.strip_suffix(CHECKPOINT_SUM)) {
            listing.sums.extend(hidden.parse::<Version>().ok());
        }
    }
    Ok(listing)
}

fn sum_of_checkpoint(version: Version) -> Path {
    Path::from(format!("{LOG}/.{version:020}{CHECKPOINT_SUM}"))
}

/// Writes the checksum of a checkpoint that was just made; those of older ones that are gone go too.
pub(super) async fn seal_checkpoint(store: &dyn ObjectStore, version: Version) -> Result<(), LakeError> {
    let listing = list(store).await?;
    if let Some(path) = listing.checkpoints.get(&version) {
        let bytes = store.get(path).await?.bytes().await?;
        store.put(&sum_of_checkpoint(version), format!("{:016x}", xxh3_64(&bytes)).into()).await?;
    }
    for old in listing.sums.iter().filter(|old| !listing.checkpoints.contains_key(old)) {
        match store.delete(&sum_of_checkpoint(*old)).await {
            Ok(()) | Err(Error::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// Checks what a reader of the log has to read: its last checkpoint, and every commit since. `place` is where the table is,
/// for messages.
pub(super) async fn check(store: &dyn ObjectStore, place: &str) -> Result<Vec<LogDamage>, Error> {
    let listing = list(store).await?;
    let mut damages = Vec::new();
    let mut damage = |path: &str, what: &str| {
        damages.push(LogDamage { file: format!("{place}{path}"), what: what.to_owned() });
    };
    let last = listing.checkpoints.iter().next_back();
    if let Some((version, path)) = last
        && listing.sums.contains(version)
    {
        let stored = store.get(&sum_of_checkpoint(*version)).await?.bytes().await?;
        let bytes = store.get(path).await?.bytes().await?;
        if stored[..] != *format!("{:016x}", xxh3_64(&bytes)).as_bytes() {
            damage(path.as_ref(), "its bytes, or those of its checksum beside it, are not what was written");
        }
    }
    let mut expected = last.map_or(0, |(version, _)| version + 1);
    let mut own: Option<String> = None;
    for (version, path) in listing.commits.range(expected..) {
        if *version > expected {
            let missing = format!("{LOG}/{expected:020}.json");
            damage(&missing, &format!("commits {expected} up to, not including, {version} are missing"));
        }
        expected = version + 1;
        match check_commit(*version, &store.get(path).await?.bytes().await?) {
            Ok(None) => {}
            Ok(Some(table)) if own.as_ref().is_none_or(|own| *own == table) => own = Some(table),
            Ok(Some(_)) => damage(path.as_ref(), "it is a commit of another table"),
            Err(what) => damage(path.as_ref(), what),
        }
    }
    Ok(damages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_commit_is_found_or_makes_it_unreadable() {
        let line = format!("{{\"commitInfo\":{{\"a\":1,\"{FIELD}\":\"{EMPTY}\",\"{TABLE_FIELD}\":\"t-1\"}}}}\n");
        let body = seal(7, format!("{line}{{\"txn\":{{\"version\":5}}}}\n").into_bytes());
        assert_eq!(check_commit(7, &body), Ok(Some("t-1".into())));
        assert!(check_commit(8, &body).is_err(), "it has the name of another version");
        for bit in 0..body.len() * 8 {
            let mut damaged = body.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(check_commit(7, &damaged).is_err(), "bit {bit}");
        }
        for length in 1..body.len() {
            let cut = check_commit(7, &body[..length]);
            assert!(cut.is_err() || serde_json::from_slice::<serde_json::Value>(&body[..length]).is_err());
        }
    }
}
