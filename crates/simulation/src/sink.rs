//! A transactional destination in memory that survives crashes: rows and the epoch that they are of, changed together.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::execution::SendableRecordBatchStream;
use futures::TryStreamExt;
use parking_lot::Mutex;
use weir_incremental::Delta;
use weir_pipeline::EpochNumber;
use weir_pipeline::sink::{DeliveryClass, Sink, SinkError};

use crate::bugs::Bug;
use crate::rows::{self, Rows};

/// What the next transaction comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SinkFault {
    /// The destination cannot be reached for so many calls.
    Down(u32),
    /// It commits, and the answer is lost.
    Unanswered,
}

/// What the destination has.
#[derive(Debug, Default)]
pub struct Destination {
    /// The epoch that its rows are of.
    pub epoch: Option<EpochNumber>,
    /// Its rows.
    pub rows: Rows,
    /// What happens next.
    pub fault: Option<SinkFault>,
    bug: Option<Bug>,
}

impl Destination {
    /// An empty one.
    pub fn new(bug: Option<Bug>) -> Self {
        Self { bug, ..Self::default() }
    }

    fn reach(&mut self) -> Result<(), SinkError> {
        match self.fault {
            Some(SinkFault::Down(calls)) => {
                self.fault = (calls > 1).then_some(SinkFault::Down(calls - 1));
                Err(SinkError::Retry("the destination is down".into()))
            }
            _ => Ok(()),
        }
    }

    fn commit(&mut self, epoch: EpochNumber, rows: Rows) -> Result<(), SinkError> {
        let unanswered = self.fault == Some(SinkFault::Unanswered);
        if unanswered {
            self.fault = None;
        }
        // The two bugs have a transaction each for the rows and for the epoch, and come no further than the first.
        if !(unanswered && self.bug == Some(Bug::SinkCursorFirst)) {
            self.rows = rows;
        }
        if !(unanswered && self.bug == Some(Bug::SinkCursorLast)) {
            self.epoch = Some(epoch);
        }
        if unanswered { Err(SinkError::Retry("the connection was lost".into())) } else { Ok(()) }
    }
}

/// A connection to it.
#[derive(Debug)]
pub struct SimulatedSink(pub Arc<Mutex<Destination>>);

#[async_trait]
impl Sink for SimulatedSink {
    fn class(&self) -> DeliveryClass {
        DeliveryClass::Transactional
    }

    async fn cursor(&mut self) -> Result<Option<EpochNumber>, SinkError> {
        let mut destination = self.0.lock();
        destination.reach()?;
        Ok(destination.epoch)
    }

    async fn apply(&mut self, epoch: EpochNumber, changes: &Delta) -> Result<(), SinkError> {
        let mut destination = self.0.lock();
        destination.reach()?;
        if destination.epoch.is_some_and(|held| held >= epoch) {
            return Ok(());
        }
        let mut rows = destination.rows.clone();
        let columns: Vec<usize> = (0..changes.rows.num_columns()).collect();
        rows::add_batch(&mut rows, &changes.rows, &columns, |row| changes.weights.value(row));
        if let Some((row, times)) = rows.iter().find(|(_, times)| **times < 0) {
            return Err(SinkError::Refused(format!("row {row} would be there {times} times")));
        }
        destination.commit(epoch, rows)
    }

    async fn reload(&mut self, epoch: EpochNumber, contents: SendableRecordBatchStream) -> Result<(), SinkError> {
        self.0.lock().reach()?;
        let batches: Vec<_> = contents.try_collect().await.map_err(|error| SinkError::Retry(error.to_string()))?;
        let mut rows = Rows::new();
        for batch in &batches {
            let columns: Vec<usize> = (0..batch.num_columns()).collect();
            rows::add_batch(&mut rows, batch, &columns, |_| 1);
        }
        self.0.lock().commit(epoch, rows)
    }
}
