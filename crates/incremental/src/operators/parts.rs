//! The state of an operator that has several parts: the first byte of a key says which.

use super::{EngineError, State};

/// The parts of a state, in a fixed order.
pub(super) trait Parts {
    fn parts(&mut self) -> Vec<&mut dyn State>;
    fn sizes(&self) -> Vec<(usize, usize)>;
}

impl<T: Parts> State for T {
    fn changes(&mut self, emit: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        let mut tagged = Vec::new();
        for (tag, part) in self.parts().into_iter().enumerate() {
            part.changes(&mut |key, value| {
                tagged.clear();
                tagged.push(tag as u8);
                tagged.extend_from_slice(key);
                emit(&tagged, value);
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

    fn rows(&self) -> usize {
        self.sizes().iter().map(|(rows, _)| rows).sum()
    }

    fn bytes(&self) -> usize {
        self.sizes().iter().map(|(_, bytes)| bytes).sum()
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
    fn changes(&mut self, emit: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        if std::mem::take(&mut self.changed) {
            emit(&[], Some(&[]));
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
