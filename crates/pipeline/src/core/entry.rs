//! The ledger's entry of an epoch, written only when everything in it adds up.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use weir_incremental::Relation;

use super::intake::Intake;
use super::{Core, PipelineError};
use crate::EpochNumber;
use crate::change::Change;
use crate::conservation::{self, RelationCount, SourceFlow};
use crate::contents::Totals;
use crate::measure::{Group, Sums};
use crate::spec::SourceSpec;

impl Core {
    /// What the epoch's changes count, by relation.
    pub(super) fn count_changes(changes: &[Change]) -> BTreeMap<Relation, RelationCount> {
        let mut counts: BTreeMap<Relation, RelationCount> = BTreeMap::new();
        for change in changes {
            let count = counts.entry(change.relation.clone()).or_default();
            for weight in change.delta.weights.values() {
                match *weight {
                    w if w > 0 => count.inserted += w as u64,
                    w => count.deleted += w.unsigned_abs(),
                }
            }
            count.rows += change.rows;
            count.checksum = count.checksum.wrapping_add(change.checksum);
            if let Some(updated) = change.updated {
                *count.updated.get_or_insert(0) += updated;
            }
            count.flows.resize(change.flows.len().max(count.flows.len()), Default::default());
            count.flows.iter_mut().zip(&change.flows).for_each(|(sum, flow)| sum.add(flow));
        }
        counts
    }

    /// The ledger's entry; the law that does not hold where one does not. `flows` are those of sources with measures.
    pub(super) fn ledger_entry(
        &self,
        epoch: EpochNumber,
        clock: i64,
        intake: &Intake,
        mut flows: BTreeMap<usize, Vec<SourceFlow>>,
        changes: &[Change],
    ) -> Result<Value, PipelineError> {
        let broken = |what: &str, name: &str, detail: String| PipelineError::Conservation {
            epoch,
            detail: format!("{what} `{name}`: {detail}"),
        };
        let counts = Self::count_changes(changes);
        let mut relations = Map::new();
        for (name, count) in &counts {
            let before = self.contents.totals_of(name);
            let entry = self.relation_entry(name, before, count).map_err(|d| broken("relation", name, d))?;
            relations.insert(name.to_string(), entry);
        }
        for split in &self.spec.splits {
            let rows = |relation: &Relation| counts.get(relation).map_or(0, |count| count.rows);
            conservation::check_split(split, rows).map_err(|detail| broken("split", &split.name, detail))?;
        }
        let none = RelationCount::default();
        let mut sources = Map::new();
        for (index, source) in &intake.sources {
            let spec = &self.spec.sources[*index];
            source.counts.check().map_err(|detail| broken("source", &spec.name, detail))?;
            let count = counts.get(&spec.name).unwrap_or(&none);
            let mut entry = json!(source.counts);
            if spec.keys.is_empty() {
                conservation::check_stream(source.counts.admitted, count)
                    .map_err(|detail| broken("source", &spec.name, detail))?;
            }
            let reasons = intake.reasons(&spec.name);
            if !reasons.is_empty() {
                entry["reasons"] = json!(reasons);
            }
            if let Some(mut flows) = flows.remove(index) {
                if spec.keys.is_empty() {
                    flows.iter_mut().zip(&count.flows).for_each(|(flow, of)| flow.admitted = of.come.clone());
                }
                entry["measures"] = source_measures(spec, &flows).map_err(|d| broken("source", &spec.name, d))?;
            }
            sources.insert(spec.name.to_string(), entry);
        }
        let inputs = &intake.inputs;
        Ok(json!({"epoch": epoch, "clock": clock, "inputs": inputs, "sources": sources, "relations": relations}))
    }

    /// The ledger's words for what an epoch did to one relation, and what it holds afterwards.
    fn relation_entry(&self, name: &Relation, before: Totals, count: &RelationCount) -> Result<Value, String> {
        let mut left = Vec::new();
        if before.rows + count.rows == 0 {
            // Whatever the sums were, of no rows there are none; otherwise an epoch looks only at the groups it touches.
            for (total, flow) in self.contents.measures(name).iter().zip(&count.flows) {
                left.extend(total.sums.as_ref().map(|sums| flow.after(sums)));
            }
        }
        let totals = conservation::check_relation(before, count, &left)?;
        let mut entry = json!({
            "inserted": count.inserted,
            "deleted": count.deleted,
            "change": format!("{:032x}", count.checksum),
            "rows": totals.rows,
            "checksum": format!("{:032x}", totals.checksum),
        });
        if let Some(updated) = count.updated {
            entry["updated"] = json!(updated);
        }
        let measures = self.measures_entry(name, count);
        if !measures.is_empty() {
            entry["measures"] = Value::Object(measures.into_iter().collect());
        }
        Ok(entry)
    }

    /// What a relation's entry says of measures, which recovery compares.
    pub(super) fn measures_entry(&self, name: &Relation, count: &RelationCount) -> Vec<(String, Value)> {
        let measures = self.contents.measures(name);
        let told = measures.iter().zip(&count.flows);
        told.map(|(total, flow)| (total.name.to_string(), flow.entry(total.sums.as_ref()))).collect()
    }
}

/// The ledger's words for what a source's rows came to, one entry a group.
fn source_measures(spec: &SourceSpec, flows: &[SourceFlow]) -> Result<Value, String> {
    let mut told = Map::new();
    for (measure, flow) in spec.measures.iter().zip(flows) {
        flow.check(&measure.name)?;
        let parts: Vec<(&str, &Sums)> = [("read", &flow.read)].into_iter().chain(flow.parts()).collect();
        let mut groups: BTreeMap<&Group, Map<String, Value>> = BTreeMap::new();
        for (part, sums) in parts {
            for (group, sum) in sums.groups() {
                groups.entry(group).or_default().insert(part.into(), json!(sum.to_string()));
            }
        }
        // A sum of nothing says nothing of its kind.
        let rounded = flow.read.is_rounded() || flow.parts().iter().any(|(_, sums)| sums.is_rounded());
        let entries = groups.into_iter().map(|(group, mut entry)| {
            entry.insert("group".into(), json!(group));
            if rounded {
                entry.insert("rounded".into(), json!(true));
            }
            Value::Object(entry)
        });
        told.insert(measure.name.to_string(), entries.collect());
    }
    Ok(Value::Object(told))
}
