//! A Delta table that holds exactly a relation's current rows, for other engines.
//!
//! Rows that come are appended. Rows that go are found by the bucket they hash into: files hold either the rows of
//! one bucket or, freshly appended, of any ("loose" files). A retraction rewrites the files of its bucket and the
//! loose ones; when these have grown, it sorts all of them into buckets. A small table is one bucket; the number of buckets doubles with the table. What a file holds stands in
//! its name (see [`crate::lake`]). Every commit carries the epoch as `txn` version, so the cursor moves with the rows.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{filter_record_batch, take_record_batch};
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::execution::SendableRecordBatchStream;
use futures::{StreamExt, TryStreamExt};
use weir_incremental::Delta;
use weir_pipeline::EpochNumber;
use weir_pipeline::sink::{DeliveryClass, Feed, Held, Sink, SinkError};

use crate::lake::file::{DataFile, FileWriter, Part, read_file};
use crate::lake::table::{Commit, EPOCH_TXN, LakeTable};
use crate::lake::{FILES_TO_MERGE, LakeError, LakeOptions, RowKeys, conform_rows, folder_url, size_class};

/// Table property: the feed's version.
const VERSION_PROPERTY: &str = "weir.version";
/// More would mean as many small files in a rewrite.
const BUCKETS_MAX: u32 = 64;
/// Buckets must be found again by later runs.
const BUCKET_SEED: u64 = 0;
impl From<LakeError> for SinkError {
    fn from(error: LakeError) -> Self {
        match error {
            LakeError::Schema(_) | LakeError::Foreign(_) | LakeError::Arrow(_) | LakeError::Parquet(_) => {
                Self::Refused(error.to_string())
            }
            _ => Self::Retry(error.to_string()),
        }
    }
}

/// An open lake table.
pub struct LakeSink {
    table: LakeTable,
    feed: Feed,
    options: LakeOptions,
}

impl LakeSink {
    /// Opens the table at `location` (a folder or URL), which need not exist yet.
    pub async fn open(location: &str, feed: Feed, options: LakeOptions) -> Result<Self, SinkError> {
        let table = LakeTable::open(&folder_url(location)?, &[EPOCH_TXN]).await?;
        Ok(Self { table, feed, options })
    }

    fn held(&self) -> Option<EpochNumber> {
        let held = self.table.txn(EPOCH_TXN) as u64;
        let same = self.table.property(VERSION_PROPERTY).is_some_and(|version| self.feed.continues(version, held));
        (self.table.version().is_some() && same).then_some(held)
    }

    fn writer(&self, bucket: (u32, u32)) -> FileWriter {
        FileWriter::contents(self.table.store(), self.feed.schema.clone(), bucket, self.options.file_bytes_target)
    }

    fn commit(
        &self,
        operation: &'static str,
        epoch: EpochNumber,
        added: Vec<DataFile>,
        removed: Vec<String>,
    ) -> Commit {
        let new = self.held().is_none();
        Commit {
            operation,
            schema: new.then(|| self.feed.schema.clone()),
            properties: if self.table.property(VERSION_PROPERTY) == Some(self.feed.version.as_str()) {
                Vec::new()
            } else {
                vec![(VERSION_PROPERTY.to_owned(), Some(self.feed.version.clone()))]
            },
            added,
            removed,
            txns: vec![(EPOCH_TXN.to_owned(), epoch as i64)],
            once: (!new).then_some(epoch as i64),
            layout_only: false,
        }
    }

