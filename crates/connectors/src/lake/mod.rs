//! The lake: histories of all relations as Delta tables that any engine reads.
//!
//! Each relation has one table, `<schema or "main">/<name>` under the lake's folder: its columns, `_weight`,
//! `_epoch`. One landing adds at most one commit to each table that changed, with the landing's epoch as its
//! `txn` version, and last one commit to the table `weir_epochs`, which names the version of every table that
//! belongs to the landing. That commit makes the landing visible:
//!
//! 1. What is landed is the `txn` version of `weir_epochs`; rows of later epochs, left in tables by a landing that
//!    did not end, are not shown to readers.
//! 2. Such a landing is repeated by the pipeline, with what has come since, and may sum up its changes otherwise: a table that
//!    holds the landing's epoch already is left as it is; from any other, rows that are not shown are taken away by the
//!    commit that adds theirs again.
//! 3. A relation's contents at a landed epoch are the sum of its rows up to it: layout changes keep every row.
//!    Rows may cancel only up to the horizon, which is recorded as the `txn` version of `weir_horizon`.
//! 4. No byte that storage changed is passed on: data files are checked as they are read ([`checked`]), logs when a
//!    table is opened ([`log_sums`]).

mod checked;
pub(crate) mod file;
pub mod inspect;
mod keys;
mod log_sums;
mod maintain;
mod scan;
mod schema;
mod shipped;
pub(crate) mod table;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use deltalake::DeltaTableError;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::{StorageConfig, logstore_for, object_store};
use futures::{StreamExt, TryStreamExt};
use parking_lot::RwLock;
use tokio::sync::Mutex;
use url::Url;
use weir_incremental::{Delta, Relation};
use weir_pipeline::EpochNumber;
use weir_pipeline::history::{History, HistoryError, Landing, bookkept, with_bookkeeping};

use file::{DataFile, FileWriter, landed};
use scan::LakeScan;
use schema::{check_evolution, conform};
use table::{Commit, EPOCH_TXN, LakeTable};

pub(crate) use keys::RowKeys;
pub(crate) use maintain::{FILES_TO_MERGE, size_class};
pub(crate) use schema::conform as conform_rows;
pub use shipped::{ShippedHistory, shipping_order};

/// `txn` name of a table's horizon.
const HORIZON_TXN: &str = "weir_horizon";
/// Table property: the exact name of the relation.
const RELATION_PROPERTY: &str = "weir.relation";
/// Table property: the relation was dropped and not landed since.
const DROPPED_PROPERTY: &str = "weir.dropped";
/// Folder of the table of landings.
const EPOCHS_TABLE: &str = "weir_epochs";
/// How many tables are worked on at a time.
const PARALLEL_TABLES: usize = 4;
/// Small deltas are joined to batches of about so many rows before they are encoded.
const BATCH_ROWS: usize = 64 * 1024;
/// A landing of so many rows is encoded on several cores, a file each.
const PART_ROWS_MIN: usize = 4 * BATCH_ROWS;
const PARTS_MAX: usize = 4;

/// Sizes and times of the lake.
#[derive(Debug, Clone)]
pub struct LakeOptions {
    /// Files are written, and merged, up to about this size.
    pub file_bytes_target: u64,
    /// How long a file stays on disk after it has left its table, for readers outside this process.
    pub keep_removed: Duration,
    /// Bytes of files that one [`History::maintain`] rewrites in one table at most.
    pub rewrite_bytes_max: u64,
    /// Rows with a negative weight that are held in memory at most to cancel others; 24 bytes each.
    pub cancel_rows_max: u64,
    /// Commits between checkpoints of a table's log.
    pub checkpoint_commits: u64,
    /// For tables of contents: bytes of one bucket, the least that a retraction rewrites in a large table.
    pub bucket_bytes: u64,
}

impl Default for LakeOptions {
    fn default() -> Self {
        Self {
            file_bytes_target: 128 << 20,
            keep_removed: Duration::from_secs(3600),
            rewrite_bytes_max: 1 << 30,
            cancel_rows_max: 8 << 20,
            checkpoint_commits: 100,
            bucket_bytes: 16 << 20,
        }
    }
}

