//! Checks: a violation opens and closes with its rows, is told, holds sinks, and can be put up with.

use super::support::Project;

fn project() -> Project {
    let project = Project::new();
    project.write(
        "sources/orders.toml",
        "kind = \"files\"\npath = \"in/*.json\"\nsettle = \"0 seconds\"\nkey = [\"id\"]\n\
         [columns]\nid = \"BIGINT\"\namount = \"BIGINT\"\n",
    );
    project.write(
        "models/total.sql",
        "-- weir: key = [\"all_orders\"]\nSELECT 1 AS all_orders, sum(amount) AS amount FROM orders\n",
    );
    for sink in ["held", "free"] {
        project
            .write(&format!("sinks/{sink}.toml"), format!("kind = \"lake\"\nfrom = \"orders\"\nname = \"{sink}\"\n"));
    }
    project.write(
        "checks/negative.sql",
        "-- weir: severity = \"block\"\n-- weir: holds = [\"held\"]\n-- weir: message = \"order {id} is of {amount}\"\n\
         SELECT id, amount FROM orders WHERE amount < 0\n",
    );
    project.write("checks/large.sql", "-- weir: severity = \"warn\"\nSELECT id FROM orders WHERE amount > 100\n");
    project.write("in/1.json", "{\"id\":1,\"amount\":5}\n{\"id\":2,\"amount\":500}\n");
    project
}

/// Rows that a sink of kind `lake` has published.
fn published(project: &Project, sink: &str) -> usize {
    super::support::deltalake(&project.file(&format!(".weir/lake/published/{sink}"))).len()
}

fn state(project: &Project, check: &str) -> (String, String) {
    let row = &project.query(&format!("SELECT state, rows FROM weir.checks WHERE name = 'checks.{check}'"))[0];
    (row["state"].clone(), row["rows"].clone())
}

