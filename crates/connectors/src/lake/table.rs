//! One Delta table with one committer.
//!
//! The live files are kept in memory, so that a commit is one small file written and nothing read or listed, however
//! many commits there were. Invariants:
//!
//! 1. A data file is durable before a commit names it; a commit file is whole and durable before it has its name.
//! 2. Memory says what the log says: it changes after the commit is in place, and is read anew from the log when
//!    another program turns out to have committed.
//! 3. A file is deleted only when it was removed from the table (or was never in it) for longer than agreed, and
//!    nobody in this process holds its [`DataFile`].

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use deltalake::DeltaTable;
use deltalake::kernel::Version;
use deltalake::kernel::transaction::TransactionError;
use deltalake::logstore::object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, path::Path};
use deltalake::logstore::{CommitOrBytes, LogStoreRef, StorageConfig, commit_uri_from_version, logstore_for};
use deltalake::protocol::checkpoints;
use futures::{StreamExt, TryStreamExt};
use serde_json::{Value, json};
use url::Url;
use uuid::Uuid;

use super::checked::CheckedStore;
use super::file::{DataFile, is_ours};
use super::schema::{decode_schema, delta_schema, encode_schema, has_timestamp_ntz};
use super::{LakeError, log_sums};

/// Name under which Weir's epochs stand in a table's `txn` actions.
pub(crate) const EPOCH_TXN: &str = "weir";

const SCHEMA_PROPERTY: &str = "weir.schema";
const COMMIT_ATTEMPTS_MAX: usize = 10;
const ENGINE: &str = concat!("weir/", env!("CARGO_PKG_VERSION"));

/// What one commit does.
#[derive(Debug, Default)]
pub(crate) struct Commit {
    /// For the log's reader: WRITE, OPTIMIZE, DELETE ...
    pub operation: &'static str,
    /// Another schema from here on (or the first one).
    pub schema: Option<SchemaRef>,
    /// Table properties to set (a None takes one away).
    pub properties: Vec<(String, Option<String>)>,
    /// Files that come in.
    pub added: Vec<DataFile>,
    /// Paths of files that go.
    pub removed: Vec<String>,
    /// `txn` actions.
    pub txns: Vec<(String, i64)>,
    /// Not when the table's `txn` version for Weir's epochs is this or more already: a commit whose answer got
    /// lost is not made twice.
    pub once: Option<i64>,
    /// Only the layout changes, no row.
    pub layout_only: bool,
}

/// A Delta table, open for writing.
pub(crate) struct LakeTable {
    log_store: LogStoreRef,
    /// The table's files, checked as they are read.
    store: Arc<CheckedStore>,
    /// Where it is on this machine's disk, if it is there.
    folder: Option<PathBuf>,
    version: Option<Version>,
    schema: Option<SchemaRef>,
    properties: BTreeMap<String, String>,
    identity: String,
    created_ms: i64,
    files: BTreeMap<String, Arc<DataFile>>,
    txns: HashMap<String, i64>,
    /// Files that left the table, and when (ms since 1970).
    removed: Vec<(Arc<DataFile>, i64)>,
    checkpointed: Version,
    swept: bool,
    opened_ms: i64,
    /// A commit failed and may be in place all the same.
    doubtful: bool,
}

impl LakeTable {
    /// Opens the table at `location` (a URL); one that does not exist has no version until its first commit.
    /// `txns` are the applications whose `txn` versions will be asked for.
    pub async fn open(location: &Url, txns: &[&str]) -> Result<Self, LakeError> {
        let log_store = logstore_for(location, StorageConfig::default())?;
        let folder = if location.scheme() == "file" { location.to_file_path().ok() } else { None };
        let store = CheckedStore::new(log_store.object_store(None), place_of(location, folder.as_deref()));
        let mut table = Self {
            log_store,
            store: Arc::new(store),
            folder,
            version: None,
            schema: None,
            properties: BTreeMap::new(),
            identity: Uuid::new_v4().to_string(),
            created_ms: now_ms(),
            files: BTreeMap::new(),
            txns: txns.iter().map(|txn| ((*txn).to_owned(), 0)).collect(),
            removed: Vec::new(),
            checkpointed: 0,
            swept: false,
            opened_ms: now_ms(),
            doubtful: false,
        };
        if table.log_store.is_delta_table_location().await? {
            table.load().await?;
        }
        Ok(table)
    }

