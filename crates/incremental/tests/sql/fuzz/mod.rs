//! Random queries over random histories: whatever the planner takes must be the same in both tempos.
//!
//! `WEIR_FUZZ_QUERIES` says how many queries are drawn, `WEIR_FUZZ_SEED` where to begin. A query that differs is made
//! smaller, with its history, and printed with its seed; once mended it becomes a case of `differential.rs`.

mod generator;
mod query;
mod shrink;

use self::generator::Generator;
use self::shrink::Case;
use crate::harness::{Chance, Difference, StateRun, differ_over};
use crate::history::History;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// Drawn when the environment does not say how many: well under a minute of work.
const QUERIES: u64 = 250;

pub fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// The query and history of a seed.
pub fn drawn(seed: u64) -> (query::Query, History, StateRun) {
    let mut chance = Chance::new(seed.wrapping_mul(0x1234_5678_9abc_def1).wrapping_add(99));
    let levels = 1 + chance.below(4);
    let query = Generator::new(&mut chance).query(levels);
    let epochs = 1 + chance.below(5) as usize;
    let grows = chance.once_in(5);
    let history = History::draw(&mut chance, epochs, grows);
    let state = [StateRun::Stays, StateRun::Stays, StateRun::Restarts, StateRun::Leaves][chance.below(4) as usize];
    (query, history, state)
}

/// Compares the two tempos; a panic is a failure as any other, so that its cause can be made smaller too.
fn tried(query: &query::Query, history: &History, state: StateRun) -> Result<(), Difference> {
    let sql = query.sql();
    let compared = catch_unwind(AssertUnwindSafe(|| differ_over(&[("model", &sql)], history, None, state)));
    compared.unwrap_or_else(|_| Err(Difference::Failed("a panic, see above".into())))
}

#[test]
fn random_queries_are_the_same_in_both_tempos() {
    let (first, count) = (from_environment("WEIR_FUZZ_SEED", 1), from_environment("WEIR_FUZZ_QUERIES", QUERIES));
    let (mut compared, mut refused, mut found) = (0, Vec::new(), Vec::new());
    for seed in first..first + count {
        let (query, history, state) = drawn(seed);
        match tried(&query, &history, state) {
            Ok(()) => compared += 1,
            Err(Difference::Refused(mistake)) => refused.push(format!("{seed}: {mistake}\n    {}", query.sql())),
            Err(difference) => {
                let case = Case::new(query, history, state, difference).shrunk();
                let mut lives = case.history.lives.clone();
                lives.sort_by_key(|life| life.born);
                let lives: Vec<String> = lives.iter().map(|l| format!("{l:?}")).collect();
                found.push(format!(
                    "== seed {seed}: {}\n{}\nepochs {:?}\n{}",
                    case.query.sql(),
                    case.difference,
                    case.history.epochs,
                    lives.join("\n"),
                ));
            }
        }
        if found.len() >= 5 {
            break;
        }
    }
    if std::env::var("WEIR_FUZZ_REFUSED").is_ok() {
        println!("{} refused\n{}", refused.len(), refused.join("\n"));
    }
    assert!(found.is_empty(), "{} of {} differ\n{}", found.len(), compared + found.len(), found.join("\n\n"));
    // Most of what is drawn must be taken, or the test tests nothing.
    assert!(compared as u64 * 10 >= count * 8, "{compared} of {count} were taken\n{}", refused.join("\n"));
}
