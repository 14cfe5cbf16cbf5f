//! Feeds one sink: brings it from its cursor to the newest epoch, again and again; retries what is down, reloads what has
//! fallen behind what history still tells.

use std::sync::Arc;
use std::time::Duration;

use arrow::array::AsArray;
use arrow::compute::filter_record_batch;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::prelude::{SessionContext, col, lit};
use parking_lot::Mutex;
use tokio::sync::watch;
use weir_incremental::{Delta, Relation};
use weir_project::Check;

use crate::EpochNumber;
use crate::contents::{Contents, ContentsError, Snapshot};
use crate::sink::{Sink, SinkError};
use crate::spec::ERRORS;

/// A sink and what it is fed with.
pub struct FeedSpec {
    /// The sink's name.
    pub name: String,
    /// The relation it follows.
    pub relation: Relation,
    /// `where`, over the relation's columns.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    /// The same as SQL, for snapshots.
    pub where_sql: Option<String>,
    /// Whether it holds the last good epoch while the relation's model has errors.
    pub hold_on_error: bool,
    /// Checks while whose violations it holds the epoch before.
    pub held_by: Vec<(Relation, Check)>,
    /// Whether a destination that holds a later epoch than there is may be loaded anew.
    pub reload_ahead: bool,
    /// The destination.
    pub sink: Box<dyn Sink>,
}

impl std::fmt::Debug for FeedSpec {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("FeedSpec").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How a sink is doing.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub struct FeedStatus {
    /// The relation.
    pub relation: String,
    /// The epoch it holds; none before the first answer of the destination.
    pub cursor: Option<EpochNumber>,
    /// Rows inserted and deleted since the start.
    pub changes: u64,
    /// Times it was reloaded since the start.
    pub reloads: u64,
    /// The last failure, until it works again.
    pub failure: Option<String>,
    /// Whether it waits for a person.
    pub refused: bool,
    /// Whether it holds an earlier epoch on purpose, as `failure` says.
    pub held: bool,
}

/// Shared view of a feed's status.
pub type SharedFeedStatus = Arc<Mutex<FeedStatus>>;

/// What a step came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// The sink holds a later epoch than before.
    Forward,
    /// There is nothing to do until something changes.
    Nothing,
    /// It holds an earlier epoch on purpose.
    Held,
    /// It did not work; a person has to do something when it was refused.
    Failed {
        /// Whether a person has to do something.
        refused: bool,
    },
}

/// Why a step did not work.
enum Failure {
    Sink(SinkError),
    Contents(ContentsError),
}

impl From<SinkError> for Failure {
    fn from(error: SinkError) -> Self {
        Self::Sink(error)
    }
}

impl From<ContentsError> for Failure {
    fn from(error: ContentsError) -> Self {
        Self::Contents(error)
    }
}

const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(10);

/// A sink and how far it is, brought forward one step at a time.
#[derive(Debug)]
pub struct Feeder {
    spec: FeedSpec,
    contents: Arc<Contents>,
    status: SharedFeedStatus,
    cursor: Option<EpochNumber>,
    /// Whether the destination has said what it holds since the last failure.
    known: bool,
    /// The epoch that the destination held though there was none such yet.
    ahead: Option<EpochNumber>,
}

impl Feeder {
    /// The destination is not asked yet.
    pub fn new(spec: FeedSpec, contents: Arc<Contents>, status: SharedFeedStatus) -> Self {
        Self { spec, contents, status, cursor: None, known: false, ahead: None }
    }

    /// The epoch that the destination holds, as far as it is known.
    pub fn cursor(&self) -> Option<EpochNumber> {
        self.cursor
    }

    /// The same where it is an epoch of this history.
    fn held_epoch(&self) -> Option<EpochNumber> {
        self.cursor.filter(|_| self.cursor != self.ahead)
    }

    /// Brings the sink to the newest epoch, if it can be, and tells the status.
    pub async fn advance(&mut self) -> Step {
        let step = match self.step().await {
            Ok(step) => step,
            Err(failure) => {
                let (message, refused) = match failure {
                    Failure::Sink(SinkError::Refused(message)) => (message, true),
                    Failure::Sink(SinkError::Retry(message)) => (message, false),
                    Failure::Contents(error) => (error.to_string(), false),
                };
                tracing::warn!(sink = self.spec.name, %message, refused, "the sink did not take a change");
                let mut status = self.status.lock();
                status.failure = Some(message);
                status.refused = refused;
                // What the destination holds after a failure is asked anew.
                self.known = false;
                Step::Failed { refused }
            }
        };
        if matches!(step, Step::Forward | Step::Nothing) {
            let mut status = self.status.lock();
            status.cursor = self.cursor;
            status.failure = None;
            status.refused = false;
            status.held = false;
        }
        step
    }

    fn held(&self, reason: String) -> Step {
        let mut status = self.status.lock();
        status.failure = Some(reason);
        status.held = true;
        Step::Held
    }

