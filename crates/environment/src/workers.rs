//! Threads that compute side by side.

use std::cmp::Ordering;
use std::fmt;
use std::sync::{Arc, OnceLock};

use rayon::iter::{IndexedParallelIterator, IntoParallelIterator, ParallelIterator};
use rayon::slice::ParallelSliceMut;
use rayon::{ThreadPool, ThreadPoolBuilder};

/// Threads for work that only computes: what they make is the same, and in the same order, however many there are.
/// Cheap to clone; the threads start with the first work that needs more than one.
#[derive(Clone)]
pub struct Workers {
    threads: usize,
    pool: Arc<OnceLock<Option<ThreadPool>>>,
}

impl Workers {
    /// So many threads.
    pub fn new(threads: usize) -> Self {
        Self { threads: threads.max(1), pool: Arc::default() }
    }

    /// A thread for each core that the process may use.
    pub fn of_the_machine() -> Self {
        Self::new(std::thread::available_parallelism().map_or(1, usize::from))
    }

    /// How many there are.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Runs `work` on every item; what it made, in the order of the items.
    pub fn each<T: Send, R: Send>(&self, items: Vec<T>, work: impl Fn(T) -> R + Send + Sync) -> Vec<R> {
        match self.pool() {
            Some(pool) if items.len() > 1 => {
                pool.install(|| items.into_par_iter().with_max_len(1).map(work).collect::<Vec<R>>())
            }
            _ => items.into_iter().map(work).collect(),
        }
    }

    /// Runs both.
    pub fn both<A: Send, B: Send>(&self, one: impl FnOnce() -> A + Send, other: impl FnOnce() -> B + Send) -> (A, B) {
        match self.pool() {
            Some(pool) => pool.install(|| rayon::join(one, other)),
            None => (one(), other()),
        }
    }

    /// Sorts; what compares equal keeps its order.
    pub fn sort_by<T: Send>(&self, items: &mut [T], compare: impl Fn(&T, &T) -> Ordering + Send + Sync) {
        match self.pool() {
            Some(pool) => pool.install(|| items.par_sort_by(compare)),
            None => items.sort_by(compare),
        }
    }

    /// None with one thread, or when the machine gives no more: the caller's own does it all then.
    fn pool(&self) -> Option<&ThreadPool> {
        if self.threads == 1 {
            return None;
        }
        let start = || {
            let name = |index| format!("weir-worker-{index}");
            ThreadPoolBuilder::new().num_threads(self.threads).thread_name(name).build().ok()
        };
        self.pool.get_or_init(start).as_ref()
    }
}

impl fmt::Debug for Workers {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Workers").field("threads", &self.threads).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::Workers;

    #[test]
    fn results_come_in_the_order_of_the_items_however_many_threads_there_are() {
        for threads in [0, 1, 2, 7] {
            let workers = Workers::new(threads);
            let squares = workers.each((0..100u64).collect(), |number| number * number);
            assert_eq!(squares, (0..100).map(|number| number * number).collect::<Vec<u64>>(), "{threads} threads");
            assert_eq!(workers.both(|| 1, || "two"), (1, "two"));
            let nested = workers.each(vec![3u64, 4], |n| workers.each((0..n).collect(), |m| m).len());
            assert_eq!(nested, [3, 4]);
            let mut places: Vec<(u64, u64)> = (0..10_000).map(|place| (place * 7919 % 100, place)).collect();
            workers.sort_by(&mut places, |a, b| a.0.cmp(&b.0));
            assert!(places.is_sorted(), "{threads} threads");
        }
    }
}
