//! Work on disk beside the loop: landing, checkpoints, upkeep of the lake.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use weir_incremental::checkpoint::CheckpointStore;

use super::RETRY_DELAY;
use crate::EpochNumber;
use crate::contents::Contents;
use crate::core::{PendingCheckpoint, PipelineError};
use crate::feed::SharedFeedStatus;
use crate::frames::InputPosition;

/// A checkpoint that is durable, with its epoch and where the inputs stood; or why none can be written any more.
pub(super) type Checkpointed = Result<(EpochNumber, BTreeMap<String, InputPosition>), PipelineError>;

/// Messages to the maintenance task.
pub(super) enum Chore {
    Land(Option<oneshot::Sender<()>>),
    Checkpoint(Box<PendingCheckpoint>, Option<oneshot::Sender<()>>),
}

/// Lands, checkpoints and maintains the lake, one chore after the other.
pub(super) struct Maintenance {
    pub contents: Arc<Contents>,
    pub store: Arc<CheckpointStore>,
    pub checkpointed: mpsc::UnboundedSender<Checkpointed>,
    pub feeds: Vec<SharedFeedStatus>,
    pub maintenance_interval: Duration,
    pub maintained_at: tokio::time::Instant,
}

impl Maintenance {
    pub async fn run(mut self, mut chores: mpsc::Receiver<Chore>) {
        while let Some(chore) = chores.recv().await {
            match chore {
                Chore::Land(done) => {
                    self.land().await;
                    if let Some(done) = done {
                        let _ = done.send(());
                    }
                }
                Chore::Checkpoint(mut pending, done) => {
                    // The tails up to the checkpoint's epoch must be in the lake before recovery may start from it.
                    while self.contents.landed_epoch() < pending.epoch && !self.land().await {
                        tokio::time::sleep(RETRY_DELAY).await;
                    }
                    let (epoch, inputs) = (pending.epoch, pending.inputs().clone());
                    loop {
                        let store = self.store.clone();
                        let written = tokio::task::spawn_blocking(move || {
                            let result = pending.write(&store);
                            (pending, result)
                        });
                        match written.await {
                            Ok((_, Ok(()))) => {
                                let _ = self.checkpointed.send(Ok((epoch, inputs)));
                                break;
                            }
                            Ok((again, Err(error))) => {
                                tracing::warn!(%error, "a checkpoint failed and is tried again");
                                pending = again;
                                tokio::time::sleep(RETRY_DELAY).await;
                            }
                            Err(error) => {
                                // What it took from the state is lost, so that no later one would be whole.
                                let message = format!("a checkpoint ended unexpectedly: {error}");
                                let _ = self.checkpointed.send(Err(PipelineError::State(message)));
                                break;
                            }
                        }
                    }
                    if self.maintained_at.elapsed() >= self.maintenance_interval {
                        self.maintained_at = tokio::time::Instant::now();
                        self.maintain().await;
                    }
                    if let Some(done) = done {
                        let _ = done.send(());
                    }
                }
            }
        }
    }

    async fn maintain(&self) {
        let cursors = self.feeds.iter().filter_map(|f| f.lock().cursor).min();
        let horizon = self.contents.oldest_pin().min(cursors.unwrap_or(EpochNumber::MAX));
        if let Err(error) = self.contents.history().maintain(horizon).await {
            tracing::warn!(%error, "upkeep of the lake failed");
        }
    }

    async fn land(&self) -> bool {
        let landing = match self.contents.to_land() {
            Ok(None) => return true,
            Ok(Some(landing)) => landing,
            Err(error) => {
                tracing::error!(%error, "a landing could not be prepared");
                return false;
            }
        };
        let (epoch, landings) = landing;
        match self.contents.history().land(epoch, landings).await {
            Ok(()) => {
                self.contents.landed(epoch);
                true
            }
            Err(error) => {
                tracing::warn!(%error, "a landing failed and is tried again");
                false
            }
        }
    }
}
