//! State that changed since the last checkpoint, collected on the epoch's thread and written on another.

use crate::operators::StateKey;
use weir_environment::Workers;

/// Bytes of one chunk of the arena.
const CHUNK_BYTES: usize = 4 << 20;
const REMOVED: u32 = u32::MAX;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The first bytes in which keys of the state differ, once sorted: most comparisons need no look at the keys.
    head: [u64; 2],
    state: u32,
    chunk: u32,
    start: u32,
    key: u32,
    prefix: u32,
    /// [`REMOVED`] for a removal.
    value: u32,
}

/// Keys with their new values, or their removal, by state. 40 bytes an entry beside the bytes themselves.
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
            head: [0; 2],
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
    pub(super) fn sort(&mut self, workers: &Workers) {
        if self.sorted {
            return;
        }
        self.number_states_in_order();
        let common = self.common_beginnings();
        let chunks = &self.chunks;
        let key = |e: &Entry| &chunks[e.chunk as usize][e.start as usize..(e.start + e.key) as usize];
        for entry in &mut self.entries {
            entry.head = head(&key(entry)[common[entry.state as usize]..]);
        }
        // Later changes of a key come first, and those after them go.
        self.entries.reverse();
        workers.sort_by(&mut self.entries, |a, b| {
            (a.state, a.head).cmp(&(b.state, b.head)).then_with(|| key(a).cmp(key(b)))
        });
        self.entries.dedup_by(|a, b| a.state == b.state && a.head == b.head && key(a) == key(b));
        self.counts = vec![0; self.states.len()];
        self.entries.iter().for_each(|e| self.counts[e.state as usize] += 1);
        self.sorted = true;
    }

    /// Renumbers the states so that their numbers order as their names.
    fn number_states_in_order(&mut self) {
        let mut order: Vec<usize> = (0..self.states.len()).collect();
        order.sort_by(|a, b| self.states[*a].cmp(&self.states[*b]));
        let mut places = vec![0; order.len()];
        order.iter().enumerate().for_each(|(place, state)| places[*state] = place as u32);
        self.entries.iter_mut().for_each(|entry| entry.state = places[entry.state as usize]);
        self.states.sort();
    }

    /// For each state how many first bytes all its keys share.
    fn common_beginnings(&self) -> Vec<usize> {
        let mut beginnings: Vec<Option<&[u8]>> = vec![None; self.states.len()];
        for entry in &self.entries {
            let start = entry.start as usize;
            let key = &self.chunks[entry.chunk as usize][start..start + entry.key as usize];
            let common = &mut beginnings[entry.state as usize];
            *common = Some(match common {
                None => key,
                Some(common) => &common[..common.iter().zip(key).take_while(|(a, b)| a == b).count()],
            });
        }
        beginnings.into_iter().map(|common| common.map_or(0, <[u8]>::len)).collect()
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

/// The first sixteen bytes, fewer filled up with zeros, as numbers that order as they do.
fn head(bytes: &[u8]) -> [u64; 2] {
    let mut head = [[0; 8]; 2];
    let bytes = &bytes[..bytes.len().min(16)];
    head.as_flattened_mut()[..bytes.len()].copy_from_slice(bytes);
    head.map(u64::from_be_bytes)
}
