//! What the server and the command line ask of a pipeline: queries at one epoch, lookups, status, verification.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::config::Dialect;
use datafusion::datasource::MemTable;
use datafusion::error::DataFusionError;
use datafusion::prelude::SessionContext;
use futures::StreamExt;
use serde_json::json;
use tokio::sync::{mpsc, oneshot, watch};
use weir_environment::Workers;
use weir_incremental::Relation;
use weir_incremental::UnboundedState;
use weir_incremental::batch::BatchLimits;
use weir_incremental::planner::Planner;
use weir_pipeline::check::{CheckState, Waiver};
use weir_pipeline::contents::{Contents, Snapshot};
use weir_pipeline::core::SharedLedger;
use weir_pipeline::keyed::SharedIndex;
use weir_pipeline::ledger::{self, LedgerVerdict};
use weir_pipeline::measure::shown;
use weir_pipeline::replay::prepare_replay;
use weir_pipeline::runtime::{Control as LoopControl, Progress};
use weir_pipeline::spec::{ModelSpec, PipelineSpec};
use weir_pipeline::verify::{Verification, verify};
use weir_server::{Backend, Control, Failure, FailureKind, KeyColumn, Lookup, Place, QueryAnswer, QueryLimits};

use crate::backups::Backups;
use crate::mirror::DataMirror;
use crate::{ledger_tables, operators};

mod why;

pub use why::Origins;

/// A pipeline as seen from outside, running or only recovered.
pub struct Service {
    spec: Arc<PipelineSpec>,
    contents: Arc<Contents>,
    indexes: BTreeMap<Relation, SharedIndex>,
    ledger: SharedLedger,
    progress: Arc<Progress>,
    origins: Option<Origins>,
    control: Option<mpsc::Sender<LoopControl>>,
    stop: Option<watch::Sender<bool>>,
    mirror: Option<Arc<DataMirror>>,
    backups: Option<Backups>,
    started: std::time::Instant,
    /// Held by whoever sends records through again: what it takes out of the quarantine is there until it is done.
    replaying: tokio::sync::Mutex<()>,
}

/// What a [`Service`] is made of.
pub struct ServiceParts {
    /// The project, compiled.
    pub spec: Arc<PipelineSpec>,
    /// Contents of all relations.
    pub contents: Arc<Contents>,
    /// Lookups of keyed models.
    pub indexes: BTreeMap<Relation, SharedIndex>,
    /// The ledger's file.
    pub ledger: SharedLedger,
    /// Progress of the loop.
    pub progress: Arc<Progress>,
    /// Where rows came from, for those who ask why a row is there.
    pub origins: Option<Origins>,
    /// The loop, where one runs.
    pub control: Option<mpsc::Sender<LoopControl>>,
    /// Ends the run.
    pub stop: Option<watch::Sender<bool>>,
    /// The second copy of the data folder.
    pub mirror: Option<Arc<DataMirror>>,
    /// What backups are made of, where they can be asked for.
    pub backups: Option<Backups>,
}

/// Relations of Weir's own that are made when they are asked for.
const SYSTEM_TABLES: [&str; 10] = [
    "weir.sources",
    "weir.models",
    "weir.measures",
    "weir.checks",
    "weir.violations",
    "weir.epochs",
    "weir.ledger",
    "weir.ledger_measures",
    "weir.sinks",
    "weir.operators",
];

pub(crate) fn internal(error: impl std::fmt::Display) -> Failure {
    Failure::new(FailureKind::Internal, error.to_string())
}

impl Service {
    /// A service over a pipeline.
    pub fn new(parts: ServiceParts) -> Self {
        Self {
            spec: parts.spec,
            contents: parts.contents,
            indexes: parts.indexes,
            ledger: parts.ledger,
            progress: parts.progress,
            origins: parts.origins,
            control: parts.control,
            stop: parts.stop,
            mirror: parts.mirror,
            backups: parts.backups,
            started: std::time::Instant::now(),
            replaying: tokio::sync::Mutex::default(),
        }
    }

