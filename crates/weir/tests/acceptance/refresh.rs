//! Models with `refresh = "full"`: any query, recomputed beside the epochs, seen by everything downstream as any change.

use super::support::Project;

const ROLLUP: &str = "-- weir: refresh = \"full\"\n-- weir: refresh_interval = \"100 milliseconds\"\n\
                      SELECT visitor_id, count(*) AS orders, sum(amount) AS amount FROM paid GROUP BY ROLLUP (visitor_id)\n";

fn project() -> Project {
    let project = Project::new();
    project.write(
        "sources/orders.toml",
        "kind = \"files\"\npath = \"in/*.json\"\nsettle = \"0 seconds\"\n\
         [columns]\nid = { type = \"BIGINT\", required = true }\nvisitor_id = \"TEXT\"\namount = \"BIGINT\"\n",
    );
    project.write("models/paid.sql", "SELECT id, visitor_id, amount FROM orders WHERE amount > 0\n");
    project.write("models/rollup.sql", ROLLUP);
    project.write("models/large.sql", "SELECT visitor_id, amount FROM rollup WHERE amount >= 20\n");
    // One recomputed model that reads another's consequences.
    project.write(
        "models/levels.sql",
        "-- weir: refresh = \"full\"\n-- weir: key = [\"level\"]\n\
         WITH RECURSIVE n AS (SELECT CAST(1 AS BIGINT) AS level UNION ALL SELECT level + 1 FROM n WHERE level < 3)\n\
         SELECT n.level, count(l.amount) AS visitors FROM n LEFT JOIN large l ON l.amount >= n.level * 20 GROUP BY n.level\n",
    );
    project.write(
        "in/1.json",
        "{\"id\":1,\"visitor_id\":\"a\",\"amount\":10}\n{\"id\":2,\"visitor_id\":\"b\",\"amount\":20}\n\
         {\"id\":3,\"visitor_id\":\"b\",\"amount\":-5}\n",
    );
    project
}

/// What the models must show of the orders, told by hand.
#[track_caller]
fn shows(project: &Project, rollup: &[(&str, i64, i64)], levels: [i64; 3]) {
    let rows = project.query("SELECT coalesce(visitor_id, 'all') AS v, orders, amount FROM rollup");
    let mut found: Vec<(&str, i64, i64)> = rows
        .iter()
        .map(|row| {
            (row["v"].as_str(), row["orders"].parse().expect("a number"), row["amount"].parse().expect("a number"))
        })
        .collect();
    found.sort_unstable();
    assert_eq!(found, rollup);
    let large = rollup.iter().filter(|(_, _, amount)| *amount >= 20).count();
    assert_eq!(project.value("SELECT count(*) FROM large"), large.to_string());
    for (level, visitors) in (1..).zip(levels) {
        let sql = format!("SELECT visitors FROM levels WHERE level = {level}");
        assert_eq!(project.value(&sql), visitors.to_string(), "level {level}");
    }
}

#[test]
fn a_query_that_cannot_be_kept_is_recomputed_and_feeds_models() {
    let project = project();
    project.run_once();
    shows(&project, &[("a", 1, 10), ("all", 2, 30), ("b", 1, 20)], [2, 0, 0]);
    project.verify();
    let epoch = project.value("SELECT max(epoch) FROM weir.epochs");
    project.run_once();
    assert_eq!(
        project.value("SELECT max(epoch) FROM weir.epochs"),
        epoch,
        "nothing has changed, nothing is recomputed"
    );
    project.write(
        "in/2.json",
        "{\"id\":4,\"visitor_id\":\"a\",\"amount\":40}\n{\"id\":5,\"visitor_id\":\"c\",\"amount\":0}\n",
    );
    project.run_once();
    shows(&project, &[("a", 2, 50), ("all", 3, 70), ("b", 1, 20)], [3, 2, 1]);
    project.verify();
    let explained = project.weir_ok(&["explain", "rollup"]);
    assert!(explained.contains("recomputed as a whole") && explained.contains("computed from epoch"), "{explained}");
}

