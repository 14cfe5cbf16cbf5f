//! Contents of relations: landed history up to some epoch plus an in-memory tail, read at one pinned epoch.
//!
//! Invariants:
//! 1. A tail holds exactly the changes of the epochs behind the landed one, each batch tagged with its epoch.
//! 2. Publishing an epoch adds the changes of all relations under one write lock, so a [`Snapshot`] sees an epoch of
//!    everything or of nothing.
//! 3. A snapshot reads history up to the landed epoch that it was pinned with, and its own copy of the tails; what
//!    lands later does not reach it, and history is not merged above the oldest pin.

mod measures;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::Column;
use datafusion::datasource::{MemTable, ViewTable, provider_as_source};
use datafusion::error::DataFusionError;
use datafusion::functions_aggregate::expr_fn::sum;
use datafusion::logical_expr::{Expr, LogicalPlanBuilder, col, lit};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use weir_incremental::operators::EngineError;
use weir_incremental::{Delta, Relation};

use crate::EpochNumber;
use crate::admission::Counts;
use crate::change::Change;
use crate::check::CheckState;
use crate::frames::RecomputedAt;
use crate::history::{History, HistoryError, Landing, with_bookkeeping};
use crate::measure::{MeasureSpec, Total};

/// Column of weights in stored changes.
pub const WEIGHT: &str = "_weight";
/// Column of epochs in stored changes.
pub const EPOCH: &str = "_epoch";

/// What is known of a relation for as long as the pipeline runs.
#[derive(Debug, Clone)]
pub struct RelationInfo {
    /// Its name.
    pub name: Relation,
    /// Its columns.
    pub schema: SchemaRef,
    /// Whether it can only grow.
    pub append_only: bool,
    /// Its key columns; at most one row a key.
    pub key: Vec<String>,
    /// Whether a sink needs its changes epoch by epoch.
    pub followed: bool,
    /// Sums that are kept of its rows.
    pub measures: Vec<MeasureSpec>,
}

#[derive(Debug)]
struct Tail {
    info: Arc<RelationInfo>,
    changes: VecDeque<(EpochNumber, Delta)>,
    /// Bytes of memory of the changes.
    bytes: usize,
    /// Rows of the contents, each as often as it occurs.
    rows: i64,
    /// Sum of the checksums of all changes.
    checksum: u128,
    /// Sums of the contents.
    measures: Arc<Vec<Total>>,
}

#[derive(Debug)]
struct Inner {
    epoch: EpochNumber,
    clock: i64,
    landed: EpochNumber,
    tails: BTreeMap<Relation, Tail>,
    recomputed: BTreeMap<String, RecomputedAt>,
    checks: BTreeMap<String, CheckState>,
    /// The last epoch whose entry tells of a check; the first published one where it is not known.
    check_event: EpochNumber,
}

impl Inner {
    fn totals(&self, relation: &str) -> Totals {
        self.tails.get(relation).map(|tail| Totals { rows: tail.rows, checksum: tail.checksum }).unwrap_or_default()
    }
}

/// Rows and checksum of a relation's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Rows, each as often as it occurs.
    pub rows: i64,
    /// Additive checksum of the contents.
    pub checksum: u128,
}

/// The contents of all relations of a running project.
pub struct Contents {
    inner: RwLock<Inner>,
    history: Arc<dyn History>,
    pins: Arc<Mutex<BTreeMap<EpochNumber, usize>>>,
    published: watch::Sender<EpochNumber>,
    counts: Mutex<BTreeMap<String, Counts>>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Contents").field("epoch", &self.inner.read().epoch).finish_non_exhaustive()
    }
}

impl Contents {
    /// Contents as of `epoch` with nothing in the tails: everything is in the history.
    pub fn new(history: Arc<dyn History>, epoch: EpochNumber, clock: i64, relations: Vec<RelationInfo>) -> Self {
        let landed = history.landed();
        let tails = relations
            .into_iter()
            .map(|info| {
                let name = info.name.clone();
                let (info, changes, measures) = (Arc::new(info), VecDeque::new(), Arc::default());
                let mut tail = Tail { info, changes, bytes: 0, rows: 0, checksum: 0, measures };
                tail.unknown_measures();
                (name, tail)
            })
            .collect();
        Self {
            inner: RwLock::new(Inner {
                epoch,
                clock,
                landed,
                tails,
                recomputed: BTreeMap::new(),
                checks: BTreeMap::new(),
                check_event: epoch,
            }),
            history,
            pins: Arc::default(),
            published: watch::channel(epoch).0,
            counts: Mutex::default(),
        }
    }