    /// Entries of the ledger as JSON, oldest first.
    fn ledger_entries(&self) -> Result<Vec<serde_json::Value>, Failure> {
        let mut entries = Vec::new();
        let stored = self.ledger.lock().entries(0);
        for entry in stored {
            let entry = entry.map_err(internal)?;
            let mut value: serde_json::Value = serde_json::from_slice(&entry.payload).map_err(internal)?;
            value["hash"] = json!(entry.hash.to_string());
            entries.push(value);
        }
        Ok(entries)
    }

    /// The tables of a snapshot that a statement names, system relations among them.
    async fn tables(
        &self,
        snapshot: &Snapshot,
        names: &[Relation],
    ) -> Result<Vec<(Relation, Arc<dyn TableProvider>)>, Failure> {
        let mut tables = Vec::new();
        for name in names {
            let table = match name.as_ref() {
                "weir.sources" => self.sources_table(snapshot)?,
                "weir.models" => self.models_table(snapshot)?,
                "weir.checks" => self.checks_table(snapshot)?,
                "weir.epochs" => ledger_tables::epochs(&self.ledger_entries()?)?,
                "weir.ledger" => ledger_tables::relations(&self.ledger_entries()?)?,
                "weir.ledger_measures" => ledger_tables::measures(&self.ledger_entries()?)?,
                "weir.violations" => ledger_tables::violations(&self.ledger_entries()?)?,
                "weir.measures" => self.measures_table(snapshot)?,
                "weir.sinks" => self.sinks_table()?,
                "weir.operators" => self.operators_table()?,
                _ => match snapshot.table(name).await {
                    Ok(table) => table,
                    Err(weir_pipeline::contents::ContentsError::Unknown(_)) => continue,
                    Err(error) => return Err(internal(error)),
                },
            };
            tables.push((name.clone(), table));
        }
        Ok(tables)
    }

    fn sources_table(&self, snapshot: &Snapshot) -> Result<Arc<dyn TableProvider>, Failure> {
        let counts = self.contents.counts();
        let sources = &self.spec.sources;
        let count = |pick: fn(&weir_pipeline::admission::Counts) -> u64| -> ArrayRef {
            let of = |s: &weir_pipeline::spec::SourceSpec| counts.get(s.name.as_ref()).map_or(0, pick) as i64;
            Arc::new(sources.iter().map(of).collect::<Int64Array>())
        };
        let rows = sources.iter().map(|s| snapshot.totals(&s.name).rows).collect::<Int64Array>();
        memory_table(vec![
            ("name", strings(sources.iter().map(|s| s.name.to_string()))),
            ("input", strings(sources.iter().map(|s| s.input.clone()))),
            ("records", count(|c| c.records)),
            ("quarantined", count(|c| c.quarantined)),
            ("admitted", count(|c| c.admitted)),
            ("late", count(|c| c.late)),
            ("duplicate", count(|c| c.duplicate)),
            ("superseded", count(|c| c.superseded)),
            ("rows", Arc::new(rows)),
        ])
    }

