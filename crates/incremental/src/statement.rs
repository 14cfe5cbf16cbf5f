//! The text of a model: one SELECT, each output column with a name.

use crate::errors::{PlanError, PlanErrorKind};
use datafusion::common::{DataFusionError, Location, Span};
use datafusion::sql::parser::{DFParser, DFParserBuilder, Statement as DataFusionStatement};
use datafusion::sql::sqlparser::ast::{
    Expr, Query, SelectItem, SetExpr, SetOperator, SetQuantifier, Spanned, Statement,
};

/// The text's only statement, which is a query.
pub(crate) fn single_query(sql: &str) -> Result<Box<Query>, DataFusionError> {
    let mut statements = DFParser::parse_sql(sql)?;
    let refused = |message: &str| {
        Err(DataFusionError::SQL(
            Box::new(datafusion::sql::sqlparser::parser::ParserError::ParserError(message.to_owned())),
            None,
        ))
    };
    match (statements.pop_front(), statements.is_empty()) {
        (None, _) => refused("there is no statement: a model is a single SELECT"),
        (Some(_), false) => refused("there are several statements: a model is a single SELECT"),
        (Some(DataFusionStatement::Statement(statement)), true) => match *statement {
            Statement::Query(query) => Ok(query),
            _ => refused("a model is a single SELECT, and this is another kind of statement"),
        },
        _ => refused("a model is a single SELECT, and this is another kind of statement"),
    }
}

/// The text as one expression.
pub(crate) fn expression(sql: &str) -> Result<Expr, DataFusionError> {
    Ok(DFParserBuilder::new(sql).build()?.parse_into_expr()?.expr)
}

/// Refuses what the syntax alone tells: columns without names, set operations that DataFusion does not do right.
pub(crate) fn check(query: &Query) -> Result<(), PlanError> {
    let mut mistakes = Vec::new();
    columns_have_names(&query.body, &mut mistakes);
    set_operations(&query.body, &mut mistakes);
    let mut mistakes = mistakes.into_iter();
    match mistakes.next() {
        None => Ok(()),
        Some(mut first) => {
            first.others = mistakes.collect();
            Err(first)
        }
    }
}

fn columns_have_names(body: &SetExpr, mistakes: &mut Vec<PlanError>) {
    match body {
        SetExpr::Query(query) => columns_have_names(&query.body, mistakes),
        SetExpr::SetOperation { left, .. } => columns_have_names(left, mistakes),
        SetExpr::Select(select) => {
            for item in &select.projection {
                if let SelectItem::UnnamedExpr(expression) = item
                    && !matches!(expression, Expr::Identifier(_) | Expr::CompoundIdentifier(_))
                {
                    let mistake = PlanError::new(PlanErrorKind::Type, format!("column `{expression}` has no name"))
                        .with_hint(format!("name it: `{expression} AS ...`"));
                    mistakes.push(mistake.at(Span::try_from_sqlparser_span(expression.span())));
                }
            }
        }
        _ => {}
    }
}

fn set_operations(body: &SetExpr, mistakes: &mut Vec<PlanError>) {
    match body {
        SetExpr::Query(query) => set_operations(&query.body, mistakes),
        SetExpr::SetOperation { op, set_quantifier, left, right } => {
            let all = matches!(set_quantifier, SetQuantifier::All | SetQuantifier::AllByName);
            if all && matches!(op, SetOperator::Except | SetOperator::Intersect | SetOperator::Minus) {
                let mistake = PlanError::new(PlanErrorKind::Unsupported, format!("{op} ALL is not supported"))
                    .with_hint(format!("use {op}, or count rows with GROUP BY on both sides and join the counts"));
                mistakes.push(mistake.at(Span::try_from_sqlparser_span(body.span())));
            }
            set_operations(left, mistakes);
            set_operations(right, mistakes);
        }
        _ => {}
    }
}

/// Where a function is called in the text.
pub(crate) fn find_call(sql: &str, function: &str) -> Option<Span> {
    find_word(sql, function)
}

/// Where a word first stands in the text, outside of comments and strings.
pub(crate) fn find_word(sql: &str, word: &str) -> Option<Span> {
    let word = word.to_lowercase();
    let mut in_string = false;
    for (number, line) in sql.lines().enumerate() {
        let characters: Vec<char> = line.chars().collect();
        let mut index = 0;
        while index < characters.len() {
            if characters[index] == '\'' {
                in_string = !in_string;
            } else if !in_string && characters[index..].starts_with(&['-', '-']) {
                break;
            } else if !in_string && is_word_at(&characters, index, &word) {
                let place = |column: usize| Location { line: number as u64 + 1, column: column as u64 + 1 };
                return Some(Span::new(place(index), place(index + word.chars().count())));
            }
            index += 1;
        }
    }
    None
}

fn is_word_at(characters: &[char], index: usize, word: &str) -> bool {
    let part = |c: &char| c.is_alphanumeric() || *c == '_';
    let length = word.chars().count();
    let Some(candidate) = characters.get(index..index + length) else {
        return false;
    };
    let starts = index == 0 || !part(&characters[index - 1]);
    let ends = characters.get(index + length).is_none_or(|c| !part(c));
    starts && ends && candidate.iter().flat_map(|c| c.to_lowercase()).eq(word.chars())
}
