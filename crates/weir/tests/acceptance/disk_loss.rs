//! The data folder is lost under load: killed, deleted, restored from a mirror or a backup, and nothing that was promised is
//! missing, nothing is there twice, in relations, in the lake, in PostgreSQL; and `weir verify` says equal each time.
//!
//! `WEIR_LOSS_COUNT` losses (4 by default), at moments that `WEIR_LOSS_SEED` determines.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tempfile::TempDir;

use super::disk_full::SmallDisk;
use super::kill::{Sent, check, live, missing, number, project, record, send};
use super::support::{Connection, Postgres, Project, Running, Seeded};

/// A second disk.
fn second_disk() -> TempDir {
    tempfile::Builder::new().prefix("weir-mirror-").tempdir().expect("a temporary folder")
}

fn mirrored(folder: &Path, more: &str) -> String {
    format!("mirror = \"{}\"\n{more}", folder.display())
}

fn lose(project: &Project) {
    std::fs::remove_dir_all(project.file(".weir")).expect("the data folder");
}

fn restore(project: &Project, from: &Path) -> Value {
    let told = project.weir_ok(&["restore", &from.display().to_string(), "--format", "json"]);
    serde_json::from_str(&told).expect("what was restored as JSON")
}

fn status(project: &Project) -> Value {
    serde_json::from_str(&project.weir_ok(&["status", "--format", "json"])).expect("the status as JSON")
}

fn acknowledged(sent: &Sent) -> usize {
    sent.acknowledged.lock().expect("nobody panics with it").len()
}

/// Posts one event after the other until it is refused; the status of the refusal.
fn send_until_refused(running: &mut Running, project: &Project, sent: &Sent) -> u16 {
    let mut connection = Connection::open(project.beacon).expect("it listens");
    let mut refused = 0;
    running.wait_until("intake waits for the mirror", || {
        refused = post(&mut connection, sent);
        refused >= 400
    });
    refused
}

fn post(connection: &mut Connection, sent: &Sent) -> u16 {
    use std::sync::atomic::Ordering;
    const BATCH: u64 = 20;
    let first = sent.next.fetch_add(BATCH, Ordering::Relaxed);
    let body: Vec<String> = (first..first + BATCH).map(record).collect();
    match connection.post("/events/clicks", body.join("\n").as_bytes()) {
        Ok(reply) => {
            if reply.is_success() {
                sent.acknowledged.lock().expect("nobody panics with it").extend(first..first + BATCH);
            }
            reply.status
        }
        Err(_) => 0,
    }
}

#[test]
fn a_mirror_in_step_loses_no_acknowledged_record_with_the_disk() {
    let (count, seed) = (number("WEIR_LOSS_COUNT", 4), number("WEIR_LOSS_SEED", 1));
    let (postgres, mirror) = (Postgres::start(), second_disk());
    let project = project(&postgres, &mirrored(mirror.path(), ""));
    let sent = Arc::new(Sent::default());
    let mut random = Seeded::new(seed);
    let mut files = 0;
    for loss in 1..=count {
        live(&project, &sent, &mut files, &mut random);
        if !project.file(".weir/accepted.json").exists() {
            continue;
        }
        lose(&project);
        let refused = project.weir(&["run", "--once"]);
        if mirror.path().join("accepted.json").exists() {
            assert_eq!(refused.code, Some(3), "an empty folder must not be taken for the mirror's: {refused:#?}");
            assert!(refused.stderr.contains("weir restore"), "it says what to do: {refused:#?}");
            lose(&project);
            restore(&project, mirror.path());
        } else {
            assert_eq!(acknowledged(&sent), 0, "nobody is answered before the mirror is whole");
        }
        check(&project, &postgres, &sent, files);
        println!("loss {loss} of {count}: {} events acknowledged, {files} files, all there once", acknowledged(&sent));
    }
    assert!(acknowledged(&sent) > 0, "no life was long enough");
}

#[test]
fn a_mirror_that_fails_holds_intake_up_and_is_caught_up_when_it_is_back() {
    let (postgres, folder) = (Postgres::start(), second_disk());
    let disk = SmallDisk::mount(folder.path(), 3);
    let project = project(&postgres, &mirrored(folder.path(), ""));
    let mut running = project.start();
    let sent = Sent::default();
    assert_eq!(send_until_refused(&mut running, &project, &sent), 503);
    let told = status(&project);
    assert!(told["mirror"]["failure"].is_string(), "the status says why: {}", told["mirror"]);
    assert!(acknowledged(&sent) > 0, "there was room at first");

    disk.grow(500);
    let mut connection = Connection::open(project.beacon).expect("it listens");
    running.wait_until("events are taken again", || post(&mut connection, &sent) < 300);
    send(project.beacon, &sent);
    running.kill();
    lose(&project);
    restore(&project, folder.path());
    check(&project, &postgres, &sent, 0);
    drop(disk);
}