    /// Rewrites the files that may hold `gone` rows, without these and with `come`.
    async fn rewrite(
        &mut self,
        epoch: EpochNumber,
        gone: &(RecordBatch, Vec<i64>),
        come: &RecordBatch,
    ) -> Result<(), SinkError> {
        let files: Vec<Arc<DataFile>> = self.table.files().cloned().collect();
        let bytes: u64 = files.iter().map(|file| file.size).sum();
        let buckets_now = files.iter().map(|file| bucket(file).1).max().unwrap_or(0).max(1);
        let wanted = (bytes / self.options.bucket_bytes).max(1).next_power_of_two().min(u64::from(BUCKETS_MAX)) as u32;
        let loose_bytes: u64 = files.iter().filter(|file| bucket(file).1 == 0).map(|file| file.size).sum();
        let whole = wanted > buckets_now || loose_bytes > 2 * self.options.bucket_bytes;
        let buckets = buckets_now.max(wanted);
        let place = Placement::new(&self.feed, buckets)?;
        let touched: BTreeSet<u32> =
            if whole { (0..buckets).collect() } else { place.of(&gone.0)?.into_iter().collect() };

        let (read, left): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| {
            let (bucket, of) = bucket(file);
            of != buckets || touched.contains(&bucket)
        });
        let (added, missing) = self.rewritten(&read, &place, &touched, gone, come).await?;
        let (read, added, missing) = if missing > 0 && !left.is_empty() {
            // The rows lie elsewhere than their hash says (a file of another release): look everywhere.
            let read: Vec<_> = read.into_iter().chain(left).collect();
            let everywhere = (0..buckets).collect();
            let (added, missing) = self.rewritten(&read, &place, &everywhere, gone, come).await?;
            (read, added, missing)
        } else {
            (read, added, missing)
        };
        if missing > 0 {
            return Err(SinkError::Refused(format!(
                "{missing} rows that {} took back are not in {}: somebody else has changed it; reload it",
                self.feed.relation,
                self.table.log_store().root_url()
            )));
        }
        let removed = read.iter().map(|file| file.path.clone()).collect();
        let commit = self.commit("MERGE", epoch, added, removed);
        self.table.commit(commit).await?;
        Ok(())
    }

    /// The rows of `read` without `gone`, and `come`, as new files; and how many of `gone` were not found.
    async fn rewritten(
        &self,
        read: &[Arc<DataFile>],
        place: &Placement,
        touched: &BTreeSet<u32>,
        gone: &(RecordBatch, Vec<i64>),
        come: &RecordBatch,
    ) -> Result<(Vec<DataFile>, u64), LakeError> {
        let schema = &self.feed.schema;
        let keys = RowKeys::new(schema, &(0..schema.fields().len()).collect::<Vec<_>>())?;
        let mut owed: HashMap<u128, i64> = HashMap::new();
        for (key, count) in keys.of(&gone.0)?.into_iter().zip(&gone.1) {
            *owed.entry(key).or_default() += count;
        }
        let mut writers: BTreeMap<(u32, u32), FileWriter> = BTreeMap::new();
        for file in read {
            let mut rows = read_file(self.table.store(), file, schema.clone()).await?;
            while let Some(batch) = rows.try_next().await? {
                let kept: BooleanArray = keys
                    .of(&batch)?
                    .into_iter()
                    .map(|key| match owed.get_mut(&key) {
                        Some(count) if *count > 0 => {
                            *count -= 1;
                            Some(false)
                        }
                        _ => Some(true),
                    })
                    .collect();
                let batch = filter_record_batch(&batch, &kept)?;
                self.distribute(&batch, place, touched, &mut writers).await?;
            }
        }
        self.distribute(come, place, touched, &mut writers).await?;
        let mut added = Vec::new();
        for writer in writers.into_values() {
            added.extend(writer.finish().await?);
        }
        Ok((added, owed.values().map(|count| *count as u64).sum()))
    }

    async fn distribute(
        &self,
        batch: &RecordBatch,
        place: &Placement,
        touched: &BTreeSet<u32>,
        writers: &mut BTreeMap<(u32, u32), FileWriter>,
    ) -> Result<(), LakeError> {
        let mut rows_of: BTreeMap<(u32, u32), Vec<u32>> = BTreeMap::new();
        for (row, bucket) in place.of(batch)?.into_iter().enumerate() {
            let target = if touched.contains(&bucket) { (bucket, place.buckets) } else { (0, 0) };
            rows_of.entry(target).or_default().push(row as u32);
        }
        for (target, rows) in rows_of {
            let part = if rows.len() == batch.num_rows() {
                batch.clone()
            } else {
                take_record_batch(batch, &UInt32Array::from(rows))?
            };
            writers.entry(target).or_insert_with(|| self.writer(target)).write(part).await?;
        }
        Ok(())
    }

    async fn upkeep(&mut self) -> Result<(), LakeError> {
        let mut classes: HashMap<u32, Vec<Arc<DataFile>>> = HashMap::new();
        for file in self.table.files() {
            if bucket(file).1 == 0 && file.size < self.options.file_bytes_target / 2 {
                classes.entry(size_class(file.size)).or_default().push(file.clone());
            }
        }
        for files in classes.into_values().filter(|files| files.len() >= FILES_TO_MERGE) {
            let mut writer = self.writer((0, 0));
            for file in &files {
                let mut rows = read_file(self.table.store(), file, self.feed.schema.clone()).await?;
                while let Some(batch) = rows.try_next().await? {
                    writer.write(batch).await?;
                }
            }
            let added = writer.finish().await?;
            let removed = files.iter().map(|file| file.path.clone()).collect();
            let commit = Commit { operation: "OPTIMIZE", added, removed, layout_only: true, ..Default::default() };
            self.table.commit(commit).await?;
        }
        self.table.checkpoint(self.options.checkpoint_commits).await?;
        self.table.vacuum(self.options.keep_removed).await
    }
}

#[async_trait]
impl Sink for LakeSink {
    fn class(&self) -> DeliveryClass {
        DeliveryClass::Transactional
    }

