//! The steps of a run: what clients, the loop, its chores, sinks and readers do.

use std::path::Path;

use rand::Rng;
use weir_incremental::batch::BatchLimits;
use weir_pipeline::EpochNumber;
use weir_pipeline::core::{CommitError, EpochInput};
use weir_pipeline::feed::Step as Fed;
use weir_pipeline::input::InputError;
use weir_pipeline::prepare::prepare_poll;
use weir_pipeline::recompute::recompute;

use crate::bugs::Bug;
use crate::checks;
use crate::lake::LandingFault;
use crate::process::{Process, Trouble, facts_of, facts_with, failed};
use crate::project::{FOLDER, SITE};
use crate::world::{Ending, Rot, World};

/// Times that an epoch's commit is tried while the disk fails.
const COMMITS_MAX: usize = 4;
/// Records that are read ahead at most, before another poll.
const AHEAD_MAX: usize = 120;
/// Steps after which a rotten byte that nobody has found is put back.
const ROT_AGE_MAX: usize = 25;
/// Readers that hold an epoch at most.
const PINNED_MAX: usize = 3;

impl World {
    /// One step of whoever the seed draws.
    pub(crate) async fn step(&mut self, number: usize) -> Result<(), String> {
        self.mark();
        let pace = self.manners.pace.as_micros() as i64;
        let took = self.random.random_range(0..=pace);
        self.clients += took;
        self.simulator.advance(std::time::Duration::from_micros(took as u64));
        if self.rot.as_mut().is_some_and(|rot| {
            rot.age += 1;
            rot.age > ROT_AGE_MAX
        }) {
            self.heal(false);
        }
        let Some(mut process) = self.process.take() else { return Err("there is no process".into()) };
        let drawn = self.random.random_range(0..100);
        self.trace.note(format_args!("step {number}: {drawn} at operation {}", self.simulator.operations()));
        let outcome = match drawn {
            0..22 => {
                self.submit(&process);
                self.hear()
            }
            22..38 => self.write(&process),
            38..50 => self.poll(&mut process).await,
            50..69 => self.epoch(&mut process).await,
            69..74 => self.land(&process).await,
            74..78 => self.checkpoint(&mut process).await,
            78..86 => self.feed(&mut process).await,
            86..89 => self.pin(&mut process),
            89..92 => self.read(&mut process).await,
            92..95 => self.maintain(&process).await,
            95..97 => self.recompute(&mut process).await,
            97..99 => {
                self.put_file();
                Ok(())
            }
            _ => {
                self.process = Some(process);
                return self.stop().await;
            }
        };
        self.process = Some(process);
        self.judge(outcome).await
    }

    /// The log's writer writes what is queued, and clients hear of it.
    fn write(&mut self, process: &Process) -> Result<(), Trouble> {
        process.topic.write_queued();
        self.hear()?;
        let (end, logged) = (process.topic.durable_end(), self.oracle.logged() as u64);
        if end == logged || self.simulator.is_down() || self.bug == Some(Bug::AcknowledgedBeforeSync) {
            Ok(())
        } else {
            Err(Trouble::Violation(format!("the log ends at {end}, and {logged} records were acknowledged or seen")))
        }
    }

    /// One input is read ahead.
    async fn poll(&mut self, process: &mut Process) -> Result<(), Trouble> {
        if process.intake.rows() > AHEAD_MAX {
            return Ok(());
        }
        let bytes = &self.manners.poll_bytes;
        let bytes_max = bytes[self.random.random_range(0..bytes.len())];
        let number = self.random.random_range(0..process.inputs.len());
        self.poll_input(process, number, bytes_max).await.map(|_| ())
    }

    /// Whether there was something.
    async fn poll_input(&mut self, process: &mut Process, number: usize, bytes_max: usize) -> Result<bool, Trouble> {
        let (name, reading) = &mut process.inputs[number];
        let polled = match reading.input.poll(&reading.cursor, bytes_max).await {
            Ok(polled) => polled,
            Err(InputError::Retry(message)) => {
                let message = format!("reading `{name}`: {message}");
                self.trace.note(format_args!("{message}"));
                // It is asked again; but what is damaged stays so.
                return if self.rot.is_none() && self.excuses(&message) {
                    Ok(true)
                } else {
                    Err(Trouble::Failed(message))
                };
            }
            Err(InputError::Stopped(message)) => return Err(Trouble::Failed(format!("`{name}` stopped: {message}"))),
        };
        if polled.chunks.is_empty() && polled.cursor == reading.cursor {
            return Ok(false);
        }
        reading.cursor = polled.cursor.clone();
        let poll = prepare_poll(&reading.readers, polled);
        let records: usize = poll.chunks.iter().map(|chunk| chunk.len()).sum();
        self.trace.note(format_args!("`{name}`: {records} records up to {}", reading.cursor.0));
        process.intake.push(number, poll);
        Ok(true)
    }

