//! The part of admission that needs no state, so that it can run on any thread ahead of the epoch: routing, decoding,
//! the contract, enrichment, event time.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array};
use arrow::compute::{cast, take_record_batch};
use arrow::datatypes::{DataType, Int64Type, SchemaRef, TimeUnit};
use bytes::Bytes;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::utils::collect_columns;
use weir_incremental::Relation;
use weir_schemas::{Attributes, Contract, Decoder, FormatRef, Records};

use crate::input::{Chunk, Polled};

/// A record, or part of the input, that is set aside with its reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetAside {
    /// Index of the record in its chunk.
    pub record: u32,
    /// Offset within the partition.
    pub offset: u64,
    /// Short stable code.
    pub reason: String,
    /// One sentence.
    pub message: String,
    /// The raw bytes.
    pub raw: Bytes,
    /// What the raw bytes need to be understood: the header line of a CSV file.
    pub preamble: Bytes,
}

/// The rows that one source made of a chunk.
#[derive(Debug, Clone)]
pub struct PreparedRows {
    /// Rows that fit the contract, enriched, in order of their records.
    pub rows: RecordBatch,
    /// Index of each row's record in the chunk.
    pub records: Vec<u32>,
    /// Event time of each row, µs UTC.
    pub times: Vec<i64>,
    /// Records of this source that do not fit.
    pub rejects: Vec<SetAside>,
    /// Rows of those records that could be decoded all the same, and the records' indices.
    pub rejected: Option<(RecordBatch, Vec<u32>)>,
}

/// A chunk, decoded for all sources that read the input.
#[derive(Debug, Clone)]
pub struct PreparedChunk {
    /// What was read.
    pub chunk: Chunk,
    /// What each source, in the order of the input's sources, made of it.
    pub sources: Vec<PreparedRows>,
    /// Indices of records that no source claims.
    pub unrouted: Vec<u32>,
}

/// The records between two cursors, decoded.
#[derive(Debug, Clone)]
pub struct PreparedPoll {
    /// Decoded chunks.
    pub chunks: Vec<PreparedChunk>,
    /// Where the input goes on.
    pub polled: Polled,
}

/// How one source reads records; immutable.
#[derive(Debug)]
pub struct SourceReader {
    /// The source.
    pub name: Relation,
    /// The relation's columns: the contract's, `_extra` where kept, the enriched ones.
    pub schema: SchemaRef,
    decoder: Arc<dyn Decoder>,
    route: Option<Route>,
    enrich: Vec<Arc<dyn PhysicalExpr>>,
    time: Option<usize>,
    ahead_max_us: Option<i64>,
}

#[derive(Debug)]
struct Route {
    decoder: Arc<dyn Decoder>,
    predicate: Arc<dyn PhysicalExpr>,
}

/// What a [`SourceReader`] is built from.
#[derive(Debug, Clone)]
pub struct SourceReaderSpec {
    /// The source.
    pub name: Relation,
    /// The relation's columns.
    pub schema: SchemaRef,
    /// The contract of the raw records.
    pub contract: Contract,
    /// The format of the raw records.
    pub format: FormatRef,
    /// `where`, over the contract's columns.
    pub predicate: Option<Arc<dyn PhysicalExpr>>,
    /// `[enrich]`, over the contract's columns, in order.
    pub enrich: Vec<Arc<dyn PhysicalExpr>>,
    /// Column of the event time; none: arrival.
    pub time: Option<usize>,
    /// How far a time may be past its arrival.
    pub ahead_max_us: Option<i64>,
}

/// Rejects of a record as a whole, rather than for one contract.
fn is_broken(reason: &str) -> bool {
    !matches!(reason, "wrong_type" | "missing" | "out_of_range" | "unknown_field")
}

impl SourceReader {
    /// Builds the decoders.
    pub fn new(spec: SourceReaderSpec) -> Result<Self, datafusion::error::DataFusionError> {
        let decoder = spec.format.decoder(&spec.contract);
        let route = match spec.predicate {
            None => None,
            Some(predicate) => {
                let used = collect_columns(&predicate);
                let mut columns: Vec<_> =
                    spec.contract.columns.iter().filter(|c| used.iter().any(|u| u.name() == c.name)).cloned().collect();
                for column in &mut columns {
                    column.required = false;
                }
                let contract = Contract { columns, unknown: weir_schemas::UnknownFields::Drop };
                let decoder = spec.format.decoder(&contract);
                let schema = decoder.schema();
                let predicate = datafusion::physical_expr::utils::reassign_expr_columns(predicate, &schema)?;
                Some(Route { decoder, predicate })
            }
        };
        Ok(Self {
            name: spec.name,
            schema: spec.schema,
            decoder,
            route,
            enrich: spec.enrich,
            time: spec.time,
            ahead_max_us: spec.ahead_max_us,
        })
    }

