//! The repairs. Each restores a store from another one that has the same facts; what it replaces is moved aside, into
//! `damaged/` beside it, never removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use serde::Serialize;
use weir_connectors::lake::{LakeHistory, LakeOptions};
use weir_environment::{Environment, Lock};
use weir_incremental::Relation;
use weir_incremental::checkpoint::CheckpointStore;
use weir_journal::{Commit, inspect, repair};
use weir_pipeline::EpochNumber;
use weir_pipeline::compile::compile;
use weir_pipeline::core::folders;
use weir_pipeline::restore::restore_checkpoint;
use weir_project::Project;

use super::data_folder;
use super::stores::Stores;
use crate::host::{Host, OpenOptions, stores};
use crate::progress::Progress;

/// Something that another store can restore. In the order in which they are made.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Repair {
    /// The ledger from this epoch on, from the journal's commit records.
    Ledger {
        /// The first entry that is written again.
        from: EpochNumber,
    },
    /// The journal without its first files, which hold only epochs that the checkpoint has.
    JournalFront {
        /// The first epoch that stays.
        before: EpochNumber,
    },
    /// The journal with nothing but the commit of the checkpoint's epoch, which is the last.
    Journal {
        /// The epoch.
        epoch: EpochNumber,
    },
    /// A topic without its first files, whose records have all been taken in.
    TopicFront {
        /// The topic.
        topic: String,
        /// The first record that stays.
        before: u64,
    },
    /// A topic with no records, all of which have been taken in.
    Topic {
        /// The topic.
        topic: String,
        /// The offset of the next record.
        at: u64,
        /// Which log it is.
        identity: Option<u32>,
    },
    /// The lake's table of landings, from the checkpoint's epoch.
    Landings {
        /// The epoch.
        epoch: EpochNumber,
    },
    /// Lake and checkpoint, from the journal, which holds every epoch.
    Anew,
    /// The checkpoint, from the journal, which holds every epoch.
    CheckpointFromJournal,
    /// The checkpoint of the landed epoch, from the lake's history.
    CheckpointFromLake {
        /// The epoch.
        epoch: EpochNumber,
    },
    /// A model's table, from its sources' history.
    Model {
        /// The model.
        model: String,
    },
}

impl Repair {
    /// Whether [`Repair::Anew`] does this too.
    pub fn is_part_of_anew(&self) -> bool {
        use Repair::{CheckpointFromJournal, CheckpointFromLake, Landings, Model};
        matches!(self, CheckpointFromJournal | CheckpointFromLake { .. } | Landings { .. } | Model { .. })
    }

    /// What it does, in a sentence.
    pub fn describe(&self) -> String {
        match self {
            Self::Ledger { from } => format!(
                "moves the damaged file of the ledger and those after it aside, keeps the entries before epoch {from}, and \
                 writes the others again from the journal's commit records"
            ),
            Self::JournalFront { before } => {
                format!("moves the files of the journal before epoch {before} aside: the checkpoint has what they say")
            }
            Self::Journal { epoch } => format!(
                "moves the journal aside and begins it anew behind epoch {epoch}, which the checkpoint has, and so have lake \
                 and ledger"
            ),
            Self::TopicFront { topic, before } => format!(
                "moves the files of topic `{topic}` before record {before} aside: all their records have been taken in"
            ),
            Self::Topic { topic, at, .. } => format!(
                "moves the files of topic `{topic}` aside and goes on with record {at}: all before it have been taken in"
            ),
            Self::Landings { epoch } => format!(
                "moves the lake's table of landings aside and begins it anew with epoch {epoch}; what was landed later is \
                 found in the tables and not landed twice"
            ),
            Self::Anew => {
                "moves lake and checkpoint aside and makes them anew from the journal, which holds every epoch".into()
            }
            Self::CheckpointFromJournal => {
                "moves the checkpoint aside and makes it anew from the journal, which holds every epoch".into()
            }
            Self::CheckpointFromLake { epoch } => format!(
                "moves the checkpoint aside and makes that of epoch {epoch} anew from the lake's history; it has to give what \
                 the lake holds of every model, or nothing is written"
            ),
            Self::Model { model } => format!(
                "moves the damaged files of model `{model}` aside and rebuilds it from its sources' history; its sinks are \
                 loaded anew"
            ),
        }
    }
}

