//! The ledger: measures that add up, whenever they are declared and however it ends; mistakes in them; what it shows.

use super::support::{Postgres, Project, Receiver, assert_same_rows, duckdb, rows};

const CURRENCIES: [&str; 4] = ["EUR", "CZK", "USD", "GBP"];

/// Orders as JSON lines, some broken, some without an identity, some that replace another.
fn orders(from: u64, count: u64) -> String {
    let mut lines = String::new();
    for id in from..from + count {
        let currency = match id % 5 {
            4 => "null".to_owned(),
            other => format!("\"{}\"", CURRENCIES[other as usize]),
        };
        let key = match id % 11 {
            0 => "null".to_owned(),
            1..=3 => (id / 20).to_string(),
            _ => id.to_string(),
        };
        let (euros, cents) = (id * 7919 % 1000, id * 31 % 100);
        let weight = (id * 37 % 1000) as f64 / 8.0;
        lines.push_str(&format!(
            "{{\"id\":{key},\"currency\":{currency},\"amount\":\"{euros}.{cents:02}\",\"weight\":{weight},\"n\":{id}}}\n"
        ));
        if id % 17 == 0 {
            lines.push_str("{\"id\": broken\n");
        }
    }
    lines
}

fn source(measure: &str) -> String {
    format!(
        "kind = \"files\"\npath = \"in/*.json\"\nsettle = \"0 seconds\"\nkey = [\"id\"]\nversion = \"n\"\n{measure}\
         [columns]\nid = \"BIGINT\"\ncurrency = \"TEXT\"\namount = \"DECIMAL(12, 2)\"\nweight = \"DOUBLE\"\nn = \"BIGINT\"\n"
    )
}

const MEASURE: &str = "measure = [\"amount by currency\", \"weight\"]\n";

fn project(measure: &str) -> Project {
    let project = Project::new();
    project.write("sources/orders.toml", source(measure));
    project.write(
        "models/small.sql",
        "-- weir: measure = \"amount by currency\"\nSELECT id, currency, amount FROM orders WHERE amount < 500\n",
    );
    project
}

/// What the measures must be, by DuckDB over the same files.
fn check_measures(project: &Project) {
    let current = format!(
        "SELECT * FROM (SELECT *, row_number() OVER (PARTITION BY id ORDER BY n DESC) AS place FROM read_json('{}/in/*.json', \
         format = 'newline_delimited', ignore_errors = true, columns = {{id: 'BIGINT', currency: 'VARCHAR', \
         amount: 'DECIMAL(12, 2)', weight: 'DOUBLE', n: 'BIGINT'}}) WHERE id IS NOT NULL) WHERE place = 1",
        project.path().display()
    );
    for (relation, condition) in [("orders", "true"), ("small", "amount < 500")] {
        let ours = project.query(&format!(
            "SELECT group_key, total FROM weir.measures WHERE relation = '{relation}' AND measure = 'amount by currency'"
        ));
        let theirs = duckdb(&format!(
            "SELECT coalesce(currency, 'NULL') AS group_key, sum(amount)::VARCHAR AS total FROM ({current}) WHERE {condition} \
             GROUP BY currency"
        ));
        assert_same_rows(relation, &ours, &theirs);
    }
    let ours = project.value("SELECT total FROM weir.measures WHERE measure = 'weight'");
    let theirs = duckdb(&format!("SELECT sum(weight) AS total FROM ({current})"));
    assert_eq!(ours.parse::<f64>().ok(), theirs[0]["total"].parse::<f64>().ok());
}

#[test]
fn measures_are_what_another_program_sums_after_every_cut_and_a_kill() {
    let project = project(MEASURE);
    project.write("in/1.json", orders(1, 400));
    project.weir_ok(&["run", "--once", "--epoch-rows", "37"]);
    check_measures(&project);
    project.verify();

    let mut running = project.start();
    project.write("in/2.json", orders(401, 300));
    let last = "SELECT count(*) FROM orders WHERE n >= 690";
    running.wait_until("the second file is in", || project.value(last) != "0");
    running.kill();
    check_measures(&project);
    project.verify();

    // Every epoch's sums lead from what was there to what is there, and what was read is accounted for.
    let answer = project.weir_ok(&["ledger", "--measures", "--from", "1", "--relation", "orders", "--format", "json"]);
    let told = rows(&serde_json::from_str(&answer).expect("JSON"));
    let cents = |text: &str| text.replace('.', "").parse::<i64>().expect("an amount");
    let amount = |row: &std::collections::BTreeMap<String, String>, part: &str| match row[part].as_str() {
        "null" | "0" => 0,
        text => cents(text),
    };
    let mut epochs: Vec<_> = told.iter().filter(|row| row["measure"] == "amount by currency").collect();
    assert!(epochs.len() > 20, "{told:?}");
    epochs.sort_by_key(|row| row["epoch"].parse::<u64>().expect("a number"));
    let mut totals = std::collections::BTreeMap::new();
    for row in epochs {
        let parts = ["admitted", "quarantined", "late", "duplicate", "superseded"].map(|part| amount(row, part));
        assert_eq!(amount(row, "read"), parts.iter().sum::<i64>(), "{row:?}");
        let total = totals.entry(row["group_key"].clone()).or_insert(0);
        *total += amount(row, "inserted") - amount(row, "deleted");
        if row["total"] != "null" {
            assert_eq!(*total, amount(row, "total"), "{row:?}");
        }
    }
    let reasons = project.query("SELECT reasons FROM weir.ledger WHERE relation = 'orders' AND reasons IS NOT NULL");
    assert!(reasons.iter().any(|row| row["reasons"].contains("json_syntax") && row["reasons"].contains("null_key")));
    let updated = project
        .value("SELECT sum(updated) > 0 AND sum(deleted) = sum(updated) FROM weir.ledger WHERE relation = 'orders'");
    assert_eq!(updated, "true", "a key's later row replaces the one before, and none is deleted");
}