    /// Which records this source claims; None for all of them. Also which are broken for everybody.
    fn claims(&self, records: &Records, attributes: &Attributes) -> Option<(Vec<bool>, Vec<u32>)> {
        let route = self.route.as_ref()?;
        let decoded = route.decoder.decode(records, attributes);
        let mut claimed = vec![false; records.len()];
        let broken = decoded.rejects.iter().filter(|r| is_broken(r.reason)).map(|r| r.record).collect();
        if let Some(mask) = evaluate_tolerant(&route.predicate, &decoded.batch) {
            for (row, record) in decoded.rows.iter().enumerate() {
                claimed[*record as usize] = mask.is_valid(row) && mask.value(row);
            }
        }
        Some((claimed, broken))
    }

    fn prepare(&self, chunk: &Chunk, claimed: Option<&[bool]>) -> PreparedRows {
        let (decoded, renumber) = match claimed {
            None => (self.decoder.decode(&chunk.records, &chunk.attributes), None),
            Some(mask) => {
                let chosen: Vec<u32> = (0..mask.len() as u32).filter(|i| mask[*i as usize]).collect();
                let records = Records {
                    buffer: chunk.records.buffer.clone(),
                    ranges: chosen.iter().map(|i| chunk.records.ranges[*i as usize]).collect(),
                    preamble: chunk.records.preamble.clone(),
                };
                let indices = UInt32Array::from(chosen.clone());
                let columns = chunk.attributes.columns.iter();
                let attributes = Attributes {
                    columns: columns
                        // Taking by valid indices from arrays of the chunk's length cannot fail.
                        .filter_map(|(a, v)| arrow::compute::take(v, &indices, None).ok().map(|v| (*a, v)))
                        .collect(),
                };
                (self.decoder.decode(&records, &attributes), Some(chosen))
            }
        };
        let record_of = |index: u32| renumber.as_ref().map_or(index, |r| r[index as usize]);
        let aside = |record: u32, reason: &str, message: String| SetAside {
            record,
            offset: chunk.offsets[record as usize],
            reason: reason.to_owned(),
            message,
            raw: raw_bytes(&chunk.records, record),
            preamble: chunk.records.preamble.clone(),
        };
        let mut rejects: Vec<SetAside> =
            decoded.rejects.into_iter().map(|r| aside(record_of(r.record), r.reason, r.message)).collect();
        let records: Vec<u32> = decoded.rows.iter().map(|r| record_of(*r)).collect();

        let (rows, records) = self.enriched(decoded.batch, records, &mut |record, message| {
            rejects.push(aside(record, "enrich_failed", message));
        });
        let (times, faults) = self.times(&rows, &records, &chunk.arrivals);
        if faults.is_empty() {
            rejects.sort_by_key(|r| r.record);
            return PreparedRows { rows, records, times, rejects, rejected: None };
        }
        let mut keep = vec![true; records.len()];
        for (row, reason, message) in faults {
            keep[row] = false;
            rejects.push(aside(records[row], reason, message));
        }
        rejects.sort_by_key(|r| r.record);
        let picked = |kept: bool| -> (RecordBatch, Vec<u32>, Vec<i64>) {
            let chosen: Vec<u32> = (0..keep.len() as u32).filter(|i| keep[*i as usize] == kept).collect();
            let part = |values: &[u32]| chosen.iter().map(|i| values[*i as usize]).collect();
            let times = chosen.iter().map(|i| times[*i as usize]).collect();
            let taken = take_record_batch(&rows, &UInt32Array::from(chosen.clone()));
            (taken.unwrap_or_else(|_| RecordBatch::new_empty(self.schema.clone())), part(&records), times)
        };
        let (left, left_records, _) = picked(false);
        let (rows, records, times) = picked(true);
        PreparedRows { rows, records, times, rejects, rejected: Some((left, left_records)) }
    }

    /// What the source would make of all records of a chunk if its `where` were not asked, and which of them it claims.
    pub fn examine(&self, chunk: &Chunk) -> (PreparedRows, Option<Vec<bool>>) {
        let claimed = self.claims(&chunk.records, &chunk.attributes).map(|(claimed, _)| claimed);
        (self.prepare(chunk, None), claimed)
    }

