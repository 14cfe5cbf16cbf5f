//! A mirror in an object store (S3 and what speaks like it), where nothing can be appended to and nothing renamed.
//!
//! A file's beginning is an object of its name; often that is all of it. What is appended is in further parts: objects
//! below `NAME.parts/`, named by the position of their first byte. To read a file is to read its parts in order; they follow
//! each other without a gap, or it ends at the first gap. To cut it is to remove the parts behind, the last first, and
//! to write the part that the cut falls into anew. Parts are merged when a file has many.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use object_store::aws::AmazonS3Builder;
use object_store::path::Path;
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt};
use parking_lot::Mutex;
use tokio::runtime::Handle;
use weir_environment::ReadFile;
use weir_environment::mirror::MirrorTarget;

/// What stands between a growing file's name and the position of a part.
const PARTS: &str = ".parts/";
/// A file of so many parts is written anew as one.
const PARTS_MAX: usize = 256;
/// A part that others were merged into is no longer than this.
const MERGED_BYTES_MAX: u64 = 8 << 20;

/// Longer files are put in pieces of this size.
const PIECE_BYTES: u64 = 8 << 20;

/// Parts that are read side by side.
const READS_AT_ONCE: usize = 32;

/// Parts of a file: where each begins, and its length.
type Parts = BTreeMap<u64, u64>;

/// A mirror under one prefix of an object store.
pub struct ObjectTarget {
    store: Arc<dyn ObjectStore>,
    prefix: Path,
    place: String,
    runtime: Handle,
    /// The parts of files that grow, as far as they are known.
    growing: Mutex<BTreeMap<String, Parts>>,
}

impl fmt::Debug for ObjectTarget {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ObjectTarget").field("place", &self.place).finish_non_exhaustive()
    }
}

fn failed(error: StoreError) -> io::Error {
    match error {
        StoreError::NotFound { .. } => io::Error::new(io::ErrorKind::NotFound, error),
        other => io::Error::other(other),
    }
}

impl ObjectTarget {
    /// A mirror in `store` under `prefix`; `place` is how it is named to people. Its calls block, and must not be made
    /// on a thread of `runtime` that runs tasks.
    pub fn new(store: Arc<dyn ObjectStore>, prefix: &str, place: impl Into<String>, runtime: Handle) -> Self {
        Self { store, prefix: Path::from(prefix), place: place.into(), runtime, growing: Mutex::default() }
    }

    /// A mirror at `s3://BUCKET/PREFIX`; the environment has the rest (`AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY`,
    /// `AWS_REGION`, `AWS_ENDPOINT` ...).
    ///
    /// # Errors
    /// A sentence: the URL or the environment is not understood.
    pub fn s3(url: &str, runtime: Handle) -> Result<Self, String> {
        let rest = url.strip_prefix("s3://").ok_or_else(|| format!("`{url}` is not like s3://BUCKET/PREFIX"))?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let store = AmazonS3Builder::from_env().with_bucket_name(bucket).build();
        let store = store.map_err(|error| format!("{url}: {error}"))?;
        Ok(Self::new(Arc::new(store), prefix, url, runtime))
    }

    fn path(&self, name: &str) -> Path {
        if self.prefix.as_ref().is_empty() { Path::from(name) } else { Path::from(format!("{}/{name}", self.prefix)) }
    }

    fn part(&self, name: &str, at: u64) -> Path {
        if at == 0 { self.path(name) } else { self.path(&format!("{name}{PARTS}{at:020}")) }
    }

    fn write(&self, path: &Path, bytes: Bytes) -> io::Result<()> {
        self.runtime.block_on(self.store.put(path, bytes.into())).map(|_| ()).map_err(failed)
    }

    fn delete(&self, path: &Path) -> io::Result<()> {
        match self.runtime.block_on(self.store.delete(path)) {
            Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
            Err(error) => Err(failed(error)),
        }
    }

    /// Objects below a folder, names from the prefix on.
    fn objects(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let below = self.path(folder);
        let below = if below.as_ref().is_empty() { None } else { Some(&below) };
        let found: Vec<_> = self.runtime.block_on(self.store.list(below).try_collect()).map_err(failed)?;
        let prefix = if self.prefix.as_ref().is_empty() { String::new() } else { format!("{}/", self.prefix) };
        let name = |path: &Path| path.as_ref().strip_prefix(&prefix).map(str::to_owned);
        Ok(found.iter().filter_map(|meta| Some((name(&meta.location)?, meta.size))).collect())
    }

