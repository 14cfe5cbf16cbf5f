//! Runs test cases: given rows, expected rows, in both tempos and over several cuts.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::Schema;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use weir_environment::Random;
use weir_incremental::batch::BatchLimits;
use weir_incremental::dataflow::Dataflow;
use weir_incremental::planner::ModelPlan;
use weir_incremental::{Delta, Relation, batch};
use weir_project::TestCase;

use crate::core::PipelineError;
use crate::keyed::Positions;
use crate::prepare::micros;
use crate::spec::{PipelineSpec, SourceSpec};

/// What a case came to.
#[derive(Debug, Clone)]
pub struct CaseResult {
    /// Its name.
    pub name: String,
    /// Why it fails; none: it passes.
    pub failures: Vec<String>,
}

/// How the rows of a case are cut into epochs.
#[derive(Debug, Clone, Copy)]
enum Cut {
    Whole,
    EachRow,
    Random,
}

/// Runs one case in stream (all at once, row by row, cut at random) and in batch.
pub async fn run_case(spec: &PipelineSpec, case: &TestCase, random: &dyn Random) -> Result<CaseResult, PipelineError> {
    let mut failures = Vec::new();
    let plans = needed(spec, case);
    let given = given_rows(spec, case)?;
    let now = case.now.unwrap_or_else(|| newest_time(spec, &given));
    let contents = batch_contents(spec, &plans, &given, now).await?;
    for expectation in &case.expect {
        let Some(rows) = contents.get(&expectation.relation) else {
            failures.push(format!("there is no relation `{}`", expectation.relation));
            continue;
        };
        if let Some(difference) = differ(&expectation.rows, rows)? {
            failures.push(format!("`{}` in batch:\n{difference}", expectation.relation));
        }
    }
    for (cut, label) in [(Cut::Whole, "all at once"), (Cut::EachRow, "row by row"), (Cut::Random, "cut at random")] {
        let live = stream_contents(spec, &plans, &given, now, cut, random).await?;
        for expectation in &case.expect {
            let Some(rows) = live.get(&expectation.relation) else { continue };
            if let Some(difference) = differ(&expectation.rows, rows)? {
                failures.push(format!("`{}` in stream, {label}:\n{difference}", expectation.relation));
            }
        }
    }
    failures.dedup();
    Ok(CaseResult { name: case.name.clone(), failures })
}

type Given = BTreeMap<Relation, RecordBatch>;

/// The models that the case expects rows of, and those that they read.
fn needed(spec: &PipelineSpec, case: &TestCase) -> Vec<ModelPlan> {
    let mut wanted: Vec<Relation> = case.expect.iter().map(|e| e.relation.clone()).collect();
    for model in spec.models.iter().rev() {
        if wanted.contains(&model.plan.name) {
            wanted.extend(model.plan.reads.iter().cloned());
        }
    }
    spec.models.iter().filter(|m| wanted.contains(&m.plan.name)).map(|m| m.plan.clone()).collect()
}

/// Rows of each source: the contract's columns as given, then the enriched ones.
fn given_rows(spec: &PipelineSpec, case: &TestCase) -> Result<Given, PipelineError> {
    let mut given = Given::new();
    for rows in &case.given {
        let Some(source) = spec.sources.iter().find(|s| s.name == rows.source) else { continue };
        let enriched = source.reader.enrich(&rows.rows).map_err(PipelineError::State)?;
        let all = match given.get(&rows.source) {
            Some(before) => arrow::compute::concat_batches(&source.schema, [before, &enriched])?,
            None => enriched,
        };
        given.insert(rows.source.clone(), all);
    }
    Ok(given)
}

fn times(source: &SourceSpec, rows: &RecordBatch) -> Vec<i64> {
    let values = source.reader.time_column().and_then(|c| micros(rows.column(c)));
    match values {
        None => vec![0; rows.num_rows()],
        Some(values) => {
            let values = arrow::array::AsArray::as_primitive::<arrow::datatypes::Int64Type>(&values);
            values.iter().map(|v| v.unwrap_or_default()).collect()
        }
    }
}

fn newest_time(spec: &PipelineSpec, given: &Given) -> i64 {
    let newest = |(name, rows): (&Relation, &RecordBatch)| {
        spec.sources.iter().find(|s| s.name == *name).and_then(|s| times(s, rows).into_iter().max())
    };
    given.iter().filter_map(newest).max().unwrap_or_default()
}

fn positions(source: &SourceSpec, rows: &RecordBatch, offset: usize) -> Positions {
    let count = rows.num_rows();
    Positions {
        partitions: vec![0; count],
        offsets: (offset..offset + count).map(|o| o as u64).collect(),
        arrivals: (offset..offset + count).map(|o| o as i64).collect(),
        times: times(source, rows),
    }
}

/// Contents of every relation after all rows, in batch.
async fn batch_contents(
    spec: &PipelineSpec,
    plans: &[ModelPlan],
    given: &Given,
    now: i64,
) -> Result<HashMap<Relation, Vec<RecordBatch>>, PipelineError> {
    let failed = |e: datafusion::error::DataFusionError| PipelineError::Contents(e.into());
    let mut contents: HashMap<Relation, Vec<RecordBatch>> = HashMap::new();
    for source in &spec.sources {
        let mut admission = source.admission()?;
        let rows = match given.get(&source.name) {
            None => Vec::new(),
            Some(rows) => vec![admission.apply(rows, &positions(source, rows, 0))?.consolidate()?.expand()?],
        };
        contents.insert(source.name.clone(), rows);
    }
    for plan in plans {
        let mut tables: HashMap<Relation, Arc<dyn TableProvider>> = HashMap::new();
        for name in &plan.reads {
            let rows = contents.get(name).cloned().unwrap_or_default();
            let schema = spec.schema(name).unwrap_or_else(|| Arc::new(Schema::empty()));
            tables.insert(name.clone(), Arc::new(MemTable::try_new(schema, vec![rows]).map_err(failed)?));
        }
        let output = batch::run(plan, &|name| tables.get(name).cloned(), now, BatchLimits::default()).await?;
        contents.insert(plan.name.clone(), output.rows);
    }
    Ok(contents)
}

