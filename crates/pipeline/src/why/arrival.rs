//! What became of a record that is no row of its source: set aside, dropped, replaced, or never there.
//!
//! Looked for in the order in which it would have fallen out last: the quarantine, what came late, the input itself (for
//! what no source claims, repeats, and what was replaced), history. "Never arrived" is said of what is left, with what
//! could not be looked at any more.

use std::collections::BTreeMap;

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{Int64Type, TimestampMicrosecondType};
use datafusion::common::ScalarValue;
use datafusion::logical_expr::{Expr, lit};
use datafusion::prelude::SessionContext;
use futures::TryStreamExt;
use weir_incremental::lineage::{Condition, equality};

use super::answer::{FateTold, RecordTold, instant};
use super::records::{Found, read_again};
use super::{Ground, WhyError, column};
use crate::contents::{EPOCH, WEIGHT};
use crate::input::Cursor;
use crate::prepare::prepare_chunk;
use crate::replay::chunks_of;
use crate::spec::{LATE, QUARANTINE, SourceSpec};

/// Records that are shown.
const SHOWN_MAX: usize = 5;

/// A record of the input that has the values.
struct Candidate {
    found: Found,
    row: RecordBatch,
    claimed: bool,
}

impl Ground<'_> {
    /// The fate of records with these values at a source that has no such row.
    pub(super) async fn arrived(
        &self,
        source: &SourceSpec,
        wanted: &[(Expr, ScalarValue)],
    ) -> Result<FateTold, WhyError> {
        let values = wanted.iter().map(equality).collect::<Vec<_>>().join(" AND ");
        let name = &source.name;
        let told = |kind: &str, message: String| FateTold {
            kind: kind.into(),
            source: Some(name.to_string()),
            message,
            ..FateTold::default()
        };
        if let Some(records) = self.quarantined(source, wanted).await? {
            let message = format!("a record with {values} is in quarantine, and no row of `{name}`");
            return Ok(FateTold { records, ..told("quarantined", message) });
        }
        let condition = Condition::new(wanted, &source.schema)?;
        let late = self.late(source, &condition).await?;
        if !late.is_empty() {
            let message = format!("the record with {values} came too late for `{name}`");
            return Ok(FateTold { records: late, ..told("late", message) });
        }
        let (candidate, unread) = self.in_input(source, &condition).await?;
        if let Some(fate) = self.of_candidate(source, candidate.as_ref(), &values).await? {
            return Ok(FateTold { source: Some(name.to_string()), ..fate });
        }
        if let Some(fate) = self.replaced(source, wanted, &condition, &values).await? {
            return Ok(FateTold { source: Some(name.to_string()), ..fate });
        }
        let mut message = format!("no record with {values} has become a row of `{name}` or was set aside");
        match unread {
            None => message.push_str(&format!("; none is in `{}`", source.input)),
            Some(unread) => message.push_str(&format!("; of `{}` {unread}", source.input)),
        }
        Ok(told("never_arrived", message))
    }

    /// Quarantined records whose bytes hold the values that are asked for as they stand.
    async fn quarantined(
        &self,
        source: &SourceSpec,
        wanted: &[(Expr, ScalarValue)],
    ) -> Result<Option<Vec<RecordTold>>, WhyError> {
        let plain =
            wanted.iter().filter(|(expression, value)| matches!(expression, Expr::Column(_)) && !value.is_null());
        let texts: Vec<String> = plain.filter_map(|(_, value)| text_of(value)).collect();
        if texts.is_empty() {
            return Ok(None);
        }
        // A record that no source can read is the first source's of its input.
        let of_input = self.spec.sources.iter().filter(|other| other.input == source.input);
        let names = of_input.map(|other| lit(other.name.as_ref())).collect();
        let frame = SessionContext::new().read_table(self.snapshot.table(&QUARANTINE.into()).await?)?;
        let mut stream = frame.filter(column("source").in_list(names, false))?.execute_stream().await?;
        let mut records = Vec::new();
        while records.len() < SHOWN_MAX
            && let Some(batch) = stream.try_next().await?
        {
            let schema = batch.schema();
            let at = |name: &str| schema.index_of(name).map(|index| batch.column(index));
            let (raw, reasons) = (at("raw")?.as_binary::<i32>(), at("reason")?.as_string::<i32>());
            let messages = at("message")?.as_string::<i32>();
            let arrivals = at("arrival")?.as_primitive::<TimestampMicrosecondType>();
            let (offsets, epochs) =
                (at("offset")?.as_primitive::<Int64Type>(), at("epoch")?.as_primitive::<Int64Type>());
            let partitions = at("partition")?.as_primitive::<Int64Type>();
            for row in 0..batch.num_rows() {
                let bytes = if raw.is_null(row) { &[][..] } else { raw.value(row) };
                if records.len() == SHOWN_MAX || !texts.iter().all(|text| holds(bytes, text.as_bytes())) {
                    continue;
                }
                let found = Found {
                    partition: partitions.value(row) as u32,
                    offset: offsets.value(row).unsigned_abs(),
                    arrival: arrivals.value(row),
                    epoch: Some(epochs.value(row).unsigned_abs()),
                    raw: Some(bytes.to_vec()),
                    file: None,
                };
                let told = self.record(source, serde_json::Value::Null, 1, &found, None).await;
                let reason = Some(format!("{}: {}", reasons.value(row), messages.value(row)));
                records.push(RecordTold { reason, ..told });
            }
        }
        Ok((!records.is_empty()).then_some(records))
    }

    /// Late records that would be rows with the values.
    async fn late(&self, source: &SourceSpec, condition: &Condition) -> Result<Vec<RecordTold>, WhyError> {
        let frame = SessionContext::new().read_table(self.snapshot.table(&LATE.into()).await?)?;
        let mut stream = frame.filter(column("source").eq(lit(source.name.as_ref())))?.execute_stream().await?;
        let mut records = Vec::new();
        while records.len() < SHOWN_MAX
            && let Some(batch) = stream.try_next().await?
        {
            for chunk in chunks_of(&batch)? {
                let prepared = prepare_chunk(std::slice::from_ref(&source.reader), chunk);
                let rows = &prepared.sources[0];
                let met = condition.holds(&rows.rows);
                for row in (0..met.len()).filter(|row| met[*row]).take(SHOWN_MAX.saturating_sub(records.len())) {
                    let found = Found::of_chunk(&prepared.chunk, rows.records[row] as usize);
                    let rendered = weir_schemas::to_json_rows(&rows.rows.slice(row, 1)).pop().unwrap_or_default();
                    let told = self.record(source, rendered, 1, &found, None).await;
                    let reason = Some(format!("late: its time is {}", instant(rows.times[row])));
                    records.push(RecordTold { reason, ..told });
                }
            }
        }
        Ok(records)
    }

    /// Records of the input with the values, whatever became of them, and what could not be read.
    async fn in_input(
        &self,
        source: &SourceSpec,
        condition: &Condition,
    ) -> Result<(Option<Candidate>, Option<String>), WhyError> {
        // The record that comes furthest: one that the source claims, or else the first.
        let mut candidate: Option<Candidate> = None;
        let Some(input) = self.inputs.get(&source.input) else {
            return Ok((None, Some("nothing was read again".into())));
        };
        let read = read_again(input, Cursor::default(), &mut |chunk| {
            let (prepared, claimed) = source.reader.examine(chunk);
            let met = condition.holds(&prepared.rows);
            let mut found = (0..met.len()).filter(|row| met[*row]).map(|row| (row, prepared.records[row] as usize));
            let is_claimed = |record: usize| claimed.as_ref().is_none_or(|claimed| claimed[record]);
            let first = candidate.is_none().then(|| found.clone().next()).flatten();
            let best = found.find(|(_, record)| is_claimed(*record)).or(first);
            if let Some((row, record)) = best {
                // A copy: a slice would keep the whole chunk.
                let row = take_record_batch(&prepared.rows, &UInt32Array::from(vec![row as u32]))?;
                candidate = Some(Candidate { found: Found::of_chunk(chunk, record), row, claimed: is_claimed(record) });
            }
            Ok(!candidate.as_ref().is_some_and(|candidate| candidate.claimed))
        })
        .await?;
        let unread = match (read.broken_off, read.first) {
            (Some(why), _) => Some(format!("not everything could be read again: {why}")),
            (None, Some(first)) if first > 0 => Some(format!(
                "records before offset {first} are freed: of these, repeats and what no source claims cannot be told"
            )),
            _ => None,
        };
        Ok((candidate, unread))
    }

    /// What became of records that are there in the input and no rows of the source.
    async fn of_candidate(
        &self,
        source: &SourceSpec,
        candidate: Option<&Candidate>,
        values: &str,
    ) -> Result<Option<FateTold>, WhyError> {
        let Some(candidate) = candidate else { return Ok(None) };
        let name = &source.name;
        let rendered = weir_schemas::to_json_rows(&candidate.row).pop().unwrap_or_default();
        let record = self.record(source, rendered, 1, &candidate.found, None).await;
        let told = |kind: &str, message: String, against: Vec<serde_json::Value>| {
            Some(FateTold { kind: kind.into(), message, against, records: vec![record.clone()], ..FateTold::default() })
        };
        if !candidate.claimed {
            let message = format!("a record with {values} is there, and the `where` of `{name}` does not hold for it");
            return Ok(told("unrouted", message, Vec::new()));
        }
        if let Some((by, _)) = &source.dedupe {
            let same = self.with_same(source, by, &candidate.row).await?;
            if !same.is_empty() {
                let message = format!("the record with {values} repeats one that `{name}` has, by its dedupe columns");
                return Ok(told("duplicate", message, same));
            }
        }
        if !source.keys.is_empty() {
            let current = self.with_same(source, &source.keys, &candidate.row).await?;
            let removal = source.deleted.is_some_and(|column| {
                let flags = candidate.row.column(column).as_boolean();
                flags.is_valid(0) && flags.value(0)
            });
            return Ok(match (removal, current.is_empty()) {
                (true, true) => {
                    told("deleted", format!("the record with {values} removes its key from `{name}`"), current)
                }
                (_, false) => told(
                    "superseded",
                    format!("another record of the same key stands in `{name}`, not the one with {values}"),
                    current,
                ),
                (false, true) => {
                    let message =
                        format!("the record with {values} was a row of `{name}`, and a later one removed its key");
                    told("deleted", message, current)
                }
            });
        }
        let message =
            format!("the record with {values} is in `{}`, and no epoch up to this one has taken it in", source.input);
        Ok(told("not_taken_in", message, Vec::new()))
    }

    /// Rows of the source that have the same values in some columns.
    async fn with_same(
        &self,
        source: &SourceSpec,
        columns: &[usize],
        row: &RecordBatch,
    ) -> Result<Vec<serde_json::Value>, WhyError> {
        let mut frame = SessionContext::new().read_table(self.snapshot.table(&source.name).await?)?;
        for index in columns {
            let value = ScalarValue::try_from_array(row.column(*index), 0)?;
            let named = column(source.schema.field(*index).name());
            frame = frame.filter(if value.is_null() { named.is_null() } else { named.eq(lit(value)) })?;
        }
        let batches: Vec<RecordBatch> = frame.limit(0, Some(SHOWN_MAX))?.execute_stream().await?.try_collect().await?;
        Ok(batches.iter().flat_map(weir_schemas::to_json_rows).collect())
    }

    /// Of a keyed source: a row with the values that history had and that was taken away since, or the row of the key with
    /// other values.
    async fn replaced(
        &self,
        source: &SourceSpec,
        wanted: &[(Expr, ScalarValue)],
        condition: &Condition,
        values: &str,
    ) -> Result<Option<FateTold>, WhyError> {
        if source.keys.is_empty() {
            return Ok(None);
        }
        let mut then: Option<(RecordBatch, u64)> = None;
        for part in self.snapshot.changes(&source.name).await? {
            let frame = SessionContext::new().read_table(part)?.filter(column(WEIGHT).gt(lit(0i64)))?;
            let mut stream = frame.execute_stream().await?;
            while let Some(batch) = stream.try_next().await? {
                let places = source.schema.fields().iter().map(|f| batch.schema().index_of(f.name()));
                let rows = batch.project(&places.collect::<Result<Vec<_>, _>>()?)?;
                let epochs = batch.column(batch.schema().index_of(EPOCH)?).as_primitive::<Int64Type>();
                if let Some(row) = condition.holds(&rows).iter().position(|met| *met) {
                    then = Some((rows.slice(row, 1), epochs.value(row).unsigned_abs()));
                }
            }
        }
        if let Some((row, epoch)) = then {
            let current = self.with_same(source, &source.keys, &row).await?;
            let kind = if current.is_empty() { "deleted" } else { "superseded" };
            let what = if current.is_empty() { "its key was removed since" } else { "a later one replaced it" };
            let message = format!("`{}` had a row with {values} in epoch {epoch}; {what}", source.name);
            let rows = weir_schemas::to_json_rows(&row);
            return Ok(Some(FateTold { kind: kind.into(), message, rows, against: current, ..FateTold::default() }));
        }
        // The key alone, where other values were asked for beside it.
        let of_key: BTreeMap<usize, &ScalarValue> = wanted
            .iter()
            .filter_map(|(expression, value)| {
                Some((source.schema.index_of(expression.try_as_col()?.name()).ok()?, value))
            })
            .filter(|(index, _)| source.keys.contains(index))
            .collect();
        if of_key.len() < source.keys.len() || wanted.len() == of_key.len() {
            return Ok(None);
        }
        let mut frame = SessionContext::new().read_table(self.snapshot.table(&source.name).await?)?;
        for (index, value) in of_key {
            frame = frame.filter(column(source.schema.field(index).name()).eq(lit(value.clone())))?;
        }
        let batches: Vec<RecordBatch> = frame.execute_stream().await?.try_collect().await?;
        let current: Vec<serde_json::Value> = batches.iter().flat_map(weir_schemas::to_json_rows).collect();
        let message = format!("`{}` has the key, with other values than {values}", source.name);
        let told = FateTold { kind: "superseded".into(), message, against: current, ..FateTold::default() };
        Ok((!told.against.is_empty()).then_some(told))
    }
}

