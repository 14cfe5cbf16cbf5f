//! Looks at all of a lake for damage: every log, every byte of every live file, and whether the tables are of one time.
//! Changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path as FilePath, PathBuf};
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use deltalake::logstore::object_store::{Error, ObjectStoreExt, path::Path};
use futures::TryStreamExt;
use url::Url;
use weir_pipeline::EpochNumber;
use weir_pipeline::history::HistoryError;

use super::checked::CheckedStore;
use super::file::{DataFile, Part, read_file};
use super::table::{EPOCH_TXN, LakeTable};
use super::{EPOCHS_TABLE, LakeError, RELATION_PROPERTY, epochs_schema, folder_url, log_sums, open_at};

/// What of a table is damaged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wound {
    /// Its log: what it consists of is not known.
    Log,
    /// A data file that is there.
    Data,
    /// A data file that is not there.
    Missing,
    /// All of it: it is not of the time of the last landing.
    Time,
}

/// A part of the lake that is not what was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// The file, or the folder of the table.
    pub path: PathBuf,
    /// Where in it the damage begins, in bytes.
    pub position: u64,
    /// The relation; None for the table of landings and for published tables.
    pub relation: Option<String>,
    /// The first and the last epoch whose rows are in the file, where that is known.
    pub epochs: Option<(EpochNumber, EpochNumber)>,
    /// Rows in it, where that is known.
    pub rows: Option<u64>,
    /// What of the table it is.
    pub wound: Wound,
    /// What does not fit.
    pub what: String,
}

/// A table of the lake.
#[derive(Debug, Clone, Default)]
pub struct TableState {
    /// Where it is.
    pub folder: PathBuf,
    /// The relation; None for the table of landings and for published tables.
    pub relation: Option<String>,
    /// Live files that are whole.
    pub files: u64,
    /// Of those, how many nothing vouches for, so that only their presence is known.
    pub unchecked: u64,
    /// Rows in them.
    pub rows: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// The version that the log ends with.
    pub version: Option<u64>,
}

/// What a lake holds.
#[derive(Debug, Clone, Default)]
pub struct Inspection {
    /// The last epoch that is landed; None when the table of landings cannot be read.
    pub landed: Option<EpochNumber>,
    /// Its tables.
    pub tables: Vec<TableState>,
    /// Every damage.
    pub damages: Vec<Damage>,
}

/// Looks at the lake in `folder`; one that is not there is empty.
///
/// # Errors
/// When the store fails.
pub async fn inspect(folder: &FilePath) -> Result<Inspection, HistoryError> {
    if !folder.is_dir() {
        return Ok(Inspection { landed: Some(0), ..Inspection::default() });
    }
    Ok(inspect_inner(folder).await?)
}

async fn inspect_inner(folder: &FilePath) -> Result<Inspection, LakeError> {
    let root = folder_url(&folder.to_string_lossy())?;
    let mut found = Inspection::default();
    for path in tables_under(folder) {
        let state = inspect_table(folder, &root, &path, &mut found.damages).await?;
        found.tables.push(state);
    }
    match open_at(&root, EPOCHS_TABLE.to_owned()).await {
        Ok(epochs) => {
            found.landed = Some(epochs.txn(EPOCH_TXN) as u64);
            check_times(folder, &epochs, &mut found).await;
        }
        Err(LakeError::Damaged { .. } | LakeError::Log(_)) => {}
        Err(other) => return Err(other),
    }
    Ok(found)
}

/// Folders with a log, relative to the lake.
fn tables_under(folder: &FilePath) -> BTreeSet<String> {
    let mut tables = BTreeSet::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).into_iter().flatten().flatten() {
            if !entry.path().is_dir() {
                continue;
            }
            if entry.file_name() == "_delta_log" {
                tables.extend(at.strip_prefix(folder).ok().map(|path| path.to_string_lossy().into_owned()));
            } else {
                open.push(entry.path());
            }
        }
    }
    tables
}

async fn inspect_table(
    lake: &FilePath,
    root: &Url,
    path: &str,
    damages: &mut Vec<Damage>,
) -> Result<TableState, LakeError> {
    let folder = lake.join(path);
    let mut state = TableState { folder: folder.clone(), ..TableState::default() };
    let table = match open_at(root, path.to_owned()).await {
        Ok(table) => table,
        // Another program's table, in nobody's way.
        Err(LakeError::Foreign(_)) => return Ok(state),
        Err(LakeError::Damaged { .. } | LakeError::Log(_)) => {
            // Its name tells the relation where the log cannot.
            state.relation = relation_at(path);
            damages.extend(damages_of_log(&folder, root, path, state.relation.as_deref()).await?);
            return Ok(state);
        }
        Err(other) => return Err(other),
    };
    state.relation = table.property(RELATION_PROPERTY).map(str::to_owned);
    state.version = table.version();
    let store = table.checked_store().clone();
    for file in table.files() {
        let before = damages.len();
        match inspect_file(&store, file).await? {
            Some(wounds) => {
                for (position, wound, what) in wounds {
                    let epochs = matches!(file.part, Part::Changes { .. }).then(|| file.epochs());
                    damages.push(Damage {
                        path: folder.join(&file.path),
                        position,
                        relation: state.relation.clone(),
                        epochs,
                        rows: (file.rows > 0).then_some(file.rows),
                        wound,
                        what,
                    });
                }
            }
            None => state.unchecked += 1,
        }
        if damages.len() == before {
            state.files += 1;
            state.rows += file.rows;
            state.bytes += file.size;
        }
    }
    Ok(state)
}

