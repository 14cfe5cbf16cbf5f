//! The disk is lost at a random operation, while the mirror fails now and then and loses its power: what is restored is
//! compared with what was acknowledged.
//!
//! The laws: in mode `sync`, every record and epoch that was acknowledged is there; in both modes what is there is a
//! beginning of what was written, in order, and recovery opens it without complaint. A second process that finds disk and
//! mirror as they were left makes the mirror equal again.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_environment::mirror::{
    FolderTarget, Keeping, Mirror, MirrorMode, MirrorSettings, MirrorTarget, Place, Root, copy_back,
};
use weir_environment::{Environment, Operation, Simulator};
use weir_journal::{
    Compression, EpochJournal, EpochJournalOptions, JournalError, Ledger, LedgerOptions, PackedFrame, Record, Topic,
    TopicOptions,
};

/// How many histories are tried.
const SEEDS: u64 = 300;

fn root(name: &'static str, keeping: Keeping) -> Root {
    Root { folder: Path::new("/data").join(name), name, keeping, order: runs_first }
}

/// What names others comes after them.
fn runs_first(name: &str) -> Option<Place> {
    Root::by_name(name).map(|place| Place { rank: u8::from(name == "manifest"), ..place })
}

fn roots() -> Vec<Root> {
    vec![
        root("log", Keeping::Acknowledged),
        root("journal", Keeping::Acknowledged),
        root("ledger", Keeping::Growing),
        root("state", Keeping::Whole),
    ]
}

/// What somebody was told.
#[derive(Default)]
struct Told {
    /// Values in the order of their offsets; those behind `acknowledged` were tried in vain, or not answered.
    records: u64,
    epochs: u64,
    /// The last epoch whose summary was replaced; journal and topic are released up to it.
    summary: u64,
}

struct Disks {
    ours: (Environment, Simulator),
    theirs: (Environment, Simulator),
    mode: MirrorMode,
}

fn value(offset: u64) -> Vec<u8> {
    format!("record {offset} {}", "x".repeat((offset * 37 % 300) as usize)).into_bytes()
}

fn options(random: &mut StdRng) -> (TopicOptions, EpochJournalOptions) {
    let segment_bytes = random.random_range(500..4000);
    let topic = TopicOptions { segment_bytes, disk_reserve_bytes: 0, ..TopicOptions::default() };
    let journal = EpochJournalOptions { segment_bytes, compression: Compression::None, disk_reserve_bytes: 0 };
    (topic, journal)
}

/// One life of a process: it levels, writes, and ends by a kill, or its disk goes down.
fn live(disks: &Disks, told: &mut Told, random: &mut StdRng) -> Result<(), JournalError> {
    let failed = |e: std::io::Error| JournalError::Retry { action: "level", path: "/data".into(), source: Arc::new(e) };
    let target: Arc<dyn MirrorTarget> = Arc::new(FolderTarget::new(disks.theirs.0.storage.clone(), "/mirror"));
    let settings = MirrorSettings {
        mode: disks.mode,
        lag_max: Duration::from_secs(10),
        lag_bytes_max: random.random_range(300..5000),
    };
    let mirror = Mirror::new(&disks.ours.0, target, roots(), settings);
    mirror.level(&|_| {}).map_err(failed)?;
    let environment = mirror.start();
    // A mirror that fails must not hold the test up.
    mirror.hurry();
    let (topic_options, journal_options) = options(random);
    environment.storage.create_dir_all(Path::new("/data/state")).map_err(failed)?;
    let topic = Topic::open(&environment, "/data/log/site", topic_options)?;
    let mut journal = EpochJournal::open(&environment, "/data/journal", journal_options)?;
    let mut ledger = Ledger::open(&environment, "/data/ledger", LedgerOptions::default())?;
    told.records = told.records.max(topic.durable_end());
    told.epochs = told.epochs.max(journal.last().map_or(0, |commit| commit.epoch));
    for _ in 0..random.random_range(0..25) {
        match random.random_range(0..10) {
            0..5 => {
                let count = random.random_range(1..6);
                let end = topic.durable_end();
                let records: Vec<Record> = (end..end + count)
                    .map(|offset| Record { value: value(offset).into(), ..Record::default() })
                    .collect();
                if let Ok(range) = topic.append_blocking(&records) {
                    assert_eq!(range.start, end, "nobody else appends");
                    told.records = range.end;
                }
            }
            5..8 => {
                let epoch = journal.last().map_or(0, |commit| commit.epoch) + 1;
                // An epoch says how many records it has seen: never more than there are.
                let seen = topic.durable_end();
                let mut frame = PackedFrame::begin("seen");
                frame.extend(vec![b'y'; random.random_range(0..900)]);
                let frame = PackedFrame::pack(1, frame, Compression::None);
                let written = journal
                    .begin(epoch, &[])
                    .and_then(|()| journal.frame(&frame))
                    .and_then(|()| journal.commit(&seen.to_le_bytes()));
                match written {
                    Ok(_) => {
                        told.epochs = epoch;
                        // As the pipeline does, what cannot be written now comes later.
                        for epoch in ledger.last_epoch().unwrap_or(0) + 1..=epoch {
                            if ledger.append(epoch, &epoch.to_le_bytes()).is_err() {
                                break;
                            }
                        }
                    }
                    Err(_) => journal.abort()?,
                }
            }
            8 => {
                // What stands for a checkpoint: it replaces everything up to its epoch.
                let Some(last) = journal.last() else { continue };
                let path = Path::new("/data/state").join(format!("run-{}", last.epoch));
                if !environment.storage.exists(&path) {
                    let mut run = environment.storage.open_append(&path).map_err(failed)?;
                    run.append(&vec![b'z'; random.random_range(0..3000)]).map_err(failed)?;
                    run.sync().map_err(failed)?;
                    environment.storage.sync_dir(Path::new("/data/state")).map_err(failed)?;
                }
                let summary = format!("{} {}", last.epoch, u64::from_le_bytes(last.payload[..8].try_into().unwrap()));
                environment
                    .storage
                    .write_atomic(Path::new("/data/state/manifest"), summary.as_bytes())
                    .map_err(failed)?;
                for entry in environment.storage.list(Path::new("/data/state")).map_err(failed)? {
                    if entry.name.starts_with("run-") && entry.name != format!("run-{}", last.epoch) {
                        environment.storage.remove_file(&Path::new("/data/state").join(entry.name)).map_err(failed)?;
                    }
                }
                if mirror.settle() {
                    told.summary = last.epoch;
                    ledger.sync()?;
                    journal.release(last.epoch)?;
                    topic.release(u64::from_le_bytes(last.payload[..8].try_into().unwrap()))?;
                }
            }
            _ => {
                let operation =
                    [Operation::Append, Operation::Sync, Operation::Create, Operation::Rename, Operation::Remove];
                let operation = operation[random.random_range(0..5)];
                disks.theirs.1.fail_next(operation, random.random_range(1..3), std::io::ErrorKind::Other);
            }
        }
    }
    topic.close();
    drop((topic, journal, ledger));
    if random.random_bool(0.5) {
        mirror.close();
    }
    Ok(())
}

