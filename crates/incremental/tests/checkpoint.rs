//! Checkpoints against a plain map: whatever is written, merged, crashed and reopened, the newest values come back.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_environment::Environment;
use weir_incremental::StateKey;
use weir_incremental::checkpoint::{CheckpointStore, StateChanges};

type Model = BTreeMap<(String, Vec<u8>), Vec<u8>>;

fn restored(store: &CheckpointStore) -> Model {
    let mut found = Model::new();
    for state in ["a", "b", "c"] {
        let mut before: Option<Vec<u8>> = None;
        store
            .restore(state, &mut |key, value| {
                assert!(before.as_deref().is_none_or(|b| b < key), "keys come in order, each once");
                before = Some(key.to_vec());
                found.insert((state.to_owned(), key.to_vec()), value.to_vec());
                Ok(())
            })
            .unwrap();
    }
    found
}

/// Changes in no order, some of the same key.
fn change(random: &mut StdRng, model: &mut Model) -> StateChanges {
    let mut changes = StateChanges::default();
    for _ in 0..random.random_range(0..200) {
        let state = ["b", "a", "c"][random.random_range(0..3)].to_owned();
        // Keys that begin alike, and some that are the beginnings of others.
        let mut key =
            format!("{}{}", if state == "a" { "common" } else { "" }, random.random_range(0u32..300)).into_bytes();
        key.resize(key.len() + random.random_range(0..2), 0);
        let value = random.random_bool(0.7).then(|| vec![random.random(); random.random_range(0..2000)]);
        changes.put(&state, &key, value.as_deref());
        match value {
            Some(value) => drop(model.insert((state, key), value)),
            None => drop(model.remove(&(state, key))),
        }
    }
    changes
}

#[test]
fn the_newest_values_come_back_after_crashes_at_any_operation() {
    let folder = Path::new("/checkpoints");
    for seed in 0..120 {
        let mut random = StdRng::seed_from_u64(seed);
        let (mut environment, simulator) = Environment::simulated(seed);
        let mut durable = Model::new();
        let mut epoch = 0;
        for _ in 0..6 {
            simulator.go_down_at(simulator.operations() + random.random_range(1..60));
            let mut attempted = None;
            let work = (|| {
                let store = CheckpointStore::open(&environment, folder)?;
                assert_eq!(restored(&store), durable, "seed {seed}");
                for _ in 0..random.random_range(1..8) {
                    let mut model = durable.clone();
                    let mut changes = change(&mut random, &mut model);
                    attempted = Some((epoch + 1, model.clone()));
                    store.write(epoch + 1, &mut changes, format!("payload {}", epoch + 1).as_bytes())?;
                    epoch += 1;
                    durable = model;
                    attempted = None;
                    assert_eq!(store.latest()?, Some((epoch, format!("payload {epoch}").into_bytes())));
                }
                Ok::<(), weir_incremental::EngineError>(())
            })();
            assert!(work.is_ok() || simulator.is_down(), "seed {seed}: {work:?}");
            environment = simulator.crash();
            simulator.clear_faults();
            // A checkpoint whose write did not return may be there or not, but wholly.
            let store = CheckpointStore::open(&environment, folder).unwrap();
            if let Some((number, model)) = attempted
                && store.latest().unwrap().is_some_and(|(found, _)| found == number)
            {
                epoch = number;
                durable = model;
            }
            assert_eq!(store.latest().unwrap().map_or(0, |(found, _)| found), epoch, "seed {seed}");
            assert_eq!(restored(&store), durable, "seed {seed}");
        }
    }
}

#[test]
fn merging_keeps_the_number_of_runs_small_and_drops_what_was_removed() {
    let (environment, _simulator) = Environment::simulated(1);
    let store = CheckpointStore::open(&environment, Path::new("/checkpoints")).unwrap();
    for round in 0u64..64 {
        let mut changes = StateChanges::default();
        for key in 0u64..100 {
            let value = [7u8; 100];
            changes.put("a", &(round * 100 + key).to_be_bytes(), Some(&value));
            if round > 0 {
                changes.put("a", &((round - 1) * 100 + key).to_be_bytes(), None);
            }
        }
        store.write(round + 1, &mut changes, b"").unwrap();
    }
    let mut count = 0;
    store
        .restore("a", &mut |_, _| {
            count += 1;
            Ok(())
        })
        .unwrap();
    assert_eq!(count, 100);
    let runs = environment.storage.list(Path::new("/checkpoints")).unwrap().len() - 1;
    assert!(runs <= 8, "{runs} runs");
    assert!(store.bytes_on_disk() < 64 * 100 * 20, "{} bytes", store.bytes_on_disk());
}