/// Contents of every relation after all rows, by deltas; models that are recomputed are so at the end.
async fn stream_contents(
    spec: &PipelineSpec,
    plans: &[ModelPlan],
    given: &Given,
    now: i64,
    cut: Cut,
    random: &dyn Random,
) -> Result<HashMap<Relation, Vec<RecordBatch>>, PipelineError> {
    let is_recomputed = |plan: &&ModelPlan| spec.recomputed().any(|model| model.plan.name == plan.name);
    let (recomputed, kept): (Vec<&ModelPlan>, Vec<&ModelPlan>) = plans.iter().partition(is_recomputed);
    let sources = spec.sources.iter().map(|s| (s.name.clone(), s.schema.clone()));
    let inputs: Vec<_> = sources.chain(recomputed.iter().map(|m| (m.name.clone(), m.schema.clone()))).collect();
    let mut dataflow = Dataflow::build(&kept.into_iter().cloned().collect::<Vec<_>>(), &inputs)?;
    let mut admissions = Vec::new();
    let mut offsets = HashMap::new();
    for source in &spec.sources {
        admissions.push((source, source.admission()?));
        offsets.insert(source.name.clone(), 0usize);
    }
    let mut deltas: HashMap<Relation, Vec<Delta>> = HashMap::new();
    loop {
        let mut step = HashMap::new();
        let mut open = false;
        for (source, admission) in &mut admissions {
            let Some(rows) = given.get(&source.name) else { continue };
            let offset = offsets[&source.name];
            let left = rows.num_rows() - offset;
            let count = match cut {
                Cut::Whole => left,
                Cut::EachRow => left.min(1),
                Cut::Random => (random.next_u64() % (left as u64 + 1)) as usize,
            };
            open |= left > 0;
            if count > 0 {
                let part = rows.slice(offset, count);
                let delta = admission.apply(&part, &positions(source, &part, offset))?;
                deltas.entry(source.name.clone()).or_default().push(delta.clone());
                step.insert(source.name.clone(), delta);
                offsets.insert(source.name.clone(), offset + count);
            }
        }
        let output = dataflow.step(now, &step)?;
        for (name, delta) in output.models {
            deltas.entry(name).or_default().push(delta);
        }
        if !open {
            break;
        }
    }
    for plan in recomputed {
        let mut tables: HashMap<Relation, Arc<dyn TableProvider>> = HashMap::new();
        for name in &plan.reads {
            let schema = spec.schema(name).unwrap_or_else(|| Arc::new(Schema::empty()));
            let sum = Delta::concat(&schema, deltas.get(name).map_or(&[][..], Vec::as_slice))?.consolidate()?;
            let table = MemTable::try_new(schema, vec![vec![sum.expand()?]]);
            tables.insert(name.clone(), Arc::new(table.map_err(|e| PipelineError::Contents(e.into()))?));
        }
        let output = batch::run(plan, &|name| tables.get(name).cloned(), now, BatchLimits::default()).await?;
        let rows: Vec<Delta> = output.rows.into_iter().map(Delta::inserts).collect();
        let contents = Delta::concat(&plan.schema, &rows)?;
        deltas.entry(plan.name.clone()).or_default().push(contents.clone());
        for (name, delta) in dataflow.step(now, &HashMap::from([(plan.name.clone(), contents)]))?.models {
            deltas.entry(name).or_default().push(delta);
        }
    }
    let mut contents = HashMap::new();
    for name in spec.sources.iter().map(|s| &s.name).chain(plans.iter().map(|p| &p.name)) {
        let Some(schema) = spec.schema(name) else { continue };
        let sum = Delta::concat(&schema, deltas.get(name).map_or(&[][..], Vec::as_slice))?.consolidate()?;
        contents.insert(name.clone(), vec![sum.expand()?]);
    }
    Ok(contents)
}

/// Compares the columns that are expected; None when equal, else the rows that only one side has.
fn differ(expected: &RecordBatch, found: &[RecordBatch]) -> Result<Option<String>, PipelineError> {
    let schema = expected.schema();
    let mut parts = vec![Delta::inserts(expected.clone())];
    for batch in found {
        let mut columns = Vec::new();
        for field in schema.fields() {
            let column = batch.column(batch.schema().index_of(field.name())?);
            columns.push(cast(column, field.data_type())?);
        }
        parts.push(Delta::inserts(RecordBatch::try_new(schema.clone(), columns)?).negate());
    }
    let difference = Delta::concat(&schema, &parts)?.consolidate()?;
    if difference.is_empty() {
        return Ok(None);
    }
    let mut order: Vec<u32> = (0..difference.len() as u32).collect();
    order.sort_by_key(|i| difference.weights.value(*i as usize));
    let shown = take_record_batch(&difference.rows, &UInt32Array::from(order.clone()))?;
    let rendered = weir_schemas::to_json_rows(&shown);
    let line = |(row, index): (serde_json::Value, &u32)| {
        let weight = difference.weights.value(*index as usize);
        let side = if weight > 0 { "missing " } else { "surplus " };
        format!("  {side} {row}{}", if weight.abs() > 1 { format!(" ({} times)", weight.abs()) } else { String::new() })
    };
    Ok(Some(rendered.into_iter().zip(&order).map(line).collect::<Vec<_>>().join("\n")))
}