/// Carries out repairs, in order. `lock` is the data folder's; it is given up for what needs to open the folder.
pub async fn carry_out(
    environment: &Environment,
    project: &Project,
    lock: Box<dyn Lock>,
    repairs: &[Repair],
    tell: &(dyn Fn(&str) + Send + Sync),
) -> anyhow::Result<()> {
    let aside = Aside::new(environment, project);
    let mut open = false;
    for repair in repairs {
        tell(&repair.describe());
        open |= aside.prepare(repair).await.with_context(|| format!("not repaired: {}", repair.describe()))?;
    }
    drop(lock);
    if open {
        let models: Vec<Relation> = repairs
            .iter()
            .filter_map(|repair| match repair {
                Repair::Model { model } => Some(Relation::from(model.as_str())),
                _ => None,
            })
            .collect();
        let options = OpenOptions { backfill: models, ..OpenOptions::default() };
        let mut host = Host::open(project.clone(), &options, &Progress::new()).await?;
        host.settle().await?;
    }
    Ok(())
}

/// Moves files out of the way, each to the same place under a folder of this repair.
struct Aside<'a> {
    environment: &'a Environment,
    project: &'a Project,
    data: PathBuf,
    stamp: String,
}

impl<'a> Aside<'a> {
    fn new(environment: &'a Environment, project: &'a Project) -> Self {
        let seconds = environment.clock.now() / 1_000_000;
        let stamp = chrono::DateTime::from_timestamp(seconds, 0)
            .map_or_else(|| seconds.to_string(), |at| at.format("%Y%m%dT%H%M%SZ").to_string());
        Self { environment, project, data: data_folder(project), stamp }
    }

    /// Moves a file or folder aside. Below the data folder that is `.weir/damaged/TIME/...`, elsewhere `damaged/TIME` beside it.
    fn put(&self, path: &Path) -> anyhow::Result<()> {
        let storage = &self.environment.storage;
        let target = match path.strip_prefix(&self.data) {
            Ok(inside) => self.data.join("damaged").join(&self.stamp).join(inside),
            Err(_) => {
                let folder = path.parent().context("a store is no root folder")?;
                folder.join("damaged").join(&self.stamp).join(path.file_name().unwrap_or_default())
            }
        };
        let folder = target.parent().unwrap_or(&self.data);
        storage.create_dir_all(folder)?;
        storage.rename(path, &target).with_context(|| format!("{} cannot be moved aside", path.display()))?;
        storage.sync_dir(folder)?;
        storage.sync_dir(path.parent().unwrap_or(&self.data))?;
        Ok(())
    }

    /// Does what can be done while nothing is open; true when the folder has to be opened for the rest.
    async fn prepare(&self, repair: &Repair) -> anyhow::Result<bool> {
        let (environment, project) = (self.environment, self.project);
        let state = &project.settings.state.path;
        match repair {
            Repair::Ledger { from } => self.ledger(*from).map(|()| true),
            Repair::JournalFront { before } => {
                let found = inspect::epochs(environment, &self.data.join(folders::JOURNAL), &mut |_| {})?;
                self.put_front(&found, *before).map(|()| false)
            }
            Repair::Journal { epoch } => self.journal(*epoch).await.map(|()| false),
            Repair::TopicFront { topic, before } => {
                let found = inspect::topic(environment, &project.settings.log.path.join(topic))?;
                self.put_front(&found, *before).map(|()| false)
            }
            Repair::Topic { topic, at, identity } => {
                let folder = project.settings.log.path.join(topic);
                self.put(&folder)?;
                repair::begin_topic(environment, &folder, *at, *identity)?;
                Ok(false)
            }
            Repair::Landings { epoch } => {
                let lake = &project.settings.lake.path;
                self.put(&lake.join("weir_epochs"))?;
                let history = LakeHistory::open(&lake.to_string_lossy(), LakeOptions::default()).await?;
                history.begin_landings(*epoch).await?;
                Ok(true)
            }
            Repair::Anew => {
                let lake = &project.settings.lake.path;
                for entry in environment.storage.list(lake)? {
                    // What sinks publish is theirs.
                    if entry.is_dir && !["published", "damaged"].contains(&entry.name.as_str()) {
                        self.put(&lake.join(&entry.name))?;
                    }
                }
                if environment.storage.exists(state) {
                    self.put(state)?;
                }
                Ok(true)
            }
            Repair::CheckpointFromJournal => {
                if environment.storage.exists(state) {
                    self.put(state)?;
                }
                Ok(true)
            }
            Repair::CheckpointFromLake { .. } => self.checkpoint().await.map(|()| true),
            Repair::Model { model } => self.model(model).await.map(|()| true),
        }
    }