    async fn step(&mut self) -> Result<Step, Failure> {
        let spec = &mut self.spec;
        if !self.known {
            self.cursor = spec.sink.cursor().await?;
            self.known = true;
            self.status.lock().cursor = self.cursor;
        }
        let snapshot = self.contents.pin();
        if self.cursor.is_some_and(|held| held > snapshot.epoch) {
            self.ahead = self.cursor;
        }
        if let Some(held) = self.ahead
            && self.cursor == Some(held)
            && !spec.reload_ahead
        {
            // It stays so when the epochs get there: what it holds is of a history that this folder does not have.
            return Err(Failure::Sink(SinkError::Refused(format!(
                "the destination holds epoch {held}, which this folder had not reached when it started: the folder is older \
                 than the destination, or another one. `weir doctor` says more; `weir run --reload-ahead` loads the \
                 destination anew from this folder"
            ))));
        }
        // What it holds of another history is not continued, however far the epochs have come.
        let foreign = self.ahead.is_some() && self.cursor == self.ahead;
        if self.cursor == Some(snapshot.epoch) && !foreign {
            return Ok(Step::Nothing);
        }
        if spec.hold_on_error && has_errors(&snapshot, &spec.relation).await? {
            return Ok(self.held(format!("`{}` has errors: the last good epoch is held", self.spec.relation)));
        }
        let held = spec.held_by.iter().find_map(|(name, check)| {
            let state = snapshot.check(name);
            if state.is_open() {
                return Some(format!("`{name}` is violated: the epoch before is held"));
            }
            // Its rows came from history, and the next epoch judges them.
            let judged = state.is_judged(check, snapshot.totals(name).rows);
            (!judged).then(|| format!("`{name}` is not judged yet: the epoch before is held"))
        });
        if let Some(reason) = held {
            return Ok(self.held(reason));
        }
        let changes = match self.cursor {
            Some(after) if after < snapshot.epoch && !foreign => snapshot.changes_since(&spec.relation, after).await?,
            Some(_) | None => None,
        };
        match changes {
            Some(delta) => {
                let delta = restrict(spec, delta)?;
                let count = delta.weights.values().iter().map(|w| w.unsigned_abs()).sum::<u64>();
                spec.sink.apply(snapshot.epoch, &delta).await?;
                self.status.lock().changes += count;
            }
            None => {
                reload(spec, &snapshot).await?;
                self.status.lock().reloads += 1;
            }
        }
        self.cursor = Some(snapshot.epoch);
        self.ahead = None;
        Ok(Step::Forward)
    }
}

/// Runs until `until` says an epoch and the sink holds it, or `stop` turns true.
///
/// Returns whether the sink holds the epoch that was asked for.
pub async fn run(
    spec: FeedSpec,
    contents: Arc<Contents>,
    status: SharedFeedStatus,
    mut until: watch::Receiver<Option<EpochNumber>>,
    mut stop: watch::Receiver<bool>,
) -> bool {
    let mut published = contents.subscribe();
    let mut feeder = Feeder::new(spec, contents, status);
    let mut delay = RETRY_FIRST;
    loop {
        if *stop.borrow() {
            return until.borrow().is_none_or(|epoch| feeder.held_epoch().is_some_and(|held| held >= epoch));
        }
        if let (Some(target), Some(held)) = (*until.borrow(), feeder.held_epoch())
            && held >= target
        {
            return true;
        }
        match feeder.advance().await {
            Step::Forward => {
                delay = RETRY_FIRST;
                continue;
            }
            // No more comes that could clear it.
            Step::Held | Step::Failed { refused: true } if until.borrow().is_some() => return false,
            Step::Failed { .. } => {
                tokio::select! {
                    () = tokio::time::sleep(delay) => {}
                    _ = stop.changed() => {}
                }
                delay = (delay * 2).min(RETRY_MAX);
                continue;
            }
            Step::Nothing => delay = RETRY_FIRST,
            Step::Held => {}
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return false },
            _ = stop.changed() => {}
            _ = until.changed() => {}
        }
    }
}

async fn reload(spec: &mut FeedSpec, snapshot: &Snapshot) -> Result<(), Failure> {
    let context = SessionContext::new();
    let table = snapshot.table(&spec.relation).await?;
    let failed = |e: datafusion::error::DataFusionError| Failure::Contents(ContentsError::DataFusion(e));
    let mut frame = context.read_table(table).map_err(failed)?;
    if let Some(sql) = &spec.where_sql {
        let predicate = frame.parse_sql_expr(sql).map_err(failed)?;
        frame = frame.filter(predicate).map_err(failed)?;
    }
    let stream = frame.execute_stream().await.map_err(failed)?;
    spec.sink.reload(snapshot.epoch, stream).await?;
    Ok(())
}

fn restrict(spec: &FeedSpec, delta: Delta) -> Result<Delta, Failure> {
    let Some(predicate) = &spec.predicate else { return Ok(delta) };
    let failed = |e: datafusion::error::DataFusionError| Failure::Contents(ContentsError::DataFusion(e));
    let mask = predicate.evaluate(&delta.rows).and_then(|v| v.into_array(delta.len())).map_err(failed)?;
    let Some(mask) = mask.as_boolean_opt() else { return Ok(delta) };
    let arrow = |e| Failure::Contents(ContentsError::Arrow(e));
    // NULL is not true.
    let rows = filter_record_batch(&delta.rows, mask).map_err(arrow)?;
    let weights = arrow::compute::filter(&delta.weights, mask).map_err(arrow)?;
    Ok(Delta::new(rows, weights.as_primitive::<arrow::datatypes::Int64Type>().clone()))
}

/// Whether a model has rows whose expressions failed.
pub async fn has_errors(snapshot: &Snapshot, model: &Relation) -> Result<bool, ContentsError> {
    let errors = Relation::from(ERRORS);
    if snapshot.totals(&errors).rows == 0 {
        return Ok(false);
    }
    let table = snapshot.table(&errors).await?;
    let frame = SessionContext::new().read_table(table)?.filter(col("model").eq(lit(model.as_ref())))?;
    Ok(frame.limit(0, Some(1))?.count().await? > 0)
}
