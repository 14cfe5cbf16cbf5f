//! A disk that is full: sources refuse, nothing acknowledged is lost, and work goes on when there is room.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{Connection, Project};

/// A file system in memory with few bytes, mounted over a folder.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts it; gone when dropped.
    #[track_caller]
    pub fn mount(folder: &Path, mebibytes: u32) -> Self {
        std::fs::create_dir_all(folder).expect("a folder");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &format!("size={mebibytes}m"), "tmpfs"]).arg(folder);
        let status = mount.status().expect("mount is on every machine");
        assert!(status.success(), "this test mounts a small file system, so it runs as root");
        Self(folder.to_path_buf())
    }

    /// Gives it more room.
    #[track_caller]
    pub fn grow(&self, mebibytes: u32) {
        let mut mount = Command::new("mount");
        let status = mount.args(["-o", &format!("remount,size={mebibytes}m")]).arg(&self.0).status();
        assert!(status.is_ok_and(|status| status.success()), "remount");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

/// Posts a batch of incompressible events; the status of the answer.
fn post(connection: &mut Connection, first: u64) -> u16 {
    let noise =
        |id: u64| (0..40).map(move |index| format!("{:016x}", (id * 41 + index).wrapping_mul(0x9E37_79B9_7F4A_7C15)));
    let record = |id: u64| format!("{{\"id\":{id},\"noise\":\"{}\"}}", noise(id).collect::<String>());
    let body: Vec<String> = (first..first + BATCH).map(record).collect();
    connection.post("/events/clicks", body.join("\n").as_bytes()).map_or(0, |reply| reply.status)
}

const BATCH: u64 = 100;

#[test]
fn a_full_disk_refuses_loses_nothing_and_goes_on_when_there_is_room() {
    let project = Project::with_settings("[log]\ndisk_reserve = \"4 MiB\"\nsegment_bytes = \"1 MiB\"\n");
    project.write(
        "sources/clicks.toml",
        "kind = \"beacon\"\n[columns]\nid = { type = \"BIGINT\", required = true }\nnoise = \"TEXT\"\n",
    );
    project.write("models/total.sql", "SELECT count(*) AS clicks, sum(id) AS ids FROM clicks\n");
    let disk = SmallDisk::mount(&project.file(".weir"), 40);
    let mut running = project.start();
    let mut acknowledged = BTreeSet::new();
    let mut next = 0;

    let mut connection = Connection::open(project.beacon).expect("it listens");
    running.wait_until("the full disk is refused with 503", || {
        let status = post(&mut connection, next);
        if status == 200 || status == 202 || status == 204 {
            acknowledged.extend(next..next + BATCH);
        } else if status == 0 {
            connection = Connection::open(project.beacon).expect("it still listens");
        }
        next += BATCH;
        status == 503
    });
    assert!(!acknowledged.is_empty(), "there was room at first");

    disk.grow(400);
    running.wait_until("events are taken again", || {
        let status = post(&mut connection, next);
        let taken = (200..300).contains(&status);
        if taken {
            acknowledged.extend(next..next + BATCH);
        } else if status == 0 {
            connection = Connection::open(project.beacon).expect("it still listens");
        }
        next += BATCH;
        taken
    });
    let mut server = Connection::open(project.server).expect("it listens");
    let count = acknowledged.len() as u64;
    running.wait_until("models go on", || {
        let reply = server.post("/query", b"{\"sql\": \"SELECT clicks FROM total\"}");
        reply.is_ok_and(|reply| {
            let numbers = reply.text();
            let numbers = numbers.split(|c: char| !c.is_ascii_digit()).filter_map(|number| number.parse::<u64>().ok());
            numbers.max().is_some_and(|clicks| clicks >= count)
        })
    });
    running.stop();

    project.run_once();
    let rows = project.query("SELECT id FROM clicks");
    let ids: BTreeSet<u64> = rows.iter().map(|row| row["id"].parse().expect("a number")).collect();
    assert_eq!(ids.len(), rows.len(), "nothing is there twice");
    assert!(acknowledged.is_subset(&ids), "acknowledged and missing");
    project.verify();
    drop(disk);
}