type FileWound = (u64, Wound, String);

/// What is wrong with a live file; None when nothing vouches for it.
async fn inspect_file(store: &Arc<CheckedStore>, file: &DataFile) -> Result<Option<Vec<FileWound>>, LakeError> {
    let path = Path::from(file.path.as_str());
    let size = match store.head(&path).await {
        Ok(meta) => meta.size,
        Err(Error::NotFound { .. }) => {
            return Ok(Some(vec![(0, Wound::Missing, "the file is missing".to_owned())]));
        }
        Err(error) => return Err(error.into()),
    };
    let Some(wounds) = store.inspect(&path, file.size).await? else {
        let other_size = size != file.size;
        let what = format!("it has {size} bytes, and the log says {}", file.size);
        return Ok(other_size.then(|| vec![(size.min(file.size), Wound::Data, what)]));
    };
    Ok(Some(wounds.into_iter().map(|wound| (wound.position, Wound::Data, wound.what.to_owned())).collect()))
}

async fn damages_of_log(
    folder: &FilePath,
    root: &Url,
    path: &str,
    relation: Option<&str>,
) -> Result<Vec<Damage>, LakeError> {
    let url = root.join(&format!("{path}/")).map_err(|error| LakeError::Store(format!("{path}: {error}")))?;
    let store = deltalake::logstore::logstore_for(&url, Default::default())?.object_store(None);
    let mut found = log_sums::check(&*store, "").await?;
    if found.is_empty() {
        let what = "the log cannot be read".to_owned();
        found.push(log_sums::LogDamage { file: "_delta_log".into(), what });
    }
    let damage = |log_sums::LogDamage { file, what }| Damage {
        path: folder.join(file),
        position: 0,
        relation: relation.map(str::to_owned),
        epochs: None,
        rows: None,
        wound: Wound::Log,
        what,
    };
    Ok(found.into_iter().map(damage).collect())
}

/// The relation whose table stands at a place in the lake, as far as its name is plain.
fn relation_at(path: &str) -> Option<String> {
    match path.split_once('/')? {
        ("published", _) => None,
        ("main", name) => Some(name.to_owned()),
        (schema, name) => Some(format!("{schema}.{name}")),
    }
}

/// Tables that are not as new as the last landing says, or not there at all.
async fn check_times(folder: &FilePath, epochs: &LakeTable, found: &mut Inspection) {
    // What cannot be read here is damage that is named already.
    let Ok(named) = last_landing(epochs).await else { return };
    for (path, Named { relation, version }) in named {
        let state = found.tables.iter().find(|table| table.folder == folder.join(&path));
        let what = match state {
            None => "the table is missing".to_owned(),
            Some(TableState { version: Some(held), .. }) if *held < version => {
                format!("the table is older than the last landing: its log ends with version {held}, not {version}")
            }
            Some(_) => continue,
        };
        found.damages.push(Damage {
            path: folder.join(&path),
            position: 0,
            relation: Some(relation),
            epochs: None,
            rows: None,
            wound: Wound::Time,
            what,
        });
    }
}

/// A table as the last landing names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub relation: String,
    pub version: u64,
}

/// The tables of the last landing by their places in the lake.
pub(super) async fn last_landing(epochs: &LakeTable) -> Result<BTreeMap<String, Named>, LakeError> {
    let landed = epochs.txn(EPOCH_TXN) as u64;
    let mut named = BTreeMap::new();
    for file in epochs.files().filter(|file| file.epochs().0 <= landed && file.epochs().1 >= landed) {
        let mut rows = read_file(epochs.store(), file, epochs_schema()).await?;
        while let Some(batch) = rows.try_next().await? {
            let numbers = |column: usize| batch.column(column).as_primitive::<Int64Type>();
            let texts = |column: usize| batch.column(column).as_string::<i32>();
            for row in (0..batch.num_rows()).filter(|row| numbers(0).value(*row) as u64 == landed) {
                let relation = texts(1).value(row).to_owned();
                let version = numbers(3).value(row) as u64;
                named.insert(texts(2).value(row).to_owned(), Named { relation, version });
            }
        }
    }
    Ok(named)
}
