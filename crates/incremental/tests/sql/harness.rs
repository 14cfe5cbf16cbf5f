//! The differential harness: a query kept by deltas must equal the query run in batch, after every epoch.
//!
//! A run draws a history of random inserts, updates and deletes, cut into epochs with random clock steps, from a seed. After
//! each epoch the sum of all emitted deltas is compared with a batch run over the accumulated input: rows, weights
//! and error rows.

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use arrow::util::pretty::pretty_format_batches;
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::datasource::MemTable;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use weir_incremental::{BatchLimits, Dataflow, Delta, ModelPlan, Planner, Relation, RelationTraits, batch};

const SECOND: i64 = 1_000_000;
const DAY: i64 = 86_400 * SECOND;
/// 2026-01-01T00:00:00Z.
const START: i64 = 1_767_225_600 * SECOND;

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

fn value(data_type: &DataType, name: &str, chance: &mut Chance) -> ScalarValue {
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

type Row = Vec<ScalarValue>;

fn batch_of(schema: &SchemaRef, rows: &[Row]) -> RecordBatch {
    if rows.is_empty() {
        return RecordBatch::new_empty(schema.clone());
    }
    let columns = (0..schema.fields().len())
        .map(|index| ScalarValue::iter_to_array(rows.iter().map(|row| row[index].clone())).expect("one type a column"))
        .collect();
    RecordBatch::try_new(schema.clone(), columns).expect("columns of the schema")
}

/// The present rows of one relation.
struct Contents {
    schema: SchemaRef,
    rows: Vec<Row>,
}

impl Contents {
    /// Draws a change, applies it and gives its delta; no row is taken away when the relation `grows`.
    fn change(&mut self, chance: &mut Chance, grows: bool) -> Delta {
        let (mut rows, mut weights) = (Vec::new(), Vec::new());
        for _ in 0..chance.below(7) {
            let delete = !self.rows.is_empty() && chance.once_in(3) && !grows;
            if delete {
                let index = chance.below(self.rows.len() as u64) as usize;
                rows.push(self.rows.swap_remove(index));
                weights.push(-1);
            } else {
                // Now and then a row that is there already.
                let again = !self.rows.is_empty() && chance.once_in(6);
                let row: Row = if again {
                    self.rows[chance.below(self.rows.len() as u64) as usize].clone()
                } else {
                    self.schema.fields().iter().map(|f| value(f.data_type(), f.name(), chance)).collect()
                };
                self.rows.push(row.clone());
                rows.push(row);
                weights.push(1);
            }
        }
        Delta::new(batch_of(&self.schema, &rows), Int64Array::from(weights))
    }

    /// Takes everything away.
    fn clear(&mut self) -> Delta {
        let rows = std::mem::take(&mut self.rows);
        Delta::new(batch_of(&self.schema, &rows), Int64Array::from(vec![-1; rows.len()]))
    }
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
    /// Rebuild the graph from its saved state in the middle of the run.
    pub restart: bool,
    /// No row is ever taken away, and the planner knows.
    pub grows: bool,
}

impl Run {
    /// Ten epochs of `seed`. The variable `WEIR_SEED` adds to it, for longer hunts.
    pub fn of(seed: u64) -> Self {
        let more = std::env::var("WEIR_SEED").ok().and_then(|text| text.parse::<u64>().ok());
        let seed = seed + more.unwrap_or(0);
        Self { seed, epochs: 10, mutation: None, restart: false, grows: false }
    }
}

/// Plans `queries` (name and SQL) in order, each readable by the next; keeps them in one graph; compares after each
/// epoch. The error says where they differ.
pub fn differ(queries: &[(&str, &str)], run: Run) -> Result<(), String> {
    let mut planner = planner_of(run.grows);
    let mut models: Vec<ModelPlan> = Vec::new();
    for (name, sql) in queries {
        let model = planner.plan(name, sql).map_err(|e| format!("{name}: {e}"))?;
        let traits = RelationTraits { append_only: model.append_only, key: Vec::new() };
        planner.add_relation(model.name.clone(), model.schema.clone(), traits);
        models.push(model);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut chance = Chance::new(run.seed);
    let mut contents: BTreeMap<Relation, Contents> =
        schemas().into_iter().map(|(relation, schema)| (relation, Contents { schema, rows: Vec::new() })).collect();
    let mut graph = Dataflow::build(&models, &schemas()).map_err(|e| e.to_string())?;
    let mut saved: HashMap<(String, Vec<u8>), Vec<u8>> = HashMap::new();
    let mut kept: HashMap<Relation, Vec<Delta>> = HashMap::new();
    let mut failed: HashMap<Relation, Vec<Delta>> = HashMap::new();
    let mut now = START + 2 * DAY;
    for epoch in 0..run.epochs {
        now += [1, SECOND, 3600 * SECOND, DAY, 5 * DAY][chance.below(5) as usize];
        let mut deltas = HashMap::new();
        for (relation, contents) in &mut contents {
            if epoch + 1 == run.epochs && !run.grows {
                deltas.insert(relation.clone(), contents.clear());
            } else if !chance.once_in(4) {
                deltas.insert(relation.clone(), contents.change(&mut chance, run.grows));
            }
        }
        let output = graph.step(now, &deltas).map_err(|e| format!("epoch {epoch}: {e}"))?;
        for (model, mut delta) in output.models {
            if let Some(mutate) = run.mutation {
                delta = mutate(delta);
            }
            kept.entry(model).or_default().push(delta);
        }
        for (model, delta) in output.errors {
            failed.entry(model).or_default().push(delta);
        }
        let mut tables: HashMap<Relation, Arc<dyn TableProvider>> = HashMap::new();
        for (relation, contents) in &contents {
            let canonical = batch_of(&contents.schema, &contents.rows);
            tables.insert(relation.clone(), table(&contents.schema, vec![canonical]));
        }
        for model in &models {
            let lookup = |relation: &Relation| tables.get(relation).cloned();
            let expected = runtime
                .block_on(batch::run(model, &lookup, now, BatchLimits::default()))
                .map_err(|e| format!("epoch {epoch}, {} in batch: {e}", model.name))?;
            let place = |what: &str| format!("seed {}, epoch {epoch}, {what} of {}", run.seed, model.name);
            compare(&model.schema, kept.get(&model.name), &expected.rows)
                .map_err(|e| format!("{}\n{e}", place("rows")))?;
            compare(&weir_incremental::dataflow::ERROR_SCHEMA, failed.get(&model.name), &expected.errors)
                .map_err(|e| format!("{}\n{e}", place("errors")))?;
            tables.insert(model.name.clone(), table(&model.schema, expected.rows));
        }
        if run.restart {
            graph.state_changes(&mut |id, key, value| {
                let key = (id.to_owned(), key.to_vec());
                match value {
                    Some(value) => saved.insert(key, value.to_vec()),
                    None => saved.remove(&key),
                };
            });
            if epoch == run.epochs / 2 {
                graph = Dataflow::build(&models, &schemas()).map_err(|e| e.to_string())?;
                graph
                    .restore(&mut |id, take| {
                        saved.iter().filter(|((of, _), _)| of == id).try_for_each(|((_, key), value)| take(key, value))
                    })
                    .map_err(|e| e.to_string())?;
            }
        }
    }
    // Everything was taken away; what is left is the one row of an aggregate without groups, or a constant.
    let constants = queries.iter().any(|(_, sql)| sql.contains("VALUES") || sql.contains("SELECT 1 AS"));
    let emptied = !constants && !run.grows;
    match graph.describe().into_iter().find(|operator| operator.state_rows > 1 && emptied) {
        Some(operator) => {
            Err(format!("{} rows are left in {}: {}", operator.state_rows, operator.operator, operator.detail))
        }
        None => Ok(()),
    }
}

/// Runs a query as canonical plan and as DataFusion has it, over random contents, and compares. Queries that fail on a
/// row in DataFusion are passed over: `Ok(false)`.
pub fn agrees_with_plain_sql(sql: &str, seed: u64) -> Result<bool, String> {
    let planner = planner();
    let model = planner.plan("model", sql).map_err(|e| e.to_string())?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut chance = Chance::new(seed);
    let mut tables: Vec<(Relation, Arc<dyn TableProvider>)> = Vec::new();
    for (relation, schema) in schemas() {
        let mut contents = Contents { schema, rows: Vec::new() };
        for _ in 0..6 {
            contents.change(&mut chance, false);
        }
        let rows = batch_of(&contents.schema, &contents.rows);
        tables.push((relation, table(&contents.schema, vec![rows])));
    }
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

fn table(schema: &SchemaRef, batches: Vec<RecordBatch>) -> Arc<dyn TableProvider> {
    Arc::new(MemTable::try_new(schema.clone(), vec![batches]).expect("batches of the schema"))
}

/// The sum of deltas must be the rows.
fn compare(schema: &SchemaRef, deltas: Option<&Vec<Delta>>, rows: &[RecordBatch]) -> Result<(), String> {
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
