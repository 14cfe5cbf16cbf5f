//! Which state is told to be unbounded.

use crate::harness::schemas;
use weir_incremental::{Growth, Planner, RelationTraits};

/// What each of the models keeps without a bound; `events` is a stream, the others are keyed tables.
fn kept(models: &[&str]) -> Vec<Vec<String>> {
    let mut planner = Planner::new(&|_| Ok(())).unwrap();
    for (relation, schema) in schemas() {
        let append_only = relation.as_ref() == "events";
        planner.add_relation(relation, schema, RelationTraits { append_only, ..RelationTraits::default() });
    }
    let mut growth = Growth::of(["events".into()]);
    let mut found = Vec::new();
    for (index, sql) in models.iter().enumerate() {
        let name = format!("m{index}");
        let plan = planner.plan(&name, sql).unwrap();
        let traits = RelationTraits { append_only: plan.append_only, ..RelationTraits::default() };
        planner.add_relation(name.as_str().into(), plan.schema.clone(), traits);
        found.push(growth.add(&plan).into_iter().map(|state| state.kept).collect());
    }
    found
}

fn kept_by(sql: &str) -> Vec<String> {
    kept(&[sql]).remove(0)
}

#[test]
fn what_remembers_nothing_or_is_bounded_is_not_told() {
    for sql in [
        "SELECT id, n * 2 AS n FROM events WHERE n > 1",
        "SELECT count(*) AS events, sum(n) AS n, max(at) AS last FROM events",
        "SELECT id FROM events WHERE at > now() - INTERVAL '7 days'",
        "SELECT user_id, count(*) AS events FROM events WHERE at > now() - INTERVAL '7 days' GROUP BY user_id",
        "SELECT u.name, r.rate FROM users u JOIN finance.rates r ON u.country = r.currency",
        "SELECT DISTINCT country FROM users",
        "SELECT id, n FROM events ORDER BY n DESC LIMIT 10",
    ] {
        assert_eq!(kept_by(sql), Vec::<String>::new(), "{sql}");
    }
}

#[test]
fn what_grows_with_a_stream_is_told() {
    for (sql, expected) in [
        ("SELECT e.id, u.name FROM events e JOIN users u USING (user_id)", "every row of `events` for a join"),
        ("SELECT DISTINCT kind FROM events", "each different row of `events` for DISTINCT"),
        (
            "SELECT upper(kind) AS k, count(*) AS c FROM events GROUP BY upper(kind)",
            "a group for each upper(kind) of `events`",
        ),
        ("SELECT count(DISTINCT kind) AS kinds FROM events", "each different value of `events` for count(DISTINCT)"),
        ("SELECT array_agg(id) AS ids FROM events", "every row of `events` for array_agg()"),
        (
            "SELECT id FROM (SELECT id, row_number() OVER (PARTITION BY user_id ORDER BY n) AS place FROM events) AS e \
             WHERE place <= 3",
            "the first rows of each partition of `events` for row_number()",
        ),
        ("SELECT id, rank() OVER (ORDER BY n) AS place FROM events", "every row of `events` for a window function"),
    ] {
        let kept = kept_by(sql);
        assert!(kept.iter().any(|kept| kept == expected), "{sql}: {kept:?}");
    }
}

#[test]
fn growth_goes_through_models_until_something_ends_it() {
    let found = kept(&[
        "SELECT user_id, count(*) AS events FROM events GROUP BY user_id",
        "SELECT m.events, u.name FROM m0 m JOIN users u USING (user_id)",
        "SELECT sum(events) AS events FROM m1",
        "SELECT DISTINCT events FROM m2",
        "SELECT user_id FROM m0 ORDER BY events DESC LIMIT 10",
        "SELECT max(events) AS events FROM m0",
    ]);
    let told: Vec<bool> = found.iter().map(|kept| !kept.is_empty()).collect();
    // Counts go up, so that the largest may be taken away: all are kept.
    assert_eq!(told, [true, true, false, false, true, true], "{found:?}");
}
