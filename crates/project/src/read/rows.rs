//! Rows that people write, as lists of TOML tables or as one text with a line a row, to typed batches.

use std::ops::Range;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::json::ReaderBuilder;
use serde_json::{Map, Value as Json};

use crate::document::{Node, Value};
use crate::fields::{inside_string, wrong_type};
use crate::mistake::{FileText, Mistake, did_you_mean};

/// One row as it was written: its place, and its cells with theirs.
struct Row {
    span: Range<usize>,
    cells: Vec<(String, Range<usize>, Json)>,
}

/// Which columns a batch of rows gets.
#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Width {
    /// All of the relation's, NULL where a row does not name one.
    All,
    /// Those that at least one row names.
    Named,
}

/// Reads the rows under `name`; None when they have a mistake.
pub(crate) fn read_rows(
    text: &FileText,
    name: &str,
    node: &Node,
    schema: &SchemaRef,
    width: Width,
    mistakes: &mut Vec<Mistake>,
) -> Option<RecordBatch> {
    let before = mistakes.len();
    let rows = match &node.value {
        Value::List(nodes) => nodes.iter().filter_map(|node| row_of_table(text, name, node, mistakes)).collect(),
        Value::Text(table) => rows_of_text(text, node, table, schema, mistakes),
        other => {
            let wanted = "a list of rows or a text with a line a row";
            mistakes.push(wrong_type(text, node, name, wanted, other));
            return None;
        }
    };
    for (column, span, _) in rows.iter().flat_map(|row| &row.cells) {
        if schema.field_with_name(column).is_err() {
            let names = schema.fields().iter().map(|field| field.name().as_str());
            let hint = did_you_mean(column, names);
            let message = format!("`{name}` has no column `{column}`");
            mistakes.push(Mistake::at(text, span.clone(), "unknown_column", message).hint_maybe(hint));
        }
    }
    // A header names a column once for all its rows.
    mistakes.dedup();
    if mistakes.len() > before {
        return None;
    }
    let named = |field: &&Arc<Field>| rows.iter().any(|row| row.cells.iter().any(|(name, ..)| name == field.name()));
    let fields: Vec<Arc<Field>> = match width {
        Width::Named if !rows.is_empty() => schema.fields().iter().filter(named).cloned().collect(),
        _ => schema.fields().iter().cloned().collect(),
    };
    let schema: SchemaRef = Arc::new(Schema::new(fields));
    let mut batches = Vec::new();
    for row in rows {
        match batch_of_row(&row, &schema) {
            Ok(batch) => batches.push(batch),
            Err((span, message)) => mistakes.push(Mistake::at(text, span, "bad_value", message)),
        }
    }
    if mistakes.len() > before {
        return None;
    }
    // The batches were all made with this schema.
    concat_batches(&schema, &batches).ok()
}

fn row_of_table(text: &FileText, name: &str, node: &Node, mistakes: &mut Vec<Mistake>) -> Option<Row> {
    let Value::Table(table) = &node.value else {
        mistakes.push(wrong_type(text, node, name, "a list of rows", &node.value));
        return None;
    };
    let cells = table.entries.iter().map(|entry| {
        let whole = entry.key_span.start..entry.node.span.end;
        (entry.key.clone(), whole, json(&entry.node.value))
    });
    Some(Row { span: node.span.clone(), cells: cells.collect() })
}

fn json(value: &Value) -> Json {
    match value {
        Value::Text(text) => Json::String(text.clone()),
        Value::Integer(number) => Json::from(*number),
        Value::Float(number) => Json::from(*number),
        Value::Boolean(boolean) => Json::Bool(*boolean),
        Value::Datetime(datetime) => Json::String(datetime.clone()),
        Value::List(nodes) => Json::Array(nodes.iter().map(|node| json(&node.value)).collect()),
        Value::Table(table) => {
            Json::Object(table.entries.iter().map(|entry| (entry.key.clone(), json(&entry.node.value))).collect())
        }
    }
}

