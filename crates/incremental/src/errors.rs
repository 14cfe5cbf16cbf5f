//! Mistakes in a model's SQL, told with place and way out.

use datafusion::common::{Column, DataFusionError, Diagnostic, SchemaError, Span};
use std::fmt;

/// What sort of mistake a [`PlanError`] is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PlanErrorKind {
    /// The text is not one SELECT statement.
    Syntax,
    /// A column that is not there, or that several relations have.
    UnknownColumn,
    /// A relation that is not there.
    UnknownRelation,
    /// A function that is not there.
    UnknownFunction,
    /// An expression whose types do not fit, or a query that otherwise makes no sense.
    Type,
    /// Sound SQL that cannot be kept up to date incrementally.
    Unsupported,
    /// A use of the clock or of chance that would make the result depend on when it is computed.
    NonDeterministic,
}

/// A mistake in one statement, or several: the further ones are in [`PlanError::others`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct PlanError {
    /// What is wrong, in one sentence.
    pub message: String,
    /// Line in the SQL text, from 1.
    pub line: Option<u32>,
    /// Column in that line, from 1, in characters.
    pub column: Option<u32>,
    /// How many characters it spans in that line; at least 1.
    pub length: Option<u32>,
    /// What to do about it.
    pub hint: Option<String>,
    /// What sort of mistake it is.
    pub kind: PlanErrorKind,
    /// More mistakes of the same statement.
    pub others: Vec<PlanError>,
}

impl PlanError {
    /// A mistake without a place or a hint.
    pub fn new(kind: PlanErrorKind, message: impl Into<String>) -> Self {
        Self { message: message.into(), line: None, column: None, length: None, hint: None, kind, others: Vec::new() }
    }

    /// The same with a hint.
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same at a place in the text.
    pub(crate) fn at(mut self, span: Option<Span>) -> Self {
        if let Some(span) = span {
            self.line = Some(span.start.line as u32);
            self.column = Some(span.start.column as u32);
            let one_line = span.end.line == span.start.line && span.end.column > span.start.column;
            self.length = Some(if one_line { (span.end.column - span.start.column) as u32 } else { 1 });
        }
        self
    }

    /// This mistake and the further ones.
    pub fn all(&self) -> impl Iterator<Item = &PlanError> {
        std::iter::once(self).chain(&self.others)
    }
}

impl fmt::Display for PlanError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let (Some(line), Some(column)) = (self.line, self.column) {
            write!(f, "{line}:{column}: ")?;
        }
        f.write_str(&self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// What names a statement could have meant.
pub(crate) struct Names<'a> {
    /// Relations.
    pub relations: Vec<&'a str>,
    /// Functions of all kinds.
    pub functions: Vec<String>,
}

/// Turns what DataFusion says of a statement into mistakes with places and hints.
pub(crate) fn translate(error: &DataFusionError, names: &Names<'_>) -> PlanError {
    let mut mistakes: Vec<PlanError> = Vec::new();
    for error in error.iter() {
        let mistake = translate_one(error, names);
        if !mistakes.contains(&mistake) {
            mistakes.push(mistake);
        }
    }
    let mut mistakes = mistakes.into_iter();
    // An error iterates over itself at least.
    let mut first = mistakes.next().unwrap_or_else(|| translate_one(error, names));
    first.others = mistakes.collect();
    first
}

fn translate_one(error: &DataFusionError, names: &Names<'_>) -> PlanError {
    let diagnostic = error.diagnostic();
    let span = diagnostic.and_then(|d| d.span);
    let root = error.find_root();
    if let DataFusionError::SchemaError(schema_error, _) = root {
        return from_schema_error(schema_error).at(span);
    }
    if let DataFusionError::SQL(parser_error, _) = root {
        return from_parser_message(&parser_error.to_string());
    }
    let message = clean(&root.message());
    if let Some(name) = between(&message, "table '", "' not found").or_else(|| between(&message, "relation '", "'")) {
        let mistake = PlanError::new(PlanErrorKind::UnknownRelation, format!("there is no relation `{name}`")).at(span);
        return match nearest(name, names.relations.iter().copied()) {
            Some(near) => mistake.with_hint(format!("did you mean `{near}`?")),
            None => mistake.with_hint("a relation is a source or a model of the project, named after its file"),
        };
    }
    if let Some(name) = between(&message, "Invalid function '", "'") {
        let mistake = PlanError::new(PlanErrorKind::UnknownFunction, format!("there is no function `{name}`")).at(span);
        return match nearest(name, names.functions.iter().map(String::as_str)) {
            Some(near) => mistake.with_hint(format!("did you mean `{near}`?")),
            None => mistake,
        };
    }
    let kind = match root {
        DataFusionError::NotImplemented(_) => PlanErrorKind::Unsupported,
        _ => PlanErrorKind::Type,
    };
    let mut mistake = PlanError::new(kind, message).at(span);
    mistake.hint = diagnostic.and_then(hint_of);
    mistake
}

