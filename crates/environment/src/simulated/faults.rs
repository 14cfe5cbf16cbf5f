//! Which operation of the simulated disk fails, and how.

use std::collections::HashMap;
use std::io;

/// A sort of disk operation, to aim a fault at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
}

impl Faults {
    pub(super) fn clear(&mut self) {
        *self = Self { operations: self.operations, ..Self::default() };
    }

    /// Counts an operation and says whether it happens.
    pub(super) fn judge(&mut self, operation: Operation) -> Verdict {
        if let Some((left, kind)) = self.fail_next.get_mut(&operation)
            && *left > 0
        {
            *left -= 1;
            let kind = *kind;
            self.operations += u64::from(operation != Operation::Read);
            return Verdict::Fail(io::Error::new(kind, "injected fault"));
        }
        if operation == Operation::Read {
            return Verdict::Go;
        }
        let number = self.operations;
        self.operations += 1;
        if self.down_at.is_some_and(|at| number >= at) {
            return Verdict::Down;
        }
        match self.fail_at {
            Some((from, to, kind)) if (from..to).contains(&number) => {
                Verdict::Fail(io::Error::new(kind, "injected fault"))
            }
            _ => Verdict::Go,
        }
    }
}
