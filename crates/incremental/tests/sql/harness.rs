//! The differential harness: a query kept by deltas must equal the query run in batch, after every epoch.
//!
//! A run draws a history of random inserts, updates and deletes, cut into epochs with random clock steps, from a seed. After
//! each epoch the sum of all emitted deltas is compared with a batch run over the accumulated input: rows, weights
//! and error rows.

use super::history::History;
use arrow::array::{ArrayRef, RecordBatch};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use weir_environment::{Environment, Workers};
use weir_incremental::checkpoint::{CheckpointStore, StateChanges};
use weir_incremental::{
    BatchLimits, Dataflow, Delta, EngineError, ModelPlan, Planner, Relation, RelationTraits, batch,
};

/// In microseconds.
pub const SECOND: i64 = 1_000_000;
/// 2026-01-01T00:00:00Z.
pub const START: i64 = 1_767_225_600 * SECOND;

/// A small random number generator with a fixed sequence for each seed.
pub struct Chance(u64);

impl Chance {
    /// The sequence of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % bound
    }

    /// True once in `times`.
    pub fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

/// The relations that queries of the harness may read.
pub fn schemas() -> Vec<(Relation, SchemaRef)> {
    let field = |name: &str, data_type: DataType| Field::new(name, data_type, true);
    let instant = DataType::Timestamp(TimeUnit::Microsecond, None);
    let place = Fields::from(vec![field("city", DataType::Utf8), field("zip", DataType::Int32)]);
    vec![
        (
            "events".into(),
            Arc::new(Schema::new(vec![
                field("id", DataType::Int64),
                field("user_id", DataType::Int64),
                field("kind", DataType::Utf8),
                field("amount", DataType::Float64),
                field("price", DataType::Decimal128(12, 2)),
                field("at", instant.clone()),
                field("ok", DataType::Boolean),
                field("n", DataType::Int32),
                field("tags", DataType::List(Arc::new(field("item", DataType::Utf8)))),
                field("place", DataType::Struct(place)),
            ])),
        ),
        (
            "users".into(),
            Arc::new(Schema::new(vec![
                field("user_id", DataType::Int64),
                field("name", DataType::Utf8),
                field("score", DataType::Float64),
                field("joined", DataType::Date32),
                field("country", DataType::Utf8),
            ])),
        ),
        (
            "finance.rates".into(),
            Arc::new(Schema::new(vec![
                field("day", DataType::Date32),
                field("currency", DataType::Utf8),
                field("rate", DataType::Float64),
            ])),
        ),
    ]
}

/// A planner that knows [`schemas`].
pub fn planner() -> Planner {
    planner_of(false)
}

/// A planner that knows [`schemas`] as relations that only grow, or that change.
fn planner_of(append_only: bool) -> Planner {
    let mut planner = Planner::new(&|_| Ok(())).expect("DataFusion's defaults");
    for (relation, schema) in schemas() {
        planner.add_relation(relation, schema, RelationTraits { append_only, key: Vec::new() });
    }
    planner
}