    /// Adds the enriched columns; rows whose expression fails are reported and left out.
    fn enriched(
        &self,
        batch: RecordBatch,
        records: Vec<u32>,
        fail: &mut dyn FnMut(u32, String),
    ) -> (RecordBatch, Vec<u32>) {
        let with = |batch: &RecordBatch| -> Result<RecordBatch, String> {
            let mut columns = batch.columns().to_vec();
            for expression in &self.enrich {
                let value = expression.evaluate(batch).and_then(|v| v.into_array(batch.num_rows()));
                let value = value.map_err(|e| e.strip_backtrace())?;
                let wanted = self.schema.field(columns.len()).data_type();
                let value = if value.data_type() == wanted {
                    value
                } else {
                    cast(&value, wanted).map_err(|e| e.to_string())?
                };
                columns.push(value);
            }
            RecordBatch::try_new(self.schema.clone(), columns).map_err(|e| e.to_string())
        };
        if let Ok(done) = with(&batch) {
            return (done, records);
        }
        let mut good = Vec::new();
        let mut kept = Vec::new();
        for (row, record) in records.into_iter().enumerate() {
            match with(&batch.slice(row, 1)) {
                Ok(done) => {
                    good.push(done);
                    kept.push(record);
                }
                Err(message) => fail(record, message),
            }
        }
        let rows = arrow::compute::concat_batches(&self.schema, &good)
            .unwrap_or_else(|_| RecordBatch::new_empty(self.schema.clone()));
        (rows, kept)
    }

    /// Adds the enriched columns to rows of the contract; fails with the first row that fails.
    pub fn enrich(&self, batch: &RecordBatch) -> Result<RecordBatch, String> {
        let mut failure = None;
        let records = (0..batch.num_rows() as u32).collect();
        let (rows, _) = self.enriched(batch.clone(), records, &mut |row, message| {
            failure.get_or_insert(format!("row {row}: {message}"));
        });
        failure.map_or(Ok(rows), Err)
    }

    /// Column of the event time, if the source declares one.
    pub fn time_column(&self) -> Option<usize> {
        self.time
    }

