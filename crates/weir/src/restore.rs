//! Bringing a data folder back from a copy: from a mirror, or from a backup.
//!
//! What is copied is what a crash could have left, so the next start recovers as after a crash. The folder gets an identity
//! of its own: destinations that hold epochs which the copy does not have are told by it, and loaded anew.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use serde::Serialize;
use weir_connectors::lake::{LakeHistory, LakeOptions};
use weir_environment::Environment;
use weir_environment::mirror::{MirrorTarget, Root, copy_back};
use weir_incremental::checkpoint::CheckpointStore;
use weir_journal::{EpochJournal, EpochJournalOptions, Topic, TopicOptions};
use weir_pipeline::EpochNumber;
use weir_pipeline::frames::CommitRecord;
use weir_pipeline::history::History;
use weir_project::Project;

use crate::host;
use crate::mirror::{ACCEPTED, ACCEPTED_FILE, read_small, roots};
use crate::progress::Progress;

/// Stands in a data folder while it is restored.
pub const UNFINISHED: &str = "restoring";

/// How far a copy goes.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Reach {
    /// The last committed epoch.
    pub epoch: EpochNumber,
    /// Its clock, µs UTC.
    pub clock: i64,
    /// Where each input goes on.
    pub inputs: BTreeMap<String, String>,
    /// Records of each topic: the first that is kept, and the one behind the last. Those that no epoch has taken are taken
    /// by the next start.
    pub topics: BTreeMap<String, (u64, u64)>,
}

/// The folders of a project that already hold something.
pub fn occupied(project: &Project) -> Vec<PathBuf> {
    let data = project.dir.join(".weir");
    let folders = roots(project).into_iter().map(|root| root.folder);
    let files = [ACCEPTED_FILE, UNFINISHED].map(|file| data.join(file));
    let holds = |path: &PathBuf| match std::fs::read_dir(path) {
        Ok(mut entries) => entries.next().is_some(),
        Err(_) => path.is_file(),
    };
    folders.chain(files).filter(holds).collect()
}

/// How far the copy at `target` goes, from its journal and topics, which are read into a temporary folder.
pub fn reach(environment: &Environment, project: &Project, target: &dyn MirrorTarget) -> anyhow::Result<Reach> {
    let folder = tempfile::tempdir().context("there is no temporary folder")?;
    let within = |root: Root| Root { folder: folder.path().join(root.name), ..root };
    let needed: Vec<Root> =
        roots(project).into_iter().filter(|root| ["log", "journal"].contains(&root.name)).map(within).collect();
    copy_back(target, &*environment.storage, &needed, &|_| {})
        .with_context(|| format!("{} cannot be read", target.place()))?;
    reach_of(environment, &folder.path().join("log"), &folder.path().join("journal"))
}

fn reach_of(environment: &Environment, log: &Path, journal: &Path) -> anyhow::Result<Reach> {
    let journal = EpochJournal::open(environment, journal, EpochJournalOptions::default())?;
    let mut reach = Reach::default();
    if let Some(commit) = journal.last() {
        let record: CommitRecord = serde_json::from_slice(&commit.payload)
            .with_context(|| format!("the commit record of epoch {}", commit.epoch))?;
        reach.epoch = commit.epoch;
        reach.clock = record.clock;
        reach.inputs = record.inputs.into_iter().map(|(name, position)| (name, position.cursor.0)).collect();
    }
    for entry in environment.storage.list(log).unwrap_or_default().into_iter().filter(|entry| entry.is_dir) {
        let topic = Topic::open(environment, log.join(&entry.name), TopicOptions::default())?;
        reach.topics.insert(entry.name, (topic.begin(), topic.durable_end()));
    }
    Ok(reach)
}

/// Copies everything into the project's folders, which are empty, and makes sure that it fits together.
pub async fn restore(
    environment: &Environment,
    project: &Project,
    target: &dyn MirrorTarget,
    progress: &Progress,
) -> anyhow::Result<Reach> {
    let data = project.dir.join(".weir");
    let _lock = host::lock(environment, &data)?;
    let storage = &*environment.storage;
    let unfinished = data.join(UNFINISHED);
    storage.write_atomic(&unfinished, target.place().as_bytes())?;
    tokio::task::block_in_place(|| {
        copy_back(target, storage, &roots(project), &|bytes| progress.line(&format!("{} MiB restored", bytes >> 20)))
    })
    .with_context(|| format!("{} could not be copied", target.place()))?;
    let accepted = tokio::task::block_in_place(|| read_small(target, ACCEPTED_FILE))?;
    let Some(accepted) = accepted else { bail!("{} has no {ACCEPTED_FILE}: it was never whole", target.place()) };
    storage.create_dir_all(&data.join(ACCEPTED))?;
    progress.line("checking what was restored");
    let reach = reach_of(environment, &project.settings.log.path, &data.join("journal"))?;
    fits(environment, project, &reach).await.with_context(|| {
        format!("{} was changed while it was read, or somebody else has changed it: restore again", target.place())
    })?;
    storage.write_atomic(&data.join(ACCEPTED_FILE), &accepted)?;
    host::branch(environment, &data, reach.epoch)?;
    storage.remove_file(&unfinished)?;
    storage.sync_dir(&data)?;
    progress.done();
    Ok(reach)
}

/// The record that the cursor of a topic's reader goes on with.
pub fn next_record(cursor: &str) -> Option<u64> {
    serde_json::from_str::<serde_json::Value>(cursor).ok()?["next"].as_u64()
}

/// What was restored is what one crash could have left: the journal has what follows the checkpoint, and nothing was made
/// of epochs that it does not have.
async fn fits(environment: &Environment, project: &Project, reach: &Reach) -> anyhow::Result<()> {
    let data = project.dir.join(".weir");
    let journal = EpochJournal::open(environment, data.join("journal"), EpochJournalOptions::default())?;
    let checkpoint = CheckpointStore::open(environment, &project.settings.state.path)?.latest()?;
    let checkpoint = checkpoint.map_or(0, |(epoch, _)| epoch);
    let first = journal.first_epoch().unwrap_or(1);
    if checkpoint > reach.epoch {
        bail!("the checkpoint is of epoch {checkpoint}, the journal ends with {}", reach.epoch);
    }
    if first > checkpoint + 1 {
        bail!("the checkpoint is of epoch {checkpoint}, the journal begins with {first}");
    }
    let lake = &project.settings.lake.path;
    let landed = LakeHistory::open(&lake.to_string_lossy(), LakeOptions::default()).await?.landed();
    if landed > reach.epoch {
        bail!("the lake {} has epoch {landed}, the journal ends with {}", lake.display(), reach.epoch);
    }
    if landed < checkpoint {
        bail!("the lake {} has epoch {landed}, the checkpoint is of epoch {checkpoint}", lake.display());
    }
    for (name, (begin, end)) in &reach.topics {
        let cursor = reach.inputs.get(name).and_then(|cursor| next_record(cursor));
        if let Some(cursor) = cursor
            && (cursor > *end || cursor < *begin)
        {
            bail!("epoch {} goes on with record {cursor} of `{name}`, which has {begin} to {end}", reach.epoch);
        }
    }
    Ok(())
}