    /// The parts of a file in the store, and positions of others that do not follow: what an interrupted step has left.
    fn look_up(&self, name: &str) -> io::Result<(Parts, Vec<u64>)> {
        let mut objects = self.objects(&format!("{name}{}", PARTS.trim_end_matches('/')))?;
        match self.runtime.block_on(self.store.head(&self.path(name))) {
            Ok(meta) => objects.push((name.to_owned(), meta.size)),
            Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(failed(error)),
        }
        Ok(parts_of(objects.into_iter()))
    }

    /// Does something with the parts of a file, which are looked up first; after an error they are forgotten.
    fn with_parts<T>(&self, name: &str, act: impl FnOnce(&mut Parts) -> io::Result<T>) -> io::Result<T> {
        let known = self.growing.lock().remove(name);
        let mut parts = match known {
            Some(parts) => parts,
            None => {
                let (parts, left) = self.look_up(name)?;
                left.into_iter().rev().try_for_each(|at| self.delete(&self.part(name, at)))?;
                parts
            }
        };
        let outcome = act(&mut parts)?;
        if !parts.is_empty() {
            self.growing.lock().insert(name.to_owned(), parts);
        }
        Ok(outcome)
    }

    fn cut(&self, name: &str, parts: &mut Parts, len: u64) -> io::Result<()> {
        while let Some((&at, &part_len)) = parts.last_key_value()
            && at + part_len > len
        {
            if at < len {
                let kept = self.runtime.block_on(self.store.get_range(&self.part(name, at), 0..len - at));
                self.write(&self.part(name, at), kept.map_err(failed)?)?;
                parts.insert(at, len - at);
            } else {
                self.delete(&self.part(name, at))?;
                parts.remove(&at);
            }
        }
        if end_of(parts) < len {
            return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{name} is shorter than it was left")));
        }
        Ok(())
    }

    /// Makes one part of many, where that is worth it. The merged one has the first's name and holds the others' bytes, so
    /// that at no moment a byte is missing.
    fn merge(&self, name: &str, parts: &mut Parts) -> io::Result<()> {
        let mut merged_bytes = 0;
        let small = parts.iter().map(|(at, len)| (*at, *len)).skip_while(|(_, len)| *len >= MERGED_BYTES_MAX / 2);
        let absorbed: Vec<(u64, u64)> = small
            .take_while(|(_, len)| {
                merged_bytes += len;
                merged_bytes <= MERGED_BYTES_MAX
            })
            .collect();
        let [(first, _), others @ ..] = absorbed.as_slice() else { return Ok(()) };
        if others.is_empty() {
            return Ok(());
        }
        let read = |(at, len): (u64, u64)| {
            let (store, path) = (self.store.clone(), self.part(name, at));
            async move { store.get_range(&path, 0..len).await }
        };
        let read = futures::stream::iter(absorbed.iter().copied().map(read)).buffered(READS_AT_ONCE);
        let pieces: Vec<Bytes> = self.runtime.block_on(read.try_collect()).map_err(failed)?;
        let merged = pieces.concat();
        let len = merged.len() as u64;
        self.write(&self.part(name, *first), merged.into())?;
        for (at, _) in others.iter().rev() {
            self.delete(&self.part(name, *at))?;
            parts.remove(at);
        }
        parts.insert(*first, len);
        Ok(())
    }
}

/// Parts from a listing: each that the one before reaches; and the positions of those that none does, or that a merged one
/// holds.
fn parts_of(objects: impl Iterator<Item = (String, u64)>) -> (Parts, Vec<u64>) {
    let position = |name: &str| name.rsplit_once(PARTS).map_or(Some(0), |(_, position)| position.parse().ok());
    let mut found: Vec<(u64, u64)> = objects.filter_map(|(name, len)| Some((position(&name)?, len))).collect();
    found.sort_unstable();
    let (mut parts, mut left) = (Parts::new(), Vec::new());
    for (at, len) in found {
        if at == end_of(&parts) {
            parts.insert(at, len);
        } else {
            left.push(at);
        }
    }
    (parts, left)
}

fn piece(content: &dyn ReadFile, at: u64, len: u64) -> io::Result<Bytes> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let mut filled = 0;
    while filled < bytes.len() {
        match content.read_at(at + filled as u64, &mut bytes[filled..])? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file became shorter while it was read")),
            count => filled += count,
        }
    }
    Ok(bytes.into())
}

fn end_of(parts: &Parts) -> u64 {
    parts.last_key_value().map_or(0, |(at, len)| at + len)
}

