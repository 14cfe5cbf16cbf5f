//! Rows of the examples, asked about one after the other: the models, run over nothing but the raw bytes of the records
//! that are named, must give the row.
//!
//! `WEIR_WHY_ROWS` says how many rows are asked about, `WEIR_WHY_EVENTS` among how many events, `WEIR_WHY_SEED` which;
//! `WEIR_WHY_PAYMENTS` among how many payments.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow::array::{ArrayRef, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::concat_batches;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, watch};
use weir_connectors::sources::beacon::Origin;
use weir_incremental::batch::{self, BatchLimits};
use weir_incremental::{ModelPlan, Relation};
use weir_journal::{BatchBuilder, Topic};
use weir_pipeline::activity::Activity;
use weir_pipeline::input::Chunk;
use weir_pipeline::prepare::prepare_chunk;
use weir_pipeline::runtime::{self, Run, RunMode};
use weir_pipeline::spec::SourceSpec;
use weir_pipeline::why::{Answer, Present, Question};
use weir_project::Project;
use weir_schemas::{Attribute, Attributes, Records};

use super::Origins;
use crate::host::{Host, OpenOptions};
use crate::payments::{Plan, generate};
use crate::progress::Progress;
use crate::service::{Service, ServiceParts};
use crate::visitors::Visitors;
use crate::wiring::{open_inputs, topic_options};

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("the example") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

/// Puts events into the log, as the beacon does.
fn log(project: &Project, seed: u64, events: usize) {
    let environment = weir_environment::Environment::real();
    let mut visitors = Visitors::new(seed);
    let topics: Vec<(&str, Arc<Topic>)> = ["site", "backend"]
        .into_iter()
        .map(|name| {
            let folder = project.settings.log.path.join(name);
            environment.storage.create_dir_all(&folder).expect("a folder");
            (name, Topic::open(&environment, &folder, topic_options(project)).expect("a topic"))
        })
        .collect();
    let (done, all_done) = std::sync::mpsc::channel();
    let mut now = environment.clock.now() - 3_600_000_000;
    for _ in 0..events.div_ceil(100) {
        now += 1_000_000;
        let made = visitors.tick(100, now);
        for ((_, topic), events) in topics.iter().zip([made.site, made.backend]) {
            let headers = Origin { client_address: Some("10.0.0.1"), ..Origin::default() }.encode();
            let mut batch = BatchBuilder::with_capacity(1 << 16);
            for event in &events {
                batch.push(now, None, &headers, event.to_string().as_bytes());
            }
            if !events.is_empty() {
                let done = done.clone();
                topic.append_encoded(
                    batch.finish(),
                    Box::new(move |result| done.send(result.is_ok()).expect("a listener")),
                );
            }
        }
    }
    drop(done);
    assert!(all_done.iter().all(|appended| appended), "everything is in the log");
    topics.iter().for_each(|(_, topic)| topic.close());
}

/// Takes in everything, as `weir run --once` does.
async fn take_in(project: Project) {
    let host = Host::open(project, &OpenOptions::default(), &Progress::new()).await.expect("it opens");
    let inputs = open_inputs(&host.environment, &host.project, &host.spec, &host.core.last().inputs).expect("inputs");
    let (_control, controls) = mpsc::channel(1);
    let (_stop, stopped) = watch::channel(false);
    let run = Run {
        core: host.core,
        store: host.store,
        inputs: inputs.inputs,
        feeds: Vec::new(),
        settings: host.spec.settings.clone(),
        environment: host.environment,
        progress: Arc::new(runtime::Progress::default()),
        copies: None,
    };
    runtime::run(run, RunMode::Once, controls, stopped).await.expect("it runs");
    inputs.topics.values().for_each(|topic| topic.close());
}

/// The first lines of CSV files, by source: what their records need to be understood.
type Heads = BTreeMap<&'static str, String>;

