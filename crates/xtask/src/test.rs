//! `cargo xtask test`: tools, house rules, every test of the workspace, and one closing count.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::{run, tidy, tools};

/// How much is tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extent {
    /// Everything.
    All,
    /// Without the acceptance tests, which drive the binary.
    WithoutAcceptance,
}

/// Passed and failed tests, as cargo's test runners report them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
}

impl Count {
    /// Adds a runner's closing line: `test result: ok. 3 passed; 0 failed; ...`.
    fn look(&mut self, line: &str) {
        let Some(result) = line.split("test result: ").nth(1) else { return };
        let number_before = |word: &str| {
            let before = result.split(word).next()?.trim_end();
            before.rsplit(' ').next()?.parse::<u64>().ok()
        };
        self.passed += number_before(" passed").unwrap_or(0);
        self.failed += number_before(" failed").unwrap_or(0);
    }
}

/// Runs the tests; whether all passed.
pub fn run(extent: Extent) -> Result<bool> {
    let tools = tools::install()?;
    let mut count = Count::default();
    let tidy = tidy::run(false)?;
    // A runner that does not compile or crashes counts as one failure: it has no closing line.
    let mut command = cargo_test(&tools);
    if extent == Extent::WithoutAcceptance {
        command.args(["--exclude", "weir"]);
    }
    let succeeded = run::watched(&mut command, |line| count.look(line))?;
    if !succeeded && count.failed == 0 {
        count.failed += 1;
    }
    println!("{} passed, {} failed", count.passed, count.failed);
    Ok(tidy && count.failed == 0)
}

/// The kill test alone, as often as asked.
pub fn kill(options: &[&str]) -> Result<bool> {
    let tools = tools::install()?;
    let mut command = cargo_test(&tools);
    command.args(["--test", "acceptance"]);
    for pair in options.chunks(2) {
        let variable = match pair {
            ["--count", _] => "WEIR_KILL_COUNT",
            ["--seed", _] => "WEIR_KILL_SEED",
            _ => anyhow::bail!("kill takes --count N and --seed N"),
        };
        pair[1].parse::<u64>().with_context(|| format!("{} takes a number", pair[0]))?;
        command.env(variable, pair[1]);
    }
    run::watched(command.args(["--", "--nocapture", "kill::"]), |_| {})
}

/// Always of the whole workspace: for a part of it, cargo would build the dependencies again with other features.
fn cargo_test(tools: &tools::Tools) -> Command {
    let mut command = run::cargo();
    command.args(["test", "--workspace", "--locked", "--no-fail-fast"]);
    command.env("WEIR_TEST_PYTHON", &tools.python);
    if std::env::var("CI").is_ok_and(|ci| ci == "true") && std::env::var_os("CARGO_TARGET_DIR").is_none() {
        // Clones come and go; what was built stays.
        let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_else(|| "/tmp".into());
        command.env("CARGO_TARGET_DIR", home.join(".cache/weir/target"));
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_add_up() {
        let mut count = Count::default();
        count.look("test result: ok. 12 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out");
        count.look("test result: FAILED. 3 passed; 2 failed; 0 ignored");
        count.look("test a_test_with_passed_in_its_name ... ok");
        assert_eq!(count, Count { passed: 15, failed: 2 });
    }
}
