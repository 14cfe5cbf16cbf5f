//! A mirror: a second copy of the data folder in another place, that survives the loss of the first.
//!
//! Invariants:
//! 1. At every moment the mirror holds what a crash of the machine could have left of the folder: a pipeline that is
//!    restored from it recovers as after a crash.
//! 2. In mode `sync`, bytes whose sync was reported are durable in the mirror. In mode `async`, writers are held up when the
//!    mirror is behind by more than a bound, so what can be lost is bounded.
//! 3. Nothing is dropped: an operation that fails is tried again until it works, and later ones wait behind it.
//!
//! Why 1 holds. Whatever Weir writes goes through [`Storage`](crate::Storage), which notes each change, in order, in one of
//! two lanes: the *log's*, for files that grow and are waited for (topics, journal, ledger, catalogues), and the *bulk* lane for
//! files that are written once (checkpoints, the lake), so that these hold up nobody. A lane's operations reach the mirror
//! in order, and one of the bulk lane only after everything that the log's lane had before it. So the log's lane may be
//! ahead of the other in the mirror, never behind: the same as a crash leaves, where a checkpoint is older than the journal. What
//! the log's lane removes (epochs and records that a checkpoint has made dispensable) is removed here only after
//! [`Mirror::settle`], when the mirror has that checkpoint. Appends that wait together are made durable file by file, in the
//! order of the roots (topics before the journal whose cursors lead into them, the journal before the ledger), and within a
//! file at each point where it was synced here, since later entries vouch for earlier ones: so also a mirror that stops
//! in the middle is sound; renames and removals are done one by one.
//!
//! At the start, [`Mirror::level`] compares the folder with the mirror and makes good what the last process did not ship:
//! first what only adds, in the order of the roots, at the end what removes.

mod back;
mod level;
mod operation;
mod ship;
mod storage;
mod target;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

pub use self::back::copy_back;
use self::operation::{Lane, Operation, Queue};
use self::storage::MirroredStorage;
pub use self::target::{FolderTarget, InMemory, MirrorTarget};
use crate::{Environment, Joined, Storage};

/// When a write counts as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MirrorMode {
    /// When disk and mirror have it.
    Sync,
    /// When the disk has it.
    Async,
}

/// How a mirror is kept.
#[derive(Debug, Clone)]
pub struct MirrorSettings {
    /// When a write counts as durable.
    pub mode: MirrorMode,
    /// In mode `async`: how old the oldest write may be that the mirror lacks.
    pub lag_max: Duration,
    /// In mode `async`: how many bytes of the log's lane the mirror may lack.
    pub lag_bytes_max: u64,
}

/// How the files of a folder are written, and so how they are shipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keeping {
    /// They grow, and somebody waits until what was appended is durable.
    Acknowledged,
    /// They grow.
    Growing,
    /// They are written once, synced, and renamed or removed, or replaced at once.
    Whole,
    /// Others than [`Storage`] write them: they are shipped when [`Mirror::ship`] says so.
    Settled,
}

/// Where a file comes in its folder's order, and whether it is written again under its name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Files of a lower rank reach the mirror first.
    pub rank: u8,
    /// Among those of one rank, in the order of this text.
    pub text: String,
    /// Whether its content may change; then it is small.
    pub changes: bool,
}

/// Tells the place of a file by its name in the folder; None for what is left out.
pub type Order = fn(&str) -> Option<Place>;

/// A folder to be mirrored.
#[derive(Debug, Clone)]
pub struct Root {
    /// Where it is here.
    pub folder: PathBuf,
    /// Its name in the mirror.
    pub name: &'static str,
    /// How its files are written.
    pub keeping: Keeping,
    /// The order of its files.
    pub order: Order,
}

impl Root {
    /// All files by name. Names that begin with a point, or end as drafts do, are left out.
    pub fn by_name(name: &str) -> Option<Place> {
        let base = name.rsplit('/').next().unwrap_or(name);
        let draft = base.starts_with('.') || base.ends_with(".copy") || base.ends_with(".tmp");
        (!draft).then(|| Place { rank: 0, text: name.to_owned(), changes: false })
    }
}

/// How a mirror is doing.
#[derive(Debug, Clone)]
pub struct MirrorStatus {
    /// Where it is.
    pub place: String,
    /// When a write counts as durable.
    pub mode: MirrorMode,
    /// How long the oldest write has waited that the mirror lacks.
    pub lag: Duration,
    /// Bytes of topics, journal and ledger that it lacks.
    pub lag_bytes: u64,
    /// Operations on lake and checkpoints that it lacks.
    pub bulk: u64,
    /// Why it does not take what comes next.
    pub failure: Option<String>,
}

/// A root with what is known of its copy.
#[derive(Debug)]
struct KnownRoot {
    folder: PathBuf,
    name: &'static str,
    keeping: Keeping,
    order: Order,
    /// Files that the mirror has, those that change with their content; for settled folders.
    known: Mutex<HashMap<String, Arc<[u8]>>>,
}

#[derive(Default)]
struct State {
    queues: [Queue; 2],
    /// Nobody wants to wait for a mirror that fails.
    hurried: bool,
    ended: bool,
}

struct Shared {
    environment: Environment,
    storage: Arc<dyn Storage>,
    target: Arc<dyn MirrorTarget>,
    roots: Vec<KnownRoot>,
    settings: MirrorSettings,
    state: Mutex<State>,
    /// Something was queued, shipped or failed.
    changed: Condvar,
    /// Whoever waits to try again may do so at once.
    retry: Condvar,
}