#[test]
fn a_measure_that_is_declared_late_counts_what_was_there_before_it() {
    let project = project("");
    project.write("in/1.json", orders(1, 300));
    project.weir_ok(&["run", "--once", "--epoch-rows", "50"]);
    project.write("sources/orders.toml", source(MEASURE));
    // No change of meaning: nothing is rebuilt, and nothing is known before the next run has counted.
    assert_eq!(
        project.value("SELECT count(*) FROM weir.measures WHERE relation = 'orders' AND total IS NOT NULL"),
        "0"
    );
    project.write("in/2.json", orders(301, 50));
    project.run_once();
    check_measures(&project);
    project.verify();

    // Away and back again; a model is rebuilt, and its sums with it.
    project.write("sources/orders.toml", source(""));
    project.write("in/3.json", orders(351, 50));
    project.run_once();
    project.write("sources/orders.toml", source(MEASURE));
    project.write(
        "models/small.sql",
        "-- weir: measure = \"amount by currency\"\nSELECT id, currency, amount, n FROM orders WHERE amount < 500\n",
    );
    project.write("in/4.json", orders(401, 50));
    project.weir_ok(&["run", "--once", "--on-change", "rebuild"]);
    check_measures(&project);
    project.verify();
}

#[test]
fn mistakes_in_measures_are_told_with_a_hint() {
    let told = |project: &Project, wanted: &[&str]| {
        let told = project.weir(&["validate"]);
        assert_eq!(told.code, Some(2), "{told:#?}");
        for words in wanted {
            assert!(told.stderr.contains(words), "{words}: {}", told.stderr);
        }
    };
    let wrong = "measure = [\"amout\", \"currency\", \"amount by weight\", \"sum of amount\", \"n\", \"n\"]\n";
    let of_the_source = [
        "measure: there is no column `amout`",
        "did you mean `amount`?",
        "`currency` is TEXT, which has no sum",
        "`weight` is DOUBLE, which makes no groups",
        "`sum of amount` is no measure",
        "`n` is there twice",
    ];
    told(&project(wrong), &of_the_source);
    let project = project(MEASURE);
    project.write("models/small.toml", "measure = \"amount by currency\"\n[columns]\ncurrency = { personal = true }\n");
    told(&project, &["measure: `currency` is personal", "measure: `amount by currency` is there twice"]);
}

#[test]
fn the_ledger_is_shown_by_epoch_time_and_relation_and_exported() {
    let project = project(MEASURE);
    project.write("in/1.json", orders(1, 100));
    project.weir_ok(&["run", "--once", "--epoch-rows", "40"]);
    let lines = |arguments: &[&str]| {
        let all: Vec<&str> = ["ledger", "--format", "csv"].iter().chain(arguments).copied().collect();
        project.weir_ok(&all).lines().count() - 1
    };
    let all = lines(&["--from", "1"]);
    assert!(all > 6);
    assert_eq!(lines(&["--since", "2020-01-01"]), all);
    assert_eq!((lines(&["--until", "2020-01-01"]), lines(&["--since", "2999-01-01T12:00:00Z"])), (0, 0));
    assert!(lines(&["--relation", "orders", "--since", "2020-01-01"]) < all);
    let wrong = project.weir(&["ledger", "--since", "yesterday"]);
    assert!(wrong.code == Some(2) && wrong.stderr.contains("write 2026-01-31"), "{wrong:#?}");
    let arrow =
        project.command(&["ledger", "--measures", "--from", "1", "--format", "arrow"]).output().expect("it runs");
    let batches = arrow::ipc::reader::StreamReader::try_new(arrow.stdout.as_slice(), None).expect("a stream");
    assert!(batches.map(|batch| batch.expect("a batch").num_rows()).sum::<usize>() > 0);
}

