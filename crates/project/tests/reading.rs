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
        ("splits/g.sql", "SELECT 1\n"),
        ("checks/h.sql", "-- weir: severity = \"blok\"\nSELECT id FROM orders WHERE amuont < 0\n"),
    ]);
    let told = told(broken.path());
    let codes: Vec<&str> = told.iter().filter_map(|line| line.split(' ').next()).collect();
    for code in
        ["unknown_key", "cycle", "unknown_column", "sql_syntax", "unknown_relation", "literal_secret", "unsupported"]
    {
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