fn hint_of(diagnostic: &Diagnostic) -> Option<String> {
    let notes = diagnostic.notes.iter().map(|note| &note.message);
    let helps = diagnostic.helps.iter().map(|help| &help.message);
    helps.chain(notes).next().cloned()
}

fn from_schema_error(error: &SchemaError) -> PlanError {
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let mistake =
                PlanError::new(PlanErrorKind::UnknownColumn, format!("there is no column `{}`", written(field)));
            let same_relation: Vec<&Column> = valid_fields
                .iter()
                .filter(|valid| field.relation.is_none() || valid.relation == field.relation)
                .collect();
            let candidates = if same_relation.is_empty() { valid_fields.iter().collect() } else { same_relation };
            if let Some(near) = nearest(&field.name, candidates.iter().map(|c| c.name.as_str())) {
                return mistake.with_hint(format!("did you mean `{near}`?"));
            }
            let mut known: Vec<&str> = candidates.iter().map(|c| c.name.as_str()).collect();
            known.dedup();
            let shown = known.len().min(12);
            if shown == 0 {
                return mistake;
            }
            let more = if known.len() > shown { ", ..." } else { "" };
            mistake.with_hint(format!("there are: {}{more}", known[..shown].join(", ")))
        }
        SchemaError::AmbiguousReference { field } => {
            PlanError::new(PlanErrorKind::UnknownColumn, format!("column `{}` is ambiguous", field.name))
                .with_hint(format!("say which relation it is of: `relation.{}`", field.name))
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            PlanError::new(PlanErrorKind::Type, format!("two columns are named `{name}`"))
                .with_hint(format!("rename one: `... AS {name}_2`"))
        }
    }
}

/// sqlparser puts the place at the end of its message: `... at Line: 1, Column: 8`.
fn from_parser_message(message: &str) -> PlanError {
    let message = message.trim_start_matches("sql parser error: ");
    let (text, place) = match message.rfind(" at Line: ") {
        Some(at) => (&message[..at], Some(&message[at + " at Line: ".len()..])),
        None => (message, None),
    };
    let mut mistake = PlanError::new(PlanErrorKind::Syntax, text);
    if let Some((line, column)) = place.and_then(|p| p.split_once(", Column: ")) {
        mistake.line = line.trim().parse().ok();
        mistake.column = column.trim().parse().ok();
        mistake.length = mistake.column.map(|_| 1);
    }
    mistake
}

fn written(column: &Column) -> String {
    match &column.relation {
        Some(relation) => format!("{relation}.{}", column.name),
        None => column.name.clone(),
    }
}

/// DataFusion's words without its prefixes.
fn clean(message: &str) -> String {
    let message = message.split("\n\nbacktrace").next().unwrap_or(message);
    let message = message.trim_start_matches("Error during planning: ").trim_start_matches("SQL error: ");
    message.lines().next().unwrap_or(message).to_owned()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let start = text.find(before)? + before.len();
    let end = text[start..].find(after)? + start;
    Some(&text[start..end])
}

/// The candidate most like `name`, when one is like it.
pub(crate) fn nearest<'a>(name: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let name = name.to_lowercase();
    candidates
        .map(|candidate| (strsim::damerau_levenshtein(&name, &candidate.to_lowercase()), candidate))
        .filter(|(distance, candidate)| *distance * 3 <= candidate.len().max(name.len()))
        .min_by(|a, b| a.0.cmp(&b.0).then_with(|| a.1.cmp(b.1)))
        .map(|(_, candidate)| candidate)
}
