//! SQL in the project's files: expressions in TOML strings, relations named in FROM, errors of the planner as mistakes.

use std::collections::BTreeSet;
use std::ops::{ControlFlow, Range};

use arrow::datatypes::{DataType, SchemaRef};
use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::resolve::resolve_table_references;
use datafusion::sql::sqlparser::ast::{Statement as SqlStatement, visit_relations};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::Location;
use weir_incremental::{PlanError, PlanErrorKind, Planner};

use crate::fields::{Spanned, inside_string};
use crate::mistake::{FileText, Mistake};

/// A relation named in FROM, and where.
#[derive(Debug, Clone)]
pub(crate) struct Reference {
    pub name: String,
    pub span: Range<usize>,
}

/// The relations that the SELECT of a file reads, each mention once, in order; common table expressions left out.
/// None when it cannot be parsed: the planner tells why.
pub(crate) fn references(text: &FileText) -> Option<Vec<Reference>> {
    let statements = DFParser::parse_sql_with_dialect(text.text(), &GenericDialect {}).ok()?;
    let [statement] = statements.iter().collect::<Vec<_>>()[..] else { return None };
    let Statement::Statement(sql) = statement else { return None };
    if !matches!(**sql, SqlStatement::Query(_)) {
        return None;
    }
    let (outside, _) = resolve_table_references(statement, true).ok()?;
    let outside: BTreeSet<String> = outside.iter().map(|reference| reference.to_string().to_lowercase()).collect();
    let mut mentions: Vec<Reference> = Vec::new();
    let _: ControlFlow<()> = visit_relations(sql.as_ref(), |relation| {
        let parts: Vec<String> = relation
            .0
            .iter()
            .filter_map(|part| part.as_ident())
            .map(|ident| if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() })
            .collect();
        let name = parts.join(".");
        let first = relation.0.first().and_then(|part| part.as_ident()).map(|ident| ident.span.start);
        let last = relation.0.last().and_then(|part| part.as_ident()).map(|ident| ident.span.end);
        if outside.contains(&name.to_lowercase())
            && let (Some(start), Some(end)) = (first, last)
        {
            let span = offset(text, start)..offset(text, end);
            mentions.push(Reference { name, span });
        }
        ControlFlow::Continue(())
    });
    mentions.sort_by_key(|mention| mention.span.start);
    Some(mentions)
}

/// Whether the SQL of a file is comments and blanks alone.
pub(crate) fn is_empty(text: &FileText) -> bool {
    matches!(DFParser::parse_sql_with_dialect(text.text(), &GenericDialect {}), Ok(statements) if statements.is_empty())
}

fn offset(text: &FileText, location: Location) -> usize {
    text.offset(location.line as u32, location.column as u32)
}

/// The mistakes of a SQL text that stands in `text` from byte `start` on; without a place they are at `fallback`.
pub(crate) fn plan_mistakes(
    text: &FileText,
    start: Option<usize>,
    sql: &str,
    fallback: Range<usize>,
    error: &PlanError,
) -> Vec<Mistake> {
    let inner = FileText::new("", sql);
    error
        .all()
        .map(|error| {
            let place = match (start, error.line, error.column) {
                (Some(start), Some(line), Some(column)) => {
                    let from = start + inner.offset(line, column);
                    let length = error.length.unwrap_or(1).max(1);
                    from..start + inner.offset(line, column + length)
                }
                _ => fallback.clone(),
            };
            Mistake::at(text, place, code(error.kind), error.message.clone()).hint_maybe(error.hint.clone())
        })
        .collect()
}

fn code(kind: PlanErrorKind) -> &'static str {
    match kind {
        PlanErrorKind::Syntax => "sql_syntax",
        PlanErrorKind::UnknownColumn => "unknown_column",
        PlanErrorKind::UnknownRelation => "unknown_relation",
        PlanErrorKind::UnknownFunction => "unknown_function",
        PlanErrorKind::Type => "type_mismatch",
        PlanErrorKind::Unsupported => "not_incremental",
        PlanErrorKind::NonDeterministic => "not_deterministic",
    }
}

/// Checks an expression in a TOML string over `schema` and returns its type.
pub(crate) fn check_expression(
    planner: &Planner,
    text: &FileText,
    expression: &Spanned<String>,
    schema: &SchemaRef,
    mistakes: &mut Vec<Mistake>,
) -> Option<DataType> {
    let sql = expression.value.as_str();
    let planned = match planner.expression(schema, sql) {
        Ok(planned) => planned,
        Err(error) => {
            let start = inside_string(text, &expression.span, sql);
            mistakes.extend(plan_mistakes(text, start, sql, expression.span.clone(), &error));
            return None;
        }
    };
    match planned.data_type(schema) {
        Ok(data_type) => Some(data_type),
        Err(error) => {
            let message = error.strip_backtrace();
            mistakes.push(Mistake::at(text, expression.span.clone(), "type_mismatch", message));
            None
        }
    }
}

/// [`check_expression`] of a condition: it must be true or false.
pub(crate) fn check_condition(
    planner: &Planner,
    text: &FileText,
    expression: &Spanned<String>,
    schema: &SchemaRef,
    mistakes: &mut Vec<Mistake>,
) {
    let Some(found) = check_expression(planner, text, expression, schema, mistakes) else { return };
    if !matches!(found, DataType::Boolean | DataType::Null) {
        let message = format!("a condition is BOOLEAN, this is {}", weir_schemas::sql_type_name(&found));
        mistakes.push(Mistake::at(text, expression.span.clone(), "type_mismatch", message));
    }
}

/// The type a column of such values has in a relation: text is Utf8, nothing is unsigned, no dictionaries.
/// None for types that the lake cannot keep.
pub(crate) fn relation_type(data_type: &DataType) -> Option<DataType> {
    use arrow::datatypes::{Field, TimeUnit};
    use std::sync::Arc;
    let inner = |field: &Arc<Field>| -> Option<Arc<Field>> {
        let data_type = relation_type(field.data_type())?;
        Some(Arc::new(Field::new(field.name(), data_type, field.is_nullable())))
    };
    Some(match data_type {
        DataType::Utf8View | DataType::LargeUtf8 | DataType::Null => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary | DataType::FixedSizeBinary(_) => DataType::Binary,
        DataType::UInt8 => DataType::Int16,
        DataType::UInt16 => DataType::Int32,
        DataType::UInt32 | DataType::UInt64 => DataType::Int64,
        DataType::Float16 => DataType::Float32,
        DataType::Date64 => DataType::Date32,
        DataType::Timestamp(_, zone) => DataType::Timestamp(TimeUnit::Microsecond, zone.clone()),
        DataType::Dictionary(_, value) => relation_type(value)?,
        DataType::LargeList(item) | DataType::FixedSizeList(item, _) | DataType::List(item) => {
            DataType::List(inner(item)?)
        }
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(inner).collect::<Option<Vec<_>>>()?.into()),
        DataType::Map(entries, sorted) => DataType::Map(inner(entries)?, *sorted),
        DataType::Boolean
        | DataType::Int8
        | DataType::Int16
        | DataType::Int32
        | DataType::Int64
        | DataType::Float32
        | DataType::Float64
        | DataType::Decimal128(..)
        | DataType::Utf8
        | DataType::Binary
        | DataType::Date32 => data_type.clone(),
        _ => return None,
    })
}
