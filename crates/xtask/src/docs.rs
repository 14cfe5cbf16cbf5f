//! `cargo xtask docs`: the pages of docs/ and the answers in the README's tutorial. Tests make and compare them.

use anyhow::Result;

use crate::{run, tools};

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
    let mut command = run::cargo();
    command.args(["test", "--quiet", "--locked", "--workspace", "--test", "docs"]);
    if mode == Mode::Check {
        return run::watched(&mut command, |_| {});
    }
    command.args(["--test", "acceptance", "--test", "sets"]).env("WEIR_UPDATE_DOCS", "1");
    command.env("WEIR_TEST_PYTHON", tools::install()?.python);
    run::watched(command.args(["--", "the_pages_say", "the_tutorial_does", "is_kept"]), |_| {})
}
