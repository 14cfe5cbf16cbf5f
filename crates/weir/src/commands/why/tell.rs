//! Answers of `weir why` for people.

use std::fmt::Write;

use serde_json::Value;
use weir_pipeline::why::{Absent, Answer, FateTold, Present, RecordTold, SourceTold};

/// Bytes shown of a record.
const RAW_MAX: usize = 600;

/// The answer as text.
pub fn text(answer: &Answer, not: bool) -> String {
    let mut text = String::new();
    match answer {
        Answer::Present(present) => {
            if not {
                line(&mut text, "", &format!("there is such a row in `{}`; this is why:", present.model));
            }
            tell_present(&mut text, present);
        }
        Answer::Absent(absent) => tell_absent(&mut text, absent),
        Answer::NoSuchRow { model, epoch } => {
            line(&mut text, "", &format!("`{model}` has no such row in epoch {epoch}; `weir why --not` says why not"));
        }
    }
    text
}

fn line(text: &mut String, indent: &str, words: &str) {
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{indent}{words}");
}

fn tell_present(text: &mut String, present: &Present) {
    line(text, "", &format!("{} in epoch {} ({})", present.model, present.epoch, present.clock));
    for row in &present.rows {
        line(text, "  ", &row_text(row));
    }
    if present.more {
        line(text, "  ", &format!("... and more; of these, {} are looked at", present.rows.len()));
    }
    for (number, step) in present.steps.iter().enumerate() {
        line(text, "", "");
        let rows = if number == 0 { String::new() } else { format!(": {} of its rows", step.rows) };
        line(text, "", &format!("{}{rows}, from {}", step.model, step.reads.join(", ")));
        if let Some(epoch) = step.computed_at {
            line(text, "  ", &format!("recomputed as a whole, last from what epoch {epoch} held"));
        }
        if let Some(why) = &step.whole {
            line(text, "  ", &format!("note: {why}"));
        }
        for sql in sql_lines(&step.sql) {
            line(text, "  | ", sql);
        }
        if number > 0 {
            for row in &step.shown {
                line(text, "  ", &row_text(row));
            }
            if step.rows > step.shown.len() as u64 {
                line(text, "  ", &format!("... {} rows in all", step.rows));
            }
        }
    }
    for source in &present.sources {
        line(text, "", "");
        tell_source(text, source);
    }
    if present.steps.is_empty() {
        return;
    }
    line(text, "", "");
    let rows: u64 = present.sources.iter().map(|source| source.rows).sum();
    line(
        text,
        "",
        &match present.reproduced {
            true => format!("checked: over only these {rows} rows of sources, the models give the row"),
            false => "not checked out: over only these rows of sources, the models do not give the row".to_owned(),
        },
    );
}

fn tell_source(text: &mut String, source: &SourceTold) {
    line(text, "", &format!("source {}: {} of its rows, read from `{}`", source.source, source.rows, source.input));
    if let Some(why) = &source.whole {
        line(text, "  ", &format!("note: {why}"));
    }
    for record in &source.records {
        tell_record(text, "  ", record, &source.input);
    }
    let shown: u64 = source.records.iter().map(|record| if record.offset.is_some() { 1 } else { record.times }).sum();
    if source.rows > shown {
        line(text, "  ", &format!("... {} more; --limit shows them", source.rows - shown));
    }
    for note in &source.notes {
        line(text, "  ", &format!("note: {note}"));
    }
}

