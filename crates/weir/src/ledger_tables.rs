//! Relations that are made of the ledger's entries: `weir.epochs`, `weir.ledger`, `weir.ledger_measures`, `weir.violations`.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{ArrayRef, Int64Array, StringArray, TimestampMicrosecondArray};
use datafusion::catalog::TableProvider;
use serde_json::Value;
use weir_pipeline::check::{CheckEvent, EventKind, events};
use weir_server::Failure;

use crate::service::{memory_table, strings};

fn numbers(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<Int64Array>())
}

fn instants(values: impl Iterator<Item = Option<i64>>) -> ArrayRef {
    Arc::new(values.collect::<TimestampMicrosecondArray>())
}

fn texts(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn hashes<'a>(entries: impl Iterator<Item = &'a Value>) -> ArrayRef {
    strings(entries.map(|entry| entry["hash"].as_str().unwrap_or_default().to_owned()))
}

/// Why a source's records were set aside: `json_syntax 3, null_key 1`.
fn reasons(source: &Value) -> Option<String> {
    let told: Vec<String> =
        source["reasons"].as_object()?.iter().map(|(reason, count)| format!("{reason} {count}")).collect();
    Some(told.join(", "))
}

/// `weir.epochs`: one row an entry.
pub fn epochs(entries: &[Value]) -> Result<Arc<dyn TableProvider>, Failure> {
    let sum = |entry: &Value, part: &str, field: &str| -> i64 {
        let values = entry[part].as_object().into_iter().flat_map(|o| o.values());
        values.filter_map(|v| v[field].as_i64()).sum()
    };
    let column = |part: &'static str, field: &'static str| -> ArrayRef {
        numbers(entries.iter().map(|e| Some(sum(e, part, field))))
    };
    memory_table(vec![
        ("epoch", numbers(entries.iter().map(|e| e["epoch"].as_i64()))),
        ("clock", instants(entries.iter().map(|e| e["clock"].as_i64()))),
        ("records", column("inputs", "records")),
        ("unrouted", column("inputs", "unrouted")),
        ("bytes", column("inputs", "bytes")),
        ("admitted", column("sources", "admitted")),
        ("quarantined", column("sources", "quarantined")),
        ("inserted", column("relations", "inserted")),
        ("deleted", column("relations", "deleted")),
        ("hash", hashes(entries.iter())),
    ])
}

/// `weir.ledger`: one row for each relation and source of each entry.
pub fn relations(entries: &[Value]) -> Result<Arc<dyn TableProvider>, Failure> {
    let mut rows: Vec<(&Value, String, &Value, &Value)> = Vec::new();
    let null = &Value::Null;
    for entry in entries {
        let mut names: Vec<&String> = Vec::new();
        for part in ["sources", "relations"] {
            names.extend(entry[part].as_object().into_iter().flat_map(|o| o.keys()));
        }
        names.sort();
        names.dedup();
        for name in names {
            let pick = |part: &str| entry[part].get(name).unwrap_or(null);
            rows.push((entry, name.clone(), pick("sources"), pick("relations")));
        }
    }
    let number = |from_source: bool, field: &'static str| -> ArrayRef {
        let of = |r: &(&Value, String, &Value, &Value)| (if from_source { r.2 } else { r.3 })[field].as_i64();
        numbers(rows.iter().map(of))
    };
    memory_table(vec![
        ("epoch", numbers(rows.iter().map(|r| r.0["epoch"].as_i64()))),
        ("clock", instants(rows.iter().map(|r| r.0["clock"].as_i64()))),
        ("relation", strings(rows.iter().map(|r| r.1.clone()))),
        ("records", number(true, "records")),
        ("framed", number(true, "rows")),
        ("quarantined", number(true, "quarantined")),
        ("admitted", number(true, "admitted")),
        ("late", number(true, "late")),
        ("duplicate", number(true, "duplicate")),
        ("superseded", number(true, "superseded")),
        ("reasons", texts(rows.iter().map(|r| reasons(r.2)))),
        ("inserted", number(false, "inserted")),
        ("deleted", number(false, "deleted")),
        ("updated", number(false, "updated")),
        ("rows", number(false, "rows")),
        ("checksum", texts(rows.iter().map(|r| r.3["checksum"].as_str().map(str::to_owned)))),
        ("hash", hashes(rows.iter().map(|r| r.0))),
    ])
}

