//! The heart of the loop: one epoch from prepared input to its commit, and recovery, which runs committed epochs
//! through the same steps.
//!
//! Order of an epoch, and why a crash anywhere is harmless:
//! 1. Admission and the dataflow run in memory. A crash loses nothing: the input is durable and the journal does not
//!    know the epoch.
//! 2. Intent, admitted rows and set-aside records go to the journal. Recovery cuts off what no commit record follows.
//! 3. The commit record is synced: from here the epoch has happened. Recovery runs it again from its frames.
//! 4. The ledger file, the tails that readers see and the key indexes follow. Recovery makes them good from the journal.

mod batches;
mod checkpoint;
mod checks;
mod coherence;
mod entry;
mod error;
mod input;
mod intake;
mod measures;
mod recovery;

pub use self::checkpoint::PendingCheckpoint;
pub use self::coherence::{Part, Times};
pub use self::error::{CommitError, PipelineError};
pub use self::input::{EpochInput, EpochPart, ReplayPart};
pub use self::recovery::commit_record;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;

use arrow::array::RecordBatch;
use parking_lot::{Mutex, RwLock};
use serde_json::json;
use weir_environment::{Environment, Workers};
use weir_incremental::checkpoint::{CheckpointStore, StateReader};
use weir_incremental::dataflow::{Dataflow, OperatorDescription, Stopwatch};
use weir_incremental::{Delta, Relation};
use weir_journal::{EpochJournal, EpochJournalOptions, JournalError, Ledger, LedgerOptions, PackedFrame};

use self::batches::{late_batch, quarantine_batch, with_weights};
use self::checkpoint::Memory;
use self::intake::SourceEpoch;
use crate::EpochNumber;
use crate::admission::Admission;
use crate::change::Change;
use crate::check::{Moment, events};
use crate::contents::{Contents, Totals};
use crate::frames::{
    CheckpointRecord, CommitRecord, FRAME_RECOMPUTED, FRAME_SYSTEM, FRAMES_VERSION, RecomputedAt, SavedMeasures,
    Unpacked,
};
use crate::history::History;
use crate::keyed::{KeyIndex, Positions, SharedIndex};
use crate::spec::{ERRORS, LATE, PipelineSpec, QUARANTINE};

/// Epochs of fewer rows are computed on one thread.
const SHARED_ROWS_MIN: usize = 4096;

/// An epoch that has been computed and waits for its commit.
#[derive(Debug)]
pub struct PendingEpoch {
    epoch: EpochNumber,
    record: CommitRecord,
    frames: Vec<PackedFrame>,
    changes: Vec<Change>,
    rows: u64,
}

/// What an epoch did, for progress.
#[derive(Debug, Clone, Copy, Default)]
pub struct EpochReport {
    /// Its number.
    pub epoch: EpochNumber,
    /// Rows admitted.
    pub rows: u64,
}

/// The ledger, read by others while the loop appends.
pub type SharedLedger = Arc<Mutex<Ledger>>;

/// All that an epoch touches. Owned by the loop's thread.
pub struct Core {
    environment: Environment,
    spec: Arc<PipelineSpec>,
    journal: EpochJournal,
    ledger: SharedLedger,
    admissions: Vec<Admission>,
    dataflow: Dataflow,
    indexes: BTreeMap<Relation, SharedIndex>,
    contents: Arc<Contents>,
    last: CommitRecord,
    epoch: EpochNumber,
    /// Entries that are committed and may not be durable in the ledger's file yet.
    ledger_backlog: VecDeque<(EpochNumber, String)>,
    changed_since_checkpoint: bool,
    /// The epoch of the last checkpoint that was taken.
    taken: EpochNumber,
    checkpoints: StateReader,
    /// Whether the models' state began in the checkpoint, from which it comes when it is touched.
    fetches: bool,
    /// What checkpoints have of the models' state counts no more.
    starts_over: bool,
    memory: Memory,
}

impl std::fmt::Debug for Core {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Core").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

/// Folders under `.weir`.
pub mod folders {
    /// The epoch journal.
    pub const JOURNAL: &str = "journal";
    /// The chained ledger.
    pub const LEDGER: &str = "ledger";
}

/// Where a core begins.
enum Origin {
    /// At the last checkpoint.
    Checkpoint,
    /// There too, with models that remember nothing.
    Fresh,
    /// After this epoch, with nothing that remembers anything.
    Record(EpochNumber, Box<CheckpointRecord>),
}

impl Core {
    /// Opens what is there, or starts anew, and brings everything to the last committed epoch.
    pub fn open(
        environment: &Environment,
        spec: Arc<PipelineSpec>,
        history: Arc<dyn History>,
        store: &CheckpointStore,
    ) -> Result<Self, PipelineError> {
        let mut core = Self::start(environment, spec, history, store, Origin::Checkpoint)?;
        core.replay()?;
        Ok(core)
    }

