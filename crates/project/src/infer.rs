//! Drafting `[columns]` from samples of records.

use std::fmt::Write;

use indexmap::IndexMap;
use serde_json::Value;

use crate::read::columns::snake_case;
use crate::read::folder::is_identifier;

/// What a sample is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleFormat {
    /// One JSON object a line, or a list of objects.
    Json,
    /// With a header, in commas.
    Csv,
}

/// Everything that was seen of a field.
#[derive(Debug, Clone, Default)]
struct Shape {
    booleans: u64,
    integers: u64,
    floats: u64,
    /// Text that reads as an instant, as a date, and any other.
    instants: u64,
    dates: u64,
    texts: u64,
    fields: Option<IndexMap<String, Shape>>,
    items: Option<Box<Shape>>,
}

/// The text of a `[columns]` table for records like those of the sample. The error says what cannot be read.
pub fn draft(format: SampleFormat, sample: &[u8]) -> Result<String, String> {
    let mut fields: IndexMap<String, Shape> = IndexMap::new();
    let records = match format {
        SampleFormat::Json => look_at_json(sample, &mut fields)?,
        SampleFormat::Csv => look_at_csv(sample, &mut fields)?,
    };
    if fields.is_empty() {
        return Err("there are no records in it".into());
    }
    let names: Vec<(String, String)> = fields
        .keys()
        .map(|field| {
            let name = if is_identifier(field) && !field.starts_with('_') { field.clone() } else { snake_case(field) };
            (name, field.clone())
        })
        .collect();
    let width = names.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let mut text = format!("# Drafted from {records} records: look it over.\n[columns]\n");
    for ((name, field), shape) in names.iter().zip(fields.values()) {
        let sql_type = shape.sql_type();
        // Writing to a string cannot fail.
        let _ = if name == field {
            writeln!(text, "{name:width$} = \"{sql_type}\"")
        } else {
            let path = if field.contains('.') { format!("\"{field}\"") } else { field.clone() };
            writeln!(text, "{name:width$} = {{ type = \"{sql_type}\", from = {} }}", toml::Value::from(path))
        };
    }
    Ok(text)
}

fn look_at_json(sample: &[u8], fields: &mut IndexMap<String, Shape>) -> Result<u64, String> {
    let mut records = 0;
    let mut look = |value: &Value| -> Result<(), String> {
        let Value::Object(object) = value else { return Err("a record is not a JSON object".into()) };
        records += 1;
        for (name, value) in object {
            fields.entry(name.clone()).or_default().look(value);
        }
        Ok(())
    };
    for value in serde_json::Deserializer::from_slice(sample).into_iter::<Value>() {
        match value.map_err(|error| error.to_string())? {
            Value::Array(values) => values.iter().try_for_each(&mut look)?,
            value => look(&value)?,
        }
    }
    Ok(records)
}

fn look_at_csv(sample: &[u8], fields: &mut IndexMap<String, Shape>) -> Result<u64, String> {
    let mut reader = csv::ReaderBuilder::new().flexible(true).from_reader(sample);
    let header = reader.headers().map_err(|error| error.to_string())?.clone();
    for name in &header {
        fields.entry(name.trim_start_matches('\u{feff}').to_string()).or_default();
    }
    let mut records = 0;
    for record in reader.records() {
        records += 1;
        for (index, cell) in record.map_err(|error| error.to_string())?.iter().enumerate() {
            if let Some((_, shape)) = fields.get_index_mut(index) {
                shape.look_at_cell(cell);
            }
        }
    }
    Ok(records)
}

impl Shape {
    fn look(&mut self, value: &Value) {
        match value {
            Value::Null => {}
            Value::Bool(_) => self.booleans += 1,
            Value::Number(number) if number.is_i64() => self.integers += 1,
            Value::Number(_) => self.floats += 1,
            Value::String(text) => self.look_at_text(text),
            Value::Array(values) => {
                let items = self.items.get_or_insert_default();
                values.iter().for_each(|value| items.look(value));
            }
            Value::Object(object) => {
                let fields = self.fields.get_or_insert_default();
                for (name, value) in object {
                    fields.entry(name.clone()).or_default().look(value);
                }
            }
        }
    }

