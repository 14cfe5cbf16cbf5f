//! One life of the process: what `weir run` opens, in its order, and what its loop does, one step at a time.

use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::Value;
use weir_connectors::sources::beacon::BeaconInput;
use weir_environment::{Environment, Lock};
use weir_incremental::checkpoint::CheckpointStore;
use weir_journal::Topic;
use weir_journal::topic::TopicOptions;
use weir_pipeline::contents::Snapshot;
use weir_pipeline::core::{Core, EpochPart, PendingCheckpoint};
use weir_pipeline::feed::{FeedSpec, FeedStatus, Feeder, SharedFeedStatus};
use weir_pipeline::frames::InputPosition;
use weir_pipeline::input::{Cursor, InputRef};
use weir_pipeline::intake::Intake;
use weir_pipeline::prepare::SourceReader;
use weir_pipeline::recompute::Recomputed;
use weir_pipeline::spec::PipelineSpec;

use crate::bugs::Bug;
use crate::lake::SimulatedLake;
use crate::oracle::{Facts, Found, Oracle};
use crate::project::{FOLDER, ROLLUP, SHELF, SITE, UNPRICED};
use crate::shelf::{Place, Shelf};
use crate::sink::{Destination, SimulatedSink};

/// Why a step did not come to its end.
#[derive(Debug, Clone)]
pub enum Trouble {
    /// A promise is broken.
    Violation(String),
    /// The product reported an error: right if there is a reason for it.
    Failed(String),
}

/// An error of the product, with what was tried.
pub fn failed<E: std::fmt::Display>(action: &str) -> impl FnOnce(E) -> Trouble {
    move |error| Trouble::Failed(format!("{action}: {error}"))
}

/// A destination and what it follows.
#[derive(Debug, Clone)]
pub struct Following {
    /// The relation.
    pub relation: &'static str,
    /// The destination.
    pub destination: Arc<Mutex<Destination>>,
    /// Whether it waits while the check is violated.
    pub held: bool,
}

/// What there is outside of the process.
pub struct Outside<'a> {
    /// The machine.
    pub environment: &'a Environment,
    /// The project.
    pub spec: &'a Arc<PipelineSpec>,
    /// The lake.
    pub lake: &'a Arc<SimulatedLake>,
    /// Destinations.
    pub sinks: &'a [Following],
    /// Length of a segment of the log.
    pub segment_bytes: u64,
    /// A planted bug.
    pub bug: Option<Bug>,
}

/// An input, read ahead of the loop.
pub struct Reading {
    /// The input.
    pub input: InputRef,
    /// Readers of its sources.
    pub readers: Vec<Arc<SourceReader>>,
    /// Where the next poll begins.
    pub cursor: Cursor,
}

/// What the process has open.
pub struct Process {
    /// The loop's core.
    pub core: Core,
    /// Where checkpoints go.
    pub store: CheckpointStore,
    /// The beacon's log.
    pub topic: Arc<Topic>,
    /// Inputs, numbered as in the intake.
    pub inputs: Vec<(String, Reading)>,
    /// What was read ahead.
    pub intake: Intake,
    /// Sinks.
    pub feeders: Vec<(Feeder, SharedFeedStatus)>,
    /// A checkpoint that is taken and not written yet.
    pub checkpoint: Option<PendingCheckpoint>,
    /// What a recomputation reads.
    pub recomputing: Option<Snapshot>,
    /// A result that waits for its epoch.
    pub recomputed: Vec<Recomputed>,
    /// What readers have pinned.
    pub pinned: Vec<Snapshot>,
    _lock: Box<dyn Lock>,
}

