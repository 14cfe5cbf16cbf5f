//! `weir backfill`: rebuilds one model and its destinations from history.

use weir_incremental::Relation;
use weir_project::Project;

use clap::Args;

use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;
use crate::host::{Host, OnChange, OpenOptions};
use crate::progress::Progress;

/// Arguments of `weir backfill`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The model
    model: String,
}

const EXAMPLES: &str = "\
Runs the history of everything the model reads through it again, and loads its destinations anew. The pipeline has to be
stopped.

Examples:
  weir backfill visitor_profile";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let model = arguments.model.clone();
    if project.model(&model).is_none() {
        return Err(Failure::Wrong(format!("there is no model `{model}`; models: {}", names(&project))));
    }
    block_on(|_| async move {
        backfill(project, &model).await?;
        Ok(Answer::Yes)
    })
}

/// Rebuilds while nothing runs.
pub async fn backfill(project: Project, model: &str) -> anyhow::Result<()> {
    let options =
        OpenOptions { on_change: OnChange::Refuse, backfill: vec![Relation::from(model)], ..OpenOptions::default() };
    let host = Host::open(project, &options, &Progress::new()).await?;
    let rows = host.core.contents().totals().get(model).map_or(0, |t| t.rows);
    println!("{model} is rebuilt from history: {rows} rows at epoch {}", host.core.epoch());
    Ok(())
}

fn names(project: &Project) -> String {
    project.models.iter().map(|m| m.name.as_ref()).collect::<Vec<_>>().join(", ")
}
