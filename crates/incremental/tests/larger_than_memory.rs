//! State larger than its budget of memory: it keeps within the budget, and its answers are those of a plain map.

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use weir_environment::{Environment, Workers};
use weir_incremental::checkpoint::{CheckpointStore, StateChanges};
use weir_incremental::{Dataflow, Delta, ModelPlan, Planner, Relation, RelationTraits};

type Row = Vec<Option<i64>>;

const EPOCH_ROWS: usize = 1000;

fn schema() -> SchemaRef {
    let column = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![column("k"), column("v")]))
}

fn relations() -> [(Relation, SchemaRef); 2] {
    [("t".into(), schema()), ("u".into(), schema())]
}

fn models() -> Vec<ModelPlan> {
    let mut planner = Planner::new(&|_| Ok(())).unwrap();
    for (relation, schema) in relations() {
        planner.add_relation(relation, schema, RelationTraits::default());
    }
    let queries = [
        ("sums", "SELECT k, count(*) AS n, sum(v) AS total FROM t GROUP BY k"),
        ("extremes", "SELECT k, min(v) AS least, max(v) AS most FROM t GROUP BY k"),
        ("kinds", "SELECT k, count(DISTINCT v) AS kinds FROM t GROUP BY k"),
        ("pairs", "SELECT t.k, t.v, u.v AS w FROM t LEFT JOIN u ON t.k = u.k"),
        (
            "last",
            "SELECT k, v FROM (SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v DESC) AS n FROM t) WHERE n = 1",
        ),
        ("different", "SELECT DISTINCT k, v FROM t"),
    ];
    queries.iter().map(|(name, sql)| planner.plan(name, sql).unwrap()).collect()
}

/// What the models hold of these rows.
fn expected(t: &BTreeMap<(i64, i64), i64>, u: &BTreeMap<i64, i64>) -> BTreeMap<String, BTreeMap<Row, i64>> {
    let mut groups: BTreeMap<i64, Vec<(i64, i64)>> = BTreeMap::new();
    for (&(k, v), &weight) in t {
        groups.entry(k).or_default().push((v, weight));
    }
    let mut models: BTreeMap<String, BTreeMap<Row, i64>> = BTreeMap::new();
    let mut put = |model: &str, row: Row, weight: i64| {
        models.entry(model.into()).or_default().insert(row, weight);
    };
    for (&k, values) in &groups {
        let (least, most) = (values[0].0, values[values.len() - 1].0);
        let sum = |f: fn((i64, i64)) -> i64| values.iter().map(|&value| f(value)).sum::<i64>();
        put("sums", vec![Some(k), Some(sum(|(_, w)| w)), Some(sum(|(v, w)| v * w))], 1);
        put("extremes", vec![Some(k), Some(least), Some(most)], 1);
        put("kinds", vec![Some(k), Some(values.len() as i64)], 1);
        put("last", vec![Some(k), Some(most)], 1);
        for &(v, weight) in values {
            put("different", vec![Some(k), Some(v)], 1);
            put("pairs", vec![Some(k), Some(v), u.get(&k).copied()], weight);
        }
    }
    models
}

fn delta(rows: &[(i64, i64, i64)]) -> Delta {
    let column = |f: fn(&(i64, i64, i64)) -> i64| Int64Array::from_iter_values(rows.iter().map(f));
    let columns: Vec<ArrayRef> = vec![Arc::new(column(|row| row.0)), Arc::new(column(|row| row.1))];
    Delta::new(RecordBatch::try_new(schema(), columns).unwrap(), column(|row| row.2))
}

fn accumulate(kept: &mut BTreeMap<Row, i64>, delta: &Delta) {
    let columns: Vec<_> = delta.rows.columns().iter().map(|c| c.as_primitive::<Int64Type>()).collect();
    for (row, &weight) in delta.weights.values().iter().enumerate() {
        let key: Row = columns.iter().map(|c| c.is_valid(row).then(|| c.value(row))).collect();
        let sum = kept.entry(key.clone()).or_default();
        *sum += weight;
        if *sum == 0 {
            kept.remove(&key);
        }
    }
}

/// Random changes of `t` and `u` over so many keys.
struct History {
    random: StdRng,
    keys: i64,
    t: BTreeMap<(i64, i64), i64>,
    u: BTreeMap<i64, i64>,
}

