//! `weir completion`: scripts for shells.

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Answer, Failure};
use crate::cli::Cli;

/// Arguments of `weir completion`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The shell
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  weir completion bash > /etc/bash_completion.d/weir
  weir completion zsh > ~/.zfunc/_weir";

/// Runs the command.
pub fn run(arguments: &Arguments) -> Result<Answer, Failure> {
    clap_complete::generate(arguments.shell, &mut Cli::command(), "weir", &mut std::io::stdout());
    Ok(Answer::Yes)
}
