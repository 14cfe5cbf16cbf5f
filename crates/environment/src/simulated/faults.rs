//! Which operation of the simulated disk fails, and how.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::io;
use std::time::Duration;

/// A sort of disk operation, to aim a fault at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Operation {
    /// Creating a file.
    Create,
    /// Appending to a file.
    Append,
    /// Syncing a file.
    Sync,
    /// Truncating a file.
    Truncate,
    /// Renaming.
    Rename,
    /// Removing a file or folder.
    Remove,
    /// Creating folders.
    CreateFolder,
    /// Syncing a folder.
    SyncFolder,
    /// Reading from a file, opening it to read, or listing a folder. Not counted as a changing operation.
    Read,
}

/// Something that the simulated disk did to whoever used it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// An operation failed because it was told to.
    Failed(Operation),
    /// An append found no room.
    Full,
    /// A read gave fewer bytes than were asked for and there.
    ShortRead,
    /// An operation took time.
    Slow,
    /// The machine went down in the middle of an operation.
    Down,
    /// A crash left part of an append.
    TornAppend,
    /// A crash lost whole appends or truncations that were not synced.
    LostChanges,
    /// A crash left sectors of zeros before others that were written: writes were reordered.
    LostSectors,
    /// A crash lost bytes that a failed sync was to write, though a later sync succeeded.
    LostBySync,
    /// A crash undid a creation, a rename or a removal that no sync of the folder covered.
    LostName,
    /// Bits of a file were inverted.
    Flipped,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(operation) => write!(f, "failed {operation:?}"),
            other => write!(f, "{other:?}"),
        }
    }
}

/// What to do with an operation.
pub(super) enum Verdict {
    Go,
    Fail(io::Error),
    /// The machine goes down while it is under way.
    Down,
}

#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) operations: u64,
    pub(super) down_at: Option<u64>,
    pub(super) fail_at: Option<(u64, u64, io::ErrorKind)>,
    pub(super) fail_next: HashMap<Operation, (u64, io::ErrorKind)>,
    /// One read of so many is short.
    pub(super) short_read_every: Option<u32>,
    /// The longest that an operation takes.
    pub(super) slow_max: Option<Duration>,
    /// What happened so far.
    pub(super) happened: BTreeMap<Fault, u64>,
}

impl Faults {
    pub(super) fn clear(&mut self) {
        let happened = std::mem::take(&mut self.happened);
        *self = Self { operations: self.operations, happened, ..Self::default() };
    }

    pub(super) fn count(&mut self, fault: Fault) {
        *self.happened.entry(fault).or_default() += 1;
    }

    /// Counts an operation and says whether it happens.
    pub(super) fn judge(&mut self, operation: Operation) -> Verdict {
        if let Some((left, kind)) = self.fail_next.get_mut(&operation)
            && *left > 0
        {
            *left -= 1;
            let kind = *kind;
            self.operations += u64::from(operation != Operation::Read);
            self.count(Fault::Failed(operation));
            return Verdict::Fail(io::Error::new(kind, "injected fault"));
        }
        if operation == Operation::Read {
            return Verdict::Go;
        }
        let number = self.operations;
        self.operations += 1;
        if self.down_at.is_some_and(|at| number >= at) {
            self.count(Fault::Down);
            return Verdict::Down;
        }
        match self.fail_at {
            Some((from, to, kind)) if (from..to).contains(&number) => {
                self.count(Fault::Failed(operation));
                Verdict::Fail(io::Error::new(kind, "injected fault"))
            }
            _ => Verdict::Go,
        }
    }
}
