//! From a project that was read and validated to a pipeline that runs.

use std::sync::Arc;

use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use weir_incremental::planner::Planner;
use weir_project::{Measure, Model, OnError, Project, Refresh, Source};

use crate::measure::MeasureSpec;
use crate::prepare::{SourceReader, SourceReaderSpec};
use crate::spec::{LoopSettings, ModelSpec, PipelineSpec, SourceSpec};

/// Why a valid project does not compile: the validator and the pipeline disagree, which is a mistake of ours, or a file that
/// a format needs is not there.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {message}")]
pub struct CompileError {
    /// The user's file.
    pub file: String,
    /// What does not fit.
    pub message: String,
}

/// A schema with every column nullable, which is what relations have: a contract is enforced by admission, not by the
/// engine.
pub fn nullable(schema: &SchemaRef) -> SchemaRef {
    let fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    Arc::new(Schema::new(fields))
}

fn micros(duration: std::time::Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn measures(declared: &[Measure], schema: &SchemaRef) -> Result<Vec<MeasureSpec>, ArrowError> {
    declared.iter().map(|measure| MeasureSpec::new(measure, schema)).collect()
}

/// Compiles one source.
pub fn compile_source(source: &Source) -> Result<SourceSpec, CompileError> {
    let fail = |message: String| CompileError { file: source.file.display().to_string(), message };
    let format = source.decoding.clone();
    let schema = nullable(&source.schema);
    let raw = nullable(&format.decoder(&source.contract).schema());
    let planner = Planner::new(&weir_functions::register).map_err(|e| fail(e.to_string()))?;
    let expression = |sql: &str| planner.expression(&raw, sql).map_err(|e| fail(e.to_string()));
    let column = |name: &str| schema.index_of(name).map_err(|_| fail(format!("there is no column `{name}`")));
    let predicate = source.where_sql.as_deref().map(expression).transpose()?;
    let enrich = source.enrich.iter().map(|(_, sql)| expression(sql)).collect::<Result<_, _>>()?;
    let columns = |names: &[String]| names.iter().map(|n| column(n)).collect::<Result<Vec<_>, _>>();
    let reader = SourceReader::new(SourceReaderSpec {
        name: source.name.clone(),
        schema: schema.clone(),
        contract: source.contract.clone(),
        format,
        predicate,
        enrich,
        time: source.time.as_deref().map(column).transpose()?,
        ahead_max_us: source.ahead_max.map(micros),
    });
    let dedupe = match &source.dedupe {
        None => None,
        Some(dedupe) => Some((columns(&dedupe.by)?, micros(dedupe.within))),
    };
    Ok(SourceSpec {
        name: source.name.clone(),
        input: source.input.clone(),
        reader: Arc::new(reader.map_err(|e| fail(e.to_string()))?),
        lateness_us: source.lateness.map(micros),
        keys: columns(&source.key)?,
        version: source.version.as_deref().map(column).transpose()?,
        deleted: source.deleted.as_deref().map(column).transpose()?,
        dedupe,
        measures: measures(&source.measures, &schema).map_err(|e| fail(e.to_string()))?,
        quarantine_share_max: source.quarantine_max,
        schema,
    })
}

/// Compiles a whole project.
pub fn compile(project: &Project) -> Result<PipelineSpec, CompileError> {
    let mut sources = project.sources.iter().map(compile_source).collect::<Result<Vec<_>, _>>()?;
    sources.sort_by(|a, b| a.name.cmp(&b.name));
    let compile_model = |model: &Model| {
        let fail = |e: ArrowError| CompileError { file: model.file.display().to_string(), message: e.to_string() };
        Ok(ModelSpec {
            plan: model.plan.clone(),
            key: model.key.clone(),
            hold_on_error: matches!(model.on_error, OnError::Hold),
            recompute_interval: match model.refresh {
                Refresh::Incremental => None,
                Refresh::Full { interval } => Some(interval),
            },
            measures: measures(&model.measures, &model.schema).map_err(fail)?,
            check: model.check.clone(),
        })
    };
    let models = project.models.iter().map(compile_model).collect::<Result<Vec<_>, CompileError>>()?;
    let settings = &project.settings;
    let limit = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    Ok(PipelineSpec {
        folder: project.dir.join(".weir"),
        sources,
        models,
        splits: project.splits.clone(),
        followed: project.sinks.iter().map(|s| s.from.clone()).collect(),
        fingerprint: serde_json::to_string(&project.manifest()).unwrap_or_default(),
        settings: LoopSettings {
            epoch_rows_max: limit(settings.epoch.rows_max),
            epoch_interval_min: settings.epoch.interval_min,
            tail_bytes_max: limit(settings.lake.landing_bytes_max),
            maintenance_interval: settings.lake.compaction_interval,
            landing_interval: settings.lake.landing_interval,
            checkpoint_interval: settings.state.checkpoint_interval,
            recompute_memory_max: limit(settings.query.memory_max),
            state_bytes_max: limit(settings.state.memory_max),
            ..LoopSettings::default()
        },
    })
}
