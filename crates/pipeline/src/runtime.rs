//! Runs a pipeline: readers that decode ahead, one loop that makes epochs, landing and checkpoints beside it, and a feed
//! for every sink.

mod maintenance;
mod read_ahead;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use weir_environment::Environment;
use weir_incremental::Relation;
use weir_incremental::checkpoint::CheckpointStore;

pub use self::maintenance::Hold;
use self::maintenance::{Checkpointed, Chore, Maintenance, Then};
use self::read_ahead::ReadAhead;
use crate::EpochNumber;
use crate::activity::Activity;
use crate::copies::Copies;
use crate::core::{CommitError, Core, EpochInput, EpochReport, PipelineError, ReplayPart};
use crate::feed::{self, FeedSpec, FeedStatus, SharedFeedStatus};
use crate::input::InputRef;
use crate::intake::Intake;
use crate::notify::DeliveryFailures;
use crate::prepare::{PreparedPoll, SourceReader};
use crate::recompute::{Ended, Recomputations, Recomputed};
use crate::spec::LoopSettings;

/// What is known of a run while it goes on.
#[derive(Debug, Default)]
pub struct Progress {
    /// Last epoch and rows admitted since the start.
    pub admitted: Mutex<(EpochNumber, u64)>,
    /// Failures of inputs, by name, until they work again.
    pub input_failures: Mutex<BTreeMap<String, String>>,
    /// Why the loop waits, if it does: a full disk, say.
    pub waiting: Mutex<Option<String>>,
    /// Sinks by name.
    pub feeds: Mutex<BTreeMap<String, SharedFeedStatus>>,
    /// Why models could not be recomputed, by name, until they can.
    pub recompute_failures: Mutex<BTreeMap<String, String>>,
    /// Why messengers do not deliver, by name, until they do.
    pub delivery_failures: DeliveryFailures,
    /// What the models' operators do.
    pub activity: Mutex<Activity>,
}

/// Asks of a running loop.
pub enum Control {
    /// Sends records through again; answers with the epoch's report.
    Replay(ReplayPart, oneshot::Sender<Result<EpochReport, String>>),
    /// Puts up with a check's violation until it is clear; answers with the epoch that says so, or None when there is none.
    Waive {
        /// The check.
        check: String,
        /// Who.
        by: String,
        /// Why.
        why: String,
        /// The answer.
        answer: oneshot::Sender<Result<Option<EpochReport>, String>>,
    },
    /// Lands and checkpoints what is there; answers when it is durable.
    Checkpoint(oneshot::Sender<()>),
    /// As [`Control::Checkpoint`]; then lake, checkpoints and what they replace stay as they are until the answer is dropped.
    Hold(oneshot::Sender<Hold>),
}

/// How a run ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunMode {
    /// When stopped.
    Until,
    /// When all input that is there is taken in and every sink holds it.
    Once,
}

/// All that a run needs.
pub struct Run {
    /// Recovered state.
    pub core: Core,
    /// Where checkpoints go.
    pub store: Arc<CheckpointStore>,
    /// Copies elsewhere that are kept in step.
    pub copies: Option<Arc<dyn Copies>>,
    /// Open inputs by name, with the readers of their sources in the order of the spec.
    pub inputs: BTreeMap<String, (InputRef, Vec<Arc<SourceReader>>)>,
    /// Sinks.
    pub feeds: Vec<FeedSpec>,
    /// Bounds and intervals.
    pub settings: LoopSettings,
    /// The machine.
    pub environment: Environment,
    /// Shown to whoever asks.
    pub progress: Arc<Progress>,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Run").field("core", &self.core).finish_non_exhaustive()
    }
}

/// What a finished run says.
#[derive(Debug, Clone, Default)]
pub struct RunSummary {
    /// The last epoch.
    pub epoch: EpochNumber,
    /// Rows admitted by this run.
    pub rows: u64,
    /// Sinks that do not hold the last epoch.
    pub behind: Vec<Behind>,
    /// Checks that are violated, and that nobody has put up with.
    pub violated: Vec<Relation>,
}

/// A sink that does not hold the last epoch.
#[derive(Debug, Clone)]
pub struct Behind {
    /// The sink.
    pub sink: String,
    /// Why.
    pub reason: String,
    /// On purpose.
    pub held: bool,
}

