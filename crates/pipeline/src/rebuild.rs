//! Builds models from history: after a change of the folder's meaning, or because somebody asks (`weir backfill`).
//!
//! Runs while no loop runs. The sources' contents at the last landed epoch go through a fresh dataflow; what it gives of the
//! rebuilt models is landed as one epoch of its own, and all state is written as that epoch's checkpoint. Until that
//! checkpoint is durable the rebuild can be repeated from the start; each repetition takes a new epoch, so nothing that an
//! interrupted one has left is counted.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use serde_json::json;
use weir_environment::Environment;
use weir_incremental::checkpoint::CheckpointStore;
use weir_incremental::dataflow::Dataflow;
use weir_incremental::{Delta, Relation};

use crate::EpochNumber;
use crate::contents::{Change, Contents};
use crate::core::{Core, PipelineError};
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
struct Sum {
    parts: Vec<Delta>,
}

impl Sum {
    fn add(&mut self, delta: Delta) -> Result<(), PipelineError> {
        self.parts.push(delta);
        if self.parts.len() >= PARTS_MAX {
            let sum = Delta::concat(&self.parts[0].schema(), &self.parts)?.consolidate()?;
            self.parts = vec![sum];
        }
        Ok(())
    }
}

/// Rebuilds. `core` is recovered under the new folder's spec without state ([`Core::open_fresh`]); everything up to
/// its epoch is landed. `progress` is told rows read, of each source.
pub async fn rebuild(
    core: &mut Core,
    environment: &Environment,
    spec: &Arc<PipelineSpec>,
    history: &Arc<dyn History>,
    store: &CheckpointStore,
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

    let plans: Vec<_> = spec.models.iter().map(|m| m.plan.clone()).collect();
    let inputs: Vec<_> = spec.sources.iter().map(|s| (s.name.clone(), s.schema.clone())).collect();
    let mut dataflow = Dataflow::build(&plans, &inputs)?;
    let mut sums: BTreeMap<Relation, Sum> = BTreeMap::new();
    let collect = |sums: &mut BTreeMap<Relation, Sum>,
                   output: weir_incremental::dataflow::StepOutput|
     -> Result<(), PipelineError> {
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
        let failed = |e: datafusion::error::DataFusionError| PipelineError::Contents(e.into());
        let table = snapshot.table(&source.name).await?;
        let mut stream =
            SessionContext::new().read_table(table).map_err(failed)?.execute_stream().await.map_err(failed)?;
        let mut waiting: Vec<RecordBatch> = Vec::new();
        let mut waiting_rows = 0;
        let mut read = 0u64;
        let mut total = crate::contents::Totals::default();
        loop {
            let batch = stream.next().await.transpose().map_err(failed)?;
            let last = batch.is_none();
            if let Some(batch) = batch {
                waiting_rows += batch.num_rows();
                waiting.push(RecordBatch::try_new(source.schema.clone(), batch.columns().to_vec())?);
            }
            if waiting_rows >= STEP_ROWS || (last && waiting_rows > 0) {
                let rows = arrow::compute::concat_batches(&source.schema, &waiting)?;
                waiting.clear();
                read += waiting_rows as u64;
                waiting_rows = 0;
                let change = Change::new(source.name.clone(), Delta::inserts(rows))?;
                total.rows += change.rows;
                total.checksum = total.checksum.wrapping_add(change.checksum);
                if plan.sources.contains(&source.name) {
                    core.readmit(&source.name, &change.delta.rows)?;
                }
                let step = HashMap::from([(source.name.clone(), change.delta)]);
                collect(&mut sums, dataflow.step(now, &step)?)?;
                progress(&source.name, read);
            }
            if last {
                break;
            }
        }
        totals.insert(source.name.to_string(), total);
    }

    for name in plan.dropped.iter().chain(&plan.models) {
        history.drop_relation(name).await?;
    }
    let epoch = core.epoch() + 1;
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
        totals.insert(
            info.name.to_string(),
            crate::contents::Totals { rows: contents.rows, checksum: contents.checksum },
        );
        let mut delta = contents.delta;
        if plan.models.contains(&info.name) {
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
    core.commit_marker(json!({"marker": "rebuild", "relations": rebuilt}))?;
    core.contents().landed(epoch);
    core.adopt(dataflow, &totals);
    if let Some(mut pending) = core.take_checkpoint() {
        pending.write(store)?;
    }
    core.release(epoch)?;
    Ok(epoch)
}
