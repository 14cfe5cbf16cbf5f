//! The projects that are run: sources on a beacon and on files, models of every sort, compiled once for all seeds.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use weir_incremental::planner::{Planner, RelationTraits};
use weir_pipeline::prepare::{SourceReader, SourceReaderSpec};
use weir_pipeline::spec::{LoopSettings, ModelSpec, PipelineSpec, SourceSpec};
use weir_project::{Check, CheckSeverity};
use weir_schemas::{Column, Contract, Origin, UnknownFields};

use crate::events::{LATENESS, REPEATS_WITHIN};

/// The input of the beacon.
pub const SITE: &str = "site";
/// The input of closed files.
pub const SHELF: &str = "shelf";
/// A stream from the beacon, with event time, lateness and repeats.
pub const CLICKS: &str = "clicks";
/// A keyed source from the beacon, with versions and deletes.
pub const OFFERS: &str = "offers";
/// A stream from files.
pub const ORDERS: &str = "orders";
/// A join.
pub const PRICED: &str = "priced";
/// An aggregate with a key, over a join.
pub const REVENUE: &str = "revenue";
/// A model with rows whose expressions fail.
pub const PER_PRICE: &str = "per_price";
/// A model that changes by the clock alone.
pub const RECENT: &str = "recent";
/// A join of both inputs.
pub const SOLD: &str = "sold";
/// A model that is recomputed as a whole.
pub const ROLLUP: &str = "rollup";
/// A model by deltas over one that is recomputed.
pub const BUSY: &str = "busy";
/// A check.
pub const UNPRICED: &str = "checks.unpriced";
/// Rows that the check puts up with.
pub const TOLERANCE: u64 = 4;
/// What `recent` takes for recent.
pub const RECENT_WITHIN: i64 = 2 * crate::events::MINUTE;
/// Relations that sinks follow.
pub const FOLLOWED: [&str; 2] = [PRICED, REVENUE];
/// Where Weir keeps its files.
pub const FOLDER: &str = "/project/.weir";
/// Where others put closed files.
pub const SHELF_FOLDER: &str = "/outside";

const MODELS: [(&str, &str, &str); 8] = [
    (PRICED, "", "SELECT c.id, c.offer, o.price FROM clicks c LEFT JOIN offers o ON c.offer = o.offer"),
    (REVENUE, "offer", "SELECT offer, count(*) AS clicks, sum(price) AS total FROM priced GROUP BY offer"),
    (PER_PRICE, "", "SELECT price, 100 / (price - 3) AS ratio, count(*) AS n FROM priced GROUP BY price"),
    (RECENT, "", "SELECT id, offer FROM clicks WHERE at > now() - INTERVAL '2 minutes'"),
    (
        SOLD,
        "offer",
        "SELECT o.offer, count(*) AS orders, sum(o.amount * f.price) AS total FROM orders o JOIN offers f \
         ON o.offer = f.offer GROUP BY o.offer",
    ),
    (ROLLUP, "", "SELECT offer, count(*) AS n, sum(price) AS total FROM priced GROUP BY ROLLUP (offer)"),
    (BUSY, "n", "SELECT n, count(*) AS offers FROM rollup WHERE n > 2 GROUP BY n"),
    (UNPRICED, "", "SELECT id FROM priced WHERE price IS NULL"),
];

/// Which of the projects: which models it has, and where their state is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// How many sorts of models: 0 to 2.
    pub extent: usize,
    /// Bytes of state that may stay in memory, by number: none, some, all.
    pub memory: usize,
}

/// How many extents there are.
pub const EXTENTS: usize = 3;
/// Bytes of state that may stay in memory.
pub const MEMORY_BYTES: [usize; 3] = [0, 8 << 10, usize::MAX];

/// A compiled project. Worlds on all threads share it.
pub fn compiled(choice: Choice) -> Arc<PipelineSpec> {
    static COMPILED: [[OnceLock<Arc<PipelineSpec>>; MEMORY_BYTES.len()]; EXTENTS] =
        [const { [const { OnceLock::new() }; MEMORY_BYTES.len()] }; EXTENTS];
    COMPILED[choice.extent][choice.memory].get_or_init(|| Arc::new(compile(choice))).clone()
}

fn models(extent: usize) -> &'static [(&'static str, &'static str, &'static str)] {
    match extent {
        0 => &MODELS[..2],
        1 => &MODELS[..5],
        _ => &MODELS,
    }
}

fn column(name: &str, data_type: DataType) -> Column {
    Column { name: name.into(), data_type, required: false, origin: Origin::Field(vec![name.into()]), personal: false }
}

