//! What a pipeline is made of, compiled and ready to run: the seam between the user's folder and the loop.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use weir_environment::Workers;
use weir_incremental::dataflow::Dataflow;
use weir_incremental::operators::EngineError;
use weir_incremental::planner::ModelPlan;
use weir_incremental::{Growth, Relation, UnboundedState};
use weir_project::{Check, Split};

use crate::admission::Admission;
use crate::contents::RelationInfo;
use crate::dedupe::Dedupe;
use crate::keyed::KeyedTable;
use crate::measure::MeasureSpec;
use crate::prepare::SourceReader;

/// Quarantined records, a relation like any other.
pub const QUARANTINE: &str = "weir.quarantine";
/// Late records.
pub const LATE: &str = "weir.late";
/// Rows of models whose expressions failed.
pub const ERRORS: &str = "weir.errors";

/// One source.
#[derive(Debug, Clone)]
pub struct SourceSpec {
    /// Its name.
    pub name: Relation,
    /// The input that it reads.
    pub input: String,
    /// Its stateless half.
    pub reader: Arc<SourceReader>,
    /// Its columns.
    pub schema: SchemaRef,
    /// Lateness, µs.
    pub lateness_us: Option<i64>,
    /// Key columns, empty for a stream.
    pub keys: Vec<usize>,
    /// Column that says which row of a key is later.
    pub version: Option<usize>,
    /// Column that is true where a row removes its key.
    pub deleted: Option<usize>,
    /// Columns and window (µs) of repeats.
    pub dedupe: Option<(Vec<usize>, i64)>,
    /// Sums that the ledger keeps of its rows.
    pub measures: Vec<MeasureSpec>,
    /// Share of quarantined records beyond which the source stops, once a thousand records were seen.
    pub quarantine_share_max: Option<f64>,
}

impl SourceSpec {
    /// A fresh stateful half.
    pub fn admission(&self) -> Result<Admission, arrow::error::ArrowError> {
        let dedupe =
            self.dedupe.as_ref().map(|(by, within)| Dedupe::new(&self.schema, by.clone(), *within)).transpose()?;
        let keyed = if self.keys.is_empty() {
            None
        } else {
            Some(KeyedTable::new(self.schema.clone(), self.keys.clone(), self.version, self.deleted)?)
        };
        let (name, schema) = (self.name.clone(), self.schema.clone());
        let admission = Admission::new(name, schema, self.lateness_us, self.keys.clone(), dedupe, keyed);
        Ok(if self.measures.is_empty() { admission } else { admission.measured() })
    }
}

/// One model.
#[derive(Debug, Clone)]
pub struct ModelSpec {
    /// Its canonical plan.
    pub plan: ModelPlan,
    /// Its declared key.
    pub key: Vec<String>,
    /// Whether sinks hold the last good epoch while it has errors.
    pub hold_on_error: bool,
    /// Where it is recomputed as a whole: the shortest time from one recomputation to the next. None: it is kept by deltas.
    pub recompute_interval: Option<Duration>,
    /// Sums that the ledger keeps of its rows.
    pub measures: Vec<MeasureSpec>,
    /// Where it is a check.
    pub check: Option<Check>,
}

/// Bounds and intervals of the loop.
#[derive(Debug, Clone)]
pub struct LoopSettings {
    /// Rows in one epoch at most.
    pub epoch_rows_max: usize,
    /// Bytes that an input is asked for at once.
    pub poll_bytes_max: usize,
    /// Time between landings.
    pub landing_interval: Duration,
    /// Time between checkpoints.
    pub checkpoint_interval: Duration,
    /// Bytes of memory that the state of models takes; the rest of it stays on disk.
    pub state_bytes_max: usize,
    /// Shortest time from one epoch to the next while input is thin.
    pub epoch_interval_min: Duration,
    /// Bytes in tails beyond which a landing starts early.
    pub tail_bytes_max: usize,
    /// Time between two upkeeps of the lake.
    pub maintenance_interval: Duration,
    /// Length of a segment of the epoch journal and of the ledger, bytes: the least that is freed at once.
    pub segment_bytes: u64,
    /// Memory of one recomputation of a model, bytes; what can spill does beyond it.
    pub recompute_memory_max: usize,
}

impl Default for LoopSettings {
    fn default() -> Self {
        Self {
            epoch_rows_max: 262_144,
            poll_bytes_max: 8 << 20,
            landing_interval: Duration::from_secs(10),
            checkpoint_interval: Duration::from_secs(30),
            state_bytes_max: 4 << 30,
            epoch_interval_min: Duration::from_millis(20),
            tail_bytes_max: 128 << 20,
            maintenance_interval: Duration::from_secs(600),
            segment_bytes: 64 << 20,
            recompute_memory_max: 1 << 30,
        }
    }
}

/// A whole project, compiled.
#[derive(Debug, Clone)]
pub struct PipelineSpec {
    /// Folder of all that Weir keeps (`.weir`).
    pub folder: PathBuf,
    /// Sources, sorted by name.
    pub sources: Vec<SourceSpec>,
    /// Models, each after those that it reads.
    pub models: Vec<ModelSpec>,
    /// Relations whose rows others share among them.
    pub splits: Vec<Split>,
    /// Relations that a sink follows.
    pub followed: Vec<Relation>,
    /// Fingerprint of the project's meaning.
    pub fingerprint: String,
    /// Bounds and intervals.
    pub settings: LoopSettings,
}

