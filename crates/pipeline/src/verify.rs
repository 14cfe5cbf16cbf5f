//! Proves that stream and batch agree: recomputes every model in batch from the sources' history as of a pinned epoch, and
//! compares with what is kept; replays the ledger's chain.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use datafusion::prelude::SessionContext;
use serde::Serialize;
use weir_incremental::batch::{BatchLimits, BatchOutput};
use weir_incremental::{Delta, Relation, batch};

use crate::EpochNumber;
use crate::contents::{Snapshot, Totals};
use crate::core::PipelineError;
use crate::feed::FeedSpec;
use crate::ledger::LedgerVerdict;
use crate::measure::shown;
use crate::recompute::run_over;
use crate::spec::{ERRORS, ModelSpec, errors_schema};

/// The verdict on one relation.
#[derive(Debug, Clone, Serialize)]
pub struct Verdict {
    /// The relation.
    pub relation: String,
    /// Rows in batch, each as often as it occurs.
    pub rows: i64,
    /// Whether stream and batch are equal.
    pub equal: bool,
    /// The first rows that only one side has.
    pub differences: Vec<Difference>,
    /// How many rows differ in all.
    pub differing: u64,
    /// Its measures.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub measures: Vec<MeasureVerdict>,
}

/// The verdict on one measure of a relation.
#[derive(Debug, Clone, Serialize)]
pub struct MeasureVerdict {
    /// The measure.
    pub measure: String,
    /// The first group whose sum is not that of the rows: the group, what the ledger has, what the rows come to.
    pub difference: Option<(String, String, String)>,
}

/// Holds the running sums of a relation's measures against those of its rows. A measure that no run has counted yet is
/// not judged.
fn measured(
    snapshot: &Snapshot,
    relation: &Relation,
    rows: &[RecordBatch],
) -> Result<Vec<MeasureVerdict>, PipelineError> {
    let mut verdicts = Vec::new();
    let Some(info) = snapshot.relations().find(|info| info.name == *relation) else { return Ok(verdicts) };
    for (measure, total) in info.measures.iter().zip(snapshot.measures(relation)) {
        let Some(sums) = &total.sums else { continue };
        let difference = sums.difference(&measure.of_batches(rows)?);
        let difference = difference.map(|(group, live, batch)| (shown(&group), live, batch));
        verdicts.push(MeasureVerdict { measure: measure.name.to_string(), difference });
    }
    Ok(verdicts)
}

/// A row that only one side has.
#[derive(Debug, Clone, Serialize)]
pub struct Difference {
    /// `live` or `batch`: the side that has more of it.
    pub only_in: &'static str,
    /// How many times more.
    pub times: u64,
    /// The row, as JSON.
    pub row: serde_json::Value,
}

/// What a verification found.
#[derive(Debug, Clone, Serialize)]
pub struct Verification {
    /// The epoch that was verified.
    pub epoch: EpochNumber,
    /// One verdict a relation.
    pub relations: Vec<Verdict>,
    /// One verdict a sink, where they were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<SinkVerdict>,
    /// What a replay of the ledger came to, where it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ledger: Option<LedgerVerdict>,
}

impl Verification {
    /// Whether everything is equal.
    pub fn equal(&self) -> bool {
        self.relations.iter().all(|v| v.equal)
            && self.sinks.iter().all(|sink| sink.equal != Some(false))
            && self.ledger.iter().all(|ledger| ledger.misfit.is_none())
    }
}

/// Rows shown of those that differ.
const DIFFERENCES_MAX: usize = 10;

/// Verifies all models at the snapshot's epoch. `progress` is told each relation before it is computed.
pub async fn verify(
    snapshot: &Snapshot,
    sources: &[Relation],
    models: &[ModelSpec],
    limits: BatchLimits,
    progress: &(dyn Fn(&str) + Send + Sync),
) -> Result<Verification, PipelineError> {
    let mut tables: HashMap<Relation, Arc<dyn TableProvider>> = HashMap::new();
    let mut verdicts = Vec::new();
    for source in sources {
        progress(source);
        let table = snapshot.table(source).await?;
        // What the ledger's running checksum says of the source must be what history holds.
        let held = collect(table.clone(), &Relation::clone(source)).await?;
        let live = snapshot.totals(source);
        let checksum = checksum(&held)?;
        let rows = held.iter().map(|b| b.num_rows() as i64).sum();
        let measures = measured(snapshot, source, &held)?;
        verdicts.push(Verdict {
            relation: source.to_string(),
            rows,
            equal: checksum == live.checksum
                && rows == live.rows
                && measures.iter().all(|verdict| verdict.difference.is_none()),
            differences: Vec::new(),
            differing: live.rows.abs_diff(rows),
            measures,
        });
        tables.insert(source.clone(), table);
    }
    let mut errors = Vec::new();
    for spec in models {
        let model = &spec.plan;
        progress(&model.name);
        let output = match (spec.recompute_interval, snapshot.recomputed(&model.name)) {
            (None, _) => {
                let lookup = |name: &Relation| tables.get(name).cloned();
                batch::run(model, &lookup, snapshot.clock, limits).await?
            }
            // It shows what its inputs were when it was computed last.
            (Some(_), Some(computed)) => run_over(&snapshot.read_by(computed), model, computed.clock, limits).await?,
            (Some(_), None) => BatchOutput::default(),
        };
        errors.extend(output.errors);
        let verdict = compare(snapshot, &model.name, &model.schema, &output.rows).await?;
        verdicts.push(verdict);
        let table = MemTable::try_new(model.schema.clone(), vec![output.rows])
            .map_err(|e| PipelineError::Contents(e.into()))?;
        tables.insert(model.name.clone(), Arc::new(table));
    }
    let verdict = compare(snapshot, &ERRORS.into(), &errors_schema(), &errors).await?;
    verdicts.push(verdict);
    Ok(Verification { epoch: snapshot.epoch, relations: verdicts, sinks: Vec::new(), ledger: None })
}

