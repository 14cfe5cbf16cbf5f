//! `cargo xtask bench`: builds the benchmarks and the binary for release and runs what is named.

use std::process::Command;

use anyhow::Result;

use crate::{run, workspace};

/// Runs the named benchmarks, or all.
pub fn run(names: &[&str]) -> Result<bool> {
    let cargo = || {
        let mut command = Command::new(env!("CARGO"));
        command.current_dir(workspace::root());
        command
    };
    run::must(cargo().args(["build", "--release", "--locked", "--package", "weir"]))?;
    run::watched(cargo().args(["run", "--release", "--locked", "--package", "weir-bench", "--"]).args(names), |_| {})
}
