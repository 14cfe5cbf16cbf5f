//! Builds models from history: after a change of the folder's meaning, or because somebody asks (`weir backfill`).
//!
//! Runs while no loop runs. The sources' contents at the last landed epoch go through a fresh dataflow; what it gives of the
//! rebuilt models is landed as one epoch of its own, and all state is written as that epoch's checkpoint. Until that
//! checkpoint is durable the rebuild can be repeated from the start; each repetition takes a new epoch, so nothing that an
//! interrupted one has left is counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use serde_json::json;
use weir_environment::Environment;
use weir_incremental::checkpoint::CheckpointStore;
use weir_incremental::dataflow::StepOutput;
use weir_incremental::{BatchLimits, Delta, Relation, batch};

use crate::EpochNumber;
use crate::change::Change;
use crate::contents::{Contents, Snapshot, Totals};
use crate::copies::Copies;
use crate::core::{Core, PipelineError};
use crate::frames::RecomputedAt;
use crate::history::{History, Landing};
use crate::spec::{ERRORS, PipelineSpec};

/// What is to be rebuilt and what is to go.
#[derive(Debug, Clone, Default)]
pub struct RebuildPlan {
    /// Models whose contents are made anew.
    pub models: Vec<Relation>,
    /// Relations that are dropped for good.
    pub dropped: Vec<Relation>,
    /// Keyed sources whose columns changed: their current rows are read back from history.
    pub sources: Vec<Relation>,
}

/// Rows of one step of the dataflow.
const STEP_ROWS: usize = 131_072;
/// Deltas of a model that are held before they are added up.
const PARTS_MAX: usize = 64;

/// Adds up deltas of one relation within bounded memory for what cancels.
#[derive(Default)]
pub(crate) struct Sum {
    parts: Vec<Delta>,
}

impl Sum {
    pub(crate) fn add(&mut self, delta: Delta) -> Result<(), PipelineError> {
        self.parts.push(delta);
        if self.parts.len() >= PARTS_MAX {
            let sum = Delta::concat(&self.parts[0].schema(), &self.parts)?.consolidate()?;
            self.parts = vec![sum];
        }
        Ok(())
    }

    /// All of them as one.
    pub(crate) fn total(&self, schema: &SchemaRef) -> Result<Delta, PipelineError> {
        Ok(Delta::concat(schema, &self.parts)?.consolidate()?)
    }
}

/// Calls `take` with the contents of a relation, a step's rows at a time.
pub(crate) async fn each_step(
    snapshot: &Snapshot,
    relation: &Relation,
    schema: &SchemaRef,
    mut take: impl FnMut(RecordBatch) -> Result<(), PipelineError>,
) -> Result<(), PipelineError> {
    let failed = |e: datafusion::error::DataFusionError| PipelineError::Contents(e.into());
    let table = snapshot.table(relation).await?;
    let mut stream = SessionContext::new().read_table(table).map_err(failed)?.execute_stream().await.map_err(failed)?;
    let mut waiting: Vec<RecordBatch> = Vec::new();
    let mut waiting_rows = 0;
    loop {
        let batch = stream.next().await.transpose().map_err(failed)?;
        let last = batch.is_none();
        if let Some(batch) = batch {
            waiting_rows += batch.num_rows();
            waiting.push(RecordBatch::try_new(schema.clone(), batch.columns().to_vec())?);
        }
        if waiting_rows >= STEP_ROWS || (last && waiting_rows > 0) {
            let rows = arrow::compute::concat_batches(schema, &waiting)?;
            waiting.clear();
            waiting_rows = 0;
            take(rows)?;
        }
        if last {
            return Ok(());
        }
    }
}

