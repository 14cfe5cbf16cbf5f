//! A mirror in an object store against a model: files grow, are cut, replaced, renamed and removed at random, by a target
//! that forgets now and then what it knows of the store, while requests fail in the middle; in memory, and over S3's protocol.

mod common;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use common::s3::S3;
use object_store::ObjectStore;
use object_store::aws::AmazonS3Builder;
use object_store::memory::InMemory as Memory;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::runtime::Runtime;
use weir_connectors::mirror::ObjectTarget;
use weir_environment::mirror::{InMemory, MirrorTarget};

const NAMES: [&str; 5] =
    ["log/site/0.topic", "log/site/1.topic", "journal/1.epochs", "state/manifest.json", "backup.json"];

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap()
}

fn s3(server: &S3) -> Arc<dyn ObjectStore> {
    let store = AmazonS3Builder::new()
        .with_endpoint(format!("http://{}", server.address))
        .with_allow_http(true)
        .with_region("eu-central-1")
        .with_bucket_name("mirror")
        .with_access_key_id("somebody")
        .with_secret_access_key("secret");
    Arc::new(store.build().unwrap())
}

fn read(target: &ObjectTarget, name: &str) -> Vec<u8> {
    let file = target.open_read(name).unwrap();
    let mut bytes = vec![0; file.len().unwrap() as usize];
    let mut filled = 0;
    while filled < bytes.len() {
        let count = file.read_at(filled as u64, &mut bytes[filled..]).unwrap();
        assert!(count > 0, "{name} ends early");
        filled += count;
    }
    bytes
}

/// Does something until it works, as a mirror does.
fn until_done(mut act: impl FnMut() -> io::Result<()>) {
    let tries = (0..20).find(|_| act().is_ok());
    assert!(tries.is_some(), "it never works");
}

/// `fail` makes the next so many requests fail.
fn files_are_what_was_done_to_them(
    store: &Arc<dyn ObjectStore>,
    runtime: &Runtime,
    seed: u64,
    steps: u32,
    fail: &dyn Fn(u32),
) {
    let mut random = StdRng::seed_from_u64(seed);
    let open = || ObjectTarget::new(store.clone(), &format!("shop{seed}"), "a store", runtime.handle().clone());
    let mut target = open();
    let mut model: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for step in 0..steps {
        let name = NAMES[random.random_range(0..NAMES.len())].to_owned();
        let noise: Vec<u8> = (0..random.random_range(1..50)).map(|_| random.random()).collect();
        fail(if random.random_bool(0.1) { random.random_range(1..4) } else { 0 });
        match random.random_range(0..20) {
            0..12 => {
                // Behind the end, or, as a repeated append does, before it.
                let file = model.entry(name.clone()).or_default();
                let at = if random.random_bool(0.8) { file.len() } else { random.random_range(0..=file.len()) };
                until_done(|| target.append(&name, at as u64, &noise));
                file.truncate(at);
                file.extend_from_slice(&noise);
            }
            12..14 => {
                if let Some(file) = model.get_mut(&name) {
                    let len = random.random_range(0..=file.len());
                    until_done(|| target.truncate(&name, len as u64));
                    file.truncate(len);
                }
            }
            14 => {
                until_done(|| target.put(&name, &InMemory(noise.as_slice().into()), noise.len() as u64));
                model.insert(name, noise);
            }
            15 => {
                let to = NAMES[random.random_range(0..NAMES.len())].to_owned();
                if to != name
                    && model.get(&name).is_some_and(|file| !file.is_empty())
                    && let Some(file) = model.remove(&name)
                {
                    until_done(|| target.rename(&name, &to));
                    // Once more, as after an answer that got lost.
                    fail(0);
                    target.rename(&name, &to).unwrap();
                    model.insert(to, file);
                }
            }
            16 => {
                until_done(|| target.remove(&name));
                model.remove(&name);
            }
            17 => target = open(),
            _ => {
                fail(0);
                let listed: BTreeMap<String, u64> = target.list("").unwrap().into_iter().collect();
                // Of a file that was cut to nothing there may be nothing.
                let expected: BTreeMap<String, u64> = model
                    .iter()
                    .filter(|(name, file)| !file.is_empty() || listed.contains_key(*name))
                    .map(|(name, file)| (name.clone(), file.len() as u64))
                    .collect();
                assert_eq!(listed, expected, "seed {seed}, step {step}");
                for (name, file) in model.iter().filter(|(_, file)| !file.is_empty()) {
                    assert_eq!(read(&target, name), *file, "seed {seed}, step {step}: {name}");
                    assert_eq!(read(&open(), name), *file, "seed {seed}, step {step}: {name}, as another sees it");
                }
                let log: Vec<String> = target.list("log").unwrap().into_iter().map(|(name, _)| name).collect();
                assert!(log.iter().all(|name| name.starts_with("log/")), "{log:?}");
            }
        }
    }
    fail(0);
    assert!(target.append("log/site/9.topic", 5, b"x").is_err(), "there is nothing to append to");
}

#[test]
fn files_in_memory_are_what_was_done_to_them() {
    let runtime = runtime();
    let store: Arc<dyn ObjectStore> = Arc::new(Memory::new());
    (0..20).for_each(|seed| files_are_what_was_done_to_them(&store, &runtime, seed, 600, &|_| {}));
}

#[test]
fn files_in_s3_are_what_was_done_to_them_while_requests_fail() {
    let runtime = runtime();
    let server = runtime.block_on(S3::start());
    let store = s3(&server);
    (0..4).for_each(|seed| files_are_what_was_done_to_them(&store, &runtime, seed, 300, &|count| server.fail(count)));
    assert!(server.keys().iter().all(|key| key.starts_with("shop")), "nothing is written outside of the prefix");
}

#[test]
fn many_appends_are_merged_and_long_files_put_in_pieces() {
    let runtime = runtime();
    let server = runtime.block_on(S3::start());
    let target = ObjectTarget::new(s3(&server), "", "s3://mirror", runtime.handle().clone());
    let mut expected = Vec::new();
    for number in 0..600_u32 {
        let bytes = number.to_le_bytes();
        target.append("log/site/0.topic", expected.len() as u64, &bytes).unwrap();
        expected.extend_from_slice(&bytes);
    }
    assert_eq!(read(&target, "log/site/0.topic"), expected);
    assert!(server.keys().len() < 300, "{} objects for one file", server.keys().len());

    let long: Vec<u8> = (0..20_000_000_u32).map(|at| (at % 251) as u8).collect();
    target.put("state/run", &InMemory(long.as_slice().into()), long.len() as u64).unwrap();
    assert_eq!(read(&target, "state/run"), long);
}