#[test]
fn a_mirror_that_follows_loses_no_more_than_its_bound_and_destinations_are_not_ahead() {
    const BOUND: u64 = 64 << 10;
    let (postgres, folder) = (Postgres::start(), second_disk());
    let disk = SmallDisk::mount(folder.path(), 4);
    let more = format!("mirror_mode = \"async\"\nmirror_lag_max = \"1 hour\"\nmirror_lag_bytes_max = {BOUND}\n");
    let project = project(&postgres, &mirrored(folder.path(), &more));
    let mut running = project.start();
    let sent = Sent::default();
    assert_eq!(send_until_refused(&mut running, &project, &sent), 503);
    let told = status(&project)["mirror"].clone();
    assert_eq!((told["mode"].as_str(), told["loss_max"]["bytes"].as_u64()), (Some("async"), Some(BOUND)), "{told}");
    assert!(told["lag_records"].as_u64() > Some(0), "the mirror lacks some: {told}");
    // PostgreSQL has all that was taken in, also what the mirror lacks.
    let expected = acknowledged(&sent).to_string();
    let count = "SELECT count(*)::text AS count FROM clicks_flat";
    let mut rest = 0;
    running.wait_until("PostgreSQL has what epochs could be made of", || {
        let now = postgres.query(count)[0]["count"].parse::<u64>().expect("a number");
        let stands = now == rest && now > 0;
        rest = now;
        stands || now.to_string() == expected
    });
    running.kill();
    lose(&project);
    disk.grow(500);

    restore(&project, folder.path());
    let lost = missing(&project, &postgres, &sent, 0);
    let bytes: u64 = lost.iter().map(|id| record(*id).len() as u64).sum();
    println!("{} of {expected} events are lost, {bytes} bytes of at most {BOUND}", lost.len());
    assert!(bytes <= BOUND, "{bytes} bytes of events are lost");
    // The restored pipeline goes on into the same mirror, and its epochs are other ones than those that were lost.
    sent.acknowledged.lock().expect("nobody panics with it").retain(|id| !lost.contains(id));
    let mut running = project.start();
    send(project.beacon, &sent);
    running.kill();
    check(&project, &postgres, &sent, 0);
    drop(disk);
}

#[test]
fn a_backup_under_load_is_restored_elsewhere_and_destinations_go_back_with_it() {
    let (postgres, folder) = (Postgres::start(), second_disk());
    let project = project(&postgres, "");
    let to = folder.path().join("backup").display().to_string();
    let sent = Arc::new(Sent::default());
    let mut running = project.start();
    let senders: Vec<_> = (0..2)
        .map(|_| {
            let (port, sent) = (project.beacon, sent.clone());
            std::thread::spawn(move || send(port, &sent))
        })
        .collect();
    running.wait_until("something is acknowledged", || acknowledged(&sent) > 0);
    let before = sent.acknowledged.lock().expect("nobody panics with it").clone();
    project.weir_ok(&["backup", &to]);
    assert_eq!(project.weir(&["backup", &to, "--verify"]).code, Some(0));
    let again: Value = serde_json::from_str(&project.weir_ok(&["backup", &to, "--format", "json"])).expect("JSON");
    assert!(again["bytes_copied"].as_u64() < again["bytes"].as_u64(), "what does not change is copied once: {again}");
    for sender in senders {
        sender.join().expect("a sender does not panic");
    }
    running.kill();
    assert_eq!(project.weir(&["restore", &to]).code, Some(2), "a folder that is not empty is refused");
    let dry = project.weir_ok(&["restore", &to, "--dry-run", "--format", "json"]);
    lose(&project);
    let told = restore(&project, Path::new(&to));
    assert_eq!(serde_json::from_str::<Value>(&dry).expect("JSON"), told, "a dry run says what is done");
    // What came after the backup is gone, everywhere; what was acknowledged before it is there.
    let lost = missing(&project, &postgres, &sent, 0);
    assert!(before.is_disjoint(&lost), "acknowledged before the backup, and missing");

    // A backup of a stopped pipeline; then one byte of it rots.
    project.weir_ok(&["backup", &to]);
    let manifest: Value =
        serde_json::from_slice(&std::fs::read(Path::new(&to).join("backup.json")).expect("a manifest")).expect("JSON");
    let file = &manifest["files"].as_array().expect("files")[0];
    let path = Path::new(&to).join(file["stored"].as_str().expect("a name"));
    let mut bytes = std::fs::read(&path).expect("a file");
    bytes[0] ^= 1;
    std::fs::write(&path, bytes).expect("a file");
    let damaged = project.weir(&["backup", &to, "--verify"]);
    assert_eq!(damaged.code, Some(1), "{damaged:#?}");
    assert!(damaged.stderr.contains("damaged"), "{damaged:#?}");
    lose(&project);
    assert_eq!(project.weir(&["restore", &to]).code, Some(3), "a damaged backup is not restored");
}

#[test]
fn a_mirror_of_another_pipeline_is_left_alone() {
    let (postgres, mirror) = (Postgres::start(), second_disk());
    let one = project(&postgres, &mirrored(mirror.path(), ""));
    one.run_once();
    let other = project(&postgres, "");
    other.run_once();
    let settings = std::fs::read_to_string(other.file("weir.toml")).expect("settings");
    let with_mirror = settings.replace("[log]\n", &format!("[log]\n{}", mirrored(mirror.path(), "")));
    other.write("weir.toml", with_mirror);
    let refused = other.weir(&["run", "--once"]);
    assert_eq!(refused.code, Some(3), "{refused:#?}");
    assert!(refused.stderr.contains("another pipeline"), "{refused:#?}");
    one.run_once();
}
