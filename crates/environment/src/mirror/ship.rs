//! The threads that bring operations to the mirror, one a lane, and those who wait for them.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::operation::{Lane, Operation, Queue, Step, Waiting};
use super::target::{InMemory, files_below};
use super::{MirrorMode, Shared, State};

/// Longest time for the mirror to take what somebody waits for.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time that the end of a process waits for an operation that does not end.
const STANDSTILL_MAX: Duration = Duration::from_secs(30);
/// Longest time that a writer is held up before it is told that the mirror is too far behind.
const ADMISSION_PATIENCE: Duration = Duration::from_millis(500);
const RETRY_AFTER_MIN: Duration = Duration::from_millis(50);
const RETRY_AFTER_MAX: Duration = Duration::from_secs(2);

impl State {
    pub(super) fn queue(&mut self, lane: Lane) -> &mut Queue {
        &mut self.queues[lane as usize]
    }

    /// How long the oldest operation of the log's lane has waited.
    pub(super) fn lag(&self, now: Duration) -> Duration {
        let oldest = self.queues[Lane::Log as usize].waiting.front();
        oldest.map_or(Duration::ZERO, |waiting| now.saturating_sub(waiting.since))
    }
}

impl Shared {
    fn now(&self) -> Duration {
        self.environment.clock.elapsed()
    }

    fn error(&self, what: &str) -> io::Error {
        io::Error::other(format!("the mirror {} {what}", self.target.place()))
    }

    /// Queues an operation; returns its number in its lane.
    pub(super) fn push(&self, lane: Lane, operation: Operation) -> u64 {
        let mut state = self.state.lock();
        let after = state.queue(Lane::Log).queued;
        let since = self.now();
        let queue = state.queue(lane);
        queue.queued += 1;
        queue.bytes += operation.bytes();
        let step = Arc::new(Step { operation, done: AtomicBool::new(false) });
        queue.waiting.push_back(Waiting { step, since, after });
        let number = queue.queued;
        drop(state);
        self.changed.notify_all();
        number
    }

    /// Lets a writer go on that others wait for, or says why it must not: the mirror fails, or is too far behind.
    pub(super) fn admit(&self) -> io::Result<()> {
        let mut state = self.state.lock();
        let until = self.now() + ADMISSION_PATIENCE;
        loop {
            let lag = state.lag(self.now());
            let queue = state.queue(Lane::Log);
            let why = match self.settings.mode {
                MirrorMode::Sync => match &queue.failure {
                    Some(failure) => Some(format!("cannot be written: {failure}")),
                    None if lag > PATIENCE => Some(format!("has not answered for {} s", lag.as_secs())),
                    None => return Ok(()),
                },
                MirrorMode::Async => {
                    let far = lag > self.settings.lag_max || queue.bytes > self.settings.lag_bytes_max;
                    let reason = queue.failure.as_deref().unwrap_or("it is slower than what comes in");
                    let behind =
                        format!("is {} s and {} bytes behind, the most allowed: {reason}", lag.as_secs(), queue.bytes);
                    far.then_some(behind)
                }
            };
            let Some(why) = why else { return Ok(()) };
            let patience = until.saturating_sub(self.now());
            if patience.is_zero() || state.hurried || self.settings.mode == MirrorMode::Sync {
                return Err(self.error(&why));
            }
            self.changed.wait_for(&mut state, patience);
        }
    }

    /// Waits until an operation of the log's lane is durable in the mirror, where that is part of being durable.
    pub(super) fn wait_for_acknowledged(&self, number: u64) -> io::Result<()> {
        if self.settings.mode == MirrorMode::Async {
            return Ok(());
        }
        let start = self.now();
        let mut state = self.state.lock();
        while state.queue(Lane::Log).shipped < number {
            if let Some(failure) = &state.queue(Lane::Log).failure {
                return Err(self.error(&format!("cannot be written: {failure}")));
            }
            let waited = self.now().saturating_sub(start);
            if waited >= PATIENCE || state.ended {
                return Err(self.error("does not answer"));
            }
            self.changed.wait_for(&mut state, PATIENCE - waited);
        }
        Ok(())
    }

    /// Waits until everything that is queued now is in the mirror. False when the mirror fails, or hangs, while nobody wants
    /// to wait any more.
    pub(super) fn settle(&self) -> bool {
        let mut state = self.state.lock();
        let wanted = Lane::ALL.map(|lane| state.queue(lane).queued);
        let (mut moved, mut moved_at) = (0, self.now());
        while Lane::ALL.iter().any(|lane| state.queue(*lane).shipped < wanted[*lane as usize]) {
            let failing = Lane::ALL.iter().any(|lane| state.queue(*lane).failure.is_some());
            let shipped: u64 = Lane::ALL.iter().map(|lane| state.queue(*lane).shipped).sum();
            if shipped > moved || !state.hurried {
                (moved, moved_at) = (shipped, self.now());
            }
            let hangs = self.now().saturating_sub(moved_at) > STANDSTILL_MAX;
            if state.ended || (state.hurried && (failing || hangs)) {
                return false;
            }
            self.changed.wait_for(&mut state, RETRY_AFTER_MAX);
        }
        true
    }

