//! Matchers against a plain reading of what they promise: random rows that come, change and go in random epochs, a clock
//! that moves, and after every epoch the matches, what is left, the differences and the breaks by definition.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{Decimal128Type, Int64Type};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_environment::Workers;
use weir_incremental::{Delta, Relation};
use weir_pipeline::compile::compile;
use weir_project::Project;

const DAY: i64 = 86_400_000_000;
const SIDE: &str = "kind = \"beacon\"\nkey = [\"id\"]\nunknown_fields = \"drop\"\n\
    [columns]\nid = \"BIGINT\"\nref = \"VARCHAR\"\nday = \"BIGINT\"\namount = \"DECIMAL(12, 2)\"\nat = \"TIMESTAMP\"\n";
const MATCHER: &str = r#"
left = "booked"
right = "paid"
left_amount = "amount"
right_amount = "amount"
left_time = "at"
right_time = "at"
break_after = "2 days"
[[ways]]
name = "reference"
keys = ["ref"]
tolerance = "0.05"
within = "2 days"
[[ways]]
name = "split"
keys = ["ref = lower(ref)"]
match = "one to many"
[[ways]]
name = "day"
keys = ["day"]
match = "many to many"
tolerance = "0.10"
"#;

#[derive(Debug, Clone, PartialEq)]
struct Row {
    reference: Option<&'static str>,
    day: i64,
    cents: i64,
    at: i64,
}

type Side = BTreeMap<i64, Row>;

fn delta(schema: &arrow::datatypes::SchemaRef, rows: &[(i64, Row, i64)]) -> Delta {
    let numbers = |of: &dyn Fn(&(i64, Row, i64)) -> i64| Int64Array::from_iter_values(rows.iter().map(of));
    let cents = arrow::array::Decimal128Array::from_iter_values(rows.iter().map(|row| i128::from(row.1.cents)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(numbers(&|row| row.0)),
        Arc::new(StringArray::from_iter(rows.iter().map(|row| row.1.reference))),
        Arc::new(numbers(&|row| row.1.day)),
        Arc::new(cents.with_precision_and_scale(12, 2).unwrap()),
        Arc::new(TimestampMicrosecondArray::from_iter_values(rows.iter().map(|row| row.1.at))),
    ];
    Delta::new(RecordBatch::try_new(schema.clone(), columns).unwrap(), numbers(&|row| row.2))
}

/// Rows as text with their weights, summed over epochs.
#[derive(Default)]
struct Contents(BTreeMap<String, BTreeMap<Vec<String>, i64>>);

impl Contents {
    fn add(&mut self, relation: &str, delta: &Delta) {
        let cells: Vec<ArrayRef> = delta
            .rows
            .columns()
            .iter()
            .map(|column| arrow::compute::cast(column, &arrow::datatypes::DataType::Utf8).unwrap())
            .collect();
        let rows = self.0.entry(relation.to_owned()).or_default();
        for row in 0..delta.len() {
            let text = |column: &ArrayRef| match column.is_null(row) {
                true => "-".to_owned(),
                false => column.as_string::<i32>().value(row).to_owned(),
            };
            let weight = rows.entry(cells.iter().map(text).collect()).or_default();
            *weight += delta.weights.value(row);
        }
        rows.retain(|_, weight| *weight != 0);
    }

    /// Some columns of each row, each of which is there once.
    fn of(&self, relation: &str, columns: &[usize]) -> BTreeSet<Vec<String>> {
        let rows = self.0.get(relation).into_iter().flatten();
        let rows: Vec<Vec<String>> = rows
            .map(|(row, weight)| {
                assert_eq!(*weight, 1, "{relation}: {row:?}");
                columns.iter().map(|column| row[*column].clone()).collect()
            })
            .collect();
        let count = rows.len();
        let rows: BTreeSet<_> = rows.into_iter().collect();
        assert_eq!(rows.len(), count, "{relation} has a row twice");
        rows
    }
}

fn money(cents: i64) -> String {
    format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100)
}

/// What the matcher should say: `(way, left, right)`.
type Links = BTreeSet<Vec<String>>;

fn group(side: &Side, key: impl Fn(&Row) -> Option<String>) -> BTreeMap<String, Vec<(i64, Row)>> {
    let mut groups: BTreeMap<String, Vec<(i64, Row)>> = BTreeMap::new();
    for (id, row) in side {
        if let Some(key) = key(row) {
            groups.entry(key).or_default().push((*id, row.clone()));
        }
    }
    groups.values_mut().for_each(|rows| rows.sort_by_key(|(id, row)| (row.at, *id)));
    groups
}

