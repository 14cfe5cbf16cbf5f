//! `weir replay`: sends quarantined (or late) records through again after a mend.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use tokio::sync::{mpsc, oneshot, watch};
use weir_pipeline::runtime::{self, Run, RunMode};
use weir_project::Project;
use weir_server::client::Client;
use weir_server::{Backend, Control};

use clap::Args;

use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;
use crate::host::{Host, OpenOptions};
use crate::progress::Progress;
use crate::service::{Service, ServiceParts};

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
    let order = Control::Replay { source: source.to_owned(), late };
    let answer = match Client::attach(&project.dir).await? {
        Some(client) => client.control(&order).await?,
        None => alone(project, order).await?,
    };
    println!("{} records sent through again, {} rows admitted", answer["replayed"], answer["admitted"]);
    Ok(())
}

async fn alone(project: Project, order: Control) -> anyhow::Result<serde_json::Value> {
    let host = Host::open(project, &OpenOptions::default(), &Progress::new()).await?;
    let progress = Arc::new(runtime::Progress::default());
    let (control, controls) = mpsc::channel(1);
    let (stop, stopped) = watch::channel(false);
    let service = Service::new(ServiceParts {
        spec: host.spec.clone(),
        contents: host.core.contents().clone(),
        indexes: host.core.indexes().clone(),
        ledger: host.core.ledger().clone(),
        progress: progress.clone(),
        control: Some(control),
        stop: None,
    });
    let (answers, answer) = oneshot::channel();
    tokio::spawn(async move {
        let _ = answers.send(service.control(order).await);
        stop.send_replace(true);
    });
    let run = Run {
        core: host.core,
        store: host.store,
        inputs: BTreeMap::new(),
        feeds: Vec::new(),
        settings: host.spec.settings.clone(),
        environment: host.environment,
        progress,
    };
    runtime::run(run, RunMode::Until, controls, stopped).await?;
    Ok(answer.await.context("the replay ended without an answer")??)
}