/// A value as it would stand in a record; None for types that have many forms.
fn text_of(value: &ScalarValue) -> Option<String> {
    match value {
        ScalarValue::Utf8(Some(text)) if !text.is_empty() => Some(text.clone()),
        value if value.data_type().is_integer() || matches!(value, ScalarValue::Decimal128(..)) => {
            Some(value.to_string())
        }
        _ => None,
    }
}

/// Whether the bytes hold the text, and not as a part of a longer word or number.
fn holds(bytes: &[u8], text: &[u8]) -> bool {
    let edge = |byte: Option<&u8>| byte.is_none_or(|byte| !byte.is_ascii_alphanumeric());
    (0..bytes.len().saturating_sub(text.len().saturating_sub(1))).any(|at| {
        let end = at + text.len();
        bytes.get(at..end) == Some(text) && edge(at.checked_sub(1).and_then(|at| bytes.get(at))) && edge(bytes.get(end))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_found_as_a_word_of_its_own() {
        assert!(holds(b"{\"id\": 12, \"x\": 3}", b"12"));
        assert!(holds(b"12,a", b"12"));
        assert!(!holds(b"{\"id\": 112}", b"12"));
        assert!(!holds(b"{\"id\": \"12a\"}", b"12"));
        assert!(!holds(b"1", b"12"));
        assert!(!holds(b"", b"12"));
    }
}
