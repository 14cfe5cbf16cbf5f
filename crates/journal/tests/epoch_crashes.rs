//! Crashes the epoch journal and the ledger at random operations and compares what is left with a model.
//!
//! The laws: a committed epoch is there, as it was written; an epoch whose commit failed is there wholly or not at
//! all; nothing else is there. The ledger holds what was synced and perhaps more, in order, and its chain is sound.

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_environment::{Environment, Operation, Simulator};
use weir_journal::{
    Committed, Compression, EpochJournal, EpochJournalOptions, Frame, Hash, JournalError, Ledger, LedgerOptions,
    PackedFrame,
};

/// How many histories are tried; `WEIR_CRASH_SEEDS` asks for more.
const SEEDS: u64 = 700;

fn bytes(random: &mut StdRng) -> Bytes {
    let length = match random.random_range(0..1000) {
        // Too long to be gathered.
        0 => random.random_range(1_000_000..1_200_000),
        1..100 => random.random_range(1000..4000),
        _ => random.random_range(0..200),
    };
    let noise = random.random::<bool>();
    Bytes::from_iter((0..length).map(|_| if noise { random.random() } else { b'a' }))
}

fn epoch(number: u64, random: &mut StdRng) -> Committed {
    let frame = |nth: u64| Frame { kind: random.random(), name: format!("relation {nth}"), payload: bytes(random) };
    let frames = (0..number % 5).map(frame).collect();
    Committed { epoch: number, intent: bytes(random), frames, payload: bytes(random) }
}

fn packed(frame: &Frame, compression: Compression) -> PackedFrame {
    let mut bytes = PackedFrame::begin(&frame.name);
    bytes.extend_from_slice(&frame.payload);
    PackedFrame::pack(frame.kind, bytes, compression)
}

/// Writes an epoch; true when its commit was tried.
fn write(journal: &mut EpochJournal, epoch: &Committed) -> (bool, Result<(), JournalError>) {
    let before = journal
        .begin(epoch.epoch, &epoch.intent)
        .and_then(|()| epoch.frames.iter().try_for_each(|frame| journal.frame(&packed(frame, journal.compression()))));
    match before {
        Ok(()) => (true, journal.commit(&epoch.payload).map(|_| ())),
        Err(error) => (false, Err(error)),
    }
}

#[derive(Default)]
struct Model {
    committed: Vec<Committed>,
    /// Tries at the next epoch that failed while they were committed.
    failed: Vec<Committed>,
    released: u64,
}

impl Model {
    fn check(&mut self, journal: &EpochJournal, recovered: bool) {
        let last = journal.last();
        let number = last.as_ref().map_or(0, |commit| commit.epoch);
        let known = self.committed.len() as u64;
        if number == known + 1 && recovered {
            let found = journal.read(number).expect("readable");
            assert!(self.failed.contains(&found), "epoch {number} is not one that was written");
            self.committed.push(found);
        } else {
            assert_eq!(number, known, "the last epoch");
        }
        if recovered {
            self.failed.clear();
        }
        assert_eq!(last.map(|commit| commit.payload), self.committed.last().map(|epoch| epoch.payload.clone()));
        let first = journal.first_epoch().unwrap_or(1);
        assert!(first <= self.released.max(1), "epoch {first} is the first, but only {} was released", self.released);
        let reader = journal.reader();
        for epoch in first..=number {
            assert_eq!(reader.read(epoch).expect("readable"), self.committed[epoch as usize - 1], "epoch {epoch}");
        }
        assert!(matches!(reader.read(number + 1), Err(JournalError::OutOfRange { .. })));
    }
}

fn open(mut environment: Environment, simulator: &Simulator, options: &EpochJournalOptions) -> EpochJournal {
    loop {
        match EpochJournal::open(&environment, "/epochs", options.clone()) {
            // What opening does last, a note for recovery, may be what the machine went down at.
            Ok(journal) if !simulator.is_down() => return journal,
            outcome => {
                assert!(simulator.is_down(), "a crash made the journal refuse to open: {outcome:?}");
                environment = simulator.crash();
            }
        }
    }
}

