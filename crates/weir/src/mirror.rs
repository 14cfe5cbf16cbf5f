//! The mirror of a project's data folder: what it is made of, whose it is, and how far behind.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use async_trait::async_trait;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use weir_connectors::lake;
use weir_connectors::mirror::ObjectTarget;
use weir_environment::Environment;
use weir_environment::mirror::{
    FolderTarget, InMemory, Keeping, Mirror, MirrorMode, MirrorSettings, MirrorTarget, Place, Root,
};
use weir_incremental::checkpoint;
use weir_journal::Topic;
use weir_pipeline::copies::Copies;
use weir_pipeline::core::folders;
use weir_project::Project;
use weir_project::settings::{self, MirrorPlace};

use crate::lineage::Lineage;
use crate::progress::Progress;

/// What a mirror says of itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Marker {
    /// Format of this file.
    format: u32,
    /// Whose epochs it holds.
    pub lineage: String,
    /// Whether a pipeline can be restored from it.
    pub complete: bool,
}

/// Where a mirror says it.
pub const MARKER: &str = "mirror.json";
const MARKER_FORMAT: u32 = 1;
/// Groups of records whose way to the mirror is followed one by one.
const GROUPS_MAX: usize = 4096;

/// What says, in a data folder and in its copies, which project it was run with.
pub const ACCEPTED_FILE: &str = "accepted.json";
/// The lake's folder in a copy.
pub const LAKE: &str = "lake";
/// The folder of the accepted project's files in a copy.
pub const ACCEPTED: &str = "accepted";

/// The folders of a project that a copy has, those first that may be ahead of the others.
pub fn roots(project: &Project) -> Vec<Root> {
    let data = project.dir.join(".weir");
    let settings = &project.settings;
    let root = |folder: &Path, name, keeping, order| Root { folder: folder.to_path_buf(), name, keeping, order };
    let mut roots = vec![
        root(&settings.log.path, "log", Keeping::Acknowledged, Root::by_name),
        root(&data.join("files"), "files", Keeping::Growing, Root::by_name),
        root(&data.join(folders::JOURNAL), "journal", Keeping::Acknowledged, Root::by_name),
        root(&data.join(folders::LEDGER), "ledger", Keeping::Growing, Root::by_name),
    ];
    if settings.lake.path.starts_with(&data) {
        roots.push(root(&settings.lake.path, LAKE, Keeping::Settled, lake::shipping_order));
    }
    roots.push(root(&data.join("accepted"), ACCEPTED, Keeping::Settled, project_files));
    roots.push(root(&settings.state.path, "state", Keeping::Whole, checkpoint::shipping_order));
    roots
}

fn project_files(name: &str) -> Option<Place> {
    Some(Place { rank: 0, text: name.to_owned(), changes: true })
}

/// Opens a place for copies.
pub fn target(environment: &Environment, place: &MirrorPlace) -> anyhow::Result<Arc<dyn MirrorTarget>> {
    Ok(match place {
        MirrorPlace::Folder(folder) => Arc::new(FolderTarget::new(environment.storage.clone(), folder)),
        MirrorPlace::Objects(url) => Arc::new(ObjectTarget::s3(url, Handle::current()).map_err(anyhow::Error::msg)?),
    })
}

/// The bytes of a small file of a copy; None when it is not there.
pub fn read_small(target: &dyn MirrorTarget, name: &str) -> io::Result<Option<Vec<u8>>> {
    let file = match target.open_read(name) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = vec![0; usize::try_from(file.len()?).unwrap_or(usize::MAX)];
    let mut filled = 0;
    while filled < bytes.len() {
        match file.read_at(filled as u64, &mut bytes[filled..])? {
            0 => break,
            count => filled += count,
        }
    }
    bytes.truncate(filled);
    Ok(Some(bytes))
}

/// What the mirror at a place says of itself; None when there is none.
pub fn marker(target: &dyn MirrorTarget) -> anyhow::Result<Option<Marker>> {
    let unread = || format!("{} cannot be read", target.place());
    let Some(bytes) = read_small(target, MARKER).with_context(unread)? else { return Ok(None) };
    let marker: Marker = serde_json::from_slice(&bytes).with_context(|| format!("{} of {}", MARKER, target.place()))?;
    if marker.format > MARKER_FORMAT {
        bail!(
            "{} has format {}, this program reads up to {MARKER_FORMAT}: use the newer program",
            target.place(),
            marker.format
        );
    }
    Ok(Some(marker))
}

fn write_marker(target: &dyn MirrorTarget, lineage: &Lineage, complete: bool) -> anyhow::Result<()> {
    let marker = Marker { format: MARKER_FORMAT, lineage: lineage.id.clone(), complete };
    let bytes = serde_json::to_vec_pretty(&marker)?;
    let len = bytes.len() as u64;
    let written = target.put(MARKER, &InMemory(bytes.into()), len);
    written.with_context(|| format!("the mirror {} cannot be written ([log] mirror)", target.place()))
}

/// A mirror at work.
pub struct DataMirror {
    mirror: Mirror,
    settings: settings::MirrorSettings,
    topics: Mutex<BTreeMap<String, Arc<Mutex<Shipped>>>>,
}

/// How far the mirror has a topic.
struct Shipped {
    topic: Arc<Topic>,
    /// The offset behind the last record that it has.
    end: u64,
    /// Offsets that it will have once it has so many operations.
    coming: VecDeque<(u64, u64)>,
}

