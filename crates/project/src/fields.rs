//! Typed reading of TOML tables against the table of keys: unknown names, wrong types and bad values all become
//! mistakes with a place, and reading goes on.

use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use crate::document::{Entry, Node, Table, Value};
use crate::keys::{FileKeys, Key, Kind, Section};
use crate::mistake::{FileText, Mistake, did_you_mean};
use crate::quantity::{parse_bytes, parse_duration, parse_share};
use crate::secret::Template;

/// One file's table; several make an overlay.
#[derive(Clone, Copy)]
pub(crate) struct Layer<'a> {
    pub text: &'a FileText,
    pub table: &'a Table,
}

/// A value with the place it was read from.
#[derive(Debug, Clone)]
pub(crate) struct Spanned<T> {
    pub value: T,
    pub span: Range<usize>,
}

/// The entries of one section, read by name. What is not given is its default.
pub(crate) struct Fields<'a> {
    file: &'static FileKeys,
    section: &'static Section,
    layers: Vec<Layer<'a>>,
}

impl<'a> Fields<'a> {
    /// The section `section` of `file`, whose tables are `layers`; a section that does not exist is the first.
    pub fn new(file: &'static FileKeys, section: &str, layers: Vec<Layer<'a>>) -> Self {
        let section = file.section(section).unwrap_or(&file.sections[0]);
        Self { file, section, layers }
    }

