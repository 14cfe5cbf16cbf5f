//! Rows that are there: for rows of random queries, and of models over models, what is named must give the row again.
//!
//! `WEIR_LINEAGE_QUERIES` says how many random queries are drawn, `WEIR_LINEAGE_SEED` where to begin. The judge is a batch
//! run of this test's own over the rows that were named, not what the answer says of itself.

use super::{Contents, planned};
use crate::fuzz::{drawn, from_environment};
use crate::harness::{Chance, compare, schemas};
use crate::history::History;
use arrow::array::RecordBatch;
use weir_incremental::lineage::{Lineage, LineageLimits, lineage};
use weir_incremental::{Delta, ModelPlan, Relation};

/// Drawn when the environment does not say how many.
const QUERIES: u64 = 150;
/// Rows asked about of one query at most.
const ROWS_MAX: usize = 3;

/// What was found over many questions.
#[derive(Default, Debug)]
struct Tally {
    rows: usize,
    named: usize,
    there: usize,
    whole: usize,
    mended: usize,
}

fn ask(models: &[&ModelPlan], target: &Relation, row: &RecordBatch, world: &Contents) -> Lineage {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(lineage(models, target, row, world, LineageLimits::default())).expect("an answer")
}

/// Asks about one row, and runs the models over what is named.
fn hold(
    models: &[&ModelPlan],
    target: &Relation,
    row: &Delta,
    world: &Contents,
    tally: &mut Tally,
) -> Result<(), String> {
    let answer = ask(models, target, &row.rows, world);
    let named = schemas().into_iter().map(|(relation, schema)| {
        let rows = answer.relations.iter().find(|(name, _)| *name == relation).map(|(_, rows)| rows);
        let rows = rows.map(|rows| rows.expand().expect("rows that are there"));
        (relation, rows.unwrap_or_else(|| RecordBatch::new_empty(schema)))
    });
    let named: Vec<(Relation, RecordBatch)> = named.collect();
    for (relation, rows) in &named {
        tally.named += rows.num_rows();
        let all = world.rows(relation).expand().expect("rows").num_rows();
        tally.there += all;
        if rows.num_rows() > all {
            return Err(format!("more rows of {relation} are named than there are"));
        }
    }
    let mut alone = Contents::given(named, weir_incremental::lineage::World::clock(world, target));
    alone.run(models)?;
    let given = alone.rows(target);
    // Of what the model gives, the row in question must be there as often as it was.
    let key = |delta: &Delta, index: usize| delta.rows.slice(index, 1);
    let same = (0..given.len()).find(|index| {
        compare(&row.schema(), Some(&vec![Delta::inserts(key(&given, *index))]), std::slice::from_ref(&row.rows))
            .is_ok()
    });
    let times = same.map_or(0, |index| given.weights.value(index));
    if times != row.weights.value(0) {
        return Err(format!("the row is there {} times, and {times} times over the named rows", row.weights.value(0)));
    }
    if !answer.reproduced {
        return Err("the row is there again, and the answer says that it is not".into());
    }
    tally.rows += 1;
    tally.whole += usize::from(!answer.whole.is_empty());
    tally.mended += usize::from(answer.rounds > 1);
    Ok(())
}

/// Asks about some rows of the last model.
fn hold_some(
    queries: &[(&str, &str)],
    history: &History,
    chance: &mut Chance,
    tally: &mut Tally,
) -> Result<(), String> {
    let models = planned(queries)?;
    let models: Vec<&ModelPlan> = models.iter().collect();
    let target = &models.last().expect("a model").name;
    let mut world = Contents::of(history);
    world.run(&models)?;
    let rows = world.rows(target);
    for _ in 0..ROWS_MAX.min(rows.len()) {
        let index = chance.below(rows.len() as u64) as u32;
        let row = rows.pick(vec![index], vec![rows.weights.value(index as usize)]).expect("a row");
        hold(&models, target, &row, &world, tally).map_err(|why| format!("{why}\nrow {:?}", row.rows))?;
    }
    Ok(())
}

