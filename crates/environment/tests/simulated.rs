//! What the simulated world loses, and what it does not.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use weir_environment::{Environment, Fault, Operation, Simulator};

const SEEDS: u64 = 300;

fn world(seed: u64) -> (Environment, Simulator) {
    let (environment, simulator) = Environment::simulated(seed);
    environment.storage.create_dir_all(Path::new("/d")).expect("created");
    (environment, simulator)
}

fn content(environment: &Environment) -> Option<Vec<u8>> {
    environment.storage.read(Path::new("/d/file")).ok()
}

#[test]
fn what_was_synced_survives_and_of_the_rest_a_prefix_or_lost_sectors() {
    let mut lengths = BTreeSet::new();
    let mut lost_sectors = false;
    for seed in 0..SEEDS {
        let (environment, simulator) = world(seed);
        let mut file = environment.storage.open_append(Path::new("/d/file")).expect("created");
        file.append(&[1; 700]).expect("written");
        file.sync().expect("synced");
        environment.storage.sync_dir(Path::new("/d")).expect("synced");
        file.append(&[2; 2000]).expect("written");
        file.append(&[3; 10]).expect("written");
        let left = content(&simulator.crash()).expect("its name was synced");
        assert!(left.len() >= 700 && left.len() <= 2710);
        assert!(left[..700].iter().all(|&byte| byte == 1), "synced bytes are never touched");
        let written: Vec<u8> = [vec![1; 700], vec![2; 2000], vec![3; 10]].concat();
        assert!(left.iter().zip(&written).all(|(&found, &wrote)| found == wrote || found == 0));
        lost_sectors |= left[700..].contains(&0);
        lengths.insert(left.len());
        assert!(file.append(b"zombie").is_err(), "what was open before the crash is dead");
    }
    assert!(lengths.contains(&700) && lengths.contains(&2710) && lengths.len() > 50, "all outcomes happen");
    assert!(lost_sectors);
}

#[test]
fn names_that_were_not_synced_may_go_or_come_back() {
    let mut outcomes = BTreeSet::new();
    for seed in 0..SEEDS {
        let (environment, simulator) = world(seed);
        let storage = &environment.storage;
        storage.write_atomic(Path::new("/d/old"), b"old").expect("written");
        storage.write_atomic(Path::new("/d/moved"), b"moved").expect("written");
        storage.remove_file(Path::new("/d/old")).expect("removed");
        storage.rename(Path::new("/d/moved"), Path::new("/d/there")).expect("renamed");
        storage.open_append(Path::new("/d/new")).expect("created");
        let environment = simulator.crash();
        let names = environment.storage.list(Path::new("/d")).expect("listed");
        outcomes.insert(names.into_iter().map(|entry| entry.name).collect::<Vec<_>>());
    }
    assert_eq!(outcomes.len(), 8, "each of the three changes may be lost: {outcomes:?}");
}

#[test]
fn a_failed_sync_loses_bytes_that_a_later_one_seems_to_write() {
    let mut lost = false;
    for seed in 0..SEEDS {
        let (environment, simulator) = world(seed);
        let mut file = environment.storage.open_append(Path::new("/d/file")).expect("created");
        environment.storage.sync_dir(Path::new("/d")).expect("synced");
        file.append(b"lost?").expect("written");
        simulator.fail_next(Operation::Sync, 1, ErrorKind::Other);
        file.sync().expect_err("injected");
        file.sync().expect("well again");
        assert_eq!(content(&environment).expect("there"), b"lost?");
        lost |= content(&simulator.crash()).expect("there") == [0; 5];

        let (environment, simulator) = world(seed);
        let mut file = environment.storage.open_append(Path::new("/d/file")).expect("created");
        environment.storage.sync_dir(Path::new("/d")).expect("synced");
        file.append(b"lost?").expect("written");
        simulator.fail_next(Operation::Sync, 1, ErrorKind::Other);
        file.sync().expect_err("injected");
        file.truncate(0).expect("cut");
        file.append(b"kept").expect("written");
        file.sync().expect("synced");
        assert_eq!(content(&simulator.crash()).expect("there"), b"kept");
    }
    assert!(lost);
}

