//! One run: a world drawn from a seed, its steps in the order that the seed draws, and a check after each that matters.
//!
//! Everything happens on one thread, one step after the other. Between any two disk operations the machine may go down;
//! between any two steps the process may be killed, the clock jump, a file rot.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_connectors::sources::beacon::{EventLog, Refused, Submission};
use weir_environment::{Environment, Fault, Micros, Simulator};
use weir_pipeline::spec::PipelineSpec;
use weir_schemas::Records;

use crate::bugs::{Bug, BuggyStorage};
use crate::checks;
use crate::events::{Sent, Writer};
use crate::figures::Figures;
use crate::lake::SimulatedLake;
use crate::manners::{Kind, Manners};
use crate::oracle::{Expected, Oracle};
use crate::process::{Following, Outside, Process, Trouble, facts_of};
use crate::project::{self, FOLLOWED, SHELF_FOLDER};
use crate::shelf::file_name;
use crate::sink::{Destination, SinkFault};
use crate::trace::Trace;

/// Starts that may fail for an injected reason before all faults are taken back.
const STARTS_MAX: usize = 6;

/// What came of a submission: its number, and the offsets or the reason.
type Answers = Arc<Mutex<Vec<(usize, Result<Range<u64>, Refused>)>>>;

/// A byte of a file that is not what was written.
#[derive(Debug, Clone)]
pub(crate) struct Rot {
    pub(crate) path: PathBuf,
    pub(crate) position: usize,
    pub(crate) mask: u8,
    /// The file up to a little behind the byte, as it is since.
    pub(crate) rotten: Vec<u8>,
    /// Steps since.
    pub(crate) age: usize,
}

/// How the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The machine crashes: what was not synced may be gone.
    Crash,
    /// The process is killed: what was written stays.
    Kill,
}

/// A run under way.
pub(crate) struct World {
    pub(crate) random: StdRng,
    pub(crate) manners: Manners,
    pub(crate) simulator: Simulator,
    pub(crate) environment: Environment,
    pub(crate) buggy: Option<Arc<BuggyStorage>>,
    pub(crate) bug: Option<Bug>,
    pub(crate) spec: Arc<PipelineSpec>,
    pub(crate) lake: Arc<SimulatedLake>,
    pub(crate) sinks: Vec<Following>,
    pub(crate) oracle: Oracle,
    pub(crate) writer: Writer,
    pub(crate) trace: Trace,
    pub(crate) figures: Figures,
    pub(crate) answers: Answers,
    pub(crate) rot: Option<Rot>,
    /// Whether something outside the disk has failed in this step.
    pub(crate) outside_failed: bool,
    /// The machine is to crash after this step.
    pub(crate) crash_next: bool,
    /// Faults of the disk before this step.
    pub(crate) faults_before: u64,
    /// The clients' clock.
    pub(crate) clients: Micros,
    pub(crate) process: Option<Process>,
}