    /// Sets the totals that the checkpoint remembers.
    pub fn restore_totals(&self, totals: &BTreeMap<String, Totals>) {
        let mut inner = self.inner.write();
        for (name, tail) in &mut inner.tails {
            if let Some(saved) = totals.get(name.as_ref()) {
                tail.rows = saved.rows;
                tail.checksum = saved.checksum;
            }
        }
    }

    /// Sets what the checkpoint remembers of recomputed models.
    pub fn restore_recomputed(&self, recomputed: BTreeMap<String, RecomputedAt>) {
        self.inner.write().recomputed = recomputed;
    }

    /// Sets how checks stand at the checkpoint.
    pub fn restore_checks(&self, checks: BTreeMap<String, CheckState>) {
        self.inner.write().checks = checks;
    }

    /// Notes that the entry of an epoch tells of a check.
    pub fn note_check_event(&self, epoch: EpochNumber) {
        self.inner.write().check_event = epoch;
    }

    /// The last epoch whose entry may tell of a check.
    pub fn last_check_event(&self) -> EpochNumber {
        self.inner.read().check_event
    }

    /// When a recomputed model was computed, and whether what it read has changed since; None when it never was.
    pub fn recomputed(&self, model: &str) -> Option<(RecomputedAt, bool)> {
        let inner = self.inner.read();
        let at = inner.recomputed.get(model)?.clone();
        let stale = at.is_stale(|relation| inner.totals(relation));
        Some((at, stale))
    }

    /// Rows of a relation after the published epoch.
    pub fn rows(&self, relation: &str) -> i64 {
        self.inner.read().totals(relation).rows
    }

    /// Totals of a relation after the published epoch.
    pub fn totals_of(&self, relation: &str) -> Totals {
        self.inner.read().totals(relation)
    }

    /// Totals of every relation after the published epoch.
    pub fn totals(&self) -> BTreeMap<String, Totals> {
        let inner = self.inner.read();
        let totals = |tail: &Tail| Totals { rows: tail.rows, checksum: tail.checksum };
        inner.tails.iter().map(|(name, tail)| (name.to_string(), totals(tail))).collect()
    }

    /// Makes an epoch's changes readable, all at once. Epochs that are landed already only count.
    pub fn publish(
        &self,
        epoch: EpochNumber,
        clock: i64,
        changes: Vec<Change>,
        recomputed: &BTreeMap<String, RecomputedAt>,
        checks: &BTreeMap<String, CheckState>,
    ) -> Result<(), EngineError> {
        let mut failure = None;
        {
            let mut inner = self.inner.write();
            inner.epoch = epoch;
            inner.clock = clock;
            if inner.checks != *checks {
                inner.checks = checks.clone();
            }
            if inner.recomputed != *recomputed {
                inner.recomputed = recomputed.clone();
            }
            let landed = inner.landed;
            for change in changes {
                // Every relation of the dataflow was declared at the start.
                let Some(tail) = inner.tails.get_mut(&change.relation) else { continue };
                tail.rows += change.rows;
                tail.checksum = tail.checksum.wrapping_add(change.checksum);
                tail.measure(&change);
                if epoch > landed && !change.delta.is_empty() {
                    // Readers of what only grows take rows as they are: each row stands for itself.
                    let expanded = if tail.info.append_only {
                        change.delta.expand().map(Delta::inserts)
                    } else {
                        Ok(change.delta)
                    };
                    match expanded {
                        Ok(delta) => {
                            tail.bytes += bytes_of(&delta);
                            tail.changes.push_back((epoch, delta));
                        }
                        Err(error) => failure = Some(error),
                    }
                }
            }
        }
        self.published.send_replace(epoch);
        failure.map_or(Ok(()), Err)
    }

    /// Sets what every source has counted over all epochs.
    pub fn set_counts(&self, counts: BTreeMap<String, Counts>) {
        *self.counts.lock() = counts;
    }

    /// What every source has counted over all epochs.
    pub fn counts(&self) -> BTreeMap<String, Counts> {
        self.counts.lock().clone()
    }

    /// Follows published epochs.
    pub fn subscribe(&self) -> watch::Receiver<EpochNumber> {
        self.published.subscribe()
    }