    /// Opens sources' state and lookups at the last checkpoint, which must be of the last committed epoch, with models that
    /// remember nothing: for a rebuild.
    pub fn open_fresh(
        environment: &Environment,
        spec: Arc<PipelineSpec>,
        history: Arc<dyn History>,
        store: &CheckpointStore,
    ) -> Result<Self, PipelineError> {
        let mut core = Self::start(environment, spec, history, store, Origin::Fresh)?;
        let last = core.journal.last().map_or(core.epoch, |commit| commit.epoch);
        while core.epoch < last {
            // Only markers of interrupted rebuilds may follow the checkpoint.
            let epoch = core.epoch + 1;
            let committed = core.journal.read(epoch)?;
            if !committed.frames.is_empty() {
                return Err(PipelineError::State(format!("epoch {epoch} has to be recovered before a rebuild")));
            }
            core.epoch = epoch;
            core.last = commit_record(epoch, &committed.payload)?;
        }
        // The markers' entries may be in the journal alone.
        core.complete_ledger()?;
        Ok(core)
    }

    /// Opens after an epoch that the lake has landed, with sources, models and lookups that remember nothing.
    pub(crate) fn open_after(
        environment: &Environment,
        spec: Arc<PipelineSpec>,
        history: Arc<dyn History>,
        store: &CheckpointStore,
        (epoch, record): (EpochNumber, CheckpointRecord),
    ) -> Result<Self, PipelineError> {
        Self::start(environment, spec, history, store, Origin::Record(epoch, Box::new(record)))
    }

    fn start(
        environment: &Environment,
        spec: Arc<PipelineSpec>,
        history: Arc<dyn History>,
        store: &CheckpointStore,
        origin: Origin,
    ) -> Result<Self, PipelineError> {
        let with_models = matches!(origin, Origin::Checkpoint);
        let rebuilding = matches!(origin, Origin::Fresh);
        let segment_bytes = spec.settings.segment_bytes;
        let options = EpochJournalOptions { segment_bytes, ..EpochJournalOptions::default() };
        let journal = EpochJournal::open(environment, spec.folder.join(folders::JOURNAL), options)?;
        let options = LedgerOptions { segment_bytes, ..LedgerOptions::default() };
        let ledger = Ledger::open(environment, spec.folder.join(folders::LEDGER), options)?;
        let ledger = Arc::new(Mutex::new(ledger));
        let mut dataflow = spec.dataflow(&environment.workers)?;
        dataflow.measure(stopwatch(environment));
        let admissions = spec.sources.iter().map(|s| s.admission()).collect::<Result<Vec<_>, _>>()?;
        let mut indexes = BTreeMap::new();
        for model in spec.models.iter().filter(|m| !m.key.is_empty()) {
            let schema = model.plan.schema.clone();
            let keys = model.key.iter().map(|k| schema.index_of(k)).collect::<Result<Vec<_>, _>>()?;
            indexes.insert(model.plan.name.clone(), Arc::new(RwLock::new(KeyIndex::new(schema, keys)?)));
        }

        let (start, checkpoint_record) = match origin {
            Origin::Record(epoch, record) => (epoch, Some(*record)),
            Origin::Checkpoint | Origin::Fresh => checkpoint::latest(store)?,
        };
        let last = checkpoint_record.as_ref().map(|r| r.commit.clone()).unwrap_or_default();
        let times = Times {
            journal: journal.first_epoch().zip(journal.last().map(|commit| commit.epoch)),
            checkpoint: start,
            ledger: ledger.lock().last_epoch().unwrap_or(0),
            landed: history.landed(),
            rebuilding,
        };
        coherence::check(times, &journal, &ledger.lock(), checkpoint_record.as_ref().map(|r| &r.commit))?;
        let contents = Arc::new(Contents::new(history, start, last.clock, spec.relations()));
        let mut core = Self {
            environment: environment.clone(),
            spec,
            journal,
            ledger,
            admissions,
            dataflow,
            indexes,
            contents,
            last,
            epoch: start,
            ledger_backlog: VecDeque::new(),
            changed_since_checkpoint: false,
            taken: start,
            checkpoints: store.reader(),
            fetches: with_models && checkpoint_record.is_some(),
            starts_over: false,
            memory: Memory::default(),
        };
        if let Some(record) = &checkpoint_record {
            core.restore(record)?;
        }
        core.attach_own_state()?;
        if with_models {
            core.dataflow.attach(&core.checkpoints, checkpoint_record.is_none())?;
            core.forget_others(store)?;
        }
        core.complete_ledger()?;
        Ok(core)
    }

