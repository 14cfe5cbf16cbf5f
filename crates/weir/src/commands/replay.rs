//! `weir replay`: sends quarantined (or late) records through again after a mend.

use weir_project::Project;
use weir_server::Control;

use clap::Args;

use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;
use crate::offline;

/// Arguments of `weir replay`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The source
    source: String,
    /// The late records instead of the quarantined ones
    #[arg(long)]
    late: bool,
}

const EXAMPLES: &str = "\
Sends records through admission again, after the contract was mended. What fails again returns to the quarantine.

Examples:
  weir replay orders
  weir replay clicks --late";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let (source, late) = (arguments.source.clone(), arguments.late);
    if project.source(&source).is_none() {
        return Err(Failure::Wrong(format!("there is no source `{source}`")));
    }
    block_on(|_| async move {
        replay(project, &source, late).await?;
        Ok(Answer::Yes)
    })
}

/// Replays, in the running pipeline or in a loop of its own without inputs.
pub async fn replay(project: Project, source: &str, late: bool) -> anyhow::Result<()> {
    let answer = offline::order(project, Control::Replay { source: source.to_owned(), late }).await?;
    println!("{} records sent through again, {} rows admitted", answer["replayed"], answer["admitted"]);
    Ok(())
}