#[test]
fn rows_of_random_queries_come_from_the_rows_that_are_named() {
    let (first, count) = (from_environment("WEIR_LINEAGE_SEED", 1), from_environment("WEIR_LINEAGE_QUERIES", QUERIES));
    let (mut tally, mut refused, mut failed) = (Tally::default(), 0, Vec::new());
    for seed in first..first + count {
        let (query, history, _) = drawn(seed);
        let sql = query.sql();
        if planned(&[("model", &sql)]).is_err() {
            refused += 1;
            continue;
        }
        let mut chance = Chance::new(seed);
        if let Err(why) = hold_some(&[("model", &sql)], &history, &mut chance, &mut tally) {
            failed.push(format!("seed {seed}: {sql}\n{why}"));
        }
        if failed.len() >= 5 {
            break;
        }
    }
    println!("{refused} of {count} queries refused; {tally:?}");
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    assert!(tally.rows as u64 * 2 > count, "too few rows were asked about: {tally:?}");
    // An answer that names everything is true and of no use.
    assert!(tally.whole * 5 < tally.rows, "too many answers name whole relations: {tally:?}");
    assert!(tally.named * 10 < tally.there * 7, "too many rows are named: {tally:?}");
}

/// Chains of models, one of each construct that keeps rows out.
const CHAINS: &[&[(&str, &str)]] = &[
    &[
        (
            "bought",
            "SELECT user_id, sum(amount) AS spent, count(*) AS times FROM events WHERE kind = 'buy' OR n > 0 GROUP BY user_id",
        ),
        ("known", "SELECT user_id, name, country FROM users WHERE name IS NOT NULL"),
        (
            "model",
            "SELECT k.name, k.country, b.spent, b.times FROM known k LEFT JOIN bought b ON b.user_id = k.user_id",
        ),
    ],
    &[
        (
            "calm",
            "SELECT * FROM events e WHERE NOT EXISTS (SELECT 1 FROM users u WHERE u.user_id = e.user_id AND u.country = 'buy')",
        ),
        ("model", "SELECT user_id, count(*) AS events, count(DISTINCT kind) AS kinds FROM calm GROUP BY user_id"),
    ],
    &[
        (
            "ranked",
            "SELECT id, user_id, kind, row_number() OVER (PARTITION BY user_id ORDER BY at, id) AS rank FROM events",
        ),
        ("last", "SELECT user_id, max(rank) AS places FROM ranked GROUP BY user_id"),
        (
            "model",
            "SELECT r.id, r.kind, l.places FROM ranked r JOIN last l ON l.user_id = r.user_id AND l.places = r.rank",
        ),
    ],
    &[
        ("strangers", "SELECT user_id FROM events EXCEPT SELECT user_id FROM users WHERE score > 0"),
        ("both", "SELECT user_id, 'stranger' AS what FROM strangers UNION ALL SELECT user_id, name AS what FROM users"),
        ("model", "SELECT what, count(*) AS times, max(user_id) AS last FROM both GROUP BY what"),
    ],
    &[
        ("top", "SELECT id, user_id, price FROM events ORDER BY price DESC, id LIMIT 4 OFFSET 2"),
        ("model", "SELECT t.id, t.price, u.name FROM top t LEFT JOIN users u ON u.user_id = t.user_id"),
    ],
    &[
        ("rated", "SELECT user_id, count(*) AS n FROM events GROUP BY user_id HAVING count(*) > 1"),
        ("model", "SELECT u.name, u.country FROM users u WHERE u.user_id IN (SELECT user_id FROM rated)"),
    ],
];

#[test]
fn rows_of_models_over_models_come_from_the_rows_of_sources_that_are_named() {
    let mut tally = Tally::default();
    for (number, chain) in CHAINS.iter().enumerate() {
        for seed in 0..8 {
            let mut chance = Chance::new(seed * 100 + number as u64);
            let history = History::draw(&mut chance, 4, seed % 2 == 0);
            if let Err(why) = hold_some(chain, &history, &mut chance, &mut tally) {
                panic!("chain {number}, seed {seed}: {why}");
            }
        }
    }
    println!("{tally:?}");
    assert!(tally.rows > 100, "{tally:?}");
    assert_eq!(tally.whole, 0, "{tally:?}");
}