    fn restore(&mut self, record: &CheckpointRecord) -> Result<(), PipelineError> {
        if record.version > FRAMES_VERSION {
            return Err(PipelineError::State(format!(
                "the checkpoint has format {}, this program reads up to {FRAMES_VERSION}: use the newer program",
                record.version
            )));
        }
        let totals = record.totals.iter().filter_map(|(name, saved)| Some((name.clone(), saved.totals()?))).collect();
        self.contents.restore_totals(&totals);
        self.contents.restore_measures(&record.measures);
        self.contents.set_counts(record.commit.counts.clone());
        self.contents.restore_recomputed(record.commit.recomputed.clone());
        self.contents.restore_checks(record.commit.checks.clone());
        for admission in &mut self.admissions {
            if let Some(watermarks) = record.commit.watermarks.get(admission.name.as_ref()) {
                admission.watermarks = watermarks.clone();
            }
        }
        Ok(())
    }

    /// Sources' changes and what the models make of them.
    fn step(&mut self, clock: i64, inputs: &HashMap<Relation, Delta>) -> Result<Vec<Change>, PipelineError> {
        let workers = self.workers(inputs.values().map(Delta::len).sum());
        let given: Vec<(Relation, Delta)> = inputs.iter().map(|(name, delta)| (name.clone(), delta.clone())).collect();
        let contents = &self.contents;
        let counted = |changes| workers.each(changes, |(name, delta)| contents.count(name, delta));
        let (given, output) = workers.both(|| counted(given), || self.dataflow.step(clock, inputs));
        let output = output?;
        let mut made: Vec<(Relation, Delta)> = output.models;
        made.retain(|(_, delta)| !delta.is_empty());
        let errors: Vec<Delta> = output.errors.into_iter().map(|(_, delta)| delta).collect();
        if !errors.is_empty() {
            let delta = Delta::concat(&crate::spec::errors_schema(), &errors)?.consolidate()?;
            if !delta.is_empty() {
                made.push((ERRORS.into(), delta));
            }
        }
        let mut changes = given.into_iter().chain(counted(made)).collect::<Result<Vec<_>, _>>()?;
        changes.sort_by(|a, b| a.relation.cmp(&b.relation));
        Ok(changes)
    }

    /// Who computes an epoch of so many rows: a few rows are not worth waking a thread.
    fn workers(&self, rows: usize) -> Workers {
        if rows < SHARED_ROWS_MIN { Workers::new(1) } else { self.environment.workers.clone() }
    }

