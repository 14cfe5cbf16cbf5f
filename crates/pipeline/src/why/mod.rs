//! Why a row of a model is there: the records that made it, step by step; or, where it is not, what became of it.
//!
//! What models make of rows is the engine's to trace ([`weir_incremental::lineage`]). This module reads one pinned epoch
//! for it, and joins the rows of sources that it names with the records they were: by the epoch in which history has them,
//! by the journal's frames of that epoch as long as they are kept, and by reading the input again as long as it is there
//! ([`records`]). What never became a row is looked for where it would have been set aside ([`arrival`]).

mod answer;
mod arrival;
mod records;

pub use answer::{Absent, Answer, FateTold, Present, Question, RecordTold, SourceTold, StepTold};

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, ScalarValue};
use datafusion::logical_expr::{Expr, lit};
use datafusion::prelude::SessionContext;
use futures::{StreamExt, TryStreamExt};
use weir_incremental::lineage::{self, Fate, LineageError, LineageLimits, Lost, RowSet, Step, World};
use weir_incremental::planner::Planner;
use weir_incremental::{ModelPlan, Relation};
use weir_journal::EpochReader;

use crate::contents::{ContentsError, Snapshot};
use crate::core::PipelineError;
use crate::input::InputRef;
use crate::spec::{ERRORS, PipelineSpec, SourceSpec};

/// What questions are answered from.
pub struct Ground<'a> {
    /// The project, compiled.
    pub spec: &'a PipelineSpec,
    /// Each model's text.
    pub sql: &'a BTreeMap<Relation, String>,
    /// The epoch that is asked about.
    pub snapshot: &'a Snapshot,
    /// The epochs that the journal still has.
    pub journal: Option<&'a EpochReader>,
    /// Entries of the ledger, oldest first.
    pub ledger: &'a [serde_json::Value],
    /// The inputs, to be read again.
    pub inputs: &'a BTreeMap<String, InputRef>,
    /// Bounds of what is traced.
    pub limits: LineageLimits,
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum WhyError {
    /// It cannot be asked like this.
    #[error("{message}")]
    Question {
        /// What is wrong.
        message: String,
        /// What to do about it.
        hint: Option<String>,
    },
    /// Too many rows take part.
    #[error(transparent)]
    Lineage(#[from] LineageError),
    /// The pipeline failed.
    #[error(transparent)]
    Pipeline(#[from] PipelineError),
}

impl From<ContentsError> for WhyError {
    fn from(error: ContentsError) -> Self {
        Self::Pipeline(error.into())
    }
}

impl From<datafusion::error::DataFusionError> for WhyError {
    fn from(error: datafusion::error::DataFusionError) -> Self {
        Self::Pipeline(PipelineError::Contents(error.into()))
    }
}

impl From<arrow::error::ArrowError> for WhyError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Pipeline(error.into())
    }
}

fn wrong(message: impl Into<String>, hint: Option<String>) -> WhyError {
    WhyError::Question { message: message.into(), hint }
}

/// Rows of the model that one question is about, at most.
const ROWS_MAX: usize = 20;
/// Rows shown of a step.
const SHOWN_MAX: usize = 5;

/// A plain column by its exact name.
fn column(name: &str) -> Expr {
    Expr::Column(Column::from_name(name))
}

/// Contents of every relation that a model depends on, as each model reads them.
struct Pinned {
    tables: HashMap<(Relation, Relation), Arc<dyn TableProvider>>,
    clocks: HashMap<Relation, i64>,
    /// Kept for as long as they are read.
    _snapshots: Vec<Snapshot>,
}

impl World for Pinned {
    fn table(&self, reader: &Relation, relation: &Relation) -> Option<Arc<dyn TableProvider>> {
        self.tables.get(&(reader.clone(), relation.clone())).cloned()
    }

    fn clock(&self, reader: &Relation) -> i64 {
        self.clocks.get(reader).copied().unwrap_or_default()
    }
}

