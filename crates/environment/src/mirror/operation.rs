//! What is done to a mirror, and the two lanes in which it waits its turn.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::target::MirrorTarget;
use crate::ReadFile;

/// A lane: its operations reach the mirror one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// What is small and waited for.
    Log,
    /// What is large and never waited for; no operation of it overtakes what the other lane had before.
    Bulk,
}

impl Lane {
    pub(super) const ALL: [Self; 2] = [Self::Log, Self::Bulk];
}

/// One step.
pub(super) enum Operation {
    /// Bytes behind the first `at` of a file.
    Append { name: String, at: u64, bytes: Arc<[u8]> },
    /// A file is cut.
    Truncate { name: String, len: u64 },
    /// What a file has by now is durable before it gets more: later bytes may say so of earlier ones.
    Sync { name: String },
    /// A whole file.
    Put { name: String, content: Arc<dyn ReadFile>, len: u64 },
    /// A file takes another's name.
    Rename { from: String, to: String },
    /// A file goes.
    Remove { name: String },
    /// Whatever a settled folder has that the mirror has not, and the other way round. The number is the folder's.
    Folder(usize),
}

impl fmt::Debug for Operation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Append { name, at, bytes } => write!(formatter, "append {} to {name} at {at}", bytes.len()),
            Self::Truncate { name, len } => write!(formatter, "truncate {name} to {len}"),
            Self::Sync { name } => write!(formatter, "sync {name}"),
            Self::Put { name, len, .. } => write!(formatter, "put {name} of {len}"),
            Self::Rename { from, to } => write!(formatter, "rename {from} to {to}"),
            Self::Remove { name } => write!(formatter, "remove {name}"),
            Self::Folder(folder) => write!(formatter, "folder {folder}"),
        }
    }
}

impl Operation {
    /// Bytes that it carries.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Self::Append { bytes, .. } => bytes.len() as u64,
            Self::Put { len, .. } => *len,
            _ => 0,
        }
    }

    /// Whether it may be taken together with its like.
    pub(super) fn joins(&self) -> bool {
        self.grown().is_some()
    }

    /// The file whose end it changes.
    pub(super) fn grown(&self) -> Option<&str> {
        match self {
            Self::Append { name, .. } | Self::Truncate { name, .. } | Self::Sync { name } => Some(name),
            _ => None,
        }
    }

    /// Does it; `Folder` is none of its business.
    pub(super) fn perform(&self, target: &dyn MirrorTarget) -> io::Result<()> {
        match self {
            Self::Append { name, at, bytes } => target.append(name, *at, bytes),
            Self::Truncate { name, len } => target.truncate(name, *len),
            Self::Sync { .. } => target.flush(),
            Self::Put { name, content, len } => target.put(name, &**content, *len),
            Self::Rename { from, to } => target.rename(from, to),
            Self::Remove { name } => target.remove(name),
            Self::Folder(_) => Ok(()),
        }
    }
}

/// An operation, and whether the mirror has it durably. Those before it may still have to come.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) operation: Operation,
    pub(super) done: AtomicBool,
}

/// A step that waits.
#[derive(Clone)]
pub(super) struct Waiting {
    pub(super) step: Arc<Step>,
    /// When it was queued, on the clock that never goes back.
    pub(super) since: Duration,
    /// How many operations of the log's lane come before it.
    pub(super) after: u64,
}

/// The operations of one lane. They are numbered from 1 on.
#[derive(Default)]
pub(super) struct Queue {
    pub(super) waiting: VecDeque<Waiting>,
    /// The number of the last one queued.
    pub(super) queued: u64,
    /// The number of the last one that is durable in the mirror.
    pub(super) shipped: u64,
    /// Bytes of those that wait.
    pub(super) bytes: u64,
    /// Why the mirror does not take the first of them.
    pub(super) failure: Option<String>,
}

/// Bytes of operations that are made durable together.
const BATCH_BYTES_MAX: u64 = 8 << 20;

impl Queue {
    /// The operations to do next: some that join, or one that does not.
    pub(super) fn batch(&self) -> Vec<Arc<Step>> {
        let mut batch = Vec::new();
        let mut bytes = 0;
        for waiting in &self.waiting {
            let joins = waiting.step.operation.joins();
            if !batch.is_empty() && (!joins || bytes >= BATCH_BYTES_MAX) {
                break;
            }
            bytes += waiting.step.operation.bytes();
            batch.push(waiting.step.clone());
            if !joins {
                break;
            }
        }
        batch
    }

    /// Lets go of the first `count` operations.
    pub(super) fn done(&mut self, count: usize) {
        for waiting in self.waiting.drain(..count) {
            self.bytes -= waiting.step.operation.bytes();
        }
        self.shipped += count as u64;
        self.failure = None;
    }
}
