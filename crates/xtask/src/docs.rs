//! `cargo xtask docs`: the pages of docs/ that the code writes. A test of the binary makes them and compares.

use std::process::Command;

use anyhow::Result;

use crate::{run, workspace};

/// What to do with pages that differ from the code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Write them.
    Write,
    /// Say so.
    Check,
}

/// Makes or checks the pages; whether they are now as the code says.
pub fn run(mode: Mode) -> Result<bool> {
    let mut command = Command::new(env!("CARGO"));
    command.current_dir(workspace::root()).args(["test", "--quiet", "--locked", "--package", "weir", "--test", "docs"]);
    if mode == Mode::Write {
        command.env("WEIR_UPDATE_DOCS", "1");
    }
    run::watched(&mut command, |_| {})
}