    fn models_table(&self, snapshot: &Snapshot) -> Result<Arc<dyn TableProvider>, Failure> {
        let models = &self.spec.models;
        let rows = models.iter().map(|m| snapshot.totals(&m.plan.name).rows).collect::<Int64Array>();
        let computed = |m: &ModelSpec| snapshot.recomputed(&m.plan.name).map(|at| at.epoch as i64);
        let checksums = models.iter().map(|m| format!("{:032x}", snapshot.totals(&m.plan.name).checksum));
        memory_table(vec![
            ("name", strings(models.iter().map(|m| m.plan.name.to_string()))),
            ("key", strings(models.iter().map(|m| m.key.join(", ")))),
            ("rows", Arc::new(rows)),
            ("append_only", Arc::new(models.iter().map(|m| Some(m.plan.append_only)).collect::<BooleanArray>())),
            ("checksum", strings(checksums)),
            ("computed_at", Arc::new(models.iter().map(computed).collect::<Int64Array>())),
            (
                "reads",
                strings(models.iter().map(|m| m.plan.reads.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "))),
            ),
        ])
    }

    fn measures_table(&self, snapshot: &Snapshot) -> Result<Arc<dyn TableProvider>, Failure> {
        let mut rows: Vec<(String, String, Option<String>, Option<String>)> = Vec::new();
        for relation in self.spec.sources.iter().map(|s| &s.name).chain(self.spec.models.iter().map(|m| &m.plan.name)) {
            for total in snapshot.measures(relation) {
                let row = |group, sum| (relation.to_string(), total.name.to_string(), group, sum);
                match &total.sums {
                    None => rows.push(row(None, None)),
                    Some(sums) => {
                        rows.extend(sums.groups().map(|(group, sum)| row(Some(shown(group)), Some(sum.to_string()))));
                    }
                }
            }
        }
        memory_table(vec![
            ("relation", strings(rows.iter().map(|r| r.0.clone()))),
            ("measure", strings(rows.iter().map(|r| r.1.clone()))),
            ("group_key", Arc::new(rows.iter().map(|r| r.2.clone()).collect::<StringArray>())),
            ("total", Arc::new(rows.iter().map(|r| r.3.clone()).collect::<StringArray>())),
            ("epoch", Arc::new(Int64Array::from_value(snapshot.epoch as i64, rows.len()))),
        ])
    }

    fn checks_table(&self, snapshot: &Snapshot) -> Result<Arc<dyn TableProvider>, Failure> {
        let checks: Vec<_> = self.spec.checks().map(|(name, check)| (name, check, snapshot.check(name))).collect();
        let since = |state: &CheckState| state.opened.or(state.exceeded);
        let epochs = checks.iter().map(|(_, _, state)| since(state).map(|at| at.epoch as i64)).collect::<Int64Array>();
        let clocks = checks.iter().map(|(_, _, state)| since(state).map(|at| at.clock));
        let waiver = |part: fn(&Waiver) -> &String| -> ArrayRef {
            Arc::new(checks.iter().map(|(_, _, s)| s.waived.as_ref().map(part)).collect::<StringArray>())
        };
        memory_table(vec![
            ("name", strings(checks.iter().map(|(name, ..)| name.to_string()))),
            ("severity", strings(checks.iter().map(|(_, check, _)| check.severity.name().to_owned()))),
            ("state", strings(checks.iter().map(|(_, _, state)| standing(state).to_owned()))),
            ("rows", Arc::new(checks.iter().map(|(name, ..)| snapshot.totals(name).rows).collect::<Int64Array>())),
            ("tolerance", Arc::new(checks.iter().map(|(_, c, _)| c.tolerance as i64).collect::<Int64Array>())),
            ("since_epoch", Arc::new(epochs)),
            ("since", Arc::new(clocks.collect::<TimestampMicrosecondArray>().with_timezone("UTC"))),
            ("waived_by", waiver(|waiver| &waiver.by)),
            ("waived_why", waiver(|waiver| &waiver.why)),
        ])
    }

    fn sinks_table(&self) -> Result<Arc<dyn TableProvider>, Failure> {
        let feeds: Vec<_> =
            self.progress.feeds.lock().iter().map(|(name, status)| (name.clone(), status.lock().clone())).collect();
        memory_table(vec![
            ("name", strings(feeds.iter().map(|f| f.0.clone()))),
            ("relation", strings(feeds.iter().map(|f| f.1.relation.clone()))),
            ("epoch", Arc::new(feeds.iter().map(|f| f.1.cursor.map(|c| c as i64)).collect::<Int64Array>())),
            ("failure", Arc::new(feeds.iter().map(|f| f.1.failure.clone()).collect::<StringArray>())),
        ])
    }

    fn operators_table(&self) -> Result<Arc<dyn TableProvider>, Failure> {
        let (told, seconds) = self.progress.activity.lock().ask();
        let unbounded: Vec<UnboundedState> = self.spec.unbounded().into_iter().map(|(_, state)| state).collect();
        memory_table(operators::columns(&told, seconds, &unbounded))
    }

    /// Replays the ledger and holds it against the totals of a snapshot. The lock is held for as long as it takes to name
    /// the files.
    async fn replay_ledger(&self, snapshot: &Snapshot) -> Result<LedgerVerdict, Failure> {
        let entries = self.ledger.lock().entries(0);
        let (epoch, held) = (snapshot.epoch, snapshot.all_totals());
        let replayed = tokio::task::spawn_blocking(move || ledger::replay(entries, epoch, &held)).await;
        replayed.map_err(internal)?.map_err(internal)
    }

    /// Verifies all models at the present epoch.
    pub async fn verify_all(&self, progress: &(dyn Fn(&str) + Send + Sync)) -> Result<Verification, Failure> {
        let snapshot = self.contents.pin();
        let sources: Vec<Relation> = self.spec.sources.iter().map(|s| s.name.clone()).collect();
        let replayed = self.replay_ledger(&snapshot).await?;
        let limits = BatchLimits { threads: Workers::of_the_machine().threads(), ..BatchLimits::default() };
        let verified = verify(&snapshot, &sources, &self.spec.models, limits, progress).await.map_err(internal)?;
        Ok(Verification { ledger: Some(replayed), ..verified })
    }
}

/// How a check stands, in a word.
fn standing(state: &CheckState) -> &'static str {
    match state {
        CheckState { waived: Some(_), .. } => "waived",
        CheckState { opened: Some(_), .. } => "open",
        CheckState { exceeded: Some(_), .. } => "grace",
        _ => "clear",
    }
}

pub(crate) fn strings(values: impl Iterator<Item = String>) -> ArrayRef {
    Arc::new(values.map(Some).collect::<StringArray>())
}

pub(crate) fn memory_table(columns: Vec<(&str, ArrayRef)>) -> Result<Arc<dyn TableProvider>, Failure> {
    let fields: Vec<Field> = columns.iter().map(|(n, c)| Field::new(*n, c.data_type().clone(), true)).collect();
    let schema = Arc::new(Schema::new(fields));
    let batch = RecordBatch::try_new(schema.clone(), columns.into_iter().map(|c| c.1).collect()).map_err(internal)?;
    Ok(Arc::new(MemTable::try_new(schema, vec![vec![batch]]).map_err(internal)?))
}

#[async_trait]
impl Backend for Service {
    async fn query(&self, sql: &str, limits: &QueryLimits) -> Result<QueryAnswer, Failure> {
        let snapshot = self.contents.pin();
        let mut known: Vec<Relation> = snapshot.relations().map(|i| i.name.clone()).collect();
        known.extend(SYSTEM_TABLES.map(Relation::from));
        let names = named_relations(sql, &known).map_err(query_failure)?;
        let tables = self.tables(&snapshot, &names).await?;
        let planner = Planner::new(&weir_functions::register).map_err(internal)?;
        let limits = BatchLimits { memory_max: Some(limits.memory_max), ..BatchLimits::default() };
        let session = planner.query_session(&tables, snapshot.clock, limits).map_err(internal)?;
        let frame = session.sql(sql).await.map_err(|e| with_hint(query_failure(e), &known))?;
        let answer = frame.execute_stream().await.map_err(query_failure)?;
        let epoch = snapshot.epoch;
        let schema: SchemaRef = answer.schema();
        // The pin lives as long as the answer is read.
        let batches = answer.map(move |batch| {
            let _pinned = &snapshot;
            batch.map_err(query_failure)
        });
        Ok(QueryAnswer { epoch, schema, batches: Box::pin(batches) })
    }

