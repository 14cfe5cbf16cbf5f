//! Replays the ledger: its chain of hashes, and whether what its entries say adds up from the first to the last.

use std::collections::BTreeMap;

use arrow::datatypes::i256;
use serde::Serialize;
use serde_json::Value;
use weir_journal::{Hash, LedgerEntries, VerifyError};

use crate::EpochNumber;
use crate::admission::Counts;
use crate::contents::Totals;

/// What a replay came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct LedgerVerdict {
    /// Entries that were read.
    pub entries: u64,
    /// Hash of the last of them.
    pub head: String,
    /// The first entry that does not fit, and why.
    pub misfit: Option<String>,
}

/// Replays all entries. `held` are the totals of relations as of `epoch`, which the entries have to come to.
///
/// # Errors
/// When the ledger cannot be read.
pub fn replay(
    entries: LedgerEntries,
    epoch: EpochNumber,
    held: &BTreeMap<String, Totals>,
) -> Result<LedgerVerdict, weir_journal::JournalError> {
    let mut replay = Replay::default();
    let mut count = 0;
    let chain = entries.verify(&mut |entry| {
        count += 1;
        let value: Value = serde_json::from_slice(&entry.payload).map_err(|error| format!("it is no JSON: {error}"))?;
        replay.entry(entry.epoch, &value)?;
        if entry.epoch == epoch { replay.check_held(held) } else { Ok(()) }
    });
    let (head, misfit) = match chain {
        Ok(head) => (head, None),
        Err(VerifyError::Misfit(misfit)) => (Hash::default(), Some(misfit.to_string())),
        Err(VerifyError::Unread(error)) => return Err(error),
    };
    Ok(LedgerVerdict { entries: count, head: head.to_string(), misfit })
}

/// Sums of a measure as far as entries have told them.
#[derive(Debug, Default)]
struct Measured {
    groups: BTreeMap<String, Decimal>,
    /// Whether a group that no entry has named has a sum of zero.
    whole: bool,
}

/// What the entries so far come to.
#[derive(Debug, Default)]
pub struct Replay {
    last: Option<EpochNumber>,
    clock: i64,
    relations: BTreeMap<String, Totals>,
    /// By relation and measure.
    measures: BTreeMap<(String, String), Measured>,
    /// Whether relations hold what no entry has told: they were made anew by a program that did not write it down.
    unsure: bool,
}

impl Replay {
    /// Takes the next entry; the error says what does not fit in it.
    pub fn entry(&mut self, epoch: EpochNumber, entry: &Value) -> Result<(), String> {
        if entry["epoch"].as_u64() != Some(epoch) {
            return Err(format!("it says that it is of epoch {}", entry["epoch"]));
        }
        if self.last.is_some_and(|last| epoch != last + 1) {
            return Err("the entry before it is missing".into());
        }
        self.last = Some(epoch);
        let clock = entry["clock"].as_i64().ok_or("it has no clock")?;
        if clock < self.clock {
            return Err("its clock is before that of the entry before".into());
        }
        self.clock = clock;
        self.marker(&entry["note"]);
        for (name, told) in entry["sources"].as_object().into_iter().flatten() {
            source(told).map_err(|what| format!("source `{name}`: {what}"))?;
        }
        for (name, told) in entry["relations"].as_object().into_iter().flatten() {
            self.relation(name, told).map_err(|what| format!("relation `{name}`: {what}"))?;
        }
        Ok(())
    }

    /// Whether relations hold what the entries come to.
    pub fn check_held(&self, held: &BTreeMap<String, Totals>) -> Result<(), String> {
        for (name, told) in &self.relations {
            let Some(held) = held.get(name).filter(|held| *held != told) else { continue };
            return Err(format!(
                "the entries come to {} rows of `{name}` with checksum {:032x}, which holds {} rows with checksum {:032x}",
                told.rows, told.checksum, held.rows, held.checksum
            ));
        }
        Ok(())
    }

    /// What was made anew, or is counted from now on.
    fn marker(&mut self, note: &Value) {
        match note["marker"].as_str() {
            Some("rebuild") => {
                self.measures.clear();
                self.relations.retain(|name, _| name.starts_with("weir."));
                match note["totals"].as_object() {
                    Some(made) => self.relations.extend(made.iter().filter_map(|(n, t)| Some((n.clone(), totals(t)?)))),
                    None => {
                        self.relations.clear();
                        self.unsure = true;
                    }
                }
            }
            Some("measures") => {
                for (relation, measures) in note["measures"].as_object().into_iter().flatten() {
                    for (measure, groups) in measures.as_object().into_iter().flatten() {
                        let exact = groups.as_array().into_iter().flatten();
                        let groups = exact
                            .filter_map(|g| Some((g["group"].to_string(), Decimal::of(g.get("total")?)?)))
                            .collect();
                        let key = (relation.clone(), measure.clone());
                        self.measures.insert(key, Measured { groups, whole: true });
                    }
                }
            }
            _ => {}
        }
    }