/// A value of a column.
pub fn value(data_type: &DataType, name: &str, chance: &mut Chance) -> ScalarValue {
    if chance.once_in(7) && name != "id" {
        return ScalarValue::try_from(data_type).expect("a type of the harness");
    }
    match data_type {
        DataType::Int64 if name == "id" => ScalarValue::Int64(Some(chance.below(30) as i64)),
        DataType::Int64 => ScalarValue::Int64(Some(chance.below(6) as i64)),
        DataType::Int32 => ScalarValue::Int32(Some(chance.below(5) as i32 - 2)),
        DataType::Boolean => ScalarValue::Boolean(Some(chance.once_in(2))),
        DataType::Utf8 => {
            let words = ["view", "click", "buy", "12", "7", "", "Ünï", "a'b"];
            ScalarValue::Utf8(Some(words[chance.below(words.len() as u64) as usize].into()))
        }
        DataType::Float64 => {
            let nan = f64::from_bits(0xfff8_0000_0000_0001);
            let numbers =
                [0.0, -0.0, 1.0, 0.1, 0.2, -3.5, 1e16, -1e16, f64::NAN, nan, f64::INFINITY, 12.34, 12.34, 0.3];
            ScalarValue::Float64(Some(numbers[chance.below(numbers.len() as u64) as usize]))
        }
        DataType::Decimal128(precision, scale) => {
            ScalarValue::Decimal128(Some(i128::from(chance.below(2000)) - 500), *precision, *scale)
        }
        DataType::Date32 => ScalarValue::Date32(Some(20_454 + chance.below(5) as i32)),
        DataType::Timestamp(_, _) => {
            let at = START + chance.below(12 * 24) as i64 * 3600 * SECOND;
            ScalarValue::TimestampMicrosecond(Some(at), None)
        }
        DataType::List(item) => {
            let count = chance.below(4);
            let items: Vec<_> = (0..count).map(|_| value(item.data_type(), "", chance)).collect();
            ScalarValue::List(ScalarValue::new_list(&items, item.data_type(), true))
        }
        DataType::Struct(fields) => {
            let arrays: Vec<ArrayRef> =
                fields.iter().map(|f| value(f.data_type(), f.name(), chance).to_array().expect("one value")).collect();
            ScalarValue::Struct(Arc::new(arrow::array::StructArray::new(fields.clone(), arrays, None)))
        }
        other => panic!("no values of {other}"),
    }
}

/// The values of a row.
pub type Row = Vec<ScalarValue>;

/// Rows as a batch.
pub fn batch_of(schema: &SchemaRef, rows: &[Row]) -> RecordBatch {
    if rows.is_empty() {
        return RecordBatch::new_empty(schema.clone());
    }
    let columns = (0..schema.fields().len())
        .map(|index| ScalarValue::iter_to_array(rows.iter().map(|row| row[index].clone())).expect("one type a column"))
        .collect();
    RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema")
}

/// What a test may do to emitted deltas, to prove that a bug of that kind is found.
pub type Mutation = fn(Delta) -> Delta;

/// How a run goes.
#[derive(Clone, Copy)]
pub struct Run {
    /// What is drawn.
    pub seed: u64,
    /// How many epochs.
    pub epochs: usize,
    /// A planted bug.
    pub mutation: Option<Mutation>,
    /// No row is ever taken away, and the planner knows.
    pub grows: bool,
    /// What becomes of state between epochs.
    pub state: StateRun,
}

/// What becomes of state between epochs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum StateRun {
    /// It stays in memory.
    Stays,
    /// The graph is rebuilt from its checkpoint in the middle of the run.
    Restarts,
    /// Checkpoints are taken and become durable at random; everything that may leave memory does so at random, and the
    /// graph is rebuilt from its checkpoint at random.
    Leaves,
}

impl Run {
    /// Ten epochs of `seed`. The variable `WEIR_SEED` adds to it, for longer hunts.
    pub fn of(seed: u64) -> Self {
        let more = std::env::var("WEIR_SEED").ok().and_then(|text| text.parse::<u64>().ok());
        let seed = seed + more.unwrap_or(0);
        Self { seed, epochs: 10, mutation: None, grows: false, state: StateRun::Stays }
    }
}

/// What [`differ_over`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Difference {
    /// The planner refuses the query.
    Refused(weir_incremental::PlanError),
    /// A step or a batch run failed.
    Failed(String),
    /// What is kept differs from what batch gives, or state is left behind.
    Found(String),
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Refused(error) => write!(f, "refused: {error}"),
            Self::Failed(text) | Self::Found(text) => f.write_str(text),
        }
    }
}