/// Messages to the loop.
enum News {
    Poll {
        input: usize,
        poll: PreparedPoll,
    },
    /// The input has no more (in [`RunMode::Once`]), or stopped for good.
    End {
        failure: Option<PipelineError>,
    },
    Control(Control),
}

/// Polls that are decoded ahead of the loop, for each input.
const POLLS_AHEAD: usize = 2;
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// Runs to the end that `mode` names; `stop` ends it cleanly.
pub async fn run(
    mut run: Run,
    mode: RunMode,
    control: mpsc::Receiver<Control>,
    stop: watch::Receiver<bool>,
) -> Result<RunSummary, PipelineError> {
    run.core.begin_measures().await?;
    // One message of slack: what is decoded ahead waits in the readers' own bounded channels.
    let (news_sender, news) = mpsc::channel::<News>(1);
    let (checkpointed_sender, checkpointed) = mpsc::unbounded_channel();
    let (ended_sender, ended) = mpsc::unbounded_channel();
    let (chore_sender, chores) = mpsc::channel(4);
    let (until_sender, until) = watch::channel(None);
    let (feed_stop_sender, feed_stop) = watch::channel(false);
    let contents = run.core.contents().clone();

    let mut feeds: Vec<(String, SharedFeedStatus, JoinHandle<bool>)> = Vec::new();
    for spec in run.feeds {
        let status = Arc::new(Mutex::new(FeedStatus { relation: spec.relation.to_string(), ..FeedStatus::default() }));
        run.progress.feeds.lock().insert(spec.name.clone(), status.clone());
        let name = spec.name.clone();
        let task = feed::run(spec, contents.clone(), status.clone(), until.clone(), feed_stop.clone());
        feeds.push((name, status, tokio::spawn(task)));
    }
    let maintenance = Maintenance {
        contents: contents.clone(),
        store: run.store.clone(),
        checkpointed: checkpointed_sender,
        copies: run.copies.clone(),
        feeds: feeds.iter().map(|(_, status, _)| status.clone()).collect(),
        maintenance_interval: run.settings.maintenance_interval,
        maintained_at: tokio::time::Instant::now(),
    };
    let maintenance = tokio::spawn(maintenance.run(chores));

    let mut readers = Vec::new();
    let mut inputs = Vec::new();
    let mut intake = Intake::default();
    for (index, (name, (input, sources))) in run.inputs.into_iter().enumerate() {
        let position = run.core.last().inputs.get(&name).cloned().unwrap_or_default();
        intake.add_input(&name, &position);
        let (ahead, mut queue) = mpsc::channel(POLLS_AHEAD);
        let reader = ReadAhead {
            index,
            name: name.clone(),
            input: input.clone(),
            readers: sources,
            cursor: position.cursor,
            bytes_max: run.settings.poll_bytes_max,
            mode,
            progress: run.progress.clone(),
            news: ahead,
            stop: stop.clone(),
        };
        readers.push(tokio::spawn(reader.run()));
        let forward = news_sender.clone();
        readers.push(tokio::spawn(async move {
            while let Some(news) = queue.recv().await {
                if forward.send(news).await.is_err() {
                    return;
                }
            }
        }));
        inputs.push((name, input));
    }
    let forward = news_sender.clone();
    let mut control = control;
    let controller = tokio::spawn(async move {
        while let Some(ask) = control.recv().await {
            if forward.send(News::Control(ask)).await.is_err() {
                return;
            }
        }
    });

    let recomputed = run.core.spec().recomputed().cloned().collect();
    let memory_max = run.settings.recompute_memory_max;
    let mut looping = Loop {
        mode,
        recomputations: Recomputations::new(recomputed, contents.clone(), memory_max, ended_sender),
        recomputed: Vec::new(),
        core: run.core,
        settings: run.settings,
        environment: run.environment,
        progress: run.progress.clone(),
        open: inputs.len(),
        inputs,
        intake,
        chores: chore_sender,
        checkpointing: false,
        landed_at: Duration::ZERO,
        epoch_at: Duration::ZERO,
        checkpointed_at: Duration::ZERO,
        rows: 0,
        failure: None,
        controls: VecDeque::new(),
    };
    let handle = tokio::runtime::Handle::current();
    let (answer_sender, answer) = oneshot::channel();
    let spawn = looping.environment.spawn.clone();
    let loop_stop = stop.clone();
    let thread = spawn.spawn(
        "weir-epochs",
        Box::new(move || {
            let result = handle.block_on(looping.run(news, checkpointed, ended, loop_stop));
            let _ = answer_sender.send((looping, result));
        }),
    );
    let Ok((looping, result)) = answer.await else {
        thread.join();
        return Err(PipelineError::State("the loop ended unexpectedly".into()));
    };
    for reader in &readers {
        reader.abort();
    }
    controller.abort();
    let epoch = looping.core.epoch();
    let rows = looping.rows;
    let violated = looping.core.violated();

    let mut behind = Vec::new();
    if result.is_ok() {
        if mode == RunMode::Once {
            until_sender.send_replace(Some(epoch));
        } else {
            feed_stop_sender.send_replace(true);
        }
        for (name, status, task) in feeds {
            let mut stop = stop.clone();
            let patience = async {
                let mut task = task;
                tokio::select! {
                    done = &mut task => done.unwrap_or(false),
                    () = tokio::time::sleep(FEED_PATIENCE) => { task.abort(); false }
                    _ = stop.wait_for(|s| *s), if mode == RunMode::Once => { task.abort(); false }
                }
            };
            if !patience.await && mode == RunMode::Once {
                let status = status.lock();
                let reason = status.failure.clone().unwrap_or_else(|| "it is not caught up".into());
                behind.push(Behind { sink: name, reason, held: status.held });
            }
        }
    }
    drop(looping);
    drop(news_sender);
    let _ = maintenance.await;
    result?;
    Ok(RunSummary { epoch, rows, behind, violated })
}