    fn relation(&mut self, name: &str, told: &Value) -> Result<(), String> {
        let count = |field: &str| told[field].as_i64().ok_or_else(|| format!("`{field}` is no count"));
        let (inserted, deleted) = (count("inserted")?, count("deleted")?);
        let after = totals(told).ok_or("its rows or checksum cannot be read")?;
        let change = checksum(&told["change"]).ok_or("its change cannot be read")?;
        let before = match self.relations.get(name) {
            Some(before) => *before,
            None if self.unsure => {
                Totals { rows: after.rows - inserted + deleted, checksum: after.checksum.wrapping_sub(change) }
            }
            None => Totals::default(),
        };
        if before.rows + inserted - deleted != after.rows {
            let rows = before.rows;
            return Err(format!("{rows} rows + {inserted} inserted - {deleted} deleted are not {}", after.rows));
        }
        if before.checksum.wrapping_add(change) != after.checksum {
            return Err("its checksum is not the one before and that of the change".into());
        }
        self.relations.insert(name.to_owned(), after);
        // A measure that is not told of a change any more is not counted any more.
        let is_told = |measure: &str| told["measures"].get(measure).is_some();
        self.measures.retain(|(relation, measure), _| relation != name || is_told(measure));
        for (measure, groups) in told["measures"].as_object().into_iter().flatten() {
            let key = (name.to_owned(), measure.clone());
            let known =
                self.measures.entry(key).or_insert_with(|| Measured { whole: before.rows == 0, ..Measured::default() });
            for group in groups.as_array().into_iter().flatten() {
                known.group(group).map_err(|what| format!("measure `{measure}`: {what}"))?;
            }
        }
        Ok(())
    }
}

impl Measured {
    fn group(&mut self, told: &Value) -> Result<(), String> {
        // Floats are rounded when they are written down, and a measure may not be counted yet.
        if told["rounded"] == true || told.get("total").is_none() {
            return Ok(());
        }
        let number = |field: &str| Decimal::of(&told[field]).ok_or_else(|| format!("`{field}` is no number"));
        let (come, gone, total) = (number("in")?, number("out")?, number("total")?);
        let group = told["group"].to_string();
        let before = match self.groups.get(&group) {
            Some(before) => *before,
            None if self.whole => Decimal::default(),
            None => total.plus(gone).minus(come),
        };
        if before.plus(come).minus(gone) != total {
            return Err(format!("group {group}: what was there, in and out do not come to {}", told["total"]));
        }
        self.groups.insert(group, total);
        Ok(())
    }
}

fn totals(told: &Value) -> Option<Totals> {
    Some(Totals { rows: told["rows"].as_i64()?, checksum: checksum(&told["checksum"])? })
}

fn checksum(told: &Value) -> Option<u128> {
    u128::from_str_radix(told.as_str()?, 16).ok()
}

/// Both countings of a source, and its reasons.
fn source(told: &Value) -> Result<(), String> {
    let counts: Counts = serde_json::from_value(told.clone()).map_err(|error| error.to_string())?;
    counts.check()?;
    if let Some(reasons) = told["reasons"].as_object() {
        let sum: u64 = reasons.values().filter_map(Value::as_u64).sum();
        if sum != counts.quarantined {
            return Err(format!("{sum} records by reason are not {} quarantined", counts.quarantined));
        }
    }
    for (measure, groups) in told["measures"].as_object().into_iter().flatten() {
        for group in groups.as_array().into_iter().flatten().filter(|group| group["rounded"] != true) {
            let of = |part: &str| group.get(part).map_or(Some(Decimal::default()), Decimal::of);
            let parts = ["admitted", "late", "duplicate", "superseded", "quarantined"];
            let sum = parts.iter().try_fold(Decimal::default(), |sum, part| Some(sum.plus(of(part)?)));
            if sum.is_none() || sum != of("read") {
                return Err(format!(
                    "measure `{measure}`, group {}: what is read is not accounted for",
                    group["group"]
                ));
            }
        }
    }
    Ok(())
}

/// A number as entries have it, exactly: units of 10^-scale.
#[derive(Debug, Clone, Copy, Default)]
struct Decimal {
    units: i256,
    scale: u32,
}