/// The rows that raw records become, by a decoder and nothing else.
fn decoded(source: &SourceSpec, raw: &[String], preamble: &str, now: i64) -> RecordBatch {
    let mut buffer = Vec::new();
    let mut ranges = Vec::new();
    for record in raw {
        ranges.push((buffer.len() as u32, record.len() as u32));
        buffer.extend_from_slice(record.as_bytes());
        buffer.push(b'\n');
    }
    let arrivals: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![now; raw.len()]).with_timezone("UTC"));
    let chunk = Chunk {
        offsets: (0..raw.len() as u64).collect(),
        arrivals: vec![now; raw.len()],
        attributes: Attributes { columns: vec![(Attribute::Arrival, arrivals)] },
        records: Records { preamble: bytes::Bytes::from(preamble.to_owned()), ..Records::new(buffer.into(), ranges) },
        ..Chunk::default()
    };
    let rows = prepare_chunk(std::slice::from_ref(&source.reader), chunk).sources.remove(0).rows;
    assert_eq!(rows.num_rows(), raw.len(), "every record of {} is one", source.name);
    rows
}

/// Whether the models give the row over the records that the answer names.
async fn gives_again(
    service: &Service,
    heads: &Heads,
    (model, row): (&Relation, &serde_json::Value),
    answer: &Present,
    now: i64,
) -> Result<(), String> {
    let mut tables: HashMap<Relation, Arc<dyn TableProvider>> = HashMap::new();
    for source in &service.spec.sources {
        let told = answer.sources.iter().find(|told| *told.source == *source.name);
        let records = told.map_or(&[][..], |told| &told.records);
        let rows = told.map_or(0, |told| told.rows);
        if records.len() as u64 != rows {
            return Err(format!("{} records are named for {rows} rows of {}", records.len(), source.name));
        }
        let raw: Option<Vec<String>> = records.iter().map(|record| record.raw.clone()).collect();
        let raw = raw.ok_or_else(|| format!("a record of {} has no bytes", source.name))?;
        let head = heads.get(source.name.as_ref()).map_or("", String::as_str);
        let rows = decoded(source, &raw, head, now);
        let table = MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("rows");
        tables.insert(source.name.clone(), Arc::new(table));
    }
    let mut given = Vec::new();
    for spec in &service.spec.models {
        let plan: &ModelPlan = &spec.plan;
        let output = batch::run(plan, &|name| tables.get(name).cloned(), now, BatchLimits::default()).await;
        let output = output.map_err(|error| error.to_string())?;
        if plan.name == *model {
            given = output.rows.iter().flat_map(weir_schemas::to_json_rows).collect();
        }
        let table = MemTable::try_new(plan.schema.clone(), vec![output.rows]).expect("rows");
        tables.insert(plan.name.clone(), Arc::new(table));
    }
    if given.contains(row) { Ok(()) } else { Err(format!("{row} is not among {} rows that are given", given.len())) }
}

#[test]
fn rows_of_the_shop_come_from_the_records_that_are_named() {
    let events = from_environment("WEIR_WHY_EVENTS", 2000) as usize;
    let heads = Heads::from([("customers", "customer_id,name,country,since".to_owned())]);
    hold("shop", &|project, seed| log(project, seed, events), &|_| heads.clone(), 6);
}

#[test]
fn rows_of_the_payments_come_from_the_records_that_are_named() {
    let payments = from_environment("WEIR_WHY_PAYMENTS", 300);
    let fill = |project: &Project, seed: u64| {
        let plan = Plan { payments, days: 3, faults: 3, seed };
        generate(&project.dir.join("data"), plan).expect("files");
    };
    let head = |project: &Project, folder: &str| {
        let files = std::fs::read_dir(project.dir.join("data").join(folder)).expect("files").flatten();
        let file = files.map(|file| file.path()).min().expect("a file");
        std::fs::read_to_string(file).expect("text").lines().next().unwrap_or_default().to_owned()
    };
    let heads = |project: &Project| {
        Heads::from([("processor_lines", head(project, "processor")), ("bank_lines", head(project, "bank"))])
    };
    hold("payments", &fill, &heads, 10);
}

