//! `[columns]`: from SQL types and origins to a contract.

use arrow::datatypes::DataType;
use weir_schemas::{Column, Contract, Origin, UnknownFields, parse_sql_type};

use crate::document::{Entry, Node, Value};
use crate::fields::{Fields, Layer, inside_string, wrong_type};
use crate::keys;
use crate::mistake::{FileText, Mistake, did_you_mean};
use crate::source::Notes;

use super::folder::is_identifier;

/// Reads `[columns]`, short and long forms alike. Descriptions and personal columns go to `notes`.
pub(crate) fn read_columns(
    columns: Layer<'_>,
    unknown: UnknownFields,
    notes: &mut Notes,
    mistakes: &mut Vec<Mistake>,
) -> Contract {
    let text = columns.text;
    let mut read = Vec::new();
    for entry in &columns.table.entries {
        check_column_name(text, entry, mistakes);
        match &entry.node.value {
            Value::Text(sql_type) => {
                if let Some(data_type) = read_type(text, &entry.node, sql_type, mistakes) {
                    read.push(Column::new(&entry.key, data_type));
                }
            }
            Value::Table(table) => read.extend(read_long(entry, Layer { text, table }, notes, mistakes)),
            other => {
                let wanted = "a SQL type or a table";
                mistakes.push(
                    wrong_type(text, &entry.node, &entry.key, wanted, other)
                        .hint(format!("write `{} = \"TEXT\"`, say", entry.key)),
                );
            }
        }
    }
    Contract::new(read, unknown)
}

fn read_long(entry: &Entry, layer: Layer<'_>, notes: &mut Notes, mistakes: &mut Vec<Mistake>) -> Option<Column> {
    let text = layer.text;
    let fields = Fields::new(&keys::SOURCE, "columns.*", vec![layer]);
    fields.check_names(None, mistakes);
    let origin = fields.given_text("from", mistakes).and_then(|from| match Origin::parse(&from.value) {
        Ok(origin) => Some(origin),
        Err(error) => {
            let hint = did_you_mean(&from.value, ATTRIBUTES.iter().copied());
            mistakes.push(Mistake::at(text, from.span, "bad_value", error.to_string()).hint_maybe(hint));
            None
        }
    });
    let data_type = match (fields.entry("type"), &origin) {
        (Some((_, Entry { node, .. })), _) => {
            let sql_type = fields.given_text("type", mistakes)?;
            read_type(text, node, &sql_type.value, mistakes)?
        }
        (None, Some(Origin::Attribute(attribute))) => attribute.data_type(),
        (None, _) => {
            let message = format!("column `{}` has no type", entry.key);
            mistakes.push(
                Mistake::at(text, entry.key_span.clone(), "missing_key", message).hint("add type = \"TEXT\", say"),
            );
            return None;
        }
    };
    if let Some(Origin::Attribute(attribute)) = &origin
        && !same_kind(&data_type, &attribute.data_type())
        && let Some((_, entry)) = fields.entry("type")
    {
        let right = weir_schemas::sql_type_name(&attribute.data_type());
        let message = format!("@{} is {right}", attribute.name());
        mistakes.push(Mistake::at(text, entry.node.span.clone(), "type_mismatch", message).hint("leave out `type`"));
        return None;
    }
    let mut column = Column::new(&entry.key, data_type);
    if fields.boolean("required", mistakes) {
        column = column.required();
    }
    if fields.boolean("personal", mistakes) {
        column = column.personal();
        notes.personal.push(entry.key.clone());
    }
    if let Some(description) = fields.given_text("description", mistakes) {
        notes.columns.insert(entry.key.clone(), description.value);
    }
    Some(match origin {
        Some(origin) => column.from_origin(origin),
        None => column,
    })
}

const ATTRIBUTES: &[&str] = &["@arrival", "@client_address", "@user_agent", "@referer", "@file"];

fn same_kind(found: &DataType, wanted: &DataType) -> bool {
    found == wanted || matches!((found, wanted), (DataType::Timestamp(..), DataType::Timestamp(..)))
}

fn read_type(text: &FileText, node: &Node, sql_type: &str, mistakes: &mut Vec<Mistake>) -> Option<DataType> {
    match parse_sql_type(sql_type) {
        Ok(data_type) => Some(data_type),
        Err(error) => {
            let place = match inside_string(text, &node.span, sql_type) {
                Some(start) if error.position < sql_type.len() => {
                    let word = sql_type[error.position..].find(|c: char| !c.is_alphanumeric()).unwrap_or(usize::MAX);
                    let end = error.position.saturating_add(word.max(1)).min(sql_type.len());
                    start + error.position..start + end
                }
                _ => node.span.clone(),
            };
            mistakes.push(Mistake::at(text, place, "bad_value", error.message).hint_maybe(error.hint));
            None
        }
    }
}

/// A column's name must be one that SQL takes without quotes, and none of ours.
pub(crate) fn check_column_name(text: &FileText, entry: &Entry, mistakes: &mut Vec<Mistake>) {
    let name = entry.key.as_str();
    let place = entry.key_span.clone();
    if name.starts_with('_') {
        let message = format!("`{name}`: names that begin with `_` are kept for Weir");
        mistakes.push(Mistake::at(text, place, "bad_name", message).hint("call it otherwise, and say `from`"));
    } else if !is_identifier(name) {
        let mended = snake_case(name);
        let message = format!("`{name}` cannot be the name of a column: use small letters, digits and `_`");
        mistakes.push(
            Mistake::at(text, place, "bad_name", message)
                .hint(format!("write `{mended} = {{ type = \"...\", from = \"{name}\" }}`")),
        );
    }
}

/// `userId` and `User-Id` to `user_id`.
pub fn snake_case(name: &str) -> String {
    let mut snake = String::new();
    let mut last_was_small = false;
    for character in name.chars() {
        if character.is_ascii_uppercase() && last_was_small {
            snake.push('_');
        }
        last_was_small = character.is_ascii_lowercase() || character.is_ascii_digit();
        match character {
            c if c.is_ascii_alphanumeric() => snake.push(c.to_ascii_lowercase()),
            _ if !snake.ends_with('_') && !snake.is_empty() => snake.push('_'),
            _ => {}
        }
    }
    let snake = snake.trim_end_matches('_').to_string();
    match snake.chars().next() {
        Some(first) if first.is_ascii_digit() => format!("column_{snake}"),
        Some(_) => snake,
        None => "column".into(),
    }
}
