//! Upkeep of lake tables: many small files become few, rows that cancel go, files that nobody needs are deleted.
//!
//! Files are read and written without the table's lock, which is taken for the commit only: landings and readers go
//! on. A rewrite whose files have left the table meanwhile (the relation was dropped) is thrown away.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, SchemaRef};
use deltalake::logstore::object_store::ObjectStore;
use futures::TryStreamExt;
use tokio::sync::Mutex;
use weir_pipeline::EpochNumber;

use super::file::{DataFile, FileWriter, Part, lasting, read_file};
use super::keys::RowKeys;
use super::table::{Commit, LakeTable};
use super::{HORIZON_TXN, LakeError, LakeOptions};

/// Files of like size are merged when there are so many: each row is written anew once per size class at most.
pub(crate) const FILES_TO_MERGE: usize = 8;
/// Cancelling pays when at least one row in so many is a retraction that no earlier run has seen.
const ROWS_PER_RETRACTION: u64 = 8;

/// What a table was when upkeep began.
struct Moment {
    store: Arc<dyn ObjectStore>,
    schema: SchemaRef,
    files: Vec<Arc<DataFile>>,
}

/// Looks after one relation's table; returns its horizon.
pub(super) async fn maintain(
    handle: &Mutex<LakeTable>,
    horizon: EpochNumber,
    landed: EpochNumber,
    options: &LakeOptions,
) -> Result<EpochNumber, LakeError> {
    if let Some(moment) = moment(handle).await {
        let merged = handle.lock().await.txn(HORIZON_TXN) as u64;
        cancel(handle, moment, merged, horizon.min(landed), options).await?;
    }
    if let Some(moment) = moment(handle).await {
        pack(handle, moment, landed, options).await?;
    }
    let mut table = handle.lock().await;
    table.checkpoint(options.checkpoint_commits).await?;
    table.vacuum(options.keep_removed).await?;
    Ok(table.txn(HORIZON_TXN) as u64)
}

/// Looks after the table of landings.
pub(super) async fn maintain_epochs(handle: &Mutex<LakeTable>, options: &LakeOptions) -> Result<(), LakeError> {
    if let Some(moment) = moment(handle).await {
        pack(handle, moment, EpochNumber::MAX, options).await?;
    }
    let mut table = handle.lock().await;
    table.checkpoint(options.checkpoint_commits).await?;
    table.vacuum(options.keep_removed).await
}

async fn moment(handle: &Mutex<LakeTable>) -> Option<Moment> {
    let table = handle.lock().await;
    let schema = table.schema()?.clone();
    let mut files: Vec<_> = table.files().cloned().collect();
    files.sort_by_key(|file| file.epochs());
    Some(Moment { store: table.store(), schema, files })
}

/// Merges small files of one size class, class by class, within the budget.
async fn pack(
    handle: &Mutex<LakeTable>,
    moment: Moment,
    landed: EpochNumber,
    options: &LakeOptions,
) -> Result<(), LakeError> {
    let mut classes: HashMap<u32, Vec<Arc<DataFile>>> = HashMap::new();
    for file in moment.files {
        let ours = matches!(file.part, Part::Changes { last, .. } if last <= landed);
        if ours && file.size < options.file_bytes_target / 2 {
            classes.entry(size_class(file.size)).or_default().push(file);
        }
    }
    let mut budget = options.rewrite_bytes_max;
    for files in classes.into_values() {
        if files.len() < FILES_TO_MERGE {
            continue;
        }
        let taken: Vec<_> = files
            .into_iter()
            .take_while(|file| {
                let fits = budget >= file.size;
                budget = budget.saturating_sub(file.size);
                fits
            })
            .collect();
        if taken.len() < 2 {
            continue;
        }
        let target = options.file_bytes_target;
        let mut writer = FileWriter::changes(moment.store.clone(), moment.schema.clone(), target, lasting());
        for file in &taken {
            let mut rows = read_file(moment.store.clone(), file, moment.schema.clone()).await?;
            while let Some(batch) = rows.try_next().await? {
                writer.write(batch).await?;
            }
        }
        replace(handle, &taken, writer.finish().await?, Vec::new(), true).await?;
    }
    Ok(())
}