    /// An epoch of what was read ahead; of nothing, when only the clock moves.
    async fn epoch(&mut self, process: &mut Process) -> Result<(), Trouble> {
        if process.core.needs_checkpoint() {
            self.checkpoint(process).await?;
        }
        let rows_max = self.random.random_range(1..=self.manners.epoch_rows_max);
        let due = process.core.next_due().is_some_and(|due| due <= self.environment.clock.now());
        if process.intake.is_empty() && process.recomputed.is_empty() && !due && self.random.random_ratio(3, 4) {
            return Ok(());
        }
        let parts = process.intake.gather(rows_max);
        let recomputed = std::mem::take(&mut process.recomputed);
        let last = self.oracle.facts(self.oracle.epoch());
        let Some(facts) = facts_with(last, &parts, &recomputed, &self.oracle) else {
            return Err(Trouble::Violation("an epoch is to go on from a cursor that cannot be read".into()));
        };
        let input = EpochInput { parts, recomputed, ..EpochInput::default() };
        let mut pending = process.core.prepare_epoch(input).map_err(failed("computing an epoch"))?;
        for attempt in 1.. {
            self.oracle.commits(facts);
            match process.core.commit(&mut pending) {
                Ok(_) => break,
                Err(CommitError::Fatal(error)) => return Err(Trouble::Failed(format!("committing: {error}"))),
                Err(CommitError::Again(error)) => {
                    let message = format!("committing: {error}");
                    self.trace.note(format_args!("{message}"));
                    if attempt == COMMITS_MAX || !self.excuses(&message) {
                        return Err(Trouble::Failed(message));
                    }
                    if self.random.random_ratio(1, 3) {
                        self.mend();
                    }
                }
            }
        }
        let epoch = process.core.epoch();
        let Some(facts) = facts_of(&process.core, &self.oracle).filter(|found| {
            let expected = crate::oracle::Facts { clock: found.clock, ..facts };
            *found == expected
        }) else {
            return Err(Trouble::Violation(format!("epoch {epoch} is not where its parts end: {facts:?}")));
        };
        self.oracle.committed(epoch, facts).map_err(Trouble::Violation)?;
        let totals = process.core.contents().totals();
        let checksum = totals.values().fold(0_u128, |sum, total| sum.wrapping_mul(31).wrapping_add(total.checksum));
        self.trace.note(format_args!("epoch {epoch}: {facts:?}, contents {checksum:032x}"));
        let snapshot = process.core.contents().pin();
        checks::totals(&process.core, &snapshot, &self.oracle.expected(epoch))
    }

    /// The lake gets what it does not have; whether it has all.
    async fn try_land(&mut self, process: &Process) -> Result<bool, Trouble> {
        let contents = process.core.contents();
        let Some((epoch, landings)) = contents.to_land().map_err(failed("preparing a landing"))? else {
            return Ok(true);
        };
        match contents.history().land(epoch, landings).await {
            Ok(()) => {
                contents.landed(epoch);
                self.trace.note(format_args!("landed up to epoch {epoch}"));
                Ok(true)
            }
            Err(error) => {
                self.trace.note(format_args!("landing epoch {epoch}: {error}"));
                self.outside_failed = true;
                Ok(false)
            }
        }
    }

    async fn land(&mut self, process: &Process) -> Result<(), Trouble> {
        self.try_land(process).await.map(|_| ())
    }

    /// A landing that comes next ends in the middle.
    pub(crate) fn break_landing(&mut self) {
        let fault = match self.random.random_range(0..4) {
            0 => LandingFault::Unanswered,
            1 => LandingFault::AfterTables(usize::MAX),
            _ => LandingFault::AfterTables(self.random.random_range(0..8)),
        };
        self.lake.end_next(Some(fault));
        let answered = fault != LandingFault::Unanswered;
        self.figures.count(if answered { "landing cut short" } else { "landing's answer lost" });
    }

