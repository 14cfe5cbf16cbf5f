//! The part of admission that has state: lateness, repeats, identity. Once per row, in order, never again.
//!
//! What is admitted is written to the journal with its position; recovery applies the same rows through
//! [`Admission::apply`], which is the path of live rows too.

use arrow::array::{RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use serde::{Deserialize, Serialize};
use weir_incremental::checkpoint::Disk;
use weir_incremental::{Delta, EngineError, Relation, State};

use crate::dedupe::Dedupe;
use crate::keyed::{KeyedTable, Positions};
use crate::prepare::{PreparedChunk, PreparedRows, SetAside};
use crate::watermark::Watermarks;

/// Both countings of promise P2 for one source: of an epoch, or of all epochs so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Records (and unreadable parts of the input) that are this source's.
    pub records: u64,
    /// Records that became rows.
    pub rows: u64,
    /// Records set aside because they do not fit the contract.
    pub quarantined: u64,
    /// Rows that take part.
    pub admitted: u64,
    /// Rows older than the watermark allows.
    pub late: u64,
    /// Rows that repeat an admitted one.
    pub duplicate: u64,
    /// Rows of a keyed source that a later row had replaced before they came.
    pub superseded: u64,
}

impl Counts {
    /// Adds another counting.
    pub fn add(&mut self, other: &Counts) {
        self.records += other.records;
        self.rows += other.rows;
        self.quarantined += other.quarantined;
        self.admitted += other.admitted;
        self.late += other.late;
        self.duplicate += other.duplicate;
        self.superseded += other.superseded;
    }

    /// The law of conservation; the error names the sum that does not hold.
    pub fn check(&self) -> Result<(), String> {
        if self.records != self.rows + self.quarantined {
            return Err(format!(
                "{} records are not {} rows + {} quarantined",
                self.records, self.rows, self.quarantined
            ));
        }
        if self.rows != self.admitted + self.late + self.duplicate + self.superseded {
            return Err(format!(
                "{} rows are not {} admitted + {} late + {} duplicate + {} superseded",
                self.rows, self.admitted, self.late, self.duplicate, self.superseded
            ));
        }
        Ok(())
    }
}

/// A row that came too late.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LateRow {
    /// The record, as for quarantined ones.
    pub aside: SetAside,
    /// Its event time, µs UTC.
    pub time: i64,
}

/// What one chunk gave for one source.
#[derive(Debug)]
pub struct Admitted {
    /// The rows that take part, in order.
    pub rows: RecordBatch,
    /// Where they came from.
    pub positions: Positions,
    /// The change of the relation.
    pub delta: Delta,
    /// Late rows.
    pub late: Vec<LateRow>,
    /// Rows whose key is NULL.
    pub rejects: Vec<SetAside>,
    /// The counting.
    pub counts: Counts,
    /// Rows that were decoded and take no part, for a source with measures.
    pub aside: RowsAside,
}

/// Decoded rows that take no part, by why.
#[derive(Debug, Clone, Default)]
pub struct RowsAside {
    /// Set aside because they do not fit the contract.
    pub quarantined: Vec<RecordBatch>,
    /// Older than the watermark allows.
    pub late: Vec<RecordBatch>,
    /// Repeats.
    pub duplicate: Vec<RecordBatch>,
    /// Replaced before they came.
    pub superseded: Vec<RecordBatch>,
}

impl RowsAside {
    /// Adds others.
    pub fn extend(&mut self, other: RowsAside) {
        self.quarantined.extend(other.quarantined);
        self.late.extend(other.late);
        self.duplicate.extend(other.duplicate);
        self.superseded.extend(other.superseded);
    }
}

/// The stateful half of one source.
#[derive(Debug)]
pub struct Admission {
    /// The source.
    pub name: Relation,
    schema: SchemaRef,
    lateness_us: Option<i64>,
    keys: Vec<usize>,
    /// Watermarks by partition.
    pub watermarks: Watermarks,
    dedupe: Option<Dedupe>,
    keyed: Option<KeyedTable>,
    /// Whether [`Admitted::aside`] is wanted.
    measured: bool,
}

impl Admission {
    /// The admission of a source with the given state machines; `keys` are the key columns (none: a stream).
    pub fn new(
        name: Relation,
        schema: SchemaRef,
        lateness_us: Option<i64>,
        keys: Vec<usize>,
        dedupe: Option<Dedupe>,
        keyed: Option<KeyedTable>,
    ) -> Self {
        Self { name, schema, lateness_us, keys, watermarks: Watermarks::default(), dedupe, keyed, measured: false }
    }