pub(crate) async fn collect(
    table: Arc<dyn TableProvider>,
    _relation: &Relation,
) -> Result<Vec<RecordBatch>, PipelineError> {
    let failed = |e: datafusion::error::DataFusionError| PipelineError::Contents(e.into());
    SessionContext::new().read_table(table).map_err(failed)?.collect().await.map_err(failed)
}

fn checksum(batches: &[RecordBatch]) -> Result<u128, PipelineError> {
    let mut sum = 0u128;
    for batch in batches {
        sum = sum.wrapping_add(Delta::inserts(batch.clone()).checksum()?);
    }
    Ok(sum)
}

async fn compare(
    snapshot: &Snapshot,
    relation: &Relation,
    schema: &arrow::datatypes::SchemaRef,
    batch_rows: &[RecordBatch],
) -> Result<Verdict, PipelineError> {
    let rows: i64 = batch_rows.iter().map(|b| b.num_rows() as i64).sum();
    let recorded = snapshot.totals(relation);
    // Both what the running checksum says and what a reader gets must be the batch result.
    let live = collect(snapshot.table(relation).await?, relation).await?;
    let wanted = checksum(batch_rows)?;
    let measures = measured(snapshot, relation, batch_rows)?;
    if wanted == recorded.checksum && rows == recorded.rows && checksum(&live)? == wanted {
        return Ok(Verdict {
            relation: relation.to_string(),
            rows,
            equal: measures.iter().all(|verdict| verdict.difference.is_none()),
            differences: Vec::new(),
            differing: 0,
            measures,
        });
    }
    let mut parts: Vec<Delta> = Vec::new();
    for batch in batch_rows {
        parts.push(Delta::inserts(RecordBatch::try_new(schema.clone(), batch.columns().to_vec())?));
    }
    for batch in &live {
        parts.push(Delta::inserts(RecordBatch::try_new(schema.clone(), batch.columns().to_vec())?).negate());
    }
    let difference = Delta::concat(schema, &parts)?.consolidate()?;
    let differing = difference.weights.values().iter().map(|w| w.unsigned_abs()).sum();
    let shown = difference.len().min(DIFFERENCES_MAX);
    let rendered = weir_schemas::to_json_rows(&difference.rows.slice(0, shown));
    let differences = rendered
        .into_iter()
        .zip(difference.weights.values())
        .map(|(row, weight)| Difference {
            only_in: if *weight > 0 { "batch" } else { "live" },
            times: weight.unsigned_abs(),
            row,
        })
        .collect();
    Ok(Verdict { relation: relation.to_string(), rows, equal: false, differences, differing, measures })
}

/// The verdict on one destination.
#[derive(Debug, Clone, Serialize)]
pub struct SinkVerdict {
    /// The sink.
    pub sink: String,
    /// Rows in the destination.
    pub rows: Option<i64>,
    /// Whether they are those of the relation; None where that cannot be told, as `told` says.
    pub equal: Option<bool>,
    /// What is different, or why nothing can be told.
    pub told: Option<String>,
}

/// Reads a destination back, and holds its rows and checksum against those of the relation at the snapshot's epoch.
pub async fn verify_sink(snapshot: &Snapshot, feed: &mut FeedSpec) -> Result<SinkVerdict, PipelineError> {
    let verdict = |rows, equal, told: Option<String>| SinkVerdict { sink: feed.name.clone(), rows, equal, told };
    let held = match feed.sink.read_back().await {
        Ok(Some(held)) => held,
        Ok(None) => return Ok(verdict(None, None, Some("its values do not come back as they went".into()))),
        Err(error) => return Ok(verdict(None, None, Some(error.to_string()))),
    };
    let rows = Some(held.rows);
    if held.epoch != Some(snapshot.epoch) {
        let at = held.epoch.map_or_else(|| "none of this version".to_owned(), |epoch| format!("epoch {epoch}"));
        return Ok(verdict(rows, None, Some(format!("it holds {at}, not epoch {}", snapshot.epoch))));
    }
    let wanted = match &feed.where_sql {
        None => snapshot.totals(&feed.relation),
        Some(sql) => {
            let failed = |e: datafusion::error::DataFusionError| PipelineError::Contents(e.into());
            let frame = SessionContext::new().read_table(snapshot.table(&feed.relation).await?).map_err(failed)?;
            let condition = frame.parse_sql_expr(sql).map_err(failed)?;
            let kept = frame.filter(condition).map_err(failed)?.collect().await.map_err(failed)?;
            Totals { rows: kept.iter().map(|batch| batch.num_rows() as i64).sum(), checksum: checksum(&kept)? }
        }
    };
    let equal = (held.rows, held.checksum) == (wanted.rows, wanted.checksum);
    let told = (!equal).then(|| match held.rows == wanted.rows {
        true => "as many rows as there should be, but others".to_owned(),
        false => format!("it should have {} rows", wanted.rows),
    });
    Ok(verdict(rows, Some(equal), told))
}