/// Restores into an empty world and compares.
fn restore(disks: &Disks, told: &Told, seed: u64) {
    let (environment, _) = Environment::simulated(seed);
    let target = FolderTarget::new(disks.theirs.0.storage.clone(), "/mirror");
    copy_back(&target, &*environment.storage, &roots(), &|_| {}).expect("the mirror can be read");
    let topic = Topic::open(&environment, "/data/log/site", TopicOptions::default()).expect("a topic that recovers");
    let (begin, end) = (topic.begin(), topic.durable_end());
    let mut at = begin;
    while at < end {
        let block = topic.read(at, 1 << 20).expect("readable");
        for (index, (start, len)) in block.values.iter().enumerate() {
            let offset = block.first_offset + index as u64;
            if offset >= at {
                let found = &block.buffer[*start as usize..(start + len) as usize];
                assert_eq!(found, value(offset), "seed {seed}: record {offset}");
            }
        }
        at = block.next_offset();
    }
    let options = EpochJournalOptions::default();
    let journal = EpochJournal::open(&environment, "/data/journal", options).expect("a journal that recovers");
    let last = journal.last().map_or(0, |commit| commit.epoch);
    if disks.mode == MirrorMode::Sync {
        assert!(end >= told.records, "seed {seed}: {} records were acknowledged, {end} are there", told.records);
        assert!(last >= told.epochs, "seed {seed}: epoch {} was acknowledged, {last} is there", told.epochs);
    }
    // The summary, if any, names a run that is there, and what follows it is there, too.
    let mut from = (1, 0);
    if let Ok(summary) = environment.storage.read(Path::new("/data/state/manifest")) {
        let summary = String::from_utf8(summary).unwrap();
        let (epoch, seen) = summary.split_once(' ').unwrap();
        from = (epoch.parse::<u64>().unwrap() + 1, seen.parse().unwrap());
        assert!(environment.storage.exists(&Path::new("/data/state").join(format!("run-{epoch}"))), "seed {seed}");
        assert!(from.0 <= last + 1, "seed {seed}: the summary is of epoch {epoch}, the journal ends with {last}");
    }
    assert!(begin <= from.1, "seed {seed}: records from {} on are wanted, {begin} is the first", from.1);
    for epoch in from.0..=last {
        let committed = journal.read(epoch).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        let seen = u64::from_le_bytes(committed.payload[..8].try_into().unwrap());
        assert!(seen <= end, "seed {seed}: epoch {epoch} has seen record {seen}, {end} are there");
    }
    let ledger = Ledger::open(&environment, "/data/ledger", LedgerOptions::default()).expect("a ledger that recovers");
    ledger.verify().expect("an unbroken chain");
    assert!(ledger.last_epoch().unwrap_or(0) <= last, "seed {seed}: the ledger is ahead of the journal");
}

