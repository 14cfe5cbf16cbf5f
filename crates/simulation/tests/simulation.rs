//! Seeds under faults keep all promises, a seed gives the same run again, and bugs that are planted are found.

use std::collections::BTreeSet;

use weir_simulation::{Bug, Outcome, simulate, sweep};

/// Seeds that every build runs; `WEIR_SIMULATION_SEEDS` asks for more, `cargo xtask simulate` for many more.
const SEEDS: u64 = 100;
/// Among so many seeds, each planted bug is found.
const SEEDS_FOR_A_BUG: u64 = 300;

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn told(outcome: &Outcome) -> String {
    let violation = outcome.violation.as_deref().unwrap_or("nothing");
    format!("seed {}: {violation}\n{}", outcome.seed, outcome.trace.join("\n"))
}

#[test]
fn no_seed_loses_or_doubles_or_mixes_anything() {
    let more = std::env::var("WEIR_SIMULATION_SEEDS").ok().and_then(|text| text.parse().ok());
    let seeds = more.unwrap_or(SEEDS);
    let found = sweep(0..seeds, threads(), None, &|outcome| outcome.violation.is_none());
    assert!(found.broken.is_empty(), "{}", found.broken.iter().map(told).collect::<Vec<_>>().join("\n\n"));
    println!("{}", found.figures);
    // Every kind of fault is among them, or the seeds show less than they seem to.
    let happened: BTreeSet<&str> = found.figures.faults.keys().map(String::as_str).collect();
    for kind in [
        "machine crashed",
        "process killed",
        "clean stop",
        "start failed",
        "Down",
        "TornAppend",
        "LostChanges",
        "LostSectors",
        "LostName",
        "ShortRead",
        "Slow",
        "Full",
        "failed Append",
        "failed Sync",
        "failed Read",
        "failed SyncFolder",
        "clock forward",
        "clock backward",
        "sink down",
        "sink's answer lost",
        "landing cut short",
        "landing's answer lost",
        "damage found",
        "checkpoint",
        "recomputation",
        "pinned reader",
        "lake merged",
        "verified in batch",
    ] {
        assert!(happened.contains(kind), "{kind} never happened: {happened:?}");
    }
}

#[test]
fn a_seed_gives_the_same_run_again() {
    let mut hashes = BTreeSet::new();
    for seed in 0..10 {
        let (first, second) = (simulate(seed, None), simulate(seed, None));
        let differs = first.trace.iter().zip(&second.trace).find(|(one, other)| one != other);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.hash, second.hash, "seed {seed}");
        assert_eq!(first.figures, second.figures, "seed {seed}");
        hashes.insert(first.hash);
    }
    assert_eq!(hashes.len(), 10, "other seeds give other runs");
}

#[test]
fn a_seed_gives_the_same_violation_again() {
    let found = sweep(0..SEEDS_FOR_A_BUG, threads(), Some(Bug::CommitNotSynced), &|o| o.violation.is_none());
    let broken = &found.broken[0];
    let again = simulate(broken.seed, Some(Bug::CommitNotSynced));
    assert_eq!((again.hash, &again.violation), (broken.hash, &broken.violation));
}

#[test]
fn every_planted_bug_is_found() {
    for bug in Bug::ALL {
        let found = sweep(0..SEEDS_FOR_A_BUG, threads(), Some(bug), &|outcome| outcome.violation.is_none());
        let Some(broken) = found.broken.first() else { panic!("{bug} is not found in {SEEDS_FOR_A_BUG} seeds") };
        println!("{bug}: seed {}: {}", broken.seed, broken.violation.as_deref().unwrap_or_default());
        let sound = simulate(broken.seed, None);
        assert_eq!(sound.violation, None, "seed {} without {bug}", broken.seed);
    }
}
