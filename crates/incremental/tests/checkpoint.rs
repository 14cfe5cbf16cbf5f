//! Checkpoints against a plain map: whatever is written, merged, crashed and reopened, the newest values come back.

use std::collections::BTreeMap;
use std::path::Path;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_environment::Environment;
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

fn change(random: &mut StdRng, model: &mut Model) -> StateChanges {
    let mut touched: BTreeMap<(String, Vec<u8>), Option<Vec<u8>>> = BTreeMap::new();
    for _ in 0..random.random_range(0..200) {
        let state = ["a", "b", "c"][random.random_range(0..3)].to_owned();
        let key = random.random_range(0u32..300).to_string().into_bytes();
        let value = random.random_bool(0.7).then(|| vec![random.random(); random.random_range(0..2000)]);
        touched.insert((state, key), value);
    }
    let mut changes = StateChanges::default();
    for ((state, key), value) in touched {
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