#[test]
fn a_violation_is_told_and_holds_what_it_shall_until_it_is_clear_or_waived() {
    let project = project();
    project.run_once();
    let told = project.weir(&["checks"]);
    // A warning is told, and is no reason to answer no.
    assert_eq!(told.code, Some(0), "{told:#?}");
    assert_eq!(state(&project, "large"), ("open".into(), "1".into()));
    assert_eq!(state(&project, "negative"), ("clear".into(), "0".into()));

    project.write("in/2.json", "{\"id\":3,\"amount\":-7}\n");
    let ran = project.weir(&["run", "--once"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert!(ran.stderr.contains("`checks.negative` is violated"), "{ran:#?}");
    let told = project.weir(&["checks"]);
    assert_eq!(told.code, Some(1), "{told:#?}");
    assert!(told.stdout.contains("order 3 is of -7"), "{told:#?}");
    assert_eq!((published(&project, "held"), published(&project, "free")), (2, 3));
    // What cannot be sent on can be asked for all the same, and verified.
    assert_eq!(project.value("SELECT amount FROM total"), "498");
    project.verify();

    // Mended: the sink catches up.
    project.write("in/3.json", "{\"id\":3,\"amount\":7}\n");
    project.run_once();
    assert_eq!(state(&project, "negative"), ("clear".into(), "0".into()));
    assert_eq!(published(&project, "held"), 3);

    // Put up with: it goes on, and the next violation is a new one.
    project.write("in/4.json", "{\"id\":4,\"amount\":-1}\n");
    assert_eq!(project.weir(&["run", "--once"]).code, Some(1));
    let wrong = project.weir(&["checks", "waive", "large_", "--by", "ann", "--why", "known"]);
    assert_eq!(wrong.code, Some(2), "{wrong:#?}");
    assert!(wrong.stderr.contains("did you mean `large`?"), "{wrong:#?}");
    project.weir_ok(&["checks", "waive", "negative", "--by", "ann", "--why", "booked back tomorrow"]);
    assert_eq!(state(&project, "negative"), ("waived".into(), "1".into()));
    project.weir_ok(&["checks"]);
    project.run_once();
    assert_eq!(published(&project, "held"), 4);
    project.write("in/5.json", "{\"id\":4,\"amount\":1}\n");
    project.run_once();
    assert_eq!(state(&project, "negative"), ("clear".into(), "0".into()));
    let refused = project.weir(&["checks", "waive", "negative", "--by", "ann", "--why", "nothing"]);
    assert!(refused.code == Some(3) && refused.stderr.contains("is not violated"), "{refused:#?}");
    project.write("in/6.json", "{\"id\":5,\"amount\":-2}\n");
    assert_eq!(project.weir(&["run", "--once"]).code, Some(1));
    assert_eq!(state(&project, "negative"), ("open".into(), "1".into()));
}

#[test]
fn a_sink_waits_until_a_new_check_is_judged_by_what_is_there() {
    let project = project();
    project.run_once();
    project.write(
        "checks/small.sql",
        "-- weir: severity = \"block\"\n-- weir: message = \"{id} of {share}\"\n\
         SELECT id, CAST(amount AS DECIMAL(10, 2)) / 2 AS share FROM orders WHERE amount < 10\n",
    );
    project.write("in/2.json", "{\"id\":3,\"amount\":70}\n");
    let ran = project.weir(&["run", "--once", "--on-change", "rebuild"]);
    assert_eq!(ran.code, Some(1), "{ran:#?}");
    assert_eq!((published(&project, "held"), published(&project, "free")), (2, 2));
    // Values are shown to the last digit, and the project as it was accepted has its checks.
    let told = project.weir(&["checks", "small"]);
    assert!(told.stdout.contains("1 of 2.50"), "{told:#?}");
    project.write("models/total.sql", "SELECT 2 AS changed, sum(amount) AS amount FROM orders\n");
    assert_eq!(state(&project, "small"), ("open".into(), "1".into()));
}

#[test]
fn a_violation_is_kept_with_its_life() {
    let project = project();
    project.run_once();
    let told = project.weir_ok(&["checks", "negative"]);
    assert!(told.contains("It was never violated."), "{told}");
    for (file, amount) in [(2, -1), (3, 1), (4, -2)] {
        project.write(&format!("in/{file}.json"), format!("{{\"id\":3,\"amount\":{amount}}}\n"));
        project.weir(&["run", "--once"]);
    }
    project.weir_ok(&["checks", "waive", "negative", "--by", "ann", "--why", "known"]);
    let life = project.query(
        "SELECT state, rows, waived_by, opened < closed AS lasted, opened_epoch < closed_epoch AS passed \
         FROM weir.violations WHERE name = 'checks.negative'",
    );
    let of = |column: &str| life.iter().map(|row| row[column].clone()).collect::<Vec<_>>();
    // The second is first: rows are sorted by their text.
    assert_eq!(of("state"), ["waived", "closed"]);
    assert_eq!(of("waived_by"), ["ann", "null"]);
    assert_eq!((of("lasted"), of("passed")), (vec!["null".into(), "true".into()], vec!["null".into(), "true".into()]));
    let told = project.weir_ok(&["checks", "negative"]);
    assert!(told.contains("Its violations, the latest first") && told.contains("known"), "{told}");
    // A check that is taken out ends its violation.
    project.write("in/5.json", "{\"id\":3,\"amount\":1}\n");
    project.write("in/6.json", "{\"id\":4,\"amount\":-3}\n");
    project.weir(&["run", "--once"]);
    std::fs::remove_file(project.file("checks/negative.sql")).expect("it is there");
    project.weir_ok(&["run", "--once", "--on-change", "rebuild", "--allow-drop"]);
    project.write("in/7.json", "{\"id\":5,\"amount\":3}\n");
    project.run_once();
    assert_eq!(
        project.value("SELECT count(*) FROM weir.violations WHERE state <> 'closed' AND name = 'checks.negative'"),
        "0"
    );
    project.verify();
}

#[test]
fn a_running_pipeline_opens_closes_and_waives() {
    let project = project();
    let mut running = project.start();
    running.wait_until("the orders are in", || project.value("SELECT count(*) FROM orders") == "2");
    project.write("in/2.json", "{\"id\":3,\"amount\":-7}\n");
    running.wait_until("it is open", || state(&project, "negative").0 == "open");
    project.weir_ok(&["checks", "waive", "negative", "--by", "ann", "--why", "known"]);
    running.wait_until("the sink goes on", || published(&project, "held") == 3);
    running.stop();
    // It lasts.
    assert_eq!(state(&project, "negative").0, "waived");
}

#[test]
fn a_new_check_is_judged_by_what_is_there_already() {
    let project = project();
    project.run_once();
    project.write("checks/small.sql", "SELECT id FROM orders WHERE amount < 10\n");
    project.weir_ok(&["run", "--once", "--on-change", "rebuild"]);
    assert_eq!(state(&project, "small"), ("open".into(), "1".into()));
    assert_eq!(project.weir(&["checks"]).code, Some(1));
    // Another tolerance is no change of meaning, and counts from the next start on.
    project.write("checks/small.sql", "-- weir: tolerance = 1\nSELECT id FROM orders WHERE amount < 10\n");
    project.run_once();
    assert_eq!(state(&project, "small"), ("clear".into(), "1".into()));
}

#[test]
fn ready_made_checks_find_what_they_name() {
    let project = project();
    project.write(
        "sources/customers.toml",
        "kind = \"files\"\npath = \"customers/*.json\"\nsettle = \"0 seconds\"\n\
         checks = [\"unique id\", \"accepted values tier in (gold, silver)\", \"row count between 1 and 3\"]\n\
         [columns]\nid = \"BIGINT\"\ntier = \"TEXT\"\n",
    );
    project.write(
        "models/spent.sql",
        "-- weir: checks = [\"not null customer\", \"references customer in customers.id\", \"sum amount equals orders.amount\"]\n\
         SELECT id % 3 AS customer, sum(amount) AS amount FROM orders GROUP BY id % 3\n",
    );
    project.write("customers/1.json", "{\"id\":1,\"tier\":\"gold\"}\n{\"id\":2,\"tier\":\"silver\"}\n");
    project.run_once();
    let rows = |check: &str| state(&project, check).1;
    let names = [
        "customers_unique_id",
        "customers_accepted_values_tier",
        "customers_row_count",
        "spent_not_null_customer",
        "spent_references_customer",
        "spent_sum_amount",
    ];
    assert_eq!(names.map(rows), ["0"; 6]);
    // One of each: a customer twice, a tier nobody knows, too many rows, an order of nobody, one of an unknown customer.
    project.write("customers/2.json", "{\"id\":1,\"tier\":\"gold\"}\n{\"id\":7,\"tier\":\"tin\"}\n");
    project.write("in/2.json", "{\"id\":null,\"amount\":1}\n{\"id\":3,\"amount\":1}\n");
    project.run_once();
    // `id` is the key of orders, so that the order of nobody is set aside.
    assert_eq!(names.map(rows), ["1", "1", "1", "0", "1", "0"]);
    let told = project.weir(&["checks", "spent_references_customer"]);
    assert!(told.code == Some(1) && told.stdout.contains("references customer in customers.id"), "{told:#?}");
    project.verify();

    project.write("models/wrong.sql", "-- weir: checks = [\"uniqe id\"]\nSELECT id FROM orders\n");
    let refused = project.weir(&["validate"]);
    assert!(refused.code == Some(2) && refused.stderr.contains("is no check"), "{refused:#?}");
}
