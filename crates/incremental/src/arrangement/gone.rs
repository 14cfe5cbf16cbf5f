//! Rows that are gone from memory and may still be on disk.

use hashbrown::HashMap;

/// Bytes of an entry beside the row itself: box, number and the table's overhead.
const ENTRY_BYTES: usize = 32;

/// Rows, with the length of the part that they are looked up by, from their removal until a checkpoint knows of it.
#[derive(Default)]
pub(crate) struct Gone {
    now: HashMap<Box<[u8]>, u32>,
    in_flight: HashMap<Box<[u8]>, u32>,
    row_bytes: usize,
}

impl Gone {
    /// A row of the last checkpoint has gone.
    pub fn insert(&mut self, row: &[u8], prefix: usize) {
        if self.now.insert(row.into(), prefix as u32).is_none() {
            self.row_bytes += row.len();
        }
    }

    /// Whether what the disk has of a row counts no more.
    pub fn has(&self, row: &[u8]) -> bool {
        self.now.contains_key(row) || self.in_flight.contains_key(row)
    }

    /// Emits rows that have gone since the last call; with `keep` they stay known until [`Gone::durable`].
    pub fn take(&mut self, keep: bool, emit: &mut dyn FnMut(&[u8], usize)) {
        for (row, prefix) in self.now.drain() {
            emit(&row, prefix as usize);
            let len = row.len();
            if !keep || self.in_flight.insert(row, prefix).is_some() {
                self.row_bytes -= len;
            }
        }
    }

    /// The checkpoint that knows of all that was taken is durable.
    pub fn durable(&mut self) {
        self.row_bytes -= self.in_flight.keys().map(|row| row.len()).sum::<usize>();
        self.in_flight = HashMap::new();
    }

    /// Bytes of memory held.
    pub fn bytes(&self) -> usize {
        self.row_bytes + (self.now.len() + self.in_flight.len()) * ENTRY_BYTES
    }
}