    /// Reads everything from the log.
    async fn load(&mut self) -> Result<(), LakeError> {
        let mut delta = DeltaTable::new(self.log_store.clone());
        let loaded = delta.load().await;
        // A log that is damaged may be read in part: what it says counts only once its bytes are known.
        let damages = log_sums::check(&*self.store, self.store.place()).await?;
        if let Some(damage) = damages.into_iter().next() {
            return Err(damage.into());
        }
        loaded?;
        let state = delta.snapshot()?;
        let metadata = state.metadata();
        self.properties = metadata.configuration().iter().map(|(k, v)| (k.clone(), v.clone())).collect();
        self.identity = metadata.id().to_owned();
        self.created_ms = metadata.created_time().unwrap_or(self.created_ms);
        let schema = self.properties.get(SCHEMA_PROPERTY);
        let schema = schema.ok_or_else(|| LakeError::Foreign(self.log_store.root_url().to_string()))?;
        self.schema = Some(decode_schema(schema)?);
        let mut before = std::mem::take(&mut self.files);
        for view in state.log_data().iter() {
            let path = view.object_store_path().to_string();
            let file = match before.remove(&path) {
                Some(known) => known,
                None => Arc::new(DataFile::listed(
                    path.clone(),
                    view.size() as u64,
                    view.num_records().map(|rows| rows as u64),
                    view.modification_time(),
                )),
            };
            self.files.insert(path, file);
        }
        let now = now_ms();
        self.removed.extend(before.into_values().map(|file| (file, now)));
        for (application, version) in self.txns.iter_mut() {
            *version = state.transaction_version(self.log_store.as_ref(), application).await?.unwrap_or(0);
        }
        self.version = delta.version();
        Ok(())
    }

    /// Present version; None before the first commit.
    pub fn version(&self) -> Option<Version> {
        self.version
    }

    /// The exact Arrow schema.
    pub fn schema(&self) -> Option<&SchemaRef> {
        self.schema.as_ref()
    }

    /// A table property.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }

    /// The version in the last `txn` action of an application named at opening; 0 when there is none.
    pub fn txn(&self, application: &str) -> i64 {
        self.txns.get(application).copied().unwrap_or(0)
    }

    /// Live files by path.
    pub fn files(&self) -> impl Iterator<Item = &Arc<DataFile>> {
        self.files.values()
    }

    /// Whether a file is live.
    pub fn contains(&self, path: &str) -> bool {
        self.files.contains_key(path)
    }

    /// Bytes of live and of removed but kept files.
    pub fn bytes(&self) -> u64 {
        let removed = self.removed.iter().map(|(file, _)| file.size);
        self.files.values().map(|file| file.size).chain(removed).sum()
    }

    /// The store whose root is the table.
    pub fn store(&self) -> Arc<dyn ObjectStore> {
        self.store.clone()
    }

    /// The same, for a look at whole files.
    pub(super) fn checked_store(&self) -> &Arc<CheckedStore> {
        &self.store
    }

    /// The log store.
    pub fn log_store(&self) -> &LogStoreRef {
        &self.log_store
    }

    /// Commits, and returns the new version when it is durable. A commit that lost a race against another program
    /// is tried again on top of it when it only adds files.
    pub async fn commit(&mut self, commit: Commit) -> Result<Version, LakeError> {
        self.settle_doubt().await?;
        self.sync_data(&commit.added).await?;
        for _ in 0..COMMIT_ATTEMPTS_MAX {
            if let (Some(once), Some(version)) = (commit.once, self.version)
                && self.txn(EPOCH_TXN) >= once
            {
                return Ok(version);
            }
            if !commit.removed.iter().all(|path| self.files.contains_key(path)) {
                break;
            }
            let version = self.version.map_or(0, |version| version + 1);
            let body = self.encode(version, &commit)?;
            match self.write_log(version, body).await {
                Ok(()) => {
                    self.accept(version, commit);
                    return Ok(version);
                }
                Err(TransactionError::VersionAlreadyExists(_)) => self.load().await?,
                Err(error) => {
                    self.doubtful = true;
                    return Err(error.into());
                }
            }
        }
        Err(LakeError::Conflict(self.log_store.root_url().to_string()))
    }

    /// After a failed commit, finds out from the log whether it is in place.
    pub async fn settle_doubt(&mut self) -> Result<(), LakeError> {
        if self.doubtful && self.log_store.is_delta_table_location().await? {
            self.load().await?;
        }
        self.doubtful = false;
        Ok(())
    }