    async fn cursor(&mut self) -> Result<Option<EpochNumber>, SinkError> {
        self.table.settle_doubt().await?;
        Ok(self.held())
    }

    async fn read_back(&mut self) -> Result<Option<Held>, SinkError> {
        self.table.settle_doubt().await?;
        let mut held = Held { epoch: self.held(), rows: 0, checksum: 0 };
        let files: Vec<Arc<DataFile>> = self.table.files().cloned().collect();
        for file in files {
            let mut rows = read_file(self.table.store(), &file, self.feed.schema.clone()).await?;
            while let Some(batch) = rows.try_next().await? {
                held.rows += batch.num_rows() as i64;
                let sum = Delta::inserts(batch).checksum().map_err(|error| SinkError::Refused(error.to_string()))?;
                held.checksum = held.checksum.wrapping_add(sum);
            }
        }
        Ok(Some(held))
    }

    async fn apply(&mut self, epoch: EpochNumber, changes: &Delta) -> Result<(), SinkError> {
        self.table.settle_doubt().await?;
        if self.held().is_some_and(|held| held >= epoch) {
            return Ok(());
        }
        if self.table.version().is_some() && self.held().is_none() {
            return Err(SinkError::Refused(format!(
                "{} holds another version of {}; it must be reloaded",
                self.table.log_store().root_url(),
                self.feed.relation
            )));
        }
        let (come, gone) = split(&self.feed.schema, changes)?;
        if gone.0.num_rows() == 0 {
            let mut writer = self.writer((0, 0));
            writer.write(come).await?;
            let added = writer.finish().await?;
            let commit = self.commit("WRITE", epoch, added, Vec::new());
            self.table.commit(commit).await?;
        } else {
            self.rewrite(epoch, &gone, &come).await?;
        }
        // The rows are in; upkeep that fails is tried again with the next change.
        if let Err(error) = self.upkeep().await {
            tracing::warn!(relation = %self.feed.relation, %error, "upkeep of a lake sink failed");
        }
        Ok(())
    }

    async fn reload(&mut self, epoch: EpochNumber, mut contents: SendableRecordBatchStream) -> Result<(), SinkError> {
        self.table.settle_doubt().await?;
        let mut writer = self.writer((0, 0));
        while let Some(batch) = contents.next().await {
            let batch = batch.map_err(|error| SinkError::Retry(error.to_string()))?;
            writer.write(batch).await?;
        }
        let added = writer.finish().await?;
        let removed = self.table.files().map(|file| file.path.clone()).collect();
        let commit = Commit {
            schema: Some(self.feed.schema.clone()),
            properties: vec![(VERSION_PROPERTY.to_owned(), Some(self.feed.version.clone()))],
            once: None,
            ..self.commit("WRITE", epoch, added, removed)
        };
        self.table.commit(commit).await?;
        Ok(())
    }
}

/// Bucket and number of buckets of a file; 0 buckets when it may hold any row.
fn bucket(file: &DataFile) -> (u32, u32) {
    match file.part {
        Part::Contents { bucket, buckets } => (bucket, buckets),
        _ => (0, 0),
    }
}

/// Rows that come, each as often as its weight says, and rows that go with how often.
fn split(schema: &SchemaRef, changes: &Delta) -> Result<(RecordBatch, (RecordBatch, Vec<i64>)), LakeError> {
    let rows = conform_rows(&changes.rows, schema)?;
    let (mut come, mut gone, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    for (row, weight) in changes.weights.values().iter().enumerate() {
        if *weight > 0 {
            come.extend(std::iter::repeat_n(row as u32, *weight as usize));
        } else if *weight < 0 {
            gone.push(row as u32);
            counts.push(-weight);
        }
    }
    let come = take_record_batch(&rows, &UInt32Array::from(come))?;
    let gone = take_record_batch(&rows, &UInt32Array::from(gone))?;
    Ok((come, (gone, counts)))
}

/// Where rows belong: a hash of the key, or of the whole row.
struct Placement {
    keys: RowKeys,
    buckets: u32,
}

impl Placement {
    fn new(feed: &Feed, buckets: u32) -> Result<Self, LakeError> {
        let columns: Vec<usize> = if feed.key.is_empty() {
            (0..feed.schema.fields().len()).collect()
        } else {
            feed.key.iter().map(|name| feed.schema.index_of(name)).collect::<Result<_, _>>()?
        };
        Ok(Self { keys: RowKeys::with_seed(&feed.schema, &columns, BUCKET_SEED)?, buckets })
    }

    fn of(&self, batch: &RecordBatch) -> Result<Vec<u32>, LakeError> {
        let buckets = u128::from(self.buckets);
        Ok(self.keys.of(batch)?.into_iter().map(|hash| (hash % buckets) as u32).collect())
    }
}
