//! TOML as a tree that knows where each key and value stands; reading recovers from errors and reports all.

use std::ops::Range;

use toml::de::{DeTable, DeValue};

use crate::mistake::{FileText, Mistake};

/// A value and where it stands in the file.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub span: Range<usize>,
    pub value: Value,
}

/// A TOML value.
#[derive(Debug, Clone)]
pub(crate) enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// As written: a TOML date, time or both.
    Datetime(String),
    List(Vec<Node>),
    Table(Table),
}

impl Value {
    /// What it is, for messages.
    pub fn describe(&self) -> &'static str {
        match self {
            Value::Text(_) => "a string",
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Boolean(_) => "a boolean",
            Value::Datetime(_) => "a date or time",
            Value::List(_) => "a list",
            Value::Table(_) => "a table",
        }
    }
}

/// The entries of a table in the order they are written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Table {
    pub entries: Vec<Entry>,
}

/// One `key = value`.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub key: String,
    pub key_span: Range<usize>,
    pub node: Node,
}

impl Table {
    /// The entry of that name.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }
}

/// Reads TOML, with every syntax error as a mistake.
pub(crate) fn parse(text: &FileText, mistakes: &mut Vec<Mistake>) -> Table {
    let (table, errors) = DeTable::parse_recoverable(text.text());
    for error in errors {
        let span = error.span().unwrap_or(0..0);
        mistakes.push(Mistake::at(text, span, "toml_syntax", error.message().trim().replace('\n', ", ")));
    }
    convert_table(table.get_ref(), text, mistakes)
}

fn convert_table(table: &DeTable<'_>, text: &FileText, mistakes: &mut Vec<Mistake>) -> Table {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry {
            key: key.get_ref().to_string(),
            key_span: key.span(),
            node: Node { span: value.span(), value: convert(value.get_ref(), value.span(), text, mistakes) },
        })
        .collect();
    entries.sort_by_key(|entry| entry.key_span.start);
    Table { entries }
}

fn convert(value: &DeValue<'_>, span: Range<usize>, text: &FileText, mistakes: &mut Vec<Mistake>) -> Value {
    let mut out_of_range = || {
        let message = "this number does not fit in 64 bits";
        mistakes.push(Mistake::at(text, span.clone(), "bad_value", message));
    };
    match value {
        DeValue::String(string) => Value::Text(string.to_string()),
        DeValue::Integer(integer) => match i64::from_str_radix(integer.as_str(), integer.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => {
                out_of_range();
                Value::Integer(0)
            }
        },
        DeValue::Float(float) => match float.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => {
                out_of_range();
                Value::Float(0.0)
            }
        },
        DeValue::Boolean(boolean) => Value::Boolean(*boolean),
        DeValue::Datetime(datetime) => Value::Datetime(datetime.to_string()),
        DeValue::Array(array) => Value::List(
            array
                .iter()
                .map(|node| Node { span: node.span(), value: convert(node.get_ref(), node.span(), text, mistakes) })
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(convert_table(table, text, mistakes)),
    }
}