fn by_definition(booked: &Side, paid: &Side) -> (Links, Side, Side) {
    let (mut booked, mut paid) = (booked.clone(), paid.clone());
    let mut links = Links::new();
    let mut link = |way: &str, left: Option<i64>, right: Option<i64>, booked: &mut Side, paid: &mut Side| {
        left.map(|id| booked.remove(&id).unwrap());
        right.map(|id| paid.remove(&id).unwrap());
        let text = |id: Option<i64>| id.map_or("-".to_owned(), |id| id.to_string());
        links.insert(vec![way.to_owned(), text(left), text(right)]);
    };
    // By reference: the closest pair, again and again.
    loop {
        let mut pairs = Vec::new();
        for (left, l) in &booked {
            for (right, r) in &paid {
                let (amount, time) = ((l.cents - r.cents).abs(), (l.at - r.at).abs());
                if l.reference.is_some() && l.reference == r.reference && amount <= 5 && time <= 2 * DAY {
                    pairs.push((amount, time, (l.at, *left), (r.at, *right)));
                }
            }
        }
        let Some((_, _, (_, left), (_, right))) = pairs.into_iter().min() else { break };
        link("reference", Some(left), Some(right), &mut booked, &mut paid);
    }
    // One of the left and all of the right; then all of a day.
    let sum = |rows: &[(i64, Row)]| rows.iter().map(|(_, row)| row.cents).sum::<i64>();
    for (way, tolerance) in [("split", 0), ("day", 10)] {
        let split = way == "split";
        let left_key = |row: &Row| if split { row.reference.map(str::to_owned) } else { Some(row.day.to_string()) };
        let right_key =
            |row: &Row| if split { row.reference.map(str::to_lowercase) } else { Some(row.day.to_string()) };
        let rights = group(&paid, right_key);
        for (key, lefts) in group(&booked, left_key) {
            let Some(rights) = rights.get(&key) else { continue };
            if (split && lefts.len() != 1) || (sum(&lefts) - sum(rights)).abs() > tolerance {
                continue;
            }
            for place in 0..lefts.len().max(rights.len()) {
                let id = |rows: &[(i64, Row)]| rows.get(place).map(|(id, _)| *id);
                link(way, id(&lefts), id(rights), &mut booked, &mut paid);
            }
        }
    }
    (links, booked, paid)
}

fn differences(booked: &Side, paid: &Side) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    let same = |row: &Row| row.reference.map(str::to_owned);
    let lower = |row: &Row| row.reference.map(str::to_lowercase);
    let day = |row: &Row| Some(row.day.to_string());
    type Key<'a> = &'a dyn Fn(&Row) -> Option<String>;
    let ways: [(&str, Key<'_>, Key<'_>); 3] =
        [("reference", &same, &same), ("split", &same, &lower), ("day", &day, &day)];
    for (way, left, right) in ways {
        let rights = group(paid, right);
        for (key, lefts) in group(booked, left) {
            let Some(rights) = rights.get(&key) else { continue };
            let sum = |rows: &[(i64, Row)]| rows.iter().map(|(_, row)| row.cents).sum::<i64>();
            found.insert(vec![
                way.to_owned(),
                key,
                lefts.len().to_string(),
                rights.len().to_string(),
                money(sum(&lefts) - sum(rights)),
            ]);
        }
    }
    found
}

fn breaks(booked: &Side, paid: &Side, now: i64) -> BTreeSet<Vec<String>> {
    let mut found = BTreeSet::new();
    for (side, rows) in [("left", booked), ("right", paid)] {
        for (id, row) in rows {
            let age = match (now - row.at - 2 * DAY).div_euclid(DAY) {
                ..0 => continue,
                0 => "under 1 day",
                1..7 => "1 to 7 days",
                7..30 => "7 to 30 days",
                _ => "over 30 days",
            };
            found.insert(vec![side.to_owned(), id.to_string(), age.to_owned()]);
        }
    }
    found
}