/// `a | b` on the first line, then a line a row; an empty cell is NULL, quotes make text of anything.
fn rows_of_text(
    text: &FileText,
    node: &Node,
    table: &str,
    schema: &SchemaRef,
    mistakes: &mut Vec<Mistake>,
) -> Vec<Row> {
    let start = inside_string(text, &node.span, table);
    let mut rows = Vec::new();
    let mut header: Option<Vec<String>> = None;
    let mut offset = 0;
    for line in table.split_inclusive('\n') {
        let at = offset;
        offset += line.len();
        let content = line.trim();
        let rule = content.chars().all(|c| matches!(c, '-' | '|' | '+' | ' ' | ':'));
        if content.is_empty() || content.starts_with('#') || rule {
            continue;
        }
        let indent = line.len() - line.trim_start().len();
        let span = match start {
            Some(start) => start + at + indent..start + at + indent + content.len(),
            None => node.span.clone(),
        };
        let cells = split_cells(content);
        let Some(names) = &header else {
            header = Some(cells.into_iter().map(str::to_string).collect());
            continue;
        };
        if cells.len() != names.len() {
            let message = format!("this row has {} cells, the header names {} columns", cells.len(), names.len());
            mistakes.push(Mistake::at(text, span, "bad_value", message));
            continue;
        }
        let cells = names
            .iter()
            .zip(cells)
            .map(|(name, cell)| {
                let data_type = schema.field_with_name(name).map(|field| field.data_type());
                (name.clone(), span.clone(), cell_value(cell, data_type.ok()))
            })
            .collect();
        rows.push(Row { span, cells });
    }
    rows
}

fn split_cells(line: &str) -> Vec<&str> {
    let line = line.strip_prefix('|').unwrap_or(line);
    let line = line.strip_suffix('|').unwrap_or(line);
    let mut cells = Vec::new();
    let (mut start, mut quoted) = (0, false);
    for (at, character) in line.char_indices() {
        match character {
            '"' => quoted = !quoted,
            '|' if !quoted => {
                cells.push(line[start..at].trim());
                start = at + 1;
            }
            _ => {}
        }
    }
    cells.push(line[start..].trim());
    cells
}

fn cell_value(cell: &str, data_type: Option<&DataType>) -> Json {
    let unquoted = cell.strip_prefix('"').and_then(|cell| cell.strip_suffix('"')).filter(|_| cell.len() >= 2);
    match (unquoted, data_type) {
        (None, _) if cell.is_empty() => Json::Null,
        (Some(inner), _) => Json::String(inner.to_string()),
        (None, Some(data_type)) if data_type.is_numeric() || data_type.is_nested() => {
            serde_json::from_str(cell).unwrap_or_else(|_| Json::String(cell.to_string()))
        }
        (None, Some(DataType::Boolean)) => match cell {
            "true" => Json::Bool(true),
            "false" => Json::Bool(false),
            other => Json::String(other.to_string()),
        },
        (None, _) => Json::String(cell.to_string()),
    }
}

/// One row as a batch; otherwise the place of the cell that does not fit, and why.
fn batch_of_row(row: &Row, schema: &SchemaRef) -> Result<RecordBatch, (Range<usize>, String)> {
    let object: Map<String, Json> = row.cells.iter().map(|(name, _, value)| (name.clone(), value.clone())).collect();
    if let Ok(batch) = decode(&Json::Object(object), schema) {
        return Ok(batch);
    }
    // Cell by cell, to tell which.
    for (name, span, value) in &row.cells {
        let Ok(field) = schema.field_with_name(name) else { continue };
        let single: SchemaRef = Arc::new(Schema::new(vec![field.clone()]));
        let object = Json::Object(Map::from_iter([(name.clone(), value.clone())]));
        if decode(&object, &single).is_err() {
            let wanted = weir_schemas::sql_type_name(field.data_type());
            return Err((span.clone(), format!("{value} is not {wanted} for `{name}`")));
        }
    }
    Err((row.span.clone(), "this row cannot be read".into()))
}

fn decode(object: &Json, schema: &SchemaRef) -> Result<RecordBatch, String> {
    let mut decoder = ReaderBuilder::new(schema.clone()).build_decoder().map_err(|error| error.to_string())?;
    decoder.decode(object.to_string().as_bytes()).map_err(|error| error.to_string())?;
    let batch = decoder.flush().map_err(|error| error.to_string())?;
    batch.ok_or_else(|| "no row".to_string())
}
