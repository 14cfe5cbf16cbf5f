//! The loop's core under crashes at any storage operation: after every restart each record is in exactly once, models equal
//! a batch run, and the ledger's chain holds. The same when the disk is lost at any operation, and a mirror restored.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, Int64Array, RecordBatch, UInt32Array};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use datafusion::prelude::SessionContext;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_environment::mirror::{
    FolderTarget, Keeping, Mirror, MirrorMode, MirrorSettings, MirrorTarget, Root, copy_back,
};
use weir_environment::{Entry, Environment};
use weir_incremental::batch::BatchLimits;
use weir_incremental::checkpoint::{self, CheckpointStore};
use weir_incremental::planner::{Planner, RelationTraits};
use weir_incremental::{Delta, Relation};
use weir_pipeline::EpochNumber;
use weir_pipeline::core::{Core, EpochInput, EpochPart, PipelineError, ReplayPart};
use weir_pipeline::history::{History, HistoryError, Landing, bookkept, with_bookkeeping};
use weir_pipeline::input::{Chunk, Cursor};
use weir_pipeline::ledger::replay;
use weir_pipeline::measure::MeasureSpec;
use weir_pipeline::prepare::{SourceReader, SourceReaderSpec, prepare_chunk};
use weir_pipeline::recompute::{Recomputed, recompute};
use weir_pipeline::spec::{LoopSettings, ModelSpec, PipelineSpec, QUARANTINE, SourceSpec, quarantine_schema};
use weir_pipeline::verify::verify;
use weir_project::{Check, CheckSeverity, Measure};
use weir_schemas::{Column, Contract, Origin, Records, UnknownFields};

type Landed = (EpochNumber, BTreeMap<Relation, Vec<(EpochNumber, Delta)>>);

/// Histories in memory that survive crashes, as a lake does. Where there is a mirror, an empty file stands for each landing,
/// and the contents after it are remembered.
#[derive(Default)]
struct MemoryHistory {
    state: Mutex<Landed>,
    mirrored: Mutex<Option<(Environment, Arc<Mirror>)>>,
    landings: Mutex<BTreeMap<EpochNumber, Landed>>,
}

const LAKE: &str = "/project/.weir/lake";

impl MemoryHistory {
    /// What a lake has that was restored with these files.
    fn restored(&self, files: Vec<Entry>) -> Self {
        let landings = self.landings.lock().clone();
        let last = files.iter().filter_map(|file| file.name.parse().ok()).max().unwrap_or(0);
        let state = landings.get(&last).cloned().unwrap_or_default();
        Self { state: Mutex::new(state), mirrored: Mutex::default(), landings: Mutex::new(landings) }
    }
}

#[async_trait]
impl History for MemoryHistory {
    fn landed(&self) -> EpochNumber {
        self.state.lock().0
    }

    async fn land(&self, epoch: EpochNumber, landings: Vec<Landing>) -> Result<(), HistoryError> {
        let mut state = self.state.lock();
        assert!(epoch > state.0, "the pipeline lands only what is not landed");
        let mut after = state.clone();
        for landing in landings {
            assert!(landing.changes.iter().all(|(e, _)| *e > state.0 && *e <= epoch));
            after.1.entry(landing.relation).or_default().extend(landing.changes);
        }
        after.0 = epoch;
        if let Some((environment, mirror)) = &*self.mirrored.lock() {
            let failed = |error: std::io::Error| HistoryError(error.to_string());
            self.landings.lock().insert(epoch, after.clone());
            environment.storage.create_dir_all(Path::new(LAKE)).map_err(failed)?;
            environment.storage.write_atomic(&Path::new(LAKE).join(format!("{epoch:020}")), b"").map_err(failed)?;
            mirror.ship("lake");
        }
        *state = after;
        Ok(())
    }

