//! State that changed since the last checkpoint, collected on the epoch's thread and written on another.

use crate::operators::StateKey;

/// Bytes of one chunk of the arena.
const CHUNK_BYTES: usize = 4 << 20;
const REMOVED: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Entry {
    state: u32,
    chunk: u32,
    start: u32,
    key: u32,
    prefix: u32,
    /// [`REMOVED`] for a removal.
    value: u32,
}

/// Keys with their new values, or their removal, by state. 24 bytes an entry beside the bytes themselves.
#[derive(Debug, Default)]
pub struct StateChanges {
    states: Vec<String>,
    chunks: Vec<Vec<u8>>,
    entries: Vec<Entry>,
    /// By state, once sorted.
    counts: Vec<usize>,
    started_over: Vec<String>,
    sorted: bool,
}

impl StateChanges {
    /// Adds a change of a key that is looked up as a whole. Of several changes of one key the last counts.
    pub fn put(&mut self, state: &str, key: &[u8], value: Option<&[u8]>) {
        self.put_key(state, StateKey { bytes: key, prefix: key.len() }, value);
    }

    /// Adds a change. Of several changes of one key the last counts.
    pub fn put_key(&mut self, state: &str, key: StateKey<'_>, value: Option<&[u8]>) {
        let last = self.states.last().is_some_and(|s| s == state);
        let state = if last {
            self.states.len() - 1
        } else if let Some(known) = self.states.iter().position(|s| s == state) {
            known
        } else {
            self.states.push(state.to_owned());
            self.states.len() - 1
        };
        let length = key.bytes.len() + value.map_or(0, <[u8]>::len);
        if self.chunks.last().is_none_or(|c| c.len() + length > c.capacity()) {
            self.chunks.push(Vec::with_capacity(CHUNK_BYTES.max(length)));
        }
        let chunk = self.chunks.len() - 1;
        let bytes = &mut self.chunks[chunk];
        let start = bytes.len() as u32;
        bytes.extend_from_slice(key.bytes);
        bytes.extend_from_slice(value.unwrap_or_default());
        self.entries.push(Entry {
            state: state as u32,
            chunk: chunk as u32,
            start,
            key: key.bytes.len() as u32,
            prefix: key.prefix as u32,
            value: value.map_or(REMOVED, |v| v.len() as u32),
        });
        self.sorted = false;
    }

    /// Says that what checkpoints so far have of a state counts no more: these changes are all of it.
    pub fn start_over(&mut self, state: &str) {
        self.started_over.push(state.to_owned());
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn starts_over(&self, state: &str) -> bool {
        self.started_over.iter().any(|s| s == state)
    }

    /// Brings the changes into order, each key once.
    pub(super) fn sort(&mut self) {
        if self.sorted {
            return;
        }
        let (states, chunks) = (&self.states, &self.chunks);
        let key = |e: &Entry| &chunks[e.chunk as usize][e.start as usize..(e.start + e.key) as usize];
        let state = |e: &Entry| states[e.state as usize].as_str();
        // Later changes of a key come first, and those after them go.
        self.entries.reverse();
        self.entries.sort_by(|a, b| (state(a), key(a)).cmp(&(state(b), key(b))));
        self.entries.dedup_by(|a, b| a.state == b.state && key(a) == key(b));
        self.counts = vec![0; self.states.len()];
        self.entries.iter().for_each(|e| self.counts[e.state as usize] += 1);
        self.sorted = true;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, StateKey<'_>, Option<&[u8]>)> {
        self.entries.iter().map(|e| {
            let bytes = &self.chunks[e.chunk as usize];
            let middle = (e.start + e.key) as usize;
            let key = StateKey { bytes: &bytes[e.start as usize..middle], prefix: e.prefix as usize };
            let value = (e.value != REMOVED).then(|| &bytes[middle..middle + e.value as usize]);
            (self.states[e.state as usize].as_str(), key, value)
        })
    }

    /// Number of changes of a state, once sorted.
    pub(super) fn count(&self, state: &str) -> usize {
        self.states.iter().position(|s| s == state).map_or(0, |number| self.counts[number])
    }
}