    /// The published epoch and its clock (µs UTC).
    pub fn now(&self) -> (EpochNumber, i64) {
        let inner = self.inner.read();
        (inner.epoch, inner.clock)
    }

    /// Bytes of memory held by tails.
    pub fn tail_bytes(&self) -> usize {
        self.inner.read().tails.values().map(|t| t.bytes).sum()
    }

    /// Pins the published epoch.
    pub fn pin(&self) -> Snapshot {
        let inner = self.inner.read();
        let pinned = inner.epoch.min(inner.landed);
        *self.pins.lock().entry(pinned).or_default() += 1;
        let tails = inner.tails.iter().map(|(name, tail)| {
            let part = Pinned {
                info: tail.info.clone(),
                changes: tail.changes.iter().cloned().collect(),
                totals: Totals { rows: tail.rows, checksum: tail.checksum },
                measures: tail.measures.clone(),
            };
            (name.clone(), part)
        });
        Snapshot {
            epoch: inner.epoch,
            clock: inner.clock,
            landed: inner.landed,
            relations: tails.collect(),
            recomputed: inner.recomputed.clone(),
            checks: inner.checks.clone(),
            history: self.history.clone(),
            pinned,
            pins: self.pins.clone(),
        }
    }

    /// What a landing up to the published epoch would write; None when everything is landed.
    pub fn to_land(&self) -> Result<Option<(EpochNumber, Vec<Landing>)>, EngineError> {
        let (epoch, tails): (_, Vec<(Arc<RelationInfo>, Vec<(EpochNumber, Delta)>)>) = {
            let inner = self.inner.read();
            if inner.epoch == inner.landed {
                return Ok(None);
            }
            let tails = inner.tails.values().map(|t| (t.info.clone(), t.changes.iter().cloned().collect()));
            (inner.epoch, tails.collect())
        };
        let mut landings = Vec::new();
        for (info, mut changes) in tails {
            if changes.is_empty() {
                continue;
            }
            if !info.followed && !info.append_only {
                let parts: Vec<Delta> = changes.iter().map(|(_, delta)| delta.clone()).collect();
                let sum = Delta::concat(&info.schema, &parts)?.consolidate()?;
                changes = if sum.is_empty() { Vec::new() } else { vec![(epoch, sum)] };
            }
            landings.push(Landing { relation: info.name.clone(), schema: info.schema.clone(), changes });
        }
        Ok(Some((epoch, landings)))
    }

    /// Lets go of the tails up to a landed epoch.
    pub fn landed(&self, epoch: EpochNumber) {
        let mut inner = self.inner.write();
        inner.landed = epoch;
        for tail in inner.tails.values_mut() {
            while let Some((first, delta)) = tail.changes.front()
                && *first <= epoch
            {
                tail.bytes -= bytes_of(delta);
                tail.changes.pop_front();
            }
        }
    }

    /// The landed epoch.
    pub fn landed_epoch(&self) -> EpochNumber {
        self.inner.read().landed
    }

    /// The oldest epoch up to which a reader reads history, or that a recomputed model shows though its inputs have changed since;
    /// otherwise the published one.
    pub fn oldest_pin(&self) -> EpochNumber {
        let inner = self.inner.read();
        let behind = inner.recomputed.values().filter(|at| at.is_stale(|relation| inner.totals(relation)));
        let shown = behind.map(|at| at.epoch).min().unwrap_or(inner.epoch);
        self.pins.lock().keys().next().copied().unwrap_or(inner.epoch).min(shown)
    }

    /// The histories behind the tails.
    pub fn history(&self) -> &Arc<dyn History> {
        &self.history
    }
}

fn bytes_of(delta: &Delta) -> usize {
    delta.rows.columns().iter().map(|c| c.to_data().get_slice_memory_size().unwrap_or_default()).sum::<usize>()
        + 8 * delta.len()
}

#[derive(Debug, Clone)]
struct Pinned {
    info: Arc<RelationInfo>,
    changes: Vec<(EpochNumber, Delta)>,
    totals: Totals,
    measures: Arc<Vec<Total>>,
}