#[test]
fn a_flipped_bit_is_found_and_the_file_is_named() {
    let folder = Path::new("/checkpoints");
    let (environment, simulator) = Environment::simulated(2);
    let store = CheckpointStore::open(&environment, folder).unwrap();
    let mut changes = StateChanges::default();
    for key in 0u64..5000 {
        changes.put("a", &key.to_be_bytes(), Some(&key.to_le_bytes()));
    }
    store.write(1, &mut changes, b"").unwrap();
    let entries = environment.storage.list(folder).unwrap();
    let run = entries.iter().find(|e| e.name.starts_with("run-")).unwrap();
    assert!(simulator.flip(&folder.join(&run.name), run.len / 2, 16));
    let error = store.restore("a", &mut |_, _| Ok(())).unwrap_err().to_string();
    assert!(error.contains(&run.name) && error.contains("damaged"), "{error}");
}

#[test]
fn a_bit_of_the_manifest_that_is_not_as_it_was_written_is_found_wherever_it_is() {
    let folder = Path::new("/checkpoints");
    let path = folder.join("manifest.json");
    let (environment, simulator) = Environment::simulated(3);
    let store = CheckpointStore::open(&environment, folder).unwrap();
    let mut changes = StateChanges::default();
    changes.put("a", b"key", Some(b"value"));
    store.write(7, &mut changes, br#"{"where": 1}"#).unwrap();
    let manifest = environment.storage.read(&path).unwrap();
    for position in 0..manifest.len() as u64 * 8 {
        simulator.flip(&path, position / 8, 1 << (position % 8));
        let error = CheckpointStore::open(&environment, folder).err().map(|error| error.to_string());
        assert!(error.as_ref().is_some_and(|error| error.contains("manifest.json")), "bit {position}: {error:?}");
        simulator.flip(&path, position / 8, 1 << (position % 8));
    }
    let store = CheckpointStore::open(&environment, folder).unwrap();
    assert_eq!(store.latest().unwrap(), Some((7, br#"{"where": 1}"#.to_vec())));
}

#[test]
fn a_manifest_from_the_future_is_refused() {
    let folder = Path::new("/checkpoints");
    let (environment, simulator) = Environment::simulated(3);
    environment.storage.create_dir_all(folder).unwrap();
    simulator.plant(
        &folder.join("manifest.json"),
        br#"{"version": 99, "epoch": 1, "payload": "", "next_run": 0, "runs": []}"#,
    );
    let error = CheckpointStore::open(&environment, folder).unwrap_err().to_string();
    assert!(error.contains("newer program"), "{error}");
}

#[test]
fn a_manifest_of_the_first_format_is_refused_too() {
    let folder = Path::new("/checkpoints");
    let (environment, simulator) = Environment::simulated(3);
    environment.storage.create_dir_all(folder).unwrap();
    simulator.plant(
        &folder.join("manifest.json"),
        br#"{"version": 1, "epoch": 1, "payload": "", "next_run": 0, "runs": [{"file": "a", "bytes": 1, "states": []}]}"#,
    );
    let error = CheckpointStore::open(&environment, folder).unwrap_err().to_string();
    assert!(error.contains("format 1") && error.contains("the program that wrote it"), "{error}");
}

/// What a lookup of some prefixes finds.
fn looked_up(store: &CheckpointStore, state: &str, prefixes: &[Vec<u8>]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut found = Vec::new();
    let prefixes = prefixes.iter().map(Vec::as_slice).collect();
    store
        .reader()
        .state(state)
        .lookup(prefixes, &mut |prefix, rest, value| {
            found.push(([prefix, rest].concat(), value.to_vec()));
            Ok(())
        })
        .unwrap();
    found
}

#[test]
fn lookups_by_batch_find_what_a_map_has() {
    let folder = Path::new("/checkpoints");
    for seed in 0..18 {
        let mut random = StdRng::seed_from_u64(seed);
        let (environment, _simulator) = Environment::simulated(seed);
        let mut store = CheckpointStore::open(&environment, folder).unwrap();
        let mut model = Model::new();
        let prefixes = [5, 300, 8000][seed as usize % 3];
        let key = |random: &mut StdRng| {
            let prefix = format!("{:05}", random.random_range(0..prefixes));
            let rest = "r".repeat(random.random_range(0..4)) + &random.random_range(0..3).to_string();
            (prefix.len(), (prefix + &rest).into_bytes())
        };
        for epoch in 1..14 {
            let mut changes = StateChanges::default();
            for _ in 0..random.random_range(0..2000) {
                let state = ["a", "b"][random.random_range(0..2)];
                let (prefix, bytes) = key(&mut random);
                let value = random.random_bool(0.6).then(|| vec![random.random(); random.random_range(0..60)]);
                // Of several changes of one key the last counts.
                changes.put_key(state, StateKey { bytes: &bytes, prefix }, value.as_deref());
                match value {
                    Some(value) => drop(model.insert((state.to_owned(), bytes), value)),
                    None => drop(model.remove(&(state.to_owned(), bytes))),
                }
            }
            if random.random_bool(0.1) {
                changes.start_over("c");
            }
            store.write(epoch, &mut changes, b"").unwrap();
            if random.random_bool(0.3) {
                store = CheckpointStore::open(&environment, folder).unwrap();
            }
            for state in ["a", "b", "none"] {
                let count = [1, 20, 6000][random.random_range(0..3)];
                let sought: Vec<Vec<u8>> = (0..count).map(|_| key(&mut random).1[..5].to_vec()).collect();
                let all: HashSet<&[u8]> = sought.iter().map(Vec::as_slice).collect();
                let expected: Vec<(Vec<u8>, Vec<u8>)> = model
                    .iter()
                    .filter(|((of, bytes), _)| of == state && all.contains(&bytes[..5]))
                    .map(|((_, bytes), value)| (bytes.clone(), value.clone()))
                    .collect();
                assert_eq!(looked_up(&store, state, &sought), expected, "seed {seed}, epoch {epoch}");
            }
        }
        let mut all = Vec::new();
        store
            .reader()
            .state("a")
            .part(b"0000")
            .each(&mut |rest, _| {
                all.push(rest.to_vec());
                Ok(())
            })
            .unwrap();
        let of_part = |bytes: &Vec<u8>| bytes.strip_prefix(b"0000".as_slice()).map(<[u8]>::to_vec);
        let expected: Vec<Vec<u8>> =
            model.keys().filter(|(of, _)| of == "a").filter_map(|(_, bytes)| of_part(bytes)).collect();
        assert_eq!(all, expected, "seed {seed}");
    }
}

#[test]
fn a_key_that_went_and_came_in_one_checkpoint_stays_gone_when_it_goes_later() {
    let folder = Path::new("/checkpoints");
    let (environment, _simulator) = Environment::simulated(4);
    let store = CheckpointStore::open(&environment, folder).unwrap();
    let mut changes = StateChanges::default();
    for key in 0u64..1000 {
        changes.put("a", &key.to_be_bytes(), Some(b"first"));
    }
    store.write(1, &mut changes, b"").unwrap();
    let mut changes = StateChanges::default();
    changes.put("a", &7u64.to_be_bytes(), None);
    changes.put("a", &7u64.to_be_bytes(), Some(b"second"));
    store.write(2, &mut changes, b"").unwrap();
    let mut changes = StateChanges::default();
    changes.put("a", &7u64.to_be_bytes(), None);
    store.write(3, &mut changes, b"").unwrap();
    assert_eq!(looked_up(&store, "a", &[7u64.to_be_bytes().to_vec()]), []);
}

#[test]
fn a_state_that_starts_over_has_nothing_of_what_was() {
    let folder = Path::new("/checkpoints");
    let (environment, _simulator) = Environment::simulated(5);
    let store = CheckpointStore::open(&environment, folder).unwrap();
    for (epoch, key) in [(1, b"x"), (2, b"y")] {
        let mut changes = StateChanges::default();
        changes.put("a", key, Some(b"1"));
        changes.put("b", key, Some(b"2"));
        if epoch == 2 {
            changes.start_over("a");
        }
        store.write(epoch, &mut changes, b"").unwrap();
    }
    let store = CheckpointStore::open(&environment, folder).unwrap();
    let keys: Vec<(String, Vec<u8>)> = restored(&store).into_keys().collect();
    let expected = [("a", b"y"), ("b", b"x"), ("b", b"y")].map(|(state, key)| (state.to_owned(), key.to_vec()));
    assert_eq!(keys, expected);
}

#[test]
fn a_crash_after_a_commit_that_failed_finds_one_checkpoint_or_the_other_whole() {
    let folder = Path::new("/checkpoints");
    let mut failures = 0;
    for (seed, fail, down) in
        (0..4).flat_map(|seed| (0..14).flat_map(move |fail| (0..14).map(move |down| (seed, fail, down))))
    {
        let (environment, simulator) = Environment::simulated(seed);
        let store = CheckpointStore::open(&environment, folder).unwrap();
        let write = |epoch: u64| {
            let mut changes = StateChanges::default();
            changes.put("a", b"key", Some(format!("value {epoch}").repeat(epoch as usize).as_bytes()));
            store.write(epoch, &mut changes, b"{}")
        };
        write(1).unwrap();
        simulator.fail_at(simulator.operations() + fail, 1, std::io::ErrorKind::Other);
        failures += usize::from(write(2).is_err());
        simulator.clear_faults();
        simulator.go_down_at(simulator.operations() + down);
        let _ = write(3);
        let environment = simulator.crash();
        let told = format!("seed {seed}, {fail} fails, down at {down}");
        let store = CheckpointStore::open(&environment, folder).unwrap_or_else(|error| panic!("{told}: {error}"));
        let (epoch, _) = store.latest().unwrap().unwrap();
        let mut values = Vec::new();
        store
            .restore("a", &mut |_, value| {
                values.push(String::from_utf8(value.to_vec()).unwrap());
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{told}: {error}"));
        assert_eq!(values, [format!("value {epoch}").repeat(epoch as usize)], "{told}");
    }
    assert!(failures > 20, "{failures}");
}