/// Rebuilds. `core` is recovered under the new folder's spec without state ([`Core::open_fresh`]); everything up to
/// its epoch is landed. `copies` have the rebuild before anything goes that it replaces. `progress` is told rows read, of each source.
pub async fn rebuild(
    core: &mut Core,
    environment: &Environment,
    spec: &Arc<PipelineSpec>,
    history: &Arc<dyn History>,
    store: &CheckpointStore,
    copies: Option<&dyn Copies>,
    plan: &RebuildPlan,
    progress: &(dyn Fn(&str, u64) + Send + Sync),
) -> Result<EpochNumber, PipelineError> {
    // An interrupted rebuild may have landed an epoch that the journal does not know.
    while core.epoch() < history.landed() {
        core.commit_marker(json!({"marker": "interrupted rebuild"}))?;
    }
    let read_at = history.landed();
    let snapshot_of = Contents::new(history.clone(), read_at, core.last().clock, spec.relations());
    let snapshot = snapshot_of.pin();
    let now = environment.clock.now().max(core.last().clock);

    let mut dataflow = spec.dataflow(&environment.workers)?;
    let mut sums: BTreeMap<Relation, Sum> = BTreeMap::new();
    let collect = |sums: &mut BTreeMap<Relation, Sum>, output: StepOutput| -> Result<(), PipelineError> {
        for (name, delta) in output.models {
            sums.entry(name).or_insert(Sum { parts: Vec::new() }).add(delta)?;
        }
        for (_, delta) in output.errors {
            sums.entry(ERRORS.into()).or_insert(Sum { parts: Vec::new() }).add(delta)?;
        }
        Ok(())
    };
    collect(&mut sums, dataflow.step(now, &HashMap::new())?)?;
    let mut totals = BTreeMap::new();
    for source in &spec.sources {
        let mut read = 0u64;
        let mut total = Totals::default();
        each_step(&snapshot, &source.name, &source.schema, |rows| {
            read += rows.num_rows() as u64;
            let change = Change::new(source.name.clone(), Delta::inserts(rows))?;
            total.rows += change.rows;
            total.checksum = total.checksum.wrapping_add(change.checksum);
            if plan.sources.contains(&source.name) {
                core.readmit(&source.name, &change.delta.rows)?;
            }
            let step = HashMap::from([(source.name.clone(), change.delta)]);
            collect(&mut sums, dataflow.step(now, &step)?)?;
            progress(&source.name, read);
            Ok(())
        })
        .await?;
        totals.insert(source.name.to_string(), total);
    }

    // All that a recomputed model reads is complete by now, or is made by those before it.
    let epoch = core.epoch() + 1;
    let mut recomputed = BTreeMap::new();
    for model in spec.recomputed().map(|model| &model.plan) {
        let mut tables: HashMap<Relation, Arc<dyn TableProvider>> = HashMap::new();
        let mut at = RecomputedAt { epoch, clock: now, inputs: BTreeMap::new() };
        for name in &model.reads {
            let table = match spec.sources.iter().any(|source| source.name == *name) {
                true => snapshot.table(name).await?,
                false => {
                    let schema = spec.schema(name).unwrap_or_else(|| model.schema.clone());
                    let parts = sums.get(name).map_or(&[][..], |sum| &sum.parts);
                    let contents = Change::new(name.clone(), Delta::concat(&schema, parts)?.consolidate()?)?;
                    totals.insert(name.to_string(), Totals { rows: contents.rows, checksum: contents.checksum });
                    let rows = vec![contents.delta.expand()?];
                    Arc::new(MemTable::try_new(schema, vec![rows]).map_err(|e| PipelineError::Contents(e.into()))?)
                }
            };
            tables.insert(name.clone(), table);
            let total = totals.get(name.as_ref()).copied().unwrap_or_default();
            at.inputs.insert(name.to_string(), total.into());
        }
        let limits = BatchLimits {
            memory_max: Some(spec.settings.recompute_memory_max),
            threads: environment.workers.threads(),
        };
        let output = batch::run(model, &|name| tables.get(name).cloned(), now, limits).await?;
        let rows = output.rows.into_iter().map(Delta::inserts).collect::<Vec<_>>();
        let errors = output.errors.into_iter().map(|rows| (model.name.clone(), Delta::inserts(rows))).collect();
        let contents = Delta::concat(&model.schema, &rows)?.consolidate()?;
        let models = vec![(model.name.clone(), contents.clone())];
        collect(&mut sums, StepOutput { models, errors })?;
        collect(&mut sums, dataflow.step(now, &HashMap::from([(model.name.clone(), contents)]))?)?;
        recomputed.insert(model.name.to_string(), at);
    }

    for name in plan.dropped.iter().chain(&plan.models) {
        history.drop_relation(name).await?;
    }
    let mut landings = Vec::new();
    let mut rebuilt = Vec::new();
    let failed = |e: datafusion::error::DataFusionError| PipelineError::Contents(e.into());
    let mut errors_before = Vec::new();
    let table = snapshot.table(&ERRORS.into()).await?;
    for batch in SessionContext::new().read_table(table).map_err(failed)?.collect().await.map_err(failed)? {
        let rows = RecordBatch::try_new(crate::spec::errors_schema(), batch.columns().to_vec())?;
        errors_before.push(Delta::inserts(rows).negate());
    }
    sums.entry(ERRORS.into()).or_insert(Sum { parts: Vec::new() });
    for info in spec.relations() {
        let Some(sum) = sums.remove(&info.name) else { continue };
        let contents = Change::new(info.name.clone(), Delta::concat(&info.schema, &sum.parts)?.consolidate()?)?;
        totals.insert(info.name.to_string(), Totals { rows: contents.rows, checksum: contents.checksum });
        let mut delta = contents.delta;
        if recomputed.contains_key(info.name.as_ref()) && !plan.models.contains(&info.name) {
            // It is what it was, computed anew: what that changes is a change like any other.
            core.reindex(&info.name, &delta)?;
            let mut parts = vec![delta];
            let table = snapshot.table(&info.name).await?;
            for batch in SessionContext::new().read_table(table).map_err(failed)?.collect().await.map_err(failed)? {
                let rows = RecordBatch::try_new(info.schema.clone(), batch.columns().to_vec())?;
                parts.push(Delta::inserts(rows).negate());
            }
            delta = Delta::concat(&info.schema, &parts)?.consolidate()?;
        } else if plan.models.contains(&info.name) {
            core.reindex(&info.name, &delta)?;
        } else if info.name.as_ref() == ERRORS {
            errors_before.push(delta);
            delta = Delta::concat(&info.schema, &errors_before)?.consolidate()?;
        } else {
            continue;
        }
        rebuilt.push(info.name.to_string());
        if !delta.is_empty() {
            let changes = vec![(epoch, if info.append_only { Delta::inserts(delta.expand()?) } else { delta })];
            landings.push(Landing { relation: info.name, schema: info.schema, changes });
        }
    }
    history.land(epoch, landings).await?;
    core.set_recomputed(recomputed);
    let held = totals.iter().map(|(name, total)| {
        (name.clone(), json!({"rows": total.rows, "checksum": format!("{:032x}", total.checksum)}))
    });
    let held: serde_json::Map<_, _> = held.collect();
    core.commit_marker(json!({"marker": "rebuild", "relations": rebuilt, "totals": held}))?;
    core.contents().landed(epoch);
    core.adopt(dataflow, &totals)?;
    if let Some(mut pending) = core.take_checkpoint() {
        pending.write(store)?;
    }
    let settled = match copies {
        Some(copies) => copies.settled().await,
        None => true,
    };
    if settled {
        core.release(epoch)?;
    }
    Ok(epoch)
}
