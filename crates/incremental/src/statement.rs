//! The text of a model: one SELECT, each output column with a name.

use crate::canonical::as_of::MARKER;
use crate::errors::{PlanError, PlanErrorKind};
use datafusion::common::{DataFusionError, Location, Span};
use datafusion::sql::parser::{DFParserBuilder, Statement as DataFusionStatement};
use datafusion::sql::sqlparser::ast::{
    BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, Join,
    JoinConstraint, JoinOperator, ObjectName, Query, Select, SelectItem, SetExpr, Spanned, Statement, TableFactor,
    VisitMut, VisitorMut,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::keywords::Keyword;
use datafusion::sql::sqlparser::parser::ParserError;
use datafusion::sql::sqlparser::tokenizer::{Token, TokenWithSpan, Tokenizer};
use std::ops::ControlFlow;

/// The text's only statement, which is a query.
pub(crate) fn single_query(sql: &str) -> Result<Box<Query>, DataFusionError> {
    let mut tokens = Tokenizer::new(&GenericDialect {}, sql).tokenize_with_location().map_err(ParserError::from)?;
    left_as_of_joins(&mut tokens);
    let mut statements = DFParserBuilder::new(tokens).build()?.parse_statements()?;
    let refused =
        |message: &str| Err(DataFusionError::SQL(Box::new(ParserError::ParserError(message.to_owned())), None));
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

/// Refuses what the syntax alone tells: columns without names.
pub(crate) fn check(query: &Query) -> Result<(), PlanError> {
    let mut mistakes = Vec::new();
    columns_have_names(&query.body, &mut mistakes);
    let mut mistakes = mistakes.into_iter();
    match mistakes.next() {
        None => Ok(()),
        Some(mut first) => {
            first.others = mistakes.collect();
            Err(first)
        }
    }
}

/// The parser takes `ASOF JOIN` only, and before it a word GLOBAL that means nothing to us: `ASOF LEFT JOIN` is passed as
/// `GLOBAL ASOF JOIN`.
fn left_as_of_joins(tokens: &mut [TokenWithSpan]) {
    let words: Vec<usize> =
        (0..tokens.len()).filter(|index| !matches!(tokens[*index].token, Token::Whitespace(_))).collect();
    let is = |token: &TokenWithSpan, keyword: Keyword| matches!(&token.token, Token::Word(w) if w.keyword == keyword);
    for three in words.windows(3) {
        let [first, second, third] = [three[0], three[1], three[2]];
        let join = is(&tokens[first], Keyword::ASOF) && is(&tokens[third], Keyword::JOIN);
        if join && is(&tokens[second], Keyword::LEFT) {
            let as_of = std::mem::replace(&mut tokens[first].token, Token::make_keyword("GLOBAL"));
            tokens[second].token = as_of;
        }
    }
}

/// Writes as-of joins as plain joins whose condition has a mark, which DataFusion plans; the mark is found again in the
/// plan.
pub(crate) fn mark_as_of_joins(query: &mut Query) -> Result<(), PlanError> {
    match query.visit(&mut AsOfJoins) {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(mistake) => Err(*mistake),
    }
}

struct AsOfJoins;

impl VisitorMut for AsOfJoins {
    type Break = Box<PlanError>;

    fn pre_visit_select(&mut self, select: &mut Select) -> ControlFlow<Self::Break> {
        select.from.iter_mut().flat_map(|from| &mut from.joins).try_for_each(mark)
    }

    fn pre_visit_table_factor(&mut self, factor: &mut TableFactor) -> ControlFlow<Self::Break> {
        match factor {
            TableFactor::NestedJoin { table_with_joins, .. } => table_with_joins.joins.iter_mut().try_for_each(mark),
            _ => ControlFlow::Continue(()),
        }
    }
}

fn mark(join: &mut Join) -> ControlFlow<Box<PlanError>> {
    let JoinOperator::AsOf { match_condition, constraint } = &join.join_operator else {
        return ControlFlow::Continue(());
    };
    let argument = FunctionArg::Unnamed(FunctionArgExpr::Expr(match_condition.clone()));
    let marked = Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(MARKER)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList {
            duplicate_treatment: None,
            args: vec![argument],
            clauses: Vec::new(),
        }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    });
    let condition = match constraint {
        JoinConstraint::None => marked,
        JoinConstraint::On(on) => Expr::BinaryOp {
            left: Box::new(Expr::Nested(Box::new(on.clone()))),
            op: BinaryOperator::And,
            right: Box::new(marked),
        },
        JoinConstraint::Using(_) | JoinConstraint::Natural => {
            let mistake = PlanError::new(PlanErrorKind::Unsupported, "ASOF JOIN takes ON, not USING")
                .with_hint("write the equalities out: `ON a.k = b.k`");
            return ControlFlow::Break(Box::new(mistake.at(Span::try_from_sqlparser_span(match_condition.span()))));
        }
    };
    let on = JoinConstraint::On(condition);
    join.join_operator = if join.global { JoinOperator::LeftOuter(on) } else { JoinOperator::Inner(on) };
    join.global = false;
    ControlFlow::Continue(())
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
