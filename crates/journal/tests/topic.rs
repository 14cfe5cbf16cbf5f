//! A topic through its front door: append, read, release, faults.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use weir_environment::{Environment, Operation};
use weir_journal::topic::TopicOptions;
use weir_journal::{AppendError, BatchBuilder, Compression, JournalError, Record, Topic};

const FOLDER: &str = "/topic";

fn options() -> TopicOptions {
    TopicOptions { segment_bytes: 2000, disk_reserve_bytes: 0, ..TopicOptions::default() }
}

fn open(environment: &Environment) -> Arc<Topic> {
    Topic::open(environment, FOLDER, options()).expect("the topic opens")
}

fn record(number: u64) -> Record {
    Record {
        arrival: number as i64 * 10,
        key: number.is_multiple_of(3).then(|| Bytes::from(format!("key {number}"))),
        headers: Bytes::from(format!("from {}", number / 4)),
        value: Bytes::from(format!("value {number}").repeat(1 + number as usize % 5)),
    }
}

fn records(numbers: std::ops::Range<u64>) -> Vec<Record> {
    numbers.map(record).collect()
}

/// Everything from an offset on, read in pieces.
fn read_all(topic: &Topic, from: u64, bytes_max: usize) -> Vec<Record> {
    let mut found = Vec::new();
    let mut at = from;
    loop {
        let block = topic.read(at, bytes_max).expect("the topic is readable");
        assert_eq!(block.first_offset, at);
        if block.is_empty() {
            return found;
        }
        found.extend((0..block.len()).map(|i| block.record(i)));
        at = block.next_offset();
    }
}

#[test]
fn what_was_appended_is_read_back_from_any_offset_and_in_any_portion() {
    for compression in [Compression::None, Compression::Lz4, Compression::Zstd] {
        let (environment, _) = Environment::simulated(1);
        let options = TopicOptions { compression, ..options() };
        let topic = Topic::open(&environment, FOLDER, options.clone()).expect("opens");
        let mut end = 0;
        for size in [1, 2, 50, 1, 1, 7, 30, 1, 90] {
            let range = topic.append_blocking(&records(end..end + size)).expect("appended");
            assert_eq!(range, end..end + size);
            end += size;
        }
        for from in [0, 1, 2, 3, 30, 52, 53, 60, 100, end - 1, end] {
            for bytes_max in [1, 300, 5000, 1 << 20] {
                assert_eq!(read_all(&topic, from, bytes_max), records(from..end), "from {from} by {bytes_max}");
            }
        }
        assert_eq!(topic.verify().expect("sound"), end);
        drop(topic);
        let topic = Topic::open(&environment, FOLDER, options).expect("opens again");
        assert_eq!((topic.begin(), topic.durable_end()), (0, end));
        assert_eq!(read_all(&topic, 0, 1000), records(0..end));
    }
}

#[test]
fn an_encoded_batch_is_the_same_as_its_records() {
    let (environment, _) = Environment::simulated(1);
    let topic = open(&environment);
    let mut builder = BatchBuilder::with_capacity(100);
    for r in records(0..10) {
        builder.push(r.arrival, r.key.as_deref(), &r.headers, &r.value);
    }
    let (sender, receiver) = std::sync::mpsc::channel();
    topic.append_encoded(builder.finish(), Box::new(move |outcome| sender.send(outcome).expect("waited for")));
    assert_eq!(receiver.recv().expect("told").expect("appended"), 0..10);
    assert_eq!(read_all(&topic, 0, 1 << 20), records(0..10));
}

#[test]
fn reading_outside_of_what_is_kept_says_what_is_kept() {
    let (environment, _) = Environment::simulated(1);
    let topic = open(&environment);
    for n in 0..100 {
        topic.append_blocking(&records(n..n + 1)).expect("appended");
    }
    let before = topic.bytes_on_disk();
    topic.release(60).expect("released");
    assert!(topic.begin() > 0 && topic.begin() <= 60);
    assert!(topic.bytes_on_disk() < before);
    assert!(matches!(topic.read(0, 1), Err(JournalError::OutOfRange { from: 0, end: 100, .. })));
    assert!(matches!(topic.read(101, 1), Err(JournalError::OutOfRange { from: 101, .. })));
    let begin = topic.begin();
    assert_eq!(read_all(&topic, begin, 1000), records(begin..100));
    drop(topic);
    let topic = open(&environment);
    assert_eq!(topic.begin(), begin);
    assert_eq!(read_all(&topic, begin, 1000), records(begin..100));
}

