//! The contract of history: where changes of relations are kept for ever, as lake tables.
//!
//! Each relation (every source, every model) has a table of changes: its columns, then `_weight` (BIGINT), `_epoch`
//! (BIGINT). Contents as of epoch E are the sum of changes with `_epoch <= E`. Landing is batched over epochs; all tables of one landing become visible together, when
//! the landing's manifest does.

use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use weir_incremental::{Delta, Relation};

use crate::EpochNumber;
use crate::contents::{EPOCH, WEIGHT};

/// A relation's columns, and what a table of changes has behind them.
pub fn with_bookkeeping(schema: &Schema) -> SchemaRef {
    let own = schema.fields().iter().cloned();
    let kept = [WEIGHT, EPOCH].map(|name| Arc::new(Field::new(name, DataType::Int64, false)));
    Arc::new(Schema::new(own.chain(kept).collect::<Vec<_>>()))
}

/// A delta as rows of a table of changes.
pub fn bookkept(epoch: EpochNumber, delta: &Delta) -> Result<RecordBatch, ArrowError> {
    let kept: [ArrayRef; 2] =
        [Arc::new(delta.weights.clone()), Arc::new(Int64Array::from_value(epoch as i64, delta.len()))];
    let columns = delta.rows.columns().iter().cloned().chain(kept).collect();
    RecordBatch::try_new(with_bookkeeping(&delta.schema()), columns)
}

/// What one landing adds to one relation.
#[derive(Debug, Clone)]
pub struct Landing {
    /// The relation.
    pub relation: Relation,
    /// Its schema (without the bookkeeping columns).
    pub schema: SchemaRef,
    /// Changes by epoch, in order; all newer than the last landing and none newer than the landing's epoch.
    pub changes: Vec<(EpochNumber, Delta)>,
}

/// A failure of the lake.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct HistoryError(pub String);

/// Histories of all relations of a project.
#[async_trait]
pub trait History: Send + Sync {
    /// The last epoch whose changes are landed and visible; 0 when none.
    fn landed(&self) -> EpochNumber;

    /// Appends the changes of all relations up to `epoch`, all or nothing, and returns when they are durable.
    /// Landing what is landed already (after a crash) changes nothing.
    async fn land(&self, epoch: EpochNumber, landings: Vec<Landing>) -> Result<(), HistoryError>;

    /// The landed changes of a relation with `after < _epoch <= up_to`: its columns, `_weight` and `_epoch`.
    /// None when nothing of it was ever landed. The answer stays readable while compaction goes on.
    async fn changes(
        &self,
        relation: &Relation,
        after: EpochNumber,
        up_to: EpochNumber,
    ) -> Result<Option<Arc<dyn TableProvider>>, HistoryError>;

    /// The oldest epoch E such that `changes(relation, E, ..)` is exact: below it, changes were merged.
    fn horizon(&self, relation: &Relation) -> EpochNumber;

    /// Merges small files, and changes below `horizon` that cancel; removes files that nobody can need. Bounded work.
    async fn maintain(&self, horizon: EpochNumber) -> Result<(), HistoryError>;

    /// Forgets a relation (a model dropped or rebuilt): its table is moved aside, and removed by a later maintain.
    async fn drop_relation(&self, relation: &Relation) -> Result<(), HistoryError>;

    /// Bytes on disk by relation.
    async fn bytes(&self) -> Result<Vec<(Relation, u64)>, HistoryError>;
}