/// What can go wrong with a lake table.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LakeError {
    /// The store failed.
    #[error("lake store: {0}")]
    Store(String),
    /// A table's log could not be read or written.
    #[error("Delta log: {0}")]
    Log(String),
    /// A file of a table's log is not what was written.
    #[error("{file} is damaged: {what}; `weir doctor` says what can be done")]
    Damaged {
        /// The file's place.
        file: String,
        /// What does not fit.
        what: String,
    },
    /// A type or column does not fit.
    #[error("{0}")]
    Schema(String),
    /// A Delta table that another program made stands where ours should be.
    #[error("{0} is a Delta table that Weir did not make")]
    Foreign(String),
    /// Another program changed the table in a way that contradicts ours.
    #[error("{0} was changed by another program at the same time")]
    Conflict(String),
    /// A file could not be encoded or decoded.
    #[error("Parquet: {0}")]
    Parquet(#[from] parquet::errors::ParquetError),
    /// Rows could not be converted.
    #[error("{0}")]
    Arrow(#[from] arrow::error::ArrowError),
    /// A thread of ours died.
    #[error("a thread of the lake died: {0}")]
    Crashed(String),
}

impl LakeError {
    pub(crate) fn crashed(error: tokio::task::JoinError) -> Self {
        Self::Crashed(error.to_string())
    }
}

impl From<object_store::Error> for LakeError {
    fn from(error: object_store::Error) -> Self {
        Self::Store(error.to_string())
    }
}

impl From<DeltaTableError> for LakeError {
    fn from(error: DeltaTableError) -> Self {
        Self::Log(error.to_string())
    }
}

impl From<TransactionError> for LakeError {
    fn from(error: TransactionError) -> Self {
        Self::Log(error.to_string())
    }
}

impl From<LakeError> for HistoryError {
    fn from(error: LakeError) -> Self {
        Self(error.to_string())
    }
}

type TableHandle = Arc<Mutex<LakeTable>>;

/// The histories of one project, under one folder (or URL). One process at a time may have it open.
pub struct LakeHistory {
    root: Url,
    options: LakeOptions,
    tables: RwLock<BTreeMap<Relation, TableHandle>>,
    epochs: Mutex<LakeTable>,
    landed: AtomicU64,
    lost: BTreeMap<Relation, String>,
    horizons: RwLock<BTreeMap<Relation, EpochNumber>>,
    landing: Mutex<()>,
    maintaining: Mutex<()>,
}

impl LakeHistory {
    /// Opens the lake at `location`, a folder (made if missing) or a URL, and finds what is in it.
    pub async fn open(location: &str, options: LakeOptions) -> Result<Self, HistoryError> {
        Ok(Self::open_inner(location, options).await?)
    }

    async fn open_inner(location: &str, options: LakeOptions) -> Result<Self, LakeError> {
        let root = folder_url(location)?;
        let store = logstore_for(&root, StorageConfig::default())?.object_store(None);
        let mut locations = Vec::new();
        for schema in store.list_with_delimiter(None).await?.common_prefixes {
            if schema.as_ref() != EPOCHS_TABLE {
                locations.extend(store.list_with_delimiter(Some(&schema)).await?.common_prefixes);
            }
        }
        let tables: Vec<Option<LakeTable>> = futures::stream::iter(locations)
            .map(|path| open_at(&root, path.to_string()))
            .buffer_unordered(PARALLEL_TABLES)
            .map(|opened| match opened {
                // A guest in the lake's folder, in nobody's way until a relation has its name.
                Err(LakeError::Foreign(_)) => Ok(None),
                other => other.map(Some),
            })
            .try_collect()
            .await?;
        let epochs = open_at(&root, EPOCHS_TABLE.to_owned()).await?;
        let landed = epochs.txn(EPOCH_TXN) as u64;
        let named = inspect::last_landing(&epochs).await?;
        let mut lost: BTreeMap<Relation, String> = named
            .values()
            .map(|named| (Relation::from(named.relation.as_str()), "the table is missing".to_owned()))
            .collect();
        let (mut by_name, mut horizons) = (BTreeMap::new(), BTreeMap::new());
        for table in tables.into_iter().flatten() {
            let Some(relation) = table.property(RELATION_PROPERTY).map(Relation::from) else {
                continue;
            };
            lost.remove(&relation);
            let named = named.values().find(|named| named.relation == relation.as_ref()).map(|named| named.version);
            if let (Some(held), Some(named)) = (table.version(), named)
                && held < named
            {
                let what = format!("its log ends with version {held}, and the last landing has version {named}");
                lost.insert(relation.clone(), what);
            }
            horizons.insert(relation.clone(), table.txn(HORIZON_TXN) as u64);
            by_name.insert(relation, Arc::new(Mutex::new(table)));
        }
        Ok(Self {
            root,
            options,
            tables: RwLock::new(by_name),
            epochs: Mutex::new(epochs),
            landed: AtomicU64::new(landed),
            lost,
            horizons: RwLock::new(horizons),
            landing: Mutex::new(()),
            maintaining: Mutex::new(()),
        })
    }

    /// Begins the table of landings, where it is missing, with an epoch that is landed beyond doubt.
    ///
    /// # Errors
    /// When it is not missing, or the store fails.
    pub async fn begin_landings(&self, epoch: EpochNumber) -> Result<(), HistoryError> {
        if self.epochs.lock().await.version().is_some() {
            return Err(HistoryError("the lake has a table of landings".into()));
        }
        self.publish(epoch).await?;
        self.landed.store(epoch, Ordering::Release);
        Ok(())
    }

    /// Relations whose tables are not those that the last landing left, and what is wrong with them.
    pub fn lost(&self) -> &BTreeMap<Relation, String> {
        &self.lost
    }

    fn table(&self, relation: &Relation) -> Option<TableHandle> {
        self.tables.read().get(relation).cloned()
    }

    fn all_tables(&self) -> Vec<(Relation, TableHandle)> {
        self.tables.read().iter().map(|(relation, table)| (relation.clone(), table.clone())).collect()
    }

    async fn table_or_new(&self, relation: &Relation) -> Result<TableHandle, LakeError> {
        if let Some(table) = self.table(relation) {
            return Ok(table);
        }
        let table = Arc::new(Mutex::new(open_at(&self.root, table_path(relation)).await?));
        Ok(self.tables.write().entry(relation.clone()).or_insert(table).clone())
    }

    async fn land_one(&self, epoch: EpochNumber, landing: Landing) -> Result<(), LakeError> {
        let handle = self.table_or_new(&landing.relation).await?;
        let schema = with_bookkeeping(&landing.schema);
        let landed_to = self.landed();
        let (store, held, leftovers) = {
            let table = handle.lock().await;
            if let (Some(old), None) = (table.schema(), table.property(DROPPED_PROPERTY)) {
                check_evolution(old, &schema)
                    .map_err(|error| LakeError::Schema(format!("{}: {error}", landing.relation)))?;
            }
            let leftovers = table.files().filter(|file| file.epochs().1 > landed_to).map(|file| file.path.clone());
            (table.store(), table.txn(EPOCH_TXN) as u64, leftovers.collect::<Vec<_>>())
        };
        if held >= epoch {
            return Ok(());
        }
        let changes: Vec<(EpochNumber, Delta)> =
            landing.changes.into_iter().filter(|(_, delta)| !delta.is_empty()).collect();
        let writers = parts(changes).into_iter().map(|changes| self.write_part(store.clone(), &schema, changes));
        let added: Vec<DataFile> = futures::future::try_join_all(writers).await?.into_iter().flatten().collect();
        let mut table = handle.lock().await;
        let dropped = table.property(DROPPED_PROPERTY).is_some();
        if added.is_empty() && leftovers.is_empty() && table.version().is_some() && !dropped {
            return Ok(());
        }
        let mut properties = Vec::new();
        if table.version().is_none() {
            properties.push((RELATION_PROPERTY.to_owned(), Some(landing.relation.to_string())));
        }
        if dropped {
            properties.push((DROPPED_PROPERTY.to_owned(), None));
        }
        let schema = (table.schema() != Some(&schema)).then_some(schema);
        let txns = vec![(EPOCH_TXN.to_owned(), epoch as i64)];
        let once = Some(epoch as i64);
        table
            .commit(Commit {
                operation: "WRITE",
                schema,
                properties,
                added,
                removed: leftovers,
                txns,
                once,
                ..Default::default()
            })
            .await?;
        Ok(())
    }

    /// Writes the changes of some epochs as files.
    async fn write_part(
        &self,
        store: Arc<dyn object_store::ObjectStore>,
        schema: &SchemaRef,
        changes: Vec<(EpochNumber, Delta)>,
    ) -> Result<Vec<DataFile>, LakeError> {
        let mut writer = FileWriter::changes(store, schema.clone(), self.options.file_bytes_target, landed());
        // Many small deltas of many epochs make one batch: few large row groups, one encoding.
        let (mut open, mut rows) = (Vec::new(), 0);
        for (epoch, delta) in changes {
            rows += delta.len();
            open.push(conform(&bookkept(epoch, &delta)?, schema)?);
            if rows >= BATCH_ROWS {
                writer.write(concat_batches(schema, &open)?).await?;
                open.clear();
                rows = 0;
            }
        }
        if !open.is_empty() {
            writer.write(concat_batches(schema, &open)?).await?;
        }
        writer.finish().await
    }

    /// Writes the landing's row per relation to `weir_epochs`: the step that makes it visible.
    async fn publish(&self, epoch: EpochNumber) -> Result<(), LakeError> {
        let (mut relations, mut paths, mut versions) = (Vec::new(), Vec::new(), Vec::new());
        for (relation, handle) in self.all_tables() {
            if let Some(version) = handle.lock().await.version() {
                paths.push(table_path(&relation));
                relations.push(relation.to_string());
                versions.push(version as i64);
            }
        }
        let rows = relations.len();
        let schema = epochs_schema();
        let now = chrono::Utc::now().timestamp_micros();
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from_value(epoch as i64, rows)),
            Arc::new(StringArray::from(relations)),
            Arc::new(StringArray::from(paths)),
            Arc::new(Int64Array::from(versions)),
            Arc::new(TimestampMicrosecondArray::from_value(now, rows).with_timezone("UTC")),
        ];
        let batch = RecordBatch::try_new(schema.clone(), columns)?;
        let mut table = self.epochs.lock().await;
        let mut writer = FileWriter::changes(table.store(), schema.clone(), self.options.file_bytes_target, landed());
        writer.write(batch).await?;
        let added = writer.finish().await?;
        let schema = (table.schema() != Some(&schema)).then_some(schema);
        let txns = vec![(EPOCH_TXN.to_owned(), epoch as i64)];
        let once = Some(epoch as i64);
        table.commit(Commit { operation: "WRITE", schema, added, txns, once, ..Default::default() }).await?;
        Ok(())
    }
}

