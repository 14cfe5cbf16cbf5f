//! Sends quarantined or late records of a source through admission again, after a mend of the folder.
//!
//! A replayed record keeps its partition, offset and arrival, so that a keyed source ends with the same row as if it had
//! been good from the start. It leaves the quarantine in the epoch that admits it; if it fails again, it returns.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use arrow::array::{Array, AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::compute::filter_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use datafusion::prelude::{SessionContext, col, lit};
use weir_incremental::{Delta, Relation};
use weir_schemas::{Attributes, Records};

use crate::contents::Snapshot;
use crate::core::{PipelineError, ReplayPart};
use crate::input::Chunk;
use crate::prepare::{PreparedChunk, SourceReader, prepare_chunk};
use crate::spec::{LATE, QUARANTINE};

/// Reasons of what is not a record and cannot be sent through again.
const NOT_RECORDS: [&str; 4] = ["file_changed", "truncated_gzip", "truncated_zstd", "unreadable"];

/// Bytes of records in one chunk at most.
const CHUNK_BYTES_MAX: usize = 8 << 20;

/// Collects what can be replayed; None when there is nothing.
pub async fn prepare_replay(
    snapshot: &Snapshot,
    index: usize,
    reader: &Arc<SourceReader>,
    late: bool,
) -> Result<Option<ReplayPart>, PipelineError> {
    let failed = |e: datafusion::error::DataFusionError| PipelineError::Contents(e.into());
    let relation = Relation::from(if late { LATE } else { QUARANTINE });
    let table = snapshot.table(&relation).await?;
    let mut frame = SessionContext::new()
        .read_table(table)
        .and_then(|f| f.filter(col("source").eq(lit(reader.name.as_ref()))))
        .map_err(failed)?;
    if !late {
        let reasons = NOT_RECORDS.iter().map(|r| lit(*r)).collect();
        frame = frame.filter(col("reason").in_list(reasons, true)).map_err(failed)?;
    }
    let order = vec![col("partition").sort(true, true), col("offset").sort(true, true)];
    let batches = frame.sort(order).map_err(failed)?.collect().await.map_err(failed)?;

    let mut chunks: Vec<PreparedChunk> = Vec::new();
    let mut removed = Vec::new();
    for batch in &batches {
        if batch.num_rows() == 0 {
            continue;
        }
        let mut unclaimed: HashSet<(i64, i64)> = HashSet::new();
        for chunk in chunks_of(batch)? {
            let prepared = prepare_chunk(std::slice::from_ref(reader), chunk);
            let chunk = &prepared.chunk;
            let offsets = prepared.unrouted.iter().map(|record| chunk.offsets[*record as usize] as i64);
            unclaimed.extend(offsets.map(|offset| (i64::from(chunk.partition), offset)));
            chunks.push(prepared);
        }
        let schema = if late { crate::spec::late_schema() } else { crate::spec::quarantine_schema() };
        let rows = RecordBatch::try_new(schema, batch.columns().to_vec())?;
        // What the source's `where` does not claim any more stays where it is.
        let column = |name: &str| numbers_of(&rows, name);
        let (partitions, offsets) = (column("partition")?, column("offset")?);
        let places = partitions.values().iter().zip(offsets.values());
        let leaves: BooleanArray =
            places.map(|(partition, offset)| Some(!unclaimed.contains(&(*partition, *offset)))).collect();
        removed.push(Delta::inserts(filter_record_batch(&rows, &leaves)?).negate());
    }
    if chunks.is_empty() {
        return Ok(None);
    }
    let removed = Delta::concat(&removed[0].schema(), &removed)?;
    Ok(Some(ReplayPart { source: index, chunks, removed: vec![(relation, removed)], check_lateness: !late }))
}

fn numbers_of(rows: &RecordBatch, name: &str) -> Result<Int64Array, PipelineError> {
    Ok(rows.column(rows.schema().index_of(name)?).as_primitive::<Int64Type>().clone())
}

pub(crate) fn chunks_of(batch: &RecordBatch) -> Result<Vec<Chunk>, PipelineError> {
    let schema = batch.schema();
    let column = |name: &str| schema.index_of(name).map(|i| batch.column(i));
    let raw = column("raw")?.as_binary::<i32>();
    let arrivals = column("arrival")?.as_primitive::<TimestampMicrosecondType>();
    let partitions = column("partition")?.as_primitive::<Int64Type>();
    let offsets = column("offset")?.as_primitive::<Int64Type>();
    let preambles = column("preamble")?.as_binary::<i32>();
    let mut groups: BTreeMap<(i64, &[u8]), Vec<usize>> = BTreeMap::new();
    for row in 0..batch.num_rows() {
        let preamble = if preambles.is_null(row) { &[][..] } else { preambles.value(row) };
        groups.entry((partitions.value(row), preamble)).or_default().push(row);
    }
    let mut chunks = Vec::new();
    for ((partition, preamble), rows) in groups {
        let start = || {
            let records = Records { preamble: bytes::Bytes::copy_from_slice(preamble), ..Records::default() };
            Chunk { partition: partition as u32, records, ..Chunk::default() }
        };
        let mut buffer = Vec::new();
        let mut chunk = start();
        for row in rows {
            let bytes = if raw.is_null(row) { &[][..] } else { raw.value(row) };
            if buffer.len() + bytes.len() > CHUNK_BYTES_MAX && !chunk.offsets.is_empty() {
                chunks.push(finish(std::mem::replace(&mut chunk, start()), std::mem::take(&mut buffer)));
            }
            chunk.records.ranges.push((buffer.len() as u32, bytes.len() as u32));
            buffer.extend_from_slice(bytes);
            chunk.offsets.push(offsets.value(row) as u64);
            chunk.arrivals.push(arrivals.value(row));
        }
        chunks.push(finish(chunk, buffer));
    }
    Ok(chunks)
}

fn finish(mut chunk: Chunk, buffer: Vec<u8>) -> Chunk {
    let arrivals = arrow::array::TimestampMicrosecondArray::from(chunk.arrivals.clone()).with_timezone("UTC");
    chunk.bytes = buffer.len() as u64;
    chunk.records.buffer = buffer.into();
    chunk.attributes = Attributes { columns: vec![(weir_schemas::Attribute::Arrival, Arc::new(arrivals))] };
    chunk
}
