//! A world in memory for crash tests: it knows what is durable, and forgets the rest when it crashes.
//!
//! What a crash of the machine leaves of a file is its content at the last sync, then a random prefix of the
//! appends and truncations since, the last append torn at a random byte, and sometimes with sectors of the unsynced
//! part that read as zeros (the length was written before the data). Creations, renames and removals of names that
//! no [`Storage::sync_dir`] covered are there or not, each by chance. After a sync that failed, the bytes it was to
//! write may be lost even if a later sync succeeds, as on Linux; only truncating and writing them anew helps.

mod faults;
mod files;
mod storage;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

pub use faults::{Fault, Operation};

use self::files::Disk;
use self::storage::SimulatedStorage;
use crate::{Clock, Environment, Joined, Micros, Random, Spawn, Workers, real};

/// 2026-01-01T00:00:00Z: where every simulated clock starts.
const START: Micros = 1_767_225_600_000_000;

/// Steers a simulated world: crashes it, breaks its disk, moves its clock. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Simulator {
    disk: Arc<Mutex<Disk>>,
    clock: Arc<ManualClock>,
    random: Arc<SeededRandom>,
}

impl Simulator {
    pub(crate) fn new(seed: u64) -> Self {
        let clock = Arc::new(ManualClock { elapsed: Mutex::new(Duration::ZERO), offset: Mutex::new(START) });
        Self {
            disk: Arc::new(Mutex::new(Disk::new(seed, clock.clone()))),
            clock,
            random: Arc::new(SeededRandom(Mutex::new(StdRng::seed_from_u64(seed ^ 0x5eed)))),
        }
    }

    /// An environment of the machine as it is running now. It is dead after the next crash or kill, and so is all
    /// that was opened through it.
    pub fn environment(&self) -> Environment {
        let boot = self.disk.lock().boot();
        Environment {
            clock: self.clock.clone(),
            random: self.random.clone(),
            storage: Arc::new(SimulatedStorage::new(self.disk.clone(), boot)),
            spawn: Arc::new(RealThreads),
            // One after the other, so that a seed's faults hit the same reads.
            workers: Workers::new(1),
        }
    }

    /// Crashes the machine (unless it is down already), loses what was not durable, and starts it again. Faults
    /// that were set are forgotten.
    pub fn crash(&self) -> Environment {
        self.disk.lock().crash();
        self.environment()
    }

    /// Kills the process, and starts another: nothing that was written is lost, synced or not; locks are free.
    pub fn kill(&self) -> Environment {
        self.disk.lock().kill();
        self.environment()
    }

    /// The machine goes down in the middle of changing operation number `operation` (see
    /// [`Simulator::operations`]); everything fails from then on until [`Simulator::crash`] or [`Simulator::kill`].
    pub fn go_down_at(&self, operation: u64) {
        self.disk.lock().faults.down_at = Some(operation);
    }

    /// Whether the machine went down.
    pub fn is_down(&self) -> bool {
        self.disk.lock().is_down()
    }

    /// Changing operations (creations, appends, syncs, truncations, renames, removals) so far; the next has this
    /// number.
    pub fn operations(&self) -> u64 {
        self.disk.lock().faults.operations
    }

    /// Changing operations with numbers from `operation` on fail, `count` of them, then all is well again.
    pub fn fail_at(&self, operation: u64, count: u64, kind: io::ErrorKind) {
        self.disk.lock().faults.fail_at = Some((operation, operation.saturating_add(count), kind));
    }

    /// The next `count` operations of one sort fail, then all is well again.
    pub fn fail_next(&self, operation: Operation, count: u64, kind: io::ErrorKind) {
        self.disk.lock().faults.fail_next.insert(operation, (count, kind));
    }

    /// One read of `every` gives fewer bytes than it could; None: none does.
    pub fn short_reads(&self, every: Option<u32>) {
        self.disk.lock().faults.short_read_every = every;
    }

    /// Every operation takes up to so long, by both clocks; None: no time passes.
    pub fn slow_down(&self, max: Option<Duration>) {
        self.disk.lock().faults.slow_max = max;
    }

    /// What the disk did to its users so far, counted.
    pub fn faults(&self) -> BTreeMap<Fault, u64> {
        self.disk.lock().faults.happened.clone()
    }

    /// Every file with its length, by name.
    pub fn files(&self) -> Vec<(PathBuf, u64)> {
        self.disk.lock().names()
    }

    /// Takes back every fault that was set and did not happen yet.
    pub fn clear_faults(&self) {
        self.disk.lock().faults.clear();
    }

    /// Bytes that all files together may have; None for no bound. An append over it writes what fits and fails with
    /// `StorageFull`.
    pub fn set_capacity(&self, bytes: Option<u64>) {
        self.disk.lock().capacity = bytes;
    }

    /// Bytes of all files.
    pub fn used_bytes(&self) -> u64 {
        self.disk.lock().used_bytes()
    }

    /// Inverts bits of one byte of a file, as a disk that rots would. False when the file has no such byte.
    pub fn flip(&self, path: &Path, position: u64, mask: u8) -> bool {
        self.disk.lock().flip(path, position, mask)
    }

    /// Replaces what a file holds, durably: to plant arbitrary bytes. Creates it when it is missing.
    pub fn plant(&self, path: &Path, bytes: &[u8]) {
        self.disk.lock().plant(path, bytes);
    }

    /// Moves both clocks forward.
    pub fn advance(&self, by: Duration) {
        self.clock.advance(by);
    }

    /// Sets the wall clock, forward or backward; the other one stays.
    pub fn set_now(&self, now: Micros) {
        let elapsed = self.clock.elapsed.lock();
        *self.clock.offset.lock() = now - elapsed.as_micros() as Micros;
    }
}

#[derive(Debug)]
struct ManualClock {
    elapsed: Mutex<Duration>,
    offset: Mutex<Micros>,
}

impl ManualClock {
    fn advance(&self, by: Duration) {
        *self.elapsed.lock() += by;
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Micros {
        let elapsed = self.elapsed.lock();
        *self.offset.lock() + elapsed.as_micros() as Micros
    }

    fn elapsed(&self) -> Duration {
        *self.elapsed.lock()
    }
}

#[derive(Debug)]
struct SeededRandom(Mutex<StdRng>);

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        self.0.lock().random()
    }
}

/// Threads stay real: what they do to the disk is serialized by it.
#[derive(Debug)]
struct RealThreads;

impl Spawn for RealThreads {
    fn spawn(&self, name: &str, work: Box<dyn FnOnce() + Send>) -> Box<dyn Joined> {
        real::spawn_thread(name, work)
    }
}