#[test]
fn signed_heads_bind_the_ledger_before_whoever_has_them() {
    let receiver = Receiver::start();
    let settings = format!(
        "[ledger]\nsign = \"${{file:key.pem}}\"\npublish_file = \"heads.out\"\npublish_webhook = \"http://{}/heads\"\n",
        receiver.address()
    );
    let project = Project::with_settings(&settings);
    project.write("sources/orders.toml", source(MEASURE));
    project.write("in/1.json", orders(1, 60));
    let public = project.weir_ok(&["ledger", "sign-key", "key.pem"]).trim().to_owned();
    let again = project.weir(&["ledger", "sign-key", "key.pem"]);
    assert!(again.code == Some(3) && again.stderr.contains("cannot be created"), "{again:#?}");
    project.run_once();
    project.write("in/2.json", orders(61, 60));
    project.run_once();
    let copy = std::fs::read_to_string(project.file("heads.out")).expect("heads were published");
    assert!(copy.lines().count() >= 2, "{copy}");
    assert_eq!(receiver.taken().len(), copy.lines().count());
    assert!(!copy.contains("PRIVATE"), "{copy}");
    let verify = |heads: &str, key: &str| project.weir(&["ledger", "verify", "--public-key", key, "--heads", heads]);
    let told = verify("heads.out", &public);
    assert!(told.code == Some(0) && told.stdout.contains("the ledger holds"), "{told:#?}");
    project.weir_ok(&["ledger", "verify", "--public-key", &public]);

    // OpenSSL makes keys for it, and knows the public half of ours.
    let openssl = |arguments: &[&str]| {
        let output = std::process::Command::new("openssl").args(arguments).current_dir(project.path()).output();
        assert!(output.as_ref().is_ok_and(|output| output.status.success()), "openssl {arguments:?}: {output:?}");
    };
    openssl(&["pkey", "-in", "key.pem", "-pubout", "-out", "public.pem"]);
    assert_eq!(verify("heads.out", "public.pem").code, Some(0));
    openssl(&["genpkey", "-algorithm", "ed25519", "-out", "other.pem"]);
    openssl(&["pkey", "-in", "other.pem", "-pubout", "-out", "stranger.pem"]);
    let told = verify("heads.out", "stranger.pem");
    assert!(told.code == Some(1) && told.stdout.contains("not signed by this key"), "{told:#?}");

    // A head of another history, signed or not; one of an epoch that is gone.
    let mut head: serde_json::Value = serde_json::from_str(copy.lines().last().expect("a line")).expect("JSON");
    head["hash"] = "00".repeat(32).into();
    project.write("changed.out", head.to_string());
    let told = verify("changed.out", &public);
    assert!(
        told.code == Some(1) && told.stdout.contains("the ledger") && told.stdout.contains("not signed"),
        "{told:#?}"
    );
    let told = project.weir(&["ledger", "verify", "--heads", "changed.out"]);
    assert!(told.code == Some(1) && told.stdout.contains("the head has hash 0000"), "{told:#?}");
    std::fs::remove_dir_all(project.file(".weir")).expect("it is there");
    std::fs::remove_dir_all(project.file("in")).expect("it is there");
    project.write("in/1.json", orders(1, 59));
    project.run_once();
    let told = verify("heads.out", &public);
    assert!(told.code == Some(1) && told.stdout.contains("the head has hash"), "a history made anew: {told:#?}");
}

#[test]
fn destinations_are_read_back_and_a_change_by_somebody_else_is_found() {
    let postgres = Postgres::start();
    let project = project("");
    project.write(
        "models/kinds.sql",
        "-- weir: key = [\"id\"]\nSELECT id, currency, amount, CAST(weight AS REAL) AS light, weight, amount > 100 AS large, \
         CAST(n AS SMALLINT) AS n, CAST(n AS TEXT)::BYTEA AS bytes, DATE '2026-01-31' AS day, \
         to_timestamp_micros(n * 1000001) AS at FROM orders\n",
    );
    for (sink, more) in [("whole", ""), ("part", "where = \"n % 2 = 0\"\n")] {
        let settings = "kind = \"postgres\"\nfrom = \"kinds\"\n";
        project.write(
            &format!("sinks/{sink}.toml"),
            format!("{settings}table = \"{sink}\"\nurl = \"{}\"\n{more}", postgres.url()),
        );
    }
    project.write("sinks/lake.toml", "kind = \"lake\"\nfrom = \"small\"\n");
    project.write("in/1.json", orders(1, 200));
    project.run_once();
    let told = project.weir(&["verify"]);
    assert_eq!(told.code, Some(0), "{told:#?}");
    for sink in ["whole", "part", "lake"] {
        assert!(told.stdout.contains(&format!("sink {sink}  equal")), "{told:#?}");
    }
    // One cent, and one row.
    postgres.execute("UPDATE whole SET amount = amount + 0.01 WHERE id = 15");
    let told = project.weir(&["verify"]);
    assert!(told.code == Some(1) && told.stdout.contains("as many rows as there should be, but others"), "{told:#?}");
    assert!(told.stdout.contains("sink part  equal"), "{told:#?}");
    postgres.execute("DELETE FROM part WHERE id = 16");
    let told = project.weir(&["verify"]);
    assert!(told.code == Some(1) && told.stdout.contains("it should have"), "{told:#?}");
}
