//! One relation's part of an epoch, counted.

use std::collections::HashSet;

use arrow::array::{ArrayRef, RecordBatch};
use arrow::error::ArrowError;
use arrow_row::{RowConverter, Rows, SortField};
use weir_incremental::operators::EngineError;
use weir_incremental::{Delta, Relation};

use crate::contents::RelationInfo;
use crate::measure::Flow;

/// One relation's part of an epoch.
#[derive(Debug, Clone)]
pub struct Change {
    /// The relation.
    pub relation: Relation,
    /// Its change.
    pub delta: Delta,
    /// Sum of the weights.
    pub rows: i64,
    /// Checksum of the change.
    pub checksum: u128,
    /// Pairs of a row that goes and one of the same key that comes; None without a key.
    pub updated: Option<u64>,
    /// What it adds to each of the relation's measures and takes from it.
    pub flows: Vec<Flow>,
}

impl Change {
    /// Counts and checks the delta of a relation without key and measures.
    pub fn new(relation: Relation, delta: Delta) -> Result<Self, EngineError> {
        let rows = delta.weights.values().iter().sum();
        let checksum = delta.checksum()?;
        Ok(Self { relation, delta, rows, checksum, updated: None, flows: Vec::new() })
    }

    /// Counts, checks and sums the delta of a relation.
    pub fn of(info: &RelationInfo, delta: Delta) -> Result<Self, EngineError> {
        let updated = if info.key.is_empty() { None } else { Some(updates(&info.key, &delta)?) };
        let flows = info.measures.iter().map(|measure| measure.of_change(&delta)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self { updated, flows, ..Self::new(info.name.clone(), delta)? })
    }
}

/// Keys of which a row goes and another comes.
fn updates(key: &[String], delta: &Delta) -> Result<u64, ArrowError> {
    let weights = delta.weights.values();
    let goes = weights.iter().filter(|weight| **weight < 0).count();
    if goes == 0 || goes == weights.len() {
        return Ok(0);
    }
    let keys = encoded(&delta.rows, key)?;
    let mut gone: HashSet<&[u8], ahash::RandomState> =
        HashSet::with_capacity_and_hasher(goes, ahash::RandomState::with_seeds(1, 2, 3, 4));
    let rows = |sign: i64| weights.iter().enumerate().filter(move |(_, w)| w.signum() == sign).map(|(row, _)| row);
    gone.extend(rows(-1).map(|row| keys.row(row).data()));
    Ok(rows(1).filter(|row| gone.remove(keys.row(*row).data())).count() as u64)
}

fn encoded(rows: &RecordBatch, key: &[String]) -> Result<Rows, ArrowError> {
    let schema = rows.schema();
    let columns = key.iter().map(|name| Ok(rows.column(schema.index_of(name)?).clone()));
    let columns: Vec<ArrayRef> = columns.collect::<Result<_, ArrowError>>()?;
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    RowConverter::new(fields)?.convert_columns(&columns)
}
