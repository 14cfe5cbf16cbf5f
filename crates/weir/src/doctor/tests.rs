//! Damage of every kind at random places of every store of a real folder: each is found and named, or the folder provably
//! holds what it held; nothing panics, and no other rows are ever passed on.
//!
//! `WEIR_DAMAGE_PLACES` places for each kind and store (2 by default; `WEIR_DAMAGE_SEED` moves them).

use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use datafusion::prelude::SessionContext;
use futures::FutureExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use weir_environment::Environment;
use weir_incremental::Relation;
use weir_journal::{Record, Topic, inspect, repair};
use weir_pipeline::frames::CheckpointRecord;
use weir_project::Project;

use super::{Cure, Finding, Repair, Report, carry_out, data_folder, examine};
use crate::commands::run::{RunOptions, run};
use crate::host::{Host, OnChange, OpenOptions, lock};
use crate::progress::Progress;
use crate::wiring::topic_options;

const FILES: [(&str, &str); 7] = [
    ("weir.toml", "[log]\nsegment_bytes = \"4 KiB\"\n"),
    (
        "sources/clicks.toml",
        "kind = \"beacon\"\n[columns]\nid = { type = \"BIGINT\", required = true }\nvisitor = \"TEXT\"\namount = \"BIGINT\"\n",
    ),
    (
        "sources/orders.toml",
        "kind = \"files\"\npath = \"in/*.json\"\nsettle = \"0 seconds\"\nkey = [\"id\"]\nversion = \"version\"\n[columns]\n\
         id = { type = \"BIGINT\", required = true }\nversion = \"BIGINT\"\nvisitor = \"TEXT\"\n",
    ),
    (
        "models/visits.sql",
        "-- weir: key = [\"visitor\"]\nSELECT visitor, count(*) AS clicks, sum(amount) AS amount FROM clicks GROUP BY visitor\n",
    ),
    ("models/large.sql", "SELECT id, visitor, amount FROM clicks WHERE amount > 30\n"),
    (
        "models/bought.sql",
        "SELECT o.id AS id, o.visitor AS visitor, v.clicks AS clicks FROM orders o LEFT JOIN visits v ON o.visitor = v.visitor\n",
    ),
    ("sinks/published.toml", "kind = \"lake\"\nfrom = \"visits\"\n"),
];

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime")
}

fn read(folder: &Path) -> Project {
    let reading = Project::read(folder, None);
    reading.project.unwrap_or_else(|| panic!("{:?}", reading.mistakes))
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &target) } else { drop(std::fs::copy(entry.path(), target)) }
    }
}

fn copied(from: &Path) -> TempDir {
    let folder = tempfile::Builder::new().prefix("weir-damage-").tempdir().expect("a folder");
    copy(from, folder.path());
    folder
}

/// Takes in what is there, and ends.
async fn start(folder: &Path) -> anyhow::Result<()> {
    let (stop, _) = watch::channel(false);
    let options = RunOptions { once: true, quiet: true, epoch_rows: Some(25), ..RunOptions::default() };
    let summary = run(read(folder), options, stop).await?;
    anyhow::ensure!(summary.behind.is_empty(), "a sink is behind: {}", summary.behind[0].reason);
    Ok(())
}

/// Every row of every relation, and the ledger's hashes, as text.
async fn contents(folder: &Path) -> anyhow::Result<BTreeMap<String, Vec<String>>> {
    let options = OpenOptions { on_change: OnChange::Keep, ..OpenOptions::default() };
    let host = Host::open(read(folder), &options, &Progress::new()).await?;
    let snapshot = host.core.contents().pin();
    let mut all = BTreeMap::new();
    let names: Vec<Relation> = snapshot.relations().map(|info| info.name.clone()).collect();
    for name in names {
        let batches = SessionContext::new().read_table(snapshot.table(&name).await?)?.collect().await?;
        let mut rows: Vec<String> =
            batches.iter().flat_map(weir_schemas::to_json_rows).map(|row| row.to_string()).collect();
        rows.sort();
        all.insert(name.to_string(), rows);
    }
    let entries = host.core.ledger().lock().entries(0);
    let hashes = entries.map(|entry| Ok(format!("{}", entry?.hash))).collect::<anyhow::Result<Vec<_>>>()?;
    all.insert("(ledger)".into(), hashes);
    Ok(all)
}