/// One epoch of everything, for as long as it is held.
pub struct Snapshot {
    /// The epoch.
    pub epoch: EpochNumber,
    /// The epoch's clock, µs UTC.
    pub clock: i64,
    landed: EpochNumber,
    relations: HashMap<Relation, Pinned>,
    recomputed: BTreeMap<String, RecomputedAt>,
    checks: BTreeMap<String, CheckState>,
    history: Arc<dyn History>,
    /// The epoch that history is read up to, and must not be merged above: the tails have what is newer, and what there takes
    /// back a row of history must find it there.
    pinned: EpochNumber,
    pins: Arc<Mutex<BTreeMap<EpochNumber, usize>>>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Snapshot").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        let mut pins = self.pins.lock();
        if let Some(count) = pins.get_mut(&self.pinned) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.pinned);
            }
        }
    }
}

/// Why contents could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ContentsError {
    /// No relation of that name.
    #[error("there is no relation `{0}`")]
    Unknown(Relation),
    /// The history failed.
    #[error(transparent)]
    History(#[from] HistoryError),
    /// The plan over them failed.
    #[error(transparent)]
    DataFusion(#[from] DataFusionError),
    /// The engine failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An Arrow kernel failed.
    #[error(transparent)]
    Arrow(#[from] arrow::error::ArrowError),
}

/// A column by its exact name (never parsed as SQL).
fn column(name: &str) -> Expr {
    Expr::Column(Column::from_name(name))
}

impl Snapshot {
    /// Names of all relations, in no order.
    pub fn relations(&self) -> impl Iterator<Item = &Arc<RelationInfo>> {
        self.relations.values().map(|p| &p.info)
    }

    /// Totals of a relation.
    pub fn totals(&self, relation: &Relation) -> Totals {
        self.relations.get(relation).map(|p| p.totals).unwrap_or_default()
    }

    /// Totals of every relation.
    pub fn all_totals(&self) -> BTreeMap<String, Totals> {
        self.relations.iter().map(|(name, pinned)| (name.to_string(), pinned.totals)).collect()
    }

    /// How a check stands.
    pub fn check(&self, check: &str) -> CheckState {
        self.checks.get(check).cloned().unwrap_or_default()
    }

    /// When a recomputed model was computed; None when it never was.
    pub fn recomputed(&self, model: &Relation) -> Option<&RecomputedAt> {
        self.recomputed.get(model.as_ref())
    }

    /// What a recomputed model has read. Its inputs keep their changes epoch by epoch, and history is not merged above an
    /// epoch that a model still shows ([`Contents::oldest_pin`]).
    pub fn read_by(&self, computed: &RecomputedAt) -> Snapshot {
        let stale = computed.is_stale(|relation| self.totals(&relation.into()));
        let epoch = if stale { computed.epoch } else { self.epoch };
        let relations = self.relations.iter().map(|(name, pinned)| {
            let changes = pinned.changes.iter().filter(|(of, _)| *of <= epoch).cloned().collect();
            (name.clone(), Pinned { changes, ..pinned.clone() })
        });
        let landed = self.landed.min(epoch);
        *self.pins.lock().entry(landed).or_default() += 1;
        Snapshot {
            epoch,
            clock: computed.clock,
            landed,
            pinned: landed,
            relations: relations.collect(),
            recomputed: self.recomputed.clone(),
            checks: self.checks.clone(),
            history: self.history.clone(),
            pins: self.pins.clone(),
        }
    }

    fn pinned(&self, relation: &Relation) -> Result<&Pinned, ContentsError> {
        self.relations.get(relation).ok_or_else(|| ContentsError::Unknown(relation.clone()))
    }

    /// The landed part and the tail as one table of changes after `after`: columns, `_weight`, `_epoch`.
    async fn change_parts(
        &self,
        relation: &Relation,
        after: EpochNumber,
    ) -> Result<(Arc<RelationInfo>, Vec<Arc<dyn TableProvider>>), ContentsError> {
        let pinned = self.pinned(relation)?;
        let mut parts = Vec::new();
        if after < self.landed
            && let Some(landed) = self.history.changes(relation, after, self.landed).await?
        {
            parts.push(landed);
        }
        let schema = with_bookkeeping(&pinned.info.schema);
        let mut batches = Vec::with_capacity(pinned.changes.len());
        for (epoch, delta) in pinned.changes.iter().filter(|(epoch, _)| *epoch > after) {
            let mut columns: Vec<ArrayRef> = delta.rows.columns().to_vec();
            columns.push(Arc::new(delta.weights.clone()));
            columns.push(Arc::new(Int64Array::from_value(*epoch as i64, delta.len())));
            batches.push(RecordBatch::try_new(schema.clone(), columns)?);
        }
        if !batches.is_empty() || parts.is_empty() {
            parts.push(Arc::new(MemTable::try_new(schema, vec![batches])?));
        }
        Ok((pinned.info.clone(), parts))
    }

    /// The relation's changes up to the pinned epoch, as tables of its columns, `_weight` and `_epoch`. What history has
    /// merged or landed together has the epoch of the landing.
    pub async fn changes(&self, relation: &Relation) -> Result<Vec<Arc<dyn TableProvider>>, ContentsError> {
        Ok(self.change_parts(relation, 0).await?.1)
    }

    /// The relation's rows at the pinned epoch, each as often as it occurs, as a table for plans.
    pub async fn table(&self, relation: &Relation) -> Result<Arc<dyn TableProvider>, ContentsError> {
        let (info, parts) = self.change_parts(relation, 0).await?;
        let names: Vec<String> = info.schema.fields().iter().map(|f| f.name().clone()).collect();
        let mut wanted: Vec<Expr> = names.iter().map(|n| column(n)).collect();
        if !info.append_only {
            wanted.push(column(WEIGHT));
        }
        let mut union: Option<LogicalPlanBuilder> = None;
        for part in parts {
            let scan = LogicalPlanBuilder::scan("changes", provider_as_source(part), None)?.project(wanted.clone())?;
            union = Some(match union {
                None => scan,
                Some(before) => before.union(scan.build()?)?,
            });
        }
        // change_parts answers with one part at least.
        let Some(mut plan) = union else { return Err(ContentsError::Unknown(relation.clone())) };
        if !info.append_only {
            let names: Vec<Expr> = names.iter().map(|n| column(n)).collect();
            plan = plan
                .aggregate(names.clone(), vec![sum(column(WEIGHT)).alias("_times")])?
                .filter(col("_times").not_eq(lit(0i64)))?;
            plan = if info.key.is_empty() {
                let repeated = datafusion::functions_nested::expr_fn::array_repeat(lit(1i64), col("_times"));
                let mut with = names.clone();
                with.push(repeated.alias("_each"));
                plan.project(with)?.unnest_column(Column::from_name("_each"))?.project(names)?
            } else {
                plan.project(names)?
            };
        }
        Ok(Arc::new(Exact::new(ViewTable::new(plan.build()?, None), info.schema.clone())))
    }

    /// The consolidated change of a relation between two epochs, or None when history no longer tells.
    pub async fn changes_since(&self, relation: &Relation, after: EpochNumber) -> Result<Option<Delta>, ContentsError> {
        if after < self.landed && after < self.history.horizon(relation) {
            return Ok(None);
        }
        let (info, parts) = self.change_parts(relation, after).await?;
        let context = datafusion::prelude::SessionContext::new();
        let mut deltas = Vec::new();
        for part in parts {
            for batch in context.read_table(part)?.collect().await? {
                let width = info.schema.fields().len();
                let weights = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(
                    batch.column(batch.schema().index_of(WEIGHT)?),
                )
                .clone();
                let rows = RecordBatch::try_new(info.schema.clone(), batch.columns()[..width].to_vec())?;
                deltas.push(Delta::new(rows, weights));
            }
        }
        Ok(Some(Delta::concat(&info.schema, &deltas)?.consolidate()?))
    }
}

/// A view whose schema is the relation's, field for field (a plan's own may be more nullable).
#[derive(Debug)]
struct Exact {
    view: ViewTable,
    schema: SchemaRef,
}

impl Exact {
    fn new(view: ViewTable, schema: SchemaRef) -> Self {
        // A plan over changes may lose NOT NULL; what it answers is checked against the wider schema.
        let fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        Self { view, schema: Arc::new(Schema::new(fields)) }
    }
}

#[async_trait::async_trait]
impl TableProvider for Exact {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> datafusion::logical_expr::TableType {
        datafusion::logical_expr::TableType::View
    }

    fn get_logical_plan(&self) -> Option<std::borrow::Cow<'_, datafusion::logical_expr::LogicalPlan>> {
        self.view.get_logical_plan()
    }

    async fn scan(
        &self,
        state: &dyn datafusion::catalog::Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> datafusion::error::Result<Arc<dyn datafusion::physical_plan::ExecutionPlan>> {
        self.view.scan(state, projection, filters, limit).await
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> datafusion::error::Result<Vec<datafusion::logical_expr::TableProviderFilterPushDown>> {
        self.view.supports_filters_pushdown(filters)
    }
}