/// A source without key, time and repeats.
fn source(name: &str, input: &str, columns: Vec<Column>, kind: Option<&str>, time: Option<usize>) -> SourceSpec {
    let contract = Contract { columns, unknown: UnknownFields::Drop };
    // Nothing here depends on a seed: it compiles always or never.
    let format = weir_schemas::format_by_name("json", &Default::default()).expect("JSON is a format");
    let fields: Vec<Field> = contract.columns.iter().map(|c| Field::new(&c.name, c.data_type.clone(), true)).collect();
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let planner = planner();
    let predicate = kind.map(|kind| {
        // As above.
        planner.expression(&schema, &format!("kind = '{kind}'")).expect("a predicate over its column")
    });
    let reader = SourceReader::new(SourceReaderSpec {
        name: name.into(),
        schema: schema.clone(),
        contract,
        format,
        predicate,
        enrich: Vec::new(),
        time,
        ahead_max_us: None,
    });
    SourceSpec {
        name: name.into(),
        input: input.into(),
        // As above.
        reader: Arc::new(reader.expect("a reader of its columns")),
        schema,
        lateness_us: None,
        keys: Vec::new(),
        version: None,
        deleted: None,
        dedupe: None,
        quarantine_share_max: None,
        measures: Vec::new(),
    }
}

fn planner() -> Planner {
    // Registering functions fails for none of the seeds or for all.
    Planner::new(&weir_functions::register).expect("functions of our own")
}

fn sources() -> Vec<SourceSpec> {
    let at = DataType::Timestamp(TimeUnit::Microsecond, None);
    let columns = vec![
        column("kind", DataType::Utf8),
        column("id", DataType::Int64),
        column("offer", DataType::Int64),
        column("at", at),
    ];
    let clicks = source(CLICKS, SITE, columns, Some("click"), Some(3));
    let clicks = SourceSpec { lateness_us: Some(LATENESS), dedupe: Some((vec![1], REPEATS_WITHIN)), ..clicks };
    let columns = vec![
        column("kind", DataType::Utf8),
        column("offer", DataType::Int64),
        column("price", DataType::Int64),
        column("revision", DataType::Int64),
        column("gone", DataType::Boolean),
    ];
    let offers = source(OFFERS, SITE, columns, Some("offer"), None);
    let offers = SourceSpec { keys: vec![1], version: Some(3), deleted: Some(4), ..offers };
    let columns = ["order", "offer", "amount"].map(|name| column(name, DataType::Int64)).to_vec();
    let orders = source(ORDERS, SHELF, columns, None, None);
    vec![clicks, offers, orders]
}

fn compile(choice: Choice) -> PipelineSpec {
    let sources = sources();
    let mut planner = planner();
    for source in &sources {
        let key = source.keys.iter().map(|key| source.schema.field(*key).name().clone()).collect();
        let traits = RelationTraits { append_only: source.keys.is_empty(), key };
        planner.add_relation(source.name.clone(), source.schema.clone(), traits);
    }
    let mut compiled = Vec::new();
    for (name, key, sql) in models(choice.extent) {
        let recompute_interval = (*name == ROLLUP).then_some(Duration::ZERO);
        let plan = if *name == ROLLUP { planner.plan_whole(name, sql) } else { planner.plan(name, sql) };
        // Constants again.
        let plan = plan.expect("the models are sound");
        let key: Vec<String> = if key.is_empty() { Vec::new() } else { vec![(*key).into()] };
        let traits = RelationTraits { append_only: plan.append_only, key: key.clone() };
        planner.add_relation(plan.name.clone(), plan.schema.clone(), traits);
        let check = (*name == UNPRICED).then(|| Check {
            severity: CheckSeverity::Block,
            tolerance: TOLERANCE,
            grace: Duration::ZERO,
            message: None,
            holds: Vec::new(),
            notify: Vec::new(),
        });
        compiled.push(ModelSpec { plan, key, hold_on_error: false, recompute_interval, check, measures: Vec::new() });
    }
    PipelineSpec {
        folder: FOLDER.into(),
        sources,
        models: compiled,
        splits: Vec::new(),
        followed: FOLLOWED.map(Into::into).to_vec(),
        fingerprint: String::new(),
        settings: LoopSettings {
            state_bytes_max: MEMORY_BYTES[choice.memory],
            // Several epochs each, so that segments come and go.
            segment_bytes: 24 << 10,
            ..LoopSettings::default()
        },
    }
}
