//! Rows that fail in a batch run, and whether all that can fail were looked at.

use crate::operators::{RowError, tolerant};
use arrow::array::RecordBatch;
use parking_lot::Mutex;
use std::sync::Arc;

/// The rows that failed at one place of a plan.
///
/// DataFusion reads no more of an input than it needs: nothing of one side of a join when the other is empty. In the graph all
/// rows come by, so whoever wants to know all failures asks whether the place was read to its end.
#[derive(Debug, Clone, Default)]
pub(crate) struct Failures(Arc<Mutex<Place>>);

#[derive(Debug, Default)]
struct Place {
    rows: Vec<RowError>,
    /// Partitions of the place, once one is read, and how many were read to their end.
    partitions: usize,
    ended: usize,
}

/// The reading of one partition.
pub(super) struct Reader(Failures);

impl Failures {
    /// Adds rows of `batch` that failed, each once.
    pub(super) fn report(&self, batch: &RecordBatch, failed: Vec<tolerant::Failure>) {
        if failed.is_empty() {
            return;
        }
        self.extend(failed.into_iter().map(|failure| RowError {
            expression: failure.expression,
            message: failure.message,
            row: batch.slice(failure.row, 1),
            weight: 1,
        }));
    }

    pub(super) fn extend(&self, rows: impl IntoIterator<Item = RowError>) {
        self.0.lock().rows.extend(rows);
    }

    /// Begins to read one of so many partitions.
    pub(super) fn reader(&self, partitions: usize) -> Reader {
        self.0.lock().partitions = partitions;
        Reader(self.clone())
    }

    /// Whether both are of one place.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Whether every row came by.
    pub fn is_complete(&self) -> bool {
        let place = self.0.lock();
        place.partitions > 0 && place.ended == place.partitions
    }

    /// The rows, which are no longer here then.
    pub fn take(&self) -> Vec<RowError> {
        std::mem::take(&mut self.0.lock().rows)
    }
}

impl Reader {
    /// Says that the partition was read to its end.
    pub fn reached(self) {
        self.0.0.lock().ended += 1;
    }
}
