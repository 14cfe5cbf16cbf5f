//! Writing a topic: the bounded queue of appends, and the thread that commits them in groups.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::batch::EncodedBatch;
use super::read::ReadSegment;
use super::{BATCH, BATCH_BYTES_MAX, Done, FORMAT, Shared};
use crate::entry::{self, Draft, ENTRY_BYTES};
use crate::segment::SegmentWriter;
use crate::{AppendError, JournalError};

/// A group takes appends up to this many bytes: it bounds what one sync writes and what one read returns.
const GROUP_BYTES_MAX: usize = 8 << 20;
/// What is assumed of the disk before anything was measured, bytes a second.
const RATE_ASSUMED: f64 = 50e6;
const RETRY_AFTER_MIN: Duration = Duration::from_millis(10);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// Appends that wait for the writer.
#[derive(Default)]
pub(super) struct Queue {
    pending: VecDeque<Pending>,
    bytes: usize,
    pub(super) closed: bool,
    /// Whether the writer's thread waits to be woken.
    idle: bool,
    /// Bytes a second that the writer manages, measured.
    rate: Option<f64>,
}

struct Pending {
    batch: EncodedBatch,
    done: Done,
}

impl Shared {
    /// Queues an append, or gives `done` back with the reason why not.
    pub(super) fn enqueue(&self, batch: EncodedBatch, done: Done) -> Result<(), (AppendError, Done)> {
        let bytes = batch.bytes();
        if bytes > BATCH_BYTES_MAX {
            return Err((AppendError::TooLarge { bytes, bytes_max: BATCH_BYTES_MAX }, done));
        }
        if batch.is_empty() {
            let end = self.log.read().durable_end;
            done(Ok(end..end));
            return Ok(());
        }
        let mut queue = self.queue.lock();
        if queue.closed {
            return Err((AppendError::Closed, done));
        }
        if queue.bytes > 0 && queue.bytes + bytes > self.options.queue_bytes_max {
            let seconds = queue.bytes as f64 / queue.rate.unwrap_or(RATE_ASSUMED).max(1.0);
            let retry_after = Duration::try_from_secs_f64(seconds).unwrap_or(RETRY_AFTER_MAX);
            let retry_after = retry_after.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX);
            return Err((AppendError::Behind { retry_after }, done));
        }
        queue.bytes += bytes;
        queue.pending.push_back(Pending { batch, done });
        let wake = std::mem::take(&mut queue.idle);
        drop(queue);
        if wake {
            self.wake.notify_one();
        }
        Ok(())
    }
}

/// The writer's thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    segment: SegmentWriter,
    /// The offset behind the last durable record.
    end: u64,
    /// Whether the segment is closed, and its successor may exist: nothing more is written to it.
    closed: bool,
    /// Bodies of a group, one after the other.
    body: Vec<u8>,
    /// The entry to write.
    out: Vec<u8>,
}

/// However the writer's thread ends, nobody is left waiting for it.
struct CloseOnExit(Arc<Shared>);

impl Drop for CloseOnExit {
    fn drop(&mut self) {
        let mut queue = self.0.queue.lock();
        queue.closed = true;
        let left = std::mem::take(&mut queue.pending);
        drop(queue);
        for pending in left {
            (pending.done)(Err(AppendError::Closed));
        }
    }
}

impl Writer {
    pub(super) fn new(shared: Arc<Shared>, segment: SegmentWriter, end: u64) -> Self {
        Self { shared, segment, end, closed: false, body: Vec::new(), out: Vec::new() }
    }

    pub(super) fn run(mut self) {
        let shared = self.shared.clone();
        *shared.writer_thread.lock() = Some(std::thread::current().id());
        let _close = CloseOnExit(shared.clone());
        let mut group = Vec::new();
        while self.take(&mut group) {
            self.write_group(&mut group);
        }
        self.end();
    }

    /// Writes all that is queued now.
    pub(super) fn write_queued(&mut self) {
        let mut group = Vec::new();
        let shared = self.shared.clone();
        while Self::take_queued(&mut shared.queue.lock(), &mut group) {
            self.write_group(&mut group);
        }
    }

    /// Makes a group durable, or not, and tells the callers.
    fn write_group(&mut self, group: &mut Vec<Pending>) {
        let shared = self.shared.clone();
        let start = shared.environment.clock.elapsed();
        let bytes: usize = group.iter().map(|pending: &Pending| pending.batch.bytes()).sum();
        match self.commit(group) {
            Ok(()) => {
                let mut offset = self.end - group.iter().map(|p| u64::from(p.batch.count)).sum::<u64>();
                for Pending { batch, done } in group.drain(..) {
                    let range = offset..offset + u64::from(batch.count);
                    offset = range.end;
                    done(Ok(range));
                }
                for listener in shared.listeners.read().iter() {
                    listener(self.end);
                }
                let took = shared.environment.clock.elapsed().saturating_sub(start).as_secs_f64();
                if took > 0.0 {
                    let rate = bytes as f64 / took;
                    let mut queue = shared.queue.lock();
                    queue.rate = Some(queue.rate.map_or(rate, |before| before * 0.8 + rate * 0.2));
                }
            }
            Err(error) => {
                tracing::warn!(folder = %shared.folder.display(), %error, "an append failed");
                let error = AppendError::from(error);
                group.drain(..).for_each(|pending| (pending.done)(Err(error.clone())));
            }
        }
        if shared.queue.lock().pending.is_empty() {
            self.segment.note_durable(self.end);
        }
    }

