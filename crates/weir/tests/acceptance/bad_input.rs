//! Bad input of every kind: each lands in the quarantine with its reason and bytes, and its neighbours pass.

use std::io::Write;
use std::process::{Command, Stdio};

use super::support::{Connection, Project};

const EVENTS: &str = r#"
kind      = "files"
path      = "in/*"
settle    = "0 seconds"
time      = "at"
ahead_max = "5 minutes"
lateness  = "3650 days"

[columns]
id   = { type = "BIGINT", required = true }
at   = "TIMESTAMP"
name = "TEXT"
"#;

fn project() -> Project {
    let project = Project::new();
    project.write("sources/events.toml", EVENTS);
    project.write("models/total.sql", "SELECT count(*) AS events, sum(id) AS ids FROM events\n");
    project
}

/// A record that nothing is wrong with.
fn good(id: u32) -> String {
    format!("{{\"id\":{id},\"at\":\"2026-01-05T10:00:00Z\",\"name\":\"n{id}\"}}\n")
}

/// Two good records with a bad one between.
fn between(bad: &[u8]) -> Vec<u8> {
    [good(1).as_bytes(), bad, b"\n", good(2).as_bytes()].concat()
}

#[track_caller]
fn assert_quarantined(bad: &[u8], reason_has: &[&str]) {
    let project = project();
    project.write("in/events.json", between(bad));
    project.run_once();
    assert_eq!(project.value("SELECT ids FROM total"), "3", "its neighbours pass");
    assert_eq!(project.value("SELECT count(*) FROM weir.quarantine WHERE source = 'events'"), "1");
    let reason = project.value("SELECT reason FROM weir.quarantine");
    assert!(reason_has.contains(&reason.as_str()), "{reason} is none of {reason_has:?}");
    assert!(!project.value("SELECT message FROM weir.quarantine").is_empty());
    project.verify();
}

#[test]
fn a_broken_line_is_quarantined() {
    assert_quarantined(b"{\"id\":7,\"name\":", &["json_syntax"]);
}

#[test]
fn a_wrong_type_is_quarantined() {
    assert_quarantined(b"{\"id\":\"seven\"}", &["wrong_type"]);
}

#[test]
fn a_missing_required_field_is_quarantined() {
    assert_quarantined(b"{\"name\":\"who\"}", &["missing"]);
}

#[test]
fn invalid_utf8_is_quarantined() {
    assert_quarantined(b"{\"id\":7,\"name\":\"\xff\xfe\"}", &["invalid_utf8"]);
}

#[test]
fn json_nested_ten_thousand_deep_is_quarantined() {
    let deep = [b"{\"id\":7,\"name\":".as_slice(), &[b'['; 10_000], &[b']'; 10_000], b"}"].concat();
    assert_quarantined(&deep, &["too_deep", "wrong_type"]);
}

#[test]
fn a_line_of_100_mb_is_quarantined() {
    let mut long = b"{\"id\":7,\"name\":\"".to_vec();
    long.resize(100_000_000, b'x');
    long.extend(b"\"}");
    assert_quarantined(&long, &["too_long", "too_large", "record_too_large", "record_too_long"]);
}

#[test]
fn a_clock_of_2100_is_quarantined_and_moves_no_watermark() {
    assert_quarantined(b"{\"id\":7,\"at\":\"2100-01-01T00:00:00Z\"}", &["clock_ahead", "time_ahead", "ahead"]);
}

#[test]
fn a_clock_of_1970_is_set_aside_as_late() {
    let project = project();
    project.write("in/events.json", between(b"{\"id\":7,\"at\":\"1970-01-01T00:00:00Z\"}"));
    project.run_once();
    assert_eq!(project.value("SELECT ids FROM total"), "3", "its neighbours pass");
    let aside = "SELECT (SELECT count(*) FROM weir.late) + (SELECT count(*) FROM weir.quarantine) AS rows_set_aside";
    assert_eq!(project.value(aside), "1");
    project.verify();
}