    fn encode(&self, version: Version, commit: &Commit) -> Result<Vec<u8>, LakeError> {
        let now = now_ms();
        let mut actions = vec![json!({ "commitInfo": {
            "timestamp": now, "operation": commit.operation, "operationParameters": {}, "engineInfo": ENGINE,
            "isBlindAppend": commit.removed.is_empty(), "txnId": Uuid::new_v4().to_string(),
            log_sums::FIELD: log_sums::EMPTY, log_sums::TABLE_FIELD: self.identity,
        }})];
        let schema = commit.schema.as_ref().or(self.schema.as_ref());
        let schema = schema.ok_or_else(|| LakeError::Schema("a table's first commit has no schema".into()))?;
        let new_schema = commit.schema.as_ref().is_some_and(|new| Some(new) != self.schema.as_ref());
        if new_schema {
            actions.push(json!({ "protocol": protocol(self.schema.as_ref(), schema) }));
        }
        if new_schema || !commit.properties.is_empty() {
            actions.push(json!({ "metaData": {
                "id": self.identity, "format": { "provider": "parquet", "options": {} },
                "schemaString": delta_schema(schema)?.to_string(), "partitionColumns": [],
                "configuration": self.configuration(commit, schema), "createdTime": self.created_ms,
            }}));
        }
        for (application, version) in &commit.txns {
            actions.push(json!({ "txn": { "appId": application, "version": version, "lastUpdated": now } }));
        }
        for path in &commit.removed {
            let size = self.files.get(path).map(|file| file.size);
            actions.push(json!({ "remove": {
                "path": path, "deletionTimestamp": now, "dataChange": !commit.layout_only,
                "extendedFileMetadata": true, "partitionValues": {}, "size": size,
            }}));
        }
        for file in &commit.added {
            actions.push(json!({ "add": {
                "path": file.path, "partitionValues": {}, "size": file.size, "modificationTime": file.modified_ms,
                "dataChange": !commit.layout_only, "stats": file.stats,
            }}));
        }
        let mut body = Vec::new();
        for action in actions {
            serde_json::to_writer(&mut body, &action).map_err(|error| LakeError::Log(error.to_string()))?;
            body.push(b'\n');
        }
        Ok(log_sums::seal(version, body))
    }

    fn configuration(&self, commit: &Commit, schema: &SchemaRef) -> BTreeMap<String, String> {
        let mut configuration = self.properties.clone();
        configuration.insert("delta.deletedFileRetentionDuration".into(), "interval 1 hours".into());
        configuration.insert("delta.logRetentionDuration".into(), "interval 7 days".into());
        configuration.insert(SCHEMA_PROPERTY.into(), encode_schema(schema));
        for (name, value) in &commit.properties {
            match value {
                Some(value) => configuration.insert(name.clone(), value.clone()),
                None => configuration.remove(name),
            };
        }
        configuration
    }

    fn accept(&mut self, version: Version, commit: Commit) {
        let schema = commit.schema.clone().or_else(|| self.schema.clone());
        if let Some(schema) = &schema {
            self.properties = self.configuration(&commit, schema);
        }
        self.schema = schema;
        let now = now_ms();
        for path in commit.removed {
            if let Some(file) = self.files.remove(&path) {
                self.removed.push((file, now));
            }
        }
        for mut file in commit.added {
            file.stats = None;
            self.files.insert(file.path.clone(), Arc::new(file));
        }
        self.txns.extend(commit.txns);
        self.version = Some(version);
    }

    /// Makes new data files durable. An object store is so when a put returns; a disk must be told.
    async fn sync_data(&self, files: &[DataFile]) -> Result<(), LakeError> {
        let Some(folder) = &self.folder else {
            return Ok(());
        };
        if files.is_empty() {
            return Ok(());
        }
        let mut paths: Vec<PathBuf> = files.iter().map(|file| folder.join(&file.path)).collect();
        paths.push(folder.clone());
        sync(paths).await
    }

    async fn write_log(&self, version: Version, body: Vec<u8>) -> Result<(), TransactionError> {
        let Some(folder) = &self.folder else {
            let body = CommitOrBytes::LogBytes(body.into());
            return self.log_store.write_commit_entry(version, body, Uuid::new_v4()).await;
        };
        let store = self.store();
        let target = commit_uri_from_version(Some(version));
        let draft = Path::from(format!("_delta_log/.{}.tmp", Uuid::new_v4().simple()));
        store.put(&draft, body.into()).await?;
        let failed =
            |error: LakeError| TransactionError::LogStoreError { msg: error.to_string(), source: Box::new(error) };
        sync(vec![folder.join(draft.as_ref())]).await.map_err(failed)?;
        store.rename_if_not_exists(&draft, &target).await.map_err(|error| match error {
            StoreError::AlreadyExists { .. } => TransactionError::VersionAlreadyExists(version),
            other => other.into(),
        })?;
        let mut folders = vec![folder.join("_delta_log")];
        if version == 0 {
            folders.extend(folder.ancestors().take(3).map(PathBuf::from));
        }
        sync(folders).await.map_err(failed)
    }

