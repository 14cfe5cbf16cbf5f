//! Opens a project's pipeline: the folder's lock, what an earlier start accepted, recovery, inputs and sinks.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use weir_connectors::lake::{LakeHistory, LakeOptions, ShippedHistory};
use weir_environment::{Environment, Lock, Workers};
use weir_incremental::Relation;
use weir_incremental::checkpoint::CheckpointStore;
use weir_pipeline::EpochNumber;
use weir_pipeline::compile::compile;
use weir_pipeline::copies::Copies;
use weir_pipeline::core::Core;
use weir_pipeline::history::History;
use weir_pipeline::rebuild::{RebuildPlan, rebuild};
use weir_pipeline::spec::PipelineSpec;
use weir_project::manifest::{Change, ChangeKind, ChangeSeverity, Manifest, What};
use weir_project::{FOLDERS, Project, Reading, SourceKind};

use crate::backup::LINKS;
use crate::lineage::Lineage;
use crate::mirror::{ACCEPTED, ACCEPTED_FILE, DataMirror, LAKE};
use crate::progress::Progress;
use crate::restore::UNFINISHED;

/// What a start does with a project that changed in meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum OnChange {
    /// Says what changed and ends.
    #[default]
    Refuse,
    /// Goes on with the project as it was accepted last; the changed files wait.
    Keep,
    /// Builds what changed from history, then runs.
    Rebuild,
}

/// The project that a data folder was last run with.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Accepted {
    /// Format of this file.
    version: u32,
    manifest: Manifest,
    /// A rebuild to this manifest has begun and not ended: these models are to be made anew.
    #[serde(default)]
    rebuilding: Option<Pending>,
    /// How often each model was rebuilt; part of its version for sinks.
    #[serde(default)]
    generations: BTreeMap<String, u64>,
    /// Whose epochs the folder has.
    #[serde(default)]
    lineage: Lineage,
}

/// A rebuild that has begun.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Pending {
    models: Vec<String>,
    dropped: Vec<String>,
    sources: Vec<String>,
}

const ACCEPTED_VERSION: u32 = 1;
/// Copy of the accepted project's files, for `--on-change keep`.
const ACCEPTED_FOLDER: &str = "accepted";

/// The project changed and the start was told to refuse that.
#[derive(Debug, thiserror::Error)]
#[error("the project changed since it ran last")]
pub struct ChangedProject {
    /// What changed.
    pub changes: Vec<Change>,
    /// Whether something would go that `--allow-drop` has to allow.
    pub needs_allow_drop: bool,
}

/// Another process holds the data folder.
#[derive(Debug, thiserror::Error)]
#[error("{0} is in use by another weir process")]
pub struct FolderInUse(pub PathBuf);

/// An opened, recovered pipeline.
pub struct Host {
    /// The machine.
    pub environment: Environment,
    /// The project that runs (the accepted one with `--on-change keep`).
    pub project: Project,
    /// It, compiled.
    pub spec: Arc<PipelineSpec>,
    /// Checkpoints.
    pub store: Arc<CheckpointStore>,
    /// Recovered state.
    pub core: Core,
    /// How often each model was rebuilt.
    pub generations: BTreeMap<String, u64>,
    /// Whose epochs it has.
    pub lineage: Lineage,
    /// The second copy, where there is one.
    pub mirror: Option<Arc<DataMirror>>,
    /// Held until dropped.
    pub lock: Box<dyn Lock>,
}

/// How to open.
#[derive(Debug, Clone, Default)]
pub struct OpenOptions {
    /// What to do with a changed project.
    pub on_change: OnChange,
    /// Whether relations may be dropped.
    pub allow_drop: bool,
    /// Models to rebuild although nothing changed.
    pub backfill: Vec<Relation>,
    /// Nothing is done but to answer: the mirror is left alone, and made level by the next start.
    pub only_answers: bool,
}

