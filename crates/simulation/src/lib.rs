//! Whole-pipeline runs under a seed, with faults: sources, log, admission, epochs, state, change log, sinks and lake, in
//! one world whose disk, clock and chance are simulated.
//!
//! [`simulate`] draws everything from its seed: a project, what clients send, which step comes next, which fault
//! happens when. After every start, and at many other moments, what is there is held against [`oracle`], which knows
//! what was acknowledged and computes again, without any of the product's code, what has to follow from it. The same seed
//! gives the same run, to the last line of its trace.
//!
//! What is the product's own code: the log with its group commit and the beacon's input over it, decoding, admission,
//! [`weir_pipeline::intake`], [`weir_pipeline::core`] with the epoch journal, the ledger, the dataflow, checkpoints and
//! recovery, contents and pinned readers, [`weir_pipeline::feed`], recomputation, verification in batch. What is not:
//! - `weir_pipeline::runtime` strings these together with threads and timers; here [`process`] and a seed do, step by
//!   step. Its order of landing, checkpoint and release is written down a second time.
//! - The lake is [`lake`], which has the protocol of `weir_connectors::lake` and none of its code: no Delta log, no
//!   Parquet, no object store.
//! - The destination is [`sink`]; closed files are read by [`shelf`], not by the `files` source. HTTP, sockets, the
//!   command line, and changes of the project (rebuild, backfill) are not simulated.
//! - One thread: races between threads are not found here.
//!
//! [`bugs`] can be planted; a test shows that each is found.

pub mod bugs;
pub mod events;
pub mod figures;
pub mod lake;
pub mod manners;
pub mod oracle;
pub mod process;
pub mod project;
pub mod rows;
pub mod shelf;
pub mod sink;

mod checks;
mod steps;
mod sweep;
mod trace;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

pub use bugs::Bug;
pub use figures::Figures;
pub use sweep::{Sweep, sweep};

use crate::world::World;

/// What a run came to.
#[derive(Debug)]
pub struct Outcome {
    /// Its seed.
    pub seed: u64,
    /// A number that depends on everything that happened.
    pub hash: u64,
    /// The promise that was broken, if one was.
    pub violation: Option<String>,
    /// What happened, line by line.
    pub trace: Vec<String>,
    /// How much happened.
    pub figures: Figures,
}

/// Runs a seed, with a bug or without.
///
/// # Panics
/// When no runtime can be had from the operating system.
pub fn simulate(seed: u64, bug: Option<Bug>) -> Outcome {
    // Without drivers there is nothing that could fail.
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime of one thread");
    let mut world = World::new(seed, bug);
    let ran = catch_unwind(AssertUnwindSafe(|| runtime.block_on(world.run())));
    let violation = match ran {
        Ok(outcome) => outcome.err(),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Some(format!("it panicked: {}", text.unwrap_or_default()))
        }
    };
    let World { trace, figures, .. } = world;
    Outcome { seed, hash: trace.hash(), violation, trace: trace.into_lines(), figures }
}