fn text(name: &str) -> Field {
    Field::new(name, DataType::Utf8, true)
}

fn timestamp(name: &str) -> Field {
    Field::new(name, DataType::Timestamp(TimeUnit::Microsecond, None), true)
}

/// Columns of [`QUARANTINE`].
pub fn quarantine_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("source"),
        text("reason"),
        text("message"),
        Field::new("raw", DataType::Binary, true),
        Field::new("preamble", DataType::Binary, true),
        timestamp("arrival"),
        Field::new("partition", DataType::Int64, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("epoch", DataType::Int64, true),
    ]))
}

/// Columns of [`LATE`].
pub fn late_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        text("source"),
        timestamp("time"),
        Field::new("raw", DataType::Binary, true),
        Field::new("preamble", DataType::Binary, true),
        timestamp("arrival"),
        Field::new("partition", DataType::Int64, true),
        Field::new("offset", DataType::Int64, true),
        Field::new("epoch", DataType::Int64, true),
    ]))
}

/// Columns of [`ERRORS`].
pub fn errors_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![text("model"), text("expression"), text("row"), text("message")]))
}

impl PipelineSpec {
    /// Sources by input, each with its index in [`PipelineSpec::sources`].
    pub fn inputs(&self) -> BTreeMap<String, Vec<usize>> {
        let mut inputs: BTreeMap<String, Vec<usize>> = BTreeMap::new();
        for (index, source) in self.sources.iter().enumerate() {
            inputs.entry(source.input.clone()).or_default().push(index);
        }
        inputs
    }

    /// The dataflow of all models that are kept by deltas; those that are recomputed are inputs of it.
    pub fn dataflow(&self, workers: &Workers) -> Result<Dataflow, EngineError> {
        let plans: Vec<ModelPlan> =
            self.models.iter().filter(|m| m.recompute_interval.is_none()).map(|m| m.plan.clone()).collect();
        let sources = self.sources.iter().map(|s| (s.name.clone(), s.schema.clone()));
        let recomputed = self.recomputed().map(|m| (m.plan.name.clone(), m.plan.schema.clone()));
        Dataflow::build_on(workers, &plans, &sources.chain(recomputed).collect::<Vec<_>>())
    }

    /// Models that are recomputed as a whole, in dependency order.
    pub fn recomputed(&self) -> impl Iterator<Item = &ModelSpec> {
        self.models.iter().filter(|model| model.recompute_interval.is_some())
    }

    /// Checks with their relations.
    pub fn checks(&self) -> impl Iterator<Item = (&Relation, &Check)> {
        self.models.iter().filter_map(|model| Some((&model.plan.name, model.check.as_ref()?)))
    }

    /// What nothing bounds of what operators remember, by model.
    pub fn unbounded(&self) -> Vec<(Relation, UnboundedState)> {
        let streams = self.sources.iter().filter(|source| source.keys.is_empty());
        let mut growth = Growth::of(streams.map(|source| source.name.clone()));
        let mut found = Vec::new();
        for model in &self.models {
            let states = growth.add(&model.plan);
            // A recomputation remembers nothing.
            if model.recompute_interval.is_none() {
                found.extend(states.into_iter().map(|state| (model.plan.name.clone(), state)));
            }
        }
        found
    }

    /// Columns of a source or model.
    pub fn schema(&self, relation: &Relation) -> Option<SchemaRef> {
        let source = self.sources.iter().find(|s| s.name == *relation).map(|s| s.schema.clone());
        source.or_else(|| self.models.iter().find(|m| m.plan.name == *relation).map(|m| m.plan.schema.clone()))
    }

    /// Every relation whose contents are kept.
    pub fn relations(&self) -> Vec<RelationInfo> {
        // What a recomputed model has read must stay readable as of its epoch, for verification.
        let read_whole = |name: &str| self.recomputed().any(|m| m.plan.reads.iter().any(|read| read.as_ref() == name));
        let followed = |name: &str| self.followed.iter().any(|f| f.as_ref() == name) || read_whole(name);
        let key = |schema: &SchemaRef, keys: &[usize]| keys.iter().map(|k| schema.field(*k).name().clone()).collect();
        let sources = self.sources.iter().map(|s| RelationInfo {
            name: s.name.clone(),
            schema: s.schema.clone(),
            append_only: s.keys.is_empty(),
            key: key(&s.schema, &s.keys),
            followed: followed(&s.name),
            measures: s.measures.clone(),
        });
        let models = self.models.iter().map(|m| RelationInfo {
            name: m.plan.name.clone(),
            schema: m.plan.schema.clone(),
            append_only: m.plan.append_only,
            key: m.key.clone(),
            followed: followed(&m.plan.name),
            measures: m.measures.clone(),
        });
        let system = [(QUARANTINE, quarantine_schema()), (LATE, late_schema()), (ERRORS, errors_schema())];
        let system = system.into_iter().map(|(name, schema)| RelationInfo {
            name: name.into(),
            schema,
            append_only: false,
            key: Vec::new(),
            followed: followed(name),
            measures: Vec::new(),
        });
        sources.chain(models).chain(system).collect()
    }
}
