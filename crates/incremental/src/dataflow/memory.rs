//! State within a budget of memory: what is not in memory is in the last checkpoint.

use super::Dataflow;
use crate::checkpoint::StateReader;
use crate::operators::{EngineError, State};

/// What the state of one node holds.
struct Held {
    bytes: usize,
    live: usize,
}

impl Held {
    fn of(state: &dyn State) -> Self {
        let bytes = state.bytes();
        Self { bytes, live: bytes.saturating_sub(state.unused_bytes()) }
    }
}

impl Dataflow {
    /// Says where checkpoints are. `resident`: the graph has everything that they have of its states, as after
    /// [`Dataflow::build`] when there is none yet; otherwise it has made no step, and takes up what they have: most of it
    /// when it is first touched.
    ///
    /// # Errors
    /// [`EngineError::Checkpoint`] when what has to be read at once cannot be read.
    pub fn attach(&mut self, checkpoints: &StateReader, resident: bool) -> Result<(), EngineError> {
        for node in &mut self.nodes {
            if let Some(state) = node.operator.state() {
                state.attach(&checkpoints.state(&node.id), resident)?;
            }
        }
        self.disk = Some(checkpoints.clone());
        Ok(())
    }

    /// Says that everything which [`Dataflow::state_changes`] ever emitted is in a durable checkpoint.
    pub fn durable(&mut self) {
        self.states().for_each(State::durable);
    }

    /// Has state leave memory when it takes nearly `bytes_max` or more, between two steps; false when it still takes more:
    /// then too much has changed since the last durable checkpoint, or an operator cannot do without.
    pub fn keep_within(&mut self, bytes_max: usize) -> bool {
        self.keep_within_beside(&mut [], bytes_max)
    }

    /// As [`Dataflow::keep_within`], for the graph's state and that of others together.
    pub fn keep_within_beside(&mut self, others: &mut [&mut dyn State], bytes_max: usize) -> bool {
        let Some(disk) = &self.disk else { return true };
        let bytes_max = bytes_max.saturating_sub(disk.bytes()).max(bytes_max / 2);
        let mut states: Vec<&mut dyn State> = self.states().collect();
        states.extend(others.iter_mut().map(|state| &mut **state as &mut dyn State));
        let held: Vec<Held> = states.iter().map(|state| Held::of(*state)).collect();
        let sum = |part: fn(&Held) -> usize| held.iter().map(part).sum::<usize>();
        let (bytes, live) = (sum(|held| held.bytes), sum(|held| held.live));
        if bytes <= bytes_max && live <= bytes_max / 4 * 3 {
            return true;
        }
        // Down to half, so that it takes a while until it is time again.
        let excess = live.saturating_sub(bytes_max / 2);
        let mut missing = excess;
        for (state, held) in states.iter_mut().zip(&held) {
            let share = (excess as u128 * held.live as u128).div_ceil(live.max(1) as u128) as usize;
            missing = missing.saturating_sub(state.evict(share));
        }
        // Where a state could not give its share, others give more.
        for state in &mut states {
            if missing == 0 {
                break;
            }
            missing = missing.saturating_sub(state.evict(missing));
        }
        states.iter().map(|state| state.bytes()).sum::<usize>() <= bytes_max
    }

    /// Bytes of memory that state takes.
    pub fn state_bytes(&mut self) -> usize {
        self.states().map(|state| state.bytes()).sum()
    }

    fn states(&mut self) -> impl Iterator<Item = &mut dyn State> {
        self.nodes.iter_mut().filter_map(|node| node.operator.state())
    }
}
