//! Measures that are declared after their rows came: counted once from the contents, and from then on with each epoch.

use std::collections::BTreeMap;

use datafusion::prelude::SessionContext;
use futures::StreamExt;
use serde_json::{Map, Value, json};

use super::{Core, PipelineError};
use crate::contents::Snapshot;
use crate::frames::SavedMeasures;
use crate::measure::{MeasureSpec, Sums};

impl Core {
    /// Counts the measures that nothing is known of, and says so in an epoch of its own.
    pub async fn begin_measures(&mut self) -> Result<(), PipelineError> {
        let snapshot = self.contents.pin();
        let mut begun = SavedMeasures::new();
        let mut told = Map::new();
        for info in snapshot.relations() {
            let unknown = snapshot.measures(&info.name).iter().zip(&info.measures);
            let unknown: Vec<&MeasureSpec> =
                unknown.filter(|(total, _)| total.sums.is_none()).map(|(_, measure)| measure).collect();
            if unknown.is_empty() {
                continue;
            }
            let sums = sums_of(&snapshot, &info.name, &unknown).await?;
            let mut groups = Map::new();
            let mut saved = BTreeMap::new();
            for (measure, sums) in unknown.iter().zip(&sums) {
                let totals = sums.groups().map(|(group, sum)| json!({"group": group, "total": sum.to_string()}));
                groups.insert(measure.name.to_string(), totals.collect());
                saved.insert(measure.name.to_string(), sums.save());
            }
            told.insert(info.name.to_string(), Value::Object(groups));
            begun.insert(info.name.to_string(), saved);
        }
        drop(snapshot);
        if begun.is_empty() {
            return Ok(());
        }
        Ok(self.commit_note(json!({"marker": "measures", "measures": told}), begun)?)
    }

    /// Takes over what a committed epoch says of measures that begin with it.
    pub(super) fn begin_recorded(&self, begun: &SavedMeasures) {
        if !begun.is_empty() {
            self.contents.begin_measures(begun);
        }
    }
}

/// Sums over the contents of a relation at a snapshot.
async fn sums_of(
    snapshot: &Snapshot,
    relation: &weir_incremental::Relation,
    measures: &[&MeasureSpec],
) -> Result<Vec<Sums>, PipelineError> {
    let failed = |e: datafusion::error::DataFusionError| PipelineError::Contents(e.into());
    let table = snapshot.table(relation).await?;
    let mut stream = SessionContext::new().read_table(table).map_err(failed)?.execute_stream().await.map_err(failed)?;
    let mut sums = vec![Sums::default(); measures.len()];
    while let Some(batch) = stream.next().await.transpose().map_err(failed)? {
        for (measure, sum) in measures.iter().zip(&mut sums) {
            sum.add(&measure.of_rows(&batch)?);
        }
    }
    Ok(sums)
}
