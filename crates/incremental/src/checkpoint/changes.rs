//! State that changed since the last checkpoint, collected on the epoch's thread and written on another.

/// Bytes of one chunk of the arena.
const CHUNK_BYTES: usize = 4 << 20;
const REMOVED: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Entry {
    state: u32,
    chunk: u32,
    start: u32,
    key: u32,
    /// [`REMOVED`] for a removal.
    value: u32,
}

/// Keys with their new values, or their removal, by state. 20 bytes an entry beside the bytes themselves.
#[derive(Debug, Default)]
pub struct StateChanges {
    states: Vec<String>,
    chunks: Vec<Vec<u8>>,
    entries: Vec<Entry>,
    sorted: bool,
}

impl StateChanges {
    /// Adds a change. A key may be added once.
    pub fn put(&mut self, state: &str, key: &[u8], value: Option<&[u8]>) {
        let last = self.states.last().is_some_and(|s| s == state);
        let state = if last {
            self.states.len() - 1
        } else if let Some(known) = self.states.iter().position(|s| s == state) {
            known
        } else {
            self.states.push(state.to_owned());
            self.states.len() - 1
        };
        let length = key.len() + value.map_or(0, <[u8]>::len);
        if self.chunks.last().is_none_or(|c| c.len() + length > c.capacity()) {
            self.chunks.push(Vec::with_capacity(CHUNK_BYTES.max(length)));
        }
        let chunk = self.chunks.len() - 1;
        let bytes = &mut self.chunks[chunk];
        let start = bytes.len() as u32;
        bytes.extend_from_slice(key);
        bytes.extend_from_slice(value.unwrap_or_default());
        self.entries.push(Entry {
            state: state as u32,
            chunk: chunk as u32,
            start,
            key: key.len() as u32,
            value: value.map_or(REMOVED, |v| v.len() as u32),
        });
        self.sorted = false;
    }

    /// Number of changes.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn sort(&mut self) {
        if self.sorted {
            return;
        }
        let (states, chunks) = (&self.states, &self.chunks);
        let key = |e: &Entry| &chunks[e.chunk as usize][e.start as usize..(e.start + e.key) as usize];
        let state = |e: &Entry| states[e.state as usize].as_str();
        self.entries.sort_unstable_by(|a, b| (state(a), key(a)).cmp(&(state(b), key(b))));
        self.sorted = true;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &[u8], Option<&[u8]>)> {
        self.entries.iter().map(|e| {
            let bytes = &self.chunks[e.chunk as usize];
            let middle = (e.start + e.key) as usize;
            let key = &bytes[e.start as usize..middle];
            let value = (e.value != REMOVED).then(|| &bytes[middle..middle + e.value as usize]);
            (self.states[e.state as usize].as_str(), key, value)
        })
    }
}