impl Ground<'_> {
    async fn pinned(&self, models: &[&ModelPlan]) -> Result<Pinned, WhyError> {
        let mut pinned = Pinned { tables: HashMap::new(), clocks: HashMap::new(), _snapshots: Vec::new() };
        for model in models {
            let name = &model.name;
            pinned.tables.insert((name.clone(), name.clone()), self.snapshot.table(name).await?);
            // A model that is recomputed as a whole shows what its inputs were when it was computed last.
            let then = self.snapshot.recomputed(name).map(|computed| self.snapshot.read_by(computed));
            let read = then.as_ref().unwrap_or(self.snapshot);
            for relation in &model.reads {
                pinned.tables.insert((name.clone(), relation.clone()), read.table(relation).await?);
            }
            pinned.clocks.insert(name.clone(), read.clock);
            pinned._snapshots.extend(then);
        }
        Ok(pinned)
    }

    /// The models that a relation depends on, itself among them, in dependency order.
    fn upstream(&self, target: &Relation) -> Vec<&ModelPlan> {
        let models: Vec<&ModelPlan> = self.spec.models.iter().map(|model| &model.plan).collect();
        lineage::upstream(&models, target)
    }

    /// Answers a question.
    ///
    /// # Errors
    /// [`WhyError::Question`] when it cannot be asked so; otherwise when something failed.
    pub async fn answer(&self, question: &Question) -> Result<Answer, WhyError> {
        let target = Relation::from(question.model.as_str());
        let Some(model) = self.spec.models.iter().find(|m| m.plan.name == target) else {
            if let Some(source) = self.spec.sources.iter().find(|source| source.name == target) {
                return self.of_source(question, source).await;
            }
            let names: Vec<&str> = self.spec.models.iter().map(|m| m.plan.name.as_ref()).collect();
            let hint = Some(format!("models: {}", names.join(", ")));
            return Err(wrong(format!("there is no model `{target}`"), hint));
        };
        let wanted = wanted(question, &model.key, &model.plan.schema)?;
        let found = self.rows(question, &target, &model.plan.schema, &wanted).await?;
        match (found.rows.num_rows() > 0, question.not) {
            (true, _) => Ok(Answer::Present(Box::new(self.present(question, &model.plan, found).await?))),
            (false, false) => Ok(Answer::NoSuchRow { model: question.model.clone(), epoch: self.snapshot.epoch }),
            (false, true) if question.condition.is_some() => Err(wrong(
                "an absence is looked for by values, not by a condition",
                Some("give the key that you expect: `weir why --not MODEL column=value`".into()),
            )),
            (false, true) => Ok(Answer::Absent(Box::new(self.absent(&model.plan, &wanted).await?))),
        }
    }

    /// Rows of a relation that a question is about.
    async fn rows(
        &self,
        question: &Question,
        relation: &Relation,
        schema: &arrow::datatypes::SchemaRef,
        wanted: &[(usize, ScalarValue)],
    ) -> Result<FoundRows, WhyError> {
        let mut frame = SessionContext::new().read_table(self.snapshot.table(relation).await?)?;
        for (index, value) in wanted {
            let column = column(schema.field(*index).name());
            frame = frame.filter(if value.is_null() { column.is_null() } else { column.eq(lit(value.clone())) })?;
        }
        let predicate = match &question.condition {
            None => None,
            Some(sql) => {
                let planner = Planner::new(&weir_functions::register)?;
                let planned = planner.expression(schema, sql);
                Some(planned.map_err(|error| wrong(format!("--where: {error}"), error.hint.clone()))?)
            }
        };
        let mut stream = frame.execute_stream().await?;
        let mut found = RowSet::new(schema.clone());
        let mut more = false;
        while let Some(batch) = stream.next().await.transpose()? {
            let mut rows = RecordBatch::try_new(schema.clone(), batch.columns().to_vec())?;
            if let Some(predicate) = &predicate {
                let mask = predicate.evaluate(&rows)?.into_array(rows.num_rows())?;
                let mask = arrow::array::AsArray::as_boolean_opt(&mask)
                    .ok_or_else(|| wrong("--where is not a condition: it must be true or false", None))?;
                rows = arrow::compute::filter_record_batch(&rows, mask)?;
            }
            found.add(&rows)?;
            if found.len() > ROWS_MAX {
                more = true;
                break;
            }
        }
        let rows = found.distinct()?;
        Ok(FoundRows { rows: rows.slice(0, rows.num_rows().min(ROWS_MAX)), more })
    }

    async fn present(&self, question: &Question, model: &ModelPlan, found: FoundRows) -> Result<Present, WhyError> {
        let models = self.upstream(&model.name);
        let world = self.pinned(&models).await?;
        let lineage = lineage::lineage(&models, &model.name, &found.rows, &world, self.limits).await?;
        let mut present = Present {
            model: model.name.to_string(),
            epoch: self.snapshot.epoch,
            clock: answer::instant(self.snapshot.clock),
            rows: weir_schemas::to_json_rows(&found.rows),
            more: found.more,
            reproduced: lineage.reproduced,
            steps: Vec::new(),
            sources: Vec::new(),
        };
        for (relation, rows) in &lineage.relations {
            let whole = lineage.whole.get(relation).map(|why| (*why).to_owned());
            let Some(model) = models.iter().find(|model| model.name == *relation) else {
                let told = self.linked(relation, rows, question.limit, whole).await?;
                present.sources.push(told);
                continue;
            };
            let shown = rows.rows.slice(0, rows.len().min(SHOWN_MAX));
            present.steps.push(StepTold {
                model: relation.to_string(),
                sql: self.sql.get(relation).cloned().unwrap_or_default(),
                reads: model.reads.iter().map(ToString::to_string).collect(),
                rows: rows.weights.values().iter().sum::<i64>().unsigned_abs(),
                shown: weir_schemas::to_json_rows(&shown),
                computed_at: self.snapshot.recomputed(relation).map(|computed| computed.epoch),
                whole,
            });
        }
        Ok(present)
    }

    /// A question about a row of a source itself.
    async fn of_source(&self, question: &Question, source: &SourceSpec) -> Result<Answer, WhyError> {
        let name = &source.name;
        let key: Vec<String> = source.keys.iter().map(|key| source.schema.field(*key).name().clone()).collect();
        let wanted = wanted(question, &key, &source.schema)?;
        let found = self.rows(question, name, &source.schema, &wanted).await?;
        if found.rows.num_rows() > 0 {
            let rows = weir_incremental::Delta::inserts(found.rows.clone());
            let told = self.linked(name, &rows, question.limit, None).await?;
            return Ok(Answer::Present(Box::new(Present {
                model: name.to_string(),
                epoch: self.snapshot.epoch,
                clock: answer::instant(self.snapshot.clock),
                rows: weir_schemas::to_json_rows(&found.rows),
                more: found.more,
                reproduced: true,
                steps: Vec::new(),
                sources: vec![told],
            })));
        }
        if !question.not {
            return Ok(Answer::NoSuchRow { model: question.model.clone(), epoch: self.snapshot.epoch });
        }
        let expressions: Vec<(Expr, ScalarValue)> =
            wanted.iter().map(|(index, value)| (column(source.schema.field(*index).name()), value.clone())).collect();
        let blame = self.arrived(source, &expressions).await?;
        Ok(Answer::Absent(Box::new(Absent {
            model: name.to_string(),
            epoch: self.snapshot.epoch,
            clock: answer::instant(self.snapshot.clock),
            wanted: expressions.iter().map(lineage::equality).collect(),
            blame,
            also: Vec::new(),
        })))
    }

    async fn absent(&self, model: &ModelPlan, wanted: &[(usize, ScalarValue)]) -> Result<Absent, WhyError> {
        let models = self.upstream(&model.name);
        let world = self.pinned(&models).await?;
        let fates = lineage::absence(&models, &model.name, wanted, &world, self.limits).await?;
        let mut told = Vec::new();
        for fate in &fates {
            told.push(self.told(fate).await?);
        }
        if told.is_empty() {
            told.push(FateTold::untraced(&model.name, "its query could not be followed"));
        }
        let blame = told.remove(0);
        let name = |index: &usize| column(model.schema.field(*index).name());
        Ok(Absent {
            model: model.name.to_string(),
            epoch: self.snapshot.epoch,
            clock: answer::instant(self.snapshot.clock),
            wanted: wanted.iter().map(|(index, value)| lineage::equality(&(name(index), value.clone()))).collect(),
            blame,
            also: told,
        })
    }

    fn told<'b>(&'b self, fate: &'b Fate) -> futures::future::BoxFuture<'b, Result<FateTold, WhyError>> {
        Box::pin(async move {
            Ok(match fate {
                Fate::Untraced { model, why } => FateTold::untraced(model, why),
                Fate::Never { model, asks } => FateTold {
                    kind: "never".into(),
                    model: Some(model.to_string()),
                    message: format!("this part of `{model}` never gives such a row: {asks}"),
                    ..FateTold::default()
                },
                Fate::Absent { source, wanted, .. } => {
                    match self.spec.sources.iter().find(|spec| spec.name == *source) {
                        Some(spec) => self.arrived(spec, wanted).await?,
                        None => FateTold::untraced(source, "it is no source whose records are known"),
                    }
                }
                Fate::Lost(lost) => {
                    let mut because = Vec::new();
                    for fate in &lost.because {
                        because.push(self.told(fate).await?);
                    }
                    let mut told = FateTold { because, ..answer::lost(lost, self.sql.get(&lost.model)) };
                    if lost.step == Step::Failure {
                        told.records = self.failures(lost).await?;
                    }
                    told
                }
            })
        })
    }

    /// What the model's error rows say.
    async fn failures(&self, lost: &Lost) -> Result<Vec<RecordTold>, WhyError> {
        let table = self.snapshot.table(&ERRORS.into()).await?;
        let frame = SessionContext::new().read_table(table)?;
        let frame = frame.filter(column("model").eq(lit(lost.model.as_ref())))?.limit(0, Some(SHOWN_MAX))?;
        let batches: Vec<RecordBatch> = frame.execute_stream().await?.try_collect().await?;
        let rows = batches.iter().flat_map(weir_schemas::to_json_rows);
        Ok(rows.map(|row| RecordTold { row, ..RecordTold::default() }).collect())
    }
}

