//! What was read and decoded ahead of the loop: polls in order, cut into epochs, and the position that each cut leaves behind.
//!
//! Invariants:
//! 1. Every record of every poll is in one cut, in the order of its input.
//! 2. Reading again from the position of a cut, and leaving out the records that it says, goes on behind that cut, however
//!    much a poll brings then: it may end before the records that are to be left out do.

use std::collections::VecDeque;

use crate::core::EpochPart;
use crate::frames::InputPosition;
use crate::input::Cursor;
use crate::prepare::{PreparedChunk, PreparedPoll};

/// A poll in the queue and how much of it is taken.
#[derive(Debug)]
struct Queued {
    input: usize,
    chunks: VecDeque<PreparedChunk>,
    taken: u64,
    before: Cursor,
    after: Cursor,
}

#[derive(Debug)]
struct Source {
    name: String,
    /// Start of the next poll.
    cursor: Cursor,
    /// Records behind it that earlier epochs have taken.
    skip: u64,
}

/// The queue of polls of all inputs.
#[derive(Debug, Default)]
pub struct Intake {
    inputs: Vec<Source>,
    queue: VecDeque<Queued>,
    rows: usize,
}

impl Intake {
    /// Adds an input that goes on from a position; its number.
    pub fn add_input(&mut self, name: &str, position: &InputPosition) -> usize {
        self.inputs.push(Source { name: name.to_owned(), cursor: position.cursor.clone(), skip: position.skip });
        self.inputs.len() - 1
    }

    /// Queues the next poll of an input: the one from the cursor that its last poll ended with.
    pub fn push(&mut self, input: usize, poll: PreparedPoll) {
        let PreparedPoll { chunks, polled } = poll;
        let mut chunks: VecDeque<PreparedChunk> = chunks.into();
        let source = &mut self.inputs[input];
        // Records that epochs before the start have taken out of the middle of this poll.
        let mut taken = 0;
        while taken < source.skip {
            let Some(first) = chunks.pop_front() else { break };
            let count = (source.skip - taken).min(first.len() as u64);
            taken += count;
            if count < first.len() as u64 {
                chunks.push_front(first.part(count as u32, first.len() as u32));
            }
        }
        let left = source.skip - taken;
        if left > 0 && polled.cursor != source.cursor {
            // The poll ended among them: the next one goes on with the rest, and no cut comes between.
            source.skip = left;
            source.cursor = polled.cursor;
            return;
        }
        source.skip = 0;
        self.rows += chunks.iter().map(PreparedChunk::len).sum::<usize>();
        let before = std::mem::replace(&mut source.cursor, polled.cursor.clone());
        self.queue.push_back(Queued { input, chunks, taken, before, after: polled.cursor });
    }

    /// Records in the queue.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Whether no poll is in the queue.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Takes records from the queue, up to an epoch's worth.
    pub fn gather(&mut self, rows_max: usize) -> Vec<EpochPart> {
        let mut parts: Vec<EpochPart> = Vec::new();
        let mut room = rows_max;
        while room > 0
            && let Some(mut poll) = self.queue.pop_front()
        {
            let mut chunks = Vec::new();
            while room > 0
                && let Some(chunk) = poll.chunks.pop_front()
            {
                if chunk.len() <= room {
                    room -= chunk.len();
                    self.rows -= chunk.len();
                    poll.taken += chunk.len() as u64;
                    chunks.push(chunk);
                } else {
                    chunks.push(chunk.part(0, room as u32));
                    let rest = chunk.part(room as u32, chunk.len() as u32);
                    poll.chunks.push_front(rest);
                    self.rows -= room;
                    poll.taken += room as u64;
                    room = 0;
                }
            }
            let name = &self.inputs[poll.input].name;
            let done = poll.chunks.is_empty();
            let (cursor, skip) = if done { (poll.after.clone(), 0) } else { (poll.before.clone(), poll.taken) };
            match parts.iter_mut().find(|p| p.input == *name) {
                Some(part) => {
                    part.chunks.extend(chunks);
                    part.cursor = cursor;
                    part.skip = skip;
                }
                None => parts.push(EpochPart { input: name.clone(), chunks, cursor, skip }),
            }
            if !done {
                self.queue.push_front(poll);
            }
        }
        parts
    }
}