#[test]
fn appends_of_many_threads_come_out_whole_and_in_each_thread_s_order() {
    let (environment, _) = Environment::simulated(1);
    let options = TopicOptions { segment_bytes: 100_000, disk_reserve_bytes: 0, ..TopicOptions::default() };
    let topic = Topic::open(&environment, FOLDER, options).expect("opens");
    let heard = Arc::new(AtomicU64::new(0));
    let told = heard.clone();
    topic.on_durable(Box::new(move |end| told.store(end, Ordering::SeqCst)));
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let topic = &topic;
            scope.spawn(move || {
                for nth in 0..200_u64 {
                    let pair = [0, 1].map(|half| Record {
                        arrival: thread as i64,
                        value: Bytes::from(format!("{thread} {nth} {half}")),
                        ..Record::default()
                    });
                    let range = topic.append_blocking(&pair).expect("appended");
                    assert!(topic.durable_end() >= range.end);
                }
            });
        }
    });
    topic.close();
    assert_eq!(heard.load(Ordering::SeqCst), 3200);
    let all = read_all(&topic, 0, 10_000);
    let mut next = [0_u64; 8];
    for pair in all.chunks(2) {
        let thread = pair[0].arrival as usize;
        for (half, record) in pair.iter().enumerate() {
            assert_eq!(record.value, format!("{thread} {} {half}", next[thread]));
        }
        next[thread] += 1;
    }
    assert_eq!(next, [200; 8]);
}

#[test]
fn a_full_disk_refuses_appends_until_there_is_room() {
    let (environment, simulator) = Environment::simulated(1);
    let topic = open(&environment);
    topic.append_blocking(&records(0..5)).expect("appended");
    simulator.set_capacity(Some(simulator.used_bytes() + 100));
    assert!(matches!(topic.append_blocking(&records(5..40)), Err(AppendError::DiskFull { .. })));
    assert_eq!(topic.durable_end(), 5);
    simulator.set_capacity(None);
    assert_eq!(topic.append_blocking(&records(5..40)).expect("there is room"), 5..40);
    assert_eq!(read_all(&topic, 0, 1000), records(0..40));
}

#[test]
fn after_a_failed_write_or_sync_the_next_append_takes_its_place() {
    for operation in [Operation::Append, Operation::Sync] {
        for seed in 0..20 {
            let (environment, simulator) = Environment::simulated(seed);
            let topic = open(&environment);
            topic.append_blocking(&records(0..5)).expect("appended");
            simulator.fail_next(operation, 2, ErrorKind::Other);
            let lost = topic.append_blocking(&records(900..910));
            assert!(matches!(lost, Err(AppendError::Failed(_))), "{lost:?}");
            simulator.clear_faults();
            assert_eq!(topic.append_blocking(&records(5..9)).expect("well again"), 5..9);
            assert_eq!(read_all(&topic, 0, 1000), records(0..9));
            let environment = simulator.crash();
            assert_eq!(read_all(&open(&environment), 0, 1000), records(0..9));
        }
    }
}

#[test]
fn a_queue_over_its_bound_says_when_to_come_back() {
    let (environment, _) = Environment::simulated(1);
    let options = TopicOptions { queue_bytes_max: 1000, ..options() };
    let topic = Topic::open(&environment, FOLDER, options).expect("opens");
    let (release, held) = std::sync::mpsc::channel::<()>();
    let (entered, writer_is_held) = std::sync::mpsc::channel();
    topic.append(
        records(0..1),
        Box::new(move |_| {
            entered.send(()).expect("waited for");
            held.recv().expect("let go below");
        }),
    );
    writer_is_held.recv().expect("the writer tells");
    topic.append(records(1..20), Box::new(|_| {}));
    let refused = topic.append_blocking(&records(20..40));
    assert!(matches!(refused, Err(AppendError::Behind { retry_after }) if !retry_after.is_zero()), "{refused:?}");
    release.send(()).expect("the writer waits");
    topic.close();
    assert_eq!(read_all(&topic, 0, 1000), records(0..20));
    assert!(matches!(topic.append_blocking(&records(0..1)), Err(AppendError::Closed)));
}

#[test]
fn a_version_from_the_future_is_refused_and_not_touched() {
    let (environment, _) = Environment::simulated(1);
    drop(open(&environment));
    let path = Path::new(FOLDER).join("00000000000000000000.topic");
    let mut bytes = environment.storage.read(&path).expect("there");
    bytes[8] = 2;
    let crc = crc32c::crc32c(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    let (environment, simulator) = Environment::simulated(2);
    simulator.plant(&path, &bytes);
    let error = Topic::open(&environment, FOLDER, options()).expect_err("refused");
    assert!(matches!(error, JournalError::Refused { .. }));
    assert!(error.to_string().contains("version 2"), "{error}");
    assert_eq!(environment.storage.read(&path).expect("there"), bytes);
}