    /// The sub-table of each layer that is named as the section.
    pub fn of_section(
        file: &'static FileKeys,
        section: &'static str,
        layers: &[Layer<'a>],
        mistakes: &mut Vec<Mistake>,
    ) -> Self {
        let mut inner = Vec::new();
        for layer in layers {
            let Some(entry) = layer.table.get(section) else { continue };
            match &entry.node.value {
                Value::Table(table) => inner.push(Layer { text: layer.text, table }),
                other => mistakes.push(wrong_type(layer.text, &entry.node, section, "a table", other)),
            }
        }
        Self::new(file, section, inner)
    }

    /// Reports tables that are not sections of this kind of file.
    pub fn check_sections(&self, mistakes: &mut Vec<Mistake>) {
        for layer in &self.layers {
            for entry in &layer.table.entries {
                if self.file.section(&entry.key).is_some() {
                    continue;
                }
                let place = self.file.sections.iter().find(|s| s.keys.iter().any(|key| key.name == entry.key));
                let hint = match place {
                    Some(section) => Some(format!("`{}` belongs under [{}]", entry.key, section.name)),
                    None => did_you_mean(&entry.key, self.file.sections.iter().map(|section| section.name)),
                };
                let message = format!("{} has no section `{}`", self.file.file, entry.key);
                mistakes.push(Mistake::at(layer.text, entry.key_span.clone(), "unknown_key", message).hint_maybe(hint));
            }
        }
    }

    /// Reports keys that do not exist, or that the given kind of source or sink does not have.
    pub fn check_names(&self, kind: Option<&str>, mistakes: &mut Vec<Mistake>) {
        for layer in &self.layers {
            for entry in &layer.table.entries {
                let place = || entry.key_span.clone();
                match self.section.keys.iter().find(|key| key.name == entry.key) {
                    None => {
                        let message = match self.section.name {
                            "" => format!("there is no `{}` in {}", entry.key, self.file.file),
                            name => format!("there is no `{}` in [{name}]", entry.key),
                        };
                        let hint = did_you_mean(&entry.key, self.section.keys.iter().map(|key| key.name));
                        mistakes.push(Mistake::at(layer.text, place(), "unknown_key", message).hint_maybe(hint));
                    }
                    Some(key) if !key.only_for.is_empty() && kind.is_some_and(|kind| !key.only_for.contains(&kind)) => {
                        let message = format!("`{}` means nothing for kind \"{}\"", key.name, kind.unwrap_or_default());
                        mistakes.push(
                            Mistake::at(layer.text, place(), "unknown_key", message)
                                .hint(format!("it is for {}; remove it", key.only_for.join(", "))),
                        );
                    }
                    Some(_) => {}
                }
            }
        }
    }

    /// The entry as written, from the last layer that has it.
    pub fn entry(&self, name: &str) -> Option<(&'a FileText, &'a Entry)> {
        self.layers.iter().rev().find_map(|layer| layer.table.get(name).map(|entry| (layer.text, entry)))
    }

    /// Whether it is given.
    pub fn has(&self, name: &str) -> bool {
        self.entry(name).is_some()
    }

    /// A string that is given.
    pub fn given_text(&self, name: &str, mistakes: &mut Vec<Mistake>) -> Option<Spanned<String>> {
        let (text, entry) = self.entry(name)?;
        let Value::Text(value) = &entry.node.value else {
            mistakes.push(wrong_type(text, &entry.node, name, "a string", &entry.node.value));
            return None;
        };
        let secret_place = self.key(name).is_some_and(|key| key.kind == Kind::Secret);
        if !secret_place && (value.contains("${env:") || value.contains("${file:")) {
            let message = format!("`{name}` cannot hold a secret");
            mistakes.push(
                Mistake::at(text, entry.node.span.clone(), "bad_value", message)
                    .hint("secrets may stand in connection strings such as `url`"),
            );
            return None;
        }
        Some(Spanned { value: value.clone(), span: entry.node.span.clone() })
    }

    /// A string, or its default.
    pub fn text(&self, name: &str, mistakes: &mut Vec<Mistake>) -> Option<String> {
        if self.has(name) {
            return self.given_text(name, mistakes).map(|text| text.value);
        }
        self.default_text(name)
    }

    /// One of the words of the key, or its default; words in `later` get an answer of their own.
    pub fn choice(&self, name: &str, later: &[&str], mistakes: &mut Vec<Mistake>) -> Option<String> {
        let Some(given) = self.given_text(name, mistakes) else {
            return if self.has(name) { None } else { self.default_text(name) };
        };
        let Some(Kind::Choice(words)) = self.key(name).map(|key| key.kind) else { return Some(given.value) };
        if words.contains(&given.value.as_str()) {
            return Some(given.value);
        }
        let (text, _) = self.entry(name)?;
        let quoted = words.iter().map(|word| format!("\"{word}\"")).collect::<Vec<_>>().join(", ");
        mistakes.push(if later.contains(&given.value.as_str()) {
            let message = format!("{name} \"{}\" is not supported yet", given.value);
            Mistake::at(text, given.span, "unsupported", message).hint(format!("{name} can be {quoted}"))
        } else {
            let message = format!("\"{}\" is not a {name}", given.value);
            let hint = did_you_mean(&given.value, words.iter().copied().chain(later.iter().copied()));
            Mistake::at(text, given.span, "bad_value", message)
                .hint(hint.unwrap_or_else(|| format!("{name} can be {quoted}")))
        });
        None
    }

    /// A duration, or its default.
    pub fn duration(&self, name: &str, mistakes: &mut Vec<Mistake>) -> Option<Duration> {
        self.parsed(name, parse_duration, mistakes)
    }

    /// A share, or its default.
    pub fn share(&self, name: &str, mistakes: &mut Vec<Mistake>) -> Option<f64> {
        self.parsed(name, parse_share, mistakes)
    }

    /// Address and port, or the default.
    pub fn address(&self, name: &str, mistakes: &mut Vec<Mistake>) -> Option<SocketAddr> {
        let read = |text: &str| {
            text.replace("localhost", "127.0.0.1")
                .parse()
                .map_err(|_| format!("`{text}` is not an address, write one like \"127.0.0.1:8315\""))
        };
        self.parsed(name, read, mistakes)
    }

    /// A secret, where one is given: all of it from the environment or a file.
    pub fn secret(&self, name: &str, mistakes: &mut Vec<Mistake>) -> Option<Template> {
        let given = self.given_text(name, mistakes)?;
        let (text, _) = self.entry(name)?;
        let hint = "put it in a file and write ${file:/path}, or in the environment and write ${env:NAME}";
        match Template::parse(given.value.clone()) {
            Ok(template) if given.value.starts_with("${") && given.value.ends_with('}') => Some(template),
            Ok(_) => {
                let message = format!("`{name}` does not belong in a file of the project");
                mistakes.push(Mistake::at(text, given.span, "literal_secret", message).hidden().hint(hint));
                None
            }
            Err(error) => {
                mistakes.push(Mistake::at(text, given.span, "bad_value", error.to_string()).hint(hint));
                None
            }
        }
    }

    /// An HTTP address that may name secrets, where one is given. A password in it does not belong in a file.
    pub fn http_address(&self, name: &str, mistakes: &mut Vec<Mistake>) -> Option<Template> {
        let given = self.given_text(name, mistakes)?;
        let (text, _) = self.entry(name)?;
        let mut wrong = |message: String, hint: &str| {
            mistakes.push(Mistake::at(text, given.span.clone(), "bad_value", message).hint(hint));
            None
        };
        let template = match Template::parse(given.value.clone()) {
            Ok(template) => template,
            Err(error) => return wrong(error.to_string(), "write ${env:NAME} or ${file:/path}"),
        };
        if !["http://", "https://", "${"].iter().any(|start| given.value.starts_with(start)) {
            return wrong(format!("`{name}` is no HTTP address"), "write https://host/path, or ${env:NAME}");
        }
        if template.literal_password().is_some() {
            let message = format!("`{name}` has a password in it, which does not belong in a file");
            mistakes.push(
                Mistake::at(text, given.span, "literal_secret", message)
                    .hidden()
                    .hint("put it in the environment and write ${env:NAME}, or in a file and write ${file:/path}"),
            );
            return None;
        }
        Some(template)
    }

    /// A number of bytes, as text or as a number, or the default; 0 after a mistake.
    pub fn bytes(&self, name: &str, mistakes: &mut Vec<Mistake>) -> u64 {
        if let Some((_, Entry { node: Node { value: Value::Integer(number), .. }, .. })) = self.entry(name)
            && *number >= 0
        {
            return *number as u64;
        }
        self.parsed(name, parse_bytes, mistakes).unwrap_or(0)
    }

    /// A whole number of at least 1, or the default.
    pub fn positive(&self, name: &str, mistakes: &mut Vec<Mistake>) -> u64 {
        self.at_least(1, name, mistakes)
    }

    /// A whole number, or the default.
    pub fn whole(&self, name: &str, mistakes: &mut Vec<Mistake>) -> u64 {
        self.at_least(0, name, mistakes)
    }

    fn at_least(&self, least: u64, name: &str, mistakes: &mut Vec<Mistake>) -> u64 {
        let Some((text, entry)) = self.entry(name) else {
            return self.default_source(name).and_then(|text| text.replace('_', "").parse().ok()).unwrap_or(least);
        };
        mistakes.push(match &entry.node.value {
            Value::Integer(number) => match u64::try_from(*number) {
                Ok(number) if number >= least => return number,
                _ => {
                    let message = format!("`{name}` must be at least {least}");
                    Mistake::at(text, entry.node.span.clone(), "bad_value", message)
                }
            },
            other => wrong_type(text, &entry.node, name, "an integer", other),
        });
        least
    }

    /// A whole number of at least 1, where one is given.
    pub fn positive_if_given(&self, name: &str, mistakes: &mut Vec<Mistake>) -> Option<u64> {
        self.entry(name).map(|_| self.positive(name, mistakes))
    }

    /// A boolean, or its default.
    pub fn boolean(&self, name: &str, mistakes: &mut Vec<Mistake>) -> bool {
        match self.entry(name) {
            Some((_, Entry { node: Node { value: Value::Boolean(value), .. }, .. })) => *value,
            Some((text, entry)) => {
                mistakes.push(wrong_type(text, &entry.node, name, "true or false", &entry.node.value));
                false
            }
            None => self.default_source(name) == Some("true"),
        }
    }

    /// A list of strings; a single string counts as a list of one. Empty when not given.
    pub fn text_list(&self, name: &str, mistakes: &mut Vec<Mistake>) -> Vec<Spanned<String>> {
        let Some((text, entry)) = self.entry(name) else { return Vec::new() };
        let nodes: Vec<&Node> = match &entry.node.value {
            Value::List(nodes) => nodes.iter().collect(),
            _ => vec![&entry.node],
        };
        let mut list = Vec::new();
        for node in nodes {
            match &node.value {
                Value::Text(value) => list.push(Spanned { value: value.clone(), span: node.span.clone() }),
                other => mistakes.push(wrong_type(text, node, name, "a list of strings", other)),
            }
        }
        list
    }

    /// A sub-table that is given.
    pub fn table(&self, name: &str, mistakes: &mut Vec<Mistake>) -> Option<Layer<'a>> {
        let (text, entry) = self.entry(name)?;
        match &entry.node.value {
            Value::Table(table) => Some(Layer { text, table }),
            other => {
                mistakes.push(wrong_type(text, &entry.node, name, "a table", other));
                None
            }
        }
    }