    fn look_at_text(&mut self, text: &str) {
        let instant = chrono::DateTime::parse_from_rfc3339(text).is_ok()
            || ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f"]
                .iter()
                .any(|format| chrono::NaiveDateTime::parse_from_str(text, format).is_ok());
        if instant {
            self.instants += 1;
        } else if text.len() == 10 && chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").is_ok() {
            self.dates += 1;
        } else {
            self.texts += 1;
        }
    }

    fn look_at_cell(&mut self, cell: &str) {
        let leading_zero = cell.len() > 1 && cell.starts_with('0') && !cell.starts_with("0.");
        match cell {
            "" => {}
            "true" | "false" => self.booleans += 1,
            _ if leading_zero => self.look_at_text(cell),
            _ if cell.parse::<i64>().is_ok() => self.integers += 1,
            _ if cell.parse::<f64>().is_ok_and(f64::is_finite) => self.floats += 1,
            _ => self.look_at_text(cell),
        }
    }

    fn sql_type(&self) -> String {
        let kinds = [
            self.booleans > 0,
            self.integers + self.floats > 0,
            self.instants + self.dates > 0 && self.texts == 0,
            self.texts > 0,
            self.fields.is_some(),
            self.items.is_some(),
        ];
        if kinds.iter().filter(|seen| **seen).count() > 1 {
            return "TEXT".into();
        }
        if let Some(fields) = self.fields.as_ref().filter(|fields| !fields.is_empty()) {
            let inner: Vec<String> =
                fields.iter().map(|(name, shape)| format!("{} {}", quoted(name), shape.sql_type())).collect();
            return format!("STRUCT<{}>", inner.join(", "));
        }
        if let Some(items) = &self.items {
            return format!("ARRAY<{}>", items.sql_type());
        }
        match () {
            () if self.booleans > 0 => "BOOLEAN".into(),
            () if self.floats > 0 => "DOUBLE".into(),
            () if self.integers > 0 => "BIGINT".into(),
            () if self.instants > 0 && self.texts == 0 => "TIMESTAMP".into(),
            () if self.dates > 0 && self.texts == 0 => "DATE".into(),
            () => "TEXT".into(),
        }
    }
}

fn quoted(name: &str) -> String {
    if is_identifier(name) { name.to_string() } else { format!("\\\"{}\\\"", name.replace('"', "")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_lines_become_columns_that_can_be_read_back() {
        let sample = br#"
            {"userId": 7, "at": "2026-01-02T03:04:05Z", "price": 1, "tags": ["a"], "geo": {"lat": 1.5, "City": "x"}}
            {"userId": 8, "at": null, "price": 2.5, "ok": true, "mixed": 1}
            {"mixed": "x", "day": "2026-01-02"}"#;
        let columns = draft(SampleFormat::Json, sample).unwrap();
        let expected = "\
# Drafted from 3 records: look it over.
[columns]
at      = \"TIMESTAMP\"
geo     = \"STRUCT<\\\"City\\\" TEXT, lat DOUBLE>\"
price   = \"DOUBLE\"
tags    = \"ARRAY<TEXT>\"
user_id = { type = \"BIGINT\", from = \"userId\" }
mixed   = \"TEXT\"
ok      = \"BOOLEAN\"
day     = \"DATE\"
";
        assert_eq!(columns, expected);
        let table: toml::Table = columns.parse().unwrap();
        let geo = table["columns"]["geo"].as_str().unwrap();
        weir_schemas::parse_sql_type(geo).unwrap();
    }

    #[test]
    fn csv_cells_tell_types_and_leading_zeros_stay_text() {
        let columns =
            draft(SampleFormat::Csv, b"InvoiceNo,zip,paid,when\n1,01234,true,2026-01-02 03:04:05\n2,5,,\n").unwrap();
        let expected = "\
# Drafted from 2 records: look it over.
[columns]
invoice_no = { type = \"BIGINT\", from = \"InvoiceNo\" }
zip        = \"TEXT\"
paid       = \"BOOLEAN\"
when       = \"TIMESTAMP\"
";
        assert_eq!(columns, expected);
    }

    #[test]
    fn what_is_no_record_is_refused() {
        assert!(draft(SampleFormat::Json, b"[1]").is_err());
        assert!(draft(SampleFormat::Json, b"{").is_err());
        assert!(draft(SampleFormat::Json, b"").is_err());
    }
}
