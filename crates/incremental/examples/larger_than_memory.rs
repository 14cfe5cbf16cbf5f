//! What state larger than memory costs: an aggregate and an upsert over many keys, within a share of the memory that
//! they would take, and a restart from their checkpoint.
//!
//! `cargo run --release -p weir-incremental --example larger_than_memory [KEYS] [SHARE] [FOLDER]`
//!
//! Rows are of 16 bytes: a key and an amount. First each key comes once, then keys drawn from all alike, then nine of
//! ten from one hundredth of them. A checkpoint is taken after every fourth epoch and written by another thread.

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::collections::HashMap;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;
use weir_environment::Environment;
use weir_incremental::checkpoint::{CheckpointStore, StateChanges};
use weir_incremental::{Dataflow, Delta, EngineError, ModelPlan, Planner, Relation, RelationTraits};

const EPOCH_ROWS: usize = 256 * 1024;
const CHECKPOINT_EPOCHS: u64 = 4;
/// About what one key takes in memory, in either query.
const KEY_BYTES: usize = 75;
const QUERIES: [(&str, &str); 2] = [
    ("aggregate", "SELECT key, count(*) AS count, sum(amount) AS total FROM events GROUP BY key"),
    ("upsert", "SELECT DISTINCT key, amount FROM events"),
];

type Failure = Box<dyn Error>;

fn schema() -> SchemaRef {
    let column = |name: &str| Field::new(name, DataType::Int64, true);
    Arc::new(Schema::new(vec![column("key"), column("amount")]))
}

fn model(sql: &str) -> Result<ModelPlan, Failure> {
    let mut planner = Planner::new(&|_| Ok(()))?;
    planner.add_relation("events".into(), schema(), RelationTraits::default());
    Ok(planner.plan("model", sql)?)
}

fn graph(model: &ModelPlan) -> Result<Dataflow, EngineError> {
    Dataflow::build(std::slice::from_ref(model), &[("events".into(), schema())])
}

/// Keys in no order, and how often each was changed.
struct Keys {
    count: u64,
    versions: Vec<u8>,
    drawn: u64,
}

impl Keys {
    fn draw(&mut self) -> u64 {
        self.drawn = self.drawn.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.drawn >> 24
    }

    fn amount(&self, place: u64) -> i64 {
        i64::from(self.versions[place as usize]) * 1_000_003 + place as i64
    }

    /// Changes of the keys at these places: for an upsert the old row goes and a new one comes.
    fn delta(&mut self, places: &[u64], upsert: bool, first: bool) -> Result<Delta, Failure> {
        let (mut keys, mut amounts, mut weights) = (Vec::new(), Vec::new(), Vec::new());
        for &place in places {
            let key = (place.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 1) as i64;
            if upsert && !first {
                keys.push(key);
                amounts.push(self.amount(place));
                weights.push(-1);
            }
            if !first {
                self.versions[place as usize] = self.versions[place as usize].wrapping_add(1);
            }
            keys.push(key);
            amounts.push(self.amount(place));
            weights.push(1);
        }
        let columns: Vec<ArrayRef> = vec![Arc::new(Int64Array::from(keys)), Arc::new(Int64Array::from(amounts))];
        Ok(Delta::new(RecordBatch::try_new(schema(), columns)?, Int64Array::from(weights)))
    }
}

/// A figure of this process, from the kernel, in bytes.
fn memory(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) * 1024
}

struct Runner {
    graph: Dataflow,
    store: Arc<CheckpointStore>,
    budget: usize,
    epoch: u64,
    writing: Option<JoinHandle<Result<(), EngineError>>>,
    stepping: f64,
}

impl Runner {
    fn step(&mut self, delta: Delta) -> Result<(), Failure> {
        let start = Instant::now();
        let inputs: HashMap<Relation, Delta> = HashMap::from([("events".into(), delta)]);
        self.epoch += 1;
        self.graph.step(self.epoch as i64, &inputs)?;
        let mut fits = self.graph.keep_within(self.budget);
        if self.writing.as_ref().is_some_and(|writing| writing.is_finished() || !fits) {
            fits = self.finish_checkpoint()?;
        }
        if self.writing.is_none() && (self.epoch.is_multiple_of(CHECKPOINT_EPOCHS) || !fits) {
            let mut changes = StateChanges::default();
            self.graph.state_changes(&mut |state, key, value| changes.put_key(state, key, value));
            let (store, epoch) = (self.store.clone(), self.epoch);
            self.writing = Some(std::thread::spawn(move || store.write(epoch, &mut changes, b"")));
        }
        self.stepping += start.elapsed().as_secs_f64();
        Ok(())
    }

    fn finish_checkpoint(&mut self) -> Result<bool, Failure> {
        if let Some(writing) = self.writing.take() {
            writing.join().map_err(|_| "the writer panicked")??;
            self.graph.durable();
        }
        Ok(self.graph.keep_within(self.budget))
    }
}