impl fmt::Debug for Shared {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Mirror").field("target", &self.target).finish_non_exhaustive()
    }
}

impl Shared {
    /// The place of a file in its root's order.
    fn order_of(&self, path: &Path) -> Option<Place> {
        self.roots.iter().find_map(|root| {
            let rest = path.strip_prefix(&root.folder).ok()?;
            (root.order)(&rest.to_string_lossy())
        })
    }

    /// The root that a path is in, and the path's name in the mirror.
    fn locate(&self, path: &Path) -> Option<(Keeping, String)> {
        self.roots.iter().find_map(|root| {
            let rest = path.strip_prefix(&root.folder).ok()?;
            let parts: Vec<_> = rest.components().map(|part| part.as_os_str().to_string_lossy()).collect();
            Some((root.keeping, format!("{}/{}", root.name, parts.join("/"))))
        })
    }
}

/// A mirror that follows a data folder.
pub struct Mirror {
    shared: Arc<Shared>,
    threads: Mutex<Vec<Box<dyn Joined>>>,
}

impl fmt::Debug for Mirror {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.shared.fmt(formatter)
    }
}

impl Mirror {
    /// A mirror of `roots` at `target`. It follows nothing before [`Mirror::start`].
    pub fn new(
        environment: &Environment,
        target: Arc<dyn MirrorTarget>,
        roots: Vec<Root>,
        settings: MirrorSettings,
    ) -> Self {
        let known = |root: Root| {
            let Root { folder, name, keeping, order } = root;
            KnownRoot { folder, name, keeping, order, known: Mutex::default() }
        };
        let shared = Shared {
            environment: environment.clone(),
            storage: environment.storage.clone(),
            target,
            roots: roots.into_iter().map(known).collect(),
            settings,
            state: Mutex::default(),
            changed: Condvar::new(),
            retry: Condvar::new(),
        };
        Self { shared: Arc::new(shared), threads: Mutex::default() }
    }

    /// Makes the mirror equal to the folder, in which nobody may write meanwhile. `progress` is told bytes copied.
    ///
    /// # Errors
    /// What folder or mirror answer; the mirror is left as a crash could have left the folder, unless it
    /// [`Mirror::has_gap`].
    pub fn level(&self, progress: &dyn Fn(u64)) -> io::Result<()> {
        level::level(&self.shared, progress)
    }

    /// Whether the mirror lacks what the folder has removed meanwhile, so that it is of no use until it is level again.
    ///
    /// # Errors
    /// What folder or mirror answer.
    pub fn has_gap(&self) -> io::Result<bool> {
        level::has_gap(&self.shared)
    }

    /// Follows from now on, in the environment that is returned.
    pub fn start(&self) -> Environment {
        let mut threads = self.threads.lock();
        for lane in Lane::ALL {
            let shared = self.shared.clone();
            let name = if lane == Lane::Log { "weir-mirror-log" } else { "weir-mirror-bulk" };
            threads.push(self.shared.environment.spawn.spawn(name, Box::new(move || shared.ship(lane))));
        }
        let storage = Arc::new(MirroredStorage { shared: self.shared.clone() });
        Environment { storage, ..self.shared.environment.clone() }
    }

    /// Has what others wrote to a settled folder shipped.
    pub fn ship(&self, root: &str) {
        if let Some(folder) = self.shared.roots.iter().position(|known| known.name == root) {
            self.shared.push(Lane::Bulk, Operation::Folder(folder));
        }
    }

    /// Has a file of this name shipped.
    pub fn put(&self, name: &str, bytes: &[u8]) {
        let content = Arc::new(InMemory(bytes.into()));
        let len = bytes.len() as u64;
        self.shared.push(Lane::Bulk, Operation::Put { name: name.to_owned(), content, len });
    }

    /// Waits until everything that was written before is in the mirror. False when it is given up: the mirror fails, and
    /// [`Mirror::hurry`] was called or is.
    pub fn settle(&self) -> bool {
        self.shared.settle()
    }

    /// Has nobody wait for a mirror that fails: the process is about to end.
    pub fn hurry(&self) {
        self.shared.state.lock().hurried = true;
        self.shared.changed.notify_all();
    }

    /// Operations of the log's lane: how many were queued so far, and how many of them the mirror has.
    pub fn progress(&self) -> (u64, u64) {
        let mut state = self.shared.state.lock();
        let queue = state.queue(Lane::Log);
        (queue.queued, queue.shipped)
    }

    /// How it is doing.
    pub fn status(&self) -> MirrorStatus {
        let mut state = self.shared.state.lock();
        let lag = state.lag(self.shared.environment.clock.elapsed());
        let bulk = state.queue(Lane::Bulk);
        let (behind, failure) = (bulk.queued - bulk.shipped, bulk.failure.clone());
        let log = state.queue(Lane::Log);
        MirrorStatus {
            place: self.shared.target.place(),
            mode: self.shared.settings.mode,
            lag,
            lag_bytes: log.bytes,
            bulk: behind,
            failure: log.failure.clone().or(failure),
        }
    }

    /// Ships what is queued unless the mirror fails, and follows no more; whether it is level.
    pub fn close(&self) -> bool {
        self.hurry();
        let level = self.settle();
        self.shared.state.lock().ended = true;
        self.shared.changed.notify_all();
        self.shared.retry.notify_all();
        // A thread that hangs in the mirror ends with the process.
        for thread in self.threads.lock().drain(..).filter(|_| level) {
            thread.join();
        }
        level
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.shared.state.lock().ended = true;
        self.shared.changed.notify_all();
        self.shared.retry.notify_all();
    }
}
