//! `weir why`: records that made a row give it again in a project that has nothing else; an absence of every kind is
//! blamed on what was planted.

use serde_json::{Value, json};

use super::support::{Connection, Project};

const SOURCES: &[(&str, &str)] = &[
    (
        "views",
        "path = \"in/views*.json\"\ntime = \"at\"\nlateness = \"1 hour\"\nwhere = \"event = 'view'\"\n\
         dedupe = { by = [\"event_id\"], within = \"1 day\" }\n\
         [columns]\nevent = { type = \"TEXT\", required = true }\nevent_id = { type = \"TEXT\", required = true }\n\
         visitor = \"TEXT\"\nproduct = \"BIGINT\"\nat = { type = \"TIMESTAMP\", required = true }\n",
    ),
    (
        "orders",
        "path = \"in/orders*.json\"\nkey = [\"order_id\"]\nversion = \"version\"\ndeleted = \"gone\"\n\
         [columns]\norder_id = { type = \"BIGINT\", required = true }\nvisitor = \"TEXT\"\namount = \"BIGINT\"\n\
         version = \"BIGINT\"\ngone = \"BOOLEAN\"\n",
    ),
    (
        "products",
        "path = \"in/products*.csv\"\nformat = \"csv\"\nkey = [\"product\"]\n\
         [columns]\nproduct = { type = \"BIGINT\", required = true }\nname = \"TEXT\"\n",
    ),
];

const MODELS: &[(&str, &str)] = &[
    ("seen", "SELECT visitor, product, at FROM views WHERE product <> 13\n"),
    (
        "profile",
        "-- weir: key = [\"visitor\"]\n\
         SELECT s.visitor, s.times, b.spent FROM (SELECT visitor, count(*) AS times FROM seen GROUP BY visitor) s\n\
         LEFT JOIN (SELECT visitor, sum(amount) AS spent FROM orders GROUP BY visitor) b ON b.visitor = s.visitor\n",
    ),
    (
        "named",
        "SELECT s.visitor, p.name FROM seen s JOIN products p ON p.product = s.product\n\
         WHERE NOT EXISTS (SELECT 1 FROM orders o WHERE o.visitor = s.visitor AND o.amount > 90)\n",
    ),
    (
        "latest",
        "SELECT product, visitor, at FROM (SELECT product, visitor, at, \
         row_number() OVER (PARTITION BY product ORDER BY at DESC, visitor) AS place FROM seen) WHERE place <= 2\n",
    ),
];

fn project() -> Project {
    let project = Project::new();
    for (name, text) in SOURCES {
        project.write(&format!("sources/{name}.toml"), format!("kind = \"files\"\nsettle = \"0 seconds\"\n{text}"));
    }
    for (name, sql) in MODELS {
        project.write(&format!("models/{name}.sql"), sql);
    }
    project
}

fn view(number: u32, visitor: &str, product: u32) -> String {
    let at = format!("2026-01-05T10:{:02}:{:02}Z", number / 60, number % 60);
    format!(
        "{}\n",
        json!({"event": "view", "event_id": format!("e{number}"), "visitor": visitor, "product": product, "at": at})
    )
}

fn order(id: u32, visitor: &str, amount: u32, version: u32) -> String {
    format!("{}\n", json!({"order_id": id, "visitor": visitor, "amount": amount, "version": version}))
}

/// A few hundred records of few visitors.
fn filled() -> Project {
    let project = project();
    let visitor = |number: u32| format!("v{}", number * 7 % 23);
    let views: String = (0..300).map(|n| view(n, &visitor(n), n * 11 % 17)).collect();
    let orders: String = (0..60).map(|n| order(n % 40, &visitor(n), n * 5 % 100, n)).collect();
    let products: String = (0..17).map(|n| format!("{n},product {n}\n")).collect();
    project.write("in/views1.json", views);
    project.write("in/orders1.json", orders);
    project.write("in/products1.csv", format!("product,name\n{products}"));
    project.run_once();
    project
}

fn why(project: &Project, arguments: &[&str]) -> Value {
    let finished = project.weir(&[&["why", "--format", "json", "--limit", "100000"], arguments].concat());
    assert!(matches!(finished.code, Some(0 | 1)), "{arguments:?}: {finished:#?}");
    serde_json::from_str(&finished.stdout).unwrap_or_else(|error| panic!("{error}: {}", finished.stdout))
}

