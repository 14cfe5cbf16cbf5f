//! Measures of the relations' contents: restored, begun, moved with each epoch.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_incremental::operators::EngineError;
use weir_incremental::{Delta, Relation};

use super::{Contents, Snapshot, Tail};
use crate::change::Change;
use crate::frames::SavedMeasures;
use crate::measure::{Sums, Total};

impl Tail {
    /// Totals of measures that nothing is known of: nothing is all there is to know of no rows.
    pub(super) fn unknown_measures(&mut self) {
        let known = (self.rows == 0).then(Sums::default);
        let totals = self.info.measures.iter().map(|measure| Total { name: measure.name.clone(), sums: known.clone() });
        self.measures = Arc::new(totals.collect());
    }

    /// Moves the totals with a change.
    pub(super) fn measure(&mut self, change: &Change) {
        if change.flows.is_empty() {
            return;
        }
        for (total, flow) in Arc::make_mut(&mut self.measures).iter_mut().zip(&change.flows) {
            if let Some(sums) = &mut total.sums {
                sums.add(&flow.come);
                sums.subtract(&flow.gone);
            }
        }
    }
}

impl Contents {
    /// Counts, checks and sums a delta of a relation.
    pub fn count(&self, relation: Relation, delta: Delta) -> Result<Change, EngineError> {
        let info = self.inner.read().tails.get(&relation).map(|tail| tail.info.clone());
        match info {
            Some(info) => Change::of(&info, delta),
            None => Change::new(relation, delta),
        }
    }

    /// The totals of a relation's measures after the published epoch.
    pub fn measures(&self, relation: &str) -> Arc<Vec<Total>> {
        self.inner.read().tails.get(relation).map(|tail| tail.measures.clone()).unwrap_or_default()
    }

    /// Sets the totals that the checkpoint remembers, once rows are restored.
    pub fn restore_measures(&self, saved: &SavedMeasures) {
        let mut inner = self.inner.write();
        for (name, tail) in &mut inner.tails {
            tail.unknown_measures();
            let Some(saved) = saved.get(name.as_ref()) else { continue };
            for total in Arc::make_mut(&mut tail.measures) {
                if let Some(sums) = saved.get(total.name.as_ref()).and_then(Sums::restore) {
                    total.sums = Some(sums);
                }
            }
        }
    }

    /// Takes sums as the totals of measures from now on.
    pub fn begin_measures(&self, begun: &SavedMeasures) {
        let mut inner = self.inner.write();
        for (name, measures) in begun {
            let Some(tail) = inner.tails.get_mut(name.as_str()) else { continue };
            for total in Arc::make_mut(&mut tail.measures) {
                if let Some(sums) = measures.get(total.name.as_ref()).and_then(Sums::restore) {
                    total.sums = Some(sums);
                }
            }
        }
    }

    /// Knows nothing any more of measures: contents were made anew.
    pub fn forget_measures(&self) {
        self.inner.write().tails.values_mut().for_each(Tail::unknown_measures);
    }

    /// All totals that are known, for a checkpoint.
    pub fn save_measures(&self) -> SavedMeasures {
        let inner = self.inner.read();
        let mut saved = SavedMeasures::new();
        for (name, tail) in &inner.tails {
            let known = tail.measures.iter().filter_map(|t| Some((t.name.to_string(), t.sums.as_ref()?.save())));
            let known: BTreeMap<_, _> = known.collect();
            if !known.is_empty() {
                saved.insert(name.to_string(), known);
            }
        }
        saved
    }
}

impl Snapshot {
    /// The totals of a relation's measures.
    pub fn measures(&self, relation: &str) -> &[Total] {
        self.relations.get(relation).map(|pinned| pinned.measures.as_slice()).unwrap_or_default()
    }
}
