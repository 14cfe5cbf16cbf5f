//! Data files whose bytes are checked whenever they are read, however little of them is.
//!
//! Parquet's own page checksums are neither written nor, without a feature, checked by the library that we share with
//! DataFusion. So a file is laid out as: row groups up to a position D; the xxh3 (u64, little endian) of each block of
//! [`BLOCK_BYTES`] of them; then whatever Parquet puts behind row groups, the footer last. Parquet goes by positions and
//! does not see the checksums between. The last field of the file's name holds D and the xxh3 of everything from D on:
//! `<unique, 8 digits>x<D>x<xxh3, 16 digits>`, all hexadecimal. So
//!
//! 1. a name vouches for the tail of its file, the tail for each block: no byte is unaccounted for, and a file that has
//!    taken the place of another one does not pass for it;
//! 2. a reader of any range reads the blocks that it touches, checks them, and hands on what was asked for;
//! 3. files of other names (of earlier releases, or of other programs) are read unchecked.

use std::collections::HashMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use deltalake::logstore::object_store::{
    CopyOptions, Error, GetOptions, GetRange, GetResult, GetResultPayload, ListResult, MultipartUpload, ObjectMeta,
    ObjectStore, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, path::Path,
};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use parking_lot::Mutex;
use parquet::arrow::ArrowWriter;
use uuid::Uuid;
use xxhash_rust::xxh3::xxh3_64;

use super::LakeError;

/// Bytes that one checksum covers: what a reader of a single value reads at least.
const BLOCK_BYTES: u64 = 64 << 10;
const SUM_BYTES: usize = 8;
/// Checksums of so many files are kept in memory, a few KiB each.
const FILES_KEPT_MAX: usize = 4096;

/// Bytes of a data file that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} is damaged at byte {position}: {what}; `weir doctor` says what can be done")]
pub(crate) struct FileDamage {
    /// The file's place.
    pub file: String,
    /// Where in it the damage begins, in bytes.
    pub position: u64,
    /// What does not fit.
    pub what: &'static str,
}

const NOT_WRITTEN: &str = "its bytes are not what was written";
const CUT_SHORT: &str = "it is cut short";

/// What the name of a file says of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seal {
    data_end: u64,
    tail_sum: u64,
}

impl Seal {
    fn of_name(path: &str) -> Option<Self> {
        let unique = path.strip_suffix(".parquet")?.rsplit('-').next()?;
        let mut fields = unique.split('x');
        let (random, data_end, sum) = (fields.next()?, fields.next()?, fields.next()?);
        if random.len() != 8 || sum.len() != 16 || fields.next().is_some() {
            return None;
        }
        Some(Self { data_end: u64::from_str_radix(data_end, 16).ok()?, tail_sum: u64::from_str_radix(sum, 16).ok()? })
    }

    fn blocks(&self) -> usize {
        self.data_end.div_ceil(BLOCK_BYTES) as usize
    }

    /// What has to be read to check a range: whole blocks, and all of the tail when it is touched; None for the end of the
    /// file.
    fn around(&self, range: &Range<u64>) -> (u64, Option<u64>) {
        let start = if range.start < self.data_end { range.start / BLOCK_BYTES * BLOCK_BYTES } else { self.data_end };
        let end = range.end.div_ceil(BLOCK_BYTES) * BLOCK_BYTES;
        (start, (range.end <= self.data_end).then_some(end.min(self.data_end)))
    }

    /// The first block in `bytes`, which are those from `at` on, that is not what was written.
    fn damage(&self, sums: &[u64], at: u64, bytes: &[u8]) -> Option<u64> {
        let mut at = at;
        let mut rest = bytes;
        while !rest.is_empty() {
            let (wanted, end) = if at < self.data_end {
                let block = (at / BLOCK_BYTES) as usize;
                (sums.get(block).copied(), (at + BLOCK_BYTES).min(self.data_end))
            } else {
                (Some(self.tail_sum), at + rest.len() as u64)
            };
            let Some((block, after)) = rest.split_at_checked((end - at) as usize) else { return Some(at) };
            if wanted != Some(xxh3_64(block)) {
                return Some(at);
            }
            (at, rest) = (end, after);
        }
        None
    }
}

