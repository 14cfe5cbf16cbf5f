//! A lake in memory that survives crashes: tables of changes, committed one by one, and the record that makes them visible.
//!
//! It keeps the protocol of `weir_connectors::lake`, step by step, so that a landing can end between any two: each table
//! gets the landing's changes and its epoch in one commit; the last commit, of the table of landings, shows them all. It
//! has none of that code: Delta logs, Parquet files and object stores are not simulated.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{BooleanArray, Int64Array};
use arrow::compute::filter_record_batch;
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use parking_lot::Mutex;
use weir_incremental::{Delta, Relation};
use weir_pipeline::EpochNumber;
use weir_pipeline::history::{History, HistoryError, Landing, bookkept, with_bookkeeping};

use crate::bugs::Bug;
use crate::rows;

/// Where a landing ends before its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LandingFault {
    /// After so many tables; what made them stays.
    AfterTables(usize),
    /// After it has become visible, before anybody is told.
    Unanswered,
}

#[derive(Debug, Clone, Default)]
struct Table {
    schema: Option<SchemaRef>,
    changes: Vec<(EpochNumber, Delta)>,
    /// Epoch of the last landing that was committed to it.
    held: EpochNumber,
    horizon: EpochNumber,
}

#[derive(Debug, Clone, Default)]
struct State {
    tables: BTreeMap<Relation, Table>,
    landed: EpochNumber,
}

/// The lake.
#[derive(Debug, Default)]
pub struct SimulatedLake {
    state: Mutex<State>,
    /// What the process that has it open knows to be landed: less than is, when an answer was lost.
    known: Mutex<EpochNumber>,
    /// What a crash leaves of it; the state itself, but for a bug.
    durable: Mutex<Option<State>>,
    fault: Mutex<Option<LandingFault>>,
    bug: Option<Bug>,
}

fn failed(message: impl std::fmt::Display) -> HistoryError {
    HistoryError(message.to_string())
}

impl SimulatedLake {
    /// An empty lake.
    pub fn new(bug: Option<Bug>) -> Self {
        Self { bug, ..Self::default() }
    }

    /// The next landing ends so.
    pub fn end_next(&self, fault: Option<LandingFault>) {
        *self.fault.lock() = fault;
    }

    /// Another process opens it.
    pub fn open(&self) {
        *self.known.lock() = self.state.lock().landed;
    }

    /// Forgets what was not durable.
    pub fn crash(&self) {
        *self.fault.lock() = None;
        if let Some(durable) = &*self.durable.lock() {
            self.state.lock().clone_from(durable);
        }
    }

    fn land_one(&self, state: &mut State, epoch: EpochNumber, landing: Landing) -> Result<(), HistoryError> {
        let landed = *self.known.lock();
        let table = state.tables.entry(landing.relation).or_default();
        if landing.changes.iter().any(|(of, _)| *of <= landed || *of > epoch) {
            return Err(failed(format!("a landing of epochs {} to {epoch} has another's changes", landed + 1)));
        }
        if table.held >= epoch {
            return Ok(());
        }
        let mut changes = landing.changes;
        if self.bug == Some(Bug::LeftoversKept) {
            changes.retain(|(of, _)| *of > table.held);
        } else {
            // Of a landing that did not end: this one has the same changes again, perhaps otherwise summed up.
            table.changes.retain(|(of, _)| *of <= landed);
        }
        table.schema = Some(landing.schema);
        table.changes.extend(changes);
        table.held = epoch;
        Ok(())
    }
}

#[async_trait]
impl History for SimulatedLake {
    fn landed(&self) -> EpochNumber {
        *self.known.lock()
    }