#[test]
fn a_project_that_has_only_the_records_named_has_the_row() {
    let full = filled();
    let questions: [(&str, &[&str], &str); 5] = [
        ("profile", &["v3"], "SELECT * FROM profile WHERE visitor = 'v3'"),
        ("profile", &["visitor=v22"], "SELECT * FROM profile WHERE visitor = 'v22'"),
        ("named", &["visitor=v1", "name=product 4"], "SELECT * FROM named WHERE visitor = 'v1' AND name = 'product 4'"),
        ("latest", &["product=5"], "SELECT * FROM latest WHERE product = 5 ORDER BY at"),
        (
            "seen",
            &["--where", "visitor = 'v9' AND product > 14"],
            "SELECT * FROM seen WHERE visitor = 'v9' AND product > 14 ORDER BY at",
        ),
    ];
    for (model, asked, check) in questions {
        let answer = why(&full, &[&[model], asked].concat());
        assert_eq!(answer["answer"], "present", "{model} {asked:?}: {answer:#}");
        assert_eq!(answer["reproduced"], true, "{model} {asked:?}: {answer:#}");
        let alone = project();
        let mut named = 0;
        for (file, source, head) in [
            ("views1.json", "views", ""),
            ("orders1.json", "orders", ""),
            ("products1.csv", "products", "product,name\n"),
        ] {
            let sources = answer["sources"].as_array().expect("sources");
            let records = sources
                .iter()
                .filter(|s| s["source"] == source)
                .flat_map(|s| s["records"].as_array().expect("records"));
            let mut text = String::from(head);
            for record in records {
                named += 1;
                assert_eq!(record["file"], file, "{record:#}");
                text.push_str(record["raw"].as_str().unwrap_or_else(|| panic!("no bytes: {record:#}")));
                text.push('\n');
            }
            alone.write(&format!("in/{file}"), text);
        }
        assert!(named < 100, "{model} {asked:?}: {named} records are named of 377");
        alone.run_once();
        let (given, expected) = (alone.query(check), full.query(check));
        assert!(!expected.is_empty(), "{check} asks for rows that are there");
        assert_eq!(given, expected, "{model} {asked:?} over {named} records");
    }
}

