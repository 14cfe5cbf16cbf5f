//! Backups that a running pipeline makes of itself, one at a time.

use std::path::Path;

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use weir_environment::Environment;
use weir_pipeline::runtime::Control as LoopControl;
use weir_project::Project;
use weir_project::settings::MirrorPlace;
use weir_server::{Failure, FailureKind};

use crate::backup::Source;
use crate::mirror;

/// What backups are made of, and how far the present one is.
pub struct Backups {
    source: Source,
    making: tokio::sync::Mutex<()>,
    /// Bytes done, and bytes in all.
    done: Mutex<Option<(u64, u64)>>,
}

fn failed(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Internal, format!("the backup was not made: {error:#}"))
}

impl Backups {
    /// Backups of a project's data folder.
    pub fn of(project: Project) -> Self {
        let source = Source { project, environment: Environment::real() };
        Self { source, making: tokio::sync::Mutex::new(()), done: Mutex::new(None) }
    }

    /// How far the present one is; None when none is made.
    pub fn progress(&self) -> Option<Value> {
        self.done.lock().map(|(done, total)| json!({"bytes": done, "total": total}))
    }

    /// Makes one; the loop is asked to hold still for a moment.
    pub async fn make(&self, control: &mpsc::Sender<LoopControl>, to: &str) -> Result<Value, Failure> {
        let Ok(_one) = self.making.try_lock() else {
            return Err(Failure::new(FailureKind::Conflict, "another backup is being made"));
        };
        let stopping = || Failure::new(FailureKind::Unavailable, "the pipeline is stopping");
        let place = MirrorPlace::parse(to, Path::new("/"));
        let place = place.map_err(|error| Failure::new(FailureKind::Request, error))?;
        let target = mirror::target(&self.source.environment, &place).map_err(failed)?;
        let (held, hold) = oneshot::channel();
        control.send(LoopControl::Hold(held)).await.map_err(|_| stopping())?;
        let hold = hold.await.map_err(|_| stopping())?;
        let frozen = tokio::task::block_in_place(|| self.source.freeze()).map_err(failed)?;
        drop(hold);
        let copied = tokio::task::block_in_place(|| {
            self.source.copy(&frozen, &target, &|done, total| *self.done.lock() = Some((done, total)))
        });
        *self.done.lock() = None;
        Ok(json!(copied.map_err(failed)?))
    }
}