    /// A checkpoint is taken, or the one that was taken is written, beside whatever happens between.
    async fn checkpoint(&mut self, process: &mut Process) -> Result<(), Trouble> {
        let Some(pending) = &mut process.checkpoint else {
            process.checkpoint = process.core.take_checkpoint();
            if let Some(pending) = &process.checkpoint {
                let epoch = pending.epoch;
                self.trace.note(format_args!("a checkpoint of epoch {epoch} is taken"));
                if self.bug == Some(Bug::JournalFreedTooEarly) {
                    process.core.release(epoch).map_err(failed("freeing"))?;
                }
            }
            return Ok(());
        };
        // The tails up to the checkpoint's epoch must be in the lake before recovery may start from it.
        if process.core.contents().landed_epoch() < pending.epoch && self.bug != Some(Bug::CheckpointBeforeLanding) {
            let landed = self.try_land(process).await?;
            if !landed {
                if self.manners.kinds.contains(&crate::manners::Kind::Crash) && self.random.random() {
                    self.crash_next = true;
                }
                return Ok(());
            }
        }
        let Some(mut pending) = process.checkpoint.take() else { return Ok(()) };
        let epoch = pending.epoch;
        if let Err(error) = pending.write(&process.store) {
            let message = format!("writing a checkpoint: {error}");
            self.trace.note(format_args!("{message}"));
            process.checkpoint = Some(pending);
            return if self.excuses(&message) && self.rot.is_none() { Ok(()) } else { Err(Trouble::Failed(message)) };
        }
        self.trace.note(format_args!("the checkpoint of epoch {epoch} is written"));
        self.figures.count("checkpoint");
        process.core.release(epoch).map_err(failed("freeing the journal"))?;
        for (name, reading) in &process.inputs {
            let position = pending.inputs().get(name).map(|position| &position.cursor);
            let position =
                if self.bug == Some(Bug::LogFreedTooFar) && name == SITE { Some(&reading.cursor) } else { position };
            if let Some(position) = position
                && let Err(error) = reading.input.release(position).await
            {
                // Space that could not be freed is freed with the next checkpoint.
                let message = format!("freeing the log: {error}");
                self.trace.note(format_args!("{message}"));
                if !self.excuses(&message) {
                    return Err(Trouble::Failed(message));
                }
            }
        }
        Ok(())
    }

    /// A sink is brought to the newest epoch.
    async fn feed(&mut self, process: &mut Process) -> Result<(), Trouble> {
        let number = self.random.random_range(0..process.feeders.len());
        self.feed_sink(process, number).await.map(|_| ())
    }

    async fn feed_sink(&mut self, process: &mut Process, number: usize) -> Result<Fed, Trouble> {
        let faulty = self.sinks[number].destination.lock().fault.is_some();
        let (feeder, status) = &mut process.feeders[number];
        let step = feeder.advance().await;
        let name = self.sinks[number].relation;
        self.trace.note(format_args!("sink of `{name}`: {step:?}, {:?}", self.sinks[number].destination.lock().epoch));
        if let Fed::Failed { refused } = step {
            let message = format!("the sink of `{name}`: {}", status.lock().failure.clone().unwrap_or_default());
            if refused || !faulty {
                return Err(Trouble::Failed(message));
            }
        }
        self.figures.fed += u64::from(step == Fed::Forward);
        self.check_sinks()?;
        Ok(step)
    }

    /// A reader pins the epoch.
    fn pin(&mut self, process: &mut Process) -> Result<(), Trouble> {
        if process.pinned.len() < PINNED_MAX {
            process.pinned.push(process.core.contents().pin());
        }
        Ok(())
    }

    /// A reader reads what it has pinned, perhaps long ago.
    async fn read(&mut self, process: &mut Process) -> Result<(), Trouble> {
        if process.pinned.is_empty() {
            return Ok(());
        }
        let snapshot = process.pinned.swap_remove(self.random.random_range(0..process.pinned.len()));
        let expected = self.oracle.expected(snapshot.epoch);
        let mut names = checks::names(&snapshot);
        while names.len() > 5 {
            names.remove(self.random.random_range(0..names.len()));
        }
        self.trace.note(format_args!("a reader of epoch {} reads {names:?}", snapshot.epoch));
        for (index, name) in names.iter().enumerate() {
            let another =
                (self.bug == Some(Bug::ReaderMixesEpochs) && index > 0).then(|| process.core.contents().pin());
            checks::relation(another.as_ref().unwrap_or(&snapshot), name, &expected, self.random.random()).await?;
            self.figures.relations_checked += 1;
        }
        self.figures.count("pinned reader");
        Ok(())
    }