/// How long a sink may take to catch up at the end of a run.
const FEED_PATIENCE: Duration = Duration::from_secs(60);

struct Loop {
    mode: RunMode,
    core: Core,
    recomputations: Recomputations,
    /// Results that wait for the next epoch.
    recomputed: Vec<Recomputed>,
    settings: LoopSettings,
    environment: Environment,
    progress: Arc<Progress>,
    inputs: Vec<(String, InputRef)>,
    open: usize,
    /// Numbered as `inputs`.
    intake: Intake,
    chores: mpsc::Sender<Chore>,
    checkpointing: bool,
    landed_at: Duration,
    epoch_at: Duration,
    checkpointed_at: Duration,
    rows: u64,
    failure: Option<PipelineError>,
    controls: VecDeque<Control>,
}

impl Loop {
    async fn run(
        &mut self,
        mut news: mpsc::Receiver<News>,
        mut checkpointed: mpsc::UnboundedReceiver<Checkpointed>,
        mut ended: mpsc::UnboundedReceiver<Ended>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), PipelineError> {
        self.landed_at = self.environment.clock.elapsed();
        self.checkpointed_at = self.landed_at;
        self.observe(self.landed_at);
        // The first epoch gives models over nothing their rows; a later one settles what the clock alone made due.
        if self.core.epoch() == 0 || self.core.next_due().is_some_and(|due| due <= self.environment.clock.now()) {
            self.epoch(EpochInput::default(), &mut stop).await?;
        }
        loop {
            while let Ok(done) = checkpointed.try_recv() {
                self.checkpointed(done).await?;
            }
            while let Ok(done) = ended.try_recv() {
                self.recomputed(done);
            }
            while self.intake.rows() < self.settings.epoch_rows_max
                && let Ok(item) = news.try_recv()
            {
                self.take(item).await?;
            }
            if *stop.borrow() {
                break;
            }
            if self.checkpointing && self.core.needs_checkpoint() {
                // What the checkpoint makes durable can leave memory before more comes in.
                tokio::select! {
                    done = checkpointed.recv() => if let Some(done) = done { self.checkpointed(done).await? },
                    _ = stop.changed() => {}
                }
                continue;
            }
            if let Some(ask) = self.controls.pop_front() {
                self.answer(ask, &mut stop).await?;
                continue;
            }
            if !self.intake.is_empty() {
                let since = self.environment.clock.elapsed().saturating_sub(self.epoch_at);
                let rest = self.settings.epoch_interval_min.saturating_sub(since);
                if self.mode == RunMode::Until && self.intake.rows() < self.settings.epoch_rows_max && !rest.is_zero() {
                    tokio::select! {
                        item = news.recv() => if let Some(item) = item { self.take(item).await? },
                        () = tokio::time::sleep(rest) => {}
                        _ = stop.changed() => {}
                    }
                    if self.environment.clock.elapsed().saturating_sub(self.epoch_at) < self.settings.epoch_interval_min
                    {
                        continue;
                    }
                }
                self.epoch_at = self.environment.clock.elapsed();
                let input =
                    EpochInput { parts: self.intake.gather(self.settings.epoch_rows_max), ..EpochInput::default() };
                self.epoch(input, &mut stop).await?;
                continue;
            }
            if !self.recomputed.is_empty() {
                self.epoch(EpochInput::default(), &mut stop).await?;
                continue;
            }
            if self.mode == RunMode::Once && self.open == 0 && !self.recompute() {
                break;
            }
            self.chores(false).await;
            let now = self.environment.clock.now();
            let due = self.core.next_due().map(|due| Duration::from_micros(due.saturating_sub(now).max(0) as u64));
            let chore = Duration::from_millis(500);
            tokio::select! {
                item = news.recv() => match item {
                    Some(item) => self.take(item).await?,
                    None => break,
                },
                Some(done) = checkpointed.recv() => self.checkpointed(done).await?,
                Some(done) = ended.recv() => self.recomputed(done),
                () = tokio::time::sleep(due.unwrap_or(Duration::MAX)), if due.is_some() => {
                    if self.core.next_due().is_some_and(|due| due <= self.environment.clock.now()) {
                        self.epoch(EpochInput::default(), &mut stop).await?;
                    }
                }
                () = tokio::time::sleep(chore) => {}
                _ = stop.changed() => {}
            }
        }
        // Everything to the lake and into a checkpoint, so that the next start has nothing to run again.
        drop(news);
        while self.checkpointing
            && let Some(done) = checkpointed.recv().await
        {
            self.checkpointed(done).await?;
        }
        if let Some(pending) = self.core.take_checkpoint() {
            let (sender, done) = oneshot::channel();
            if self.chores.send(Chore::Checkpoint(Box::new(pending), Then::Tell(sender))).await.is_ok() {
                let _ = done.await;
            }
            while let Ok(done) = checkpointed.try_recv() {
                self.checkpointed(done).await?;
            }
        }
        if self.mode == RunMode::Once
            && let Some(failure) = self.failure.take()
        {
            return Err(failure);
        }
        Ok(())
    }