#[test]
fn matches_are_as_defined_whatever_comes_changes_and_goes() {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in
        [("weir.toml", ""), ("sources/booked.toml", SIDE), ("sources/paid.toml", SIDE), ("matchers/bank.toml", MATCHER)]
    {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    let reading = Project::read(folder.path(), None);
    let told: Vec<String> = reading.mistakes.iter().map(ToString::to_string).collect();
    let spec = compile(&reading.project.unwrap_or_else(|| panic!("{told:#?}"))).unwrap();
    let (mut matched_by, mut broke) = (BTreeMap::<String, usize>::new(), 0);
    for seed in 0..6 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut dataflow = spec.dataflow(&Workers::new(1 + seed as usize % 2)).unwrap();
        let mut sides: [Side; 2] = Default::default();
        let mut contents = Contents::default();
        let mut now = 100 * DAY;
        for epoch in 0..40 {
            now += random.random_range(0..DAY / 2) + if random.random_bool(0.05) { 20 * DAY } else { 0 };
            let mut inputs: HashMap<Relation, Delta> = HashMap::new();
            for (side, name) in ["booked", "paid"].into_iter().enumerate() {
                let mut changes = Vec::new();
                for _ in 0..random.random_range(0..8) {
                    let id = random.random_range(0..25);
                    if let Some(old) = sides[side].remove(&id) {
                        changes.push((id, old, -1));
                    }
                    if random.random_bool(0.7) {
                        let references = [None, Some("a"), Some("b"), Some("c"), Some("B"), Some("d")];
                        let row = Row {
                            reference: references[random.random_range(0..6)],
                            day: random.random_range(0..6),
                            cents: random.random_range(0..4) * 100 + random.random_range(0..2) * 5,
                            at: now - random.random_range(0..4) * DAY,
                        };
                        sides[side].insert(id, row.clone());
                        changes.push((id, row, 1));
                    }
                }
                let schema = spec.schema(&name.into()).unwrap();
                inputs.insert(name.into(), delta(&schema, &changes).consolidate().unwrap());
            }
            let output = dataflow.step(now, &inputs).unwrap();
            assert!(output.errors.is_empty(), "seed {seed}: {:?}", output.errors);
            for (relation, delta) in &output.models {
                contents.add(relation, delta);
            }
            let (links, booked, paid) = by_definition(&sides[0], &sides[1]);
            let told = format!("seed {seed}, epoch {epoch}");
            // match, place, way, left_id, right_id, amounts, difference, times.
            assert_eq!(contents.of("bank_matched", &[2, 3, 4]), links, "{told}");
            let ids = |side: &Side| side.keys().map(|id| vec![id.to_string()]).collect::<BTreeSet<_>>();
            assert_eq!(contents.of("bank_unmatched_left", &[0]), ids(&booked), "{told}");
            assert_eq!(contents.of("bank_unmatched_right", &[0]), ids(&paid), "{told}");
            // way, keys, rows, amounts, difference.
            assert_eq!(contents.of("bank_differences", &[0, 1, 2, 3, 6]), differences(&booked, &paid), "{told}");
            // side, id, amount, at, broke_at, age.
            assert_eq!(contents.of("bank_breaks", &[0, 1, 5]), breaks(&booked, &paid, now), "{told}");
            broke += contents.of("bank_breaks", &[0, 1]).len();
            for link in links {
                *matched_by.entry(link[0].clone()).or_default() += 1;
            }
        }
    }
    // Each way had something to do, or the test shows nothing.
    assert!(matched_by.len() == 3 && matched_by.values().all(|count| *count > 5) && broke > 50, "{matched_by:?}");
}

#[test]
fn a_matched_amount_counts_once_and_differences_add_up() {
    let rows = |side: u8, amounts: &[i64]| -> Vec<String> {
        amounts.iter().map(|cents| format!("({side}, {}.{:02})", cents / 100, cents % 100)).collect()
    };
    let rows = [rows(0, &[1000, 250]), rows(1, &[400, 600, 245])].concat().join(", ");
    let sql = format!(
        "SELECT sum(m['left']['amount']) AS l, sum(m['right']['amount']) AS r, sum(m['difference']) AS d, count(*) AS n FROM \
         (SELECT unnest(match_rows(rows, 'many to many', '0.05', NULL)) AS m FROM \
         (SELECT array_agg(named_struct('side', side, 'amount', CAST(amount AS DECIMAL(12, 2)))) AS rows \
         FROM (VALUES {rows}) AS v(side, amount)) AS a) AS b"
    );
    let found = tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
        let mut context = datafusion::prelude::SessionContext::new();
        weir_functions::register(&mut context).unwrap();
        context.sql(&sql).await.unwrap().collect().await.unwrap()
    });
    let cents = |column: usize| found[0].column(column).as_primitive::<Decimal128Type>().value(0);
    assert_eq!((cents(0), cents(1), cents(2)), (1250, 1245, 5));
    assert_eq!(found[0].column(3).as_primitive::<Int64Type>().value(0), 3);
}