impl DataMirror {
    /// Opens the project's mirror, if it has one, and makes it level; what is written to the environment that comes with
    /// it is followed. `fresh` says that the data folder has just been made.
    pub async fn open(
        environment: &Environment,
        project: &Project,
        lineage: &Lineage,
        fresh: bool,
        progress: &Progress,
    ) -> anyhow::Result<Option<(Arc<Self>, Environment)>> {
        let Some(settings) = project.settings.log.mirror.clone() else { return Ok(None) };
        let target = target(environment, &settings.place)?;
        let mode = if settings.is_sync { MirrorMode::Sync } else { MirrorMode::Async };
        let bounds = MirrorSettings { mode, lag_max: settings.lag_max, lag_bytes_max: settings.lag_bytes_max };
        let mirror = Mirror::new(environment, target.clone(), roots(project), bounds);
        let accepted = environment.storage.read(&project.dir.join(".weir").join(ACCEPTED_FILE)).ok();
        let lineage = lineage.clone();
        progress.line("comparing the mirror");
        let levelled = tokio::task::spawn_blocking(move || -> anyhow::Result<Mirror> {
            level(&mirror, &*target, &lineage, fresh, accepted.as_deref())?;
            Ok(mirror)
        });
        let mirror = levelled.await??;
        progress.done();
        let environment = mirror.start();
        Ok(Some((Arc::new(Self { mirror, settings, topics: Mutex::default() }), environment)))
    }

    /// Has a settled folder shipped.
    pub fn ship(&self, root: &str) {
        self.mirror.ship(root);
    }

    /// Has a small file shipped.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        self.mirror.put(name, bytes);
    }

    /// Follows how far the mirror has a topic's records.
    pub fn follow(self: &Arc<Self>, name: &str, topic: &Arc<Topic>) {
        let end = topic.durable_end();
        let shipped = Arc::new(Mutex::new(Shipped { topic: topic.clone(), end, coming: VecDeque::new() }));
        self.topics.lock().insert(name.to_owned(), shipped.clone());
        let mirror = Arc::downgrade(self);
        topic.on_durable(Box::new(move |end| {
            if let Some(mirror) = mirror.upgrade() {
                let (queued, _) = mirror.mirror.progress();
                let coming = &mut shipped.lock().coming;
                if coming.len() >= GROUPS_MAX {
                    coming.pop_back();
                }
                coming.push_back((queued, end));
            }
        }));
    }

    /// For `weir status`.
    pub fn status(&self) -> Value {
        let status = self.mirror.status();
        let (_, had) = self.mirror.progress();
        let mut records = 0;
        for shipped in self.topics.lock().values() {
            let mut shipped = shipped.lock();
            while let Some((operations, end)) = shipped.coming.front().copied()
                && operations <= had
            {
                shipped.end = end;
                shipped.coming.pop_front();
            }
            records += shipped.topic.durable_end().saturating_sub(shipped.end);
        }
        let bound = match status.mode {
            MirrorMode::Sync => json!({"seconds": 0, "bytes": 0}),
            MirrorMode::Async => {
                json!({"seconds": self.settings.lag_max.as_secs_f64(), "bytes": self.settings.lag_bytes_max})
            }
        };
        json!({
            "place": status.place,
            "mode": if status.mode == MirrorMode::Sync { "sync" } else { "async" },
            "lag_seconds": status.lag.as_secs_f64(),
            "lag_bytes": status.lag_bytes,
            "lag_records": records,
            "loss_max": bound,
            "waiting_files": status.bulk,
            "failure": status.failure,
        })
    }

    /// Has nobody wait for a mirror that fails.
    pub fn hurry(&self) {
        self.mirror.hurry();
    }

    /// Ships what is left, unless the mirror fails; whether it is level.
    pub async fn close(self: Arc<Self>) -> bool {
        tokio::task::spawn_blocking(move || self.mirror.close()).await.unwrap_or(false)
    }
}

#[async_trait]
impl Copies for DataMirror {
    async fn settled(&self) -> bool {
        // The mirror's own threads do the work; this one only waits.
        tokio::task::block_in_place(|| self.mirror.settle())
    }
}

/// Makes the mirror equal to the data folder, unless it is somebody else's.
fn level(
    mirror: &Mirror,
    target: &dyn MirrorTarget,
    lineage: &Lineage,
    fresh: bool,
    accepted: Option<&[u8]>,
) -> anyhow::Result<()> {
    let place = target.place();
    let unusable = || format!("the mirror {place} cannot be used ([log] mirror)");
    let marker = marker(target).with_context(unusable)?;
    let holds = read_small(target, ACCEPTED_FILE).with_context(unusable)?.is_some();
    match &marker {
        // One that was begun and got nothing is as good as empty.
        Some(_) if fresh && !holds => {}
        Some(_) if fresh => bail!(
            "the data folder is empty, and the mirror {place} holds a pipeline's data: `weir restore {place}` brings it \
             back; to begin anew, name an empty folder in [log] mirror"
        ),
        Some(marker) if !lineage.descends_from(&marker.lineage) => bail!(
            "the mirror {place} holds the data of another pipeline, or of this one before it began anew: name an empty \
             folder in [log] mirror"
        ),
        None if !target.list("").with_context(unusable)?.is_empty() => {
            bail!("{place} is not empty and is no mirror of Weir's: name an empty folder in [log] mirror")
        }
        _ => {}
    }
    let usable = marker.is_some_and(|marker| marker.complete) && !mirror.has_gap().with_context(unusable)?;
    if !usable {
        write_marker(target, lineage, false)?;
    }
    mirror.level(&|_| {}).with_context(unusable)?;
    if let Some(accepted) = accepted {
        let len = accepted.len() as u64;
        target.put(ACCEPTED_FILE, &InMemory(accepted.into()), len).with_context(unusable)?;
    }
    write_marker(target, lineage, true)
}