/// Takes the lock of a data folder.
pub fn lock(environment: &Environment, data: &Path) -> anyhow::Result<Box<dyn Lock>> {
    environment.storage.create_dir_all(data).with_context(|| format!("{} cannot be created", data.display()))?;
    match environment.storage.lock(&data.join("lock")) {
        Ok(lock) => Ok(lock),
        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => Err(FolderInUse(data.to_path_buf()).into()),
        Err(error) => Err(error).with_context(|| format!("{} cannot be locked", data.display())),
    }
}

/// How often each model was rebuilt, and whose epochs the folder has: what versions for sinks are made of.
pub fn generations(environment: &Environment, data: &Path) -> anyhow::Result<(BTreeMap<String, u64>, Lineage)> {
    Ok(read_accepted(environment, data)?.map(|accepted| (accepted.generations, accepted.lineage)).unwrap_or_default())
}

fn read_accepted(environment: &Environment, data: &Path) -> anyhow::Result<Option<Accepted>> {
    let path = data.join(ACCEPTED_FILE);
    if !environment.storage.exists(&path) {
        return Ok(None);
    }
    let bytes = environment.storage.read(&path)?;
    let accepted: Accepted =
        serde_json::from_slice(&bytes).with_context(|| format!("{} cannot be read", path.display()))?;
    if accepted.version > ACCEPTED_VERSION {
        bail!(
            "{} has format {}, this program reads up to {ACCEPTED_VERSION}: use the newer program",
            path.display(),
            accepted.version
        );
    }
    Ok(Some(accepted))
}

fn write_accepted(
    environment: &Environment,
    data: &Path,
    accepted: &Accepted,
    mirror: Option<&DataMirror>,
) -> anyhow::Result<()> {
    let bytes = serde_json::to_vec_pretty(accepted)?;
    environment.storage.write_atomic(&data.join(ACCEPTED_FILE), &bytes)?;
    if let Some(mirror) = mirror {
        mirror.ship(ACCEPTED);
        mirror.put(ACCEPTED_FILE, &bytes);
    }
    Ok(())
}

/// Gives a data folder that was copied from another an identity of its own: it shares the epochs up to `last`.
pub fn branch(environment: &Environment, data: &Path, last: EpochNumber) -> anyhow::Result<()> {
    let Some(mut accepted) = read_accepted(environment, data)? else {
        bail!("{} is missing in the copy: nothing can be restored from it", ACCEPTED_FILE);
    };
    accepted.lineage = accepted.lineage.branch(last, environment);
    write_accepted(environment, data, &accepted, None)
}

/// Whose epochs a data folder has; None when it has none.
pub fn lineage(environment: &Environment, data: &Path) -> anyhow::Result<Option<Lineage>> {
    Ok(read_accepted(environment, data)?.map(|accepted| accepted.lineage))
}

/// Copies the project's text files beside its data.
fn keep_copy(environment: &Environment, project: &Project, data: &Path) -> anyhow::Result<()> {
    let fresh = data.join(format!("{ACCEPTED_FOLDER}.new"));
    let kept = data.join(ACCEPTED_FOLDER);
    if fresh.exists() {
        environment.storage.remove_dir_all(&fresh)?;
    }
    environment.storage.create_dir_all(&fresh)?;
    for entry in std::fs::read_dir(&project.dir)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_settings = name.starts_with("weir") && name.ends_with(".toml");
        if is_settings {
            std::fs::copy(entry.path(), fresh.join(&name))?;
        } else if FOLDERS.contains(&name.as_str()) {
            copy_tree(&entry.path(), &fresh.join(&name))?;
        }
    }
    if kept.exists() {
        environment.storage.remove_dir_all(&kept)?;
    }
    environment.storage.rename(&fresh, &kept)?;
    environment.storage.sync_dir(data)?;
    Ok(())
}

