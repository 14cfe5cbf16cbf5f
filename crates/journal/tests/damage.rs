//! Damages files and sees that no reader panics, that nothing wrong is ever read, and that damage is named.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_environment::{Environment, Simulator};
use weir_journal::inspect::{self, Inspection};
use weir_journal::topic::TopicOptions;
use weir_journal::{
    Compression, EpochJournal, EpochJournalOptions, JournalError, Ledger, LedgerOptions, PackedFrame, Record, Topic,
    VerifyError,
};

/// One of the three journals, with a known history of entries as text.
struct Subject {
    folder: &'static str,
    write: fn(&Environment, &Subject, u64),
    /// All entries from the first kept on, or the first error.
    read: fn(&Environment, &Subject) -> Result<Vec<String>, JournalError>,
    inspect: fn(&Environment) -> Result<Inspection, JournalError>,
    compression: Compression,
}

const SEGMENT_BYTES: u64 = 1500;
const ENTRIES: u64 = 40;

fn text(number: u64) -> String {
    format!("entry {number} {}", "lorem ipsum ".repeat(1 + number as usize * 7 % 60))
}

fn topic_options(subject: &Subject) -> TopicOptions {
    TopicOptions {
        segment_bytes: SEGMENT_BYTES,
        compression: subject.compression,
        disk_reserve_bytes: 0,
        ..TopicOptions::default()
    }
}

fn write_topic(environment: &Environment, subject: &Subject, entries: u64) {
    let topic = Topic::open(environment, subject.folder, topic_options(subject)).expect("opens");
    for number in 0..entries {
        let record = Record { value: Bytes::from(text(number)), ..Record::default() };
        topic.append_blocking(&[record]).expect("appended");
    }
}

fn read_topic(environment: &Environment, subject: &Subject) -> Result<Vec<String>, JournalError> {
    let topic = Topic::open(environment, subject.folder, topic_options(subject))?;
    let mut found = Vec::new();
    let mut at = topic.begin();
    while at < topic.durable_end() {
        let block = topic.read(at, 3000)?;
        found.extend((0..block.len()).map(|i| String::from_utf8_lossy(block.value(i)).into_owned()));
        at = block.next_offset();
    }
    Ok(found)
}

fn epoch_options(subject: &Subject) -> EpochJournalOptions {
    EpochJournalOptions { segment_bytes: SEGMENT_BYTES, compression: subject.compression, disk_reserve_bytes: 0 }
}

fn write_epochs(environment: &Environment, subject: &Subject, entries: u64) {
    let mut journal = EpochJournal::open(environment, subject.folder, epoch_options(subject)).expect("opens");
    for number in 0..entries {
        journal.begin(number + 1, b"intent").expect("begun");
        let bytes = [PackedFrame::begin("relation"), text(number).into_bytes()].concat();
        journal.frame(&PackedFrame::pack(1, bytes, subject.compression)).expect("written");
        journal.commit(b"payload").expect("committed");
    }
}

fn read_epochs(environment: &Environment, subject: &Subject) -> Result<Vec<String>, JournalError> {
    let journal = EpochJournal::open(environment, subject.folder, epoch_options(subject))?;
    let last = journal.last().map_or(0, |commit| commit.epoch);
    let first = journal.first_epoch().unwrap_or(1);
    let epoch = |number| {
        let epoch = journal.read(number)?;
        assert_eq!((&epoch.intent[..], &epoch.payload[..]), (&b"intent"[..], &b"payload"[..]));
        Ok(String::from_utf8_lossy(&epoch.frames[0].payload).into_owned())
    };
    (first..=last).map(epoch).collect()
}

fn ledger_options(subject: &Subject) -> LedgerOptions {
    LedgerOptions { segment_bytes: SEGMENT_BYTES, compression: subject.compression }
}

fn write_ledger(environment: &Environment, subject: &Subject, entries: u64) {
    let mut ledger = Ledger::open(environment, subject.folder, ledger_options(subject)).expect("opens");
    for number in 0..entries {
        ledger.append(number + 1, text(number).as_bytes()).expect("appended");
        ledger.sync().expect("synced");
    }
}

fn read_ledger(environment: &Environment, subject: &Subject) -> Result<Vec<String>, JournalError> {
    let ledger = Ledger::open(environment, subject.folder, ledger_options(subject))?;
    match ledger.verify() {
        Ok(()) => {}
        Err(VerifyError::Unread(error)) => return Err(error),
        Err(VerifyError::Misfit(misfit)) => {
            let records = Some(misfit.epoch..misfit.epoch + 1);
            let (path, position, what) = (misfit.path, misfit.position, misfit.what);
            return Err(JournalError::Corrupt { path, position, records, what });
        }
    }
    ledger.entries(0).map(|e| e.map(|e| String::from_utf8_lossy(&e.payload).into_owned())).collect()
}

