//! The command line as clap reads it. A new command is a line in [`Command`], one in [`Cli::run`], and its module.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::commands::{self, Answer, Failure};
use crate::output::Format;

/// A data pipeline in one binary: a folder of SQL in, tables that are always up to date out.
#[derive(Debug, Parser)]
#[command(name = "weir", version, about, after_help = EXAMPLES, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// What every command takes.
#[derive(Debug, Clone, Args)]
pub struct Global {
    /// The project's folder
    #[arg(short = 'C', long = "dir", value_name = "DIR", default_value = ".", global = true)]
    pub dir: PathBuf,
    /// Settings that differ: weir.NAME.toml over weir.toml
    #[arg(long, value_name = "NAME", global = true)]
    pub profile: Option<String>,
    /// How data is printed
    #[arg(long, value_enum, default_value_t = Format::Table, global = true)]
    pub format: Format,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Makes a project that runs
    New(commands::new::Arguments),
    /// Reads the whole project and reports every mistake at once
    Validate(commands::validate::Arguments),
    /// Runs sources, models, sinks and the server until stopped
    Run(commands::run::Arguments),
    /// Asks the relations, whether or not the pipeline runs
    Query(commands::query::Arguments),
    /// Shows progress, counts, sinks and bytes on disk
    Status(commands::status::Arguments),
    /// Proves that stream and batch agree, and that the ledger holds
    Verify(commands::verify::Arguments),
    /// Says what of the data folder is whole and what is damaged; repairs what another store can restore
    Doctor(commands::doctor::Arguments),
    /// Tells which checks are violated; puts up with a violation
    Checks(commands::checks::Arguments),
    /// Runs the cases of tests/
    Test(commands::test::Arguments),
    /// Rebuilds a model and its destinations from history
    Backfill(commands::backfill::Arguments),
    /// Copies the data folder as of one moment, also while the pipeline runs
    Backup(commands::backup::Arguments),
    /// Brings the data folder back from a mirror or a backup
    Restore(commands::restore::Arguments),
    /// Sends quarantined or late records through again
    Replay(commands::replay::Arguments),
    /// Shows what each epoch did, and the head of the chain
    Ledger(commands::ledger::Arguments),
    /// Prints records of the durable log
    Log(commands::log::Arguments),
    /// Plays visitors of the example shop
    Simulate(commands::simulate::Arguments),
    /// Shows it all: visitors, a kill, a restart, a verification
    Demo(commands::demo::Arguments),
    /// Shows what feeds what
    Graph(commands::graph::Arguments),
    /// Shows how a model is kept up to date, what that costs and what it remembers
    Explain(commands::explain::Arguments),
    /// Shows the records that made a row, or at which step an expected row fell out
    Why(commands::why::Arguments),
    /// Helps with data contracts
    Schema(commands::schema::Arguments),
    /// Prints a script that completes commands in a shell
    Completion(commands::completion::Arguments),
}

const EXAMPLES: &str = "\
Examples:
  weir new shop --example shop    a project to look at
  weir -C shop validate           every mistake in it, if there are any
  weir -C shop run                up and running, until Ctrl-C

Exit codes: 0 done, or yes; 1 the answer is no; 2 the command line or the project is wrong;
3 the work failed; 130 interrupted.";

impl Cli {
    /// Runs the command.
    pub fn run(self) -> Result<Answer, Failure> {
        let global = &self.global;
        match self.command {
            Command::New(arguments) => commands::new::run(global, &arguments),
            Command::Validate(arguments) => commands::validate::run(global, &arguments),
            Command::Run(arguments) => commands::run::execute(global, &arguments),
            Command::Query(arguments) => commands::query::execute(global, &arguments),
            Command::Status(arguments) => commands::status::execute(global, &arguments),
            Command::Verify(arguments) => commands::verify::execute(global, &arguments),
            Command::Doctor(arguments) => commands::doctor::execute(global, &arguments),
            Command::Checks(arguments) => commands::checks::execute(global, &arguments),
            Command::Test(arguments) => commands::test::execute(global, &arguments),
            Command::Backfill(arguments) => commands::backfill::execute(global, &arguments),
            Command::Backup(arguments) => commands::backup::execute(global, &arguments),
            Command::Restore(arguments) => commands::restore::execute(global, &arguments),
            Command::Replay(arguments) => commands::replay::execute(global, &arguments),
            Command::Ledger(arguments) => commands::ledger::execute(global, &arguments),
            Command::Log(arguments) => commands::log::execute(global, &arguments),
            Command::Simulate(arguments) => commands::simulate::execute(global, &arguments),
            Command::Demo(arguments) => commands::demo::execute(global, &arguments),
            Command::Graph(arguments) => commands::graph::run(global, &arguments),
            Command::Explain(arguments) => commands::explain::execute(global, &arguments),
            Command::Why(arguments) => commands::why::execute(global, &arguments),
            Command::Schema(arguments) => commands::schema::run(global, &arguments),
            Command::Completion(arguments) => commands::completion::run(&arguments),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
