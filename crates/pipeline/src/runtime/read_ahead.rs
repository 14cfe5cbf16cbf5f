//! Reads inputs and decodes ahead of the loop.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::{News, Progress, RETRY_DELAY, RunMode};
use crate::core::PipelineError;
use crate::input::{Cursor, InputError, InputRef};
use crate::prepare::{SourceReader, prepare_poll};

/// Reads one input until stopped.
pub(super) struct ReadAhead {
    pub index: usize,
    pub name: String,
    pub input: InputRef,
    pub readers: Vec<Arc<SourceReader>>,
    pub cursor: Cursor,
    pub bytes_max: usize,
    pub mode: RunMode,
    pub progress: Arc<Progress>,
    pub news: mpsc::Sender<News>,
    pub stop: watch::Receiver<bool>,
}

impl ReadAhead {
    pub async fn run(mut self) {
        loop {
            if *self.stop.borrow() {
                return;
            }
            let polled = match self.input.poll(&self.cursor, self.bytes_max).await {
                Ok(polled) => {
                    self.progress.input_failures.lock().remove(&self.name);
                    polled
                }
                Err(InputError::Retry(message)) => {
                    self.progress.input_failures.lock().insert(self.name.clone(), message);
                    tokio::select! {
                        () = tokio::time::sleep(RETRY_DELAY) => {}
                        _ = self.stop.changed() => {}
                    }
                    continue;
                }
                Err(InputError::Stopped(message)) => {
                    tracing::error!(input = self.name, message, "the input stopped");
                    self.progress.input_failures.lock().insert(self.name.clone(), message.clone());
                    let failure = PipelineError::Input { input: self.name.clone(), message };
                    let _ = self.news.send(News::End { failure: Some(failure) }).await;
                    return;
                }
            };
            let more = polled.more;
            let nothing = polled.chunks.is_empty() && polled.cursor == self.cursor;
            self.cursor = polled.cursor.clone();
            if !nothing {
                let readers = self.readers.clone();
                let Ok(poll) = tokio::task::spawn_blocking(move || prepare_poll(&readers, polled)).await else {
                    let message = "decoding ended unexpectedly".to_owned();
                    let failure = PipelineError::Input { input: self.name.clone(), message };
                    let _ = self.news.send(News::End { failure: Some(failure) }).await;
                    return;
                };
                if self.news.send(News::Poll { input: self.index, poll }).await.is_err() {
                    return;
                }
            }
            if more {
                continue;
            }
            if nothing && self.mode == RunMode::Once {
                let _ = self.news.send(News::End { failure: None }).await;
                return;
            }
            if self.mode == RunMode::Until {
                tokio::select! {
                    () = self.input.changed() => {}
                    _ = self.stop.changed() => {}
                }
            }
        }
    }
}
