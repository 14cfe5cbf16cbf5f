//! `weir explain` and `weir.operators`: what a model's operators do and remember, and what nothing bounds.

use serde_json::Value;

use super::support::Project;

fn project() -> Project {
    let project = Project::new();
    for (source, column) in [("orders", "amount = \"BIGINT\""), ("visits", "page = \"TEXT\"")] {
        project.write(
            &format!("sources/{source}.toml"),
            format!(
                "kind = \"files\"\npath = \"in/{source}*.json\"\nsettle = \"0 seconds\"\n\
                 [columns]\nvisitor_id = \"TEXT\"\nat = \"TIMESTAMP\"\n{column}\n"
            ),
        );
    }
    project.write(
        "models/seen.sql",
        "SELECT o.visitor_id, v.page, o.amount FROM orders o JOIN visits v ON o.visitor_id = v.visitor_id\n",
    );
    project.write("models/spent.sql", "SELECT visitor_id, sum(amount) AS amount FROM orders GROUP BY visitor_id\n");
    project
        .write("models/spent_twice.sql", "SELECT visitor_id, sum(amount) AS amount FROM orders GROUP BY visitor_id\n");
    project.write(
        "models/lately.sql",
        "SELECT count(*) AS orders FROM orders WHERE at > now() - INTERVAL '7 days' AND amount > 0\n",
    );
    project.write("in/visits.json", "{\"visitor_id\":\"a\",\"page\":\"x\"}\n{\"visitor_id\":\"b\",\"page\":\"y\"}\n");
    project.write("in/orders.json", "{\"visitor_id\":\"a\",\"amount\":1}\n{\"visitor_id\":\"a\",\"amount\":2}\n");
    project
}

/// The operator of one kind in an answer of `weir explain --format json`.
fn operator<'a>(explained: &'a Value, kind: &str) -> &'a Value {
    let operators = explained["operators"].as_array().expect("a list of operators");
    operators.iter().find(|o| o["operator"] == kind).unwrap_or_else(|| panic!("no {kind} in {explained:#}"))
}

fn explain(project: &Project, model: &str) -> Value {
    serde_json::from_str(&project.weir_ok(&["explain", model, "--format", "json"])).expect("JSON")
}

#[test]
fn what_nothing_bounds_is_told_for_each_model_and_is_no_mistake() {
    let project = project();
    let finished = project.weir(&["validate"]);
    assert_eq!(finished.code, Some(0), "{finished:#?}");
    let expected = "`seen` remembers: every row of `orders` and of `visits`";
    assert!(finished.stderr.contains(expected), "{expected} is not told:\n{}", finished.stderr);
    for (model, why) in [("lately", "a week of orders is bounded"), ("spent", "a row of each key was asked for")] {
        assert!(!finished.stderr.contains(&format!("`{model}`")), "{why}:\n{}", finished.stderr);
    }
}

#[test]
fn a_model_that_never_ran_is_shown_as_planned() {
    let project = project();
    let text = project.weir_ok(&["explain", "spent"]);
    for expected in ["it never ran", "aggregate", "source orders", "shared with spent_twice", "a group for each"] {
        assert!(text.contains(expected), "{expected} is not shown:\n{text}");
    }
    assert!(!project.file(".weir").exists(), "explain touches nothing");
    let refused = project.weir(&["explain", "spend"]);
    assert_eq!(refused.code, Some(2), "{refused:#?}");
    assert!(refused.stderr.contains("did you mean `spent`?"), "{refused:#?}");
}

#[test]
fn a_stopped_pipeline_tells_what_it_remembers_and_no_rates() {
    let project = project();
    project.run_once();
    let explained = explain(&project, "seen");
    assert_eq!(explained["figures"], "stopped");
    let join = operator(&explained, "join");
    assert_eq!(join["figures"]["state_rows"], 4, "two orders and two visits: {join:#}");
    assert!(join["bytes_per_row"].as_f64().is_some_and(|bytes| bytes > 0.0), "{join:#}");
    assert!(join["growth_bytes_per_day"].is_null(), "{join:#}");
    // A model that is not accepted yet has no figures, but for what it shares with those that are.
    project.write("models/new.sql", "SELECT visitor_id, max(amount) AS most FROM orders GROUP BY visitor_id\n");
    assert!(operator(&explain(&project, "new"), "aggregate")["figures"].is_null());
}

#[test]
fn a_running_pipeline_tells_rates() {
    let project = project();
    let mut running = project.start();
    running.wait_until("the orders are in", || project.value("SELECT sum(amount) FROM spent") == "3");
    project.write("in/orders2.json", "{\"visitor_id\":\"b\",\"amount\":5}\n{\"visitor_id\":\"c\",\"amount\":6}\n");
    let told = || explain(&project, "spent");
    running.wait_until("the aggregate has seen four rows", || {
        let explained = told();
        let figures = &operator(&explained, "aggregate")["figures"];
        explained["figures"] == "running" && figures["rows_in"] == 4 && figures["rates_over_seconds"].is_number()
    });
    let explained = told();
    let aggregate = operator(&explained, "aggregate");
    assert_eq!(aggregate["figures"]["state_rows"], 3, "a, b and c: {aggregate:#}");
    assert!(aggregate["figures"]["busy_seconds"].as_f64().is_some_and(|s| s > 0.0), "{aggregate:#}");
    assert!(aggregate["growth_bytes_per_day"].is_number(), "{aggregate:#}");
    let rows =
        project.query("SELECT models FROM weir.operators WHERE operator = 'aggregate' AND unbounded IS NOT NULL");
    assert!(rows.iter().any(|row| row["models"] == "spent, spent_twice"), "{rows:?}");
    running.stop();
}