fn tell_record(text: &mut String, indent: &str, record: &RecordTold, input: &str) {
    let mut facts = Vec::new();
    match (&record.file, record.byte, record.offset) {
        (Some(file), Some(byte), _) => facts.push(format!("{file}, byte {byte}")),
        (Some(file), None, Some(offset)) => facts.push(format!("{file}, offset {offset} of the input")),
        (_, _, Some(offset)) => facts.push(format!("{input}, offset {offset}")),
        _ => {}
    }
    facts.extend(record.arrival.as_ref().map(|at| format!("arrived {at}")));
    facts.extend(record.epoch.map(|epoch| match &record.taken_in {
        Some(at) => format!("epoch {epoch} ({at})"),
        None => format!("epoch {epoch}"),
    }));
    if !facts.is_empty() {
        line(text, &format!("{indent}- "), &facts.join("; "));
    }
    let deeper = format!("{indent}  ");
    if let Some(reason) = &record.reason {
        line(text, &deeper, &format!("set aside: {reason}"));
    }
    match &record.raw {
        Some(raw) => {
            let what = if record.raw_is_hex { "raw (hex)" } else { "raw" };
            let shown = &raw[..raw.floor_char_boundary(RAW_MAX)];
            let cut = if shown.len() < raw.len() { format!(" ... {} bytes in all", raw.len()) } else { String::new() };
            line(text, &deeper, &format!("{what}: {shown}{cut}"));
        }
        None if !record.row.is_null() => line(text, &deeper, &format!("row: {}", row_text(&record.row))),
        None => {}
    }
    if let Some(note) = &record.note {
        line(text, &deeper, &format!("note: {note}"));
    }
}

fn tell_absent(text: &mut String, absent: &Absent) {
    let wanted = absent.wanted.join(" AND ");
    line(text, "", &format!("{} in epoch {} ({}) has no row with {wanted}", absent.model, absent.epoch, absent.clock));
    line(text, "", "");
    tell_fate(text, "", &absent.blame);
    if !absent.also.is_empty() {
        line(text, "", "");
        line(text, "", "on other ways it could have come:");
        for fate in &absent.also {
            tell_fate(text, "  ", fate);
        }
    }
}

fn tell_fate(text: &mut String, indent: &str, fate: &FateTold) {
    line(text, indent, &format!("{}: {}", fate.kind, fate.message));
    let deeper = format!("{indent}  ");
    for asked in &fate.asks {
        line(text, &deeper, &format!("asked for: {asked}"));
    }
    if !fate.rows.is_empty() {
        line(text, &deeper, "what comes that far:");
        for row in &fate.rows {
            line(text, &format!("{deeper}  "), &row_text(row));
        }
    }
    if !fate.against.is_empty() {
        line(text, &deeper, "what stands against it:");
        for row in &fate.against {
            line(text, &format!("{deeper}  "), &row_text(row));
        }
    }
    for record in &fate.records {
        tell_record(text, &deeper, record, fate.source.as_deref().unwrap_or("input"));
    }
    for because in &fate.because {
        line(text, &deeper, "because:");
        tell_fate(text, &format!("{deeper}  "), because);
    }
    if let Some(sql) = &fate.sql {
        line(text, &deeper, &format!("{}:", fate.model.as_deref().unwrap_or("model")));
        for sql in sql_lines(sql) {
            line(text, &format!("{deeper}| "), sql);
        }
    }
}

/// A model's text without comments in front.
fn sql_lines(sql: &str) -> impl Iterator<Item = &str> {
    sql.lines().skip_while(|line| line.trim().is_empty() || line.trim_start().starts_with("--"))
}

/// `column=value` pairs; NULLs are left out.
fn row_text(row: &Value) -> String {
    let Some(fields) = row.as_object() else { return row.to_string() };
    let shown = fields.iter().filter(|(_, value)| !value.is_null()).map(|(name, value)| match value {
        Value::String(text) => format!("{name}={text}"),
        other => format!("{name}={other}"),
    });
    shown.collect::<Vec<_>>().join("  ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_told_with_its_place_and_its_bytes() {
        let record = RecordTold {
            offset: Some(17),
            arrival: Some("2026-01-01T00:00:00.000000Z".into()),
            epoch: Some(3),
            ..RecordTold::default()
        };
        let mut text = String::new();
        tell_record(&mut text, "", &record.with_raw(b"{\"id\": 1}\n"), "site");
        assert_eq!(text, "- site, offset 17; arrived 2026-01-01T00:00:00.000000Z; epoch 3\n  raw: {\"id\": 1}\n");
    }

    #[test]
    fn a_file_is_named_with_the_byte() {
        let record = RecordTold { file: Some("a.csv".into()), byte: Some(4), offset: Some(9), ..RecordTold::default() };
        let mut text = String::new();
        tell_record(&mut text, "", &record.with_raw(&[0xff, 0]), "a");
        assert_eq!(text, "- a.csv, byte 4\n  raw (hex): ff00\n");
    }
}