fn run(name: &str, sql: &str, keys: u64, share: f64, folder: &Path) -> Result<(), Failure> {
    let environment = Environment::real();
    let store = Arc::new(CheckpointStore::open(&environment, folder)?);
    let mut graph = graph(&model(sql)?)?;
    graph.attach(&store.reader(), true)?;
    let budget = (keys as f64 * KEY_BYTES as f64 * share) as usize;
    let mut runner = Runner { graph, store, budget, epoch: 0, writing: None, stepping: 0.0 };
    let mut drawn = Keys { count: keys, versions: vec![0; keys as usize], drawn: 1 };
    let upsert = name == "upsert";
    println!("{name}: {keys} keys, budget of state {:.0} MB", budget as f64 / 1e6);
    let changes = (keys as usize / 2).max(8 * EPOCH_ROWS);
    for (phase, rows) in [("first rows", keys as usize), ("all alike", changes), ("nine of ten hot", changes)] {
        // The kernel starts the peak anew.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        runner.stepping = 0.0;
        let mut peak = 0;
        let start = Instant::now();
        for from in (0..rows).step_by(EPOCH_ROWS) {
            let count = EPOCH_ROWS.min(rows - from);
            let places: Vec<u64> = match phase {
                "first rows" => (from as u64..(from + count) as u64).collect(),
                "all alike" => (0..count).map(|_| drawn.draw() % drawn.count).collect(),
                _ => {
                    let mut place = || {
                        let below = if drawn.draw() % 10 < 9 { drawn.count / 100 } else { drawn.count };
                        drawn.draw() % below
                    };
                    (0..count).map(|_| place()).collect()
                }
            };
            runner.step(drawn.delta(&places, upsert, phase == "first rows")?)?;
            peak = peak.max(runner.graph.state_bytes());
        }
        println!(
            "  {phase:<16} {:>7.0} k rows/s ({:.1} s in all); state {:.0} MB at most after an epoch, process {:.0} MB, peak {:.0} MB",
            rows as f64 / runner.stepping / 1e3,
            start.elapsed().as_secs_f64(),
            peak as f64 / 1e6,
            memory("VmRSS") as f64 / 1e6,
            memory("VmHWM") as f64 / 1e6,
        );
    }
    runner.finish_checkpoint()?;
    std::fs::write(folder.with_extension("versions"), &drawn.versions)?;
    let mut changes = StateChanges::default();
    runner.graph.state_changes(&mut |state, key, value| changes.put_key(state, key, value));
    let start = Instant::now();
    runner.store.write(runner.epoch, &mut changes, b"")?;
    println!(
        "  last checkpoint of {} changes: {:.1} s; {:.0} MB on disk",
        changes.len(),
        start.elapsed().as_secs_f64(),
        runner.store.bytes_on_disk() as f64 / 1e6
    );
    Ok(())
}

/// In a process of its own: how soon the first epoch is through, and what memory it takes.
fn restart(name: &str, sql: &str, keys: u64, share: f64, folder: &Path) -> Result<(), Failure> {
    let budget = (keys as f64 * KEY_BYTES as f64 * share) as usize;
    let model = model(sql)?;
    let mut drawn = Keys { count: keys, versions: std::fs::read(folder.with_extension("versions"))?, drawn: 7 };
    let before = memory("VmRSS");
    let start = Instant::now();
    let store = Arc::new(CheckpointStore::open(&Environment::real(), folder)?);
    let mut graph = graph(&model)?;
    graph.attach(&store.reader(), false)?;
    let attached = start.elapsed().as_secs_f64();
    let mut runner = Runner { graph, store, budget, epoch: 1 << 32, writing: None, stepping: 0.0 };
    for (number, rows) in [1000, EPOCH_ROWS, EPOCH_ROWS, EPOCH_ROWS, EPOCH_ROWS].into_iter().enumerate() {
        let places: Vec<u64> = (0..rows).map(|_| drawn.draw() % drawn.count).collect();
        let delta = drawn.delta(&places, name == "upsert", false)?;
        runner.step(delta)?;
        if number == 0 || number == 1 || number == 4 {
            println!(
                "  restart: opened after {attached:.3} s, epoch {} of {rows} rows done after {:.3} s; process {:.0} MB before, peak {:.0} MB",
                number + 1,
                start.elapsed().as_secs_f64(),
                before as f64 / 1e6,
                memory("VmHWM") as f64 / 1e6,
            );
        }
    }
    runner.finish_checkpoint()?;
    Ok(())
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let text = |place: usize| arguments.get(place).map(String::as_str);
    let keys: u64 = text(0).unwrap_or("10000000").parse()?;
    let share: f64 = text(1).unwrap_or("0.1").parse()?;
    let folder = text(2).map_or_else(|| std::env::temp_dir().join("weir-larger-than-memory"), PathBuf::from);
    for (name, sql) in QUERIES {
        let folder = folder.join(name);
        match text(3) {
            Some(only) if only == name => return restart(name, sql, keys, share, &folder),
            Some(_) => {}
            None => {
                let _ = std::fs::remove_dir_all(&folder);
                run(name, sql, keys, share, &folder)?;
                let mut again = std::process::Command::new(std::env::current_exe()?);
                again.args([&keys.to_string(), &share.to_string()]).arg(folder.parent().unwrap_or(&folder)).arg(name);
                again.status()?;
                std::fs::remove_dir_all(&folder)?;
                std::fs::remove_file(folder.with_extension("versions"))?;
            }
        }
    }
    Ok(())
}