    async fn checkpointed(&mut self, checkpoint: Checkpointed) -> Result<(), PipelineError> {
        let checkpoint = checkpoint?;
        self.checkpointing = false;
        let Some((epoch, positions)) = checkpoint else { return Ok(()) };
        self.core.release(epoch)?;
        for (name, input) in &self.inputs {
            if let Some(position) = positions.get(name)
                && let Err(error) = input.release(&position.cursor).await
            {
                tracing::warn!(input = name, %error, "space of the log could not be freed");
            }
        }
        Ok(())
    }

    /// Starts the recomputation of a model that is behind, when it is time; whether one is under way.
    fn recompute(&mut self) -> bool {
        let clock = &self.environment.clock;
        self.recomputations.start(clock.now(), clock.elapsed(), self.mode == RunMode::Once)
    }

    /// Takes what a recomputation found, for the next epoch.
    fn recomputed(&mut self, (name, result): Ended) {
        let mut failures = self.progress.recompute_failures.lock();
        match result {
            Ok(found) => {
                failures.remove(name.as_ref());
                if self.recomputations.ended(&found) {
                    self.recomputed.push(found);
                }
            }
            Err(error) => {
                tracing::warn!(%error, model = %name, "a model could not be recomputed");
                failures.insert(name.to_string(), error.to_string());
                if self.failure.is_none() {
                    let message = format!("model `{name}` could not be recomputed: {error}");
                    self.failure = Some(PipelineError::State(message));
                }
                self.recomputations.failed(name);
            }
        }
    }