async fn examined(folder: &Path) -> Report {
    let report = examine(&Environment::real(), &read(folder), true).await;
    report.unwrap_or_else(|error| panic!("{} cannot be examined: {error:#}", folder.display()))
}

async fn repaired(folder: &Path, repairs: &[Repair]) -> anyhow::Result<()> {
    let (environment, project) = (Environment::real(), read(folder));
    let held = lock(&environment, &data_folder(&project))?;
    carry_out(&environment, &project, held, repairs, &|_| {}).await
}

fn post(folder: &Path, ids: std::ops::Range<u64>) {
    let project = read(folder);
    let topic = Topic::open(&Environment::real(), project.settings.log.path.join("clicks"), topic_options(&project));
    let topic = topic.expect("a topic");
    for id in ids {
        let value = format!("{{\"id\":{id},\"visitor\":\"v{}\",\"amount\":{}}}", id % 7, id * 7919 % 61);
        let record = Record { arrival: 1_700_000_000_000_000 + id as i64, value: value.into(), ..Record::default() };
        topic.append_blocking(&[record]).expect("appended");
    }
}

fn order(folder: &Path, file: u64) {
    let rows = (0..30).map(|row| {
        format!("{{\"id\":{},\"version\":{file},\"visitor\":\"v{}\"}}\n", row + file * 10, (row + file) % 9)
    });
    std::fs::create_dir_all(folder.join("in")).expect("a folder");
    std::fs::write(folder.join(format!("in/{file}.json")), rows.collect::<String>()).expect("a file");
}

/// A folder at several moments.
struct World {
    /// Stopped after half of the input.
    half: TempDir,
    /// Stopped after all of it.
    full: TempDir,
    /// Killed: journal, ledger and log have all of it; checkpoint and lake half.
    killed: TempDir,
    /// As `full`, and the journal holds the last epoch only, as one does that has released all others.
    lean: TempDir,
    /// What `full` holds.
    expected: BTreeMap<String, Vec<String>>,
}

/// Stores under `.weir`, relative to it.
const STORES: [(&str, &str); 5] =
    [("journal", "journal"), ("ledger", "ledger"), ("log", "log"), ("checkpoint", "state"), ("lake", "lake")];

fn replace(folder: &Path, part: &str, from: &Path) {
    let place = folder.join(".weir").join(part);
    std::fs::remove_dir_all(&place).expect("it was there");
    copy(&from.join(".weir").join(part), &place);
}

async fn world() -> World {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in FILES {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("a file in a folder")).expect("a folder");
        std::fs::write(path, text).expect("a file");
    }
    let mut half = None;
    for round in 0..4 {
        post(folder.path(), round * 120..(round + 1) * 120);
        order(folder.path(), round);
        start(folder.path()).await.expect("it runs");
        if round == 1 {
            half = Some(copied(folder.path()));
        }
    }
    let half = half.expect("it was made above");
    let expected = contents(folder.path()).await.expect("it can be read");
    assert!(expected["clicks"].len() == 480 && expected["bought"].len() == 60, "{:?}", expected["bought"]);
    let killed = copied(folder.path());
    for part in ["state", "lake"] {
        replace(killed.path(), part, half.path());
    }
    let lean = copied(folder.path());
    let report = examined(lean.path()).await;
    assert!(report.whole, "{report:#?}");
    let project = read(lean.path());
    let found = weir_incremental::checkpoint::inspect::inspect(&Environment::real(), &project.settings.state.path);
    let found = found.expect("it is whole");
    let record: CheckpointRecord = serde_json::from_slice(&found.payload).expect("a record");
    let journal = lean.path().join(".weir/journal");
    std::fs::remove_dir_all(&journal).expect("it was there");
    let payload = serde_json::to_vec(&record.commit).expect("JSON").into();
    let commit = weir_journal::Commit { epoch: found.epoch.expect("a checkpoint"), payload };
    repair::begin_epochs(&Environment::real(), &journal, &commit).expect("begun");
    World { half, full: folder, killed, lean, expected }
}

fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut open = vec![folder.to_path_buf()];
    while let Some(at) = open.pop() {
        for entry in std::fs::read_dir(&at).expect("a folder").flatten() {
            if entry.path().is_dir() { open.push(entry.path()) } else { files.push(entry.path()) }
        }
    }
    files.sort();
    files
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    Flip,
    Truncate,
    ZeroSector,
    Missing,
    Swapped,
    /// The file as it was at an earlier time: a write that the disk lost.
    Stale,
}

