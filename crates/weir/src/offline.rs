//! A recovered pipeline that takes nothing in, for questions and orders while nothing runs.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use weir_pipeline::activity::Activity;
use weir_pipeline::copies::Copies;
use weir_pipeline::runtime::{self, Run, RunMode};
use weir_project::Project;
use weir_server::client::Client;
use weir_server::{Backend, Control};

use crate::host::{Host, OnChange, OpenOptions};
use crate::progress::Progress;
use crate::service::{Origins, Service, ServiceParts};
use crate::wiring::open_inputs;

/// Opens the project as it was accepted, recovers it and answers from it. The data folder is held meanwhile.
pub async fn open(project: Project) -> anyhow::Result<(Service, Host)> {
    open_with(project, false).await
}

/// The same, with the inputs open, so that records can be read again.
pub async fn open_with_inputs(project: Project) -> anyhow::Result<(Service, Host)> {
    open_with(project, true).await
}

async fn open_with(project: Project, inputs: bool) -> anyhow::Result<(Service, Host)> {
    let options = OpenOptions { on_change: OnChange::Keep, only_answers: true, ..OpenOptions::default() };
    let mut host = Host::open(project, &options, &Progress::new()).await?;
    let origins = if inputs {
        let (environment, project, spec) = (host.environment.clone(), host.project.clone(), host.spec.clone());
        let positions = host.core.last().inputs.clone();
        let opened =
            tokio::task::spawn_blocking(move || open_inputs(&environment, &project, &spec, &positions)).await??;
        Some(Origins::of(&host, &opened))
    } else {
        None
    };
    let activity = Mutex::new(Activity::at_rest(host.core.operators()));
    let service = Service::new(ServiceParts {
        spec: host.spec.clone(),
        contents: host.core.contents().clone(),
        indexes: host.core.indexes().clone(),
        ledger: host.core.ledger().clone(),
        progress: Arc::new(runtime::Progress { activity, ..runtime::Progress::default() }),
        origins,
        control: None,
        stop: None,
        mirror: None,
        backups: None,
    });
    Ok((service, host))
}

/// Gives an order to the running pipeline, or to a loop of its own without inputs.
pub async fn order(project: Project, order: Control) -> anyhow::Result<serde_json::Value> {
    match Client::attach(&project.dir).await? {
        Some(client) => Ok(client.control(&order).await?),
        None => alone(project, order).await,
    }
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
        origins: None,
        control: Some(control),
        stop: None,
        mirror: None,
        backups: None,
    });
    let (answers, answer) = oneshot::channel();
    tokio::spawn(async move {
        let _ = answers.send(service.control(order).await);
        stop.send_replace(true);
    });
    let run = Run {
        core: host.core,
        store: host.store,
        copies: host.mirror.clone().map(|mirror| mirror as Arc<dyn Copies>),
        inputs: BTreeMap::new(),
        feeds: Vec::new(),
        settings: host.spec.settings.clone(),
        environment: host.environment,
        progress,
    };
    runtime::run(run, RunMode::Until, controls, stopped).await?;
    if let Some(mirror) = host.mirror {
        mirror.close().await;
    }
    Ok(answer.await.context("the loop ended without an answer")??)
}