impl Decimal {
    fn of(told: &Value) -> Option<Self> {
        let text = told.as_str()?;
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let scale = u32::try_from(fraction.len()).ok()?;
        Some(Self { units: i256::from_string(&format!("{whole}{fraction}"))?, scale })
    }

    fn at(self, scale: u32) -> i256 {
        i256::from_i128(10).wrapping_pow(scale.saturating_sub(self.scale)).wrapping_mul(self.units)
    }

    fn plus(self, other: Self) -> Self {
        let scale = self.scale.max(other.scale);
        Self { units: self.at(scale).wrapping_add(other.at(scale)), scale }
    }

    fn minus(self, other: Self) -> Self {
        self.plus(Self { units: other.units.wrapping_neg(), ..other })
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        let scale = self.scale.max(other.scale);
        self.at(scale) == other.at(scale)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn entry(epoch: u64) -> Value {
        let group = |total: &str| json!([{"group": ["EUR"], "in": "2.50", "out": "0.50", "total": total}]);
        let (inserted, change) = (3, format!("{:032x}", 5));
        let rows = 2 * epoch;
        json!({
            "epoch": epoch,
            "clock": epoch * 10,
            "sources": {"orders": {
                "records": 4, "rows": 3, "quarantined": 1, "admitted": 3, "late": 0, "duplicate": 0, "superseded": 0,
                "reasons": {"json_syntax": 1},
                "measures": {"amount": [{"group": [], "read": "2.50", "admitted": "2.50"}]},
            }},
            "relations": {"orders": {
                "inserted": inserted, "deleted": 1, "change": change, "rows": rows, "checksum": format!("{:032x}", 5 * epoch),
                "measures": {"amount by currency": group(&format!("{}.00", 2 * epoch))},
            }},
        })
    }

    #[test]
    fn entries_that_add_up_fit_and_what_they_come_to_is_held_against_what_is_there() {
        let mut replay = Replay::default();
        (1..=3).for_each(|epoch| replay.entry(epoch, &entry(epoch)).unwrap());
        let held = |rows, checksum| BTreeMap::from([("orders".to_owned(), Totals { rows, checksum })]);
        assert_eq!(replay.check_held(&held(6, 15)), Ok(()));
        assert!(replay.check_held(&held(6, 16)).unwrap_err().contains("come to 6 rows of `orders`"));
    }

    #[test]
    fn any_number_that_was_changed_is_found_in_its_entry() {
        for (path, value, words) in [
            ("/epoch", json!(4), "epoch 4"),
            ("/clock", json!(3), "clock"),
            ("/sources/orders/records", json!(5), "5 records are not 3 rows + 1 quarantined"),
            ("/sources/orders/reasons/json_syntax", json!(2), "by reason"),
            ("/sources/orders/measures/amount/0/admitted", json!("2.49"), "not accounted for"),
            ("/relations/orders/inserted", json!(4), "2 rows + 4 inserted"),
            ("/relations/orders/checksum", json!("0b"), "checksum"),
            ("/relations/orders/measures/amount by currency/0/out", json!("0.51"), "do not come to"),
            ("/relations/orders/measures/amount by currency/0/total", json!("4.01"), "do not come to"),
        ] {
            let mut replay = Replay::default();
            replay.entry(1, &entry(1)).unwrap();
            let mut changed = entry(2);
            *changed.pointer_mut(path).unwrap() = value;
            let told = replay.entry(2, &changed).unwrap_err();
            assert!(told.contains(words), "{path}: {told}");
        }
        let mut replay = Replay::default();
        replay.entry(1, &entry(1)).unwrap();
        assert_eq!(replay.entry(3, &entry(3)).unwrap_err(), "the entry before it is missing");
    }

    #[test]
    fn what_is_made_anew_or_counted_from_now_on_begins_there() {
        let mut replay = Replay::default();
        replay.entry(1, &entry(1)).unwrap();
        let made = json!({"orders": {"rows": 4, "checksum": format!("{:032x}", 10)}});
        let note = json!({"marker": "rebuild", "relations": [], "totals": made});
        replay.entry(2, &json!({"epoch": 2, "clock": 20, "note": note})).unwrap();
        let begun = json!({"orders": {"amount by currency": [{"group": ["EUR"], "total": "4"}]}});
        let note = json!({"marker": "measures", "measures": begun});
        replay.entry(3, &json!({"epoch": 3, "clock": 30, "note": note})).unwrap();
        let mut next = entry(3);
        (next["epoch"], next["clock"]) = (json!(4), json!(40));
        replay.entry(4, &next).unwrap();
    }
}