    /// Writes a checkpoint of the log when `every` commits were made since the last, and drops log files that are
    /// older than the table's log retention.
    pub async fn checkpoint(&mut self, every: u64) -> Result<(), LakeError> {
        let Some(version) = self.version else {
            return Ok(());
        };
        if version < self.checkpointed + every {
            return Ok(());
        }
        let mut delta = DeltaTable::new(self.log_store.clone());
        delta.load_version(version).await?;
        checkpoints::create_checkpoint(&delta, None).await?;
        log_sums::seal_checkpoint(&*self.store, version).await?;
        checkpoints::cleanup_metadata(&delta, None).await?;
        self.checkpointed = version;
        Ok(())
    }

    /// Deletes files that left the table longer than `keep` ago and that nobody here reads any more. The first time,
    /// also takes note of files that no commit names (left by a crash), to delete them when they are as old.
    pub async fn vacuum(&mut self, keep: Duration) -> Result<(), LakeError> {
        if self.version.is_none() {
            return Ok(());
        }
        let now = now_ms();
        if !self.swept {
            let known: HashSet<&str> = self.removed.iter().map(|(file, _)| file.path.as_str()).collect();
            let mut orphans = Vec::new();
            let store = self.store();
            let mut listing = store.list(None);
            while let Some(meta) = listing.try_next().await? {
                let path = meta.location.to_string();
                // A file younger than this opening may be about to be committed.
                let old = meta.last_modified.timestamp_millis() < self.opened_ms;
                let ours = is_ours(&path) || is_draft(&path);
                if old && ours && !self.files.contains_key(&path) && !known.contains(path.as_str()) {
                    let file = DataFile::listed(path, meta.size, None, meta.last_modified.timestamp_millis());
                    orphans.push((Arc::new(file), now));
                }
            }
            self.removed.extend(orphans);
            self.swept = true;
        }
        let keep_ms = keep.as_millis() as i64;
        let (due, kept) = std::mem::take(&mut self.removed)
            .into_iter()
            .filter(|(file, _)| !self.files.contains_key(&file.path))
            .partition(|(file, since)| now - since >= keep_ms && Arc::strong_count(file) == 1);
        self.removed = kept;
        let due: Vec<(Arc<DataFile>, i64)> = due;
        let store = self.store();
        let paths = due.into_iter().map(|(file, _)| Ok(Path::from(file.path.as_str()))).collect::<Vec<_>>();
        let mut deletions = store.delete_stream(futures::stream::iter(paths).boxed());
        while let Some(deleted) = deletions.next().await {
            match deleted {
                Ok(_) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }
}

/// What an unfinished put or commit of ours may leave behind.
fn is_draft(path: &str) -> bool {
    let staged = path.split_once('#').is_some_and(|(file, _)| is_ours(file));
    staged || (path.starts_with("_delta_log/.") && path.ends_with(".tmp"))
}

/// A table that once had the feature keeps it: its older versions need it.
fn protocol(before: Option<&SchemaRef>, schema: &SchemaRef) -> Value {
    if has_timestamp_ntz(schema) || before.is_some_and(|schema| has_timestamp_ntz(schema)) {
        json!({ "minReaderVersion": 3, "minWriterVersion": 7,
            "readerFeatures": ["timestampNtz"], "writerFeatures": ["timestampNtz"] })
    } else {
        json!({ "minReaderVersion": 1, "minWriterVersion": 2 })
    }
}

/// The folder or URL of a table, with a separator at its end, for messages.
fn place_of(location: &Url, folder: Option<&std::path::Path>) -> String {
    folder.map_or_else(
        || location.to_string(),
        |folder| format!("{}/", folder.display().to_string().trim_end_matches('/')),
    )
}

pub(crate) fn now_ms() -> i64 {
    chrono::Utc::now().timestamp_millis()
}

/// `fdatasync` of files and folders.
async fn sync(paths: Vec<PathBuf>) -> Result<(), LakeError> {
    tokio::task::spawn_blocking(move || {
        for path in paths {
            std::fs::File::open(&path)
                .and_then(|file| file.sync_all())
                .map_err(|error| LakeError::Store(format!("{}: {error}", path.display())))?;
        }
        Ok(())
    })
    .await
    .map_err(LakeError::crashed)?
}
