//! Makes the checkpoint anew from the lake's history, where the one that was there is damaged or lost.
//!
//! What a checkpoint holds is the state after some epoch. After the landed epoch L, the lake has the contents of every
//! relation, and the journal the commit record of L with all positions and watermarks. So the sources' contents at L go
//! through a dataflow that remembers nothing; what it makes of every model has to be what the lake holds of it, row for row
//! by checksum, or nothing is written. The epochs behind L then run again from the journal as in any recovery.
//!
//! Not everything that admission remembers is in the contents: which repeats were seen, which keys were deleted and when.
//! Sources that need it are not restored in this way ([`obstacle`]); a journal that still holds the first epoch restores
//! everything, without this.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use weir_environment::Environment;
use weir_incremental::checkpoint::CheckpointStore;
use weir_incremental::dataflow::StepOutput;
use weir_incremental::{Delta, Relation};
use weir_journal::{EpochJournal, EpochJournalOptions};

use crate::EpochNumber;
use crate::change::Change;
use crate::contents::{Contents, Totals};
use crate::core::{Core, PipelineError, commit_record, folders};
use crate::frames::{CheckpointRecord, FRAMES_VERSION};
use crate::history::History;
use crate::rebuild::{Sum, each_step};
use crate::spec::{ERRORS, LATE, PipelineSpec, QUARANTINE};

/// Why the lake cannot say what admission remembered; None when it can.
pub fn obstacle(spec: &PipelineSpec) -> Option<String> {
    spec.sources.iter().find_map(|source| {
        let name = &source.name;
        if source.dedupe.is_some() {
            Some(format!("source `{name}` drops repeats, and which ones it has seen is in the checkpoint only"))
        } else if source.deleted.is_some() {
            Some(format!("source `{name}` takes deletions, and when a key was deleted is in the checkpoint only"))
        } else {
            None
        }
    })
}

/// Writes the checkpoint of the landed epoch into an empty store; returns the epoch. `progress` is told rows read, of each
/// source.
///
/// # Errors
/// [`PipelineError::Apart`] when the lake is not what its models were made of; nothing is written then.
pub async fn restore_checkpoint(
    environment: &Environment,
    spec: &Arc<PipelineSpec>,
    history: &Arc<dyn History>,
    store: &CheckpointStore,
    progress: &(dyn Fn(&str, u64) + Send + Sync),
) -> Result<EpochNumber, PipelineError> {
    if let Some(obstacle) = obstacle(spec) {
        return Err(PipelineError::State(format!("the checkpoint cannot be made anew: {obstacle}")));
    }
    let epoch = history.landed();
    let commit = {
        let folder = spec.folder.join(folders::JOURNAL);
        let journal = EpochJournal::open(environment, folder, EpochJournalOptions::default())?;
        commit_record(epoch, &journal.read(epoch)?.payload)?
    };
    let clock = commit.clock;
    let fingerprint = spec.fingerprint.clone();
    // Measures are counted over what is there, as those that are declared later.
    let (totals, measures) = (BTreeMap::new(), BTreeMap::new());
    let record = CheckpointRecord { version: FRAMES_VERSION, commit, totals, measures, fingerprint };
    let mut core = Core::open_after(environment, spec.clone(), history.clone(), store, (epoch, record))?;

    let contents = Contents::new(history.clone(), epoch, clock, spec.relations());
    let snapshot = contents.pin();
    let mut dataflow = spec.dataflow(&environment.workers)?;
    let mut sums: BTreeMap<Relation, Sum> = BTreeMap::new();
    let mut collect = |output: StepOutput| {
        let errors = output.errors.into_iter().map(|(_, delta)| (Relation::from(ERRORS), delta));
        output.models.into_iter().chain(errors).try_for_each(|(name, delta)| sums.entry(name).or_default().add(delta))
    };
    collect(dataflow.step(clock, &HashMap::new())?)?;
    // What is set aside was never made of contents, nor were the errors of a recomputation.
    let mut unmade = vec![QUARANTINE, LATE];
    unmade.extend(spec.recomputed().next().map(|_| ERRORS));
    let mut totals = BTreeMap::new();
    let recomputed = spec.recomputed().map(|model| (&model.plan.name, &model.plan.schema));
    for (name, schema) in spec.sources.iter().map(|source| (&source.name, &source.schema)).chain(recomputed) {
        let (mut total, mut read) = (Totals::default(), 0);
        let keyed = spec.sources.iter().any(|source| source.name == *name && !source.keys.is_empty());
        each_step(&snapshot, name, schema, |rows| {
            read += rows.num_rows() as u64;
            let change = counted(&mut total, name, rows)?;
            if keyed {
                core.readmit(name, &change.delta.rows)?;
            }
            collect(dataflow.step(clock, &HashMap::from([(name.clone(), change.delta)]))?)?;
            progress(name, read);
            Ok(())
        })
        .await?;
        totals.insert(name.to_string(), total);
    }

    for info in spec.relations() {
        let name = &info.name;
        let indexed = core.indexes().contains_key(name);
        let mut parts = Vec::new();
        let mut held = Totals::default();
        if !totals.contains_key(name.as_ref()) {
            each_step(&snapshot, name, &info.schema, |rows| {
                let change = counted(&mut held, name, rows)?;
                parts.extend(indexed.then_some(change.delta));
                Ok(())
            })
            .await?;
            totals.insert(name.to_string(), held);
            if !unmade.contains(&name.as_ref()) {
                let made = sums
                    .get(name)
                    .map_or_else(|| Ok(Delta::empty(info.schema.clone())), |sum| sum.total(&info.schema))?;
                let made = Change::new(name.clone(), made)?;
                if (made.rows, made.checksum) != (held.rows, held.checksum) {
                    return Err(PipelineError::Apart(format!(
                        "the lake holds {} rows of `{name}` at epoch {epoch}, and its sources' history gives other ones ({})",
                        held.rows, made.rows
                    )));
                }
            }
        } else if indexed {
            each_step(&snapshot, name, &info.schema, |rows| {
                parts.push(Delta::inserts(rows));
                Ok(())
            })
            .await?;
        }
        if indexed {
            core.reindex(name, &Delta::concat(&info.schema, &parts)?)?;
        }
    }
    core.adopt(dataflow, &totals)?;
    if let Some(mut pending) = core.take_checkpoint() {
        pending.write(store)?;
    }
    Ok(epoch)
}

/// Adds rows to a total, and makes a change of them.
fn counted(total: &mut Totals, name: &Relation, rows: arrow::array::RecordBatch) -> Result<Change, PipelineError> {
    let change = Change::new(name.clone(), Delta::inserts(rows))?;
    total.rows += change.rows;
    total.checksum = total.checksum.wrapping_add(change.checksum);
    Ok(change)
}