#[test]
fn a_kill_loses_nothing_written() {
    let (environment, simulator) = world(1);
    let mut file = environment.storage.open_append(Path::new("/d/file")).expect("created");
    file.append(b"in memory").expect("written");
    let lock = environment.storage.lock(Path::new("/d/lock")).expect("free");
    let environment = simulator.kill();
    assert_eq!(content(&environment).expect("there"), b"in memory");
    let again = environment.storage.lock(Path::new("/d/lock")).expect("free again");
    drop(lock);
    environment.storage.lock(Path::new("/d/lock")).expect_err("a dead process lets go of nothing that others hold");
    drop(again);
    assert!(file.sync().is_err());
}

#[test]
fn the_machine_goes_down_at_the_operation_it_is_told() {
    for seed in 0..SEEDS {
        let (environment, simulator) = world(seed);
        simulator.go_down_at(simulator.operations() + 2);
        let mut file = environment.storage.open_append(Path::new("/d/file")).expect("the first operation");
        file.append(b"1").expect("the second");
        assert!(!simulator.is_down());
        file.append(b"2").expect_err("the third");
        assert!(simulator.is_down());
        environment.storage.sync_dir(Path::new("/d")).expect_err("nothing works any more");
        let environment = simulator.crash();
        assert!(!simulator.is_down());
        environment.storage.open_append(Path::new("/d/file")).expect("works again");
    }
}

#[test]
fn a_full_disk_takes_what_fits() {
    let (environment, simulator) = world(1);
    simulator.set_capacity(Some(10));
    let mut file = environment.storage.open_append(Path::new("/d/file")).expect("created");
    file.append(b"1234567").expect("fits");
    assert_eq!(environment.storage.available_bytes(Path::new("/d")).expect("known"), 3);
    assert_eq!(file.append(b"89abc").expect_err("does not fit").kind(), ErrorKind::StorageFull);
    assert_eq!(content(&environment).expect("there"), b"123456789a");
    simulator.set_capacity(None);
    file.append(b"b").expect("room again");
}

#[test]
fn clocks_stand_still_until_they_are_moved() {
    let (environment, simulator) = world(1);
    let (now, elapsed) = (environment.clock.now(), environment.clock.elapsed());
    assert_eq!((environment.clock.now(), environment.clock.elapsed()), (now, elapsed));
    simulator.advance(Duration::from_millis(5));
    assert_eq!(environment.clock.now(), now + 5000);
    simulator.set_now(17);
    assert_eq!(environment.clock.now(), 17);
    assert_eq!(environment.clock.elapsed(), elapsed + Duration::from_millis(5));
}

#[test]
fn equal_seeds_draw_equal_numbers() {
    let draw = |seed| {
        let (environment, _) = Environment::simulated(seed);
        [0; 4].map(|_| environment.random.next_u64())
    };
    assert_eq!(draw(3), draw(3));
    assert_ne!(draw(3), draw(4));
}

#[test]
fn short_reads_give_less_than_is_there_but_never_nothing_and_whole_reads_go_on() {
    let (environment, simulator) = world(1);
    let path = Path::new("/d/file");
    let bytes: Vec<u8> = (0..=255).collect();
    simulator.plant(path, &bytes);
    simulator.short_reads(Some(2));
    let file = environment.storage.open_read(path).expect("opened");
    let mut buffer = [0; 256];
    let mut lengths = BTreeSet::new();
    for _ in 0..SEEDS {
        let count = file.read_at(0, &mut buffer).expect("read");
        assert!(count > 0 && buffer[..count] == bytes[..count]);
        lengths.insert(count);
    }
    assert!(lengths.contains(&256) && lengths.len() > 50, "some are whole, some are not");
    assert_eq!(environment.storage.read(path).expect("read"), bytes, "readers ask again");
    assert!(simulator.faults()[&Fault::ShortRead] > 50);
    simulator.short_reads(None);
    assert_eq!(file.read_at(0, &mut buffer).expect("read"), 256);
}

