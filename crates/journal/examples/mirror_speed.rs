//! What a mirror costs: records acknowledged per second without one, with one that follows, and with one kept in step.
//!
//! `cargo run --release -p weir-journal --example mirror_speed [SECONDS] [SENDERS] [FOLDER] [MIRROR]`; the folders are on
//! one disk unless told otherwise, which then syncs everything twice.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use weir_environment::Environment;
use weir_environment::mirror::{FolderTarget, Keeping, Mirror, MirrorMode, MirrorSettings, Root};
use weir_journal::{Record, Topic, TopicOptions};

/// Records of one append, as of one request.
const RECORDS: usize = 20;
const VALUE_BYTES: usize = 150;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |index: usize, default: u64| arguments.get(index).map_or(Ok(default), |text| text.parse());
    let (seconds, senders) = (number(1, 3)?, number(2, 64)?);
    let folder = arguments.get(3).map_or_else(|| std::env::temp_dir().join("weir-mirror-speed"), PathBuf::from);
    let second = arguments.get(4).map_or_else(|| folder.join("mirror"), PathBuf::from);
    let mut ratios = [Vec::new(), Vec::new()];
    for round in 0..5 {
        let mut rates = Vec::new();
        for mode in [None, Some(MirrorMode::Async), Some(MirrorMode::Sync)] {
            let name = format!("{round}-{mode:?}");
            let rate = measure(&folder.join(&name), &second.join(&name), mode, Duration::from_secs(seconds), senders)?;
            rates.push(rate);
        }
        println!("records/s: no mirror {:.0}, follows {:.0}, in step {:.0}", rates[0], rates[1], rates[2]);
        ratios[0].push(rates[1] / rates[0]);
        ratios[1].push(rates[2] / rates[0]);
    }
    ratios.iter_mut().for_each(|of_five| of_five.sort_by(f64::total_cmp));
    println!("ratio to no mirror (middle of five): follows {:.2}, in step {:.2}", ratios[0][2], ratios[1][2]);
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

fn measure(
    folder: &Path,
    second: &Path,
    mode: Option<MirrorMode>,
    time: Duration,
    senders: u64,
) -> Result<f64, Box<dyn std::error::Error>> {
    let mut environment = Environment::real();
    let mut mirror = None;
    if let Some(mode) = mode {
        let target = Arc::new(FolderTarget::new(environment.storage.clone(), second));
        let root =
            Root { folder: folder.join("log"), name: "log", keeping: Keeping::Acknowledged, order: Root::by_name };
        let settings = MirrorSettings { mode, lag_max: Duration::from_secs(10), lag_bytes_max: 64 << 20 };
        let opened = Mirror::new(&environment, target, vec![root], settings);
        opened.level(&|_| {})?;
        environment = opened.start();
        mirror = Some(opened);
    }
    let topic = Topic::open(&environment, folder.join("log"), TopicOptions::default())?;
    let start = Instant::now();
    std::thread::scope(|scope| {
        for sender in 0..senders {
            let topic = topic.clone();
            scope.spawn(move || {
                let value = format!("{sender:0width$}", width = VALUE_BYTES).into_bytes();
                let records = vec![Record { value: value.into(), ..Record::default() }; RECORDS];
                while start.elapsed() < time {
                    // One that is refused is not counted.
                    let _ = topic.append_blocking(&records);
                }
            });
        }
    });
    let rate = topic.durable_end() as f64 / start.elapsed().as_secs_f64();
    drop(topic);
    if let Some(mirror) = mirror {
        mirror.close();
    }
    Ok(rate)
}