#[test]
fn a_gzip_cut_short_is_quarantined_and_what_was_whole_passes() {
    let project = project();
    let lines: String = (0..5_000).map(good).collect();
    let whole = gzip(lines.as_bytes());
    project.write("in/1.json.gz", &whole[..whole.len() / 2]);
    project.write("in/2.json", good(1_000_000));
    project.run_once();
    assert_eq!(project.value("SELECT count(*) FROM events WHERE id = 1000000"), "1", "the next file passes");
    let incidents = project.query("SELECT reason, message FROM weir.quarantine WHERE message LIKE '%1.json.gz%'");
    assert!(!incidents.is_empty(), "{:?}", project.query("SELECT reason, message FROM weir.quarantine"));
    project.verify();
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .arg("-c")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("gzip is on every machine");
    let mut stdin = child.stdin.take().expect("it is piped");
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().expect("gzip runs");
    writer.join().expect("no panic").expect("gzip reads all");
    output.stdout
}

#[test]
fn every_record_of_a_bad_batch_is_accounted_for() {
    let project = project();
    let mut bytes = Vec::new();
    for id in 0..200 {
        bytes.extend(good(id).bytes());
        bytes.extend(match id % 4 {
            0 => b"not json at all\n".as_slice(),
            1 => b"{\"name\":\"no id\"}\n",
            2 => b"{\"id\":{}}\n",
            _ => b"\"\xc3\x28\"\n",
        });
    }
    project.write("in/events.json", bytes);
    project.weir_ok(&["run", "--once", "--epoch-rows", "37"]);
    assert_eq!(project.value("SELECT count(*) FROM events"), "200");
    assert_eq!(project.value("SELECT count(*) FROM weir.quarantine"), "200");
    project.verify();
}

#[test]
fn bad_posts_are_answered_with_the_reason_and_good_ones_pass() {
    let project = Project::new();
    project.write("sources/clicks.toml", "kind = \"beacon\"\n[columns]\nid = \"BIGINT\"\nname = \"TEXT\"\n");
    let running = project.start();
    let mut beacon = Connection::open(project.beacon).expect("it listens");

    let refused = beacon.post("/events/clicks", b"{\"id\": 1").expect("an answer");
    assert_eq!(refused.status, 400, "{}", refused.text());
    assert!(!refused.text().is_empty(), "the reason");
    let mut beacon = Connection::open(project.beacon).expect("it listens");
    let nowhere = beacon.post("/events/nobody", b"{}").expect("an answer");
    assert_eq!(nowhere.status, 404, "{}", nowhere.text());
    let mut beacon = Connection::open(project.beacon).expect("it listens");
    let large = vec![b' '; 3_000_000];
    if let Ok(reply) = beacon.post("/events/clicks", &large) {
        assert_eq!(reply.status, 413, "{}", reply.text());
    }
    let mut beacon = Connection::open(project.beacon).expect("it listens");
    let taken = beacon.post("/events/clicks", b"[{\"id\":1},{\"id\":\"x\"},{\"id\":2}]").expect("an answer");
    assert!(taken.is_success(), "{}", taken.text());
    let pixel = beacon.get("/i/clicks?name=home%20page").expect("an answer");
    assert!(pixel.is_success() && pixel.body.starts_with(b"GIF89a"), "{pixel:?}");

    let (status, output) = running.stop();
    assert!(status.success() || status.code() == Some(130), "{status}\n{output}");
    project.run_once();
    assert_eq!(project.value("SELECT CAST(sum(id) AS BIGINT) FROM clicks"), "3");
    assert_eq!(project.value("SELECT count(*) FROM clicks WHERE name = 'home page'"), "1");
    assert_eq!(project.value("SELECT count(*) FROM weir.quarantine WHERE source = 'clicks'"), "1");
    project.verify();
}