/// Ends a file's row groups with their checksums and its footer; returns its bytes and the last field of its name.
pub(super) fn finish(
    writer: &mut ArrowWriter<Vec<u8>>,
) -> Result<(Vec<u8>, String, parquet::file::metadata::ParquetMetaData), LakeError> {
    writer.flush()?;
    writer.sync().map_err(parquet::errors::ParquetError::from)?;
    let data_end = writer.inner().len();
    let sums: Vec<u8> =
        writer.inner().chunks(BLOCK_BYTES as usize).flat_map(|block| xxh3_64(block).to_le_bytes()).collect();
    writer.write_all(&sums).map_err(parquet::errors::ParquetError::from)?;
    let metadata = writer.finish()?;
    let bytes = std::mem::take(writer.inner_mut());
    let random = Uuid::new_v4().as_fields().0;
    let unique = format!("{random:08x}x{data_end:x}x{:016x}", xxh3_64(&bytes[data_end..]));
    Ok((bytes, unique, metadata))
}

/// The store of one table, whose data files are checked as they are read.
pub(crate) struct CheckedStore {
    inner: Arc<dyn ObjectStore>,
    /// What the paths are relative to, for messages.
    place: String,
    sums: Mutex<HashMap<Path, Arc<Vec<u64>>>>,
}

impl fmt::Debug for CheckedStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("CheckedStore").field("place", &self.place).finish_non_exhaustive()
    }
}

impl fmt::Display for CheckedStore {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "checked {}", self.inner)
    }
}

impl CheckedStore {
    /// Over `inner`, which is what lies at `place`.
    pub fn new(inner: Arc<dyn ObjectStore>, place: String) -> Self {
        Self { inner, place, sums: Mutex::default() }
    }

    /// What the paths are relative to, for messages.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Every damage of a data file of so many bytes, read whole; None when its name does not vouch for it.
    pub async fn inspect(&self, path: &Path, size: u64) -> Result<Option<Vec<FileDamage>>> {
        let Some(seal) = Seal::of_name(path.as_ref()) else { return Ok(None) };
        let bytes = self.inner.get_opts(path, GetOptions::default()).await?.bytes().await?;
        let mut damages = Vec::new();
        let data_end = seal.data_end as usize;
        if (bytes.len() as u64) < size.max(seal.data_end) {
            damages.push(self.damage(path, bytes.len() as u64, CUT_SHORT));
        }
        let (data, tail) = bytes.split_at_checked(data_end).unwrap_or((&bytes, &[]));
        if seal.damage(&[], seal.data_end, tail).is_some() || tail.is_empty() {
            if damages.is_empty() {
                damages.push(self.damage(path, seal.data_end, NOT_WRITTEN));
            }
            // Without its checksums nothing can be said of the rest.
            return Ok(Some(damages));
        }
        let sums = decode(tail, seal.blocks()).unwrap_or_default();
        for (index, block) in data.chunks(BLOCK_BYTES as usize).enumerate() {
            let at = index as u64 * BLOCK_BYTES;
            if seal.damage(&sums, at, block).is_some() {
                damages.push(self.damage(path, at, NOT_WRITTEN));
            }
        }
        Ok(Some(damages))
    }

    fn damage(&self, path: &Path, position: u64, what: &'static str) -> FileDamage {
        FileDamage { file: format!("{}{path}", self.place), position, what }
    }

    fn refuse(&self, path: &Path, position: u64, what: &'static str) -> Error {
        Error::Generic { store: "lake", source: Box::new(self.damage(path, position, what)) }
    }

    /// The checksums of a file's blocks, from memory or from its tail.
    async fn sums(&self, path: &Path, seal: Seal) -> Result<Arc<Vec<u64>>> {
        if let Some(known) = self.sums.lock().get(path) {
            return Ok(known.clone());
        }
        let options = GetOptions { range: Some(GetRange::Offset(seal.data_end)), ..GetOptions::default() };
        let tail = match self.inner.get_opts(path, options).await {
            Ok(result) => result.bytes().await?,
            Err(error @ Error::NotFound { .. }) => return Err(error),
            // The range is there unless the file is shorter than its name says.
            Err(_) if self.inner.get_opts(path, head()).await?.meta.size <= seal.data_end => {
                return Err(self.refuse(path, seal.data_end, CUT_SHORT));
            }
            Err(error) => return Err(error),
        };
        if seal.damage(&[], seal.data_end, &tail).is_some() {
            return Err(self.refuse(path, seal.data_end, NOT_WRITTEN));
        }
        let sums = decode(&tail, seal.blocks()).ok_or_else(|| self.refuse(path, seal.data_end, NOT_WRITTEN))?;
        let sums = Arc::new(sums);
        let mut kept = self.sums.lock();
        if kept.len() >= FILES_KEPT_MAX {
            kept.clear();
        }
        kept.insert(path.clone(), sums.clone());
        Ok(sums)
    }