    /// Computes the next epoch. Nothing is durable or readable yet, but state has moved: the result must be committed
    /// (again and again, if the disk is full) before anything else happens.
    pub fn prepare_epoch(&mut self, mut input: EpochInput) -> Result<PendingEpoch, PipelineError> {
        let epoch = self.epoch + 1;
        let clock = self.environment.clock.now().max(self.last.clock);
        let mut record =
            CommitRecord { version: FRAMES_VERSION, clock, measures: BTreeMap::new(), ..self.last.clone() };
        let mut intake = self.take_in(epoch, &mut input, &mut record)?;

        let mut frames = Vec::new();
        let mut inputs = HashMap::new();
        let mut measured = Vec::new();
        let mut admitted = 0;
        for (index, part) in &mut intake.sources {
            let spec = &self.spec.sources[*index];
            admitted += part.counts.admitted;
            record.counts.entry(spec.name.to_string()).or_default().add(&part.counts);
            record.watermarks.insert(spec.name.to_string(), self.admissions[*index].watermarks.clone());
            let rows = std::mem::take(&mut part.rows);
            if !spec.measures.is_empty() {
                let admitted = (!spec.keys.is_empty()).then(|| rows.clone());
                measured.push((*index, std::mem::take(&mut part.read), admitted, std::mem::take(&mut part.aside)));
            }
            if part.counts.admitted == 0 {
                continue;
            }
            frames.push(Unpacked::Admitted(spec.name.clone(), rows, std::mem::take(&mut part.positions)));
            let mut delta = Delta::concat(&spec.schema, &part.deltas)?;
            if !spec.keys.is_empty() && part.deltas.len() > 1 {
                delta = delta.consolidate()?;
            }
            inputs.insert(spec.name.clone(), delta);
        }

        let mut system: Vec<(Relation, Delta)> = std::mem::take(&mut intake.removed);
        for model in input.recomputed {
            record.recomputed.insert(model.name.to_string(), model.at);
            if !model.errors.is_empty() {
                system.push((ERRORS.into(), model.errors));
            }
            if !model.change.is_empty() {
                let batch = with_weights(&model.change)?;
                frames.push(Unpacked::Changed(FRAME_RECOMPUTED, model.name.clone(), batch));
                inputs.insert(model.name, model.change);
            }
        }
        if !intake.quarantined.is_empty() {
            system.push((QUARANTINE.into(), Delta::inserts(quarantine_batch(epoch, &intake.quarantined)?)));
        }
        if !intake.late.is_empty() {
            system.push((LATE.into(), Delta::inserts(late_batch(epoch, &intake.late)?)));
        }
        let mut changes = Vec::new();
        for (relation, delta) in system {
            frames.push(Unpacked::Changed(FRAME_SYSTEM, relation.clone(), with_weights(&delta)?));
            changes.push(Change::new(relation, delta)?);
        }
        let (workers, compression) = (self.workers(admitted as usize), self.journal.compression());
        let spec = self.spec.clone();
        let pack = || {
            let frames = workers.each(frames, |frame| frame.pack(compression));
            let flows = workers.each(measured, |(index, read, admitted, aside)| {
                let measures = &spec.sources[index].measures;
                Ok((index, SourceEpoch::flows(&read, admitted.as_deref(), &aside, measures)?))
            });
            (frames, flows)
        };
        let ((frames, flows), stepped) = workers.both(pack, || self.step(clock, &inputs));
        let frames = frames.into_iter().collect::<Result<Vec<_>, _>>()?;
        let flows = flows.into_iter().collect::<Result<BTreeMap<_, _>, PipelineError>>()?;
        changes.extend(stepped?);
        record.ledger = self.ledger_entry(epoch, clock, &intake, flows, &changes)?;
        self.judge_checks(Moment { epoch, clock }, &changes, &mut record);
        Ok(PendingEpoch { epoch, record, frames, changes, rows: admitted })
    }

    /// Commits a computed epoch and makes it readable.
    pub fn commit(&mut self, pending: &mut PendingEpoch) -> Result<EpochReport, CommitError> {
        let payload =
            serde_json::to_vec(&pending.record).map_err(|e| CommitError::Fatal(PipelineError::State(e.to_string())))?;
        let written = (|| {
            self.journal.begin(pending.epoch, &[])?;
            pending.frames.iter().try_for_each(|frame| self.journal.frame(frame))?;
            self.journal.commit(&payload).map(|_| ())
        })();
        if let Err(error) = written {
            return match self.journal.abort() {
                Ok(()) => Err(CommitError::Again(error.into())),
                Err(worse) => Err(CommitError::Fatal(worse.into())),
            };
        }
        let report = EpochReport { epoch: pending.epoch, rows: pending.rows };
        self.finish(pending.epoch, std::mem::take(&mut pending.record), std::mem::take(&mut pending.changes))
            .map_err(CommitError::Fatal)?;
        Ok(report)
    }

    /// What follows a commit, live and in recovery.
    fn finish(&mut self, epoch: EpochNumber, record: CommitRecord, changes: Vec<Change>) -> Result<(), PipelineError> {
        self.ledger_backlog.push_back((epoch, record.ledger.to_string()));
        if let Err(error) = self.write_ledger() {
            // The commit record holds the entry; it is written with a later epoch, at the latest before release.
            tracing::warn!(%error, epoch, "the ledger's file is behind");
        }
        for change in &changes {
            if let Some(index) = self.indexes.get(&change.relation) {
                index.write().apply(&change.delta)?;
            }
        }
        self.epoch = epoch;
        let clock = record.clock;
        self.contents.set_counts(record.counts.clone());
        self.begin_recorded(&record.measures);
        if !events(&record.ledger).is_empty() {
            self.contents.note_check_event(epoch);
        }
        self.last = record;
        self.contents.publish(epoch, clock, changes, &self.last.recomputed, &self.last.checks)?;
        self.changed_since_checkpoint = true;
        self.memory.exceeded = !self.keep_within_budget();
        Ok(())
    }

    /// Appends what the ledger's file does not have. After a failure it has what it had at its last sync.
    fn write_ledger(&mut self) -> Result<(), JournalError> {
        let mut ledger = self.ledger.lock();
        for (epoch, entry) in &self.ledger_backlog {
            if ledger.last_epoch().is_none_or(|last| last < *epoch) {
                ledger.append(*epoch, entry.as_bytes())?;
            }
        }
        Ok(())
    }