fn run(seed: u64, mode: MirrorMode) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut disks =
        Disks { ours: Environment::simulated(seed), theirs: Environment::simulated(seed + 1_000_000), mode };
    let mut told = Told::default();
    for _ in 0..4 {
        let (ours, theirs) = (disks.ours.1.clone(), disks.theirs.1.clone());
        if random.random_bool(0.7) {
            ours.go_down_at(ours.operations() + random.random_range(0..120));
        }
        if random.random_bool(0.3) {
            theirs.go_down_at(theirs.operations() + random.random_range(0..150));
        }
        let outcome = live(&disks, &mut told, &mut random);
        assert!(
            outcome
                .as_ref()
                .err()
                .is_none_or(|e| ours.is_down() || theirs.is_down() || e.to_string().contains("the mirror /mirror")),
            "seed {seed}: {outcome:?} though both disks are well"
        );
        // The mirror's machine loses its power at the same moment, at worst.
        disks.theirs.0 = theirs.crash();
        if mode == MirrorMode::Async {
            theirs.clear_faults();
        }
        restore(&disks, &told, seed);
        if random.random_bool(0.5) {
            disks.ours.0 = ours.crash();
        } else {
            disks.ours.0 = ours.kill();
        }
    }
    // In the end the mirror is what the folder is.
    let ours = &disks.ours.0;
    let target: Arc<dyn MirrorTarget> = Arc::new(FolderTarget::new(disks.theirs.0.storage.clone(), "/mirror"));
    let settings = MirrorSettings { mode, lag_max: Duration::from_secs(10), lag_bytes_max: 1 << 20 };
    let mirror = Mirror::new(ours, target.clone(), roots(), settings);
    mirror.level(&|_| {}).expect("both disks are well");
    for (name, len) in target.list("").expect("a list") {
        let content = target.open_read(&name).expect("readable");
        let mut theirs = vec![0; len as usize];
        let filled = content.read_at(0, &mut theirs).expect("readable");
        assert_eq!(filled as u64, len);
        assert_eq!(
            theirs,
            ours.storage.read(&Path::new("/data").join(&name)).expect("readable"),
            "seed {seed}: {name}"
        );
    }
}

#[test]
fn a_lost_disk_takes_nothing_acknowledged_with_it_when_the_mirror_is_kept_in_step() {
    (0..SEEDS).for_each(|seed| run(seed, MirrorMode::Sync));
}

#[test]
fn a_lost_disk_leaves_a_consistent_past_when_the_mirror_follows() {
    (0..SEEDS).for_each(|seed| run(seed, MirrorMode::Async));
}

#[test]
fn a_segment_that_the_disk_has_lost_or_changed_is_not_taken_from_the_mirror() {
    let mirror = |ours: &Environment, theirs: &Environment| {
        let target: Arc<dyn MirrorTarget> = Arc::new(FolderTarget::new(theirs.storage.clone(), "/mirror"));
        let settings = MirrorSettings { mode: MirrorMode::Sync, lag_max: Duration::MAX, lag_bytes_max: 1 << 20 };
        Mirror::new(ours, target, roots(), settings)
    };
    for damage in ["first changed", "middle gone", "last gone", "all gone", "none"] {
        let (ours, simulator) = Environment::simulated(1);
        let (theirs, _) = Environment::simulated(2);
        let following = mirror(&ours, &theirs);
        following.level(&|_| {}).unwrap();
        let environment = following.start();
        let options = TopicOptions { segment_bytes: 700, disk_reserve_bytes: 0, ..TopicOptions::default() };
        let topic = Topic::open(&environment, "/data/log/site", options).unwrap();
        for offset in 0..30 {
            topic.append_blocking(&[Record { value: value(offset).into(), ..Record::default() }]).unwrap();
        }
        topic.close();
        drop((topic, following));
        let folder = Path::new("/data/log/site");
        let mut segments: Vec<_> =
            ours.storage.list(folder).unwrap().into_iter().map(|e| folder.join(e.name)).collect();
        segments.sort();
        assert!(segments.len() > 3);
        match damage {
            "first changed" => assert!(simulator.flip(&segments[0], 100, 1)),
            "middle gone" => ours.storage.remove_file(&segments[1]).unwrap(),
            "last gone" => ours.storage.remove_file(&segments[segments.len() - 1]).unwrap(),
            "all gone" => segments.iter().for_each(|segment| ours.storage.remove_file(segment).unwrap()),
            _ => {}
        }
        let there = |theirs: &Environment| {
            let files = theirs.storage.list(Path::new("/mirror/log/site")).unwrap();
            files.into_iter().map(|entry| (entry.name, entry.len)).collect::<Vec<_>>()
        };
        let before = there(&theirs);
        let levelled = mirror(&ours, &theirs).level(&|_| {});
        assert_eq!(levelled.is_err(), damage != "none", "{damage}: {levelled:?}");
        if let Err(error) = levelled {
            assert!(error.to_string().contains("nothing was changed there"), "{damage}: {error}");
        }
        assert_eq!(there(&theirs), before, "{damage}");
    }
}
