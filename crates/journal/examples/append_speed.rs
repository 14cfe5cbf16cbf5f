//! How fast a topic takes and gives records, beside what the disk does alone.
//!
//! `cargo run --release -p weir-journal --example append_speed [FOLDER] [SECONDS]`

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use weir_environment::Environment;
use weir_journal::topic::TopicOptions;
use weir_journal::{AppendError, BatchBuilder, Compression, Topic};

const THREADS: u64 = 2;
const VALUE_BYTES: usize = 150;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from).join("weir-append-speed");
    let seconds = arguments.next().map_or(Ok(2), |seconds| seconds.parse())?;
    let duration = Duration::from_secs(seconds);
    let environment = Environment::real();

    println!("raw: appends of 4 KiB, each synced: {:.0} a second", raw(&environment, &folder, duration)?);
    for (compression, name) in [(Compression::None, "none"), (Compression::Lz4, "lz4"), (Compression::Zstd, "zstd")] {
        for (per_append, inflight_max) in [(1, 5_000), (10, 1_000), (500, 100)] {
            let topic_folder = folder.join("topic");
            if topic_folder.exists() {
                std::fs::remove_dir_all(&topic_folder)?;
            }
            let options = TopicOptions { compression, ..TopicOptions::default() };
            let topic = Topic::open(&environment, &topic_folder, options.clone())?;
            let taken = append(&topic, duration, per_append, inflight_max);
            let records = topic.durable_end();
            drop(topic);

            let start = Instant::now();
            let topic = Topic::open(&environment, &topic_folder, options)?;
            let opened = start.elapsed();
            let start = Instant::now();
            let mut at = 0;
            while at < topic.durable_end() {
                at = topic.read(at, 1 << 20)?.next_offset();
            }
            let read = records as f64 / start.elapsed().as_secs_f64();
            println!(
                "{name:>5}, {per_append:>3} records an append: {:>9.0} appended/s, {:>9.0} read/s, {:>4.1} bytes a record, opened in {opened:.1?}",
                records as f64 / taken.as_secs_f64(),
                read,
                topic.bytes_on_disk() as f64 / records as f64,
            );
        }
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Syncs a second of the disk itself.
fn raw(environment: &Environment, folder: &Path, duration: Duration) -> std::io::Result<f64> {
    environment.storage.create_dir_all(folder)?;
    let path = folder.join("raw");
    let mut file = environment.storage.open_append(&path)?;
    let start = Instant::now();
    let mut count = 0;
    while start.elapsed() < duration {
        file.append(&[7; 4096])?;
        file.sync()?;
        count += 1;
    }
    let rate = f64::from(count) / start.elapsed().as_secs_f64();
    environment.storage.remove_file(&path)?;
    Ok(rate)
}

/// Appends from several threads, each with a bounded number of appends under way.
fn append(topic: &Arc<Topic>, duration: Duration, per_append: usize, inflight_max: u64) -> Duration {
    let start = Instant::now();
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            scope.spawn(move || {
                let answered = Arc::new(AtomicU64::new(0));
                let value = sample(thread);
                let mut sent = 0;
                while start.elapsed() < duration {
                    while sent - answered.load(Ordering::Acquire) >= inflight_max {
                        std::thread::yield_now();
                    }
                    let mut batch = BatchBuilder::with_capacity(per_append * (VALUE_BYTES + 64));
                    for nth in 0..per_append {
                        let from = (sent as usize + nth) % 1000;
                        batch.push(sent as i64, None, b"client 192.168.0.1", &value[from..from + VALUE_BYTES]);
                    }
                    let told = answered.clone();
                    let done = move |outcome: Result<_, AppendError>| {
                        if let Err(error) = outcome {
                            eprintln!("{error}");
                        }
                        told.fetch_add(1, Ordering::Release);
                    };
                    topic.append_encoded(batch.finish(), Box::new(done));
                    sent += 1;
                }
                while answered.load(Ordering::Acquire) < sent {
                    std::thread::yield_now();
                }
            });
        }
    });
    start.elapsed()
}

/// Text that compresses about as events do.
fn sample(thread: u64) -> Vec<u8> {
    let mut text = String::new();
    let mut number = 0x9e37_79b9_7f4a_7c15_u64 ^ thread;
    while text.len() < 2000 {
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        text.push_str(&format!(
            "{{\"user_id\":{},\"page\":\"/item/{}\",\"ms\":{}}}",
            number >> 40,
            number >> 52,
            number >> 56
        ));
    }
    text.into_bytes()
}