    /// The lane's thread.
    pub(super) fn ship(&self, lane: Lane) {
        let mut retry_after = RETRY_AFTER_MIN;
        while let Some(batch) = self.next(lane) {
            let outcome = self.perform(&batch);
            let mut state = self.state.lock();
            match outcome {
                Ok(()) => {
                    retry_after = RETRY_AFTER_MIN;
                    state.queue(lane).done(batch.len());
                    drop(state);
                    self.changed.notify_all();
                }
                Err(error) => {
                    state.queue(lane).failure = Some(error.to_string());
                    self.changed.notify_all();
                    self.retry.wait_for(&mut state, retry_after);
                    retry_after = (retry_after * 2).min(RETRY_AFTER_MAX);
                }
            }
        }
    }

    /// Waits for the lane's next operations; None at the end.
    fn next(&self, lane: Lane) -> Option<Vec<Arc<Step>>> {
        let mut state = self.state.lock();
        loop {
            if state.ended {
                return None;
            }
            let shipped = state.queue(Lane::Log).shipped;
            let queue = state.queue(lane);
            let may = queue.waiting.front().is_some_and(|first| lane == Lane::Log || first.after <= shipped);
            if may {
                return Some(queue.batch());
            }
            self.changed.wait(&mut state);
        }
    }

    /// Does a batch. What grows is made durable file by file, in the order of the roots, and within a file wherever it was
    /// here: were the mirror's machine to stop now, no file would be ahead of one that it relies on, and no bytes would be
    /// there that say more is durable than is.
    fn perform(&self, batch: &[Arc<Step>]) -> io::Result<()> {
        if let [step] = batch
            && !step.operation.joins()
        {
            return match &step.operation {
                Operation::Folder(folder) => self.ship_folder(*folder),
                other => other.perform(&*self.target),
            };
        }
        let mut steps: Vec<&Arc<Step>> = batch.iter().filter(|step| !step.done.load(Ordering::Relaxed)).collect();
        // Within a folder the order stays: its files follow each other.
        steps.sort_by_key(|step| step.operation.grown().map(|name| self.rank(name)));
        for file in steps.chunk_by(|a, b| a.operation.grown() == b.operation.grown()) {
            let is_sync = |step: &&Arc<Step>| matches!(step.operation, Operation::Sync { .. });
            for part in file.split_inclusive(is_sync) {
                part.iter().try_for_each(|step| step.operation.perform(&*self.target))?;
                if !part.last().is_some_and(is_sync) {
                    self.target.flush()?;
                }
                part.iter().for_each(|step| step.done.store(true, Ordering::Relaxed));
            }
        }
        Ok(())
    }

    /// The place of a file's folder among the others.
    fn rank<'a>(&self, name: &'a str) -> (usize, &'a str) {
        let root = self.roots.iter().position(|root| name.split('/').next() == Some(root.name));
        (root.unwrap_or(self.roots.len()), name.rsplit_once('/').map_or("", |(folder, _)| folder))
    }

    /// Brings a settled folder to the mirror. What the folder has now was written after everything that the log's lane has
    /// now was queued, so the mirror takes that first.
    fn ship_folder(&self, folder: usize) -> io::Result<()> {
        let root = &self.roots[folder];
        let listed = files_below(&*self.storage, &root.folder)?;
        let mut files: Vec<_> =
            listed.iter().filter_map(|(name, len)| Some(((root.order)(name)?, name, *len))).collect();
        files.sort();
        // What may change is read before anything else can happen to it.
        let mut contents = Vec::with_capacity(files.len());
        for (place, name, _) in &files {
            contents.push(match place.changes {
                true => match self.storage.read(&root.folder.join(name)) {
                    Ok(bytes) => Some(bytes),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => None,
                    Err(error) => return Err(error),
                },
                false => None,
            });
        }
        let after = self.state.lock().queue(Lane::Log).queued;
        self.wait_for_log(after)?;
        let mut known = root.known.lock();
        for ((place, name, len), bytes) in files.iter().zip(contents) {
            let remote = format!("{}/{name}", root.name);
            match bytes {
                Some(bytes) => {
                    let content = InMemory(bytes.into());
                    let len = content.0.len() as u64;
                    if known.get(*name) != Some(&content.0) {
                        self.target.put(&remote, &content, len)?;
                        known.insert((*name).clone(), content.0);
                    }
                }
                None if place.changes || known.contains_key(*name) => {}
                None => {
                    let content = match self.storage.open_read(&root.folder.join(name)) {
                        Ok(content) => content,
                        // Removed since it was listed: nothing that is listed needs it.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                        Err(error) => return Err(error),
                    };
                    self.target.put(&remote, &*content, *len)?;
                    known.insert((*name).clone(), Arc::from([]));
                }
            }
        }
        let present: HashSet<&String> = files.iter().map(|(_, name, _)| *name).collect();
        let gone: Vec<String> = known.keys().filter(|name| !present.contains(name)).cloned().collect();
        for name in gone {
            self.target.remove(&format!("{}/{name}", root.name))?;
            known.remove(&name);
        }
        Ok(())
    }

    fn wait_for_log(&self, number: u64) -> io::Result<()> {
        let mut state = self.state.lock();
        while state.queue(Lane::Log).shipped < number {
            if state.ended {
                return Err(self.error("is closed"));
            }
            self.changed.wait(&mut state);
        }
        Ok(())
    }
}