    /// Leaves a clean end that recovery can tell: the note behind the last batch.
    pub(super) fn end(&mut self) {
        if !self.segment.suspect && self.segment.durable_to < self.segment.segment.len {
            let _ = self.segment.sync();
        }
    }

    /// Waits for appends and takes a group of them; false when the topic is closed and none are left.
    fn take(&self, group: &mut Vec<Pending>) -> bool {
        let mut queue = self.shared.queue.lock();
        while queue.pending.is_empty() {
            if queue.closed {
                return false;
            }
            queue.idle = true;
            self.shared.wake.wait(&mut queue);
        }
        Self::take_queued(&mut queue, group)
    }

    /// Takes a group of appends; false when none is queued.
    fn take_queued(queue: &mut Queue, group: &mut Vec<Pending>) -> bool {
        let mut bytes = 0;
        while let Some(next) = queue.pending.front() {
            if !group.is_empty() && bytes + next.batch.bytes() > GROUP_BYTES_MAX {
                break;
            }
            bytes += next.batch.bytes();
            group.extend(queue.pending.pop_front());
        }
        queue.bytes -= bytes;
        !group.is_empty()
    }

    /// Makes a group durable as one batch, or leaves the topic as it was.
    fn commit(&mut self, group: &[Pending]) -> Result<(), JournalError> {
        if self.segment.suspect {
            self.segment.reset(self.segment.durable_to)?;
        }
        let bytes: usize = group.iter().map(|pending| pending.batch.bytes()).sum();
        let shared = self.shared.clone();
        let storage = &*shared.environment.storage;
        let available =
            storage.available_bytes(&shared.folder).map_err(|e| JournalError::io("examine", &shared.folder, e))?;
        if available < shared.options.disk_reserve_bytes.saturating_add((bytes + ENTRY_BYTES) as u64) {
            return Err(JournalError::DiskFull { path: shared.folder.clone() });
        }
        self.rotate(bytes as u64)?;
        self.encode(group);
        let count: u64 = group.iter().map(|pending| u64::from(pending.batch.count)).sum();
        match self.write() {
            Ok(()) => {
                self.end += count;
                let mut log = shared.log.write();
                log.durable_end = self.end;
                // The last segment is the one that is written to.
                if let Some(last) = log.segments.back() {
                    last.set_len(self.segment.durable_to);
                }
                Ok(())
            }
            Err(error) => {
                // If this fails too, it is tried again before the next write.
                let _ = self.segment.reset(self.segment.durable_to);
                Err(error)
            }
        }
    }

    fn write(&mut self) -> Result<(), JournalError> {
        self.segment.append(&self.out)?;
        self.segment.sync()
    }

    /// Encodes a group into `out`.
    fn encode(&mut self, group: &[Pending]) {
        self.out.clear();
        let draft = Draft {
            kind: BATCH,
            number: self.end,
            count: group.iter().map(|pending| pending.batch.count).sum(),
            time: group.iter().map(|pending| pending.batch.arrival_max).max().unwrap_or(i64::MIN),
            durable_to: self.segment.durable_to,
            ..Draft::default()
        };
        let salt = self.segment.segment.salt;
        let compression = self.shared.options.compression;
        match group {
            [one] => entry::encode(&mut self.out, salt, &draft, &one.batch.body, compression),
            many => {
                self.body.clear();
                many.iter().for_each(|pending| self.body.extend_from_slice(&pending.batch.body));
                entry::encode(&mut self.out, salt, &draft, &self.body, compression);
            }
        }
        // A rare large batch must not hold on to its memory.
        self.body.shrink_to(GROUP_BYTES_MAX);
    }

    /// Goes on with a new segment when the present one would become too long.
    fn rotate(&mut self, bytes: u64) -> Result<(), JournalError> {
        let full = self.segment.segment.len + bytes > self.shared.options.segment_bytes;
        if !self.closed && (!full || self.segment.segment.first == self.end) {
            return Ok(());
        }
        if let Err(error) = self.segment.seal(self.end) {
            let _ = self.segment.reset(self.segment.durable_to);
            return Err(error);
        }
        self.closed = true;
        let next = self.segment.create_next(FORMAT, &self.shared.folder, self.end)?;
        let mut log = self.shared.log.write();
        if let Some(last) = log.segments.back() {
            last.set_len(self.segment.durable_to);
        }
        log.segments.push_back(Arc::new(ReadSegment::new(next.segment.clone())));
        self.segment = next;
        self.closed = false;
        Ok(())
    }
}
