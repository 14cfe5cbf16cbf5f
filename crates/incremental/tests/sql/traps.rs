//! Named traps: small stories in which stream processors are known to go wrong.

use crate::harness::{Chance, SECOND, START, compare, table};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::util::display::array_value_to_string;
use datafusion::catalog::TableProvider;
use std::collections::HashMap;
use std::sync::Arc;
use weir_incremental::{
    BatchLimits, Dataflow, Delta, ModelPlan, Planner, Relation, RelationTraits, StepOutput, batch, dataflow,
};

const DAY: i64 = 86_400 * SECOND;
const INT: DataType = DataType::Int64;
const TEXT: DataType = DataType::Utf8;
const DOUBLE: DataType = DataType::Float64;
const INSTANT: DataType = DataType::Timestamp(TimeUnit::Microsecond, None);

/// Relations and models, told epoch by epoch. Each epoch is compared with a batch run.
struct Story {
    relations: Vec<(Relation, SchemaRef)>,
    models: Vec<ModelPlan>,
    graph: Dataflow,
    told: HashMap<Relation, Vec<Delta>>,
    kept: HashMap<Relation, Vec<Delta>>,
    errors: HashMap<Relation, Vec<Delta>>,
    runtime: tokio::runtime::Runtime,
}

impl Story {
    fn new(relations: &[(&str, &[(&str, DataType)])], models: &[(&str, &str)]) -> Self {
        let relations: Vec<(Relation, SchemaRef)> = relations
            .iter()
            .map(|(name, columns)| {
                let fields: Vec<Field> = columns.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect();
                (Relation::from(*name), Arc::new(Schema::new(fields)))
            })
            .collect();
        let mut planner = Planner::new(&|_| Ok(())).unwrap();
        for (name, schema) in &relations {
            planner.add_relation(name.clone(), schema.clone(), RelationTraits::default());
        }
        let mut planned = Vec::new();
        for (name, sql) in models {
            let model = planner.plan(name, sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
            planner.add_relation(model.name.clone(), model.schema.clone(), RelationTraits::default());
            planned.push(model);
        }
        let graph = Dataflow::build(&planned, &relations).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self {
            relations,
            models: planned,
            graph,
            told: HashMap::new(),
            kept: HashMap::new(),
            errors: HashMap::new(),
            runtime,
        }
    }

    /// An epoch at a time in days: changes of relations, each row as `+ a | b | c` or `- a | b | c`.
    fn epoch(&mut self, days: f64, changes: &[(&str, &[&str])]) -> StepOutput {
        let now = START + (days * DAY as f64) as i64;
        let mut deltas: HashMap<Relation, Delta> = HashMap::new();
        for (name, rows) in changes {
            let (relation, schema) = self.relations.iter().find(|(n, _)| n.as_ref() == *name).unwrap();
            let delta = delta_of(schema, rows);
            self.told.entry(relation.clone()).or_default().push(delta.clone());
            deltas.insert(relation.clone(), delta);
        }
        let output = self.graph.step(now, &deltas).unwrap();
        for (model, delta) in &output.models {
            self.kept.entry(model.clone()).or_default().push(delta.clone());
        }
        for (model, delta) in &output.errors {
            self.errors.entry(model.clone()).or_default().push(delta.clone());
        }
        let mut tables: HashMap<Relation, Arc<dyn TableProvider>> = HashMap::new();
        for (relation, schema) in &self.relations {
            let told = self.told.get(relation).cloned().unwrap_or_default();
            let rows = Delta::concat(schema, &told).unwrap().expand().unwrap();
            tables.insert(relation.clone(), table(schema, vec![rows]));
        }
        for model in &self.models {
            let lookup = |relation: &Relation| tables.get(relation).cloned();
            let run = batch::run(model, &lookup, now, BatchLimits::default());
            let expected = self.runtime.block_on(run).unwrap();
            compare(&model.schema, self.kept.get(&model.name), &expected.rows).unwrap();
            compare(&dataflow::ERROR_SCHEMA, self.errors.get(&model.name), &expected.errors).unwrap();
            tables.insert(model.name.clone(), table(&model.schema, expected.rows));
        }
        output
    }

    /// The rows of a model as text, each as often as it is there, sorted.
    fn rows(&self, model: &str) -> Vec<String> {
        let schema = &self.models.iter().find(|m| m.name.as_ref() == model).unwrap().schema;
        texts(schema, self.kept.get(model).map_or(&[], Vec::as_slice))
    }

    /// What went wrong with rows of a model.
    fn messages(&self, model: &str) -> Vec<String> {
        let errors = self.errors.get(model).map_or(&[][..], Vec::as_slice);
        let rows = Delta::concat(&dataflow::ERROR_SCHEMA, errors).unwrap().expand().unwrap();
        let mut messages: Vec<String> = (0..rows.num_rows())
            .map(|row| {
                array_value_to_string(rows.column(1), row).unwrap()
                    + ": "
                    + &array_value_to_string(rows.column(3), row).unwrap()
            })
            .collect();
        messages.sort();
        messages
    }
}

fn texts(schema: &SchemaRef, deltas: &[Delta]) -> Vec<String> {
    let rows = Delta::concat(schema, deltas).unwrap().expand().unwrap();
    let text = |row: usize| {
        let values = rows.columns().iter().map(|column| match column.is_null(row) {
            true => "NULL".to_owned(),
            false => array_value_to_string(column, row).unwrap(),
        });
        values.collect::<Vec<_>>().join(" | ")
    };
    let mut texts: Vec<String> = (0..rows.num_rows()).map(text).collect();
    texts.sort();
    texts
}

fn delta_of(schema: &SchemaRef, rows: &[&str]) -> Delta {
    let weights: Int64Array = rows.iter().map(|row| Some(if row.starts_with('-') { -1 } else { 1 })).collect();
    let columns = schema.fields().iter().enumerate().map(|(index, field)| {
        let values: StringArray = rows
            .iter()
            .map(|row| row[1..].split('|').nth(index).map(str::trim).filter(|text| *text != "NULL"))
            .collect();
        let values: ArrayRef = Arc::new(values);
        cast(&values, field.data_type()).unwrap()
    });
    Delta::new(RecordBatch::try_new(schema.clone(), columns.collect()).unwrap(), weights)
}

#[test]
fn the_bank_holds_nothing_of_its_own_at_every_epoch() {
    let amount = DataType::Decimal128(12, 2);
    let transfers: &[(&str, DataType)] = &[("id", INT), ("source", INT), ("target", INT), ("amount", amount)];
    let mut story = Story::new(
        &[("transfers", transfers)],
        &[
            ("credits", "SELECT target AS account, sum(amount) AS amount FROM transfers GROUP BY target"),
            ("debits", "SELECT source AS account, sum(amount) AS amount FROM transfers GROUP BY source"),
            (
                "balances",
                "SELECT coalesce(c.account, d.account) AS account, coalesce(c.amount, 0) - coalesce(d.amount, 0) AS balance FROM credits c FULL JOIN debits d ON c.account = d.account",
            ),
            ("total", "SELECT sum(balance) AS total FROM balances"),
        ],
    );
    let mut chance = Chance::new(7);
    let mut open: Vec<String> = Vec::new();
    for epoch in 0..40 {
        let mut rows = Vec::new();
        for id in 0..1 + chance.below(6) {
            if !open.is_empty() && chance.once_in(4) {
                // A transfer is taken back.
                let row = open.swap_remove(chance.below(open.len() as u64) as usize);
                rows.push(format!("-{row}"));
                continue;
            }
            let (source, target, cents) = (chance.below(6), chance.below(6), chance.below(100_000));
            let row = format!(" {epoch}{id} | {source} | {target} | {}.{:02}", cents / 100, cents % 100);
            rows.push(format!("+{row}"));
            open.push(row);
        }
        let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
        let output = story.epoch(f64::from(epoch), &[("transfers", &rows)]);
        let total = story.rows("total");
        assert!(total == ["0.00"] || (open.is_empty() && total == ["NULL"]), "epoch {epoch}: {total:?}");
        // Nobody sees a total that is not zero on the way either.
        let changed = output.models.iter().filter(|(model, _)| model.as_ref() == "total");
        for (_, delta) in changed {
            assert!(delta.rows.num_rows() <= 2 && delta.weights.values().iter().all(|w| w.abs() == 1));
        }
    }
}

#[test]
fn when_the_only_maximum_goes_the_next_one_takes_its_place() {
    let mut story = Story::new(
        &[("bids", &[("item", TEXT), ("price", INT)])],
        &[("best", "SELECT item, max(price) AS price, min(price) AS least FROM bids GROUP BY item")],
    );
    story.epoch(0.0, &[("bids", &["+ a | 5", "+ a | 9", "+ b | 1", "+ a | 7"])]);
    story.epoch(0.1, &[("bids", &["- a | 9"])]);
    assert_eq!(story.rows("best"), ["a | 7 | 5", "b | 1 | 1"]);
    story.epoch(0.2, &[("bids", &["- a | 7", "- b | 1"])]);
    assert_eq!(story.rows("best"), ["a | 5 | 5"]);
    story.epoch(0.3, &[("bids", &["- a | 5", "+ a | NULL"])]);
    assert_eq!(story.rows("best"), ["a | NULL | NULL"]);
}

#[test]
fn outer_joins_flip_when_the_first_partner_comes_and_the_last_goes() {
    let mut story = Story::new(
        &[("l", &[("k", INT), ("a", TEXT)]), ("r", &[("k", INT), ("b", TEXT)])],
        &[
            ("lefts", "SELECT l.a, r.b FROM l LEFT JOIN r ON l.k = r.k"),
            ("fulls", "SELECT l.a, r.b FROM l FULL JOIN r ON l.k = r.k AND r.b <> 'no'"),
            ("without", "SELECT a FROM l WHERE NOT EXISTS (SELECT 1 FROM r WHERE r.k = l.k)"),
        ],
    );
    story.epoch(0.0, &[("l", &["+ 1 | x", "+ 1 | x", "+ 2 | y"])]);
    assert_eq!(story.rows("lefts"), ["x | NULL", "x | NULL", "y | NULL"]);
    story.epoch(0.1, &[("r", &["+ 1 | p", "+ 1 | no"])]);
    assert_eq!(story.rows("lefts"), ["x | no", "x | no", "x | p", "x | p", "y | NULL"]);
    assert_eq!(story.rows("fulls"), ["NULL | no", "x | p", "x | p", "y | NULL"]);
    assert_eq!(story.rows("without"), ["y"]);
    // The last partner goes while another comes: no flip is seen.
    let output = story.epoch(0.2, &[("r", &["- 1 | p", "+ 1 | q", "- 1 | no"])]);
    assert_eq!(story.rows("lefts"), ["x | q", "x | q", "y | NULL"]);
    assert!(output.models.iter().all(|(model, _)| model.as_ref() != "without"));
    // Both sides of a pair come and go in one epoch.
    story.epoch(0.3, &[("l", &["- 2 | y", "+ 3 | z"]), ("r", &["- 1 | q", "+ 3 | s"])]);
    assert_eq!(story.rows("lefts"), ["x | NULL", "x | NULL", "z | s"]);
    assert_eq!(story.rows("without"), ["x", "x"]);
}

#[test]
fn rows_that_are_there_twice_are_counted_twice_and_go_one_by_one() {
    let mut story = Story::new(
        &[("t", &[("x", INT)]), ("u", &[("x", INT)])],
        &[
            ("plain", "SELECT x FROM t"),
            ("sums", "SELECT sum(x) AS total, count(*) AS count FROM t"),
            ("pairs", "SELECT a.x FROM t a JOIN t b ON a.x = b.x"),
            ("rest", "SELECT x FROM t EXCEPT ALL SELECT x FROM u"),
            ("common", "SELECT x FROM t INTERSECT ALL SELECT x FROM u"),
            ("once", "SELECT DISTINCT x FROM t"),
        ],
    );
    story.epoch(0.0, &[("t", &["+ 4", "+ 4", "+ 4", "+ 1"]), ("u", &["+ 4", "+ 2"])]);
    assert_eq!(story.rows("pairs").len(), 10);
    assert_eq!(story.rows("rest"), ["1", "4", "4"]);
    assert_eq!(story.rows("common"), ["4"]);
    story.epoch(0.1, &[("t", &["- 4"]), ("u", &["+ 4"])]);
    assert_eq!(story.rows("plain"), ["1", "4", "4"]);
    assert_eq!(story.rows("sums"), ["9 | 3"]);
    assert_eq!(story.rows("rest"), ["1"]);
    assert_eq!(story.rows("common"), ["4", "4"]);
    story.epoch(0.2, &[("t", &["- 4"])]);
    assert_eq!(story.rows("once"), ["1", "4"]);
    story.epoch(0.3, &[("t", &["- 4"])]);
    assert_eq!(story.rows("once"), ["1"]);
    assert_eq!(story.rows("common"), Vec::<String>::new());
}

#[test]
fn null_keys_group_together_but_join_nothing() {
    let mut story = Story::new(
        &[("l", &[("k", INT), ("a", INT)]), ("r", &[("k", INT), ("b", INT)])],
        &[
            ("joined", "SELECT a, b FROM l JOIN r ON l.k = r.k"),
            ("outer_joined", "SELECT a, b FROM l FULL JOIN r ON l.k = r.k"),
            ("same", "SELECT a, b FROM l JOIN r ON l.k IS NOT DISTINCT FROM r.k"),
            ("grouped", "SELECT k, count(*) AS count FROM l GROUP BY k"),
            ("missing", "SELECT a FROM l WHERE k NOT IN (SELECT k FROM r)"),
            ("as_of", "SELECT a, b FROM l ASOF LEFT JOIN r MATCH_CONDITION (l.a >= r.b) ON l.k = r.k"),
        ],
    );
    story.epoch(0.0, &[("l", &["+ NULL | 1", "+ NULL | 2", "+ 5 | 3"]), ("r", &["+ NULL | 1"])]);
    assert_eq!(story.rows("joined"), Vec::<String>::new());
    assert_eq!(story.rows("outer_joined"), ["1 | NULL", "2 | NULL", "3 | NULL", "NULL | 1"]);
    assert_eq!(story.rows("same"), ["1 | 1", "2 | 1"]);
    assert_eq!(story.rows("grouped"), ["5 | 1", "NULL | 2"]);
    assert_eq!(story.rows("missing"), Vec::<String>::new());
    assert_eq!(story.rows("as_of"), ["1 | NULL", "2 | NULL", "3 | NULL"]);
    story.epoch(0.1, &[("r", &["- NULL | 1", "+ 6 | 1"])]);
    assert_eq!(story.rows("missing"), ["3"]);
    story.epoch(0.2, &[("r", &["- 6 | 1"])]);
    assert_eq!(story.rows("missing"), ["1", "2", "3"]);
}

#[test]
fn zeros_are_one_zero_and_nan_is_one_nan() {
    let mut story = Story::new(
        &[("t", &[("x", DOUBLE)]), ("u", &[("x", DOUBLE)])],
        &[
            ("grouped", "SELECT x, count(*) AS count FROM t GROUP BY x"),
            ("joined", "SELECT t.x FROM t JOIN u ON t.x = u.x"),
            ("extremes", "SELECT min(x) AS least, max(x) AS most FROM t"),
            ("rest", "SELECT x FROM t EXCEPT ALL SELECT x FROM u"),
        ],
    );
    story.epoch(0.0, &[("t", &["+ 0.0", "+ -0.0", "+ NaN", "+ NaN", "+ 1"]), ("u", &["+ -0.0", "+ NaN"])]);
    assert_eq!(story.rows("grouped"), ["0.0 | 2", "1.0 | 1", "NaN | 2"]);
    assert_eq!(story.rows("joined"), ["0.0", "0.0", "NaN", "NaN"]);
    assert_eq!(story.rows("extremes"), ["0.0 | NaN"]);
    assert_eq!(story.rows("rest"), ["0.0", "1.0", "NaN"]);
    // What came as the one zero goes as the other.
    story.epoch(0.1, &[("t", &["- 0.0", "- 0.0", "- NaN", "- NaN"])]);
    assert_eq!(story.rows("grouped"), ["1.0 | 1"]);
    assert_eq!(story.rows("extremes"), ["1.0 | 1.0"]);
}

#[test]
fn sums_of_floats_do_not_remember_what_has_gone() {
    let mut story =
        Story::new(&[("t", &[("x", DOUBLE)])], &[("sums", "SELECT sum(x) AS total, avg(x) AS mean FROM t")]);
    story.epoch(0.0, &[("t", &["+ 1e16", "+ 1", "+ -1e16"])]);
    assert_eq!(story.rows("sums"), ["1.0 | 0.3333333333333333"]);
    story.epoch(0.1, &[("t", &["+ NaN", "+ inf"])]);
    assert_eq!(story.rows("sums"), ["NaN | NaN"]);
    story.epoch(0.2, &[("t", &["- NaN", "- inf", "- 1e16", "- -1e16"])]);
    assert_eq!(story.rows("sums"), ["1.0 | 1.0"]);
}

#[test]
fn decimals_are_exact_to_the_edge_of_their_type() {
    let price = DataType::Decimal128(12, 2);
    let mut story = Story::new(
        &[("t", &[("k", TEXT), ("x", price)])],
        &[("sums", "SELECT k, sum(x) AS total, avg(x) AS mean, min(x) AS least, max(x) AS most FROM t GROUP BY k")],
    );
    story.epoch(0.0, &[("t", &["+ a | 9999999999.99", "+ a | 9999999999.99", "+ a | -9999999999.99", "+ b | 0.01"])]);
    let row = "a | 9999999999.99 | 3333333333.330000 | -9999999999.99 | 9999999999.99";
    assert_eq!(story.rows("sums"), [row, "b | 0.01 | 0.010000 | 0.01 | 0.01"]);
    story.epoch(0.1, &[("t", &["- a | -9999999999.99", "- b | 0.01"])]);
    assert_eq!(story.rows("sums"), ["a | 19999999999.98 | 9999999999.990000 | 9999999999.99 | 9999999999.99"]);
}

#[test]
fn a_group_without_rows_is_no_group_but_all_rows_are_one_group_even_when_there_are_none() {
    let mut story = Story::new(
        &[("t", &[("k", TEXT), ("x", INT)])],
        &[
            ("grouped", "SELECT k, count(*) AS count, sum(x) AS total FROM t GROUP BY k"),
            ("whole", "SELECT count(*) AS count, sum(x) AS total FROM t"),
            ("rolled", "SELECT k, count(*) AS count, grouping(k) AS g FROM t GROUP BY ROLLUP (k)"),
        ],
    );
    story.epoch(0.0, &[]);
    assert_eq!(story.rows("whole"), ["0 | NULL"]);
    assert_eq!(story.rows("rolled"), ["NULL | 0 | 1"]);
    story.epoch(0.1, &[("t", &["+ a | NULL", "+ NULL | 2"])]);
    assert_eq!(story.rows("grouped"), ["NULL | 1 | 2", "a | 1 | NULL"]);
    assert_eq!(story.rows("rolled"), ["NULL | 1 | 0", "NULL | 2 | 1", "a | 1 | 0"]);
    story.epoch(0.2, &[("t", &["- a | NULL", "- NULL | 2"])]);
    assert_eq!(story.rows("grouped"), Vec::<String>::new());
    assert_eq!(story.rows("whole"), ["0 | NULL"]);
    assert_eq!(story.rows("rolled"), ["NULL | 0 | 1"]);
}

#[test]
fn a_row_that_is_updated_twice_in_one_epoch_changes_once() {
    let mut story = Story::new(
        &[("accounts", &[("id", INT), ("plan", TEXT)])],
        &[
            ("plans", "SELECT plan, count(*) AS count FROM accounts GROUP BY plan"),
            ("own", "SELECT id, plan FROM accounts"),
        ],
    );
    story.epoch(0.0, &[("accounts", &["+ 1 | free"])]);
    let updates = ["- 1 | free", "+ 1 | basic", "- 1 | basic", "+ 1 | pro"];
    let output = story.epoch(0.1, &[("accounts", &updates)]);
    for (model, delta) in &output.models {
        assert_eq!(delta.len(), 2, "{model} says more than what changed: {delta:?}");
    }
    assert_eq!(story.rows("plans"), ["pro | 1"]);
    // There and back again is no change at all.
    let output = story.epoch(0.2, &[("accounts", &["- 1 | pro", "+ 1 | free", "- 1 | free", "+ 1 | pro"])]);
    assert!(output.models.is_empty(), "{:?}", output.models);
}

#[test]
fn ties_fall_the_same_way_whatever_came_first() {
    let models: &[(&str, &str)] = &[
        ("numbered", "SELECT a, b, row_number() OVER (ORDER BY k) AS place FROM t"),
        ("shifted", "SELECT a, lag(a) OVER (PARTITION BY k ORDER BY k) AS before FROM t"),
        ("tiled", "SELECT a, ntile(2) OVER (ORDER BY k) AS tile FROM t"),
        ("running", "SELECT a, sum(b) OVER (ORDER BY k ROWS UNBOUNDED PRECEDING) AS total FROM t"),
        ("limited", "SELECT a, b FROM t ORDER BY k LIMIT 2"),
        ("unordered", "SELECT a, b FROM t LIMIT 2"),
        ("first_of_each", "SELECT DISTINCT ON (k) k, a, b FROM t ORDER BY k"),
        ("collected", "SELECT k, array_agg(a) AS all_of, string_agg(a, ',' ORDER BY k) AS text FROM t GROUP BY k"),
        ("ends", "SELECT k, first_value(a ORDER BY k) AS first, last_value(a ORDER BY k) AS last FROM t GROUP BY k"),
        ("as_of", "SELECT t.a, s.a AS other FROM t ASOF JOIN t s MATCH_CONDITION (t.k >= s.k)"),
    ];
    let rows = ["+ 1 | p | 3", "+ 1 | q | 2", "+ 1 | q | 2", "+ 1 | r | 1", "+ 2 | a | 9", "+ 2 | b | 9"];
    let mut answers: Vec<Vec<Vec<String>>> = Vec::new();
    for order in [[0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [2, 5, 0, 3, 1, 4]] {
        for cut in [1, 2, 6] {
            let mut story = Story::new(&[("t", &[("k", INT), ("a", TEXT), ("b", INT)])], models);
            for part in order.chunks(cut) {
                let part: Vec<&str> = part.iter().map(|index| rows[*index]).collect();
                story.epoch(0.0, &[("t", &part)]);
            }
            answers.push(models.iter().map(|(name, _)| story.rows(name)).collect());
        }
    }
    for other in &answers[1..] {
        assert_eq!(*other, answers[0]);
    }
}

#[test]
fn a_filter_that_guards_a_division_guards_it() {
    let guards = [
        "SELECT id, 10 / n AS share FROM t WHERE n <> 0",
        "SELECT id, 10 / n AS share FROM (SELECT * FROM t WHERE n <> 0) AS s",
        "SELECT id FROM t WHERE n <> 0 AND 10 / n > 1",
        "SELECT id, CASE WHEN n = 0 THEN 0 ELSE 10 / n END AS share FROM t",
        "SELECT t.id, 10 / t.n AS share FROM t JOIN u ON t.id = u.id WHERE t.n <> 0",
        "SELECT k, sum(10 / n) AS total FROM (SELECT id % 2 AS k, n FROM t WHERE n <> 0) AS s GROUP BY k",
    ];
    for guard in guards {
        let relations: &[(&str, &[(&str, DataType)])] = &[("t", &[("id", INT), ("n", INT)]), ("u", &[("id", INT)])];
        let mut story = Story::new(relations, &[("m", guard)]);
        story.epoch(0.0, &[("t", &["+ 1 | 0", "+ 2 | 5", "+ 3 | NULL"]), ("u", &["+ 1", "+ 2"])]);
        assert_eq!(story.messages("m"), Vec::<String>::new(), "{guard}");
        assert!(!story.rows("m").is_empty(), "{guard}");
    }
}

#[test]
fn who_was_active_in_the_last_seven_days_leaves_when_nothing_comes_for_eight() {
    let mut story = Story::new(
        &[("clicks", &[("visitor", TEXT), ("at", INSTANT)])],
        &[
            ("active", "SELECT DISTINCT visitor FROM clicks WHERE at > now() - INTERVAL '7 days'"),
            ("count", "SELECT count(*) AS visitors FROM active"),
        ],
    );
    let first = ["+ ann | 2026-01-01T12:00:00", "+ bob | 2026-01-01T06:00:00", "+ bob | 2026-01-03T00:00:00"];
    story.epoch(1.0, &[("clicks", &first)]);
    assert_eq!(story.rows("active"), ["ann", "bob"]);
    assert_eq!(story.graph.next_due(), Some(START + 7 * DAY + 6 * 3600 * SECOND));
    story.epoch(7.5, &[]);
    assert_eq!(story.rows("active"), ["bob"]);
    let output = story.epoch(9.0, &[]);
    assert_eq!(output.models.len(), 2);
    assert_eq!(story.rows("active"), Vec::<String>::new());
    assert_eq!(story.rows("count"), ["0"]);
    assert_eq!(story.graph.next_due(), None);
}

#[test]
fn a_cycle_does_not_hold_itself_up_when_the_way_to_it_is_gone() {
    let mut story = Story::new(
        &[("roots", &[("node", INT)]), ("edges", &[("a", INT), ("b", INT)])],
        &[(
            "reached",
            "WITH RECURSIVE reach AS (SELECT node FROM roots UNION SELECT e.b AS node FROM reach r JOIN edges e ON e.a = r.node) SELECT node FROM reach",
        )],
    );
    let edges = ["+ 1 | 2", "+ 2 | 3", "+ 3 | 2", "+ 3 | 4", "+ 4 | 5", "+ 5 | 3", "+ 5 | 5"];
    story.epoch(0.0, &[("roots", &["+ 1"]), ("edges", &edges)]);
    assert_eq!(story.rows("reached"), ["1", "2", "3", "4", "5"]);
    story.epoch(0.1, &[("edges", &["- 1 | 2"])]);
    assert_eq!(story.rows("reached"), ["1"]);
    story.epoch(0.2, &[("edges", &["+ 1 | 5"])]);
    assert_eq!(story.rows("reached"), ["1", "2", "3", "4", "5"]);
    story.epoch(0.3, &[("edges", &["+ 1 | 4", "- 5 | 3"])]);
    assert_eq!(story.rows("reached"), ["1", "4", "5"]);
    story.epoch(0.4, &[("roots", &["- 1", "+ 3"])]);
    assert_eq!(story.rows("reached"), ["2", "3", "4", "5"]);
}

#[test]
fn recursion_without_end_is_an_error_that_names_it_and_goes_with_its_cause() {
    let mut story = Story::new(
        &[("start", &[("x", INT)]), ("steps", &[("by", INT)])],
        &[(
            "numbers",
            "WITH RECURSIVE upward AS (SELECT x FROM start UNION ALL SELECT x + by AS x FROM upward CROSS JOIN steps) SELECT count(*) AS count, max(x) AS most FROM upward",
        )],
    );
    story.epoch(0.0, &[("start", &["+ 0"])]);
    assert_eq!(story.rows("numbers"), ["1 | 0"]);
    story.epoch(0.1, &[("steps", &["+ 1"])]);
    assert_eq!(story.rows("numbers"), ["1001 | 1000"]);
    assert_eq!(story.messages("numbers"), ["WITH RECURSIVE upward: this row takes more than 1000 iterations"]);
    story.epoch(0.2, &[("steps", &["- 1"])]);
    assert_eq!(story.messages("numbers"), Vec::<String>::new());
    // A row that doubles itself at each iteration is as much without end.
    story.epoch(0.3, &[("steps", &["+ 0", "+ 0"])]);
    let messages = story.messages("numbers");
    assert_eq!(messages, ["WITH RECURSIVE upward: one iteration gives this row more than 1048576 times"]);
}

#[test]
fn an_as_of_join_follows_prices_that_come_late_and_are_taken_back() {
    let mut story = Story::new(
        &[
            ("trades", &[("id", INT), ("item", TEXT), ("at", INT)]),
            ("prices", &[("item", TEXT), ("at", INT), ("price", INT)]),
        ],
        &[(
            "priced",
            "SELECT t.id, p.price FROM trades t ASOF LEFT JOIN prices p MATCH_CONDITION (t.at >= p.at) ON t.item = p.item",
        )],
    );
    story.epoch(0.0, &[("trades", &["+ 1 | a | 10", "+ 2 | a | 20", "+ 3 | b | 10"]), ("prices", &["+ a | 5 | 100"])]);
    assert_eq!(story.rows("priced"), ["1 | 100", "2 | 100", "3 | NULL"]);
    let output = story.epoch(0.1, &[("prices", &["+ a | 15 | 150"])]);
    assert_eq!(story.rows("priced"), ["1 | 100", "2 | 150", "3 | NULL"]);
    // Only the trade between the new price and the next is touched.
    assert_eq!(output.models[0].1.len(), 2);
    // Two prices of one instant: the one that sorts last counts.
    story.epoch(0.2, &[("prices", &["+ a | 15 | 140", "+ a | 15 | 160"])]);
    assert_eq!(story.rows("priced"), ["1 | 100", "2 | 160", "3 | NULL"]);
    story.epoch(0.3, &[("prices", &["- a | 15 | 160", "- a | 5 | 100"])]);
    assert_eq!(story.rows("priced"), ["1 | NULL", "2 | 150", "3 | NULL"]);
}
