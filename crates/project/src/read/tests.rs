//! `tests/**/*.toml`: cases of given and expected rows.

use arrow::array::RecordBatch;
use chrono::{DateTime, NaiveDate, NaiveDateTime};
use weir_incremental::Relation;

use crate::document::{self, Entry, Node, Value};
use crate::fields::{Fields, Layer};
use crate::keys;
use crate::mistake::{FileText, Mistake, did_you_mean};
use crate::source::Source;
use crate::test_case::{Expectation, Given, TestCase};

use super::Relations;
use super::folder::NamedFile;
use super::models::unknown_relation;
use super::rows::{Width, read_rows};

/// Reads all cases; those with mistakes are left out.
pub(crate) fn read_tests(
    files: &[NamedFile],
    sources: &[Source],
    relations: &Relations,
    mistakes: &mut Vec<Mistake>,
) -> Vec<TestCase> {
    files.iter().filter_map(|file| read_test(file, sources, relations, mistakes)).collect()
}

fn read_test(
    file: &NamedFile,
    sources: &[Source],
    relations: &Relations,
    mistakes: &mut Vec<Mistake>,
) -> Option<TestCase> {
    let before = mistakes.len();
    let text = &file.text;
    let table = document::parse(text, mistakes);
    let fields = Fields::new(&keys::TEST, "", vec![Layer { text, table: &table }]);
    fields.check_names(None, mistakes);
    let name = fields.given_text("name", mistakes).map_or_else(|| file.name.replace('_', " "), |name| name.value);
    let now = fields.entry("now").and_then(|(_, entry)| read_instant(text, &entry.node, mistakes));
    let mut given = Vec::new();
    for (relation, entry) in entries(&fields, "given", mistakes) {
        given.extend(read_given(text, &relation, entry, sources, relations, mistakes));
    }
    let mut expect = Vec::new();
    for (relation, entry) in entries(&fields, "expect", mistakes) {
        match relations.known.get(&relation) {
            None => mistakes.push(unknown_relation(text, &relation, entry.key_span.clone(), relations)),
            // Its own file has a mistake, which is told there.
            Some(None) => {}
            Some(Some(known)) => {
                let rows = read_rows(text, &relation, &entry.node, &known.schema, Width::Named, mistakes);
                expect.extend(rows.map(|rows| Expectation { relation: Relation::from(relation), rows }));
            }
        }
    }
    for (name, hint) in [("given", "add rows: [[given.SOURCE]]"), ("expect", "add rows: [[expect.MODEL]]")] {
        if !fields.has(name) {
            let message = format!("the case has no `{name}`");
            mistakes.push(Mistake::of_file(text.file(), "missing_key", message).hint(hint));
        }
    }
    let case = TestCase { name, file: text.file().to_path_buf(), now, given, expect };
    (mistakes.len() == before).then_some(case)
}

/// The entries below `given` or `expect`, each with its relation's full name.
fn entries<'a>(fields: &Fields<'a>, name: &str, mistakes: &mut Vec<Mistake>) -> Vec<(String, &'a Entry)> {
    let mut found = Vec::new();
    for entry in fields.table(name, mistakes).map(|layer| layer.table.entries.iter()).into_iter().flatten() {
        match &entry.node.value {
            Value::Table(schema) => {
                let inner = schema.entries.iter();
                found.extend(inner.map(|inner| (format!("{}.{}", entry.key, inner.key), inner)));
            }
            _ => found.push((entry.key.clone(), entry)),
        }
    }
    found
}

fn read_given(
    text: &FileText,
    relation: &str,
    entry: &Entry,
    sources: &[Source],
    relations: &Relations,
    mistakes: &mut Vec<Mistake>,
) -> Option<Given> {
    let Some(source) = sources.iter().find(|source| &*source.name == relation) else {
        match relations.known.get(relation) {
            None => {
                let hint = did_you_mean(relation, sources.iter().map(|source| &*source.name));
                let message = format!("there is no source `{relation}`");
                mistakes.push(Mistake::at(text, entry.key_span.clone(), "unknown_relation", message).hint_maybe(hint));
            }
            Some(Some(_)) => {
                let message = format!("`{relation}` is a model; rows can be given to sources");
                mistakes.push(Mistake::at(text, entry.key_span.clone(), "unknown_relation", message));
            }
            Some(None) => {}
        }
        return None;
    };
    let schema = source.decoding.decoder(&source.contract).schema();
    let rows = read_rows(text, relation, &entry.node, &schema, Width::All, mistakes)?;
    check_required(text, entry, source, &rows, mistakes);
    Some(Given { source: source.name.clone(), rows })
}

fn check_required(text: &FileText, entry: &Entry, source: &Source, rows: &RecordBatch, mistakes: &mut Vec<Mistake>) {
    for column in source.contract.columns.iter().filter(|column| column.required) {
        if rows.column_by_name(&column.name).is_some_and(|values| values.null_count() > 0) {
            let message = format!("`{}` requires `{}`, and a row has none", source.name, column.name);
            mistakes.push(Mistake::at(text, entry.key_span.clone(), "bad_value", message));
        }
    }
}

fn read_instant(text: &FileText, node: &Node, mistakes: &mut Vec<Mistake>) -> Option<i64> {
    let written = match &node.value {
        Value::Datetime(written) | Value::Text(written) => written.as_str(),
        _ => "",
    };
    let naive = || {
        let formats = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M"];
        formats.iter().find_map(|format| NaiveDateTime::parse_from_str(written, format).ok())
    };
    let day = || NaiveDate::parse_from_str(written, "%Y-%m-%d").ok()?.and_hms_opt(0, 0, 0);
    let micros = DateTime::parse_from_rfc3339(written)
        .map(|instant| instant.timestamp_micros())
        .ok()
        .or_else(|| naive().or_else(day).map(|instant| instant.and_utc().timestamp_micros()));
    if micros.is_none() {
        mistakes.push(
            Mistake::at(text, node.span.clone(), "bad_value", "this is not an instant")
                .hint("write one like 2026-01-31T12:00:00Z"),
        );
    }
    micros
}
