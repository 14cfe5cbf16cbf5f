//! Crashes a topic at random operations and compares what is left with a model of what was acknowledged.
//!
//! The law: every acknowledged record is at its offset; an append that was not acknowledged is there wholly or not
//! at all; nothing else is there; a mere crash never makes a topic refuse to open.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_environment::{Environment, Operation, Simulator};
use weir_journal::topic::TopicOptions;
use weir_journal::{AppendError, Compression, Record, Topic};

const FOLDER: &str = "/log/topic";
/// How many histories are tried; `WEIR_CRASH_SEEDS` asks for more.
const SEEDS: u64 = 700;

/// What the topic may hold.
#[derive(Default)]
struct Model {
    /// Records by offset, each acknowledged or found after a recovery.
    kept: Vec<Record>,
    /// Appends that failed since the last recovery, by the value of their first record.
    failed: HashMap<Bytes, Vec<Record>>,
    /// Everything before it may have been removed.
    released: u64,
    appends: u64,
}

impl Model {
    fn records(&mut self, random: &mut StdRng) -> Vec<Record> {
        self.appends += 1;
        let length = if random.random_bool(0.1) { 3000 } else { random.random_range(0..120) };
        let count = random.random_range(1..6_u64);
        let record = |nth: u64| Record {
            arrival: random.random(),
            key: random.random::<bool>().then(|| Bytes::from(vec![7; random.random_range(0..9)])),
            headers: Bytes::from(vec![b'h'; random.random_range(0..3)]),
            value: Bytes::from(format!("{} {nth} {}", self.appends, "x".repeat(length))),
        };
        (0..count).map(record).collect()
    }

    fn settle(&mut self, records: Vec<Record>, outcome: Result<Range<u64>, AppendError>) {
        match outcome {
            Ok(range) => {
                let (start, end) = (range.start as usize, range.end as usize);
                if self.kept.len() < end {
                    self.kept.resize(end, Record::default());
                }
                self.kept[start..end].clone_from_slice(&records);
            }
            Err(_) => {
                self.failed.insert(records[0].value.clone(), records);
            }
        }
    }

    /// Compares, and takes what is found beyond what was acknowledged for kept from now on.
    fn check(&mut self, topic: &Topic, simulator: &Simulator, recovered: bool) {
        let begin = topic.begin();
        assert!(begin <= self.released, "{begin} is the first record, but only {} was released", self.released);
        let mut found = Vec::new();
        let mut at = begin;
        while at < topic.durable_end() {
            let block = match topic.read(at, 700) {
                // The writer's note behind the last batch may be what the machine went down at.
                Err(_) if !recovered && simulator.is_down() => return,
                block => block.expect("what is durable is readable"),
            };
            assert!(!block.is_empty());
            found.extend((0..block.len()).map(|i| block.record(i)));
            at = block.next_offset();
        }
        let known = self.kept.len().saturating_sub(begin as usize);
        assert!(found.len() >= known, "acknowledged records are lost: {} of {known} are there", found.len());
        assert!(found[..known] == self.kept[begin as usize..], "acknowledged records changed");
        let mut surplus = &found[known..];
        assert!(surplus.is_empty() || recovered, "records appeared out of nowhere");
        while let Some(first) = surplus.first() {
            let append = self.failed.remove(&first.value).expect("only what was appended comes back");
            assert!(surplus.starts_with(&append), "an append is there in part");
            surplus = &surplus[append.len()..];
            self.kept.extend(append);
        }
        if recovered {
            self.failed.clear();
        }
    }
}

fn open(mut environment: Environment, simulator: &Simulator, options: &TopicOptions) -> std::sync::Arc<Topic> {
    loop {
        match Topic::open(&environment, FOLDER, options.clone()) {
            // What opening does last, a note for recovery, may be what the machine went down at.
            Ok(topic) if !simulator.is_down() => return topic,
            outcome => {
                assert!(simulator.is_down(), "a crash made the topic refuse to open: {outcome:?}");
                environment = simulator.crash();
            }
        }
    }
}

fn append_some(topic: &Topic, model: &mut Model, random: &mut StdRng) {
    let (sender, receiver) = mpsc::channel();
    let appends: Vec<_> = (0..random.random_range(1..4)).map(|_| model.records(random)).collect();
    for (nth, records) in appends.iter().enumerate() {
        let sender = sender.clone();
        topic.append(records.clone(), Box::new(move |outcome| sender.send((nth, outcome)).expect("waited for")));
    }
    drop(sender);
    let outcomes: HashMap<_, _> = receiver.iter().collect();
    assert_eq!(outcomes.len(), appends.len(), "every append is answered");
    for (nth, records) in appends.into_iter().enumerate() {
        model.settle(records, outcomes[&nth].clone());
    }
}

fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut environment, simulator) = Environment::simulated(seed);
    let mut model = Model::default();
    let options = TopicOptions {
        segment_bytes: random.random_range(300..6000),
        compression: [Compression::None, Compression::Lz4, Compression::Zstd][random.random_range(0..3)],
        disk_reserve_bytes: 0,
        ..TopicOptions::default()
    };
    for _ in 0..4 {
        if random.random_bool(0.5) {
            simulator.go_down_at(simulator.operations() + random.random_range(0..60));
        }
        let topic = open(environment, &simulator, &options);
        model.check(&topic, &simulator, true);
        simulator.go_down_at(simulator.operations() + random.random_range(0..80));
        for _ in 0..random.random_range(0..20) {
            match random.random_range(0..12) {
                0 => {
                    let before = random.random_range(0..=model.kept.len() as u64);
                    model.released = model.released.max(before);
                    // It may fail; what is left is checked all the same.
                    let _ = topic.release(before);
                }
                1 => {
                    let operation = [Operation::Append, Operation::Sync, Operation::Create, Operation::Truncate];
                    let operation = operation[random.random_range(0..4)];
                    simulator.fail_next(operation, random.random_range(1..4), std::io::ErrorKind::Other);
                }
                2 => simulator.set_capacity(Some(simulator.used_bytes() + random.random_range(0..4000))),
                3 => simulator.set_capacity(None),
                4 if !simulator.is_down() => model.check(&topic, &simulator, false),
                _ => append_some(&topic, &mut model, &mut random),
            }
        }
        simulator.set_capacity(None);
        if random.random_bool(0.2) {
            topic.close();
        }
        environment = if random.random_bool(0.2) { simulator.kill() } else { simulator.crash() };
    }
    model.check(&open(environment, &simulator, &options), &simulator, true);
}

#[test]
fn a_crash_at_any_operation_loses_nothing_acknowledged_and_leaves_nothing_half() {
    let asked = std::env::var("WEIR_CRASH_SEEDS").ok().and_then(|seeds| seeds.parse().ok());
    for seed in 0..asked.unwrap_or(SEEDS) {
        if let Err(panic) = std::panic::catch_unwind(|| run(seed)) {
            eprintln!("seed {seed} fails");
            std::panic::resume_unwind(panic);
        }
    }
}