    async fn changes(
        &self,
        relation: &Relation,
        after: EpochNumber,
        up_to: EpochNumber,
    ) -> Result<Option<Arc<dyn TableProvider>>, HistoryError> {
        let state = self.state.lock();
        let Some(changes) = state.1.get(relation) else { return Ok(None) };
        let mut batches = Vec::new();
        let mut schema = None;
        for (epoch, delta) in changes {
            schema = Some(with_bookkeeping(&delta.schema()));
            if *epoch > after && *epoch <= up_to {
                batches.push(bookkept(*epoch, delta).unwrap());
            }
        }
        Ok(schema.map(|schema| {
            let table = datafusion::datasource::MemTable::try_new(schema, vec![batches]).unwrap();
            Arc::new(table) as Arc<dyn TableProvider>
        }))
    }

    fn horizon(&self, _relation: &Relation) -> EpochNumber {
        0
    }

    async fn maintain(&self, _horizon: EpochNumber) -> Result<(), HistoryError> {
        Ok(())
    }

    async fn drop_relation(&self, relation: &Relation) -> Result<(), HistoryError> {
        self.state.lock().1.remove(relation);
        Ok(())
    }

    async fn bytes(&self) -> Result<Vec<(Relation, u64)>, HistoryError> {
        Ok(Vec::new())
    }
}

fn column(name: &str, data_type: DataType) -> Column {
    Column { name: name.into(), data_type, required: false, origin: Origin::Field(vec![name.into()]), personal: false }
}

fn source(name: &str, columns: Vec<Column>, keys: Vec<usize>, deleted: Option<usize>, predicate: &str) -> SourceSpec {
    let contract = Contract { columns, unknown: UnknownFields::Drop };
    let format = weir_schemas::format_by_name("json", &Default::default()).unwrap();
    let fields: Vec<Field> = contract.columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), true)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let planner = Planner::new(&weir_functions::register).unwrap();
    let reader = SourceReader::new(SourceReaderSpec {
        name: name.into(),
        schema: schema.clone(),
        contract,
        format,
        predicate: Some(planner.expression(&schema, predicate).unwrap()),
        enrich: Vec::new(),
        time: None,
        ahead_max_us: None,
    });
    SourceSpec {
        name: name.into(),
        input: "site".into(),
        reader: Arc::new(reader.unwrap()),
        schema,
        lateness_us: None,
        keys,
        version: None,
        deleted,
        dedupe: None,
        measures: Vec::new(),
        quarantine_share_max: None,
    }
}

const UNPRICED: &str = "checks.unpriced";
const TOLERANCE: u64 = 2;
const CLICKS: &str = "clicks";
const OFFERS: &str = "offers";
const ROLLUP: &str = "rollup";

/// Sums that the ledger keeps, by relation.
const MEASURES: [(&str, &str); 5] = [
    (CLICKS, "id by offer"),
    (OFFERS, "price by offer"),
    ("priced", "price by offer"),
    ("revenue", "total"),
    (ROLLUP, "total"),
];

/// The same pipeline with its measures declared.
fn measured(spec: &PipelineSpec) -> Arc<PipelineSpec> {
    let mut spec = spec.clone();
    for (relation, text) in MEASURES {
        let measure = Measure::parse(text).unwrap();
        let of = |schema: &SchemaRef| vec![MeasureSpec::new(&measure, schema).unwrap()];
        for source in spec.sources.iter_mut().filter(|source| source.name.as_ref() == relation) {
            source.measures = of(&source.schema);
        }
        for model in spec.models.iter_mut().filter(|model| model.plan.name.as_ref() == relation) {
            model.measures = of(&model.plan.schema);
        }
    }
    Arc::new(spec)
}

