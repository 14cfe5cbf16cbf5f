//! `weir`: the command line, and the wiring of everything below it.

mod backup;
mod backups;
mod cli;
mod commands;
mod doctor;
mod heads;
mod host;
mod ledger_tables;
mod lineage;
mod mirror;
mod offline;
mod operators;
mod output;
mod payments;
mod progress;
mod report;
mod restore;
mod service;
mod signals;
mod visitors;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

use crate::cli::Cli;
use crate::commands::{Answer, Failure};

fn main() -> ExitCode {
    weir_environment::keep_freed_memory();
    // clap answers `--help` with 0, and what it does not understand with 2.
    let cli = Cli::parse();
    match cli.run() {
        Ok(Answer::Yes) => ExitCode::SUCCESS,
        Ok(Answer::No) => ExitCode::from(1),
        Err(failure) => {
            failure.tell();
            failure.exit_code()
        }
    }
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Failure::Wrong(_) | Failure::Mistakes => 2,
            Failure::Failed(_) => 3,
            Failure::Interrupted => 130,
        })
    }

    fn tell(&self) {
        match self {
            Failure::Wrong(message) => report::error(message),
            Failure::Failed(error) => report::error(&format!("{error:#}")),
            // Told where they were found.
            Failure::Mistakes | Failure::Interrupted => {}
        }
    }
}
