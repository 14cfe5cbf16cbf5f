//! Reading whole folders: the shop has no mistakes, and a broken one has all of its mistakes told.

use std::path::Path;

use weir_project::{ChangeKind, ChangeSeverity, Manifest, Project};

fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (file, text) in files {
        let path = folder.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    folder
}

fn told(dir: &Path) -> Vec<String> {
    let reading = Project::read(dir, None);
    reading.mistakes.iter().map(|mistake| format!("{} {mistake}", mistake.code)).collect()
}

const ORDERS: &str = "kind = \"beacon\"\n[columns]\nid = \"BIGINT\"\namount = \"DECIMAL(10, 2)\"\n";

#[test]
fn the_shop_has_no_mistakes() {
    let shop = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../weir/example/shop"));
    assert_eq!(told(shop), Vec::<String>::new());
}

#[test]
fn every_mistake_is_told_at_once() {
    let broken = folder(&[
        ("weir.toml", "[log]\nsegment_byte = 1\n"),
        ("sources/orders.toml", ORDERS),
        ("models/a.sql", "SELECT x FROM b\n"),
        ("models/b.sql", "SELECT x FROM a\n"),
        ("models/c.sql", "SELECT amout FROM orders\n"),
        ("models/d.sql", "SELECT id FROM orders WHERE (\n"),
        ("models/e.sql", "SELECT id FROM ordres\n"),
        ("sinks/f.toml", "kind = \"postgres\"\nfrom = \"orders\"\nurl = \"postgres://u:hunter2@h/d\"\n"),
        ("splits/g.sql", "SELECT id, currency AS output FROM orders\n"),
        ("matchers/m.toml", "left = \"orders\"\nright = \"ordres\"\n[[ways]]\nkey = [\"id\"]\n"),
        ("checks/h.sql", "-- weir: severity = \"blok\"\nSELECT id FROM orders WHERE amuont < 0\n"),
    ]);
    let told = told(broken.path());
    let codes: Vec<&str> = told.iter().filter_map(|line| line.split(' ').next()).collect();
    for code in [
        "unknown_key",
        "cycle",
        "unknown_column",
        "sql_syntax",
        "unknown_relation",
        "literal_secret",
        "missing_key",
        "needs_key",
    ] {
        assert!(codes.contains(&code), "{code} is missing: {told:#?}");
    }
    assert!(!told.concat().contains("hunter2"), "{told:#?}");
}

#[test]
fn comments_keep_the_version_and_another_query_changes_it() {
    let manifest = |model: &str| {
        let files = [("weir.toml", ""), ("sources/orders.toml", ORDERS), ("models/total.sql", model)];
        Project::read(folder(&files).path(), None).project.unwrap().manifest()
    };
    let first = manifest("SELECT sum(amount) AS total FROM orders");
    let commented = manifest("-- Why.\nselect sum( amount ) AS total\nfrom orders -- all\n");
    assert_eq!(Manifest::diff(&first, &commented), []);
    let changes = Manifest::diff(&first, &manifest("SELECT sum(amount) AS total, count(*) AS n FROM orders"));
    assert_eq!(changes.len(), 1);
    assert_eq!((changes[0].kind, changes[0].severity), (ChangeKind::Changed, ChangeSeverity::Rebuild));
    assert_eq!(changes[0].to_string(), "model `total` changed: query changed; column `n` added");
}

#[test]
fn a_split_and_a_matcher_are_models() {
    let files = [
        ("weir.toml", ""),
        ("sources/orders.toml", ORDERS),
        ("sources/paid.toml", ORDERS),
        (
            "splits/size.sql",
            "SELECT id, amount, CASE WHEN amount > 10 THEN 'large' ELSE 'small' END AS output FROM orders",
        ),
        (
            "matchers/pay.toml",
            "left = \"size_large\"\nright = \"paid\"\nleft_id = [\"id\"]\nright_id = [\"id\"]\n\
             left_amount = \"amount\"\nright_amount = \"amount\"\n\
             [[ways]]\nkeys = [\"id\"]\n[[ways]]\nname = \"sum\"\nkeys = [\"id % 10 = id\"]\nmatch = \"many to many\"\ntolerance = \"0.01\"\n",
        ),
    ];
    let dir = folder(&files);
    assert_eq!(told(dir.path()), Vec::<String>::new());
    let project = Project::read(dir.path(), None).project.unwrap();
    let names: Vec<&str> = project.models.iter().map(|model| &*model.name).collect();
    for name in [
        "size",
        "size_large",
        "size_small",
        "pay_way_1",
        "pay_way_2",
        "pay_matched",
        "pay_unmatched_left",
        "pay_unmatched_right",
        "pay_differences",
    ] {
        assert!(names.contains(&name), "{name}: {names:?}");
    }
    assert_eq!(project.splits[0].outputs.len(), 2);
    let columns =
        |name: &str| project.schema(name).unwrap().fields().iter().map(|f| f.name().clone()).collect::<Vec<_>>();
    assert_eq!(columns("size_large"), ["id", "amount"]);
    let matched = ["match", "place", "way", "left_id", "right_id", "left_amount", "right_amount", "difference"];
    assert_eq!(columns("pay_matched"), matched);
    assert_eq!(columns("pay_unmatched_right"), ["id", "amount", "_extra"]);
}