impl World {
    pub(crate) fn new(seed: u64, bug: Option<Bug>) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let manners = Manners::draw(&mut random);
        let (environment, simulator) = Environment::simulated(seed);
        simulator.plant(&PathBuf::from(SHELF_FOLDER).join(".keep"), b"");
        let spec = project::compiled(manners.choice);
        let can_fail = spec.models.iter().any(|model| model.plan.name.as_ref() == project::PER_PRICE);
        let held = manners.held && spec.checks().next().is_some();
        let sinks = FOLLOWED.map(|relation| Following {
            relation,
            destination: Arc::new(Mutex::new(Destination::new(bug))),
            held: held && relation == project::REVENUE,
        });
        let clients = environment.clock.now();
        Self {
            random,
            manners,
            simulator,
            environment,
            buggy: None,
            bug,
            spec,
            lake: Arc::new(SimulatedLake::new(bug)),
            sinks: sinks.into(),
            oracle: Oracle::new(can_fail),
            writer: Writer::default(),
            trace: Trace::default(),
            figures: Figures::default(),
            answers: Answers::default(),
            rot: None,
            outside_failed: false,
            crash_next: false,
            faults_before: 0,
            clients,
            process: None,
        }
    }

    /// Runs to the end; the error says which promise was broken.
    pub(crate) async fn run(&mut self) -> Result<(), String> {
        self.trace.note(format_args!("{:?}", self.manners));
        let outcome = match self.start().await {
            Ok(()) => self.steps().await,
            Err(violation) => Err(violation),
        };
        for (fault, count) in self.simulator.faults() {
            *self.figures.faults.entry(fault.to_string()).or_default() += count;
        }
        self.figures.runs += 1;
        self.figures.epochs += self.oracle.epoch();
        // The machine goes before the process, so that nothing is written in its last moment.
        self.simulator.kill();
        self.process = None;
        outcome
    }

    async fn steps(&mut self) -> Result<(), String> {
        for number in 0..self.manners.steps {
            if self.random.random_ratio(1, self.manners.fault_every) {
                self.draw_fault().await?;
            }
            self.step(number).await?;
            self.figures.steps += 1;
        }
        self.settle().await
    }

    /// All faults end, everything that was sent is taken in, and everything is checked.
    async fn settle(&mut self) -> Result<(), String> {
        self.trace.note(format_args!("everything works again"));
        self.mend();
        self.heal(false);
        if self.random.random() {
            let ending = if self.manners.rots || self.random.random() { Ending::Kill } else { Ending::Crash };
            self.restart(ending).await?;
        }
        self.mark();
        let settled = self.drain().await;
        self.judge(settled).await?;
        let all = self.check_all().await;
        self.judge(all).await
    }

    /// Sets the mark from which on errors need a reason.
    pub(crate) fn mark(&mut self) {
        self.faults_before = self.injected();
        self.outside_failed = false;
    }

    /// Faults of the disk that make operations fail.
    fn injected(&self) -> u64 {
        let failing = |fault: &Fault| matches!(fault, Fault::Failed(_) | Fault::Full | Fault::Down);
        self.simulator.faults().iter().filter(|(fault, _)| failing(fault)).map(|(_, count)| count).sum()
    }

    /// Whether an error has a reason. Of damage it must name the file.
    pub(crate) fn excuses(&mut self, message: &str) -> bool {
        if let Some(rot) = &self.rot {
            let name = rot.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
            if message.contains(&name) {
                self.figures.count("damage found");
                return true;
            }
        }
        self.simulator.is_down()
            || self.outside_failed
            || self.injected() > self.faults_before
            || message.contains("is full") && self.figures.is_full
    }

    /// What a step came to: the process goes on, starts again, or a promise is broken.
    pub(crate) async fn judge(&mut self, outcome: Result<(), Trouble>) -> Result<(), String> {
        match outcome {
            Ok(()) if self.simulator.is_down() => self.restart(Ending::Crash).await,
            Ok(()) if self.crash_next => self.restart(Ending::Crash).await,
            Ok(()) => Ok(()),
            Err(Trouble::Violation(what)) => Err(what),
            Err(Trouble::Failed(what)) if self.excuses(&what) => {
                self.trace.note(format_args!("the process ends: {what}"));
                let down = self.simulator.is_down() || self.crash_next;
                let rotten = self.rot.is_some();
                self.heal(true);
                let ending = if down && !rotten { Ending::Crash } else { Ending::Kill };
                self.restart(ending).await
            }
            Err(Trouble::Failed(what)) => Err(format!("failed without a reason: {what}")),
        }
    }

    /// Ends the process and starts it again until it is up.
    pub(crate) async fn restart(&mut self, ending: Ending) -> Result<(), String> {
        self.trace.note(format_args!("{ending:?} at operation {}", self.simulator.operations()));
        self.figures.count(if ending == Ending::Crash { "machine crashed" } else { "process killed" });
        self.end(ending);
        self.start().await
    }

    fn end(&mut self, ending: Ending) {
        match ending {
            Ending::Crash => drop(self.simulator.crash()),
            Ending::Kill => drop(self.simulator.kill()),
        }
        self.process = None;
        self.answers.lock().clear();
        self.crash_next = false;
        if ending == Ending::Crash {
            self.lake.crash();
            if let Some(buggy) = self.buggy.take() {
                buggy.crashed(&self.simulator);
            }
        } else {
            self.lake.end_next(None);
        }
        if self.figures.is_full && self.random.random() {
            self.mend();
        }
    }

    /// Starts the process; it may crash while it recovers.
    pub(crate) async fn start(&mut self) -> Result<(), String> {
        for attempt in 0.. {
            self.boot();
            if attempt >= STARTS_MAX {
                self.mend();
            } else if self.random.random_ratio(1, 3) {
                self.arm_for_start();
            }
            self.mark();
            self.figures.starts += 1;
            let opened = self.open().await;
            let what = match opened {
                Ok(()) if !self.simulator.is_down() => {
                    self.simulator.clear_faults();
                    return Ok(());
                }
                Ok(()) => "the machine went down behind the start".to_owned(),
                Err(Trouble::Violation(what)) => return Err(what),
                Err(Trouble::Failed(what)) if attempt <= STARTS_MAX && self.excuses(&what) => what,
                Err(Trouble::Failed(what)) => return Err(format!("it does not start: {what}")),
            };
            self.trace.note(format_args!("a start fails: {what}"));
            let down = self.simulator.is_down();
            self.heal(true);
            self.figures.count("start failed");
            self.end(if down { Ending::Crash } else { Ending::Kill });
        }
        Ok(())
    }

    fn boot(&mut self) {
        let mut environment = self.simulator.environment();
        self.lake.open();
        if let Some(bug) = self.bug {
            let buggy = Arc::new(BuggyStorage::new(environment.storage.clone(), bug));
            environment.storage = buggy.clone();
            self.buggy = Some(buggy);
        }
        self.environment = environment;
    }

    async fn open(&mut self) -> Result<(), Trouble> {
        let outside = Outside {
            environment: &self.environment,
            spec: &self.spec,
            lake: &self.lake,
            sinks: &self.sinks,
            segment_bytes: self.manners.segment_bytes,
            bug: self.bug,
        };
        let process = Process::open(&outside)?;
        process.show_log(&mut self.oracle)?;
        let Some(facts) = facts_of(&process.core, &self.oracle) else {
            return Err(Trouble::Violation(format!("a cursor cannot be read: {:?}", process.core.last().inputs)));
        };
        self.oracle.recovered(process.core.epoch(), facts).map_err(Trouble::Violation)?;
        self.trace.note(format_args!("started at epoch {} with {facts:?}", process.core.epoch()));
        if process.topic.begin() as usize > facts.records {
            let what = format!("the log begins at {}, and {} records are taken", process.topic.begin(), facts.records);
            return Err(Trouble::Violation(what));
        }
        self.process = Some(process);
        // All of it now and then, some of it always.
        let count = if self.random.random_ratio(1, 8) { usize::MAX } else { 1 };
        self.check(count).await
    }

    /// Checks what a reader would see now: totals, and rows of so many relations.
    pub(crate) async fn check(&mut self, count: usize) -> Result<(), Trouble> {
        let Some(process) = &self.process else { return Ok(()) };
        let snapshot = process.core.contents().pin();
        let expected = self.oracle.expected(snapshot.epoch);
        checks::totals(&process.core, &snapshot, &expected)?;
        checks::ledger(&process.core)?;
        let mut names = checks::names(&snapshot);
        while names.len() > count {
            names.remove(self.random.random_range(0..names.len()));
        }
        for name in names {
            checks::relation(&snapshot, &name, &expected, self.random.random_ratio(2, 3)).await?;
            self.figures.relations_checked += 1;
        }
        self.check_sinks()
    }

    pub(crate) fn check_sinks(&self) -> Result<(), Trouble> {
        let oracle = &self.oracle;
        let expected = |epoch: u64| -> Option<Expected> { (epoch <= oracle.epoch()).then(|| oracle.expected(epoch)) };
        self.sinks.iter().try_for_each(|sink| checks::destination(sink, expected))
    }

    async fn check_all(&mut self) -> Result<(), Trouble> {
        self.check(usize::MAX).await?;
        let Some(process) = &self.process else { return Ok(()) };
        process.topic.verify().map_err(crate::process::failed("verifying the log"))?;
        if self.random.random_ratio(1, 4) {
            let snapshot = process.core.contents().pin();
            checks::batch(&process.core, &snapshot).await?;
            self.figures.count("verified in batch");
        }
        Ok(())
    }

    /// Disks work, have room and are fast again; destinations are there.
    pub(crate) fn mend(&mut self) {
        self.simulator.clear_faults();
        self.simulator.set_capacity(None);
        self.figures.is_full = false;
        self.lake.end_next(None);
        for sink in &self.sinks {
            sink.destination.lock().fault = None;
        }
    }

    /// Puts the byte back that has rotted, as from a copy. `found`: because somebody said so.
    pub(crate) fn heal(&mut self, found: bool) {
        let Some(rot) = self.rot.take() else { return };
        // Recovery may have cut it off, and written something else there since.
        let bytes = self.simulator.environment().storage.read(&rot.path).unwrap_or_default();
        let there = bytes.starts_with(&rot.rotten);
        if there {
            self.simulator.flip(&rot.path, rot.position as u64, rot.mask);
        }
        let how = if found { "found and mended" } else { "never read, or harmless" };
        self.trace.note(format_args!("{}: {how} (the byte is there: {there})", rot.path.display()));
        if !found {
            self.figures.count("damage not read or harmless");
        }
    }

    /// Has a client send records; the answer comes later, or never.
    pub(crate) fn submit(&mut self, process: &Process) {
        let count = self.random.random_range(1..=self.manners.records_max);
        let records: Vec<Sent> = (0..count).map(|_| self.writer.beacon(&mut self.random, self.clients)).collect();
        let (mut buffer, mut ranges) = (Vec::new(), Vec::new());
        for record in &records {
            ranges.push((buffer.len() as u32, record.raw.len() as u32));
            buffer.extend_from_slice(&record.raw);
        }
        let arrival = self.environment.clock.now();
        let number = self.oracle.sent(arrival, records);
        self.figures.sent += count as u64;
        let submission =
            Submission { arrival, headers: Bytes::new(), records: Records::new(Bytes::from(buffer), ranges) };
        let answers = self.answers.clone();
        if self.bug == Some(Bug::AcknowledgedBeforeSync) {
            let first = self.oracle.logged() as u64;
            let early = answers.lock().iter().filter_map(|(_, answer)| answer.as_ref().ok()).map(|r| r.end).max();
            let first = early.unwrap_or(first);
            answers.lock().push((number, Ok(first..first + count as u64)));
            EventLog::append(&*process.topic, submission, Box::new(|_| {}));
        } else {
            EventLog::append(
                &*process.topic,
                submission,
                Box::new(move |answer| answers.lock().push((number, answer))),
            );
        }
    }

    /// Takes the answers that clients got.
    pub(crate) fn hear(&mut self) -> Result<(), Trouble> {
        let answers = std::mem::take(&mut *self.answers.lock());
        for (number, answer) in answers {
            match answer {
                Ok(offsets) => {
                    self.trace.note(format_args!("submission {number} is acknowledged at {offsets:?}"));
                    self.figures.acknowledged += offsets.end - offsets.start;
                    self.oracle.acknowledged(number, offsets).map_err(Trouble::Violation)?;
                }
                Err(refused) => {
                    self.trace.note(format_args!("submission {number} is refused: {refused}"));
                    self.figures.refused += 1;
                    let message = format!("an append: {refused}");
                    if !self.excuses(&message) {
                        return Err(Trouble::Failed(message));
                    }
                }
            }
        }
        Ok(())
    }

    /// Others put a closed file on the shelf.
    pub(crate) fn put_file(&mut self) {
        let count = self.random.random_range(1..12);
        let lines: Vec<Sent> = (0..count).map(|_| self.writer.line(&mut self.random)).collect();
        let mut bytes = Vec::new();
        for line in &lines {
            bytes.extend_from_slice(&line.raw);
            bytes.push(b'\n');
        }
        let path = PathBuf::from(SHELF_FOLDER).join(file_name(self.oracle.files()));
        self.simulator.plant(&path, &bytes);
        self.oracle.closed(lines);
    }

    /// Arms what may happen while the process starts.
    fn arm_for_start(&mut self) {
        let within = self.random.random_range(1..60);
        let at = self.simulator.operations() + within;
        if self.manners.kinds.contains(&Kind::Crash) && self.random.random() {
            self.simulator.go_down_at(at);
        } else if self.manners.kinds.contains(&Kind::Errors) {
            self.simulator.fail_at(at, self.random.random_range(1..4), std::io::ErrorKind::Other);
        } else if self.manners.kinds.contains(&Kind::ReadErrors) {
            let count = self.random.random_range(1..4);
            self.simulator.fail_next(weir_environment::Operation::Read, count, std::io::ErrorKind::Other);
        }
    }

    /// Arms or does a fault of a kind that this run has.
    async fn draw_fault(&mut self) -> Result<(), String> {
        if self.manners.rots && self.random.random() {
            self.rot_a_file();
            if self.random.random() {
                return self.restart(Ending::Kill).await;
            }
            return Ok(());
        }
        if self.manners.kinds.is_empty() {
            return Ok(());
        }
        let kind = self.manners.kinds[self.random.random_range(0..self.manners.kinds.len())];
        self.trace.note(format_args!("fault: {kind:?}"));
        let at = self.simulator.operations() + self.random.random_range(0..20);
        match kind {
            Kind::Crash if self.random.random_ratio(1, 4) => return self.restart(Ending::Crash).await,
            Kind::Crash => self.simulator.go_down_at(at),
            Kind::Kill => return self.restart(Ending::Kill).await,
            Kind::Errors => self.simulator.fail_at(at, self.random.random_range(1..4), std::io::ErrorKind::Other),
            Kind::LastingErrors => self.simulator.fail_at(at, u64::MAX, std::io::ErrorKind::Other),
            Kind::ReadErrors => {
                let count = self.random.random_range(1..4);
                self.simulator.fail_next(weir_environment::Operation::Read, count, std::io::ErrorKind::Other);
            }
            Kind::ShortReads => {
                let every = self.random.random_ratio(2, 3).then(|| self.random.random_range(1..6));
                self.simulator.short_reads(every);
            }
            Kind::FullDisk => {
                // The log and the journal leave a reserve; with it gone, nothing can be written at all.
                let reserve: u64 = if self.random.random() { 64 << 20 } else { 0 };
                let room = self.random.random_range(0..8000);
                self.simulator.set_capacity(Some(self.simulator.used_bytes() + reserve + room));
                self.figures.is_full = true;
                self.figures.count("disk filled up");
            }
            Kind::SlowDisk => {
                let max =
                    self.random.random_ratio(2, 3).then(|| Duration::from_millis(self.random.random_range(1..5000)));
                self.simulator.slow_down(max);
            }
            Kind::Clock => {
                let by = self.random.random_range(0..3 * 24 * 3600 * 1_000_000_i64);
                let forward = self.random.random();
                let now = self.environment.clock.now();
                self.simulator.set_now(if forward { now + by } else { now - by });
                self.figures.count(if forward { "clock forward" } else { "clock backward" });
            }
            Kind::Sinks => {
                let sink = self.random.random_range(0..self.sinks.len());
                let down = self.random.random();
                let calls = self.random.random_range(1..5);
                let fault = if down { SinkFault::Down(calls) } else { SinkFault::Unanswered };
                self.sinks[sink].destination.lock().fault = Some(fault);
                self.figures.count(if down { "sink down" } else { "sink's answer lost" });
            }
            Kind::Landings => self.break_landing(),
        }
        Ok(())
    }
}
