//! Running other programs, with their output passed on and looked at.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

/// Runs a command with its output shown; an error when it fails.
pub fn must(command: &mut Command) -> Result<()> {
    let shown = show(command);
    eprintln!("$ {shown}");
    let status = command.stdin(Stdio::null()).status().with_context(|| shown.clone())?;
    ensure!(status.success(), "`{shown}` failed ({status})");
    Ok(())
}

/// Whether a command can be run and succeeds, silently.
pub fn succeeds(program: &str, arguments: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// Runs a command, passes its standard output on line by line and shows each to `look`; whether it succeeded.
pub fn watched(command: &mut Command, mut look: impl FnMut(&str)) -> Result<bool> {
    let shown = show(command);
    eprintln!("$ {shown}");
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().with_context(|| shown.clone())?;
    let output = child.stdout.take().context("a piped output")?;
    for line in BufReader::new(output).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        println!("{line}");
        look(&line);
    }
    Ok(child.wait()?.success())
}

fn show(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}