#[test]
fn a_division_by_zero_in_one_model_stops_no_other() {
    let project = project();
    project.write("models/shares.sql", "SELECT id, 100 / (id - 2) AS share FROM events\n");
    project.write("in/events.json", [good(1), good(2), good(3)].concat());
    project.run_once();
    assert_eq!(project.value("SELECT ids FROM total"), "6", "the other model has all rows");
    assert_eq!(project.value("SELECT CAST(sum(share) AS BIGINT) FROM shares"), "0", "its good rows are there");
    let errors = project.query("SELECT model, message FROM weir.errors");
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert_eq!(errors[0]["model"], "shares");
    assert!(errors[0]["message"].to_lowercase().contains("zero"), "{errors:?}");
    project.verify();
}

#[test]
fn a_ledger_that_was_changed_is_found() {
    let project = project();
    project.write("in/events.json", good(1));
    project.run_once();
    project.verify();
    let ledger = project.query("SELECT * FROM weir.ledger");
    assert!(!ledger.is_empty(), "every epoch is in the ledger");
    flip_a_byte_of_the_ledger(&project);
    let finished = project.weir(&["verify"]);
    assert!(finished.code != Some(0), "{finished:?}");
}

#[test]
fn a_published_head_tells_a_history_that_was_written_anew() {
    let project = project();
    project.write("in/events.json", good(1));
    project.run_once();
    let head = project.weir_ok(&["ledger", "head"]);
    let (epoch, hash) = head.trim().split_once(' ').expect("epoch and hash");
    project.write("in/more.json", good(2));
    project.run_once();
    // More came since, and what was published still is part of it.
    assert_ne!(project.weir_ok(&["ledger", "head"]), head);
    project.weir_ok(&["ledger", "check", epoch, hash]);
    assert!(project.weir_ok(&["ledger", "--from", "1", "--format", "csv"]).lines().count() > 1);
    // The same program over other input: a chain that holds, and another history.
    let other = self::project();
    other.write("in/events.json", good(3));
    other.run_once();
    other.verify();
    let checked = other.weir(&["ledger", "check", epoch, hash]);
    assert!(checked.code == Some(1) && checked.stdout.contains("NOT as published"), "{checked:?}");
    let checked = other.weir(&["ledger", "check", "999", hash]);
    assert!(checked.code == Some(1) && checked.stdout.contains("NO epoch 999"), "{checked:?}");
}

fn flip_a_byte_of_the_ledger(project: &Project) {
    let folder = project.file(".weir/ledger");
    let files = std::fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut files: Vec<_> = files.flatten().map(|entry| entry.path()).collect();
    files.sort();
    let file = files.first().expect("the ledger has a file");
    let mut bytes = std::fs::read(file).expect("it is readable");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(file, bytes).expect("it is writable");
}

#[test]
fn what_a_source_does_not_claim_any_more_stays_in_quarantine_when_it_is_sent_again() {
    let project = Project::new();
    let source = |condition: &str, required: bool| {
        format!(
            "kind = \"files\"\npath = \"in/*.json\"\nsettle = \"0 seconds\"\nwhere = \"{condition}\"\n\
             [columns]\nkind = \"TEXT\"\nn = {{ type = \"BIGINT\", required = {required} }}\n"
        )
    };
    project.write("sources/orders.toml", source("true", true));
    project.write("in/1.json", "{\"kind\":\"a\",\"n\":1}\n{\"kind\":\"a\"}\n{\"kind\":\"b\"}\n");
    project.run_once();
    assert_eq!(project.value("SELECT count(*) FROM weir.quarantine"), "2");
    // Both would do now; only one of them is an order any more.
    project.write("sources/orders.toml", source("kind = 'a'", false));
    project.weir_ok(&["run", "--once", "--on-change", "rebuild"]);
    project.weir_ok(&["replay", "orders"]);
    let left = project.query("SELECT CAST(raw AS TEXT) AS raw FROM weir.quarantine");
    assert_eq!(left.len(), 1, "{left:?}");
    assert_eq!(left[0]["raw"], "{\"kind\":\"b\"}");
    assert_eq!(project.value("SELECT count(*) FROM orders"), "2");
    project.verify();
}
