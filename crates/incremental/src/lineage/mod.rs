//! Lineage: which rows of the sources made a row of a model, and at which step a row that was expected fell out.
//!
//! Rows are traced backwards over the canonical plan, node by node, in batch over the contents of one epoch, as Cui and
//! Widom describe it ("Lineage Tracing for General Data Warehouse Transformations", 2001): of the rows that are wanted of
//! a node follow those that are wanted of its inputs ([`descend`]).
//!
//! The law: the models, run over only the rows that are named, give the wanted rows, as often as they are there. It is not
//! taken on trust. Each answer is run, and where it does not hold (a row that is named also passes a NOT EXISTS whose other
//! side is not named), tracing goes on with what came out wrong as a second world to look into, until it holds or nothing
//! new is found; then whole sources are named, and [`Lineage::whole`] says so.

mod absence;
mod condition;
mod descend;
mod pairs;
mod row_set;
mod select;

pub use absence::{Fate, Lost, Step, absence, equality, shown};
pub use condition::{Condition, narrowing};
pub use row_set::{RowIndex, RowSet};

use crate::batch::{self, BatchLimits};
use crate::delta::{Delta, Relation};
use crate::operators::EngineError;
use crate::planner::ModelPlan;
use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Contents of relations, as models read them.
pub trait World: Send + Sync {
    /// What the model `reader` reads of `relation`; a model is also a reader of itself.
    fn table(&self, reader: &Relation, relation: &Relation) -> Option<Arc<dyn TableProvider>>;

    /// The clock of the contents of the model `reader`, µs UTC.
    fn clock(&self, reader: &Relation) -> i64;
}

/// Bounds of one question.
#[derive(Debug, Clone, Copy)]
pub struct LineageLimits {
    /// Of each run.
    pub batch: BatchLimits,
    /// Rows that are named of one relation, or looked through between two steps, at most.
    pub rows_max: usize,
}

impl Default for LineageLimits {
    fn default() -> Self {
        Self { batch: BatchLimits::default(), rows_max: 1_000_000 }
    }
}

/// Why a question has no answer.
#[derive(Debug, thiserror::Error)]
pub enum LineageError {
    /// More rows than are wanted.
    #[error("more than {rows_max} rows of `{relation}` take part")]
    TooMany {
        /// Of which relation.
        relation: Relation,
        /// The bound.
        rows_max: usize,
    },
    /// A run failed.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

impl From<arrow::error::ArrowError> for LineageError {
    fn from(error: arrow::error::ArrowError) -> Self {
        Self::Engine(error.into())
    }
}

impl From<datafusion::error::DataFusionError> for LineageError {
    fn from(error: datafusion::error::DataFusionError) -> Self {
        Self::Engine(error.into())
    }
}

/// What made rows of a model.
#[derive(Debug)]
pub struct Lineage {
    /// The rows that take part, by relation: the model that was asked for first, then what it is made of; each model
    /// before those that it reads.
    pub relations: Vec<(Relation, Delta)>,
    /// Relations all of whose rows are named because no narrower answer is known, with the reason.
    pub whole: BTreeMap<Relation, &'static str>,
    /// Whether the models, run over only the rows named, give the wanted rows as often as they are there.
    pub reproduced: bool,
    /// How often rows were traced.
    pub rounds: usize,
}

/// Tracing goes on so often with what came out wrong.
const ROUNDS_MAX: usize = 8;

/// Traces `wanted`, rows of the model `target`, to the relations that no model makes. `models` are in dependency order.
///
/// # Errors
/// [`LineageError::TooMany`], or when a run fails.
pub async fn lineage(
    models: &[&ModelPlan],
    target: &Relation,
    wanted: &RecordBatch,
    world: &dyn World,
    limits: LineageLimits,
) -> Result<Lineage, LineageError> {
    let upstream = upstream(models, target);
    let sources = sources(&upstream);
    let asking = select::Asking { worlds: vec![world], reader: target, limits };
    let there = asking.contents_with(target, wanted).await?;
    let mut tracing = Tracing { found: BTreeMap::new(), whole: BTreeMap::new() };
    tracing.add(target, there.clone())?;
    let mut reduced: Option<Reduced> = None;
    let (mut named, mut rounds) = (0, 0);
    let reproduced = loop {
        rounds += 1;
        for model in upstream.iter().rev() {
            let Some(rows) = tracing.found.get(&model.name).map(RowSet::distinct).transpose()? else { continue };
            let mut worlds = vec![world];
            worlds.extend(reduced.as_ref().map(|reduced| reduced as &dyn World));
            let asking = select::Asking { worlds, reader: &model.name, limits };
            let found = descend::descend(&asking, model, rows, reduced.is_some()).await?;
            tracing.whole.extend(found.whole);
            for (relation, rows) in found.rows {
                tracing.add(&relation, rows)?;
            }
        }
        let before = named;
        named = tracing.count(&sources);
        let run = Reduced::run(&upstream, &sources, &tracing.found, world, limits.batch).await?;
        if run.has(target, &there)? {
            break true;
        }
        if (rounds > 1 && named == before) || rounds == ROUNDS_MAX {
            for source in &sources {
                let reader = upstream.iter().find(|m| m.reads.contains(source)).map_or(target, |m| &m.name);
                let asking = select::Asking { worlds: vec![world], reader, limits };
                tracing.add(source, asking.contents(source).await?)?;
                tracing.whole.insert(source.clone(), "fewer of its rows did not give the row again");
            }
            let run = Reduced::run(&upstream, &sources, &tracing.found, world, limits.batch).await?;
            break run.has(target, &there)?;
        }
        reduced = Some(run);
    };
    let order = upstream.iter().rev().map(|model| &model.name).chain(&sources);
    let mut relations = Vec::new();
    for relation in order {
        if let Some(rows) = tracing.found.get(relation) {
            relations.push((relation.clone(), rows.delta()?));
        }
    }
    Ok(Lineage { relations, whole: tracing.whole, reproduced, rounds })
}

/// The models that `target` depends on, and itself, in order.
pub fn upstream<'a>(models: &[&'a ModelPlan], target: &Relation) -> Vec<&'a ModelPlan> {
    let mut needed = BTreeSet::from([target.clone()]);
    let mut found: Vec<&ModelPlan> = Vec::new();
    for model in models.iter().rev() {
        if needed.contains(&model.name) {
            needed.extend(model.reads.iter().cloned());
            found.push(model);
        }
    }
    found.reverse();
    found
}

