//! Damage told and repaired through the front door: `weir doctor`, and what queries and starts say of a damaged folder.
//! (Every kind at random places of every store is tried beside the code, in `src/doctor/tests.rs`.)

use std::path::{Path, PathBuf};

use super::support::Project;

fn project() -> Project {
    let project = Project::new();
    project.write(
        "sources/orders.toml",
        "kind = \"files\"\npath = \"in/*.json\"\nsettle = \"0 seconds\"\n\
         [columns]\nid = { type = \"BIGINT\", required = true }\nvisitor = \"TEXT\"\namount = \"BIGINT\"\n",
    );
    project.write(
        "models/total.sql",
        "SELECT visitor, count(*) AS orders, sum(amount) AS amount FROM orders GROUP BY visitor\n",
    );
    for file in 0..3 {
        let rows = (file * 100..file * 100 + 100)
            .map(|id| format!("{{\"id\":{id},\"visitor\":\"v{}\",\"amount\":{}}}\n", id % 9, id * 31 % 97));
        project.write(&format!("in/{file}.json"), rows.collect::<String>());
        project.run_once();
    }
    project
}

fn files(folder: &Path, extension: &str) -> Vec<PathBuf> {
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == extension))
        .collect();
    files.sort();
    files
}

fn flip(file: &Path, share: f64) {
    let mut bytes = std::fs::read(file).expect("a file");
    let at = (bytes.len() as f64 * share) as usize;
    bytes[at] ^= 0x10;
    std::fs::write(file, bytes).expect("written");
}

#[test]
fn a_whole_folder_is_said_to_be_whole() {
    let project = project();
    let told = project.weir_ok(&["doctor"]);
    assert!(told.contains("all of it is whole"), "{told}");
    let told = project.weir_ok(&["doctor", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(report["whole"], true);
    let stores: Vec<&str> =
        report["stores"].as_array().expect("stores").iter().filter_map(|s| s["store"].as_str()).collect();
    for store in ["journal", "ledger", "checkpoint", "lake orders", "lake total", "lake landings"] {
        assert!(stores.contains(&store), "{store} is not among {stores:?}");
    }
    let fresh = Project::new();
    fresh.weir(&["doctor"]);
    assert!(!fresh.file(".weir").exists(), "looking makes nothing");
}

#[test]
fn flipped_bytes_of_the_lake_are_an_error_to_a_query_and_repaired() {
    let project = project();
    let total = project.query("SELECT * FROM total");
    let file = files(&project.file(".weir/lake/main/orders"), "parquet").remove(0);
    flip(&file, 0.1);
    let name = file.file_name().expect("a name").to_string_lossy().into_owned();

    let asked = project.weir(&["query", "SELECT sum(id) FROM orders"]);
    assert_eq!(asked.code, Some(3), "{asked:#?}");
    assert!(asked.stderr.contains(&name) && asked.stderr.contains("damaged"), "{asked:#?}");
    let told = project.weir(&["doctor"]);
    assert_eq!(told.code, Some(1), "{told:#?}");
    assert!(told.stdout.contains(&name) && told.stdout.contains("--repair"), "{told:#?}");
    assert_eq!(project.weir(&["doctor"]).stdout, told.stdout, "looking changes nothing");

    project.weir_ok(&["doctor", "--repair"]);
    assert_eq!(project.query("SELECT * FROM total"), total);
    assert_eq!(project.value("SELECT count(*) FROM orders"), "300");
    project.verify();
    let kept = project.file(".weir/damaged");
    assert!(kept.is_dir(), "what was replaced is kept");
}

#[test]
fn a_damaged_checkpoint_and_a_damaged_ledger_are_made_anew() {
    for store in ["state", "ledger"] {
        let project = project();
        let head = project.weir_ok(&["ledger", "head"]);
        let total = project.query("SELECT * FROM total");
        let folder = project.file(&format!(".weir/{store}"));
        let mut entries = std::fs::read_dir(&folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        let file = entries.find(|path| !path.ends_with("manifest.json")).expect("a file");
        flip(&file, 0.5);
        assert_eq!(project.weir(&["doctor"]).code, Some(1), "{store}");
        project.weir_ok(&["doctor", "--repair"]);
        assert_eq!(project.query("SELECT * FROM total"), total, "{store}");
        let head: Vec<&str> = head.split_whitespace().collect();
        project.weir_ok(&["ledger", "check", head[0], head[1]]);
        project.verify();
    }
}

#[test]
fn a_journal_of_another_day_is_named_and_nothing_starts() {
    let project = project();
    let journal = project.file(".weir/journal/00000000000000000001.epochs");
    let before = std::fs::read(&journal).expect("a file");
    project.write("in/3.json", "{\"id\":1000,\"visitor\":\"v\",\"amount\":1}\n");
    project.run_once();
    std::fs::write(&journal, before).expect("written");
    let told = project.weir(&["doctor"]);
    assert_eq!(told.code, Some(1), "{told:#?}");
    assert!(told.stdout.contains("journal") && told.stdout.contains("backup"), "{told:#?}");
    assert_eq!(project.weir(&["doctor", "--repair"]).code, Some(1), "nothing is guessed");
    let started = project.weir(&["run", "--once"]);
    assert_eq!(started.code, Some(3), "{started:#?}");
    assert!(started.stderr.contains("not of one time"), "{started:#?}");
}

#[test]
fn a_folder_that_runs_is_not_examined() {
    let project = project();
    let running = project.start();
    let told = project.weir(&["doctor"]);
    assert_eq!(told.code, Some(3), "{told:#?}");
    assert!(told.stderr.contains("in use"), "{told:#?}");
    running.stop();
    project.weir_ok(&["doctor"]);
}
