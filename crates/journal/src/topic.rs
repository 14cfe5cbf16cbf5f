//! A topic partition: an append-only log of records with growing offsets, written by group commit.
//!
//! Invariants:
//! - Offsets have no gap: a batch's first offset is the end of the batch before it.
//! - A record is read by nobody before it is durable, and `done` is called with success only then.
//! - All records of one append are in one batch, which is there wholly or not at all.
//! - The queue holds at most `queue_bytes_max` bytes (or one append that is larger); beyond that appends are refused.
//!
//! Layout: segment files ([`crate::segment`]) named by the offset of their first record. An entry is a batch; its
//! number is the offset of its first record and its count the records in it. The body is one record after the other:
//! arrival (i64), length of key, headers and value (u32 each), then their bytes. A key length of `0xffff_ffff` means
//! no key, a headers length of `0xffff_ffff` the same headers as the record before.
//!
//! Write: appends are encoded by their callers and queued. One thread takes all that is queued (up to
//! [`BATCH_BYTES_MAX`]) as one batch, writes it with one checksum, syncs once, and tells the callers. When the write
//! or the sync fails, the segment is cut back to what was durable before, and the callers are told.
//!
//! Read: the segment's sparse index leads near the batch, headers from there to it. Batches are checked and decoded
//! to ranges into one buffer.
//!
//! Delete: [`Topic::release`] removes whole segments.
//!
//! Recover: see [`crate::segment`].

mod batch;
mod read;
mod write;

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::ThreadId;

use parking_lot::{Condvar, Mutex, RwLock};
use weir_environment::{Environment, Joined};

pub use self::batch::{BatchBuilder, Block, EncodedBatch, Record};
use self::read::ReadSegment;
use self::write::{Queue, Writer};
use crate::entry::SEAL;
use crate::segment::{self, Format, SegmentWriter, Sense};
use crate::{AppendError, Compression, JournalError};

/// The most bytes of records that one append may have, and that one batch has unless a single append is larger.
pub const BATCH_BYTES_MAX: usize = 256 << 20;

pub(crate) const FORMAT: Format = Format { magic: *b"WEIRTOPC", version: 1, suffix: "topic" };
/// Kind of an entry that holds records.
pub(crate) const BATCH: u8 = 1;

/// How a topic is kept.
#[derive(Debug, Clone)]
pub struct TopicOptions {
    /// A segment this long is followed by a new one.
    pub segment_bytes: u64,
    /// Appends are refused as [`AppendError::Behind`] when this much is queued.
    pub queue_bytes_max: usize,
    /// How batches are compressed.
    pub compression: Compression,
    /// Appends are refused as [`AppendError::DiskFull`] when less than this would be left on the disk.
    pub disk_reserve_bytes: u64,
}

impl Default for TopicOptions {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            queue_bytes_max: 64 << 20,
            compression: Compression::default(),
            disk_reserve_bytes: 64 << 20,
        }
    }
}

/// What is told when an append has come to its end: the offsets of its records, or why there are none. Called on
/// the writer's thread, so it must be quick.
pub type Done = Box<dyn FnOnce(Result<Range<u64>, AppendError>) + Send>;

/// An open topic partition. Closed when dropped.
pub struct Topic {
    shared: Arc<Shared>,
    writer: Mutex<Writing>,
}

/// Who writes what is queued.
enum Writing {
    /// A thread of the topic's own.
    Thread(Box<dyn Joined>),
    /// Whoever calls [`Topic::write_queued`].
    Caller(Box<Writer>),
    /// Nobody any more.
    Ended,
}

/// What callers, readers and the writer's thread have in common.
struct Shared {
    environment: Environment,
    folder: PathBuf,
    options: TopicOptions,
    queue: Mutex<Queue>,
    wake: Condvar,
    log: RwLock<Log>,
    listeners: RwLock<Vec<Listener>>,
    /// One release at a time.
    releasing: Mutex<()>,
    writer_thread: Mutex<Option<ThreadId>>,
}

type Listener = Box<dyn Fn(u64) + Send + Sync>;