    /// Moves the segments before a number aside.
    fn put_front(&self, found: &inspect::Inspection, before: u64) -> anyhow::Result<()> {
        for segment in found.segments.iter().filter(|segment| segment.first < before) {
            self.put(&segment.path)?;
        }
        Ok(())
    }

    fn ledger(&self, from: EpochNumber) -> anyhow::Result<()> {
        let found = inspect::ledger(self.environment, &self.data.join(folders::LEDGER), &mut |_| {})?;
        let first_damaged = found.segments.iter().position(|segment| !segment.whole);
        let at = match found.damages.first() {
            // The segments before the first are missing: nothing of what is there can stay.
            Some(damage) if damage.next == 1 && found.segments.first().is_some_and(|s| s.first > 0) => 0,
            _ => first_damaged.context("the ledger is whole by now")?,
        };
        for (index, segment) in found.segments.iter().enumerate().skip(at) {
            self.put(&segment.path)?;
            let keeps = index == at && segment.first < from && segment.whole_to > 0;
            if keeps {
                let moved = self.data.join("damaged").join(&self.stamp).join(segment.path.strip_prefix(&self.data)?);
                repair::copy_whole_part(self.environment, &moved, &segment.path, segment.whole_to)?;
            }
        }
        Ok(())
    }

    async fn journal(&self, epoch: EpochNumber) -> anyhow::Result<()> {
        let stores = Stores::read(self.environment, self.project, &self.data).await?;
        let Some(record) = stores.record.filter(|_| stores.checkpoint.epoch == Some(epoch)) else {
            bail!("the checkpoint is not that of epoch {epoch}");
        };
        let payload = serde_json::to_vec(&record.commit)?.into();
        let folder = self.data.join(folders::JOURNAL);
        self.put(&folder)?;
        repair::begin_epochs(self.environment, &folder, &Commit { epoch, payload })?;
        Ok(())
    }

    async fn checkpoint(&self) -> anyhow::Result<()> {
        let state = &self.project.settings.state.path;
        if self.environment.storage.exists(state) {
            self.put(state)?;
        }
        let spec = Arc::new(compile(self.project)?);
        let (history, _) = stores(self.environment, self.project, None, &[]).await?;
        let store = CheckpointStore::open(self.environment, state)?;
        let progress = Progress::new();
        restore_checkpoint(self.environment, &spec, &history, &store, &|relation, rows| {
            progress.line(&format!("reading {rows} rows of {relation}"));
        })
        .await?;
        progress.done();
        Ok(())
    }

    async fn model(&self, model: &str) -> anyhow::Result<()> {
        let stores = Stores::read(self.environment, self.project, &self.data).await?;
        let damages = stores.lake.damages.iter().filter(|damage| damage.relation.as_deref() == Some(model));
        let mut files: Vec<PathBuf> = Vec::new();
        for damage in damages {
            use weir_connectors::lake::inspect::Wound;
            match damage.wound {
                Wound::Data => files.push(damage.path.clone()),
                Wound::Missing => {}
                // Without its log, or with an old one, nothing of the table is of use.
                Wound::Log | Wound::Time => {
                    let tables = stores.lake.tables.iter().map(|table| &table.folder);
                    files.extend(tables.filter(|folder| damage.path.starts_with(folder)).cloned());
                }
            }
        }
        files.sort();
        files.dedup();
        let folders: Vec<PathBuf> = files.iter().filter(|path| path.is_dir()).cloned().collect();
        files.retain(|file| folders.iter().all(|folder| file == folder || !file.starts_with(folder)));
        files.iter().try_for_each(|file| self.put(file))
    }
}