impl MirrorTarget for ObjectTarget {
    fn place(&self) -> String {
        self.place.clone()
    }

    fn append(&self, name: &str, at: u64, bytes: &[u8]) -> io::Result<()> {
        self.with_parts(name, |parts| {
            self.cut(name, parts, at)?;
            if parts.len() >= PARTS_MAX {
                self.merge(name, parts)?;
            }
            self.write(&self.part(name, at), Bytes::copy_from_slice(bytes))?;
            parts.insert(at, bytes.len() as u64);
            Ok(())
        })
    }

    fn truncate(&self, name: &str, len: u64) -> io::Result<()> {
        self.with_parts(name, |parts| if end_of(parts) == 0 && len == 0 { Ok(()) } else { self.cut(name, parts, len) })
    }

    fn flush(&self) -> io::Result<()> {
        // An object is durable when a put returns.
        Ok(())
    }

    fn put(&self, name: &str, content: &dyn ReadFile, len: u64) -> io::Result<()> {
        let path = self.path(name);
        // What is there is known before it is written over.
        self.with_parts(name, |_| Ok(()))?;
        if len <= PIECE_BYTES {
            self.write(&path, piece(content, 0, len)?)?;
        } else {
            let mut upload = self.runtime.block_on(self.store.put_multipart(&path)).map_err(failed)?;
            let mut at = 0;
            while at < len {
                let bytes = piece(content, at, (len - at).min(PIECE_BYTES))?;
                at += bytes.len() as u64;
                self.runtime.block_on(upload.put_part(bytes.into())).map_err(failed)?;
            }
            self.runtime.block_on(upload.complete()).map_err(failed)?;
        }
        self.with_parts(name, |parts| {
            parts.remove(&0);
            while let Some((&at, _)) = parts.last_key_value() {
                self.delete(&self.part(name, at))?;
                parts.remove(&at);
            }
            parts.insert(0, len);
            Ok(())
        })
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let content = match self.open_read(from) {
            Ok(content) => content,
            Err(error) if error.kind() == io::ErrorKind::NotFound && self.open_read(to).is_ok() => return Ok(()),
            Err(error) => return Err(error),
        };
        self.put(to, &*content, content.len()?)?;
        self.remove(from)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.with_parts(name, |parts| self.cut(name, parts, 0))?;
        // An empty file has an object, too.
        self.delete(&self.path(name))
    }

    fn list(&self, folder: &str) -> io::Result<Vec<(String, u64)>> {
        let mut files: BTreeMap<String, Vec<(String, u64)>> = BTreeMap::new();
        for (name, len) in self.objects(folder)? {
            let file = name.rsplit_once(PARTS).map_or(&*name, |(file, _)| file).to_owned();
            files.entry(file).or_default().push((name, len));
        }
        let whole = |(name, parts): (String, Vec<(String, u64)>)| {
            let (parts, _) = parts_of(parts.into_iter());
            (!parts.is_empty()).then(|| (name, end_of(&parts)))
        };
        Ok(files.into_iter().filter_map(whole).collect())
    }

    fn open_read(&self, name: &str) -> io::Result<Arc<dyn ReadFile>> {
        let known = self.growing.lock().get(name).cloned();
        let parts = match known {
            Some(parts) => parts,
            None => self.look_up(name)?.0,
        };
        if parts.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, format!("{}/{name} is not there", self.place)));
        }
        let pieces = parts.into_iter().map(|(at, len)| (at, len, self.part(name, at))).collect();
        Ok(Arc::new(Pieces { store: self.store.clone(), runtime: self.runtime.clone(), pieces }))
    }
}

/// A file made of objects: where each begins, its length and name.
struct Pieces {
    store: Arc<dyn ObjectStore>,
    runtime: Handle,
    pieces: Vec<(u64, u64, Path)>,
}

impl ReadFile for Pieces {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let index = self.pieces.partition_point(|(at, _, _)| *at <= offset).checked_sub(1);
        let Some((at, len, path)) = index.map(|index| &self.pieces[index]) else { return Ok(0) };
        let from = offset - at;
        let count = len.saturating_sub(from).min(buffer.len() as u64);
        if count == 0 {
            return Ok(0);
        }
        let bytes = self.runtime.block_on(self.store.get_range(path, from..from + count)).map_err(failed)?;
        buffer[..bytes.len()].copy_from_slice(&bytes);
        Ok(bytes.len())
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.pieces.last().map_or(0, |(at, len, _)| at + len))
    }
}