/// What can be read.
struct Log {
    /// Never empty.
    segments: VecDeque<Arc<ReadSegment>>,
    durable_end: u64,
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Topic").field("folder", &self.shared.folder).finish_non_exhaustive()
    }
}

impl Topic {
    /// Opens the topic in `folder`, creating both when they are missing, and recovers it from a crash.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] when bytes that were durable are damaged (as far as the last segment and the ends of
    /// the others show it; [`Topic::verify`] reads all), [`JournalError::Refused`] for files of another version.
    pub fn open(
        environment: &Environment,
        folder: impl AsRef<Path>,
        options: TopicOptions,
    ) -> Result<Arc<Self>, JournalError> {
        let (shared, writer) = Self::recover(environment, folder.as_ref(), options)?;
        let thread = environment.spawn.spawn("weir-topic", Box::new(move || writer.run()));
        Ok(Arc::new(Self { shared, writer: Mutex::new(Writing::Thread(thread)) }))
    }

    /// As [`Topic::open`], but without a thread: what is queued waits for [`Topic::write_queued`]. For simulations, in
    /// which a seed decides when things happen.
    ///
    /// # Errors
    /// As [`Topic::open`].
    pub fn open_unattended(
        environment: &Environment,
        folder: impl AsRef<Path>,
        options: TopicOptions,
    ) -> Result<Arc<Self>, JournalError> {
        let (shared, writer) = Self::recover(environment, folder.as_ref(), options)?;
        Ok(Arc::new(Self { shared, writer: Mutex::new(Writing::Caller(Box::new(writer))) }))
    }

    /// Writes what is queued, in groups, on this thread, which must not be in a `done`. Nothing to do for a topic that
    /// has a thread.
    pub fn write_queued(&self) {
        if let Writing::Caller(writer) = &mut *self.writer.lock() {
            writer.write_queued();
        }
    }

    fn recover(
        environment: &Environment,
        folder: &Path,
        options: TopicOptions,
    ) -> Result<(Arc<Shared>, Writer), JournalError> {
        let folder = folder.to_path_buf();
        let mut segments = segment::open_all(environment, FORMAT, &folder)?;
        let (mut writer, end) = match segments.pop() {
            None => (SegmentWriter::create(environment, FORMAT, &folder, 0)?, 0),
            Some(last) => {
                let mut end = last.first;
                let writer = segment::recover(environment, last, |_, entry, _| match entry.kind {
                    SEAL if entry.number == end => Sense::Keep,
                    BATCH if entry.number == end && entry.count > 0 => {
                        end += u64::from(entry.count);
                        Sense::Keep
                    }
                    _ => Sense::Nonsense,
                })?;
                (writer, end)
            }
        };
        writer.note_durable(end);
        let mut readable: VecDeque<_> = segments.into_iter().map(|s| Arc::new(ReadSegment::new(s))).collect();
        readable.push_back(Arc::new(ReadSegment::new(writer.segment.clone())));
        let shared = Arc::new(Shared {
            environment: environment.clone(),
            folder,
            options,
            queue: Mutex::new(Queue::default()),
            wake: Condvar::new(),
            log: RwLock::new(Log { segments: readable, durable_end: end }),
            listeners: RwLock::new(Vec::new()),
            releasing: Mutex::new(()),
            writer_thread: Mutex::new(None),
        });
        let writer = Writer::new(shared.clone(), writer, end);
        Ok((shared, writer))
    }

    /// Appends records as one batch or part of one. `done` is told when they are durable, or why they are not; at
    /// once, on this thread, when they are refused.
    pub fn append(&self, records: Vec<Record>, done: Done) {
        self.append_encoded(EncodedBatch::from(records.as_slice()), done);
    }

    /// As [`Topic::append`], of records that are encoded already.
    pub fn append_encoded(&self, batch: EncodedBatch, done: Done) {
        if let Err((error, done)) = self.shared.enqueue(batch, done) {
            done(Err(error));
        }
    }