#[test]
fn an_absence_of_every_kind_is_blamed_on_what_was_planted() {
    let project = project();
    let views = [
        view(0, "early", 1),
        // Its time is a day before the watermark.
        json!({"event": "view", "event_id": "late", "visitor": "late", "product": 1, "at": "2026-01-04T10:00:00Z"})
            .to_string()
            + "\n",
        view(1, "unlucky", 13),
        view(2, "stranger", 99),
        view(3, "rich", 1),
        view(4, "second", 1),
        // Repeats an event under another visitor's name.
        json!({"event": "view", "event_id": "e4", "visitor": "copycat", "product": 1, "at": "2026-01-05T10:00:05Z"})
            .to_string()
            + "\n",
        json!({"event": "vieww", "event_id": "u", "visitor": "misspelt", "product": 1, "at": "2026-01-05T10:00:06Z"})
            .to_string()
            + "\n",
        json!({"event": "view", "event_id": "q", "visitor": "broken", "product": "one", "at": "2026-01-05T10:00:07Z"})
            .to_string()
            + "\n",
        view(8, "third", 1),
    ];
    let orders = [
        order(1, "rich", 95, 1),
        order(2, "before", 10, 1),
        order(2, "after", 10, 2),
        order(3, "leaver", 10, 1),
        json!({"order_id": 3, "version": 2, "gone": true}).to_string() + "\n",
    ];
    project.write("in/views1.json", views.concat());
    project.write("in/orders1.json", orders.concat());
    project.write("in/products1.csv", "product,name\n1,one\n");
    project.run_once();
    let planted: [(&[&str], &str, &str); 14] = [
        (&["profile", "visitor=nobody"], "never_arrived", "views"),
        (&["profile", "visitor=late"], "late", "views"),
        (&["profile", "visitor=copycat"], "duplicate", "views"),
        (&["profile", "visitor=misspelt"], "unrouted", "views"),
        (&["profile", "visitor=broken"], "quarantined", "views"),
        (&["orders", "visitor=before"], "superseded", "orders"),
        (&["orders", "order_id=3"], "deleted", "orders"),
        (&["orders", "order_id=77"], "never_arrived", "orders"),
        (&["profile", "visitor=unlucky"], "filter", "seen"),
        (&["named", "visitor=unlucky"], "filter", "seen"),
        (&["named", "visitor=stranger"], "join", "named"),
        (&["named", "visitor=rich"], "not_exists", "named"),
        (&["latest", "visitor=early", "product=1"], "rank", "latest"),
        (&["profile", "visitor=second", "times=9"], "aggregate", "profile"),
    ];
    for (asked, kind, place) in planted {
        let answer = why(&project, &[&["--not"], asked].concat());
        assert_eq!(answer["answer"], "absent", "{asked:?}: {answer:#}");
        let blame = &answer["blame"];
        let blamed = if blame["source"].is_null() { &blame["model"] } else { &blame["source"] };
        assert_eq!((blame["kind"].as_str(), blamed.as_str()), (Some(kind), Some(place)), "{asked:?}: {answer:#}");
    }
    // What stands in the way is shown.
    let text = project.weir_ok(&["why", "--not", "profile", "broken"]);
    for words in ["quarantined", "wrong_type", "\"product\":\"one\"", "views1.json"] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    let text = project.weir_ok(&["why", "--not", "named", "visitor=stranger"]);
    for words in ["products", "because", "product = 99"] {
        assert!(text.contains(words), "{words} is not in\n{text}");
    }
    // A row that is there, asked why it is not, and the other way round.
    assert_eq!(project.weir(&["why", "--not", "profile", "second"]).code, Some(1));
    assert_eq!(project.weir(&["why", "profile", "nobody"]).code, Some(1));
    for (asked, words) in [
        (&["profile"][..], "which row?"),
        (&["profile", "a", "b"], "1 columns: visitor"),
        (&["profile", "who=1"], "has no column `who`"),
        (&["profile", "times=many"], "no value of `times`"),
        (&["nowhere", "1"], "there is no model `nowhere`"),
    ] {
        let finished = project.weir(&[&["why"], asked].concat());
        assert_eq!(finished.code, Some(2), "{asked:?}: {finished:#?}");
        assert!(finished.stderr.contains(words), "{asked:?}: {words} is not in {}", finished.stderr);
    }
}

#[test]
fn a_running_pipeline_tells_topic_and_offset_of_what_was_posted() {
    let project = Project::new();
    project.write(
        "sources/clicks.toml",
        "kind = \"beacon\"\ninput = \"site\"\n[columns]\nid = { type = \"BIGINT\", required = true }\nvisitor = \"TEXT\"\n",
    );
    project.write(
        "models/by_visitor.sql",
        "-- weir: key = [\"visitor\"]\nSELECT visitor, count(*) AS clicks FROM clicks GROUP BY visitor\n",
    );
    let mut running = project.start();
    let mut beacon = Connection::open(project.beacon).expect("the beacon listens");
    for id in 0..20 {
        let event = json!({"id": id, "visitor": format!("u{}", id % 4)}).to_string();
        assert!(beacon.post("/events/site", event.as_bytes()).expect("an answer").is_success());
    }
    running.wait_until("all is counted", || project.value("SELECT coalesce(sum(clicks), 0) FROM by_visitor") == "20");
    let answer = why(&project, &["by_visitor", "u3"]);
    let records = answer["sources"][0]["records"].as_array().expect("records");
    let offsets: Vec<u64> = records.iter().filter_map(|record| record["offset"].as_u64()).collect();
    assert_eq!(offsets, [3, 7, 11, 15, 19], "{answer:#}");
    for record in records {
        let raw: Value = serde_json::from_str(record["raw"].as_str().expect("bytes")).expect("JSON");
        assert_eq!(raw["visitor"], "u3");
        assert!(record["arrival"].is_string() && record["epoch"].is_number(), "{record:#}");
    }
    // The records hold what people sent: only who knows the token may ask.
    let mut server = Connection::open(project.server).expect("the server listens");
    let question = json!({"model": "by_visitor", "key": [[null, "u3"]], "limit": 1}).to_string();
    assert_eq!(server.post("/why", question.as_bytes()).expect("an answer").status, 401);
    running.stop();
}