/// Rows that a question is about.
struct FoundRows {
    rows: RecordBatch,
    more: bool,
}

/// The columns and values that a question names.
fn wanted(
    question: &Question,
    key: &[String],
    schema: &arrow::datatypes::SchemaRef,
) -> Result<Vec<(usize, ScalarValue)>, WhyError> {
    if question.key.is_empty() && question.condition.is_none() {
        return Err(wrong(
            "which row?",
            Some(match key {
                [] => "name columns and values (`column=value`), or a condition (--where)".into(),
                key => format!("give its key, {}, or a condition (--where)", key.join(" ")),
            }),
        ));
    }
    let bare = question.key.iter().filter(|(name, _)| name.is_none()).count();
    if bare > 0 && bare != key.len() {
        let message = match key {
            [] => format!("`{}` declares no key, so that a bare value names no row", question.model),
            key => format!("the key of `{}` has {} columns: {}", question.model, key.len(), key.join(", ")),
        };
        return Err(wrong(message, Some("write `column=value`".into())));
    }
    let mut of_key = key.iter();
    let mut wanted = Vec::with_capacity(question.key.len());
    for (name, text) in &question.key {
        let name = match name {
            Some(name) => name.as_str(),
            None => of_key.next().map(String::as_str).unwrap_or_default(),
        };
        let Some(index) = schema.fields().iter().position(|f| f.name().eq_ignore_ascii_case(name)) else {
            let names: Vec<&str> = schema.fields().iter().map(|f| f.name().as_str()).collect();
            let hint = Some(format!("columns: {}", names.join(", ")));
            return Err(wrong(format!("`{}` has no column `{name}`", question.model), hint));
        };
        let data_type = schema.field(index).data_type();
        if data_type.is_nested() {
            return Err(wrong(format!("`{name}` is of type {data_type}, of which no value can be given here"), None));
        }
        let value = ScalarValue::try_from_string(text.clone(), data_type)
            .map_err(|_| wrong(format!("`{text}` is no value of `{name}`, which is of type {data_type}"), None))?;
        wanted.push((index, value));
    }
    Ok(wanted)
}
