//! What simulated runs have found, each in its shortest form, so that it stays found.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use parking_lot::Mutex;
use weir_connectors::sources::beacon::{EventLog, Submission};
use weir_environment::{Environment, Simulator};
use weir_incremental::Delta;
use weir_pipeline::EpochNumber;
use weir_pipeline::core::EpochInput;
use weir_pipeline::feed::{FeedSpec, Feeder, Step};
use weir_pipeline::history::History;
use weir_pipeline::prepare::prepare_poll;
use weir_pipeline::sink::{DeliveryClass, Sink, SinkError};
use weir_pipeline::spec::{LATE, PipelineSpec};
use weir_schemas::Records;
use weir_simulation::lake::{LandingFault, SimulatedLake};
use weir_simulation::process::{Outside, Process};
use weir_simulation::project::{CLICKS, Choice, OFFERS, compiled};
use weir_simulation::rows::{Rows, add_batch};
use weir_simulation::sink::{Destination, SimulatedSink};

struct Bench {
    simulator: Simulator,
    environment: Environment,
    spec: Arc<PipelineSpec>,
    lake: Arc<SimulatedLake>,
    process: Option<Process>,
}

impl Bench {
    fn new() -> Self {
        let (environment, simulator) = Environment::simulated(1);
        let spec = compiled(Choice { extent: 0, memory: 2 });
        let mut bench = Self { simulator, environment, spec, lake: Arc::default(), process: None };
        bench.open();
        bench
    }

    fn open(&mut self) {
        self.lake.open();
        let outside = Outside {
            environment: &self.environment,
            spec: &self.spec,
            lake: &self.lake,
            sinks: &[],
            segment_bytes: 1 << 20,
            bug: None,
        };
        self.process = Some(Process::open(&outside).unwrap_or_else(|trouble| panic!("{trouble:?}")));
    }

    fn kill(&mut self) {
        self.environment = self.simulator.kill();
        self.open();
    }

    fn process(&mut self) -> &mut Process {
        self.process.as_mut().unwrap()
    }

    /// Each record is a batch of the log.
    fn send(&mut self, records: &[String]) {
        let topic = self.process().topic.clone();
        for record in records {
            let bytes = Bytes::from(record.clone());
            let records = Records::new(bytes, vec![(0, record.len() as u32)]);
            let submission = Submission { arrival: 0, headers: Bytes::new(), records };
            EventLog::append(&*topic, submission, Box::new(|answer| assert!(answer.is_ok())));
            topic.write_queued();
        }
    }

    /// Polls the beacon until it has no more.
    async fn poll(&mut self, bytes_max: usize) {
        let process = self.process();
        let number = process.inputs.iter().position(|(name, _)| name == "site").unwrap();
        let reading = &mut process.inputs[number].1;
        loop {
            let polled = reading.input.poll(&reading.cursor, bytes_max).await.unwrap();
            if polled.cursor == reading.cursor {
                return;
            }
            reading.cursor = polled.cursor.clone();
            process.intake.push(number, prepare_poll(&reading.readers, polled));
        }
    }

    fn epoch(&mut self, rows_max: usize) {
        let process = self.process();
        let parts = process.intake.gather(rows_max);
        let mut pending = process.core.prepare_epoch(EpochInput { parts, ..EpochInput::default() }).unwrap();
        process.core.commit(&mut pending).unwrap();
    }

    async fn land(&mut self) -> Result<(), String> {
        let contents = self.process().core.contents().clone();
        let Some((epoch, landings)) = contents.to_land().unwrap() else { return Ok(()) };
        contents.history().land(epoch, landings).await.map_err(|error| error.to_string())?;
        contents.landed(epoch);
        Ok(())
    }
}