fn copy_tree(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// Gives a project that was read from the kept copy the folder and settings of the one beside it.
fn adopt_place(kept: &mut Project, project: &Project) {
    for source in &mut kept.sources {
        if let SourceKind::Files(files) = &mut source.kind
            && let Ok(inside) = files.path.strip_prefix(&kept.dir)
        {
            files.path = project.dir.join(inside);
        }
    }
    kept.dir = project.dir.clone();
    kept.settings = project.settings.clone();
}

/// What a rebuild has to do for a list of changes.
fn pending_of(changes: &[Change], new: &Manifest) -> Pending {
    let mut pending = Pending::default();
    let mut touched: Vec<String> = Vec::new();
    for change in changes {
        match (change.what, change.kind) {
            (What::Sink, _) => {}
            (What::Model, ChangeKind::Removed) | (What::Source, ChangeKind::Removed) => {
                pending.dropped.push(change.name.clone());
            }
            (What::Model, _) => touched.push(change.name.clone()),
            (What::Source, kind) => {
                if kind == ChangeKind::Changed && change.severity != ChangeSeverity::Harmless {
                    pending.sources.push(change.name.clone());
                }
            }
        }
    }
    // Models come after those they read, so one pass finds everything downstream.
    for entry in new.entries.iter().filter(|e| e.what == What::Model) {
        let upstream = entry.reads.iter().any(|r| touched.contains(r) || pending.sources.contains(r));
        if upstream && !touched.contains(&entry.name) {
            touched.push(entry.name.clone());
        }
    }
    pending.models = touched;
    pending
}

impl Host {
    /// Opens the project in `project.dir`: recovers, and rebuilds where told to.
    pub async fn open(project: Project, options: &OpenOptions, progress: &Progress) -> anyhow::Result<Self> {
        let mut environment = Environment::real();
        if let Some(threads) = project.settings.epoch.threads {
            environment.workers = Workers::new(usize::try_from(threads).unwrap_or(usize::MAX));
        }
        let data = project.dir.join(".weir");
        let lock = lock(&environment, &data)?;
        if environment.storage.exists(&data.join(UNFINISHED)) {
            bail!("a restore into {} did not end: remove the folder, and restore again", data.display());
        }
        if environment.storage.exists(&data.join(LINKS)) {
            // A backup that a crash has broken off.
            environment.storage.remove_dir_all(&data.join(LINKS))?;
        }
        let mut accepted = read_accepted(&environment, &data)?;
        if let Some(accepted) = accepted.as_mut().filter(|a| a.lineage.id.is_empty() && !options.only_answers) {
            // Of a release whose folders had no identity: any two of them would pass for one.
            accepted.lineage = accepted.lineage.branch(EpochNumber::MAX, &environment);
            write_accepted(&environment, &data, accepted, None)?;
        }
        let manifest = project.manifest();
        let lineage = accepted.as_ref().map_or_else(|| Lineage::new(&environment), |accepted| accepted.lineage.clone());
        let mut mirror = None;
        if !options.only_answers
            && let Some((opened, mirrored)) =
                DataMirror::open(&environment, &project, &lineage, accepted.is_none(), progress).await?
        {
            mirror = Some(opened);
            environment = mirrored;
        }
        let opening = Opening { environment, lineage, mirror, lock };
        let (environment, mirror) = (opening.environment.clone(), opening.mirror.clone());
        let mirror = mirror.as_deref();
        let Some(mut accepted) = accepted else {
            let lineage = opening.lineage.clone();
            let accepted = Accepted { version: ACCEPTED_VERSION, manifest, lineage, ..Accepted::default() };
            keep_copy(&environment, &project, &data)?;
            write_accepted(&environment, &data, &accepted, mirror)?;
            // Nobody is answered by a pipeline that could not be restored.
            settled(mirror).await?;
            return Self::recover(opening, project, accepted.generations).await;
        };
        let changes = Manifest::diff(&accepted.manifest, &manifest);
        let lasting: Vec<Change> = changes.iter().filter(|c| c.severity != ChangeSeverity::Harmless).cloned().collect();
        let mut pending = accepted.rebuilding.clone();
        if !lasting.is_empty() {
            match options.on_change {
                OnChange::Refuse => {
                    let needs_allow_drop = lasting.iter().any(|c| c.severity == ChangeSeverity::Drop);
                    return Err(ChangedProject { changes: lasting, needs_allow_drop }.into());
                }
                OnChange::Keep => {
                    let reading = Project::read(&data.join(ACCEPTED_FOLDER), project.profile.as_deref());
                    let Reading { project: Some(mut kept), .. } = reading else {
                        bail!("the accepted project in {} cannot be read", data.join(ACCEPTED_FOLDER).display());
                    };
                    adopt_place(&mut kept, &project);
                    return Self::recover(opening, kept, accepted.generations).await;
                }
                OnChange::Rebuild => {
                    if lasting.iter().any(|c| c.severity == ChangeSeverity::Drop) && !options.allow_drop {
                        return Err(ChangedProject { changes: lasting, needs_allow_drop: true }.into());
                    }
                    pending = Some(pending_of(&lasting, &manifest));
                }
            }
        }
        if !options.backfill.is_empty() {
            let mut wanted = pending.unwrap_or_default();
            for model in &options.backfill {
                if !wanted.models.iter().any(|m| m == model.as_ref()) {
                    wanted.models.push(model.to_string());
                }
            }
            pending = Some(wanted);
        }
        if let Some(pending) = pending {
            if accepted.rebuilding.is_none() {
                // Everything that the old meaning has admitted goes to the lake and a checkpoint first.
                settle(&opening, &project, &data, &pending.models).await?;
                for model in &pending.models {
                    *accepted.generations.entry(model.clone()).or_default() += 1;
                }
            }
            keep_copy(&environment, &project, &data)?;
            accepted.manifest = manifest;
            accepted.rebuilding = Some(pending.clone());
            write_accepted(&environment, &data, &accepted, mirror)?;
            rebuild_all(&opening, &project, &pending, progress).await?;
            accepted.rebuilding = None;
            write_accepted(&environment, &data, &accepted, mirror)?;
            // An epoch of the new meaning is of no use without it.
            settled(mirror).await?;
        } else if changes.len() != lasting.len() || accepted.manifest != manifest {
            keep_copy(&environment, &project, &data)?;
            accepted.manifest = manifest;
            write_accepted(&environment, &data, &accepted, mirror)?;
        }
        Self::recover(opening, project, accepted.generations).await
    }

    /// Lands everything and writes a checkpoint.
    pub async fn settle(&mut self) -> anyhow::Result<()> {
        settle_core(&mut self.core, &self.store, self.mirror.as_deref()).await
    }

    async fn recover(opening: Opening, project: Project, generations: BTreeMap<String, u64>) -> anyhow::Result<Self> {
        let spec = Arc::new(compile(&project)?);
        let (history, store) = stores(&opening.environment, &project, opening.mirror.as_ref(), &[]).await?;
        let environment = opening.environment;
        let core = {
            let (environment, spec, history, store) =
                (environment.clone(), spec.clone(), history.clone(), store.clone());
            tokio::task::spawn_blocking(move || Core::open(&environment, spec, history, &store)).await??
        };
        let Opening { lineage, mirror, lock, .. } = opening;
        Ok(Self { environment, project, spec, store, core, generations, lineage, mirror, lock })
    }
}

/// What is there before the pipeline is.
struct Opening {
    environment: Environment,
    lineage: Lineage,
    mirror: Option<Arc<DataMirror>>,
    lock: Box<dyn Lock>,
}

/// Returns when the mirror, if there is one, has everything so far.
async fn settled(mirror: Option<&DataMirror>) -> anyhow::Result<()> {
    match mirror {
        Some(mirror) if !mirror.settled().await => bail!("the mirror does not take what was written"),
        _ => Ok(()),
    }
}

/// Opens lake and checkpoints; `anew` are models whose tables may be gone, since they are made anew.
pub async fn stores(
    environment: &Environment,
    project: &Project,
    mirror: Option<&Arc<DataMirror>>,
    anew: &[String],
) -> anyhow::Result<(Arc<dyn History>, Arc<CheckpointStore>)> {
    let lake = &project.settings.lake.path;
    environment.storage.create_dir_all(lake)?;
    let history = LakeHistory::open(&lake.to_string_lossy(), LakeOptions::default()).await?;
    if let Some((relation, what)) = history.lost().iter().find(|(name, _)| !anew.iter().any(|n| n == name.as_ref())) {
        bail!("the lake's table of `{relation}` is damaged: {what}; `weir doctor` says what can be done");
    }
    let history: Arc<dyn History> = match mirror.cloned() {
        Some(mirror) => Arc::new(ShippedHistory::new(Arc::new(history), Box::new(move || mirror.ship(LAKE)))),
        None => Arc::new(history),
    };
    let store = CheckpointStore::open(environment, &project.settings.state.path)?;
    Ok((history, Arc::new(store)))
}

/// Recovers the project as it was accepted, lands everything and writes a checkpoint.
async fn settle(opening: &Opening, project: &Project, data: &Path, anew: &[String]) -> anyhow::Result<()> {
    let environment = &opening.environment;
    let Reading { project: Some(mut kept), .. } =
        Project::read(&data.join(ACCEPTED_FOLDER), project.profile.as_deref())
    else {
        bail!("the accepted project in {} cannot be read", data.join(ACCEPTED_FOLDER).display());
    };
    adopt_place(&mut kept, project);
    let spec = Arc::new(compile(&kept)?);
    let (history, store) = stores(environment, &kept, opening.mirror.as_ref(), anew).await?;
    let mut core = {
        let (environment, spec, history, store) = (environment.clone(), spec.clone(), history.clone(), store.clone());
        tokio::task::spawn_blocking(move || Core::open(&environment, spec, history, &store)).await??
    };
    settle_core(&mut core, &store, opening.mirror.as_deref()).await
}

/// Lands everything and writes a checkpoint.
async fn settle_core(core: &mut Core, store: &CheckpointStore, mirror: Option<&DataMirror>) -> anyhow::Result<()> {
    if let Some((epoch, landings)) = core.contents().to_land()? {
        core.contents().history().land(epoch, landings).await?;
        core.contents().landed(epoch);
    }
    if let Some(mut pending) = core.take_checkpoint() {
        pending.write(store)?;
    }
    settled(mirror).await?;
    let epoch = core.epoch();
    core.release(epoch)?;
    Ok(())
}

async fn rebuild_all(
    opening: &Opening,
    project: &Project,
    pending: &Pending,
    progress: &Progress,
) -> anyhow::Result<()> {
    let environment = &opening.environment;
    let spec = Arc::new(compile(project)?);
    let (history, store) = stores(environment, project, opening.mirror.as_ref(), &pending.models).await?;
    let relations = |names: &[String]| names.iter().map(|n| Relation::from(n.as_str())).collect::<Vec<_>>();
    let plan = RebuildPlan {
        models: relations(&pending.models),
        dropped: relations(&pending.dropped),
        sources: relations(&pending.sources),
    };
    let mut core = {
        let (environment, spec, history, store) = (environment.clone(), spec.clone(), history.clone(), store.clone());
        tokio::task::spawn_blocking(move || Core::open_fresh(&environment, spec, history, &store)).await??
    };
    let copies = opening.mirror.as_deref().map(|mirror| mirror as &dyn Copies);
    rebuild(&mut core, environment, &spec, &history, &store, copies, &plan, &|source, rows| {
        progress.line(&format!("rebuilding: {rows} rows of {source}"));
    })
    .await?;
    progress.done();
    Ok(())
}