/// Plans `queries` (name and SQL) in order, each readable by the next; keeps them in one graph; compares after each
/// epoch of a history. The error says where they differ.
pub fn differ(queries: &[(&str, &str)], run: Run) -> Result<(), String> {
    let history = History::draw(&mut Chance::new(run.seed), run.epochs, run.grows);
    differ_over(queries, &history, run.mutation, run.state).map_err(|e| format!("seed {}, {e}", run.seed))
}

/// The same over a given history.
pub fn differ_over(
    queries: &[(&str, &str)],
    history: &History,
    mutation: Option<Mutation>,
    state: StateRun,
) -> Result<(), Difference> {
    let mut planner = planner_of(history.grows);
    let mut models: Vec<ModelPlan> = Vec::new();
    for (name, sql) in queries {
        let model = planner.plan(name, sql).map_err(Difference::Refused)?;
        let traits = RelationTraits { append_only: model.append_only, key: Vec::new() };
        planner.add_relation(model.name.clone(), model.schema.clone(), traits);
        models.push(model);
    }
    let failed_with = |what: String| move |e: EngineError| Difference::Failed(format!("{what}: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let seed = (history.epochs.len() * 31 + history.lives.len()) as u64;
    let mut checkpoints = Checkpoints::new(state, history.epochs.len(), seed).map_err(failed_with("open".into()))?;
    // Whatever the threads, now and after a restart, the answers are the same.
    let build = |chance: &mut Chance| {
        let workers = Workers::new(1 + chance.below(3) as usize);
        Dataflow::build_on(&workers, &models, &schemas()).map_err(failed_with("build".into()))
    };
    let mut graph = build(&mut checkpoints.chance)?;
    graph.attach(&checkpoints.store.reader(), true).map_err(failed_with("attach".into()))?;
    let mut kept: HashMap<Relation, Vec<Delta>> = HashMap::new();
    let mut failed: HashMap<Relation, Vec<Delta>> = HashMap::new();
    for (epoch, (_, now)) in history.epochs.iter().enumerate() {
        let deltas = history.deltas(epoch);
        let output = graph.step(*now, &deltas).map_err(failed_with(format!("epoch {epoch}")))?;
        for (model, mut delta) in output.models {
            if let Some(mutate) = mutation {
                delta = mutate(delta);
            }
            kept.entry(model).or_default().push(delta);
        }
        for (model, delta) in output.errors {
            failed.entry(model).or_default().push(delta);
        }
        let mut tables: HashMap<Relation, Arc<dyn TableProvider>> = HashMap::new();
        for (relation, rows) in history.contents(epoch) {
            tables.insert(relation, table(&rows.schema(), vec![rows]));
        }
        let limits = BatchLimits { threads: 1 + checkpoints.chance.below(3) as usize, ..BatchLimits::default() };
        for model in &models {
            let lookup = |relation: &Relation| tables.get(relation).cloned();
            let expected = runtime
                .block_on(batch::run(model, &lookup, *now, limits))
                .map_err(failed_with(format!("epoch {epoch}, {} in batch", model.name)))?;
            let place = |what: &str, e| Difference::Found(format!("epoch {epoch}, {what} of {}\n{e}", model.name));
            compare(&model.schema, kept.get(&model.name), &expected.rows).map_err(|e| place("rows", e))?;
            compare(&weir_incremental::dataflow::ERROR_SCHEMA, failed.get(&model.name), &expected.errors)
                .map_err(|e| place("errors", e))?;
            tables.insert(model.name.clone(), table(&model.schema, expected.rows));
        }
        let what = format!("between epochs {epoch} and {}", epoch + 1);
        if checkpoints.after_epoch(&mut graph, epoch as u64 + 1).map_err(failed_with(what))? {
            graph = build(&mut checkpoints.chance)?;
            graph.attach(&checkpoints.store.reader(), false).map_err(failed_with("attach".into()))?;
        }
    }
    if !history.ends_empty() {
        return Ok(());
    }
    // Everything was taken away: what is left is what a graph has that was never given anything.
    let mut fresh = build(&mut checkpoints.chance)?;
    let last = history.epochs.last().map_or(0, |(_, now)| *now);
    fresh.step(last, &HashMap::new()).map_err(failed_with("a step without input".into()))?;
    let (left, expected) = (graph.describe(), fresh.describe());
    checkpoints.hold_what_is_left(&mut graph, &mut fresh)?;
    let in_memory = |left: usize, expected: usize| left == expected || state != StateRun::Stays && left < expected;
    match left.iter().zip(&expected).find(|(left, expected)| !in_memory(left.state_rows, expected.state_rows)) {
        Some((left, expected)) => Err(Difference::Found(format!(
            "{} rows instead of {} are left in {}: {}",
            left.state_rows, expected.state_rows, left.operator, left.detail
        ))),
        None => Ok(()),
    }
}

/// The checkpoints of a run, and what is done with them.
struct Checkpoints {
    store: CheckpointStore,
    state: StateRun,
    epochs: usize,
    /// Apart from what is drawn of the history, so that histories are the same in all modes.
    chance: Chance,
    pending: Option<StateChanges>,
}

impl Checkpoints {
    fn new(state: StateRun, epochs: usize, seed: u64) -> Result<Self, EngineError> {
        let (environment, _) = Environment::simulated(seed);
        let store = CheckpointStore::open(&environment, Path::new("/checkpoints"))?;
        Ok(Self { store, state, epochs, chance: Chance::new(seed ^ 0x5eed), pending: None })
    }

    fn take(&mut self, graph: &mut Dataflow) {
        let mut changes = self.pending.take().unwrap_or_default();
        graph.state_changes(&mut |id, key, value| changes.put_key(id, key, value));
        self.pending = Some(changes);
    }

    fn write(&mut self, epoch: u64) -> Result<(), EngineError> {
        match self.pending.take() {
            Some(mut changes) => self.store.write(epoch, &mut changes, b""),
            None => Ok(()),
        }
    }

    /// What happens between two epochs; whether the graph is to be rebuilt.
    fn after_epoch(&mut self, graph: &mut Dataflow, epoch: u64) -> Result<bool, EngineError> {
        match self.state {
            StateRun::Stays => Ok(false),
            StateRun::Restarts => {
                self.take(graph);
                self.write(epoch)?;
                graph.durable();
                Ok(epoch as usize == self.epochs / 2 + 1)
            }
            StateRun::Leaves => {
                let chance = &mut self.chance;
                let (evicts, takes, writes, knows) =
                    (chance.once_in(3), chance.once_in(2), chance.once_in(2), chance.once_in(2));
                let (evicts_after, restarts) = (!chance.once_in(4), chance.once_in(3));
                if evicts {
                    graph.keep_within(0);
                }
                if takes && self.pending.is_none() {
                    self.take(graph);
                    if writes {
                        self.write(epoch)?;
                        if restarts {
                            return Ok(true);
                        }
                        graph.durable();
                    }
                } else if self.pending.is_some() && writes {
                    self.write(epoch)?;
                    if knows {
                        graph.keep_within(0);
                    }
                    graph.durable();
                }
                if evicts_after {
                    graph.keep_within(0);
                }
                Ok(false)
            }
        }
    }

    /// That the disk has what a graph without input has, and no more.
    fn hold_what_is_left(&mut self, graph: &mut Dataflow, fresh: &mut Dataflow) -> Result<(), Difference> {
        if self.state == StateRun::Stays {
            return Ok(());
        }
        let failed = |e: EngineError| Difference::Failed(format!("at the end: {e}"));
        self.write(1 << 40).map_err(failed)?;
        self.take(graph);
        self.write(1 << 41).map_err(failed)?;
        let mut expected: BTreeMap<String, usize> = BTreeMap::new();
        fresh.state_changes(&mut |id, _, value| {
            *expected.entry(id.to_owned()).or_default() += usize::from(value.is_some())
        });
        for id in graph.state_ids() {
            let mut entries = 0;
            let counted = self.store.restore(&id, &mut |_, _| {
                entries += 1;
                Ok(())
            });
            counted.map_err(failed)?;
            let expected = expected.get(&id).copied().unwrap_or(0);
            if entries != expected {
                let text = format!("{entries} entries of {id} instead of {expected} are left on disk");
                return Err(Difference::Found(text));
            }
        }
        Ok(())
    }
}

/// Runs a query as canonical plan and as DataFusion has it, over random contents, and compares. Queries that fail on a
/// row in DataFusion are passed over: `Ok(false)`.
pub fn agrees_with_plain_sql(sql: &str, seed: u64) -> Result<bool, String> {
    let planner = planner();
    let model = planner.plan("model", sql).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut chance = Chance::new(seed);
    let history = History::draw(&mut chance, 6, false);
    let last_but_one = history.epochs.len().saturating_sub(2);
    let contents = history.contents(last_but_one).into_iter();
    let tables: Vec<(Relation, Arc<dyn TableProvider>)> =
        contents.map(|(relation, rows)| (relation, table(&rows.schema(), vec![rows]))).collect();
    let now = START + chance.below(10 * 24) as i64 * 3600 * SECOND;
    let lookup = |relation: &Relation| tables.iter().find(|(name, _)| name == relation).map(|(_, table)| table.clone());
    let output = runtime
        .block_on(batch::run(&model, &lookup, now, BatchLimits::default()))
        .map_err(|e| format!("in batch: {e}"))?;
    let session = planner.query_session(&tables, now, BatchLimits::default()).map_err(|e| e.to_string())?;
    let plain = runtime.block_on(async { session.sql(sql).await?.collect().await });
    let Ok(plain) = plain else {
        return Ok(false);
    };
    let mut cast = Vec::new();
    for batch in plain {
        let columns = batch.columns().iter().zip(model.schema.fields());
        let columns = columns
            .map(|(c, f)| arrow::compute::cast(c, f.data_type()))
            .collect::<Result<Vec<ArrayRef>, arrow::error::ArrowError>>();
        let columns = columns.map_err(|e| e.to_string())?;
        cast.push(RecordBatch::try_new(model.schema.clone(), columns).map_err(|e| e.to_string())?);
    }
    let kept: Vec<Delta> = output.rows.into_iter().map(Delta::inserts).collect();
    compare(&model.schema, Some(&kept), &cast)?;
    Ok(true)
}

/// Batches as a table.
pub fn table(schema: &SchemaRef, batches: Vec<RecordBatch>) -> Arc<dyn TableProvider> {
    Arc::new(MemTable::try_new(schema.clone(), vec![batches]).expect("batches of the schema"))
}

/// The sum of deltas must be the rows.
pub fn compare(schema: &SchemaRef, deltas: Option<&Vec<Delta>>, rows: &[RecordBatch]) -> Result<(), String> {
    let fail = |e: &dyn std::fmt::Display| e.to_string();
    let mut parts = deltas.cloned().unwrap_or_default();
    let kept = Delta::concat(schema, &parts).map_err(|e| fail(&e))?.consolidate().map_err(|e| fail(&e))?;
    parts.extend(rows.iter().map(|batch| Delta::inserts(batch.clone()).negate()));
    let difference = Delta::concat(schema, &parts).map_err(|e| fail(&e))?.consolidate().map_err(|e| fail(&e))?;
    if difference.is_empty() {
        return Ok(());
    }
    let show = |delta: &Delta| {
        let shown = pretty_format_batches(std::slice::from_ref(&delta.rows)).map(|t| t.to_string());
        format!("weights {:?}\n{}", delta.weights.values(), shown.unwrap_or_default())
    };
    let expected = pretty_format_batches(rows).map(|t| t.to_string()).unwrap_or_default();
    Err(format!("difference: {}\nkept: {}\nin batch:\n{expected}", show(&difference), show(&kept)))
}