/// Takes away rows at or below the horizon whose weights cancel.
///
/// 1. Collect the retractions by a hash of 128 bits of the row (relation's columns only).
/// 2. Copy the additions, less what a retraction takes from them.
/// 3. Copy the retractions that found nothing in these files: their additions are in a file left out for its size.
async fn cancel(
    handle: &Mutex<LakeTable>,
    moment: Moment,
    merged: EpochNumber,
    horizon: EpochNumber,
    options: &LakeOptions,
) -> Result<(), LakeError> {
    let (mut files, mut bytes, mut rows) = (Vec::new(), 0, 0);
    let (mut retractions, mut unseen) = (0, 0);
    for file in moment.files.iter().rev() {
        let Part::Changes { last, negative, .. } = file.part else {
            continue;
        };
        if last > horizon {
            continue;
        }
        bytes += file.size;
        retractions += negative;
        if bytes > options.rewrite_bytes_max || retractions > options.cancel_rows_max {
            break;
        }
        rows += file.rows;
        unseen += if last > merged { negative } else { 0 };
        files.push(file.clone());
    }
    files.reverse();
    if unseen == 0 || unseen * ROWS_PER_RETRACTION < rows {
        return Ok(());
    }

    let columns: Vec<usize> = (0..moment.schema.fields().len() - 2).collect();
    let keys = RowKeys::new(&moment.schema, &columns)?;
    let mut pending: HashMap<u128, i64> = HashMap::new();
    for file in files.iter().filter(|file| has_retractions(file)) {
        let mut stream = read_file(moment.store.clone(), file, moment.schema.clone()).await?;
        while let Some(batch) = stream.try_next().await? {
            let batch = filter_record_batch(&batch, &sign(&batch, true))?;
            for (key, weight) in keys.of(&batch)?.into_iter().zip(weights(&batch).values()) {
                *pending.entry(key).or_default() += weight;
            }
        }
    }

    let target = options.file_bytes_target;
    let mut writer = FileWriter::changes(moment.store.clone(), moment.schema.clone(), target, lasting());
    for file in &files {
        let mut stream = read_file(moment.store.clone(), file, moment.schema.clone()).await?;
        while let Some(batch) = stream.try_next().await? {
            let batch = filter_record_batch(&batch, &sign(&batch, false))?;
            writer.write(settle(&batch, &keys, &mut pending)?).await?;
        }
    }
    if pending.values().any(|left| *left != 0) {
        for file in files.iter().filter(|file| has_retractions(file)) {
            let mut stream = read_file(moment.store.clone(), file, moment.schema.clone()).await?;
            while let Some(batch) = stream.try_next().await? {
                let batch = filter_record_batch(&batch, &sign(&batch, true))?;
                writer.write(keep_unsettled(&batch, &keys, &mut pending)?).await?;
            }
        }
    }
    let txns = vec![(HORIZON_TXN.to_owned(), horizon as i64)];
    replace(handle, &files, writer.finish().await?, txns, false).await
}

/// Files of one class differ in size by a factor of eight at most.
pub(crate) fn size_class(bytes: u64) -> u32 {
    (bytes / 4096).max(1).ilog2() / 3
}

fn has_retractions(file: &DataFile) -> bool {
    matches!(file.part, Part::Changes { negative, .. } if negative > 0)
}

fn weights(batch: &RecordBatch) -> &Int64Array {
    batch.column(batch.num_columns() - 2).as_primitive::<Int64Type>()
}

fn sign(batch: &RecordBatch, negative: bool) -> BooleanArray {
    weights(batch).values().iter().map(|weight| Some((*weight < 0) == negative)).collect()
}

/// Additions with what retractions leave of their weights.
fn settle(batch: &RecordBatch, keys: &RowKeys, pending: &mut HashMap<u128, i64>) -> Result<RecordBatch, LakeError> {
    let left: Vec<i64> = keys
        .of(batch)?
        .into_iter()
        .zip(weights(batch).values())
        .map(|(key, weight)| match pending.get_mut(&key) {
            Some(owed) => {
                let taken = (*weight).min(-*owed);
                *owed += taken;
                weight - taken
            }
            None => *weight,
        })
        .collect();
    reweigh(batch, left)
}

/// Retractions as far as they are still owed.
fn keep_unsettled(
    batch: &RecordBatch,
    keys: &RowKeys,
    pending: &mut HashMap<u128, i64>,
) -> Result<RecordBatch, LakeError> {
    let left: Vec<i64> = keys
        .of(batch)?
        .into_iter()
        .zip(weights(batch).values())
        .map(|(key, weight)| match pending.get_mut(&key) {
            Some(owed) => {
                let kept = (*weight).max(*owed);
                *owed -= kept;
                kept
            }
            None => 0,
        })
        .collect();
    reweigh(batch, left)
}

fn reweigh(batch: &RecordBatch, left: Vec<i64>) -> Result<RecordBatch, LakeError> {
    let kept: BooleanArray = left.iter().map(|weight| Some(*weight != 0)).collect();
    let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
    let at = columns.len() - 2;
    columns[at] = Arc::new(Int64Array::from(left));
    let batch = RecordBatch::try_new(batch.schema(), columns)?;
    Ok(if kept.true_count() == kept.len() { batch } else { filter_record_batch(&batch, &kept)? })
}

/// Commits `written` in place of `files`, unless one of them is gone.
async fn replace(
    handle: &Mutex<LakeTable>,
    files: &[Arc<DataFile>],
    written: Vec<DataFile>,
    txns: Vec<(String, i64)>,
    layout_only: bool,
) -> Result<(), LakeError> {
    let mut table = handle.lock().await;
    if !files.iter().all(|file| table.contains(&file.path)) {
        return Ok(());
    }
    let removed = files.iter().map(|file| file.path.clone()).collect();
    let commit = Commit { operation: "OPTIMIZE", added: written, removed, txns, layout_only, ..Default::default() };
    match table.commit(commit).await {
        // Someone else got there first; the next run sees what is left to do.
        Err(LakeError::Conflict(_)) => Ok(()),
        other => other.map(|_| ()),
    }
}