    /// Event times, and the rows whose time cannot be: (row, reason, message).
    fn times(
        &self,
        rows: &RecordBatch,
        records: &[u32],
        arrivals: &[i64],
    ) -> (Vec<i64>, Vec<(usize, &'static str, String)>) {
        let arrived: Vec<i64> = records.iter().map(|r| arrivals[*r as usize]).collect();
        let Some(column) = self.time else { return (arrived, Vec::new()) };
        let name = self.schema.field(column).name();
        let Some(values) = micros(rows.column(column)) else { return (arrived, Vec::new()) };
        let values = values.as_primitive::<Int64Type>();
        let mut faults = Vec::new();
        let mut times = Vec::with_capacity(arrived.len());
        for (row, arrival) in arrived.into_iter().enumerate() {
            if values.is_null(row) {
                faults.push((row, "missing_time", format!("`{name}` is the source's time and is NULL")));
                times.push(arrival);
                continue;
            }
            let time = values.value(row);
            if let Some(ahead) = self.ahead_max_us {
                if time > arrival.saturating_add(ahead) {
                    let message = format!(
                        "`{name}` is {} s past the record's arrival; ahead_max allows {} s",
                        (time - arrival) / 1_000_000,
                        ahead / 1_000_000
                    );
                    faults.push((row, "ahead", message));
                } else if (0..YEAR_US).contains(&time) && arrival > 2 * YEAR_US {
                    faults.push((row, "clock_unset", format!("`{name}` lies in 1970: the sender's clock was not set")));
                }
            }
            times.push(time);
        }
        (times, faults)
    }
}

const YEAR_US: i64 = 365 * 24 * 3600 * 1_000_000;

fn raw_bytes(records: &Records, record: u32) -> Bytes {
    let (start, length) = records.ranges[record as usize];
    records.buffer.slice(start as usize..(start + length) as usize)
}

/// A column of a date or timestamp type as µs since 1970 UTC; None for other types.
pub fn micros(column: &ArrayRef) -> Option<ArrayRef> {
    match column.data_type() {
        DataType::Timestamp(TimeUnit::Microsecond, _) => cast(column, &DataType::Int64).ok(),
        DataType::Timestamp(_, _) | DataType::Date32 | DataType::Date64 => {
            let timestamps = cast(column, &DataType::Timestamp(TimeUnit::Microsecond, None)).ok()?;
            cast(&timestamps, &DataType::Int64).ok()
        }
        _ => None,
    }
}

/// A predicate over a batch; a row for which it fails counts as not true.
fn evaluate_tolerant(predicate: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Option<BooleanArray> {
    let once = |batch: &RecordBatch| -> Option<BooleanArray> {
        let value = predicate.evaluate(batch).and_then(|v| v.into_array(batch.num_rows())).ok()?;
        value.as_boolean_opt().cloned()
    };
    once(batch).or_else(|| {
        let rows = (0..batch.num_rows()).map(|row| once(&batch.slice(row, 1)).map(|m| m.is_valid(0) && m.value(0)));
        Some(rows.map(|row| row.unwrap_or(false)).collect::<Vec<bool>>().into())
    })
}

/// Decodes a chunk for every source that reads the input.
pub fn prepare_chunk(sources: &[Arc<SourceReader>], chunk: Chunk) -> PreparedChunk {
    let claims: Vec<_> = sources.iter().map(|s| s.claims(&chunk.records, &chunk.attributes)).collect();
    if claims.iter().all(Option::is_none) {
        let sources = sources.iter().map(|s| s.prepare(&chunk, None)).collect();
        return PreparedChunk { sources, chunk, unrouted: Vec::new() };
    }
    let mut masks: Vec<Option<Vec<bool>>> = Vec::new();
    let mut broken: Vec<u32> = Vec::new();
    for claim in claims {
        match claim {
            None => masks.push(None),
            Some((mask, bad)) => {
                masks.push(Some(mask));
                broken.extend(bad);
            }
        }
    }
    broken.sort_unstable();
    broken.dedup();
    let everything_claimed = masks.iter().any(Option::is_none);
    if !everything_claimed && let Some(Some(first)) = masks.first_mut() {
        // A record that nobody can read is quarantined once, under the first source by name.
        for record in &broken {
            first[*record as usize] = true;
        }
    }
    let unrouted = if everything_claimed {
        Vec::new()
    } else {
        let claimed = |i: &u32| masks.iter().flatten().any(|m| m[*i as usize]);
        (0..chunk.records.len() as u32).filter(|i| !claimed(i)).collect()
    };
    let prepared = sources.iter().zip(&masks).map(|(s, mask)| s.prepare(&chunk, mask.as_deref())).collect();
    PreparedChunk { sources: prepared, chunk, unrouted }
}

/// Decodes all chunks of a poll.
pub fn prepare_poll(sources: &[Arc<SourceReader>], mut polled: Polled) -> PreparedPoll {
    let chunks = std::mem::take(&mut polled.chunks);
    PreparedPoll { chunks: chunks.into_iter().map(|chunk| prepare_chunk(sources, chunk)).collect(), polled }
}

impl PreparedChunk {
    /// Number of records.
    pub fn len(&self) -> usize {
        self.chunk.records.len()
    }

    /// Whether there is neither record nor incident in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0 && self.chunk.incidents.is_empty()
    }

    /// The records from `start` (inclusive) to `end` (exclusive), with the incidents when `start` is 0.
    pub fn part(&self, start: u32, end: u32) -> PreparedChunk {
        let range = start as usize..end as usize;
        let chunk = Chunk {
            partition: self.chunk.partition,
            records: Records {
                buffer: self.chunk.records.buffer.clone(),
                ranges: self.chunk.records.ranges[range.clone()].to_vec(),
                preamble: self.chunk.records.preamble.clone(),
            },
            offsets: self.chunk.offsets[range.clone()].to_vec(),
            arrivals: self.chunk.arrivals[range.clone()].to_vec(),
            attributes: Attributes {
                columns: self
                    .chunk
                    .attributes
                    .columns
                    .iter()
                    .map(|(a, v)| (*a, v.slice(range.start, range.len())))
                    .collect(),
            },
            incidents: if start == 0 { self.chunk.incidents.clone() } else { Vec::new() },
            bytes: if start == 0 { self.chunk.bytes } else { 0 },
        };
        let within = |r: &u32| (start..end).contains(r);
        let sources = self.sources.iter().map(|s| {
            let from = s.records.partition_point(|r| *r < start);
            let to = s.records.partition_point(|r| *r < end);
            let rejects = s.rejects.iter().filter(|r| within(&r.record)).cloned();
            let rejected = s.rejected.as_ref().map(|(rows, records)| {
                let from = records.partition_point(|r| *r < start);
                let to = records.partition_point(|r| *r < end);
                (rows.slice(from, to - from), records[from..to].iter().map(|r| r - start).collect())
            });
            PreparedRows {
                rows: s.rows.slice(from, to - from),
                records: s.records[from..to].iter().map(|r| r - start).collect(),
                times: s.times[from..to].to_vec(),
                rejects: rejects.map(|r| SetAside { record: r.record - start, ..r }).collect(),
                rejected,
            }
        });
        PreparedChunk {
            sources: sources.collect(),
            unrouted: self.unrouted.iter().filter(|r| within(r)).map(|r| r - start).collect(),
            chunk,
        }
    }
}
