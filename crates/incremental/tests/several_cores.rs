//! However many threads step a graph, and whatever the keys, its changes are those of one thread.

use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use weir_environment::Workers;
use weir_incremental::{Dataflow, Delta, ModelPlan, Planner, Relation, RelationTraits};

const QUERIES: [(&str, &str); 10] = [
    ("sums", "SELECT k, count(*) AS n, sum(v) AS total, min(v) AS least, max(s) AS most FROM t GROUP BY k"),
    ("kinds", "SELECT k, s, count(DISTINCT v) AS kinds FROM t GROUP BY k, s"),
    ("pairs", "SELECT t.k, t.v, u.v AS w FROM t LEFT JOIN u ON t.k = u.k AND t.v > u.v"),
    ("both", "SELECT t.k, u.s FROM t FULL JOIN u ON t.k = u.k AND t.s = u.s"),
    ("absent", "SELECT k, v FROM t WHERE NOT EXISTS (SELECT 1 FROM u WHERE u.k = t.k AND u.v > t.v)"),
    (
        "last",
        "SELECT k, v, s FROM (SELECT *, row_number() OVER (PARTITION BY k ORDER BY v DESC) AS n FROM t) WHERE n <= 2",
    ),
    ("different", "SELECT DISTINCT s, v FROM t"),
    ("common", "SELECT k, v FROM t INTERSECT SELECT k, v FROM u"),
    ("failing", "SELECT k, 100 / v AS share FROM t WHERE v < 3"),
    (
        "on_models",
        "SELECT sums.n, count(*) AS keys, max(last.v) AS v FROM sums JOIN last ON sums.k = last.k GROUP BY sums.n",
    ),
];

fn schema() -> SchemaRef {
    let column = |name: &str, kind| Field::new(name, kind, true);
    Arc::new(Schema::new(vec![column("k", DataType::Int64), column("v", DataType::Int64), column("s", DataType::Utf8)]))
}

fn relations() -> [(Relation, SchemaRef); 2] {
    [("t".into(), schema()), ("u".into(), schema())]
}

fn models() -> Vec<ModelPlan> {
    let mut planner = Planner::new(&|_| Ok(())).unwrap();
    for (relation, schema) in relations() {
        planner.add_relation(relation, schema, RelationTraits::default());
    }
    let mut models = Vec::new();
    for (name, sql) in QUERIES {
        let model = planner.plan(name, sql).unwrap();
        planner.add_relation(model.name.clone(), model.schema.clone(), RelationTraits::default());
        models.push(model);
    }
    models
}

/// Inserts of so many rows, and deletes of some that are there. Half of the rows have one key, some have none.
fn change(random: &mut StdRng, present: &mut Vec<(Option<i64>, i64, String)>, count: usize) -> Delta {
    let (mut rows, mut weights) = (Vec::new(), Vec::new());
    for _ in 0..count {
        if present.len() > 100 && random.random_bool(0.3) {
            rows.push(present.swap_remove(random.random_range(0..present.len())));
            weights.push(-1);
            continue;
        }
        let k = match random.random_range(0..40) {
            0 => None,
            1..20 => Some(7),
            _ => Some(random.random_range(0..2000)),
        };
        rows.push((k, random.random_range(0..500), format!("s{}", random.random_range(0..20))));
        present.push(rows[rows.len() - 1].clone());
        weights.push(1);
    }
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter(rows.iter().map(|row| row.0))),
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.2.as_str()))),
    ];
    Delta::new(RecordBatch::try_new(schema(), columns).unwrap(), weights.into())
}

#[test]
fn threads_change_nothing() {
    let models = models();
    let threads = [1, 2, 5];
    let build = |threads: usize| Dataflow::build_on(&Workers::new(threads), &models, &relations()).unwrap();
    let mut graphs = threads.map(build);
    let mut random = StdRng::seed_from_u64(5);
    let mut present = [Vec::new(), Vec::new()];
    // Some steps are worth sharing and some are not.
    for (epoch, count) in [6000, 40, 1, 9000, 300, 5000].into_iter().enumerate() {
        let [t, u] = &mut present;
        let inputs = HashMap::from([
            (Relation::from("t"), change(&mut random, t, count)),
            (Relation::from("u"), change(&mut random, u, count / 20)),
        ]);
        let mut told = graphs.iter_mut().map(|graph| {
            let output = graph.step(epoch as i64, &inputs).unwrap();
            let errors = output.errors.iter().map(|(model, delta)| (format!("errors of {model}"), delta));
            let rows = output.models.iter().map(|(model, delta)| (model.to_string(), delta));
            let sums: BTreeMap<String, (u128, usize)> =
                rows.chain(errors).map(|(name, delta)| (name, (delta.checksum().unwrap(), delta.len()))).collect();
            (sums, graph.describe().iter().map(|operator| operator.state_rows).collect::<Vec<_>>())
        });
        let alone = told.next().unwrap();
        assert!(epoch > 0 || alone.0.len() > QUERIES.len(), "every model changes, and some rows fail: {:?}", alone.0);
        for (shared, threads) in told.zip(&threads[1..]) {
            assert_eq!(shared, alone, "{threads} threads, epoch {epoch}");
        }
    }
}
