//! Models that are recomputed as a whole (`refresh = "full"`): at a pinned epoch, off the epoch's path, and compared with
//! what they hold; the difference enters a later epoch as their change.
//!
//! Invariants:
//! 1. One model is recomputed at a time, and its result has entered an epoch before the next begins, so that the difference
//!    is taken against what the model holds when it enters.
//! 2. The change is in the journal with its epoch: recovery never computes it again.
//! 3. The commit record says which epoch was read, with rows and checksums of what was read: whether a model is behind,
//!    and what it has to be compared with, does not depend on when anybody asks.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use weir_incremental::batch::{BatchLimits, BatchOutput};
use weir_incremental::planner::ModelPlan;
use weir_incremental::{Delta, Relation, batch};

use crate::contents::{Contents, Snapshot};
use crate::core::PipelineError;
use crate::frames::RecomputedAt;
use crate::spec::{ERRORS, ModelSpec, errors_schema};
use crate::verify::collect;

/// What a recomputation found.
#[derive(Debug)]
pub struct Recomputed {
    /// The model.
    pub name: Relation,
    /// What was read, and when.
    pub at: RecomputedAt,
    /// From what the model holds to what it should.
    pub change: Delta,
    /// The same for its rows in [`ERRORS`].
    pub errors: Delta,
}

/// Runs a model in batch over a snapshot.
pub(crate) async fn run_over(
    snapshot: &Snapshot,
    model: &ModelPlan,
    clock: i64,
    limits: BatchLimits,
) -> Result<BatchOutput, PipelineError> {
    let mut tables: HashMap<Relation, Arc<dyn TableProvider>> = HashMap::new();
    for name in &model.reads {
        tables.insert(name.clone(), snapshot.table(name).await?);
    }
    Ok(batch::run(model, &|name| tables.get(name).cloned(), clock, limits).await?)
}

/// Computes a model at a snapshot, and what that changes.
pub async fn recompute(
    snapshot: &Snapshot,
    model: &ModelPlan,
    clock: i64,
    limits: BatchLimits,
) -> Result<Recomputed, PipelineError> {
    let output = run_over(snapshot, model, clock, limits).await?;
    let held = collect(snapshot.table(&model.name).await?, &model.name).await?;
    let failed = collect(snapshot.table(&ERRORS.into()).await?, &ERRORS.into()).await?;
    let failed = failed.iter().map(|rows| rows_of(model, rows)).collect::<Result<Vec<_>, _>>()?;
    let inputs = model.reads.iter().map(|name| (name.to_string(), snapshot.totals(name).into())).collect();
    Ok(Recomputed {
        name: model.name.clone(),
        at: RecomputedAt { epoch: snapshot.epoch, clock, inputs },
        change: difference(&model.schema, &held, &output.rows)?,
        errors: difference(&errors_schema(), &failed, &output.errors)?,
    })
}

/// Rows of [`ERRORS`] that are the model's.
fn rows_of(model: &ModelPlan, errors: &RecordBatch) -> Result<RecordBatch, PipelineError> {
    let names = errors.column(0).as_string::<i32>();
    let own: BooleanArray = names.iter().map(|name| Some(name == Some(model.name.as_ref()))).collect();
    Ok(filter_record_batch(errors, &own)?)
}

fn difference(schema: &SchemaRef, before: &[RecordBatch], after: &[RecordBatch]) -> Result<Delta, PipelineError> {
    let rows = |batch: &RecordBatch| RecordBatch::try_new(schema.clone(), batch.columns().to_vec()).map(Delta::inserts);
    let gone = before.iter().map(|batch| rows(batch).map(|delta| delta.negate()));
    let parts = gone.chain(after.iter().map(rows)).collect::<Result<Vec<_>, _>>()?;
    Ok(Delta::concat(schema, &parts)?.consolidate()?)
}

/// A recomputation that ended: the model, and what it found or why it failed.
pub(crate) type Ended = (Relation, Result<Recomputed, PipelineError>);

/// Starts recomputations when they are due, one at a time.
pub(crate) struct Recomputations {
    models: Vec<ModelSpec>,
    contents: Arc<Contents>,
    limits: BatchLimits,
    ended: mpsc::UnboundedSender<Ended>,
    running: Option<JoinHandle<()>>,
    /// When each was started last, on the clock of [`Recomputations::start`].
    started: BTreeMap<Relation, Duration>,
    /// Those that this run has computed.
    computed: HashSet<Relation>,
    /// Those whose last recomputation failed.
    failed: HashSet<Relation>,
}

/// Shortest time from one recomputation of a model to the next, whatever it is told.
const INTERVAL_MIN: Duration = Duration::from_millis(100);

impl Recomputations {
    /// None is started yet.
    pub fn new(
        models: Vec<ModelSpec>,
        contents: Arc<Contents>,
        memory_max: usize,
        ended: mpsc::UnboundedSender<Ended>,
    ) -> Self {
        let limits = BatchLimits { memory_max: Some(memory_max), ..BatchLimits::default() };
        Self {
            models,
            contents,
            limits,
            ended,
            running: None,
            started: BTreeMap::new(),
            computed: HashSet::new(),
            failed: HashSet::new(),
        }
    }

    /// Starts the first model that is behind and whose time has come (with `at_once`, whatever the time, but those that
    /// failed are given up) unless one runs; whether one runs now. `clock` is the time in µs UTC, `elapsed` that of a clock which never goes back.
    pub fn start(&mut self, clock: i64, elapsed: Duration, at_once: bool) -> bool {
        if self.running.is_some() {
            return true;
        }
        let Some(model) = self.models.iter().find(|model| self.is_due(model, elapsed, at_once)) else {
            return false;
        };
        let (plan, limits) = (model.plan.clone(), self.limits);
        self.started.insert(plan.name.clone(), elapsed);
        let (snapshot, ended) = (self.contents.pin(), self.ended.clone());
        let clock = clock.max(snapshot.clock);
        self.running = Some(tokio::spawn(async move {
            let result = recompute(&snapshot, &plan, clock, limits).await;
            // Nobody waits for it when the run has ended.
            let _ = ended.send((plan.name, result));
        }));
        true
    }

    fn is_due(&self, model: &ModelSpec, elapsed: Duration, at_once: bool) -> bool {
        let name = &model.plan.name;
        let interval = model.recompute_interval.unwrap_or_default().max(INTERVAL_MIN);
        let waited = || self.started.get(name).is_none_or(|started| elapsed.saturating_sub(*started) >= interval);
        let may = if at_once { !self.failed.contains(name) } else { waited() };
        if !may {
            return false;
        }
        match self.contents.recomputed(name) {
            None => true,
            Some((_, true)) => true,
            Some((_, false)) if model.plan.uses_now => !at_once || !self.computed.contains(name),
            Some((_, false)) => false,
        }
    }

    /// The one that ran has ended. Whether what it found has to enter an epoch: it changes something, or the model was
    /// behind what was read.
    pub fn ended(&mut self, found: &Recomputed) -> bool {
        self.running = None;
        self.computed.insert(found.name.clone());
        self.failed.remove(&found.name);
        let before = self.contents.recomputed(&found.name).map(|(at, _)| at.inputs);
        !found.change.is_empty() || !found.errors.is_empty() || before.as_ref() != Some(&found.at.inputs)
    }

    /// The one that ran has failed.
    pub fn failed(&mut self, model: Relation) {
        self.running = None;
        self.failed.insert(model);
    }
}

impl Drop for Recomputations {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.abort();
        }
    }
}
