//! A recovered pipeline that takes nothing in, for questions while nothing runs.

use std::sync::Arc;

use parking_lot::Mutex;
use weir_pipeline::activity::Activity;
use weir_pipeline::runtime;
use weir_project::Project;

use crate::host::{Host, OnChange, OpenOptions};
use crate::progress::Progress;
use crate::service::{Service, ServiceParts};

/// Opens the project as it was accepted, recovers it and answers from it. The data folder is held meanwhile.
pub async fn open(project: Project) -> anyhow::Result<(Service, Host)> {
    let options = OpenOptions { on_change: OnChange::Keep, ..OpenOptions::default() };
    let mut host = Host::open(project, &options, &Progress::new()).await?;
    let activity = Mutex::new(Activity::at_rest(host.core.operators()));
    let service = Service::new(ServiceParts {
        spec: host.spec.clone(),
        contents: host.core.contents().clone(),
        indexes: host.core.indexes().clone(),
        ledger: host.core.ledger().clone(),
        progress: Arc::new(runtime::Progress { activity, ..runtime::Progress::default() }),
        control: None,
        stop: None,
    });
    Ok((service, host))
}