fn subjects() -> Vec<Subject> {
    let mut subjects = Vec::new();
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let (write, read, inspect) =
            (write_topic, read_topic, |e: &Environment| inspect::topic(e, Path::new("/topic")));
        subjects.push(Subject { folder: "/topic", write, read, inspect, compression });
        let inspect = |e: &Environment| inspect::epochs(e, Path::new("/epochs"), &mut |_| {});
        subjects.push(Subject { folder: "/epochs", write: write_epochs, read: read_epochs, inspect, compression });
        let inspect = |e: &Environment| inspect::ledger(e, Path::new("/ledger"), &mut |_| {});
        subjects.push(Subject { folder: "/ledger", write: write_ledger, read: read_ledger, inspect, compression });
    }
    subjects
}

impl Subject {
    /// A world with a history that ended well, and its files.
    fn world(&self, seed: u64, entries: u64) -> (Environment, Simulator, Vec<(PathBuf, Vec<u8>)>) {
        let (environment, simulator) = Environment::simulated(seed);
        (self.write)(&environment, self, entries);
        let names = environment.storage.list(Path::new(self.folder)).expect("listed");
        let paths = names.into_iter().map(|entry| Path::new(self.folder).join(entry.name));
        let files = paths.map(|path| (path.clone(), environment.storage.read(&path).expect("read"))).collect();
        (environment, simulator, files)
    }

    /// What the inspection says of a world that holds just these files.
    fn inspected(&self, files: &[(PathBuf, Vec<u8>)]) -> Inspection {
        let (environment, simulator) = Environment::simulated(0);
        for (path, bytes) in files {
            simulator.plant(path, bytes);
        }
        (self.inspect)(&environment).expect("it can be read")
    }

    /// A world that holds just these files.
    fn planted(&self, files: &[(PathBuf, Vec<u8>)]) -> Result<Vec<String>, JournalError> {
        let (environment, simulator) = Environment::simulated(0);
        for (path, bytes) in files {
            simulator.plant(path, bytes);
        }
        (self.read)(&environment, self)
    }
}

fn expected(entries: u64) -> Vec<String> {
    (0..entries).map(text).collect()
}

/// Bytes of the entry that closes every file; without content of its own.
const SEAL_BYTES: usize = 56;

#[test]
fn every_flipped_bit_of_synced_bytes_is_found_and_named() {
    for subject in subjects() {
        let (_, _, files) = subject.world(1, ENTRIES);
        assert!(files.len() > 2, "several segments");
        assert_eq!(subject.planted(&files).expect("sound"), expected(ENTRIES));
        let mut random = StdRng::seed_from_u64(7);
        for (index, (path, bytes)) in files.iter().enumerate() {
            let last = index + 1 == files.len();
            for _ in 0..150 {
                let position = random.random_range(0..bytes.len());
                let mut damaged = files.clone();
                damaged[index].1[position] ^= 1 << random.random_range(0..8);
                let inspected = subject.inspected(&damaged);
                match subject.planted(&damaged) {
                    Err(JournalError::Corrupt { path: named, position: at, records, .. }) => {
                        assert_eq!(&named, path, "byte {position}");
                        let first = &inspected.damages[0];
                        assert_eq!((&first.path, inspected.damages.len()), (path, 1), "byte {position}: {inspected:?}");
                        assert!(first.position <= position as u64);
                        let lost = first.records.as_ref().map_or(0, |records| records.end - records.start);
                        // A damaged header hides all of its segment.
                        assert!(lost <= 1 || first.position == 0, "byte {position} takes away {lost}");
                        let all_seen = inspected.count + lost >= ENTRIES;
                        assert!(all_seen || first.position == 0, "what is behind the damage is seen: {inspected:?}");
                        assert!(at <= position as u64, "byte {position} is reported as {at}");
                        assert!(records.is_none_or(|range| range.start < range.end && range.end <= ENTRIES + 1));
                    }
                    Err(other) => panic!("{} byte {position}: {other}", path.display()),
                    Ok(found) => {
                        assert!(last && position >= bytes.len() - SEAL_BYTES, "{} byte {position}", path.display());
                        assert_eq!((&inspected.damages[..], inspected.count), (&[][..], ENTRIES));
                        assert_eq!(found, expected(ENTRIES));
                    }
                }
            }
        }
    }
}

#[test]
fn arbitrary_bytes_are_refused_or_cut_off_but_never_read() {
    for subject in subjects() {
        let (_, _, files) = subject.world(1, ENTRIES);
        let all = expected(ENTRIES);
        for seed in 0..250 {
            let mut random = StdRng::seed_from_u64(seed);
            let mut damaged = files.clone();
            for _ in 0..random.random_range(1..4) {
                let index = random.random_range(0..damaged.len());
                mangle(&mut damaged[index].1, &mut random);
            }
            if let Ok(found) = subject.planted(&damaged) {
                assert!(all.starts_with(&found), "seed {seed} reads what was never written");
            }
        }
        for seed in 0..250 {
            let mut random = StdRng::seed_from_u64(seed);
            let length = random.random_range(0..5000);
            let noise: Vec<u8> = (0..length).map(|_| random.random()).collect();
            let found = subject.planted(&[(files[0].0.clone(), noise)]);
            assert!(found.is_err() || found.is_ok_and(|found| found.is_empty()), "noise has no entries");
        }
    }
}

