//! One query kept over a history, compared after each epoch with its batch run.

use crate::history::{History, Table};
use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::datasource::MemTable;
use std::sync::Arc;
use weir_incremental::dataflow::ERROR_SCHEMA;
use weir_incremental::{BatchLimits, Dataflow, Delta, ModelPlan, Planner, Relation, RelationTraits, batch};

/// Why a query does not count as kept and equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Missing {
    /// The planner refuses it, for this reason.
    Refused(String),
    /// It gives another answer than it should, or fails.
    Wrong(String),
}

impl Missing {
    /// The reason in one line.
    pub fn reason(&self) -> String {
        let (Missing::Refused(text) | Missing::Wrong(text)) = self;
        text.lines().next().unwrap_or_default().to_owned()
    }
}

/// A planner that knows the tables.
pub fn planner(tables: &[Table]) -> Planner {
    let mut planner = Planner::new(&|_| Ok(())).expect("DataFusion's defaults");
    for table in tables {
        planner.add_relation(table.name.clone(), table.rows.schema(), RelationTraits::default());
    }
    planner
}

/// The clock of every run: nothing in the sets depends on it. 2026-07-01T00:00:00Z.
const NOW: i64 = 1_782_864_000_000_000;

/// Keeps the model over the history. After each epoch the sum of its deltas equals its batch run over what the tables
/// hold then, rows and error rows; the answer is its rows at the end.
pub fn keep(model: &ModelPlan, history: &History) -> Result<RecordBatch, Missing> {
    let wrong = |place: String| move |e: &dyn std::fmt::Display| Missing::Wrong(format!("{place}: {e}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let start = &history.contents[0];
    let inputs: Vec<_> = model.reads.iter().map(|name| (name.clone(), start[name].schema())).collect();
    let models = std::slice::from_ref(model);
    let mut graph = Dataflow::build(models, &inputs).map_err(|e| wrong("the graph".into())(&e))?;
    let mut kept = Delta::empty(model.schema.clone());
    let mut failed = Delta::empty(ERROR_SCHEMA.clone());
    for (epoch, contents) in history.contents.iter().enumerate() {
        let fail = wrong(format!("epoch {epoch}"));
        let now = NOW + epoch as i64;
        let output = graph.step(now, &history.deltas[epoch]).map_err(|e| fail(&e))?;
        for (_, delta) in output.models {
            kept = add(kept, delta).map_err(|e| fail(&e))?;
        }
        for (_, delta) in output.errors {
            failed = add(failed, delta).map_err(|e| fail(&e))?;
        }
        let lookup = |relation: &Relation| contents.get(relation).map(|rows| provider(rows.clone()));
        let expected = runtime
            .block_on(batch::run(model, &lookup, now, BatchLimits::default()))
            .map_err(|e| fail(&format!("in batch: {e}")))?;
        for (what, kept, rows) in [("rows", &kept, expected.rows), ("errors", &failed, expected.errors)] {
            let mut rest = kept.clone();
            for rows in rows {
                rest = Delta::concat(&kept.schema(), &[rest, Delta::inserts(rows).negate()]).map_err(|e| fail(&e))?;
            }
            let rest = rest.consolidate().map_err(|e| fail(&e))?;
            if !rest.is_empty() {
                let shown = arrow::util::pretty::pretty_format_batches(&[rest.rows.slice(0, rest.len().min(12))]);
                let shown = shown.map(|table| table.to_string()).unwrap_or_default();
                let weights = &rest.weights.values()[..rest.len().min(12)];
                return Err(fail(&format!("{what} differ from the batch run\n{weights:?}\n{shown}")));
            }
        }
    }
    kept.expand().map_err(|e| wrong("at the end".into())(&e))
}

fn add(sum: Delta, delta: Delta) -> Result<Delta, weir_incremental::EngineError> {
    Delta::concat(&sum.schema(), &[sum, delta])?.consolidate()
}

/// The rows as a table of DataFusion.
pub fn provider(rows: RecordBatch) -> Arc<dyn TableProvider> {
    Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).expect("a batch of its schema"))
}
