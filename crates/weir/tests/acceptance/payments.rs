//! The example payments: every fault that was put in is found, nothing beside it, whatever the epochs; the books balance,
//! and a day that has been closed is closed the same way again.

use super::support::{Project, Rows};

/// How many seeds are tried.
fn seeds() -> u64 {
    std::env::var("WEIR_TEST_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(2)
}

const FOUND: &str = "SELECT kind, id FROM findings \
    UNION ALL SELECT 'refunded too much', payment_id FROM checks.refunded_too_much \
    UNION ALL SELECT 'dispute of nothing', event_id FROM checks.disputes_of_nothing";

fn project(seed: u64, payments: u64) -> (Project, Vec<(String, String)>) {
    let project = Project::new();
    let settings = std::fs::read_to_string(project.file("weir.toml")).expect("settings");
    project.weir_ok(&["new", "pay", "--example", "payments"]);
    // The example under the settings of the test, which has its own ports.
    for entry in std::fs::read_dir(project.file("pay")).expect("the example").flatten() {
        std::fs::rename(entry.path(), project.file(&entry.file_name().to_string_lossy())).expect("a rename");
    }
    project.write("weir.toml", settings);
    std::fs::remove_dir(project.file("pay")).expect("an empty folder");
    let (payments, seed) = (payments.to_string(), seed.to_string());
    project.weir_ok(&[
        "simulate",
        "payments",
        "--payments",
        &payments,
        "--days",
        "3",
        "--faults",
        "3",
        "--seed",
        &seed,
    ]);
    let faults = std::fs::read_to_string(project.file("data/faults.csv")).expect("the faults");
    let faults = faults.lines().skip(1).filter_map(|line| line.split_once(','));
    (project, faults.map(|(kind, id)| (kind.to_owned(), id.to_owned())).collect())
}

/// Sorted, as faults are.
fn pairs(rows: &Rows) -> Vec<(String, String)> {
    let mut pairs: Vec<_> = rows.iter().map(|row| (row["kind"].clone(), row["id"].clone())).collect();
    pairs.sort();
    pairs
}

#[test]
fn every_fault_is_found_and_nothing_beside_it() {
    for seed in 0..seeds() {
        let mut closes = Vec::new();
        for epoch_rows in ["700", "100000"] {
            let (project, faults) = project(seed, 1500);
            assert_eq!(faults.len(), 27, "seed {seed}");
            project.weir_ok(&["run", "--once", "--epoch-rows", epoch_rows]);
            assert_eq!(pairs(&project.query(FOUND)), faults, "seed {seed}, {epoch_rows} rows an epoch");
            let open = project.query("SELECT name FROM weir.checks WHERE state = 'open' ORDER BY name");
            let open: Vec<&str> = open.iter().map(|row| row["name"].as_str()).collect();
            assert_eq!(open, ["checks.disputes_of_nothing", "checks.refunded_too_much"], "seed {seed}");
            // Each event has its postings, and no cent is in the books that the bank and the findings do not explain.
            let count = |relation: &str| -> i64 {
                project.value(&format!("SELECT count(*) FROM {relation}")).parse().expect("a count")
            };
            let expected = 12 * count("captures") + 4 * count("refunds") + 6 * count("chargebacks");
            assert_eq!(count("postings"), expected, "seed {seed}");
            assert_eq!(count("(SELECT currency FROM balances GROUP BY currency HAVING sum(balance) <> 0) AS b"), 0);
            assert_eq!(count("explained WHERE difference <> explained"), 0, "seed {seed}");
            let split = count("exposure_safe") + count("exposure_watch") + count("exposure_in_debt");
            assert_eq!(count("exposure"), split, "seed {seed}");
            project.verify();
            closes.push(project.query("SELECT * FROM day_end ORDER BY day, account, currency"));
        }
        assert!(!closes[0].is_empty() && closes[0] == closes[1], "seed {seed}: the days are closed in one way");
    }
}

#[test]
fn a_corrected_line_takes_back_its_finding() {
    let (project, faults) = project(77, 300);
    project.run_once();
    let wrong = faults.iter().find(|(kind, _)| kind == "wrong amount at processor").expect("there is one").1.clone();
    let line = &project.query(&format!("SELECT * FROM processor_lines WHERE reference = '{wrong}'"))[0];
    let amount = project.value(&format!("SELECT amount FROM expected_lines WHERE event_id = '{wrong}'"));
    let net = project.value(&format!("SELECT net FROM expected_lines WHERE event_id = '{wrong}'"));
    // The processor mends its report; the bank has paid by the old one, which is what is wrong from now on.
    project.write(
        "data/processor/mended.csv",
        format!(
            "line_id,processor,reference,merchant,currency,amount,net,payout_id,processed_at\n{},{},{wrong},{},{},{amount},{net},{},{}\n",
            line["line_id"], line["processor"], line["merchant"], line["currency"], line["payout_id"], line["processed_at"]
        ),
    );
    project.run_once();
    let found = pairs(&project.query(FOUND));
    assert!(!found.iter().any(|(_, id)| *id == wrong), "{found:?}");
    assert!(found.iter().any(|(kind, id)| kind == "wrong amount at bank" && *id == line["payout_id"]), "{found:?}");
    assert_eq!(project.value("SELECT count(*) FROM explained WHERE difference <> explained"), "0");
    project.verify();
}