/// What the models read that none of them makes.
fn sources(models: &[&ModelPlan]) -> Vec<Relation> {
    let read: BTreeSet<&Relation> = models.iter().flat_map(|model| &model.reads).collect();
    read.into_iter().filter(|relation| models.iter().all(|model| model.name != **relation)).cloned().collect()
}

/// What was found so far.
struct Tracing {
    found: BTreeMap<Relation, RowSet>,
    whole: BTreeMap<Relation, &'static str>,
}

impl Tracing {
    fn add(&mut self, relation: &Relation, rows: RecordBatch) -> Result<(), LineageError> {
        match self.found.get_mut(relation) {
            Some(set) => set.add(&rows),
            None => {
                let mut set = RowSet::new(rows.schema());
                set.add(&rows)?;
                self.found.insert(relation.clone(), set);
                Ok(())
            }
        }
    }

    fn count(&self, relations: &[Relation]) -> usize {
        relations.iter().filter_map(|relation| self.found.get(relation)).map(RowSet::len).sum()
    }
}

/// The models, run over only the rows that were named.
struct Reduced {
    tables: BTreeMap<Relation, Arc<dyn TableProvider>>,
    rows: BTreeMap<Relation, Vec<RecordBatch>>,
    clocks: BTreeMap<Relation, i64>,
}

impl World for Reduced {
    fn table(&self, _reader: &Relation, relation: &Relation) -> Option<Arc<dyn TableProvider>> {
        self.tables.get(relation).cloned()
    }

    fn clock(&self, reader: &Relation) -> i64 {
        self.clocks.get(reader).copied().unwrap_or_default()
    }
}

impl Reduced {
    async fn run(
        models: &[&ModelPlan],
        sources: &[Relation],
        found: &BTreeMap<Relation, RowSet>,
        world: &dyn World,
        limits: BatchLimits,
    ) -> Result<Self, LineageError> {
        let mut run = Self { tables: BTreeMap::new(), rows: BTreeMap::new(), clocks: BTreeMap::new() };
        for source in sources {
            let table = match found.get(source) {
                Some(rows) => {
                    let rows = rows.delta()?.expand()?;
                    MemTable::try_new(rows.schema(), vec![vec![rows]])?
                }
                None => {
                    let reader = models.iter().find(|model| model.reads.contains(source));
                    let schema = reader.and_then(|reader| world.table(&reader.name, source)).map(|t| t.schema());
                    let schema = schema.ok_or_else(|| missing(source))?;
                    MemTable::try_new(schema, vec![Vec::new()])?
                }
            };
            run.tables.insert(source.clone(), Arc::new(table));
        }
        for model in models {
            let now = world.clock(&model.name);
            let output = batch::run(model, &|relation| run.tables.get(relation).cloned(), now, limits).await?;
            let table = MemTable::try_new(model.schema.clone(), vec![output.rows.clone()])?;
            run.tables.insert(model.name.clone(), Arc::new(table));
            run.rows.insert(model.name.clone(), output.rows);
            run.clocks.insert(model.name.clone(), now);
        }
        Ok(run)
    }

    /// Whether the relation has each of the rows as often as `rows` do.
    fn has(&self, relation: &Relation, rows: &RecordBatch) -> Result<bool, LineageError> {
        // At once, since a set takes the number of a row from the first batch that has it.
        let output = self.rows.get(relation).map_or(&[][..], Vec::as_slice);
        let mut given = RowSet::new(rows.schema());
        given.add(&select::joined(&rows.schema(), output)?)?;
        let mut wanted = RowSet::new(rows.schema());
        wanted.add(rows)?;
        given.covers(&wanted)
    }
}

fn missing(relation: &Relation) -> LineageError {
    EngineError::Internal(format!("no contents of `{relation}` to look into")).into()
}
