//! `cargo xtask bench`: builds the benchmarks and the binary for release and runs what is named.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{run, workspace};

/// Runs the named benchmarks, or all.
pub fn run(names: &[&str]) -> Result<bool> {
    let mut build = run::cargo();
    build.args(["build", "--release", "--locked", "--workspace"]);
    run::must(build.args(["--bin", "weir", "--bin", "weir-bench", "--example", "beacon_speed"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace::root().join("target"), PathBuf::from);
    let mut bench = Command::new(target.join("release/weir-bench"));
    run::watched(bench.current_dir(workspace::root()).args(names), |_| {})
}
