//! Runs seeds until they are through, a time is over, or one breaks a promise; `cargo xtask simulate` calls it.

use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use clap::Parser;
use weir_simulation::{Bug, Figures, Outcome, simulate, sweep};

/// Simulates whole pipelines under faults, one seed after the other.
#[derive(Debug, Parser)]
struct Arguments {
    /// How many seeds.
    #[arg(long, default_value_t = 1000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Goes on for so many hours, however many seeds that is.
    #[arg(long)]
    hours: Option<f64>,
    /// Runs this seed alone and prints all that happens.
    #[arg(long)]
    replay: Option<u64>,
    /// Threads; without it, one for each core.
    #[arg(long)]
    threads: Option<usize>,
    /// Goes on behind a seed that breaks a promise.
    #[arg(long)]
    keep_going: bool,
    /// Plants a bug, by its name in crates/simulation/src/bugs.rs.
    #[arg(long)]
    bug: Option<String>,
}

fn report(outcome: &Outcome) {
    if let Some(violation) = &outcome.violation {
        println!("seed {}: {violation}", outcome.seed);
        for line in &outcome.trace[outcome.trace.len().saturating_sub(12)..] {
            println!("    {line}");
        }
        println!("  again, with all that happened: cargo xtask simulate --replay {}", outcome.seed);
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let bug = match arguments.bug.as_deref().map(|name| (name, Bug::named(name))) {
        Some((name, None)) => {
            eprintln!("there is no bug `{name}`; there are {:?}", Bug::ALL);
            return ExitCode::from(2);
        }
        Some((_, bug)) => bug,
        None => None,
    };
    if let Some(seed) = arguments.replay {
        let outcome = simulate(seed, bug);
        outcome.trace.iter().for_each(|line| println!("{line}"));
        println!("seed {seed}: {}", outcome.violation.as_deref().unwrap_or("all promises are kept"));
        println!("hash {:016x}\n{}", outcome.hash, outcome.figures);
        return ExitCode::from(u8::from(outcome.violation.is_some()));
    }
    let start = Instant::now();
    let end = arguments.hours.map(|hours| Duration::from_secs_f64(hours * 3600.0));
    let seeds = match end {
        Some(_) => arguments.from..u64::MAX,
        None => arguments.from..arguments.from.saturating_add(arguments.seeds),
    };
    let threads = arguments.threads.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from));
    let progress = Mutex::new((Figures::default(), Duration::ZERO));
    let found = sweep(seeds, threads, bug, &|outcome| {
        report(outcome);
        let elapsed = start.elapsed();
        if let Ok(mut progress) = progress.lock() {
            progress.0.add(&outcome.figures);
            if elapsed >= progress.1 + Duration::from_secs(10) {
                progress.1 = elapsed;
                let Figures { runs, starts, epochs, .. } = progress.0;
                println!("{:>6.0} s: {runs} seeds, {starts} starts, {epochs} epochs", elapsed.as_secs_f64());
            }
        }
        (arguments.keep_going || outcome.violation.is_none()) && end.is_none_or(|end| elapsed < end)
    });
    println!("{:.0} s on {threads} threads\n{}", start.elapsed().as_secs_f64(), found.figures);
    if found.broken.is_empty() {
        println!("all promises are kept");
        return ExitCode::SUCCESS;
    }
    let seeds: Vec<u64> = found.broken.iter().map(|outcome| outcome.seed).collect();
    println!("{} seeds broke a promise: {seeds:?}", seeds.len());
    ExitCode::from(1)
}