#[async_trait]
impl History for LakeHistory {
    fn landed(&self) -> EpochNumber {
        self.landed.load(Ordering::Acquire)
    }

    async fn land(&self, epoch: EpochNumber, landings: Vec<Landing>) -> Result<(), HistoryError> {
        let _one_at_a_time = self.landing.lock().await;
        if epoch <= self.landed() {
            return Ok(());
        }
        futures::stream::iter(landings)
            .map(|landing| self.land_one(epoch, landing))
            .buffer_unordered(PARALLEL_TABLES)
            .try_collect::<()>()
            .await?;
        self.publish(epoch).await?;
        self.landed.store(epoch, Ordering::Release);
        Ok(())
    }

    async fn changes(
        &self,
        relation: &Relation,
        after: EpochNumber,
        up_to: EpochNumber,
    ) -> Result<Option<Arc<dyn TableProvider>>, HistoryError> {
        let Some(handle) = self.table(relation) else {
            return Ok(None);
        };
        let table = handle.lock().await;
        let up_to = up_to.min(self.landed());
        let Some(schema) = table.schema().filter(|_| table.property(DROPPED_PROPERTY).is_none()) else {
            return Ok(None);
        };
        let mut files: Vec<Arc<DataFile>> =
            table.files().filter(|file| file.epochs().0 <= up_to && file.epochs().1 > after).cloned().collect();
        files.sort_by_key(|file| file.epochs());
        Ok(Some(Arc::new(LakeScan {
            log_store: table.log_store().clone(),
            store: table.store(),
            schema: schema.clone(),
            files,
            epochs: Some((after, up_to)),
        })))
    }