    /// Appends and waits until the records are durable. Must not be called from a `done`.
    ///
    /// # Errors
    /// See [`AppendError`].
    pub fn append_blocking(&self, records: &[Record]) -> Result<Range<u64>, AppendError> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        self.append_encoded(
            EncodedBatch::from(records),
            Box::new(move |outcome| {
                // The receiver waits below; if it is gone, nobody wants to know.
                let _ = sender.send(outcome);
            }),
        );
        receiver.recv().unwrap_or(Err(AppendError::Closed))
    }

    /// Which log this is: the same as long as the folder's records are those that were appended here, another one when
    /// somebody put other files in its place. None when it was begun before that was noted.
    pub fn identity(&self) -> Option<u32> {
        self.shared.log.read().segments.back().and_then(|segment| segment.log())
    }

    /// The offset of the oldest record kept.
    pub fn begin(&self) -> u64 {
        self.shared.log.read().segments.front().map_or(0, |segment| segment.first())
    }

    /// The offset behind the last durable record.
    pub fn durable_end(&self) -> u64 {
        self.shared.log.read().durable_end
    }

    /// Durable records from offset `from` on: about `bytes_max` bytes of them, but at least one batch when there is
    /// one, and none beyond the end of a segment. Empty at [`Topic::durable_end`].
    ///
    /// # Errors
    /// [`JournalError::OutOfRange`] before [`Topic::begin`] or beyond the end, [`JournalError::Corrupt`].
    pub fn read(&self, from: u64, bytes_max: usize) -> Result<Block, JournalError> {
        match self.shared.read(from, bytes_max) {
            // Released since it was looked up.
            Err(JournalError::Retry { .. }) if from < self.begin() => {
                let (path, begin, end) = (self.shared.folder.clone(), self.begin(), self.durable_end());
                Err(JournalError::OutOfRange { path, from, begin, end })
            }
            other => other,
        }
    }

    /// Reads everything and checks it; returns how many records there are.
    ///
    /// # Errors
    /// [`JournalError::Corrupt`] names the first damage.
    pub fn verify(&self) -> Result<u64, JournalError> {
        let (begin, end) = (self.begin(), self.durable_end());
        let mut at = begin;
        while at < end {
            at = self.read(at, 8 << 20)?.next_offset();
        }
        Ok(at - begin)
    }

    /// Removes the segments that hold only records before `before`, which nobody will ask for any more.
    ///
    /// # Errors
    /// [`JournalError::Retry`]; what was removed before stays removed.
    pub fn release(&self, before: u64) -> Result<(), JournalError> {
        let _one = self.shared.releasing.lock();
        loop {
            let oldest = {
                let log = self.shared.log.read();
                match (log.segments.front(), log.segments.get(1)) {
                    (Some(oldest), Some(next)) if next.first() <= before => oldest.clone(),
                    _ => return Ok(()),
                }
            };
            segment::remove(&*self.shared.environment.storage, &self.shared.folder, oldest.path())?;
            self.shared.log.write().segments.pop_front();
        }
    }

    /// Bytes of all segments.
    pub fn bytes_on_disk(&self) -> u64 {
        self.shared.log.read().segments.iter().map(|segment| segment.len()).sum()
    }

    /// Calls `listener` with the new [`Topic::durable_end`] whenever it grows, on the writer's thread.
    pub fn on_durable(&self, listener: Box<dyn Fn(u64) + Send + Sync>) {
        self.shared.listeners.write().push(listener);
    }

    /// Writes what is queued, then stops. Later appends are refused; reading goes on.
    pub fn close(&self) {
        self.shared.queue.lock().closed = true;
        self.shared.wake.notify_all();
        let own_thread = *self.shared.writer_thread.lock() == Some(std::thread::current().id());
        let writing = std::mem::replace(&mut *self.writer.lock(), Writing::Ended);
        match writing {
            Writing::Thread(thread) if !own_thread => {
                if !thread.join() {
                    tracing::error!(folder = %self.shared.folder.display(), "the topic's writer panicked");
                }
            }
            Writing::Caller(mut writer) => {
                writer.write_queued();
                writer.end();
            }
            Writing::Thread(_) | Writing::Ended => {}
        }
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        self.close();
    }
}