/// Asks about rows of an example's models, of each in turn.
fn hold(example: &str, fill: &dyn Fn(&Project, u64), heads: &dyn Fn(&Project) -> Heads, models_min: usize) {
    let (rows, seed) = (from_environment("WEIR_WHY_ROWS", 30), from_environment("WEIR_WHY_SEED", 1));
    let folder = tempfile::tempdir().expect("a folder");
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("example").join(example), folder.path());
    let project = Project::read(folder.path(), None).project.expect("the example is sound");
    fill(&project, seed);
    let heads = heads(&project);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        take_in(project.clone()).await;
        let mut host = Host::open(project, &OpenOptions::default(), &Progress::new()).await.expect("it opens");
        let inputs =
            open_inputs(&host.environment, &host.project, &host.spec, &host.core.last().inputs).expect("inputs");
        let origins = Some(Origins::of(&host, &inputs));
        let activity = Mutex::new(Activity::at_rest(host.core.operators()));
        let service = Service::new(ServiceParts {
            spec: host.spec.clone(),
            contents: host.core.contents().clone(),
            indexes: host.core.indexes().clone(),
            ledger: host.core.ledger().clone(),
            progress: Arc::new(runtime::Progress { activity, ..runtime::Progress::default() }),
            origins,
            control: None,
            stop: None,
            mirror: None,
            backups: None,
        });
        let snapshot = service.contents.pin();
        let mut all: BTreeMap<Relation, RecordBatch> = BTreeMap::new();
        for spec in &service.spec.models {
            let table = snapshot.table(&spec.plan.name).await.expect("contents");
            let context = datafusion::prelude::SessionContext::new();
            let batches = context.read_table(table).expect("a table").collect().await.expect("rows");
            let batches: Vec<RecordBatch> = batches
                .iter()
                .map(|b| RecordBatch::try_new(spec.plan.schema.clone(), b.columns().to_vec()).expect("its columns"))
                .collect();
            let contents = concat_batches(&spec.plan.schema, &batches).expect("rows");
            if contents.num_rows() > 0 {
                all.insert(spec.plan.name.clone(), contents);
            }
        }
        let names: Vec<Relation> = all.keys().cloned().collect();
        assert!(names.len() >= models_min, "most models have rows: {names:?}");
        let mut random = StdRng::seed_from_u64(seed);
        let (mut failed, mut longest, mut total) = (Vec::new(), Duration::ZERO, Duration::ZERO);
        for number in 0..rows as usize {
            let model = &names[number % names.len()];
            let contents = &all[model];
            let one = contents.slice(random.random_range(0..contents.num_rows()), 1);
            let row = weir_schemas::to_json_rows(&one).remove(0);
            let schema = one.schema();
            // By all columns that have a value: the row, and its equals.
            let key = schema.fields().iter().zip(one.columns()).filter(|(_, column)| column.is_valid(0));
            let text = |column: &ArrayRef| arrow::util::display::array_value_to_string(column, 0).expect("a value");
            let key = key.map(|(field, column)| (Some(field.name().clone()), text(column))).collect();
            let question = Question { model: model.to_string(), key, limit: usize::MAX, ..Question::default() };
            let started = Instant::now();
            let answer = service.answer_why(&question, 1 << 30).await.unwrap_or_else(|e| panic!("{model} {row}: {e}"));
            longest = longest.max(started.elapsed());
            total += started.elapsed();
            let Answer::Present(answer) = answer else { panic!("{model} {row}: it is there") };
            if !answer.reproduced {
                failed.push(format!("{model} {row}: the answer itself says that it does not hold"));
            }
            if let Err(why) = gives_again(&service, &heads, (model, &row), &answer, snapshot.clock).await {
                failed.push(format!("{model} {row}: {why}"));
            }
        }
        println!(
            "{rows} rows of {} models of {example}; {:?} a question, {longest:?} at most",
            names.len(),
            total / rows as u32
        );
        assert!(failed.is_empty(), "{} of {rows}\n{}", failed.len(), failed[..failed.len().min(5)].join("\n"));
        inputs.topics.values().for_each(|topic| topic.close());
    });
}
