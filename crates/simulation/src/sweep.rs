//! Many seeds, on several threads; each runs on one.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use parking_lot::Mutex;

use crate::{Bug, Figures, Outcome, simulate};

/// What many runs came to.
#[derive(Debug, Default)]
pub struct Sweep {
    /// Sums over those that kept all promises.
    pub figures: Figures,
    /// Those that broke one, by seed.
    pub broken: Vec<Outcome>,
}

/// Runs seeds on so many threads. `watch` is called after each run, and says whether to go on.
pub fn sweep(seeds: Range<u64>, threads: usize, bug: Option<Bug>, watch: &(dyn Fn(&Outcome) -> bool + Sync)) -> Sweep {
    let next = AtomicU64::new(seeds.start);
    let stop = AtomicBool::new(false);
    let found = Mutex::new(Sweep::default());
    thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = simulate(seed, bug);
                    if !watch(&outcome) {
                        stop.store(true, Ordering::Relaxed);
                    }
                    let mut found = found.lock();
                    if outcome.violation.is_some() {
                        found.broken.push(outcome);
                    } else {
                        found.figures.add(&outcome.figures);
                    }
                }
            });
        }
    });
    let mut sweep = found.into_inner();
    sweep.broken.sort_by_key(|outcome| outcome.seed);
    sweep
}