    fn horizon(&self, relation: &Relation) -> EpochNumber {
        self.horizons.read().get(relation).copied().unwrap_or(0)
    }

    async fn maintain(&self, horizon: EpochNumber) -> Result<(), HistoryError> {
        let _one_at_a_time = self.maintaining.lock().await;
        for (relation, handle) in self.all_tables() {
            let merged = maintain::maintain(&handle, horizon, self.landed(), &self.options).await?;
            self.horizons.write().insert(relation, merged);
        }
        maintain::maintain_epochs(&self.epochs, &self.options).await?;
        Ok(())
    }

    async fn drop_relation(&self, relation: &Relation) -> Result<(), HistoryError> {
        let Some(handle) = self.table(relation) else {
            return Ok(());
        };
        let mut table = handle.lock().await;
        if table.version().is_none() || table.property(DROPPED_PROPERTY).is_some() {
            return Ok(());
        }
        // A landing that did not end may have left a later epoch: what comes next must not be taken for it.
        let txns = vec![(EPOCH_TXN.to_owned(), self.landed() as i64), (HORIZON_TXN.to_owned(), 0)];
        let removed = table.files().map(|file| file.path.clone()).collect();
        let properties = vec![(DROPPED_PROPERTY.to_owned(), Some("true".to_owned()))];
        table.commit(Commit { operation: "DELETE", properties, removed, txns, ..Default::default() }).await?;
        self.horizons.write().insert(relation.clone(), 0);
        Ok(())
    }

