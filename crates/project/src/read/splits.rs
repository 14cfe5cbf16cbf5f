//! `splits/**/*.sql`: a SELECT with a column `output`, and a relation for each of its values.

use std::collections::BTreeSet;
use std::sync::Arc;

use datafusion::sql::parser::{DFParser, Statement};
use datafusion::sql::sqlparser::ast::{
    Expr, SelectItem, SetExpr, Statement as SqlStatement, Value as SqlValue, ValueWithSpan,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;

use crate::check::CHECKS_SCHEMA;
use crate::fields::{Fields, Layer};
use crate::keys;
use crate::mistake::{FileText, Mistake};
use crate::split::Split;

use super::folder::{NamedFile, is_identifier};
use super::models::settings_of;

/// The column that says where a row goes.
const OUTPUT: &str = "output";
/// The relation of rows with a value that was not foreseen.
const REST: &str = "rest";

/// What splits come to.
#[derive(Default)]
pub(crate) struct Splits {
    /// Which relations share the rows of which.
    pub splits: Vec<Split>,
    /// The models of the outputs.
    pub models: Vec<NamedFile>,
    /// Checks that nothing is in the rest.
    pub checks: Vec<NamedFile>,
}

/// Reads which outputs the splits have; the splits themselves are read as models.
pub(crate) fn read_splits(files: &[NamedFile], mistakes: &mut Vec<Mistake>) -> Splits {
    let mut found = Splits::default();
    for file in files {
        let settings = settings_of(&file.text, &mut Vec::new());
        let fields = Fields::new(&keys::SPLIT, "", vec![Layer { text: &file.text, table: &settings }]);
        let given = fields.text_list("outputs", mistakes);
        let key: Vec<String> = fields.text_list("key", &mut Vec::new()).into_iter().map(|key| key.value).collect();
        let (outputs, complete) = match given.is_empty() {
            false => (given.iter().map(|output| output.value.clone()).collect(), false),
            true => match outputs(&file.text) {
                Some(outputs) => outputs,
                None => {
                    let message = "which values `output` has cannot be read off the SELECT";
                    mistakes.push(
                        Mistake::of_file(file.text.file(), "missing_key", message)
                            .hint("end it in `CASE WHEN ... THEN 'card' ELSE 'other' END AS output`, or name them: `-- weir: outputs = [\"card\", \"other\"]`"),
                    );
                    continue;
                }
            },
        };
        if let Some(output) = outputs.iter().find(|output| !is_identifier(output) || *output == REST) {
            let message = format!("the output \"{output}\" cannot be part of a relation's name");
            mistakes.push(
                Mistake::of_file(file.text.file(), "bad_name", message)
                    .hint(format!("use small letters, digits and `_`, and not `{REST}`")),
            );
            continue;
        }
        let name = &file.name;
        let setting = match key.is_empty() {
            true => String::new(),
            false => format!("-- weir: key = {}\n", list(&key)),
        };
        let made =
            |name: String, sql: String| NamedFile { name, text: FileText::new(file.text.file(), sql), made: true };
        let mut relations = Vec::new();
        for output in &outputs {
            relations.push(format!("{name}_{output}"));
            let sql = format!("{setting}SELECT * EXCEPT ({OUTPUT}) FROM {name} WHERE {OUTPUT} = '{output}'\n");
            found.models.push(made(format!("{name}_{output}"), sql));
        }
        if !complete {
            let foreseen: Vec<String> = outputs.iter().map(|output| format!("'{output}'")).collect();
            let rest = format!("{name}_{REST}");
            let foreseen = foreseen.join(", ");
            let sql = format!("{setting}SELECT * FROM {name} WHERE {OUTPUT} IS NULL OR {OUTPUT} NOT IN ({foreseen})\n");
            found.models.push(made(rest.clone(), sql));
            let message = format!("{name}: output {{{OUTPUT}}} has no relation");
            let sql = format!("-- weir: message = \"{message}\"\nSELECT * FROM {rest}\n");
            found.checks.push(made(format!("{CHECKS_SCHEMA}.{}", rest.replace('.', "_")), sql));
            relations.push(rest);
        }
        found
            .splits
            .push(Split { name: Arc::from(name.as_str()), outputs: relations.into_iter().map(Arc::from).collect() });
    }
    found
}

fn list(texts: &[String]) -> String {
    let quoted: Vec<String> = texts.iter().map(|text| format!("{text:?}")).collect();
    format!("[{}]", quoted.join(", "))
}

/// The values that the column `output` can have, and whether it has always one of them; None when that cannot be seen.
fn outputs(text: &FileText) -> Option<(Vec<String>, bool)> {
    let statements = DFParser::parse_sql_with_dialect(text.text(), &GenericDialect {}).ok()?;
    let Some(Statement::Statement(statement)) = statements.front() else { return None };
    let SqlStatement::Query(query) = statement.as_ref() else { return None };
    let (mut values, mut complete) = (BTreeSet::new(), true);
    of_body(&query.body, &mut values, &mut complete)?;
    Some((values.into_iter().collect(), complete))
}

fn of_body(body: &SetExpr, values: &mut BTreeSet<String>, complete: &mut bool) -> Option<()> {
    match body {
        SetExpr::SetOperation { left, right, .. } => {
            of_body(left, values, complete)?;
            of_body(right, values, complete)
        }
        SetExpr::Query(query) => of_body(&query.body, values, complete),
        SetExpr::Select(select) => {
            let output = select.projection.iter().find_map(|item| match item {
                SelectItem::ExprWithAlias { expr, alias } if alias.value.eq_ignore_ascii_case(OUTPUT) => Some(expr),
                _ => None,
            })?;
            of_expression(output, values, complete)
        }
        _ => None,
    }
}

fn of_expression(expression: &Expr, values: &mut BTreeSet<String>, complete: &mut bool) -> Option<()> {
    match expression {
        Expr::Nested(inner) => of_expression(inner, values, complete),
        Expr::Value(ValueWithSpan { value: SqlValue::SingleQuotedString(value), .. }) => {
            values.insert(value.clone());
            Some(())
        }
        Expr::Value(ValueWithSpan { value: SqlValue::Null, .. }) => {
            *complete = false;
            Some(())
        }
        Expr::Case { conditions, else_result, .. } => {
            for condition in conditions {
                of_expression(&condition.result, values, complete)?;
            }
            match else_result {
                Some(rest) => of_expression(rest, values, complete),
                None => {
                    *complete = false;
                    Some(())
                }
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_read_off_the_select() {
        let of = |sql: &str| outputs(&FileText::new("splits/a.sql", sql));
        let values = |values: &[&str]| values.iter().map(|value| value.to_string()).collect::<Vec<_>>();
        let sql = "SELECT id, CASE WHEN a THEN 'x' WHEN b THEN (CASE c WHEN 1 THEN 'y' ELSE 'x' END) ELSE 'z' END AS output FROM t";
        assert_eq!(of(sql), Some((values(&["x", "y", "z"]), true)));
        assert_eq!(of("SELECT id, CASE WHEN a THEN 'x' END AS output FROM t"), Some((values(&["x"]), false)));
        let union = "SELECT id, 'a' AS output FROM t UNION ALL SELECT id, 'b' AS output FROM u";
        assert_eq!(of(union), Some((values(&["a", "b"]), true)));
        assert_eq!(of("SELECT id, kind AS output FROM t"), None);
        assert_eq!(of("SELECT id FROM t"), None);
    }

    #[test]
    fn what_is_not_foreseen_goes_to_the_rest() {
        let sql = "-- weir: outputs = [\"card\"]\n-- weir: key = [\"id\"]\nSELECT id, kind AS output FROM t";
        let file = NamedFile { name: "route".into(), text: FileText::new("splits/route.sql", sql), made: false };
        let mut mistakes = Vec::new();
        let splits = read_splits(&[file], &mut mistakes);
        assert!(mistakes.is_empty());
        let names: Vec<&str> = splits.models.iter().map(|model| model.name.as_str()).collect();
        assert_eq!(names, ["route_card", "route_rest"]);
        assert_eq!(splits.checks[0].name, "checks.route_rest");
        assert_eq!(splits.splits[0].outputs.len(), 2);
    }
}