    async fn land(&self, epoch: EpochNumber, landings: Vec<Landing>) -> Result<(), HistoryError> {
        let fault = self.fault.lock().take();
        let mut state = self.state.lock();
        if self.bug == Some(Bug::LandingNotDurable) {
            // What this landing adds is durable only when the next one comes.
            *self.durable.lock() = Some(state.clone());
        }
        if epoch <= *self.known.lock() {
            return Ok(());
        }
        for (index, landing) in landings.into_iter().enumerate() {
            if matches!(fault, Some(LandingFault::AfterTables(tables)) if tables <= index) {
                return Err(failed("the lake's store went away between two tables"));
            }
            self.land_one(&mut state, epoch, landing)?;
        }
        if matches!(fault, Some(LandingFault::AfterTables(_))) {
            return Err(failed("the lake's store went away before the landing was shown"));
        }
        state.landed = epoch;
        match fault {
            Some(LandingFault::Unanswered) => Err(failed("the lake's store went away before it answered")),
            _ => {
                *self.known.lock() = epoch;
                Ok(())
            }
        }
    }

    async fn changes(
        &self,
        relation: &Relation,
        after: EpochNumber,
        up_to: EpochNumber,
    ) -> Result<Option<Arc<dyn TableProvider>>, HistoryError> {
        let state = self.state.lock();
        let up_to = up_to.min(*self.known.lock());
        let Some(table) = state.tables.get(relation) else { return Ok(None) };
        let Some(schema) = &table.schema else { return Ok(None) };
        let schema = with_bookkeeping(schema);
        let mut batches = Vec::new();
        for (epoch, delta) in table.changes.iter().filter(|(epoch, _)| *epoch > after && *epoch <= up_to) {
            batches.push(bookkept(*epoch, delta).map_err(failed)?);
        }
        Ok(Some(Arc::new(MemTable::try_new(schema, vec![batches]).map_err(failed)?)))
    }

    fn horizon(&self, relation: &Relation) -> EpochNumber {
        self.state.lock().tables.get(relation).map_or(0, |table| table.horizon)
    }

    async fn maintain(&self, horizon: EpochNumber) -> Result<(), HistoryError> {
        let mut state = self.state.lock();
        let horizon = horizon.min(*self.known.lock());
        for table in state.tables.values_mut() {
            cancel(&mut table.changes, horizon).map_err(failed)?;
            table.horizon = table.horizon.max(horizon);
        }
        Ok(())
    }

    async fn drop_relation(&self, relation: &Relation) -> Result<(), HistoryError> {
        self.state.lock().tables.remove(relation);
        Ok(())
    }

    async fn bytes(&self) -> Result<Vec<(Relation, u64)>, HistoryError> {
        Ok(Vec::new())
    }
}

/// Takes away rows of epochs up to the horizon whose weights cancel. The others stay in their epochs.
fn cancel(changes: &mut [(EpochNumber, Delta)], horizon: EpochNumber) -> Result<(), ArrowError> {
    let old = changes.partition_point(|(epoch, _)| *epoch <= horizon);
    let mut places: BTreeMap<String, Vec<(usize, usize)>> = BTreeMap::new();
    let mut weights: Vec<Vec<i64>> = Vec::new();
    for (change, (_, delta)) in changes[..old].iter().enumerate() {
        let columns: Vec<usize> = (0..delta.rows.num_columns()).collect();
        for row in 0..delta.len() {
            places.entry(rows::text_of(&delta.rows, &columns, row)).or_default().push((change, row));
        }
        weights.push(delta.weights.values().to_vec());
    }
    for places in places.values() {
        for (change, row) in places {
            for (other, other_row) in places {
                let (one, two) = (weights[*change][*row], weights[*other][*other_row]);
                if one > 0 && two < 0 {
                    let gone = one.min(-two);
                    weights[*change][*row] -= gone;
                    weights[*other][*other_row] += gone;
                }
            }
        }
    }
    for ((_, delta), weights) in changes[..old].iter_mut().zip(weights) {
        let stay: BooleanArray = weights.iter().map(|weight| Some(*weight != 0)).collect();
        let rows = filter_record_batch(&delta.rows, &stay)?;
        let weights: Int64Array = weights.into_iter().filter(|weight| *weight != 0).collect();
        *delta = Delta::new(rows, weights);
    }
    Ok(())
}