    async fn take(&mut self, item: News) -> Result<(), PipelineError> {
        match item {
            News::Poll { input, poll } => self.intake.push(input, poll),
            News::End { failure } => {
                self.open -= 1;
                if self.failure.is_none() {
                    self.failure = failure;
                }
            }
            News::Control(ask) => self.controls.push_back(ask),
        }
        Ok(())
    }

    async fn epoch(
        &mut self,
        mut input: EpochInput,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Option<EpochReport>, PipelineError> {
        input.recomputed.append(&mut self.recomputed);
        let mut pending = self.core.prepare_epoch(input)?;
        let report = loop {
            match self.core.commit(&mut pending) {
                Ok(report) => break report,
                Err(CommitError::Fatal(error)) => return Err(error),
                Err(CommitError::Again(error)) => {
                    tracing::warn!(%error, "the epoch could not be committed and is tried again");
                    *self.progress.waiting.lock() = Some(error.to_string());
                    if *stop.borrow() {
                        // Nothing of the epoch is durable; its input is, and will be read again.
                        return Err(error);
                    }
                    tokio::select! {
                        () = tokio::time::sleep(RETRY_DELAY) => {}
                        _ = stop.changed() => {}
                    }
                }
            }
        };
        *self.progress.waiting.lock() = None;
        self.rows += report.rows;
        *self.progress.admitted.lock() = (report.epoch, self.rows);
        self.chores(true).await;
        Ok(Some(report))
    }

    async fn answer(&mut self, ask: Control, stop: &mut watch::Receiver<bool>) -> Result<(), PipelineError> {
        match ask {
            Control::Replay(part, answer) => {
                let report = self.epoch(EpochInput { replay: Some(part), ..EpochInput::default() }, stop).await?;
                let _ = answer.send(report.ok_or_else(|| "the pipeline is stopping".to_owned()));
            }
            Control::Waive { check, by, why, answer } => {
                let waived = self.core.waive(&check, &by, &why);
                let _ = answer.send(waived.as_ref().copied().map_err(ToString::to_string));
                if let Err(CommitError::Fatal(error)) = waived {
                    return Err(error);
                }
            }
            Control::Checkpoint(answer) => self.checkpoint(Then::Tell(answer)).await,
            Control::Hold(answer) => self.checkpoint(Then::Hold(answer)).await,
        }
        Ok(())
    }

    /// Has what is there landed and checkpointed.
    async fn checkpoint(&mut self, then: Then) {
        let chore = match self.core.take_checkpoint() {
            Some(pending) => {
                self.checkpointing = true;
                Chore::Checkpoint(Box::new(pending), then)
            }
            None => Chore::Land(then),
        };
        let _ = self.chores.send(chore).await;
    }

    /// Lets others see what the operators have done until now.
    fn observe(&mut self, now: Duration) {
        let operators = self.core.operators();
        self.progress.activity.lock().observe(now, operators);
    }

    /// Starts landing and checkpoint when it is time; waits for room when the tails have grown too large.
    async fn chores(&mut self, busy: bool) {
        let now = self.environment.clock.elapsed();
        // Once: everything is taken in first. A result that waits for its epoch is not known to be there yet.
        if self.mode == RunMode::Until && self.recomputed.is_empty() {
            self.recompute();
        }
        if self.progress.activity.lock().is_due(now) {
            self.observe(now);
        }
        let tail = self.core.contents().tail_bytes();
        let due = now.saturating_sub(self.checkpointed_at) >= self.settings.checkpoint_interval;
        if !self.checkpointing && (due || self.core.needs_checkpoint()) {
            self.checkpointed_at = now;
            self.landed_at = now;
            if let Some(pending) = self.core.take_checkpoint() {
                self.checkpointing = true;
                let _ = self.chores.send(Chore::Checkpoint(Box::new(pending), Then::GoOn)).await;
            }
        } else if (now.saturating_sub(self.landed_at) >= self.settings.landing_interval && tail > 0)
            || tail > self.settings.tail_bytes_max
        {
            self.landed_at = now;
            if busy && tail > 2 * self.settings.tail_bytes_max {
                let (sender, done) = oneshot::channel();
                if self.chores.send(Chore::Land(Then::Tell(sender))).await.is_ok() {
                    let _ = done.await;
                }
            } else {
                let _ = self.chores.try_send(Chore::Land(Then::GoOn));
            }
        }
    }
}