    fn key(&self, table: &str) -> Result<Vec<KeyColumn>, Failure> {
        let relations = self.spec.relations();
        let Some(info) = relations.iter().find(|r| r.name.as_ref() == table) else {
            return Err(Failure::new(FailureKind::NotFound, format!("there is no relation `{table}`")));
        };
        if info.key.is_empty() || !self.indexes.contains_key(&info.name) {
            let mut failure = Failure::new(FailureKind::Conflict, format!("`{table}` is not a model with a key"));
            failure.hint = Some("declare one: `-- weir: key = [\"column\"]`".into());
            return Err(failure);
        }
        let column = |name: &String| KeyColumn {
            name: name.clone(),
            data_type: info.schema.field_with_name(name).map_or(DataType::Null, |f| f.data_type().clone()),
        };
        Ok(info.key.iter().map(column).collect())
    }

    fn lookup(&self, table: &str, key: &[ArrayRef]) -> Result<Lookup, Failure> {
        let Some(index) = self.indexes.get(table) else {
            return Err(Failure::new(FailureKind::NotFound, format!("there is no keyed model `{table}`")));
        };
        let row = index.read().lookup(key).map_err(internal)?;
        Ok(Lookup { epoch: self.contents.now().0, row })
    }

    fn status(&self) -> serde_json::Value {
        let (epoch, clock) = self.contents.now();
        let totals = self.contents.totals();
        let (_, rows) = *self.progress.admitted.lock();
        let feeds: BTreeMap<String, _> =
            self.progress.feeds.lock().iter().map(|(n, s)| (n.clone(), s.lock().clone())).collect();
        let rows_of = |name: &str| totals.get(name).map_or(0, |t| t.rows);
        let models = self.spec.models.iter().filter(|model| model.check.is_none());
        let models: BTreeMap<&str, _> =
            models.map(|m| (m.plan.name.as_ref(), json!({"rows": rows_of(&m.plan.name)}))).collect();
        let snapshot = self.contents.pin();
        let checks: BTreeMap<&str, _> = self
            .spec
            .checks()
            .map(|(name, check)| {
                let state = standing(&snapshot.check(name));
                (name.as_ref(), json!({"state": state, "severity": check.severity.name(), "rows": rows_of(name)}))
            })
            .collect();
        let counts = self.contents.counts();
        let sources: BTreeMap<&str, _> = self
            .spec
            .sources
            .iter()
            .map(|s| {
                let counts = counts.get(s.name.as_ref()).copied().unwrap_or_default();
                (s.name.as_ref(), json!({"rows": rows_of(&s.name), "counts": counts}))
            })
            .collect();
        json!({
            "running": self.control.is_some(),
            "epoch": epoch,
            "clock": clock,
            "landed": self.contents.landed_epoch(),
            "uptime_seconds": self.started.elapsed().as_secs(),
            "admitted_since_start": rows,
            "sources": sources,
            "models": models,
            "checks": checks,
            "quarantined": rows_of(weir_pipeline::spec::QUARANTINE),
            "late": rows_of(weir_pipeline::spec::LATE),
            "errors": rows_of(weir_pipeline::spec::ERRORS),
            "sinks": feeds,
            "input_failures": *self.progress.input_failures.lock(),
            "waiting": *self.progress.waiting.lock(),
            "delivery_failures": *self.progress.delivery_failures.lock(),
            "mirror": self.mirror.as_ref().map(|mirror| mirror.status()),
            "backup": self.backups.as_ref().and_then(Backups::progress),
            "recompute_failures": *self.progress.recompute_failures.lock(),
        })
    }