    /// Upkeep of the lake.
    async fn maintain(&mut self, process: &Process) -> Result<(), Trouble> {
        let contents = process.core.contents();
        let cursors = process.feeders.iter().filter_map(|(_, status)| status.lock().cursor).min();
        let mut horizon = contents.oldest_pin().min(cursors.unwrap_or(EpochNumber::MAX));
        if self.bug == Some(Bug::MergedUnderReader) {
            horizon = contents.landed_epoch();
        }
        self.trace.note(format_args!("the lake merges up to epoch {horizon}"));
        self.figures.count("lake merged");
        contents.history().maintain(horizon).await.map_err(failed("upkeep of the lake"))
    }

    /// A model is recomputed: begun in one step, ended in a later one, in the epoch after that.
    async fn recompute(&mut self, process: &mut Process) -> Result<(), Trouble> {
        if !process.recomputed.is_empty() {
            return Ok(());
        }
        let spec = process.core.spec().clone();
        let Some(model) = spec.recomputed().next() else { return Ok(()) };
        let Some(snapshot) = process.recomputing.take() else {
            process.recomputing = Some(process.core.contents().pin());
            return Ok(());
        };
        let found = recompute(&snapshot, &model.plan, snapshot.clock, BatchLimits::default()).await;
        let found = found.map_err(failed("recomputing"))?;
        self.trace.note(format_args!("recomputed over epoch {}", snapshot.epoch));
        self.figures.count("recomputation");
        process.recomputed.push(found);
        Ok(())
    }

    /// A clean stop: everything to the lake and into a checkpoint; then the next start.
    async fn stop(&mut self) -> Result<(), String> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        self.trace.note(format_args!("it stops"));
        let mut outcome = Ok(());
        // The checkpoint under way, another of what came since, and their taking.
        for _ in 0..4 {
            if outcome.is_ok() {
                outcome = self.checkpoint(&mut process).await;
            }
        }
        process.topic.close();
        let outcome = outcome.and_then(|()| self.hear());
        self.process = Some(process);
        self.judge(outcome).await?;
        self.figures.count("clean stop");
        self.restart(Ending::Kill).await
    }

    /// Inverts a bit of a file of ours.
    pub(crate) fn rot_a_file(&mut self) {
        if self.rot.is_some() {
            return;
        }
        let ours = |path: &Path| path.starts_with(FOLDER);
        let files: Vec<_> = self.simulator.files().into_iter().filter(|(path, len)| ours(path) && *len > 0).collect();
        if files.is_empty() {
            return;
        }
        let (path, len) = files[self.random.random_range(0..files.len())].clone();
        let (position, mask) = (self.random.random_range(0..len), 1 << self.random.random_range(0..8));
        self.trace.note(format_args!("{} rots at {position} of {len}", path.display()));
        self.simulator.flip(&path, position, mask);
        let mut rotten = self.simulator.environment().storage.read(&path).unwrap_or_default();
        let position = position as usize;
        rotten.truncate(position + 64);
        self.rot = Some(Rot { path, position, mask, rotten, age: 0 });
    }

    /// Everything that was sent is written, read, made epochs of, landed, checkpointed and fed to the sinks.
    pub(crate) async fn drain(&mut self) -> Result<(), Trouble> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        let drained = self.drain_process(&mut process).await;
        self.process = Some(process);
        drained
    }

    async fn drain_process(&mut self, process: &mut Process) -> Result<(), Trouble> {
        self.write(process)?;
        for number in 0..process.inputs.len() {
            while self.poll_input(process, number, 1 << 20).await? {}
        }
        while !process.intake.is_empty() {
            self.epoch(process).await?;
        }
        self.epoch(process).await?;
        let facts = self.oracle.facts(self.oracle.epoch());
        if (facts.records, facts.lines) != (self.oracle.logged(), self.oracle.lines()) {
            return Err(Trouble::Violation(format!("not all is taken in at the end: {facts:?}")));
        }
        for number in 0..process.feeders.len() {
            while self.feed_sink(process, number).await? == Fed::Forward {}
        }
        for _ in 0..2 {
            self.checkpoint(process).await?;
        }
        while let Some(snapshot) = process.pinned.pop() {
            let expected = self.oracle.expected(snapshot.epoch);
            for name in checks::names(&snapshot) {
                checks::relation(&snapshot, &name, &expected, self.random.random_ratio(2, 3)).await?;
            }
        }
        Ok(())
    }
}
