//! What the simulated world loses, and what it does not.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use weir_environment::{Environment, Operation, Simulator};

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