#[test]
fn on_a_slow_disk_virtual_time_passes_and_the_same_for_the_same_seed() {
    let run = || {
        let (environment, simulator) = world(3);
        let before = (environment.clock.now(), environment.clock.elapsed());
        simulator.slow_down(Some(Duration::from_secs(2)));
        environment.storage.write_atomic(Path::new("/d/file"), b"slow").expect("written");
        assert_eq!(content(&environment).expect("there"), b"slow");
        let took = environment.clock.elapsed() - before.1;
        assert_eq!(environment.clock.now() - before.0, took.as_micros() as i64, "both clocks see it");
        let slow = simulator.faults()[&Fault::Slow];
        assert!(took > Duration::ZERO && took <= Duration::from_secs(2) * slow as u32);
        simulator.slow_down(None);
        assert_eq!(content(&environment).expect("there"), b"slow");
        assert_eq!(environment.clock.elapsed() - before.1, took, "no time passes any more");
        (took, slow)
    };
    assert_eq!(run(), run());
}

#[test]
fn reads_fail_when_told_to_and_work_again_after() {
    let (environment, simulator) = world(4);
    let path = Path::new("/d/file");
    simulator.plant(path, b"there");
    simulator.fail_next(Operation::Read, 2, ErrorKind::Other);
    assert!(environment.storage.open_read(path).is_err());
    assert!(environment.storage.list(Path::new("/d")).is_err());
    assert_eq!(content(&environment).expect("there"), b"there");
    assert_eq!(simulator.faults()[&Fault::Failed(Operation::Read)], 2);
}

#[test]
fn flipped_bits_are_read_until_they_are_flipped_back_and_a_crash_gives_unsynced_ones_back() {
    let (environment, simulator) = world(5);
    let path = Path::new("/d/file");
    let mut file = environment.storage.open_append(path).expect("created");
    file.append(b"synced").expect("written");
    file.sync().expect("synced");
    environment.storage.sync_dir(Path::new("/d")).expect("synced");
    file.append(b"not").expect("written");
    assert!(simulator.flip(path, 0, 1) && simulator.flip(path, 6, 1) && !simulator.flip(path, 9, 1));
    assert_eq!(content(&environment).expect("there"), b"ryncedoot");
    assert_eq!(simulator.files(), [(path.to_path_buf(), 9)]);
    let left = content(&simulator.crash()).expect("there");
    assert!(left.starts_with(b"rynced"), "the disk itself has rotted");
    assert_ne!(left.get(6), Some(&b'o'), "what only memory had is gone");
    simulator.flip(path, 0, 1);
    assert!(content(&simulator.environment()).expect("there").starts_with(b"synced"));
}

#[test]
fn what_a_crash_does_is_counted_and_counts_survive_it() {
    let mut seen = BTreeSet::new();
    for seed in 0..SEEDS {
        let (environment, simulator) = world(seed);
        let mut file = environment.storage.open_append(Path::new("/d/file")).expect("created");
        file.append(&[1; 2000]).expect("written");
        simulator.fail_next(Operation::Sync, 1, ErrorKind::Other);
        assert!(file.sync().is_err());
        if seed % 2 == 0 {
            file.sync().expect("it says");
        }
        file.append(&[2; 2000]).expect("written");
        if seed % 3 > 0 {
            environment.storage.sync_dir(Path::new("/d")).expect("synced");
        }
        simulator.go_down_at(simulator.operations());
        assert!(file.append(&[3; 10]).is_err());
        simulator.crash();
        seen.extend(simulator.faults().into_keys().map(|fault| fault.to_string()));
    }
    let all = ["Down", "LostBySync", "LostChanges", "LostName", "LostSectors", "TornAppend", "failed Sync"];
    assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), all);
}
