//! Work on disk beside the loop: landing, checkpoints, upkeep of the lake.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use weir_incremental::checkpoint::CheckpointStore;

use super::RETRY_DELAY;
use crate::EpochNumber;
use crate::contents::Contents;
use crate::copies::Copies;
use crate::core::{PendingCheckpoint, PipelineError};
use crate::feed::SharedFeedStatus;
use crate::frames::InputPosition;

/// A checkpoint that is durable, with its epoch and where the inputs stood (None: nothing is freed on account of it); or
/// why none can be written any more.
pub(super) type Checkpointed = Result<Option<(EpochNumber, BTreeMap<String, InputPosition>)>, PipelineError>;

/// Keeps the lake and checkpoints as they are, and what they have made dispensable where it is, until dropped.
#[derive(Debug)]
pub struct Hold {
    _until_dropped: oneshot::Sender<()>,
}

/// What is done when a chore has ended.
pub(super) enum Then {
    /// Nothing.
    GoOn,
    /// Somebody is told.
    Tell(oneshot::Sender<()>),
    /// Nothing is touched until somebody has done with it.
    Hold(oneshot::Sender<Hold>),
}

impl Then {
    async fn hold(&mut self) {
        if let Self::Hold(_) = self
            && let Self::Hold(holder) = std::mem::replace(self, Self::GoOn)
        {
            let (sender, dropped) = oneshot::channel();
            if holder.send(Hold { _until_dropped: sender }).is_ok() {
                // It ends with an error, which is the sender being dropped.
                let _ = dropped.await;
            }
        }
    }

    fn tell(self) {
        if let Self::Tell(sender) = self {
            let _ = sender.send(());
        }
    }
}

/// Messages to the maintenance task.
pub(super) enum Chore {
    Land(Then),
    Checkpoint(Box<PendingCheckpoint>, Then),
}

/// Lands, checkpoints and maintains the lake, one chore after the other.
pub(super) struct Maintenance {
    pub contents: Arc<Contents>,
    pub store: Arc<CheckpointStore>,
    pub checkpointed: mpsc::UnboundedSender<Checkpointed>,
    pub copies: Option<Arc<dyn Copies>>,
    pub feeds: Vec<SharedFeedStatus>,
    pub maintenance_interval: Duration,
    pub maintained_at: tokio::time::Instant,
}

impl Maintenance {
    pub async fn run(mut self, mut chores: mpsc::Receiver<Chore>) {
        while let Some(chore) = chores.recv().await {
            match chore {
                Chore::Land(mut then) => {
                    self.land().await;
                    then.hold().await;
                    then.tell();
                }
                Chore::Checkpoint(mut pending, mut then) => {
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
                                then.hold().await;
                                // What a copy would need to recover goes when it has what takes its place.
                                let settled = match &self.copies {
                                    Some(copies) => copies.settled().await,
                                    None => true,
                                };
                                let _ = self.checkpointed.send(Ok(settled.then_some((epoch, inputs))));
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
                    then.tell();
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