fn run_epochs(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut environment, simulator) = Environment::simulated(seed);
    let mut model = Model::default();
    let options = EpochJournalOptions {
        segment_bytes: random.random_range(300..8000),
        compression: [Compression::None, Compression::Lz4, Compression::Zstd][random.random_range(0..3)],
        disk_reserve_bytes: 0,
    };
    for _ in 0..4 {
        if random.random_bool(0.5) {
            simulator.go_down_at(simulator.operations() + random.random_range(0..40));
        }
        let mut journal = open(environment, &simulator, &options);
        model.check(&journal, true);
        simulator.go_down_at(simulator.operations() + random.random_range(0..80));
        for _ in 0..random.random_range(0..20) {
            let next = model.committed.len() as u64 + 1;
            match random.random_range(0..12) {
                0 => {
                    let before = random.random_range(0..=next);
                    model.released = model.released.max(before);
                    // It may fail; what is left is checked all the same.
                    let _ = journal.release(before);
                }
                1 => {
                    let operation = [Operation::Append, Operation::Sync, Operation::Create, Operation::Truncate];
                    let operation = operation[random.random_range(0..4)];
                    simulator.fail_next(operation, random.random_range(1..4), std::io::ErrorKind::Other);
                }
                2 => simulator.set_capacity(Some(simulator.used_bytes() + random.random_range(0..4000))),
                3 => simulator.set_capacity(None),
                4 if !simulator.is_down() => model.check(&journal, false),
                5 => {
                    if journal.begin(next, b"given up").is_ok() {
                        // It may fail; the next epoch begins all the same.
                        let frame = PackedFrame::pack(1, PackedFrame::begin("given up"), Compression::None);
                        let _ = journal.frame(&frame).and_then(|()| journal.abort());
                        let _ = journal.abort();
                    }
                }
                _ => {
                    let epoch = epoch(next, &mut random);
                    match write(&mut journal, &epoch) {
                        (_, Ok(())) => {
                            model.committed.push(epoch);
                            // An earlier try at the same number can not come back over a committed one.
                            model.failed.clear();
                        }
                        (true, Err(_)) => model.failed.push(epoch),
                        (false, Err(_)) => {}
                    }
                }
            }
        }
        simulator.set_capacity(None);
        drop(journal);
        environment = if random.random_bool(0.2) { simulator.kill() } else { simulator.crash() };
    }
    model.check(&open(environment, &simulator, &options), true);
}

fn run_ledger(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut environment, simulator) = Environment::simulated(seed);
    let options = LedgerOptions { segment_bytes: random.random_range(300..4000), ..LedgerOptions::default() };
    // What each epoch says is a fact that can be written again, as from the epoch journal.
    let payload = |epoch: u64| Bytes::from(format!("epoch {epoch}, seed {seed}").repeat(1 + epoch as usize % 40));
    let mut heads = vec![Hash::default()];
    let mut synced = 0;
    for _ in 0..5 {
        if random.random_bool(0.5) {
            simulator.go_down_at(simulator.operations() + random.random_range(0..40));
        }
        let mut ledger = loop {
            match Ledger::open(&environment, "/ledger", options.clone()) {
                Ok(ledger) if !simulator.is_down() => break ledger,
                outcome => {
                    assert!(simulator.is_down(), "a crash made the ledger refuse to open: {outcome:?}");
                    environment = simulator.crash();
                }
            }
        };
        let last = ledger.last_epoch().unwrap_or(0);
        assert!(last >= synced && last < heads.len() as u64, "{synced} was synced, {last} is there");
        assert_eq!(ledger.head(), heads[last as usize]);
        ledger.verify().expect("the chain is sound");
        let from = random.random_range(0..=last + 1);
        let entries: Vec<_> = ledger.entries(from).map(|entry| entry.expect("readable")).collect();
        assert_eq!(entries.len() as u64, last + 1 - from.max(1));
        assert!(entries.iter().all(|e| e.payload == payload(e.epoch) && e.hash == heads[e.epoch as usize]));
        synced = last;
        simulator.go_down_at(simulator.operations() + random.random_range(0..60));
        for _ in 0..random.random_range(0..25) {
            match random.random_range(0..10) {
                0 => {
                    let operation = [Operation::Append, Operation::Sync, Operation::Create, Operation::Truncate];
                    let operation = operation[random.random_range(0..4)];
                    simulator.fail_next(operation, random.random_range(1..4), std::io::ErrorKind::Other);
                }
                1 => {
                    if ledger.sync().is_ok() {
                        synced = ledger.last_epoch().unwrap_or(0);
                    }
                }
                _ => {
                    let next = ledger.last_epoch().unwrap_or(0) + 1;
                    let head = heads[next as usize - 1].next(next, &payload(next));
                    heads.truncate(heads.len().max(next as usize));
                    if heads.len() as u64 == next {
                        heads.push(head);
                    }
                    if let Ok(appended) = ledger.append(next, &payload(next)) {
                        assert_eq!(appended, head);
                    }
                }
            }
            assert!(ledger.last_epoch().unwrap_or(0) >= synced);
        }
        drop(ledger);
        environment = if random.random_bool(0.2) { simulator.kill() } else { simulator.crash() };
    }
}

fn for_all_seeds(run: impl Fn(u64) + std::panic::RefUnwindSafe) {
    let asked = std::env::var("WEIR_CRASH_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    for seed in 0..asked.unwrap_or(SEEDS) {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("seed {seed} fails");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn a_crash_at_any_operation_leaves_epochs_whole_or_absent() {
    for_all_seeds(run_epochs);
}

#[test]
fn a_crash_at_any_operation_leaves_the_ledger_a_sound_prefix() {
    for_all_seeds(run_ledger);
}