    fn parsed<T>(
        &self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, String>,
        mistakes: &mut Vec<Mistake>,
    ) -> Option<T> {
        if !self.has(name) {
            // The defaults are ours; a test reads them all.
            return self.default_text(name).and_then(|text| parse(&text).ok());
        }
        let given = self.given_text(name, mistakes)?;
        match parse(&given.value) {
            Ok(value) => Some(value),
            Err(message) => {
                let (text, _) = self.entry(name)?;
                mistakes.push(Mistake::at(text, given.span, "bad_value", message));
                None
            }
        }
    }

    fn key(&self, name: &str) -> Option<&'static Key> {
        self.section.keys.iter().find(|key| key.name == name)
    }

    fn default_source(&self, name: &str) -> Option<&'static str> {
        self.key(name)?.default
    }

    fn default_text(&self, name: &str) -> Option<String> {
        let source = self.default_source(name)?;
        Some(source.trim_matches(if source.starts_with('\'') { '\'' } else { '"' }).to_string())
    }
}

/// "`name` should be X, and is Y".
pub(crate) fn wrong_type(text: &FileText, node: &Node, name: &str, wanted: &str, found: &Value) -> Mistake {
    let message = format!("`{name}` should be {wanted}, and is {}", found.describe());
    Mistake::at(text, node.span.clone(), "wrong_type", message)
}

/// Byte offset in the file of the first character of a TOML string's contents, where contents and text agree.
pub(crate) fn inside_string(text: &FileText, node_span: &Range<usize>, value: &str) -> Option<usize> {
    let written = text.text().get(node_span.clone())?;
    let at = written.find(value.lines().next().filter(|line| !line.is_empty())?)?;
    let exact = written[at..].starts_with(value);
    (exact || !value.contains('\n')).then_some(node_span.start + at)
}
