//! Holds what readers, the ledger and destinations show against what the oracle says.

use std::sync::LazyLock;

use arrow::array::RecordBatch;
use datafusion::prelude::SessionContext;
use serde_json::Value;
use weir_incremental::Relation;
use weir_incremental::batch::BatchLimits;
use weir_pipeline::contents::Snapshot;
use weir_pipeline::core::Core;
use weir_pipeline::verify::verify;

use crate::oracle::{ERRORS, Expected, LATE, QUARANTINED};
use crate::process::{Following, Trouble, failed};
use crate::project::{TOLERANCE, UNPRICED};
use crate::rows::{Rows, add_batch, difference};

/// Reads tables, for all worlds: making one costs more than reading.
static CONTEXT: LazyLock<SessionContext> = LazyLock::new(SessionContext::new);

/// Columns that the oracle knows.
fn shown(relation: &str, batch: &RecordBatch) -> Result<Vec<usize>, Trouble> {
    let only = match relation {
        QUARANTINED | LATE => "raw",
        ERRORS => "model",
        _ => return Ok((0..batch.num_columns()).collect()),
    };
    Ok(vec![batch.schema().index_of(only).map_err(failed(relation))?])
}

/// A relation as a reader of the snapshot sees it, or as a sink that begins with nothing.
pub async fn relation(snapshot: &Snapshot, name: &str, expected: &Expected, as_sink: bool) -> Result<(), Trouble> {
    let mut found = Rows::new();
    if let (true, Some(changes)) = (as_sink, snapshot.changes_since(&name.into(), 0).await.map_err(failed(name))?) {
        let columns = shown(name, &changes.rows)?;
        add_batch(&mut found, &changes.rows, &columns, |row| changes.weights.value(row));
    } else {
        let table = snapshot.table(&name.into()).await.map_err(failed(name))?;
        let frame = CONTEXT.read_table(table).map_err(failed(name))?;
        for batch in frame.collect().await.map_err(failed(name))? {
            let columns = shown(name, &batch)?;
            add_batch(&mut found, &batch, &columns, |_| 1);
        }
    }
    let nothing = Rows::new();
    match difference(&found, expected.relations.get(name).unwrap_or(&nothing)) {
        None => Ok(()),
        Some(what) => Err(Trouble::Violation(format!("`{name}` at epoch {}: {what}", snapshot.epoch))),
    }
}

/// Names of all relations, sorted.
pub fn names(snapshot: &Snapshot) -> Vec<String> {
    let mut names: Vec<String> = snapshot.relations().map(|info| info.name.to_string()).collect();
    names.sort();
    names
}

/// What is known without reading rows: how many there are, both countings, the check.
pub fn totals(core: &Core, snapshot: &Snapshot, expected: &Expected) -> Result<(), Trouble> {
    let violation = |what: String| Err(Trouble::Violation(format!("epoch {}: {what}", snapshot.epoch)));
    for name in names(snapshot) {
        let wanted: i64 = expected.relations.get(name.as_str()).map_or(0, |rows| rows.values().sum());
        let found = snapshot.totals(&name.as_str().into()).rows;
        if found != wanted {
            return violation(format!("`{name}` is said to have {found} rows, and should have {wanted}"));
        }
    }
    let mut counts = weir_pipeline::admission::Counts::default();
    core.last().counts.values().for_each(|of_source| counts.add(of_source));
    if counts != expected.counts {
        return violation(format!("counted {counts:?}, should have {:?}", expected.counts));
    }
    let unrouted: u64 = core.last().inputs.values().map(|position| position.unrouted).sum();
    if unrouted != expected.unrouted {
        return violation(format!("counted {unrouted} records that nobody asked for, not {}", expected.unrouted));
    }
    let has_check = core.spec().checks().next().is_some();
    let is_open = snapshot.check(UNPRICED).is_open();
    if has_check && is_open != (expected.unpriced > TOLERANCE) {
        return violation(format!("the check is open: {is_open}, with {} rows", expected.unpriced));
    }
    Ok(())
}

/// The ledger: its chain holds, it has every epoch, once and in order.
pub fn ledger(core: &Core) -> Result<(), Trouble> {
    let ledger = core.ledger().lock();
    ledger.verify().map_err(failed("verifying the ledger"))?;
    let mut last = 0;
    for entry in ledger.entries(0) {
        let entry = entry.map_err(failed("reading the ledger"))?;
        let entry: Value = serde_json::from_slice(&entry.payload).map_err(failed("reading the ledger"))?;
        if entry["epoch"] != last + 1 {
            return Err(Trouble::Violation(format!("the ledger has {} after epoch {last}", entry["epoch"])));
        }
        last += 1;
    }
    if last > core.epoch() {
        return Err(Trouble::Violation(format!("the ledger has epoch {last}, and the last is {}", core.epoch())));
    }
    Ok(())
}

/// A destination holds exactly the epoch that it says, and none in which the check that holds it is violated.
pub fn destination(sink: &Following, expected: impl Fn(u64) -> Option<Expected>) -> Result<(), Trouble> {
    let destination = sink.destination.lock();
    let Some(epoch) = destination.epoch else { return Ok(()) };
    let Some(expected) = expected(epoch) else {
        return Err(Trouble::Violation(format!("the sink of `{}` holds epoch {epoch}, which is not", sink.relation)));
    };
    let nothing = Rows::new();
    let wanted = expected.relations.get(sink.relation).unwrap_or(&nothing);
    if let Some(what) = difference(&destination.rows, wanted) {
        return Err(Trouble::Violation(format!("the sink of `{}` at epoch {epoch}: {what}", sink.relation)));
    }
    if sink.held && expected.unpriced > TOLERANCE {
        let what = format!("the sink of `{}` holds epoch {epoch}, which violates its check", sink.relation);
        return Err(Trouble::Violation(what));
    }
    Ok(())
}

/// `weir verify`: every model again in batch, from history.
pub async fn batch(core: &Core, snapshot: &Snapshot) -> Result<(), Trouble> {
    let sources: Vec<Relation> = core.spec().sources.iter().map(|source| source.name.clone()).collect();
    let verified = verify(snapshot, &sources, &core.spec().models, BatchLimits::default(), &|_| {}).await;
    let verified = verified.map_err(failed("verifying in batch"))?;
    if verified.equal() { Ok(()) } else { Err(Trouble::Violation(format!("batch is not stream: {verified:?}"))) }
}