    async fn bytes(&self) -> Result<Vec<(Relation, u64)>, HistoryError> {
        let mut bytes = Vec::new();
        for (relation, handle) in self.all_tables() {
            bytes.push((relation, handle.lock().await.bytes()));
        }
        Ok(bytes)
    }
}

/// Whether a relation of such a schema can be kept in the lake: to be asked before anything runs, since one relation
/// that cannot holds up every landing. The error says which column and why.
pub fn check_schema(schema: &Schema) -> Result<(), HistoryError> {
    schema::delta_schema(&with_bookkeeping(schema))?;
    Ok(())
}

/// The URL of a folder given as a path or URL; a missing local folder is made.
pub(crate) fn folder_url(location: &str) -> Result<Url, LakeError> {
    let mut url = deltalake::ensure_table_uri(location)?;
    if !url.path().ends_with('/') {
        url.set_path(&format!("{}/", url.path()));
    }
    if url.scheme() == "file"
        && let Ok(folder) = url.to_file_path()
    {
        std::fs::create_dir_all(&folder).map_err(|error| LakeError::Store(format!("{}: {error}", folder.display())))?;
    }
    Ok(url)
}

async fn open_at(root: &Url, path: String) -> Result<LakeTable, LakeError> {
    let url = root.join(&format!("{path}/")).map_err(|error| LakeError::Store(format!("{path}: {error}")))?;
    LakeTable::open(&url, &[EPOCH_TXN, HORIZON_TXN]).await
}

/// `finance.daily` is `finance/daily`, `clicks` is `main/clicks`; what could not stand in a path is written `%xx`.
fn table_path(relation: &str) -> String {
    let (schema, name) = relation.split_once('.').unwrap_or(("main", relation));
    format!("{}/{}", path_segment(schema), path_segment(name))
}

fn path_segment(name: &str) -> String {
    let mut segment = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b'-' => segment.push(byte as char),
            b'.' if !segment.is_empty() => segment.push('.'),
            // `~` and not `%`, which URLs would decode once more.
            _ => segment.push_str(&format!("~{byte:02x}")),
        }
    }
    segment
}

fn epochs_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("_epoch", DataType::Int64, false),
        Field::new("relation", DataType::Utf8, false),
        Field::new("path", DataType::Utf8, false),
        Field::new("version", DataType::Int64, false),
        Field::new("landed_at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())), false),
    ]))
}

/// The changes of one landing in parts that are worth a file of their own, each of epochs that follow each other.
fn parts(changes: Vec<(EpochNumber, Delta)>) -> Vec<Vec<(EpochNumber, Delta)>> {
    let rows: usize = changes.iter().map(|(_, delta)| delta.len()).sum();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let count = (rows / PART_ROWS_MIN).clamp(1, cores.min(PARTS_MAX));
    let mut parts: Vec<Vec<(EpochNumber, Delta)>> = Vec::with_capacity(count);
    let mut seen = 0;
    for (epoch, delta) in changes {
        if parts.len() <= seen * count / rows.max(1) {
            parts.push(Vec::new());
        }
        seen += delta.len();
        if let Some(part) = parts.last_mut() {
            part.push((epoch, delta));
        }
    }
    parts
}