    /// Commits an epoch that holds nothing but a note in the ledger.
    pub fn commit_marker(&mut self, note: serde_json::Value) -> Result<(), CommitError> {
        self.commit_note(note, BTreeMap::new())
    }

    /// The same, and begins to count measures.
    fn commit_note(&mut self, note: serde_json::Value, measures: SavedMeasures) -> Result<(), CommitError> {
        let epoch = self.epoch + 1;
        let clock = self.environment.clock.now().max(self.last.clock);
        let ledger = json!({"epoch": epoch, "clock": clock, "note": note});
        let record = CommitRecord { version: FRAMES_VERSION, clock, ledger, measures, ..self.last.clone() };
        let mut pending = PendingEpoch { epoch, record, frames: Vec::new(), changes: Vec::new(), rows: 0 };
        self.commit(&mut pending).map(|_| ())
    }

    /// Gives a keyed source whose columns changed its current rows back. They rank below every record to come.
    pub fn readmit(&mut self, source: &Relation, rows: &RecordBatch) -> Result<(), PipelineError> {
        if let Some(admission) = self.admissions.iter_mut().find(|a| a.name == *source) {
            let count = rows.num_rows();
            let positions = Positions {
                partitions: vec![0; count],
                offsets: vec![0; count],
                arrivals: vec![i64::MIN; count],
                times: vec![i64::MIN; count],
            };
            admission.readmit(rows, &positions)?;
        }
        Ok(())
    }

    /// Replaces the lookup of a rebuilt model.
    pub fn reindex(&mut self, model: &Relation, contents: &Delta) -> Result<(), PipelineError> {
        if let Some(index) = self.indexes.get(model) {
            let mut index = index.write();
            index.clear();
            index.apply(contents)?;
        }
        Ok(())
    }

    /// Notes when models were recomputed, for the next commit.
    pub fn set_recomputed(&mut self, recomputed: BTreeMap<String, RecomputedAt>) {
        self.last.recomputed = recomputed;
    }

    /// Takes over a dataflow that was fed from history; all state belongs to the next checkpoint.
    pub fn adopt(&mut self, dataflow: Dataflow, totals: &BTreeMap<String, Totals>) -> Result<(), PipelineError> {
        self.dataflow = dataflow;
        self.dataflow.measure(stopwatch(&self.environment));
        self.dataflow.attach(&self.checkpoints, true)?;
        self.starts_over = true;
        self.contents.restore_totals(totals);
        self.contents.forget_measures();
        for admission in &mut self.admissions {
            admission.mark_all_changed();
        }
        for index in self.indexes.values() {
            index.write().mark_all_changed();
        }
        self.changed_since_checkpoint = true;
        Ok(())
    }

    /// What it runs.
    pub fn spec(&self) -> &Arc<PipelineSpec> {
        &self.spec
    }

    /// The contents of all relations.
    pub fn contents(&self) -> &Arc<Contents> {
        &self.contents
    }

    /// The lookup indexes of keyed models.
    pub fn indexes(&self) -> &BTreeMap<Relation, SharedIndex> {
        &self.indexes
    }

    /// The last commit record.
    pub fn last(&self) -> &CommitRecord {
        &self.last
    }

    /// The last committed epoch.
    pub fn epoch(&self) -> EpochNumber {
        self.epoch
    }

    /// The ledger.
    pub fn ledger(&self) -> &SharedLedger {
        &self.ledger
    }

    /// Every operator of the models with what it did since the start and what it remembers, be it in memory or, since a
    /// start reads little of it, in the checkpoint alone.
    pub fn operators(&mut self) -> Vec<OperatorDescription> {
        let mut operators = self.dataflow.describe();
        if self.fetches {
            for operator in operators.iter_mut().filter(|operator| operator.keeps_state) {
                let (rows, bytes) = self.checkpoints.size_of(&operator.id);
                operator.state_rows = operator.state_rows.max(rows);
                operator.state_bytes = operator.state_bytes.max(bytes);
            }
        }
        operators
    }

    /// When a model changes by the clock alone, µs UTC.
    pub fn next_due(&self) -> Option<i64> {
        let graces = self
            .spec
            .checks()
            .filter_map(|(name, check)| self.standing(name).next_due(check, self.contents.rows(name)));
        graces.chain(self.dataflow.next_due()).min()
    }

    /// Bytes of the journal on disk.
    pub fn journal_bytes(&self) -> u64 {
        self.journal.bytes_on_disk()
    }
}

/// Tells the dataflow how long its operators take.
fn stopwatch(environment: &Environment) -> Stopwatch {
    let clock = environment.clock.clone();
    Arc::new(move || clock.elapsed())
}
