//! Rows that are not there: planted absences, each to be blamed on the step that was planted.
//!
//! The relations hold random rows of other keys; the key in question (user 77) gets just the rows that bring it to the
//! planted step and no further. What is to blame follows from how the rows were planted, not from the plan.

use super::{Contents, planned};
use crate::harness::{Chance, Row, START, batch_of, schemas, value};
use datafusion::common::ScalarValue;
use weir_incremental::lineage::{Fate, LineageLimits, Step, absence};
use weir_incremental::{ModelPlan, Relation};

/// The key that is missing.
const KEY: i64 = 77;

/// Which rows the key has.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Planted {
    Nothing,
    User,
    /// An event of kind `view`.
    View,
    /// A user and an event of kind `view`.
    Both,
}

/// What is to blame.
enum Blame {
    /// A step of a model, and what must stand among the things that it asks for.
    At(&'static str, Step, &'static str),
    /// No row in this source.
    In(&'static str),
}

struct Case {
    models: &'static [(&'static str, &'static str)],
    planted: Planted,
    blame: Blame,
}

const VIEWS: (&str, &str) = ("views", "SELECT id, user_id, kind, n, at FROM events WHERE kind = 'view'");
const BUYS: (&str, &str) = ("buys", "SELECT id, user_id, price FROM events WHERE kind = 'buy'");
const NAMES: (&str, &str) = ("names", "SELECT user_id, name FROM users WHERE country = 'buy'");

const CASES: &[Case] = &[
    Case { models: &[VIEWS], planted: Planted::Nothing, blame: Blame::In("events") },
    Case { models: &[BUYS], planted: Planted::View, blame: Blame::At("buys", Step::Filter, "kind") },
    Case { models: &[NAMES], planted: Planted::User, blame: Blame::At("names", Step::Filter, "country") },
    Case {
        models: &[BUYS, ("model", "SELECT user_id, sum(price) AS spent FROM buys GROUP BY user_id")],
        planted: Planted::View,
        blame: Blame::At("buys", Step::Filter, "kind"),
    },
    Case {
        models: &[BUYS, ("model", "SELECT user_id, sum(price) AS spent FROM buys GROUP BY user_id")],
        planted: Planted::User,
        blame: Blame::In("events"),
    },
    Case {
        models: &[("model", "SELECT user_id, count(*) AS times FROM events GROUP BY user_id HAVING count(*) > 1")],
        planted: Planted::View,
        blame: Blame::At("model", Step::Having, "> 1"),
    },
    Case {
        models: &[("model", "SELECT u.user_id, u.name, e.kind FROM users u JOIN events e ON e.user_id = u.user_id")],
        planted: Planted::User,
        blame: Blame::At("model", Step::Join, "user_id"),
    },
    Case {
        models: &[("model", "SELECT u.user_id, u.name, e.kind FROM users u JOIN events e ON e.user_id = u.user_id")],
        planted: Planted::View,
        blame: Blame::At("model", Step::Join, "user_id"),
    },
    Case {
        models: &[(
            "model",
            "SELECT u.user_id, e.kind FROM users u JOIN events e ON e.user_id = u.user_id AND e.n > u.score + 1000",
        )],
        planted: Planted::Both,
        blame: Blame::At("model", Step::Join, "1000"),
    },
    Case {
        models: &[
            VIEWS,
            BUYS,
            ("model", "SELECT v.user_id, v.at, b.price FROM views v JOIN buys b ON b.user_id = v.user_id"),
        ],
        planted: Planted::View,
        blame: Blame::At("model", Step::Join, "user_id"),
    },
    Case {
        models: &[("model", "SELECT u.user_id, e.kind FROM users u LEFT JOIN events e ON e.user_id = u.user_id")],
        planted: Planted::View,
        blame: Blame::In("users"),
    },
    Case {
        models: &[(
            "model",
            "SELECT user_id, name FROM users WHERE user_id IN (SELECT user_id FROM events WHERE kind = 'buy')",
        )],
        planted: Planted::Both,
        blame: Blame::At("model", Step::Exists, "user_id"),
    },
    Case {
        models: &[(
            "model",
            "SELECT user_id, name FROM users u WHERE EXISTS (SELECT 1 FROM events e WHERE e.user_id = u.user_id)",
        )],
        planted: Planted::User,
        blame: Blame::At("model", Step::Exists, "user_id"),
    },
    Case {
        models: &[(
            "model",
            "SELECT user_id, name FROM users u WHERE NOT EXISTS (SELECT 1 FROM events e WHERE e.user_id = u.user_id)",
        )],
        planted: Planted::Both,
        blame: Blame::At("model", Step::NotExists, "user_id"),
    },
    Case {
        models: &[(
            "model",
            "SELECT user_id, name FROM users WHERE user_id NOT IN (SELECT user_id FROM events WHERE user_id IS NOT NULL)",
        )],
        planted: Planted::Both,
        blame: Blame::At("model", Step::NotExists, ""),
    },
    Case {
        models: &[(
            "model",
            "SELECT user_id, at FROM (SELECT user_id, at, row_number() OVER (PARTITION BY kind ORDER BY at DESC) AS place FROM events) AS t WHERE place = 1",
        )],
        planted: Planted::View,
        blame: Blame::At("model", Step::Rank, "1"),
    },
    Case {
        models: &[("model", "SELECT DISTINCT ON (kind) kind, user_id FROM events ORDER BY kind, at DESC")],
        planted: Planted::View,
        blame: Blame::At("model", Step::Rank, ""),
    },
    Case {
        models: &[("model", "SELECT user_id, at FROM events ORDER BY at DESC LIMIT 3")],
        planted: Planted::View,
        blame: Blame::At("model", Step::Limit, "LIMIT 3"),
    },
    Case {
        models: &[("model", "SELECT user_id FROM users INTERSECT SELECT user_id FROM events")],
        planted: Planted::User,
        blame: Blame::At("model", Step::Exists, "user_id"),
    },
    Case {
        models: &[("model", "SELECT user_id FROM users INTERSECT ALL SELECT user_id FROM events")],
        planted: Planted::User,
        blame: Blame::At("model", Step::Intersect, ""),
    },
    Case {
        models: &[("model", "SELECT user_id FROM users EXCEPT SELECT user_id FROM events")],
        planted: Planted::Both,
        blame: Blame::At("model", Step::NotExists, "user_id"),
    },
    Case {
        models: &[("model", "SELECT user_id FROM users EXCEPT ALL SELECT user_id FROM events")],
        planted: Planted::Both,
        blame: Blame::At("model", Step::Except, ""),
    },
    Case {
        models: &[(
            "model",
            "SELECT user_id FROM users WHERE name = 'nobody' UNION ALL SELECT user_id FROM events WHERE kind = 'buy'",
        )],
        planted: Planted::User,
        blame: Blame::At("model", Step::Filter, "nobody"),
    },
    Case {
        models: &[(
            "model",
            "SELECT user_id FROM users WHERE name = 'nobody' UNION SELECT user_id FROM events WHERE kind = 'buy'",
        )],
        planted: Planted::View,
        blame: Blame::At("model", Step::Filter, "buy"),
    },
    Case {
        models: &[(
            "model",
            "SELECT e.user_id, u.name FROM events e ASOF JOIN users u MATCH_CONDITION (e.at >= CAST(u.joined AS TIMESTAMP)) ON e.user_id = u.user_id",
        )],
        planted: Planted::View,
        blame: Blame::At("model", Step::AsOf, "user_id"),
    },
    Case {
        models: &[("model", "SELECT user_id, 10 / (n - n) AS share FROM events")],
        planted: Planted::View,
        blame: Blame::At("model", Step::Failure, ""),
    },
    Case {
        models: &[("model", "SELECT user_id, unnest(tags) AS tag FROM events")],
        planted: Planted::View,
        blame: Blame::At("model", Step::Unnest, ""),
    },
    Case {
        models: &[("model", "SELECT user_id, at FROM events WHERE at > now() - INTERVAL '1 hour'")],
        planted: Planted::View,
        blame: Blame::At("model", Step::Filter, "now()"),
    },
    Case {
        models: &[(
            "model",
            "WITH RECURSIVE reach AS (SELECT user_id FROM users WHERE name = 'nobody' UNION SELECT e.n AS user_id FROM reach JOIN events e ON e.user_id = reach.user_id) SELECT user_id FROM reach",
        )],
        planted: Planted::User,
        blame: Blame::At("model", Step::Recursion, ""),
    },
];

/// Rows of other keys, and those that are planted.
fn contents(planted: Planted, chance: &mut Chance) -> Contents {
    let schemas = schemas();
    let mut rows: Vec<Vec<Row>> = vec![Vec::new(); schemas.len()];
    for (relation, (_, schema)) in schemas.iter().enumerate() {
        for _ in 0..20 + chance.below(20) {
            rows[relation].push(schema.fields().iter().map(|f| value(f.data_type(), f.name(), chance)).collect());
        }
    }
    let own = |relation: usize, chance: &mut Chance, set: &[(&str, ScalarValue)]| -> Row {
        let fields = schemas[relation].1.fields();
        fields
            .iter()
            .map(|f| match set.iter().find(|(name, _)| name == f.name()) {
                Some((_, value)) => value.clone(),
                None => value(f.data_type(), f.name(), chance),
            })
            .collect()
    };
    let key = ("user_id", ScalarValue::Int64(Some(KEY)));
    if matches!(planted, Planted::User | Planted::Both) {
        let set = [
            key.clone(),
            ("name", ScalarValue::from("somebody")),
            ("country", ScalarValue::from("elsewhere")),
            ("score", ScalarValue::from(1.0)),
        ];
        let row = own(1, chance, &set);
        rows[1].push(row);
    }
    if matches!(planted, Planted::View | Planted::Both) {
        // Before all others, so that it is never the last.
        let set = [
            key,
            ("kind", ScalarValue::from("view")),
            ("at", ScalarValue::TimestampMicrosecond(Some(START - 1), None)),
            ("n", ScalarValue::Int32(Some(1))),
            ("tags", ScalarValue::List(ScalarValue::new_list(&[], &arrow::datatypes::DataType::Utf8, true))),
        ];
        let row = own(0, chance, &set);
        rows[0].push(row);
        // Others of the kind, later, for windows to prefer.
        for _ in 0..4 {
            let set = [
                ("user_id", ScalarValue::Int64(Some(chance.below(6) as i64))),
                ("kind", ScalarValue::from("view")),
                ("at", ScalarValue::TimestampMicrosecond(Some(START + 1 + chance.below(1000) as i64), None)),
            ];
            let row = own(0, chance, &set);
            rows[0].push(row);
        }
    }
    let given = schemas.iter().zip(rows).map(|((name, schema), rows)| (name.clone(), batch_of(schema, &rows)));
    Contents::given(given.collect::<Vec<(Relation, _)>>(), START + 30 * 86_400_000_000)
}

fn describe(fate: &Fate) -> String {
    match fate {
        Fate::Lost(lost) => format!("{:?} of {} asking {:?}", lost.step, lost.model, lost.asks),
        Fate::Absent { source, .. } => format!("nothing in {source}"),
        Fate::Never { asks, .. } => format!("never: {asks}"),
        Fate::Untraced { why, .. } => format!("untraced: {why}"),
    }
}

#[test]
fn planted_absences_are_blamed_on_the_step_that_was_planted() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (mut right, mut wrong) = (0, Vec::new());
    for (number, case) in CASES.iter().enumerate() {
        let models = planned(case.models).unwrap_or_else(|error| panic!("case {number}: {error}"));
        let models: Vec<&ModelPlan> = models.iter().collect();
        let model = models.last().expect("a model");
        for seed in 0..5 {
            let mut world = contents(case.planted, &mut Chance::new(seed * 1000 + number as u64));
            world.run(&models).unwrap_or_else(|error| panic!("case {number}: {error}"));
            let column = model.schema.index_of("user_id").expect("every model has it");
            let key = [(column, ScalarValue::Int64(Some(KEY)))];
            let fates = runtime.block_on(absence(&models, &model.name, &key, &world, LineageLimits::default()));
            let fates = fates.unwrap_or_else(|error| panic!("case {number}: {error}"));
            let blamed = match (&case.blame, fates.first()) {
                (Blame::In(source), Some(Fate::Absent { source: found, .. })) => found.as_ref() == *source,
                (Blame::At(model, step, asks), Some(Fate::Lost(lost))) => {
                    lost.model.as_ref() == *model
                        && lost.step == *step
                        && (asks.is_empty() || lost.asks.iter().any(|asked| asked.contains(asks)))
                }
                _ => false,
            };
            if blamed {
                right += 1;
            } else {
                let found: Vec<String> = fates.iter().map(describe).collect();
                wrong
                    .push(format!("case {number}, seed {seed}: {}\n    {found:?}", case.models.last().expect("one").1));
            }
        }
    }
    println!("{right} of {} blamed on the right step", right + wrong.len());
    assert!(wrong.is_empty(), "{} wrong\n{}", wrong.len(), wrong.join("\n"));
    assert!(right >= 100, "only {right} absences were planted");
}