/// At so many minutes past noon.
fn click(id: i64, minute: i64) -> String {
    let (hour, minute) = (12 + minute.div_euclid(60), minute.rem_euclid(60));
    format!(r#"{{"kind": "click", "id": {id}, "offer": 1, "at": "2026-01-01T{hour:02}:{minute:02}:00Z"}}"#)
}

fn offer(price: i64, revision: i64) -> String {
    format!(r#"{{"kind": "offer", "offer": 1, "price": {price}, "revision": {revision}, "gone": false}}"#)
}

async fn rows(snapshot: &weir_pipeline::contents::Snapshot, relation: &str) -> Rows {
    let table = snapshot.table(&relation.into()).await.unwrap();
    let batches = datafusion::prelude::SessionContext::new().read_table(table).unwrap().collect().await.unwrap();
    let mut rows = Rows::new();
    for batch in &batches {
        let columns: Vec<usize> = (0..batch.num_columns()).collect();
        add_batch(&mut rows, batch, &columns, |_| 1);
    }
    rows
}

#[tokio::test]
async fn a_repeat_moves_the_watermark_and_a_restart_does_not_move_it_back() {
    let mut bench = Bench::new();
    // The second is a repeat, fifty minutes later: what is older than the fortieth minute is late from then on.
    bench.send(&[click(1, 0), click(1, 50)]);
    bench.poll(1 << 20).await;
    bench.epoch(100);
    bench.kill();
    bench.send(&[click(2, 30)]);
    bench.poll(1 << 20).await;
    bench.epoch(100);
    let snapshot = bench.process().core.contents().pin();
    assert_eq!(snapshot.totals(&LATE.into()).rows, 1, "the click of the thirtieth minute");
    assert_eq!(snapshot.totals(&CLICKS.into()).rows, 1);
}

#[tokio::test]
async fn a_reader_keeps_the_rows_that_its_tail_takes_back_from_being_merged_away() {
    let mut bench = Bench::new();
    bench.send(&[offer(1, 1)]);
    bench.poll(1 << 20).await;
    bench.epoch(100);
    bench.land().await.unwrap();
    bench.send(&[offer(2, 2)]);
    bench.poll(1 << 20).await;
    bench.epoch(100);
    // The lake has the first price for this reader, and its tail takes that back.
    let reader = bench.process().core.contents().pin();
    bench.land().await.unwrap();
    let horizon = bench.process().core.contents().oldest_pin();
    bench.lake.maintain(horizon).await.unwrap();
    let expected = Rows::from([("offer|1|2|2|false".to_owned(), 1)]);
    assert_eq!(rows(&reader, OFFERS).await, expected);
    drop(reader);
    assert_eq!(bench.process().core.contents().oldest_pin(), 2, "and not for longer than it reads");
    assert_eq!(rows(&bench.process().core.contents().pin(), OFFERS).await, expected);
}

#[tokio::test]
async fn polls_that_are_smaller_after_a_restart_double_nothing() {
    let mut bench = Bench::new();
    bench.send(&(0..9).map(|id| click(id, 0)).collect::<Vec<_>>());
    bench.poll(1 << 20).await;
    // Six records of a poll of nine are taken.
    bench.epoch(6);
    bench.kill();
    bench.poll(1).await;
    bench.epoch(1);
    bench.kill();
    bench.poll(1).await;
    while !bench.process().intake.is_empty() {
        bench.epoch(100);
    }
    let clicks = bench.process().core.last().counts[CLICKS];
    assert_eq!((clicks.records, clicks.admitted, clicks.duplicate), (9, 9, 0));
}

#[tokio::test]
async fn a_landing_whose_answer_was_lost_is_repeated_with_what_came_since_and_nothing_is_doubled() {
    for fault in [LandingFault::Unanswered, LandingFault::AfterTables(usize::MAX), LandingFault::AfterTables(2)] {
        for restarts in [false, true] {
            let mut bench = Bench::new();
            bench.send(&[offer(1, 1), click(1, 0), click(2, -60)]);
            bench.poll(1 << 20).await;
            bench.epoch(100);
            bench.lake.end_next(Some(fault));
            bench.land().await.unwrap_err();
            if restarts {
                bench.kill();
            }
            bench.send(&[click(3, -60), offer(2, 2)]);
            bench.poll(1 << 20).await;
            bench.epoch(100);
            bench.land().await.unwrap();
            let snapshot = bench.process().core.contents().pin();
            assert_eq!(rows(&snapshot, LATE).await.values().sum::<i64>(), 2, "{fault:?}, {restarts}");
            assert_eq!(rows(&snapshot, OFFERS).await, Rows::from([("offer|1|2|2|false".to_owned(), 1)]));
        }
    }
}

/// A destination that cannot be loaded anew at first.
#[derive(Debug)]
struct SlowToLoad(SimulatedSink, u32);

#[async_trait]
impl Sink for SlowToLoad {
    fn class(&self) -> DeliveryClass {
        self.0.class()
    }

    async fn cursor(&mut self) -> Result<Option<EpochNumber>, SinkError> {
        self.0.cursor().await
    }

    async fn apply(&mut self, epoch: EpochNumber, changes: &Delta) -> Result<(), SinkError> {
        self.0.apply(epoch, changes).await
    }

    async fn reload(&mut self, epoch: EpochNumber, contents: SendableRecordBatchStream) -> Result<(), SinkError> {
        if self.1 > 0 {
            self.1 -= 1;
            return Err(SinkError::Retry("not now".into()));
        }
        self.0.reload(epoch, contents).await
    }
}

#[tokio::test]
async fn what_a_destination_holds_of_another_history_is_never_continued() {
    const AHEAD: EpochNumber = 4;
    for reload_ahead in [false, true] {
        let mut bench = Bench::new();
        let foreign = Rows::from([("of another history".to_owned(), 1)]);
        let destination = Arc::new(Mutex::new(Destination::new(None)));
        (destination.lock().epoch, destination.lock().rows) = (Some(AHEAD), foreign.clone());
        let spec = FeedSpec {
            name: CLICKS.into(),
            relation: CLICKS.into(),
            predicate: None,
            where_sql: None,
            hold_on_error: false,
            held_by: Vec::new(),
            reload_ahead,
            sink: Box::new(SlowToLoad(SimulatedSink(destination.clone()), 1)),
        };
        let mut feeder = Feeder::new(spec, bench.process().core.contents().clone(), Arc::default());
        assert_eq!(feeder.advance().await, Step::Failed { refused: !reload_ahead });
        // The folder gets to the very epoch, and past it.
        for id in 0..3 * AHEAD as i64 {
            bench.send(&[click(id, id)]);
            bench.poll(1 << 20).await;
            bench.epoch(100);
            if bench.process().core.epoch() < AHEAD {
                continue;
            }
            let step = feeder.advance().await;
            if reload_ahead {
                assert_eq!(step, Step::Forward, "click {id}");
                let expected = rows(&bench.process().core.contents().pin(), CLICKS).await;
                assert_eq!(destination.lock().rows, expected);
            } else {
                assert_eq!(step, Step::Failed { refused: true }, "click {id}");
                assert_eq!(destination.lock().rows, foreign);
            }
        }
        assert!(bench.process().core.epoch() > 2 * AHEAD);
    }
}
