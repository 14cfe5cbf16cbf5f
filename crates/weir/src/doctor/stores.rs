//! Reads every store of a data folder, and what is needed to hold them against each other.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use weir_connectors::lake::inspect as lake;
use weir_connectors::sources::files::is_whole_line;
use weir_environment::Environment;
use weir_incremental::checkpoint::inspect as checkpoint;
use weir_journal::inspect as journal;
use weir_pipeline::EpochNumber;
use weir_pipeline::core::{commit_record, folders};
use weir_pipeline::frames::{CheckpointRecord, CommitRecord};
use weir_project::{Project, SourceKind};
use xxhash_rust::xxh3::xxh3_64;

/// All that a data folder holds, as far as it can be read.
pub struct Stores {
    pub journal: journal::Inspection,
    /// The last commit record that is whole.
    pub last: Option<(EpochNumber, CommitRecord)>,
    /// The epochs whose commit records are whole, with a hash of their ledger entries.
    pub commits: BTreeMap<EpochNumber, u64>,
    pub ledger: journal::Inspection,
    /// The first epoch of which ledger and journal say different things.
    pub ledger_differs: Option<EpochNumber>,
    /// The first epoch that the ledger leaves out.
    pub ledger_gap: Option<EpochNumber>,
    pub checkpoint: checkpoint::Inspection,
    /// What the checkpoint says beside the state.
    pub record: Option<CheckpointRecord>,
    /// Whether the journal says something else of the checkpoint's epoch.
    pub checkpoint_differs: bool,
    pub topics: BTreeMap<String, journal::Inspection>,
    /// Catalogues of files inputs with a line that cannot be read: the file, where the line begins, its number.
    pub catalogues: Vec<(PathBuf, u64, usize)>,
    /// How many catalogues there are.
    pub catalogue_count: usize,
    pub lake: lake::Inspection,
}

impl Stores {
    /// Reads all of them.
    pub async fn read(environment: &Environment, project: &Project, data: &Path) -> anyhow::Result<Self> {
        let checkpoint = checkpoint::inspect(environment, &project.settings.state.path)?;
        let record: Option<CheckpointRecord> = serde_json::from_slice(&checkpoint.payload).ok();
        let (mut commits, mut last, mut checkpoint_differs) = (BTreeMap::new(), None, false);
        let journal = journal::epochs(environment, &data.join(folders::JOURNAL), &mut |commit| {
            let Ok(found) = commit_record(commit.epoch, &commit.payload) else { return };
            if let (Some(epoch), Some(record)) = (checkpoint.epoch, &record)
                && epoch == commit.epoch
            {
                checkpoint_differs = record.commit != found;
            }
            commits.insert(commit.epoch, xxh3_64(found.ledger.to_string().as_bytes()));
            last = Some((commit.epoch, found));
        })?;
        let (mut ledger_differs, mut ledger_gap, mut before) = (None, None, None);
        let ledger = journal::ledger(environment, &data.join(folders::LEDGER), &mut |entry| {
            if commits.get(&entry.epoch).is_some_and(|hash| *hash != xxh3_64(&entry.payload)) {
                ledger_differs.get_or_insert(entry.epoch);
            }
            if before.is_some_and(|before: EpochNumber| entry.epoch != before + 1) {
                ledger_gap.get_or_insert(before.map_or(1, |before| before + 1));
            }
            before = Some(entry.epoch);
        })?;
        let mut topics = BTreeMap::new();
        for source in project.sources.iter().filter(|source| matches!(source.kind, SourceKind::Beacon)) {
            if !topics.contains_key(&source.input) {
                let folder = project.settings.log.path.join(&source.input);
                topics.insert(source.input.clone(), journal::topic(environment, &folder)?);
            }
        }
        let (catalogues, catalogue_count) = catalogues(environment, &data.join("files"))?;
        Ok(Self {
            journal,
            last,
            commits,
            ledger,
            ledger_differs,
            ledger_gap,
            checkpoint,
            record,
            checkpoint_differs,
            topics,
            catalogues,
            catalogue_count,
            lake: lake::inspect(&project.settings.lake.path).await?,
        })
    }

    /// The last committed epoch; 0 before the first.
    pub fn last_epoch(&self) -> EpochNumber {
        if self.journal.segments.is_empty() { 0 } else { self.journal.end.saturating_sub(1) }
    }

    /// The epoch of the checkpoint; 0 when there is none that can be read.
    pub fn checkpoint_epoch(&self) -> EpochNumber {
        self.checkpoint.epoch.unwrap_or(0)
    }

    /// The last epoch of the ledger; 0 when it has none.
    pub fn ledger_epoch(&self) -> EpochNumber {
        if self.ledger.count == 0 { 0 } else { self.ledger.end.saturating_sub(1) }
    }

    /// Whether the journal is whole and holds this epoch and all that follow.
    pub fn journal_holds_from(&self, epoch: EpochNumber) -> bool {
        self.journal.damages.is_empty() && self.journal.begin <= epoch && self.journal.count > 0
    }
}

/// Catalogues with a line that is not what was written, and how many there are.
type Catalogues = (Vec<(PathBuf, u64, usize)>, usize);

fn catalogues(environment: &Environment, folder: &Path) -> anyhow::Result<Catalogues> {
    let mut broken = Vec::new();
    let mut count = 0;
    if !environment.storage.exists(folder) {
        return Ok((broken, count));
    }
    for entry in environment.storage.list(folder)? {
        if !entry.name.ends_with(".catalogue") {
            continue;
        }
        count += 1;
        let path = folder.join(&entry.name);
        let text = environment.storage.read(&path)?;
        let mut at = 0;
        for (number, line) in text.split_inclusive(|byte| *byte == b'\n').enumerate() {
            // A last line without an end was cut off by a crash, and nothing depends on it.
            let ended = line.strip_suffix(b"\n");
            if ended.is_some_and(|line| !is_whole_line(line)) {
                broken.push((path.clone(), at, number + 1));
                break;
            }
            at += line.len() as u64;
        }
    }
    Ok((broken, count))
}
