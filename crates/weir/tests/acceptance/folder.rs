//! The folder and the command line: mistakes told all at once, exit codes, changes of meaning, files from the future.

use super::support::Project;

fn project() -> Project {
    let project = Project::new();
    project.write(
        "sources/orders.toml",
        "kind = \"files\"\npath = \"in/*.json\"\nsettle = \"0 seconds\"\n\
         [columns]\nid = { type = \"BIGINT\", required = true }\nvisitor_id = \"TEXT\"\namount = \"BIGINT\"\n",
    );
    project.write("models/total.sql", "SELECT count(*) AS orders, sum(amount) AS amount FROM orders\n");
    project.write(
        "in/1.json",
        "{\"id\":1,\"visitor_id\":\"a\",\"amount\":10}\n{\"id\":2,\"visitor_id\":\"b\",\"amount\":20}\n",
    );
    project
}

#[test]
fn all_mistakes_are_told_at_once_with_place_and_hint() {
    let project = project();
    project.write("models/by_visitor.sql", "SELECT vistor_id, count(*) AS orders\nFROM orders\nGROUP BY vistor_id\n");
    project.write("models/a.sql", "SELECT * FROM b\n").write("models/b.sql", "SELECT * FROM a\n");
    project.write("sources/clicks.toml", "kind = \"beacon\"\nlatness = \"1 minute\"\n[columns]\nid = \"BIGINT\"\n");
    let finished = project.weir(&["validate"]);
    assert_eq!(finished.code, Some(2), "{finished:#?}");
    let told = format!("{}{}", finished.stdout, finished.stderr);
    for expected in
        ["vistor_id", "did you mean `visitor_id`?", "models/by_visitor.sql:1:8", "latness", "sources/clicks.toml:2:1"]
    {
        assert!(told.contains(expected), "{expected} is not told:\n{told}");
    }
    assert!(told.contains("a -> b -> a") || told.contains("b -> a -> b"), "the cycle is not named in order:\n{told}");
    assert!(!project.file(".weir").exists(), "validate touches nothing");
}

#[test]
fn exit_codes_tell_what_happened() {
    let project = project();
    assert_eq!(project.weir(&["validate"]).code, Some(0));
    assert_eq!(project.weir(&["no-such-command"]).code, Some(2));
    assert_eq!(project.weir(&["query", "SELECT nothing FROM nowhere"]).code, Some(2));
    project.run_once();
    assert_eq!(project.weir(&["verify"]).code, Some(0));
    for refused in ["DELETE FROM orders", "CREATE TABLE t (a BIGINT)", "INSERT INTO orders VALUES (1)"] {
        assert_ne!(project.weir(&["query", refused]).code, Some(0), "{refused}");
    }
    assert_eq!(project.value("SELECT count(*) FROM orders"), "2");
}

#[test]
fn a_change_of_meaning_is_refused_until_it_is_asked_for() {
    let project = project();
    project.run_once();
    project.write(
        "models/total.sql",
        "-- only how it is written\nSELECT count(*) AS orders,\n  sum(amount) AS amount FROM orders\n",
    );
    project.run_once();

    project.write("models/total.sql", "SELECT count(*) AS orders, sum(amount * 2) AS amount FROM orders\n");
    let refused = project.weir(&["run", "--once"]);
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    assert!(format!("{}{}", refused.stdout, refused.stderr).contains("total"), "the change is listed: {refused:#?}");
    project.weir_ok(&["run", "--once", "--on-change", "rebuild"]);
    assert_eq!(project.value("SELECT amount FROM total"), "60");
    project.verify();
}

#[test]
fn nothing_is_dropped_without_being_told() {
    let project = project();
    project.run_once();
    std::fs::remove_file(project.file("models/total.sql")).expect("it was written above");
    project.write("models/other.sql", "SELECT visitor_id, amount FROM orders\n");
    let refused = project.weir(&["run", "--once", "--on-change", "rebuild"]);
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    project.weir_ok(&["run", "--once", "--on-change", "rebuild", "--allow-drop"]);
    assert_eq!(project.value("SELECT count(*) FROM other"), "2");
}

#[test]
fn a_new_model_is_filled_from_history() {
    let project = project();
    project.run_once();
    project.write("models/visitors.sql", "SELECT visitor_id, count(*) AS orders FROM orders GROUP BY visitor_id\n");
    project.weir_ok(&["run", "--once", "--on-change", "rebuild"]);
    assert_eq!(project.value("SELECT count(*) FROM visitors"), "2");
    project.write("in/2.json", "{\"id\":3,\"visitor_id\":\"c\",\"amount\":1}\n");
    project.run_once();
    assert_eq!(project.value("SELECT count(*) FROM visitors"), "3");
    project.weir_ok(&["backfill", "visitors"]);
    assert_eq!(project.value("SELECT count(*) FROM visitors"), "3");
    project.verify();
}

#[test]
fn one_process_at_a_time_holds_a_folder_and_others_attach() {
    let project = project();
    let mut running = project.start();
    running.wait_until("the orders are in", || project.value("SELECT orders FROM total") == "2");
    let second = project.weir(&["run", "--once"]);
    assert_ne!(second.code, Some(0), "{second:#?}");
    project.verify();
    let (status, output) = running.stop();
    assert!(matches!(status.code(), Some(0 | 130)), "{status}\n{output}");
    assert_eq!(project.value("SELECT orders FROM total"), "2");
}

#[test]
fn the_example_is_valid_and_its_tests_pass() {
    let project = Project::new();
    project.weir_ok(&["new", "shop", "--example", "shop"]);
    let shop = project.file("shop").to_string_lossy().into_owned();
    project.weir_ok(&["validate", "-C", &shop]);
    project.weir_ok(&["test", "-C", &shop, "--junit", "junit.xml"]);
    let junit = std::fs::read_to_string(project.file("junit.xml"))
        .or_else(|_| std::fs::read_to_string(project.file("shop/junit.xml")));
    assert!(junit.expect("a JUnit file").contains("<testsuite"));
}