const KINDS: [Kind; 6] = [Kind::Flip, Kind::Truncate, Kind::ZeroSector, Kind::Missing, Kind::Swapped, Kind::Stale];
const SECTOR_BYTES: usize = 512;

/// Damages a file of a store in a folder; the files that were touched, and where. None when there is nothing to damage.
fn damage(kind: Kind, folder: &Path, store: &str, older: &Path, random: &mut StdRng) -> Option<(Vec<PathBuf>, usize)> {
    let data = folder.join(".weir").join(store);
    let files = files_under(&data);
    let index = random.random_range(0..files.len());
    let file = files[index].clone();
    let mut bytes = std::fs::read(&file).expect("a file");
    if bytes.is_empty() {
        return None;
    }
    let at = random.random_range(0..bytes.len());
    match kind {
        Kind::Flip => bytes[at] ^= 1 << random.random_range(0..8),
        Kind::Truncate => bytes.truncate(at),
        Kind::ZeroSector => {
            let from = at / SECTOR_BYTES * SECTOR_BYTES;
            let to = (from + SECTOR_BYTES).min(bytes.len());
            bytes[from..to].fill(0);
        }
        Kind::Missing => {
            std::fs::remove_file(&file).expect("removed");
            return Some((vec![file], 0));
        }
        Kind::Swapped => {
            let same = |other: &&PathBuf| **other != file && other.extension() == file.extension();
            let others: Vec<&PathBuf> = files.iter().filter(same).collect();
            let other = (*others.get(random.random_range(0..others.len().max(1)))?).clone();
            let taken = std::fs::read(&other).expect("a file");
            std::fs::write(&other, bytes).expect("written");
            std::fs::write(&file, taken).expect("written");
            return Some((vec![file, other], 0));
        }
        Kind::Stale => {
            let before = std::fs::read(older.join(".weir").join(store).join(file.strip_prefix(&data).ok()?)).ok()?;
            if before == bytes {
                return None;
            }
            bytes = before;
        }
    }
    std::fs::write(&file, bytes).expect("written");
    Some((vec![file], at))
}

/// Whether a finding is about one of the files: it names it, the folder of the store it is in, or what an old manifest names
/// that is there no more.
fn names(finding: &Finding, files: &[PathBuf], data: &Path) -> bool {
    let by_manifest = |file: &Path| {
        file.ends_with("manifest.json")
            && finding.what.contains("manifest.json")
            && finding.file.parent() == file.parent()
    };
    finding.file != data && files.iter().any(|file| file.starts_with(&finding.file) || by_manifest(file))
}

#[derive(Debug, Default)]
struct Tally {
    tried: usize,
    named: usize,
    unchanged: usize,
    repairable: usize,
    repaired: usize,
}

/// One damage: examined, started, compared, and repaired where that is promised.
async fn try_one(world: &World, from: &Path, store: &str, kind: Kind, seed: u64, tally: &mut Tally) {
    let copy = copied(from);
    let folder = copy.path();
    let mut random = StdRng::seed_from_u64(seed);
    let Some((files, at)) = damage(kind, folder, store, world.half.path(), &mut random) else { return };
    let shown: Vec<String> =
        files.iter().map(|file| file.strip_prefix(folder).unwrap_or(file).display().to_string()).collect();
    let case = format!("seed {seed}, {kind:?} of {shown:?} at byte {at}");
    tally.tried += 1;
    let report = examined(folder).await;
    let named = report.damages.iter().any(|finding| names(finding, &files, &data_folder(&read(folder))));
    assert!(named || report.damages.is_empty(), "{case}: another file is named: {:#?}", report.damages);
    tally.named += usize::from(named);
    tally.unchanged += usize::from(!named);

    let repairs = report.repairs();
    let all_repairable = named && report.damages.iter().all(|finding| matches!(finding.cure, Cure::Repair(_)));
    if all_repairable {
        tally.repairable += 1;
        let mended = copied(folder);
        repaired(mended.path(), &repairs).await.unwrap_or_else(|error| panic!("{case}: {repairs:?}: {error:#}"));
        let after = examined(mended.path()).await;
        assert!(after.whole, "{case}: {repairs:?} left {after:#?}");
        start(mended.path()).await.unwrap_or_else(|error| panic!("{case}: {repairs:?}: {error:#}"));
        let held = contents(mended.path()).await.unwrap_or_else(|error| panic!("{case}: {error:#}"));
        same_rows(&held, &world.expected, &format!("{case} after {repairs:?}"));
        tally.repaired += 1;
    }

    // Whatever the doctor says: a start passes on what was there, or nothing.
    let started = match start(folder).await {
        Ok(()) => contents(folder).await,
        Err(error) => Err(error),
    };
    match started {
        Ok(held) => same_rows(&held, &world.expected, &case),
        Err(error) => assert!(named, "{case}: nothing is named, and it does not start: {error:#}"),
    }
}