    /// Checks what was read around a range, and cuts the range out of it.
    fn cut(
        &self,
        path: &Path,
        seal: Seal,
        sums: &[u64],
        range: &Range<u64>,
        start: u64,
        bytes: &Bytes,
    ) -> Result<Bytes> {
        if let Some(position) = seal.damage(sums, start, bytes) {
            return Err(self.refuse(path, position, NOT_WRITTEN));
        }
        let cut = (range.start - start) as usize..(range.end - start) as usize;
        if cut.end > bytes.len() {
            return Err(self.refuse(path, start + bytes.len() as u64, CUT_SHORT));
        }
        Ok(bytes.slice(cut))
    }
}

fn head() -> GetOptions {
    GetOptions { head: true, ..GetOptions::default() }
}

fn decode(tail: &[u8], blocks: usize) -> Option<Vec<u64>> {
    let (sums, _) = tail.get(..blocks * SUM_BYTES)?.as_chunks::<SUM_BYTES>();
    Some(sums.iter().map(|sum| u64::from_le_bytes(*sum)).collect())
}

#[async_trait]
impl ObjectStore for CheckedStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        let seal = Seal::of_name(location.as_ref()).filter(|_| !options.head);
        let Some(seal) = seal else { return self.inner.get_opts(location, options).await };
        let sums = self.sums(location, seal).await?;
        let meta = self.inner.get_opts(location, head()).await?.meta;
        let wanted = match options.range {
            None => 0..meta.size,
            Some(GetRange::Bounded(ref range)) => range.start..range.end.min(meta.size),
            Some(GetRange::Offset(from)) => from..meta.size,
            Some(GetRange::Suffix(count)) => meta.size.saturating_sub(count)..meta.size,
        };
        if wanted.is_empty() {
            return self.inner.get_opts(location, options).await;
        }
        let (start, end) = seal.around(&wanted);
        let range = Some(end.map_or(GetRange::Offset(start), |end| GetRange::Bounded(start..end)));
        let read = self.inner.get_opts(location, GetOptions { range, ..options }).await?;
        let attributes = read.attributes.clone();
        let bytes = self.cut(location, seal, &sums, &wanted, start, &read.bytes().await?)?;
        let payload = GetResultPayload::Stream(futures::stream::once(async move { Ok(bytes) }).boxed());
        Ok(GetResult { payload, meta, range: wanted, attributes })
    }

    async fn get_ranges(&self, location: &Path, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        let Some(seal) = Seal::of_name(location.as_ref()) else {
            return self.inner.get_ranges(location, ranges).await;
        };
        let sums = self.sums(location, seal).await?;
        let around: Vec<(u64, Option<u64>)> = ranges.iter().map(|range| seal.around(range)).collect();
        if around.iter().any(|(_, end)| end.is_none()) {
            // Something of the tail: as single reads, which know where it ends.
            return futures::stream::iter(ranges.iter().cloned())
                .then(|range| async {
                    let options = GetOptions { range: Some(GetRange::Bounded(range)), ..GetOptions::default() };
                    self.get_opts(location, options).await?.bytes().await
                })
                .try_collect()
                .await;
        }
        let aligned: Vec<Range<u64>> = around.iter().map(|(start, end)| *start..end.unwrap_or(seal.data_end)).collect();
        let read = self.inner.get_ranges(location, &aligned).await?;
        let parts = read.iter().zip(&aligned).zip(ranges);
        parts.map(|((bytes, read), range)| self.cut(location, seal, &sums, range, read.start, bytes)).collect()
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await
    }
}