/// Overwrites, cuts, doubles, moves or adds some bytes.
fn mangle(bytes: &mut Vec<u8>, random: &mut StdRng) {
    let at = random.random_range(0..=bytes.len());
    let until = random.random_range(at..=bytes.len());
    match random.random_range(0..6) {
        0 => bytes[at..until].iter_mut().for_each(|byte| *byte = random.random()),
        1 => bytes[at..until].fill(0),
        2 => bytes.truncate(at),
        3 => drop(bytes.drain(at..until)),
        4 => {
            let copy = bytes[at..until].to_vec();
            let target = random.random_range(0..=bytes.len());
            bytes.splice(target..target, copy);
        }
        _ => bytes.extend((0..random.random_range(1..500)).map(|_| random.random::<u8>())),
    }
}

#[test]
fn a_missing_segment_is_named_by_what_it_held() {
    for subject in subjects() {
        let (_, _, mut files) = subject.world(1, ENTRIES);
        files.remove(1);
        let inspected = subject.inspected(&files);
        assert_eq!((inspected.damages.len(), &inspected.damages[0].path), (1, &files[0].0));
        match subject.planted(&files) {
            Err(JournalError::Corrupt { path, records: Some(records), .. }) => {
                assert_eq!(path, files[0].0);
                assert!(records.start > 0 && records.start < records.end);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn a_segment_of_another_log_is_told_from_our_own() {
    let mut tried = 0;
    for subject in subjects() {
        let (_, _, ours) = subject.world(1, ENTRIES);
        let (_, _, theirs) = subject.world(2, ENTRIES);
        // Numbers have to fit: where a note was written while nothing waited, a segment may end earlier.
        let name = |files: &[(PathBuf, Vec<u8>)], index: usize| files.get(index).map(|(path, _)| path.clone());
        let fits = |index: &usize| [*index, index + 1].iter().all(|at| name(&ours, *at) == name(&theirs, *at));
        let fitting: Vec<usize> = (0..ours.len()).filter(fits).collect();
        tried += fitting.len();
        for index in fitting {
            let mut mixed = ours.clone();
            mixed[index] = theirs[index].clone();
            match subject.planted(&mixed) {
                Err(JournalError::Corrupt { path, .. }) => assert_eq!(path, ours[index.max(1)].0),
                other => panic!("segment {index}: {other:?}"),
            }
            let named: Vec<PathBuf> = subject.inspected(&mixed).damages.into_iter().map(|damage| damage.path).collect();
            assert_eq!(named, [ours[index].0.clone()]);
        }
        assert_ne!(subject.inspected(&ours).identity, subject.inspected(&theirs).identity);
    }
    assert!(tried > 0);
}

#[test]
fn a_record_that_looks_like_an_entry_of_the_file_is_a_record() {
    let (environment, simulator) = Environment::simulated(1);
    let options = TopicOptions { compression: Compression::None, disk_reserve_bytes: 0, ..TopicOptions::default() };
    let topic = Topic::open(&environment, "/topic", options.clone()).expect("opens");
    let value = |bytes: Vec<u8>| [Record { value: Bytes::from(bytes), ..Record::default() }];
    topic.append_blocking(&value(vec![1; 100])).expect("appended");
    drop(topic);
    // A sender who knows the format sends a whole segment that he made, and the machine crashes while it is written.
    let path = Path::new("/topic/00000000000000000000.topic");
    let made = environment.storage.read(path).expect("read");
    for seed in 0..50 {
        let (environment, world) = Environment::simulated(seed);
        let topic = Topic::open(&environment, "/topic", options.clone()).expect("opens");
        topic.append_blocking(&value(vec![1; 100])).expect("appended");
        world.go_down_at(world.operations() + 1);
        let acknowledged = topic.append_blocking(&value(made.repeat(20))).is_ok();
        drop(topic);
        let topic = Topic::open(&world.crash(), "/topic", options.clone()).expect("a crash is no damage");
        assert!(topic.durable_end() <= 2 && topic.durable_end() > u64::from(acknowledged));
        assert_eq!(topic.verify().expect("sound"), topic.durable_end());
    }
    drop(simulator);
}

#[test]
fn a_ledger_rewritten_with_fitting_checksums_does_not_verify() {
    let (environment, _) = Environment::simulated(1);
    let options = LedgerOptions { compression: Compression::None, ..LedgerOptions::default() };
    let mut honest = Ledger::open(&environment, "/honest", options.clone()).expect("opens");
    let mut forged = Ledger::open(&environment, "/forged", options.clone()).expect("opens");
    for epoch in 1..=5_u64 {
        honest.append(epoch, format!("paid {epoch}").as_bytes()).expect("appended");
        forged.append(epoch, format!("paid {}", if epoch == 3 { 9 } else { epoch }).as_bytes()).expect("appended");
    }
    honest.verify().expect("sound");
    forged.verify().expect("sound in itself");
    assert_ne!(honest.head(), forged.head(), "whoever noted the head sees it");
    assert_eq!(honest.entries(3).next().expect("there").expect("read").payload, "paid 3");
    assert_eq!(honest.entries(6).count(), 0);
}