/// Rows are the same, and the ledger goes on from the same entries (a rebuild adds to it).
fn same_rows(held: &BTreeMap<String, Vec<String>>, expected: &BTreeMap<String, Vec<String>>, case: &str) {
    for (name, rows) in expected {
        let found = &held[name];
        let same = if name == "(ledger)" { found.starts_with(rows) } else { found == rows };
        assert!(same, "{case}: other contents of {name}: {} rows, not {}", found.len(), rows.len());
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

#[test]
fn every_kind_of_damage_at_random_places_of_every_store_is_named_or_changes_nothing() {
    runtime().block_on(async {
        let world = world().await;
        let places = setting("WEIR_DAMAGE_PLACES", 2);
        let first = setting("WEIR_DAMAGE_SEED", 1) * 1_000_000;
        let moments = [("stopped", &world.full), ("killed", &world.killed), ("lean", &world.lean)];
        let (mut report, mut failures) = (String::new(), Vec::new());
        for (store_index, (store, folder)) in STORES.into_iter().enumerate() {
            for (kind_index, kind) in KINDS.into_iter().enumerate() {
                let mut tally = Tally::default();
                for place in 0..places {
                    let (_, from) = &moments[place as usize % moments.len()];
                    let seed = first + (store_index * 10 + kind_index) as u64 * 10_000 + place;
                    let tried = AssertUnwindSafe(try_one(&world, from.path(), folder, kind, seed, &mut tally));
                    if let Err(panic) = tried.catch_unwind().await {
                        let told = panic.downcast::<String>().map_or_else(|_| format!("seed {seed}"), |told| *told);
                        failures.push(told);
                    }
                }
                report.push_str(&format!("{store:10} {kind:?}: {tally:?}\n"));
            }
        }
        eprintln!("{report}");
        assert!(failures.is_empty(), "{} failures:\n{}", failures.len(), failures.join("\n"));
    });
}

#[test]
fn a_part_of_another_day_is_named_and_nothing_starts_from_it() {
    runtime().block_on(async {
        let world = world().await;
        for (store, part) in STORES {
            for moment in [&world.full, &world.lean] {
                let copy = copied(moment.path());
                replace(copy.path(), part, world.half.path());
                let report = examined(copy.path()).await;
                let started = start(copy.path()).await;
                if report.whole {
                    // What is older and can be continued from the others is continued.
                    started.unwrap_or_else(|error| panic!("{store}: nothing is named: {error:#}"));
                    let held = contents(copy.path()).await.expect("it starts");
                    same_rows(&held, &world.expected, store);
                } else {
                    assert!(started.is_err(), "{store} is of another day: {:#?}", report.damages);
                }
            }
        }
        // All of it, but what a sink has outside.
        let copy = copied(world.half.path());
        let published = copy.path().join(".weir/lake/published");
        std::fs::remove_dir_all(&published).expect("it was there");
        self::copy(&world.full.path().join(".weir/lake/published"), &published);
        let report = examined(copy.path()).await;
        assert!(report.damages.iter().any(|finding| finding.store == "sink published"), "{report:#?}");
        let refused = start(copy.path()).await.expect_err("the sink is ahead").to_string();
        assert!(refused.contains("--reload-ahead"), "{refused}");
    });
}

#[test]
fn a_topic_that_took_the_place_of_another_is_not_read() {
    runtime().block_on(async {
        let world = world().await;
        let copy = copied(world.full.path());
        // The same records and offsets, written by somebody else.
        let folder = copy.path().join(".weir/log/clicks");
        let before = inspect::topic(&Environment::real(), &folder).expect("read");
        std::fs::remove_dir_all(&folder).expect("it was there");
        post(copy.path(), 0..before.end);
        let report = examined(copy.path()).await;
        assert!(report.damages.iter().any(|finding| finding.store == "topic clicks"), "{report:#?}");
        let refused = start(copy.path()).await.expect_err("another log").to_string();
        assert!(refused.contains("another one"), "{refused}");
    });
}