#[test]
fn recomputations_follow_a_running_pipeline_and_survive_a_kill() {
    let project = project();
    let mut running = project.start();
    running.wait_until("the first orders are counted", || {
        project.value("SELECT coalesce(max(orders), 0) FROM rollup") == "2"
    });
    for number in 2..6 {
        project.write(
            &format!("in/{number}.json"),
            format!("{{\"id\":{number}0,\"visitor_id\":\"v{number}\",\"amount\":{number}}}\n"),
        );
        // Whether the models are behind or not, they show what they were computed from.
        project.verify();
    }
    running.wait_until("all orders are counted", || project.value("SELECT max(orders) FROM rollup") == "6");
    running.kill();
    assert_eq!(project.value("SELECT max(orders) FROM rollup"), "6", "recovery has what was committed");
    project.verify();
    project.run_once();
    assert_eq!(project.value("SELECT count(*) FROM rollup"), "7");
    project.verify();
}

#[test]
fn what_is_refused_names_the_way_out_that_works() {
    let project = project();
    project.write("models/rollup.sql", "SELECT visitor_id, amount, now() AS at FROM paid\n");
    let refused = project.weir(&["validate"]);
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    assert!(refused.stderr.contains("refresh = \"full\""), "{}", refused.stderr);
    project.write("models/rollup.sql", "-- weir: refresh = \"full\"\nSELECT random() AS x, id FROM paid\n");
    let refused = project.weir(&["validate"]);
    assert_eq!(refused.code, Some(2), "chance cannot be verified: {refused:#?}");
    project.write("models/rollup.sql", "-- weir: refresh_interval = \"1 hour\"\nSELECT id FROM paid\n");
    assert!(project.weir(&["validate"]).stderr.contains("refresh_interval"));
}

#[test]
fn a_rebuild_recomputes_what_depends_on_the_change() {
    let project = project();
    project.run_once();
    project.write("models/paid.sql", "SELECT id, visitor_id, amount * 2 AS amount FROM orders WHERE amount > 0\n");
    project.weir_ok(&["run", "--once", "--on-change", "rebuild"]);
    shows(&project, &[("a", 1, 20), ("all", 2, 60), ("b", 1, 40)], [3, 2, 1]);
    project.verify();
    // Backfilling what it reads, though nothing changed, leaves it as it is.
    project.weir_ok(&["backfill", "paid"]);
    shows(&project, &[("a", 1, 20), ("all", 2, 60), ("b", 1, 40)], [3, 2, 1]);
    project.verify();
    // From whole to deltas: another plan, the same name.
    project.write(
        "models/rollup.sql",
        "SELECT visitor_id, count(*) AS orders, sum(amount) AS amount FROM paid GROUP BY visitor_id\n",
    );
    project.weir_ok(&["run", "--once", "--on-change", "rebuild"]);
    shows(&project, &[("a", 1, 20), ("b", 1, 40)], [2, 1, 0]);
    project.verify();
}

#[test]
fn cases_compute_it_in_both_tempos() {
    let project = project();
    project.write(
        "tests/rollup.toml",
        "[[given.orders]]\nid = 1\nvisitor_id = \"a\"\namount = 30\n\n\
         [[given.orders]]\nid = 2\nvisitor_id = \"b\"\namount = 1\n\n\
         [[expect.large]]\namount = 30\n\n[[expect.large]]\namount = 31\n",
    );
    let finished = project.weir(&["test"]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
}

#[test]
fn a_recomputation_that_fails_stops_only_its_model() {
    let project = project();
    project.write(
        "models/shares.sql",
        "-- weir: refresh = \"full\"\nSELECT visitor_id, max(100 / (amount - 30)) AS share, max(now()) AS at FROM paid GROUP BY visitor_id\n",
    );
    project.run_once();
    assert_eq!(project.value("SELECT count(*) FROM shares"), "2");
    project.write("in/2.json", "{\"id\":4,\"visitor_id\":\"c\",\"amount\":30}\n");
    let finished = project.weir(&["run", "--once"]);
    assert_eq!(finished.code, Some(3), "{finished:#?}");
    assert!(finished.stderr.contains("`shares`") && finished.stderr.contains("zero"), "{finished:#?}");
    assert_eq!(project.value("SELECT count(*) FROM shares"), "2", "it shows what it was computed from");
    assert_eq!(project.value("SELECT max(orders) FROM rollup"), "3", "the others go on");
    project.verify();
}