    fn ready(&self) -> Result<(), String> {
        Ok(())
    }

    async fn verify(&self, _models: &[String]) -> Result<serde_json::Value, Failure> {
        let verification = self.verify_all(&|_| {}).await?;
        let mut value = serde_json::to_value(&verification).map_err(internal)?;
        value["same"] = json!(verification.equal());
        Ok(value)
    }

    async fn why(&self, question: serde_json::Value, limits: &QueryLimits) -> Result<serde_json::Value, Failure> {
        let question = serde_json::from_value(question)
            .map_err(|error| Failure::new(FailureKind::Request, format!("the question is not understood: {error}")))?;
        serde_json::to_value(self.answer_why(&question, limits.memory_max).await?).map_err(internal)
    }

    async fn control(&self, order: Control) -> Result<serde_json::Value, Failure> {
        let stopping = || Failure::new(FailureKind::Unavailable, "the pipeline is not running");
        match order {
            Control::Stop => {
                let stop = self.stop.as_ref().ok_or_else(stopping)?;
                stop.send_replace(true);
                Ok(json!({"stopping": true}))
            }
            Control::Replay { source, late } => {
                let control = self.control.as_ref().ok_or_else(stopping)?;
                let index = self.spec.sources.iter().position(|s| s.name.as_ref() == source);
                let Some(index) = index else {
                    return Err(Failure::new(FailureKind::NotFound, format!("there is no source `{source}`")));
                };
                let _alone = self.replaying.lock().await;
                let snapshot = self.contents.pin();
                let reader = &self.spec.sources[index].reader;
                let Some(part) = prepare_replay(&snapshot, index, reader, late).await.map_err(internal)? else {
                    return Ok(json!({"replayed": 0, "admitted": 0}));
                };
                let replayed: usize = part.chunks.iter().map(|c| c.len()).sum();
                let (answer, report) = oneshot::channel();
                control.send(LoopControl::Replay(part, answer)).await.map_err(|_| stopping())?;
                let report = report.await.map_err(|_| stopping())?.map_err(internal)?;
                Ok(json!({"replayed": replayed, "admitted": report.rows, "epoch": report.epoch}))
            }
            Control::Waive { check, by, why } => {
                let control = self.control.as_ref().ok_or_else(stopping)?;
                let (answer, report) = oneshot::channel();
                let ask = LoopControl::Waive { check: check.clone(), by, why, answer };
                control.send(ask).await.map_err(|_| stopping())?;
                match report.await.map_err(|_| stopping())?.map_err(internal)? {
                    Some(report) => Ok(json!({"waived": check, "epoch": report.epoch})),
                    None => Err(Failure::new(FailureKind::Conflict, format!("`{check}` is not violated"))),
                }
            }
            Control::CheckLedger => {
                serde_json::to_value(self.replay_ledger(&self.contents.pin()).await?).map_err(internal)
            }
            Control::Backup { to } => {
                let (Some(control), Some(backups)) = (&self.control, &self.backups) else { return Err(stopping()) };
                backups.make(control, &to).await
            }
            Control::Backfill { .. } | Control::Apply => Err(Failure {
                hint: Some("stop `weir run` first, then give the command again".into()),
                ..Failure::new(FailureKind::Conflict, "a rebuild needs the pipeline to be stopped")
            }),
        }
    }
}

/// The relations that a statement reads; all that are known where it asks for the catalog.
fn named_relations(sql: &str, known: &[Relation]) -> Result<Vec<Relation>, DataFusionError> {
    let statement = SessionContext::new().state().sql_to_statement(sql, &Dialect::Generic)?;
    let (references, _) = datafusion::sql::resolve::resolve_table_references(&statement, true)?;
    let mut names = Vec::new();
    for reference in references {
        let name = match reference.schema() {
            None | Some("public") => reference.table().to_owned(),
            Some("information_schema") => return Ok(known.to_vec()),
            Some(schema) => format!("{schema}.{}", reference.table()),
        };
        names.extend(known.iter().find(|k| k.as_ref() == name).cloned());
    }
    if names.is_empty() {
        // SHOW TABLES, or a name that is not there: the answer needs to know what is.
        return Ok(known.to_vec());
    }
    Ok(names)
}

fn with_hint(mut failure: Failure, known: &[Relation]) -> Failure {
    if failure.kind == FailureKind::Request && failure.message.contains("not found") && failure.hint.is_none() {
        let names: Vec<&str> = known.iter().map(AsRef::as_ref).collect();
        failure.hint = Some(format!("relations: {}", names.join(", ")));
    }
    failure
}

fn query_failure(error: DataFusionError) -> Failure {
    let place = error.diagnostic().and_then(|d| d.span).map(|span| Place {
        line: u32::try_from(span.start.line).unwrap_or(u32::MAX),
        column: u32::try_from(span.start.column).unwrap_or(u32::MAX),
    });
    let kind = match error.find_root() {
        DataFusionError::ResourcesExhausted(_) => FailureKind::Limit,
        // The lake's files are ours: that one cannot be read is nothing that was asked for.
        DataFusionError::Internal(_)
        | DataFusionError::External(_)
        | DataFusionError::IoError(_)
        | DataFusionError::ParquetError(_)
        | DataFusionError::ObjectStore(_) => FailureKind::Internal,
        _ => FailureKind::Request,
    };
    Failure { place, ..Failure::new(kind, error.strip_backtrace()) }
}