    /// Keeps the rows that take no part, so that they can be summed.
    pub fn measured(self) -> Self {
        Self { measured: true, ..self }
    }

    /// Judges the rows that a chunk gave; `check_lateness` is false for a replay of late rows.
    pub fn admit(
        &mut self,
        chunk: &PreparedChunk,
        prepared: &PreparedRows,
        check_lateness: bool,
    ) -> Result<Admitted, ArrowError> {
        let mut counts = Counts {
            records: (prepared.records.len() + prepared.rejects.len()) as u64,
            rows: prepared.records.len() as u64,
            quarantined: prepared.rejects.len() as u64,
            ..Counts::default()
        };
        let at = |row: usize| prepared.records[row] as usize;
        let aside = |row: usize, reason: &str, message: String| SetAside {
            record: prepared.records[row],
            offset: chunk.chunk.offsets[at(row)],
            reason: reason.to_owned(),
            message,
            raw: chunk.chunk.records.buffer.slice({
                let (start, length) = chunk.chunk.records.ranges[at(row)];
                start as usize..(start + length) as usize
            }),
            preamble: chunk.chunk.records.preamble.clone(),
        };

        let mut aside_rows = RowsAside::default();
        // A NULL in the key is a breach of the contract: no identity, no row.
        let mut rejects = Vec::new();
        let mut chosen: Vec<u32> = Vec::with_capacity(prepared.records.len());
        for row in 0..prepared.records.len() {
            match self.keys.iter().find(|k| prepared.rows.column(**k).is_null(row)) {
                None => chosen.push(row as u32),
                Some(key) => {
                    let name = self.schema.field(*key).name();
                    rejects.push(aside(row, "null_key", format!("`{name}` is part of the key and is NULL")));
                }
            }
        }
        counts.rows -= rejects.len() as u64;
        counts.quarantined += rejects.len() as u64;

        if self.measured {
            aside_rows.quarantined.extend(prepared.rejected.iter().map(|(rows, _)| rows.clone()));
            if !rejects.is_empty() {
                aside_rows.quarantined.push(pick(&prepared.rows, &complement(prepared.rows.num_rows(), &chosen))?);
            }
        }

        let mut late = Vec::new();
        let times: Vec<i64> = chosen.iter().map(|r| prepared.times[*r as usize]).collect();
        if check_lateness {
            let verdicts = self.watermarks.judge(chunk.chunk.partition, &times, self.lateness_us);
            if verdicts.contains(&true) {
                let mut kept = Vec::with_capacity(chosen.len());
                let mut behind = Vec::new();
                for (row, is_late) in chosen.iter().zip(verdicts) {
                    if is_late {
                        let time = prepared.times[*row as usize];
                        let message = "the row's time is before its partition's watermark".to_owned();
                        late.push(LateRow { aside: aside(*row as usize, "late", message), time });
                        behind.push(*row);
                    } else {
                        kept.push(*row);
                    }
                }
                chosen = kept;
                if self.measured {
                    aside_rows.late.push(pick(&prepared.rows, &behind)?);
                }
            }
        }
        counts.late = late.len() as u64;

        let mut rows = pick(&prepared.rows, &chosen)?;
        let mut times: Vec<i64> = chosen.iter().map(|r| prepared.times[*r as usize]).collect();
        if let Some(dedupe) = &mut self.dedupe {
            let repeats = dedupe.apply(&rows, &times)?;
            if repeats.contains(&true) {
                let kept: Vec<u32> = (0..repeats.len() as u32).filter(|i| !repeats[*i as usize]).collect();
                counts.duplicate = (repeats.len() - kept.len()) as u64;
                if self.measured {
                    aside_rows.duplicate.push(pick(&rows, &complement(repeats.len(), &kept))?);
                }
                rows = pick(&rows, &kept)?;
                chosen = kept.iter().map(|i| chosen[*i as usize]).collect();
                times = kept.iter().map(|i| times[*i as usize]).collect();
            }
        }
        let mut positions = Positions {
            partitions: vec![chunk.chunk.partition; chosen.len()],
            offsets: chosen.iter().map(|r| chunk.chunk.offsets[at(*r as usize)]).collect(),
            arrivals: chosen.iter().map(|r| chunk.chunk.arrivals[at(*r as usize)]).collect(),
            times,
        };
        let delta = match &mut self.keyed {
            None => Delta::inserts(rows.clone()),
            Some(table) => {
                let applied = table.apply(&rows, &positions)?;
                if !applied.superseded.is_empty() {
                    counts.superseded = applied.superseded.len() as u64;
                    let kept = complement(rows.num_rows(), &applied.superseded);
                    if self.measured {
                        aside_rows.superseded.push(pick(&rows, &applied.superseded)?);
                    }
                    rows = pick(&rows, &kept)?;
                    positions = positions.take(&kept);
                }
                applied.delta
            }
        };
        counts.admitted = rows.num_rows() as u64;
        self.sweep();
        Ok(Admitted { rows, positions, delta, late, rejects, counts, aside: aside_rows })
    }

