//! The lake read by other engines: the Python deltalake package and Polars see what `weir query` answers.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::support::{Project, Rows, assert_same_rows, deltalake, polars};

fn project() -> Project {
    let project = Project::new();
    project.write(
        "sources/orders.toml",
        r#"
        kind    = "files"
        path    = "in/*.json"
        settle  = "0 seconds"
        key     = ["id"]
        version = "revision"

        [columns]
        id       = { type = "BIGINT", required = true }
        revision = "BIGINT"
        customer = "TEXT"
        amount   = "DECIMAL(10, 2)"
        tags     = "TEXT[]"
        "#,
    );
    project.write(
        "models/by_customer.sql",
        r#"
        -- weir: key = ["customer"]
        SELECT customer, count(*) AS orders, sum(amount) AS amount FROM orders GROUP BY customer
        "#,
    );
    project.write("sinks/orders_now.toml", "kind = \"lake\"\nfrom = \"orders\"\nname = \"orders_now\"\n");
    let first: String = (0..300).map(|id| order(id, 1, id % 7)).collect();
    let second: String = (0..300).step_by(3).map(|id| order(id, 2, id % 5)).collect();
    project.write("in/1.json", first);
    project.run_once();
    project.write("in/2.json", second);
    project.run_once();
    project
}

fn order(id: u32, revision: u32, customer: u32) -> String {
    format!(
        "{{\"id\":{id},\"revision\":{revision},\"customer\":\"c{customer}\",\"amount\":{id}.25,\"tags\":[\"a\",\"b\"]}}\n"
    )
}

/// The folder of a Delta table somewhere in the lake.
pub fn table(project: &Project, name: &str) -> PathBuf {
    fn find(folder: &Path, name: &str) -> Option<PathBuf> {
        let entries: Vec<PathBuf> = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path()).collect();
        entries.iter().find_map(|path| {
            let is_it = path.file_name().is_some_and(|file| file == name) && path.join("_delta_log").is_dir();
            if is_it { Some(path.clone()) } else { find(path, name) }
        })
    }
    let lake = project.file(".weir/lake");
    find(&lake, name).unwrap_or_else(|| panic!("no table {name} below {}", lake.display()))
}

/// Sums a change table's weights: what is left, without the bookkeeping.
fn contents(changes: Rows) -> Rows {
    let mut weights: BTreeMap<BTreeMap<String, String>, i64> = BTreeMap::new();
    for mut row in changes {
        let weight: i64 =
            row.remove("_weight").and_then(|weight| weight.parse().ok()).expect("every change has a weight");
        row.retain(|column, _| !column.starts_with('_'));
        *weights.entry(row).or_default() += weight;
    }
    let mut rows = Rows::new();
    for (row, weight) in weights {
        assert!((0..=1).contains(&weight), "{row:?} is there {weight} times");
        rows.extend((weight == 1).then_some(row));
    }
    rows
}

#[test]
fn other_engines_read_the_histories() {
    let project = project();
    let orders = project.query("SELECT id, revision, customer, amount, tags FROM orders");
    let by_customer = project.query("SELECT * FROM by_customer");
    assert_eq!(orders.len(), 300);
    for (name, read) in [("deltalake", deltalake as fn(&Path) -> Rows), ("Polars", polars)] {
        assert_same_rows(&format!("orders by {name}"), &orders, &contents(read(&table(&project, "orders"))));
        assert_same_rows(
            &format!("by_customer by {name}"),
            &by_customer,
            &contents(read(&table(&project, "by_customer"))),
        );
    }
}

#[test]
fn a_lake_sink_holds_the_rows_of_now() {
    let project = project();
    let ours = project.query("SELECT id, revision, customer, amount, tags FROM orders");
    let mut theirs = deltalake(&table(&project, "orders_now"));
    theirs.iter_mut().for_each(|row| row.retain(|column, _| !column.starts_with('_')));
    theirs.sort();
    assert_same_rows("orders_now", &ours, &theirs);
}
