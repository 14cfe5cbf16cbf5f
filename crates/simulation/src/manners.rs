//! What a seed draws before it runs: the project, how much happens, and which kinds of faults there are. Few kinds at a
//! time go deeper than all at once.

use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;

use crate::project::{Choice, EXTENTS, MEMORY_BYTES};

/// A kind of fault that a run may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// The machine goes down in the middle of a disk operation.
    Crash,
    /// The process is killed.
    Kill,
    /// Disk operations fail, and work again.
    Errors,
    /// Disk operations fail until somebody mends it.
    LastingErrors,
    /// Reads fail, and work again.
    ReadErrors,
    /// Reads give less than is there.
    ShortReads,
    /// There is no room on the disk.
    FullDisk,
    /// Disk operations take time.
    SlowDisk,
    /// The wall clock jumps.
    Clock,
    /// A destination is down, or does not answer.
    Sinks,
    /// A landing ends in the middle, or does not answer.
    Landings,
}

impl Kind {
    const ALL: [Kind; 11] = [
        Self::Crash,
        Self::Kill,
        Self::Errors,
        Self::LastingErrors,
        Self::ReadErrors,
        Self::ShortReads,
        Self::FullDisk,
        Self::SlowDisk,
        Self::Clock,
        Self::Sinks,
        Self::Landings,
    ];
    /// Those after which damage on the disk is still told from what they leave.
    const BESIDE_ROT: [Kind; 6] =
        [Self::Kill, Self::ShortReads, Self::SlowDisk, Self::Clock, Self::Sinks, Self::Landings];
}

/// What a seed has drawn.
#[derive(Debug, Clone)]
pub struct Manners {
    /// The project.
    pub choice: Choice,
    /// Steps of the run.
    pub steps: usize,
    /// One step of so many brings a fault.
    pub fault_every: u32,
    /// Kinds of faults.
    pub kinds: Vec<Kind>,
    /// Whether bits of files are inverted.
    pub rots: bool,
    /// Records in a submission at most.
    pub records_max: usize,
    /// Records in an epoch at most.
    pub epoch_rows_max: usize,
    /// Bytes of a poll, for each start one of these.
    pub poll_bytes: Vec<usize>,
    /// Length of a segment of the log.
    pub segment_bytes: u64,
    /// Whether a sink waits while the check is violated.
    pub held: bool,
    /// How far clients' time moves between two steps at most.
    pub pace: Duration,
}

impl Manners {
    /// Draws them.
    pub fn draw(random: &mut StdRng) -> Self {
        let rots = random.random_ratio(1, 6);
        let possible: &[Kind] = if rots { &Kind::BESIDE_ROT } else { &Kind::ALL };
        let mut kinds: Vec<Kind> = possible.iter().copied().filter(|_| random.random()).collect();
        if !rots && !kinds.contains(&Kind::Kill) {
            kinds.push(Kind::Crash);
        }
        Self {
            choice: Choice {
                extent: random.random_range(0..EXTENTS),
                memory: random.random_range(0..MEMORY_BYTES.len()),
            },
            steps: random.random_range(40..140),
            fault_every: random.random_range(5..25),
            kinds,
            rots,
            records_max: [1, 4, 12][random.random_range(0..3)],
            epoch_rows_max: [3, 12, 50][random.random_range(0..3)],
            poll_bytes: vec![[300, 1500, 1 << 20][random.random_range(0..3)], 1 << 20],
            segment_bytes: [1500, 6000, 64 << 20][random.random_range(0..3)],
            held: random.random(),
            pace: Duration::from_secs([5, 60, 900][random.random_range(0..3)]),
        }
    }
}