impl History {
    fn epoch(&mut self) -> HashMap<Relation, Delta> {
        let (mut t, mut u) = (Vec::new(), Vec::new());
        for _ in 0..EPOCH_ROWS {
            let k = self.random.random_range(0..self.keys);
            if self.random.random_bool(0.1) {
                let v = self.random.random_range(0..100);
                if let Some(old) = self.u.insert(k, v) {
                    u.push((k, old, -1));
                }
                u.push((k, v, 1));
                continue;
            }
            let present = self.t.range((k, 0)..(k + 1, 0)).next().map(|(&row, _)| row);
            let (row, weight) = match present {
                Some(row) if self.random.random_bool(0.4) => (row, -1),
                _ => ((k, self.random.random_range(0..50)), 1),
            };
            let sum = self.t.entry(row).or_default();
            *sum += weight;
            if *sum == 0 {
                self.t.remove(&row);
            }
            t.push((row.0, row.1, weight));
        }
        HashMap::from([("t".into(), delta(&t)), ("u".into(), delta(&u))])
    }
}

/// Runs a history with this budget of memory, restarts included; returns the most that state took after an epoch.
fn run(budget: usize, epochs: u64, restarts: bool) -> usize {
    let models = models();
    let (environment, _simulator) = Environment::simulated(1);
    let store = CheckpointStore::open(&environment, Path::new("/checkpoints")).unwrap();
    let mut graph = Dataflow::build(&models, &relations()).unwrap();
    graph.attach(&store.reader(), true).unwrap();
    let mut history = History { random: StdRng::seed_from_u64(9), keys: 8000, t: BTreeMap::new(), u: BTreeMap::new() };
    let mut kept: BTreeMap<String, BTreeMap<Row, i64>> = BTreeMap::new();
    let mut most = 0;
    for epoch in 1..=epochs {
        for (model, delta) in graph.step(0, &history.epoch()).unwrap().models {
            accumulate(kept.entry(model.to_string()).or_default(), &delta);
        }
        most = most.max(graph.state_bytes());
        let mut changes = StateChanges::default();
        graph.state_changes(&mut |state, key, value| changes.put_key(state, key, value));
        store.write(epoch, &mut changes, b"").unwrap();
        graph.durable();
        assert!(graph.keep_within(budget), "{} bytes are left after epoch {epoch}", graph.state_bytes());
        if restarts && epoch % 13 == 0 {
            // On as many cores as there are then.
            graph = Dataflow::build_on(&Workers::new(1 + epoch as usize % 3), &models, &relations()).unwrap();
            graph.attach(&store.reader(), false).unwrap();
            assert!(graph.state_bytes() < budget / 10, "a restart reads {} bytes at once", graph.state_bytes());
        }
    }
    let expected = expected(&history.t, &history.u);
    for (model, rows) in &expected {
        assert_eq!(kept.get(model), Some(rows), "{model}");
    }
    most
}

#[test]
fn a_tenth_of_the_memory_gives_the_same_answers_and_is_kept_to() {
    let epochs = 40;
    let whole = run(usize::MAX, epochs, false);
    let of_epoch = run(usize::MAX, 1, false);
    let budget = whole / 10;
    let most = run(budget, epochs, true);
    // What an epoch touches comes on top: its keys with all their rows, of which there are ten times as many as in
    // the first epoch.
    assert!(most < budget + 10 * of_epoch, "{most} bytes with a budget of {budget}, {of_epoch} in the first epoch");
    assert!(most < whole / 2, "{most} of {whole}");
}

#[test]
fn what_went_with_a_group_does_not_hide_what_another_has_on_disk() {
    let models = models();
    let (environment, _simulator) = Environment::simulated(2);
    let store = CheckpointStore::open(&environment, Path::new("/checkpoints")).unwrap();
    let mut graph = Dataflow::build(&models, &relations()).unwrap();
    graph.attach(&store.reader(), true).unwrap();
    let mut changes = StateChanges::default();
    let step = |graph: &mut Dataflow, rows: &[(i64, i64, i64)]| {
        let output = graph.step(0, &HashMap::from([("t".into(), delta(rows))])).unwrap();
        output.models.into_iter().find(|(model, _)| model.as_ref() == "kinds").map_or(0, |(_, delta)| delta.len())
    };
    assert_eq!(step(&mut graph, &[(1, 7, 1), (2, 7, 1)]), 2);
    graph.state_changes(&mut |state, key, value| changes.put_key(state, key, value));
    store.write(1, &mut changes, b"").unwrap();
    graph.durable();
    graph.keep_within(0);
    // The first group and its value go; no durable checkpoint knows of it yet.
    assert_eq!(step(&mut graph, &[(1, 7, -1)]), 1);
    graph.state_changes(&mut |_, _, _| {});
    // The second has the same value already, on disk alone.
    assert_eq!(step(&mut graph, &[(2, 7, 1)]), 0);
}