/// Either all state stays in memory, or all that may leaves it at once.
fn spec(state_bytes_max: usize) -> Arc<PipelineSpec> {
    let clicks = source(
        CLICKS,
        vec![column("kind", DataType::Utf8), column("id", DataType::Int64), column("offer", DataType::Int64)],
        vec![],
        None,
        "kind = 'click'",
    );
    let offers = source(
        OFFERS,
        vec![
            column("kind", DataType::Utf8),
            column("offer", DataType::Int64),
            column("price", DataType::Int64),
            column("gone", DataType::Boolean),
        ],
        vec![1],
        Some(3),
        "kind = 'offer'",
    );
    let mut planner = Planner::new(&weir_functions::register).unwrap();
    planner.add_relation(
        CLICKS.into(),
        clicks.schema.clone(),
        RelationTraits { append_only: true, ..RelationTraits::default() },
    );
    planner.add_relation(
        OFFERS.into(),
        offers.schema.clone(),
        RelationTraits { append_only: false, key: vec!["offer".into()] },
    );
    let mut models = Vec::new();
    for (name, key, sql) in [
        ("priced", "", "SELECT c.id, c.offer, o.price FROM clicks c LEFT JOIN offers o ON c.offer = o.offer"),
        ("revenue", "offer", "SELECT offer, count(*) AS clicks, sum(price) AS total FROM priced GROUP BY offer"),
        ("per_price", "", "SELECT price, 100 / (price - 3) AS ratio, count(*) AS n FROM priced GROUP BY price"),
    ] {
        let plan = planner.plan(name, sql).unwrap();
        let key: Vec<String> = if key.is_empty() { Vec::new() } else { vec![key.into()] };
        planner.add_relation(
            name.into(),
            plan.schema.clone(),
            RelationTraits { append_only: plan.append_only, key: key.clone() },
        );
        models.push(ModelSpec {
            plan,
            key,
            hold_on_error: false,
            recompute_interval: None,
            measures: Vec::new(),
            check: None,
        });
    }
    // Recomputed as a whole, with a model downstream that is kept by deltas.
    let sql = "SELECT offer, count(*) AS n, sum(price) AS total FROM priced GROUP BY ROLLUP (offer)";
    let plan = planner.plan_whole(ROLLUP, sql).unwrap();
    planner.add_relation(ROLLUP.into(), plan.schema.clone(), RelationTraits::default());
    let interval = Some(std::time::Duration::ZERO);
    models.push(ModelSpec {
        plan,
        key: Vec::new(),
        hold_on_error: false,
        recompute_interval: interval,
        measures: Vec::new(),
        check: None,
    });
    let plan = planner.plan("busy", "SELECT n, count(*) AS offers FROM rollup WHERE n > 2 GROUP BY n").unwrap();
    models.push(ModelSpec {
        plan,
        key: vec!["n".into()],
        hold_on_error: false,
        recompute_interval: None,
        measures: Vec::new(),
        check: None,
    });
    let plan = planner.plan(UNPRICED, "SELECT id FROM priced WHERE price IS NULL").unwrap();
    let check = Check {
        severity: CheckSeverity::Block,
        tolerance: TOLERANCE,
        grace: std::time::Duration::ZERO,
        message: None,
        holds: Vec::new(),
        notify: Vec::new(),
    };
    models.push(ModelSpec {
        plan,
        key: Vec::new(),
        hold_on_error: false,
        recompute_interval: None,
        measures: Vec::new(),
        check: Some(check),
    });
    Arc::new(PipelineSpec {
        folder: "/project/.weir".into(),
        sources: vec![clicks, offers],
        models,
        splits: Vec::new(),
        followed: vec!["revenue".into()],
        fingerprint: String::new(),
        settings: LoopSettings { state_bytes_max, ..LoopSettings::default() },
    })
}