/// `weir.ledger_measures`: one row for each group of a measure that an entry tells of.
pub fn measures(entries: &[Value]) -> Result<Arc<dyn TableProvider>, Failure> {
    // Entry, relation, measure, group, what the source and what the relation say.
    let mut rows: Vec<(&Value, &str, &str, String, &Value, &Value)> = Vec::new();
    let null = &Value::Null;
    for entry in entries {
        let mut told: BTreeMap<(&str, &str, String), (&Value, &Value)> = BTreeMap::new();
        for (part, from_source) in [("sources", true), ("relations", false)] {
            for (relation, words) in entry[part].as_object().into_iter().flatten() {
                for (measure, groups) in words["measures"].as_object().into_iter().flatten() {
                    for group in groups.as_array().into_iter().flatten() {
                        let both = told.entry((relation, measure, group_key(group))).or_insert((null, null));
                        *(if from_source { &mut both.0 } else { &mut both.1 }) = group;
                    }
                }
            }
        }
        for (relation, measures) in entry["note"]["measures"].as_object().into_iter().flatten() {
            for (measure, groups) in measures.as_object().into_iter().flatten() {
                for group in groups.as_array().into_iter().flatten() {
                    told.insert((relation, measure, group_key(group)), (null, group));
                }
            }
        }
        rows.extend(
            told.into_iter()
                .map(|((relation, measure, key), (source, words))| (entry, relation, measure, key, source, words)),
        );
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let source = |part: &str| texts(rows.iter().map(|row| text(&row.4[part])));
    let relation = |part: &str| texts(rows.iter().map(|row| text(&row.5[part])));
    memory_table(vec![
        ("epoch", numbers(rows.iter().map(|row| row.0["epoch"].as_i64()))),
        ("clock", instants(rows.iter().map(|row| row.0["clock"].as_i64()))),
        ("relation", strings(rows.iter().map(|row| row.1.to_owned()))),
        ("measure", strings(rows.iter().map(|row| row.2.to_owned()))),
        ("group_key", strings(rows.iter().map(|row| row.3.clone()))),
        ("read", source("read")),
        ("admitted", source("admitted")),
        ("quarantined", source("quarantined")),
        ("late", source("late")),
        ("duplicate", source("duplicate")),
        ("superseded", source("superseded")),
        ("inserted", relation("in")),
        ("deleted", relation("out")),
        ("total", relation("total")),
        ("hash", hashes(rows.iter().map(|row| row.0))),
    ])
}

fn group_key(told: &Value) -> String {
    let values = told["group"].as_array().into_iter().flatten();
    let values: Vec<Option<String>> = values.map(|value| value.as_str().map(str::to_owned)).collect();
    weir_pipeline::measure::shown(&values)
}

/// A violation from when it opened, as far as it went.
struct Violation {
    opened: CheckEvent,
    waived: Option<CheckEvent>,
    closed: Option<CheckEvent>,
}

/// `weir.violations`: one row a violation that there was or is, oldest first.
pub fn violations(entries: &[Value]) -> Result<Arc<dyn TableProvider>, Failure> {
    let mut violations: Vec<Violation> = Vec::new();
    for event in entries.iter().flat_map(events) {
        let present = violations.iter_mut().rev().find(|v| v.opened.check == event.check && v.closed.is_none());
        match (event.kind, present) {
            (EventKind::Opened, _) => violations.push(Violation { opened: event, waived: None, closed: None }),
            (EventKind::Waived, Some(violation)) => violation.waived = Some(event),
            (EventKind::Closed, Some(violation)) => violation.closed = Some(event),
            // The ledger of a program that told less.
            (EventKind::Waived | EventKind::Closed | EventKind::StillOpen, None) | (EventKind::StillOpen, Some(_)) => {}
        }
    }
    let state = |violation: &Violation| match violation {
        Violation { closed: Some(_), .. } => "closed",
        Violation { waived: Some(_), .. } => "waived",
        _ => "open",
    };
    let waived = |part: fn(&CheckEvent) -> &Option<String>| {
        texts(violations.iter().map(|v| v.waived.as_ref().and_then(|event| part(event).clone())))
    };
    memory_table(vec![
        ("name", strings(violations.iter().map(|v| v.opened.check.clone()))),
        ("state", strings(violations.iter().map(|v| state(v).to_owned()))),
        ("opened_epoch", numbers(violations.iter().map(|v| Some(v.opened.at.epoch as i64)))),
        ("opened", instants(violations.iter().map(|v| Some(v.opened.at.clock)))),
        ("rows", numbers(violations.iter().map(|v| v.opened.rows))),
        ("waived_epoch", numbers(violations.iter().map(|v| v.waived.as_ref().map(|w| w.at.epoch as i64)))),
        ("waived_by", waived(|event| &event.by)),
        ("waived_why", waived(|event| &event.why)),
        ("closed_epoch", numbers(violations.iter().map(|v| v.closed.as_ref().map(|c| c.at.epoch as i64)))),
        ("closed", instants(violations.iter().map(|v| v.closed.as_ref().map(|c| c.at.clock)))),
    ])
}
