//! The state of an operator that has several parts: the first byte of a key says which.

use super::{EngineError, State, StateKey};
use crate::checkpoint::Disk;

/// The parts of a state, in a fixed order.
pub(super) trait Parts {
    fn parts(&mut self) -> Vec<&mut dyn State>;
    fn sizes(&self) -> Vec<Sizes>;
}

/// What a part holds.
#[derive(Default)]
pub(super) struct Sizes {
    pub rows: usize,
    pub bytes: usize,
    pub unused_bytes: usize,
}

impl Sizes {
    pub fn of(part: &(impl State + ?Sized)) -> Self {
        Self { rows: part.rows(), bytes: part.bytes(), unused_bytes: part.unused_bytes() }
    }

    /// Both together.
    pub fn and(self, other: Self) -> Self {
        Self {
            rows: self.rows + other.rows,
            bytes: self.bytes + other.bytes,
            unused_bytes: self.unused_bytes + other.unused_bytes,
        }
    }

    /// Does not count as rows.
    pub fn without_rows(self) -> Self {
        Self { rows: 0, ..self }
    }
}

impl<T: Parts> State for T {
    fn changes(&mut self, emit: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>)) {
        let mut tagged = Vec::new();
        for (tag, part) in self.parts().into_iter().enumerate() {
            part.changes(&mut |key, value| {
                tagged.clear();
                tagged.push(tag as u8);
                tagged.extend_from_slice(key.bytes);
                emit(StateKey { bytes: &tagged, prefix: 1 + key.prefix }, value);
            });
        }
    }

    fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let part = key.split_first().and_then(|(&tag, key)| Some((self.parts().into_iter().nth(tag.into())?, key)));
        match part {
            Some((part, key)) => part.restore(key, value),
            None => {
                let reason = "a key names a part that the operator does not have".into();
                Err(EngineError::StateCorrupt { state: "operator".into(), reason })
            }
        }
    }

    fn attach(&mut self, disk: &Disk, resident: bool) -> Result<(), EngineError> {
        let mut parts = self.parts().into_iter().enumerate();
        parts.try_for_each(|(tag, part)| part.attach(&disk.part(&[tag as u8]), resident))
    }

    fn durable(&mut self) {
        self.parts().into_iter().for_each(|part| part.durable());
    }

    fn evict(&mut self, bytes: usize) -> usize {
        let held: Vec<usize> = self.parts().iter().map(|part| part.bytes() - part.unused_bytes()).collect();
        let all: usize = held.iter().sum();
        let share = |held: usize| (bytes as u128 * held as u128).div_ceil(all.max(1) as u128) as usize;
        self.parts().into_iter().zip(held).map(|(part, held)| part.evict(share(held))).sum()
    }

    fn rows(&self) -> usize {
        self.sizes().iter().map(|part| part.rows).sum()
    }

    fn bytes(&self) -> usize {
        self.sizes().iter().map(|part| part.bytes).sum()
    }

    fn unused_bytes(&self) -> usize {
        self.sizes().iter().map(|part| part.unused_bytes).sum()
    }
}

/// Whether an operator has emitted what it emits at its first step.
#[derive(Default)]
pub(super) struct Started {
    yes: bool,
    changed: bool,
}

impl Started {
    /// Whether this is the first call ever.
    pub fn first(&mut self) -> bool {
        let first = !self.yes;
        self.changed |= first;
        self.yes = true;
        first
    }
}

impl State for Started {
    fn changes(&mut self, emit: &mut dyn FnMut(StateKey<'_>, Option<&[u8]>)) {
        if std::mem::take(&mut self.changed) {
            emit(StateKey { bytes: &[], prefix: 0 }, Some(&[]));
        }
    }

    fn restore(&mut self, _key: &[u8], _value: &[u8]) -> Result<(), EngineError> {
        self.yes = true;
        Ok(())
    }

    fn rows(&self) -> usize {
        0
    }

    fn bytes(&self) -> usize {
        0
    }
}