    /// Applies rows that were admitted before, read back from the journal.
    pub fn apply(&mut self, rows: &RecordBatch, positions: &Positions) -> Result<Delta, ArrowError> {
        for (partition, time) in positions.partitions.iter().zip(&positions.times) {
            self.watermarks.observe(*partition, *time);
        }
        if let Some(dedupe) = &mut self.dedupe {
            dedupe.apply(rows, &positions.times)?;
        }
        let delta = match &mut self.keyed {
            None => Delta::inserts(rows.clone()),
            Some(table) => table.apply(rows, positions)?.delta,
        };
        self.sweep();
        Ok(delta)
    }

    /// Gives the keyed table rows back without a delta.
    pub fn readmit(&mut self, rows: &RecordBatch, positions: &Positions) -> Result<(), ArrowError> {
        if let Some(table) = &mut self.keyed {
            table.apply(rows, positions)?;
        }
        Ok(())
    }

    /// The relation's columns.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The key columns; none for a stream.
    pub fn keys(&self) -> &[usize] {
        &self.keys
    }

    /// Makes all state part of the next checkpoint.
    pub fn mark_all_changed(&mut self) {
        if let Some(dedupe) = &mut self.dedupe {
            dedupe.mark_all_changed();
        }
        if let Some(table) = &mut self.keyed {
            table.mark_all_changed();
        }
    }

    fn sweep(&mut self) {
        if let (Some(dedupe), Some(low)) = (&mut self.dedupe, self.watermarks.low(self.lateness_us)) {
            dedupe.advance(low);
        }
    }

    /// The current row of a key of a keyed source.
    pub fn lookup(&self, key: &[arrow::array::ArrayRef]) -> Result<Option<RecordBatch>, ArrowError> {
        self.keyed.as_ref().map_or(Ok(None), |table| table.lookup(key))
    }

    /// Emits what changed of a role's state since the last call.
    pub fn changes(&mut self, role: &str, emit: &mut dyn FnMut(&[u8], Option<&[u8]>)) {
        match (role, &mut self.dedupe, &mut self.keyed) {
            ("dedupe", Some(dedupe), _) => dedupe.changes(emit),
            ("keyed", _, Some(table)) => table.state().changes(&mut |key, value| emit(key.bytes, value)),
            _ => {}
        }
    }

    /// Says where checkpoints have a role's state, which memory does not have.
    pub fn attach(&mut self, role: &str, disk: &Disk) -> Result<(), EngineError> {
        match (role, &mut self.dedupe, &mut self.keyed) {
            ("dedupe", Some(dedupe), _) => disk.each(&mut |key, value| Ok(dedupe.restore(key, value)?)),
            ("keyed", _, Some(table)) => table.state().attach(disk, false),
            _ => Ok(()),
        }
    }

    /// The state that can leave memory.
    pub fn state(&mut self) -> Option<&mut dyn State> {
        self.keyed.as_mut().map(KeyedTable::state)
    }

    /// Roles of the state that this source keeps.
    pub fn roles(&self) -> Vec<&'static str> {
        let dedupe = self.dedupe.as_ref().map(|_| "dedupe");
        dedupe.into_iter().chain(self.keyed.as_ref().map(|_| "keyed")).collect()
    }
}

fn pick(rows: &RecordBatch, chosen: &[u32]) -> Result<RecordBatch, ArrowError> {
    if chosen.len() == rows.num_rows() {
        return Ok(rows.clone());
    }
    take_record_batch(rows, &UInt32Array::from(chosen.to_vec()))
}

fn complement(length: usize, sorted: &[u32]) -> Vec<u32> {
    let mut skip = sorted.iter().peekable();
    (0..length as u32)
        .filter(|i| {
            let hit = skip.peek().is_some_and(|s| *s == i);
            if hit {
                skip.next();
            }
            !hit
        })
        .collect()
}
