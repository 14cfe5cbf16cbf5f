//! `cargo xtask simulate`: builds the simulation for release and runs seeds.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;

use crate::{run, workspace};

/// Runs what the options say; whether all promises were kept.
pub fn run(options: &[&str]) -> Result<bool> {
    let mut build = run::cargo();
    run::must(build.args(["build", "--release", "--locked", "--workspace", "--example", "simulate"]))?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace::root().join("target"), PathBuf::from);
    let mut simulate = Command::new(target.join("release/examples/simulate"));
    run::watched(simulate.current_dir(workspace::root()).args(options), |_| {})
}