impl Process {
    /// Opens everything, in the order of the binary.
    pub fn open(outside: &Outside<'_>) -> Result<Self, Trouble> {
        let Outside { environment, spec, lake, sinks, .. } = outside;
        let folder = Path::new(FOLDER);
        let storage = &environment.storage;
        storage.create_dir_all(folder).map_err(failed("creating the folder"))?;
        let lock = storage.lock(&folder.join("lock")).map_err(failed("locking"))?;
        let store =
            CheckpointStore::open(environment, &folder.join("checkpoints")).map_err(failed("opening checkpoints"))?;
        let history = Arc::clone(lake);
        let core = Core::open(environment, Arc::clone(spec), history, &store).map_err(failed("recovering"))?;
        let log = folder.join("log").join(SITE);
        storage.create_dir_all(&log).map_err(failed("creating the log's folder"))?;
        let options = TopicOptions { segment_bytes: outside.segment_bytes, ..TopicOptions::default() };
        let topic = Topic::open_unattended(environment, &log, options).map_err(failed("opening the log"))?;

        let mut inputs = Vec::new();
        let mut intake = Intake::default();
        for (name, indices) in spec.inputs() {
            let readers = indices.iter().map(|index| spec.sources[*index].reader.clone()).collect();
            let input: InputRef = match name.as_str() {
                SHELF => Arc::new(Shelf::new(storage.clone())),
                _ => Arc::new(BeaconInput::new(topic.clone())),
            };
            let mut position = core.last().inputs.get(&name).cloned().unwrap_or_default();
            if outside.bug == Some(Bug::SkipForgotten) {
                position.skip = 0;
            }
            if outside.bug == Some(Bug::CursorBeforeData) && name == SITE {
                position = InputPosition {
                    cursor: Cursor(format!("{{\"next\":{}}}", topic.durable_end())),
                    ..InputPosition::default()
                };
            }
            intake.add_input(&name, &position);
            inputs.push((name, Reading { input, readers, cursor: position.cursor }));
        }
        let feeders = sinks.iter().map(|sink| feeder(sink, &core)).collect();
        Ok(Self {
            core,
            store,
            topic,
            inputs,
            intake,
            feeders,
            checkpoint: None,
            recomputing: None,
            recomputed: Vec::new(),
            pinned: Vec::new(),
            _lock: lock,
        })
    }

    /// Shows the oracle what the log holds.
    pub fn show_log(&self, oracle: &mut Oracle) -> Result<(), Trouble> {
        let (begin, end) = (self.topic.begin(), self.topic.durable_end());
        let mut blocks = Vec::new();
        let mut at = begin;
        while at < end {
            let block = self.topic.read(at, 4096).map_err(failed("reading the log"))?;
            if block.is_empty() {
                return Err(Trouble::Violation(format!("the log ends at {end}, and has nothing at {at}")));
            }
            at = block.next_offset();
            blocks.push(block);
        }
        let found = blocks.iter().flat_map(|block| {
            (0..block.len()).map(|index| Found { arrival: block.arrivals[index], raw: block.value(index) })
        });
        oracle.look_at_log(begin, &found.collect::<Vec<_>>()).map_err(Trouble::Violation)
    }
}

fn feeder(sink: &Following, core: &Core) -> (Feeder, SharedFeedStatus) {
    let status = Arc::new(Mutex::new(FeedStatus::default()));
    let checks = core.spec().checks().filter(|(name, _)| sink.held && name.as_ref() == UNPRICED);
    let held_by = checks.map(|(name, check)| (name.clone(), check.clone())).collect();
    let spec = FeedSpec {
        name: sink.relation.into(),
        relation: sink.relation.into(),
        predicate: None,
        where_sql: None,
        hold_on_error: false,
        held_by,
        reload_ahead: false,
        sink: Box::new(SimulatedSink(sink.destination.clone())),
    };
    (Feeder::new(spec, core.contents().clone(), status.clone()), status)
}

/// How far an epoch comes that takes these parts after `facts`.
pub fn facts_with(facts: Facts, parts: &[EpochPart], rolled_up: &[Recomputed], oracle: &Oracle) -> Option<Facts> {
    let mut facts = facts;
    for part in parts {
        advance(&mut facts, &part.input, &part.cursor, part.skip, oracle)?;
    }
    facts.rolled_up = rolled_up.last().map(|found| found.at.epoch).or(facts.rolled_up);
    Some(facts)
}

/// What the last commit record says of its epoch.
pub fn facts_of(core: &Core, oracle: &Oracle) -> Option<Facts> {
    let record = core.last();
    let mut facts = Facts { clock: record.clock, ..Facts::default() };
    for (name, position) in &record.inputs {
        advance(&mut facts, name, &position.cursor, position.skip, oracle)?;
    }
    facts.rolled_up = record.recomputed.get(ROLLUP).map(|at| at.epoch);
    Some(facts)
}

fn advance(facts: &mut Facts, input: &str, cursor: &Cursor, skip: u64, oracle: &Oracle) -> Option<()> {
    let skip = usize::try_from(skip).ok()?;
    if input == SHELF {
        let place = Place::of(cursor)?;
        facts.lines = oracle.lines_before(place.file, place.line).checked_add(skip)?;
    } else {
        let next = match cursor.0.as_str() {
            "" => 0,
            text => serde_json::from_str::<Value>(text).ok()?["next"].as_u64()?,
        };
        facts.records = usize::try_from(next).ok()? + skip;
    }
    Some(())
}