fn line(random: &mut StdRng, id: usize) -> String {
    match random.random_range(0..20) {
        0 => "{broken".into(),
        1 => format!(r#"{{"kind": "other", "id": {id}}}"#),
        2..=5 => format!(
            r#"{{"kind": "offer", "offer": {}, "price": {}, "gone": {}}}"#,
            random.random_range(0..8),
            random.random_range(1..6),
            random.random_bool(0.2)
        ),
        _ => format!(r#"{{"kind": "click", "id": {id}, "offer": {}}}"#, random.random_range(0..8)),
    }
}

/// Records from `from` on as a chunk.
fn chunk(lines: &[String], from: usize, count: usize) -> Chunk {
    let mut buffer = Vec::new();
    let mut ranges = Vec::new();
    for line in &lines[from..from + count] {
        ranges.push((buffer.len() as u32, line.len() as u32));
        buffer.extend_from_slice(line.as_bytes());
    }
    Chunk {
        records: Records::new(Bytes::from(buffer), ranges),
        offsets: (from..from + count).map(|o| o as u64).collect(),
        arrivals: (from..from + count).map(|o| o as i64).collect(),
        bytes: 1,
        ..Chunk::default()
    }
}

/// Goes on from where the journal says until all lines are in, or storage fails.
async fn work(
    environment: &Environment,
    spec: &Arc<PipelineSpec>,
    history: &Arc<MemoryHistory>,
    lines: &[String],
    random: &mut StdRng,
) -> Result<Core, PipelineError> {
    let folder = Path::new("/project/.weir");
    let failed = |e: std::io::Error| PipelineError::State(e.to_string());
    environment.storage.create_dir_all(folder).map_err(failed)?;
    let store = CheckpointStore::open(environment, &folder.join("checkpoints"))?;
    let mut core = Core::open(environment, spec.clone(), history.clone(), &store)?;
    core.begin_measures().await?;
    let readers: Vec<_> = spec.sources.iter().map(|s| s.reader.clone()).collect();
    loop {
        let at: usize = core.last().inputs.get("site").map_or(0, |p| p.cursor.0.parse().unwrap());
        if at == lines.len() {
            return Ok(core);
        }
        let count = random.random_range(1..=(lines.len() - at).min(40));
        let part = EpochPart {
            input: "site".into(),
            chunks: vec![prepare_chunk(&readers, chunk(lines, at, count))],
            cursor: Cursor((at + count).to_string()),
            skip: 0,
        };
        // Read before the epoch that changes what was read.
        let recomputed = if random.random_bool(0.1) { vec![recomputed(&core, spec).await?] } else { Vec::new() };
        let mut pending = core.prepare_epoch(EpochInput { parts: vec![part], recomputed, ..EpochInput::default() })?;
        core.commit(&mut pending).map_err(|e| PipelineError::State(e.to_string()))?;
        if random.random_bool(0.3)
            && let Some((epoch, landings)) = core.contents().to_land()?
        {
            history.land(epoch, landings).await?;
            core.contents().landed(epoch);
            if random.random_bool(0.6)
                && let Some(mut pending) = core.take_checkpoint()
            {
                let epoch = pending.epoch;
                pending.write(&store)?;
                if history.mirrored.lock().as_ref().is_none_or(|(_, mirror)| mirror.settle()) {
                    core.release(epoch)?;
                }
            }
        }
    }
}

async fn recomputed(core: &Core, spec: &PipelineSpec) -> Result<Recomputed, PipelineError> {
    let snapshot = core.contents().pin();
    let model = spec.recomputed().next().unwrap();
    recompute(&snapshot, &model.plan, snapshot.clock, BatchLimits::default()).await
}

async fn rows(core: &Core, relation: &str) -> Vec<RecordBatch> {
    let table = core.contents().pin().table(&relation.into()).await.unwrap();
    SessionContext::new().read_table(table).unwrap().collect().await.unwrap()
}

async fn check(core: &Core, spec: &PipelineSpec, lines: &[String], seed: u64) {
    let snapshot = core.contents().pin();
    let sources: Vec<Relation> = spec.sources.iter().map(|s| s.name.clone()).collect();
    let verification = verify(&snapshot, &sources, &spec.models, BatchLimits::default(), &|_| {}).await.unwrap();
    assert!(verification.equal(), "seed {seed}: {verification:#?}");
    core.ledger().lock().verify().unwrap();
    let replayed = replay(core.ledger().lock().entries(0), core.epoch(), &core.contents().totals()).unwrap();
    assert_eq!(replayed.misfit, None, "seed {seed}");

    // A violation is open while there are rows, and the ledger has its life.
    let unpriced: usize = rows(core, UNPRICED).await.iter().map(RecordBatch::num_rows).sum();
    let is_open = snapshot.check(UNPRICED).is_open();
    assert_eq!(is_open, unpriced as u64 > TOLERANCE, "seed {seed}: {unpriced} rows");
    let (mut told, mut last) = (false, 0);
    for entry in core.ledger().lock().entries(0) {
        let entry: serde_json::Value = serde_json::from_slice(&entry.unwrap().payload).unwrap();
        assert_eq!(entry["epoch"], last + 1, "seed {seed}: the ledger lacks an epoch");
        last += 1;
        match entry["checks"][UNPRICED]["event"].as_str() {
            Some("opened") if !told => told = true,
            Some("closed") if told => told = false,
            None => {}
            Some(other) => panic!("seed {seed}: {other} when it was so already"),
        }
    }
    // Its file may be behind where storage failed; the commit records have the rest.
    if core.ledger().lock().last_epoch() == Some(core.epoch()) {
        assert_eq!(told, is_open, "seed {seed}: as the ledger tells it");
    }

    let mut clicks = Vec::new();
    let mut offers: BTreeMap<i64, i64> = BTreeMap::new();
    let (mut broken, mut other) = (0, 0);
    for line in lines {
        let Ok(value) = serde_json::from_str::<serde_json::Value>(line) else {
            broken += 1;
            continue;
        };
        let offer = || value["offer"].as_i64().unwrap();
        match value["kind"].as_str().unwrap() {
            "click" => clicks.push(value["id"].as_i64().unwrap()),
            "offer" if value["gone"] == true => drop(offers.remove(&offer())),
            "offer" => drop(offers.insert(offer(), value["price"].as_i64().unwrap())),
            _ => other += 1,
        }
    }
    let mut found = Vec::new();
    for batch in rows(core, CLICKS).await {
        found.extend(batch.column_by_name("id").unwrap().as_primitive::<Int64Type>().values().iter().copied());
    }
    found.sort_unstable();
    assert_eq!(found, clicks, "seed {seed}: every click once");
    let mut found = BTreeMap::new();
    for batch in rows(core, OFFERS).await {
        let column = |name: &str| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>().clone();
        for (offer, price) in column("offer").values().iter().zip(column("price").values()) {
            assert_eq!(found.insert(*offer, *price), None, "seed {seed}: a key has one row");
        }
    }
    assert_eq!(found, offers, "seed {seed}: the last offer of each key");
    let quarantined: usize = rows(core, QUARANTINE).await.iter().map(RecordBatch::num_rows).sum();
    assert_eq!(quarantined, broken, "seed {seed}: every broken line once");
    assert_eq!(core.last().inputs["site"].unrouted, other, "seed {seed}");
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(work)
}

#[test]
fn crashes_at_any_storage_operation_lose_nothing_and_double_nothing() {
    let specs = [usize::MAX, 0].map(spec);
    for seed in 0..60 {
        let plain = specs[seed as usize % 2].clone();
        let spec = measured(&plain);
        let mut random = StdRng::seed_from_u64(seed);
        let lines: Vec<String> = (0..400).map(|id| line(&mut random, id)).collect();
        let (mut environment, simulator) = Environment::simulated(seed);
        let history = Arc::new(MemoryHistory::default());
        let mut crashes = 0;
        let core = loop {
            if crashes < 12 {
                simulator.go_down_at(simulator.operations() + random.random_range(1..120));
            } else {
                simulator.clear_faults();
            }
            // Measures come and go, and are right whenever they are there.
            let spec = if crashes < 12 && random.random_bool(0.3) { &plain } else { &spec };
            match block_on(work(&environment, spec, &history, &lines, &mut random)) {
                Ok(_) if Arc::ptr_eq(spec, &plain) => {}
                Ok(core) if !simulator.is_down() => break core,
                Ok(_) => {}
                Err(error) => assert!(simulator.is_down(), "seed {seed}: {error}"),
            }
            crashes += 1;
            environment = simulator.crash();
        };
        assert!(crashes > 0, "seed {seed} never crashed");
        block_on(check(&core, &spec, &lines, seed));
    }
}

#[test]
fn every_cut_of_the_same_input_gives_the_same_contents_and_checksums() {
    let specs = [usize::MAX, 0].map(|bytes| measured(&spec(bytes)));
    let mut random = StdRng::seed_from_u64(7);
    let lines: Vec<String> = (0..500).map(|id| line(&mut random, id)).collect();
    let mut totals = None;
    for seed in 0..8 {
        let spec = specs[seed as usize % 2].clone();
        let (environment, _simulator) = Environment::simulated(seed);
        let mut cuts = StdRng::seed_from_u64(seed);
        let history = Arc::new(MemoryHistory::default());
        let mut core = block_on(work(&environment, &spec, &history, &lines, &mut cuts)).unwrap();
        // What was recomputed last is a matter of the cut, too; verification knows as of when.
        block_on(check(&core, &spec, &lines, seed));
        let recomputed = vec![block_on(recomputed(&core, &spec)).unwrap()];
        let mut pending = core.prepare_epoch(EpochInput { recomputed, ..EpochInput::default() }).unwrap();
        core.commit(&mut pending).unwrap();
        assert_eq!(core.contents().recomputed(ROLLUP).map(|(_, stale)| stale), Some(false), "cut {seed}");
        block_on(check(&core, &spec, &lines, seed));
        let mut found = core.contents().totals();
        // Quarantined records carry the number of their epoch, which is a matter of the cut.
        found.remove(QUARANTINE);
        let found = (found, core.contents().save_measures());
        assert_eq!(totals.get_or_insert_with(|| found.clone()), &found, "cut {seed}");
        check_sums_in_ledger(&core, &lines, seed);
    }
}

/// Ledger entries are one chain of sums from nothing to what is there, for which the input lines alone are asked.
fn check_sums_in_ledger(core: &Core, lines: &[String], seed: u64) {
    let number = |value: &serde_json::Value| value.as_str().unwrap().parse::<i64>().unwrap();
    let mut totals: BTreeMap<(String, String), i64> = BTreeMap::new();
    let mut read: BTreeMap<String, i64> = BTreeMap::new();
    for entry in core.ledger().lock().entries(0) {
        let entry: serde_json::Value = serde_json::from_slice(&entry.unwrap().payload).unwrap();
        for (relation, told) in entry["relations"].as_object().unwrap() {
            for group in
                told["measures"].as_object().into_iter().flat_map(|m| m.values()).flat_map(|m| m.as_array()).flatten()
            {
                let total = totals.entry((relation.clone(), group["group"].to_string())).or_default();
                *total += number(&group["in"]) - number(&group["out"]);
                assert_eq!(*total, number(&group["total"]), "cut {seed}: {relation} in {entry}");
            }
        }
        for group in entry["sources"][CLICKS]["measures"]["id by offer"].as_array().into_iter().flatten() {
            assert_eq!(group["read"], group["admitted"], "cut {seed}: nothing of a click is set aside");
            *read.entry(group["group"].to_string()).or_default() += number(&group["read"]);
        }
    }
    let mut clicks: BTreeMap<String, i64> = BTreeMap::new();
    let mut prices: BTreeMap<String, i64> = BTreeMap::new();
    for value in lines.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok()) {
        let group = || serde_json::json!([value["offer"].to_string()]).to_string();
        match value["kind"].as_str() {
            Some("click") => *clicks.entry(group()).or_default() += value["id"].as_i64().unwrap(),
            Some("offer") if value["gone"] == true => drop(prices.remove(&group())),
            Some("offer") => drop(prices.insert(group(), value["price"].as_i64().unwrap())),
            _ => {}
        }
    }
    assert_eq!(read, clicks, "cut {seed}");
    let of = |relation: &str| -> BTreeMap<String, i64> {
        let own = totals.iter().filter(|((of, _), total)| of == relation && **total != 0);
        own.map(|((_, group), total)| (group.clone(), *total)).collect()
    };
    assert_eq!(of(CLICKS), clicks, "cut {seed}");
    assert_eq!(of(OFFERS), prices, "cut {seed}");
}

/// A core with some epochs in it, and the readers of its sources.
fn filled(seed: u64) -> (Core, Vec<Arc<SourceReader>>) {
    let spec = measured(&spec(usize::MAX));
    let mut random = StdRng::seed_from_u64(seed);
    let lines: Vec<String> = (0..60).map(|id| line(&mut random, id)).collect();
    let (environment, _simulator) = Environment::simulated(seed);
    let core = block_on(work(&environment, &spec, &Arc::default(), &lines, &mut random)).unwrap();
    let readers = spec.sources.iter().map(|source| source.reader.clone()).collect();
    (core, readers)
}

#[test]
fn an_epoch_that_does_not_add_up_is_not_committed_and_says_why() {
    let lines: Vec<String> = (0..3).map(|id| format!(r#"{{"kind": "click", "id": {id}, "offer": 1}}"#)).collect();
    let refused = |what: &str, core: &mut Core, input: EpochInput, words: &[&str]| {
        let (before, totals) = (core.epoch(), core.contents().totals());
        let error = core.prepare_epoch(input).unwrap_err().to_string();
        let start = format!("epoch {} does not add up and was not committed: ", before + 1);
        assert!(error.starts_with(&start) && words.iter().all(|word| error.contains(word)), "{what}: {error}");
        assert_eq!((core.epoch(), core.contents().totals()), (before, totals), "{what}");
        assert_eq!(core.ledger().lock().last_epoch(), Some(before), "{what}");
    };

    // A record that gets lost between reading and admission.
    let (mut core, readers) = filled(1);
    let mut lossy = prepare_chunk(&readers, chunk(&lines, 0, 3));
    lossy.sources[0].records.pop();
    lossy.sources[0].rows = lossy.sources[0].rows.slice(0, 2);
    let part = |chunk| EpochPart { input: "site".into(), chunks: vec![chunk], cursor: Cursor("63".into()), skip: 0 };
    let input = EpochInput { parts: vec![part(lossy)], ..EpochInput::default() };
    refused("a lost record", &mut core, input, &["input `site`", "3 records are not 2 claimed + 0 unrouted"]);

    // One that somebody claims and that is counted as nobody's as well.
    let (mut core, readers) = filled(2);
    let mut doubled = prepare_chunk(&readers, chunk(&lines, 0, 3));
    doubled.unrouted.push(1);
    let input = EpochInput { parts: vec![part(doubled)], ..EpochInput::default() };
    refused("a record twice", &mut core, input, &["input `site`", "1 are both"]);

    // Records that leave the quarantine and were not in it.
    let leaving = |core: &Core, times: i64, first_only: bool| {
        let held = block_on(rows(core, QUARANTINE));
        let all = arrow::compute::concat_batches(&held[0].schema(), &held).unwrap();
        let indices = (0..all.num_rows() as u32).map(|row| if first_only { 0 } else { row });
        let picked = arrow::compute::take_record_batch(&all, &UInt32Array::from_iter_values(indices)).unwrap();
        assert!(picked.num_rows() > 1, "there is something to take");
        let picked = RecordBatch::try_new(quarantine_schema(), picked.columns().to_vec()).unwrap();
        let weights = Int64Array::from_value(times, picked.num_rows());
        let removed = vec![(QUARANTINE.into(), Delta::new(picked, weights))];
        let replay = Some(ReplayPart { source: 0, chunks: Vec::new(), removed, check_lateness: true });
        EpochInput { replay, ..EpochInput::default() }
    };
    let (mut core, ..) = filled(3);
    let twice = leaving(&core, -2, false);
    refused("rows taken twice", &mut core, twice, &["relation `weir.quarantine`", "are less than none"]);
    // As many rows as there are, but others.
    let (mut core, ..) = filled(3);
    let others = leaving(&core, -1, true);
    refused("other rows taken", &mut core, others, &["relation `weir.quarantine`", "other rows went than there were"]);
}

fn mirrored_roots() -> Vec<Root> {
    let root = |name: &'static str, keeping, order| Root {
        folder: Path::new("/project/.weir").join(name),
        name,
        keeping,
        order,
    };
    vec![
        root("journal", Keeping::Acknowledged, Root::by_name),
        root("ledger", Keeping::Growing, Root::by_name),
        root("lake", Keeping::Settled, Root::by_name),
        root("checkpoints", Keeping::Whole, checkpoint::shipping_order),
    ]
}

#[test]
fn a_disk_lost_at_any_operation_is_restored_from_its_mirror() {
    let specs = [usize::MAX, 0].map(spec);
    for seed in 0..40 {
        let spec = specs[seed as usize % 2].clone();
        let mode = if seed % 4 < 2 { MirrorMode::Sync } else { MirrorMode::Async };
        let mut random = StdRng::seed_from_u64(seed);
        let lines: Vec<String> = (0..300).map(|id| line(&mut random, id)).collect();
        let (mut ours, mut simulator) = Environment::simulated(seed);
        let (mut theirs, second) = Environment::simulated(seed + 1000);
        let mut history = Arc::new(MemoryHistory::default());
        let (mut lives, mut losses) = (0, 0);
        let core = loop {
            simulator.clear_faults();
            let target: Arc<dyn MirrorTarget> = Arc::new(FolderTarget::new(theirs.storage.clone(), "/mirror"));
            let bounds = MirrorSettings { mode, lag_max: std::time::Duration::MAX, lag_bytes_max: 1 << 16 };
            let mirror = Arc::new(Mirror::new(&ours, target, mirrored_roots(), bounds));
            mirror.level(&|_| {}).unwrap_or_else(|error| panic!("seed {seed}: {error}"));
            let environment = mirror.start();
            mirror.hurry();
            *history.mirrored.lock() = Some((ours.clone(), mirror.clone()));
            if lives < 10 {
                simulator.go_down_at(simulator.operations() + random.random_range(1..150));
                if random.random_bool(0.3) {
                    second.go_down_at(second.operations() + random.random_range(1..150));
                }
            }
            match block_on(work(&environment, &spec, &history, &lines, &mut random)) {
                Ok(core) if !simulator.is_down() && !second.is_down() => break core,
                Ok(_) => {}
                Err(error) => {
                    let told = error.to_string().contains("the mirror /mirror");
                    assert!(simulator.is_down() || told, "seed {seed}: {error}");
                }
            }
            lives += 1;
            *history.mirrored.lock() = None;
            drop((environment, mirror));
            // The mirror's machine stops as well, at worst.
            theirs = second.crash();
            if random.random_bool(0.5) {
                ours = simulator.crash();
            } else {
                losses += 1;
                (ours, simulator) = Environment::simulated(seed + 2000 + losses);
                let target = FolderTarget::new(theirs.storage.clone(), "/mirror");
                copy_back(&target, &*ours.storage, &mirrored_roots(), &|_| {}).unwrap();
            }
            history = Arc::new(history.restored(ours.storage.list(Path::new(LAKE)).unwrap_or_default()));
        };
        assert!(losses > 0 || seed > 0, "seed {seed} never lost its disk");
        block_on(check(&core, &spec, &lines, seed));
    }
}
