//! Ready-made checks: one line beside a source or model, `unique id`, that becomes a SELECT that must return no rows.

use crate::check::CHECKS_SCHEMA;
use crate::document;
use crate::fields::{Fields, Layer, Spanned};
use crate::keys::FileKeys;
use crate::mistake::{FileText, Mistake};

use super::folder::{NamedFile, is_identifier};

/// Every form that a rule can take, for hints.
const FORMS: &str = "`not null a, b`; `unique a, b`; `accepted values a in (x, y)`; `references a in relation.b`; \
                     `freshness at within 1 hour`; `row count between 1 and 100`; `sum a equals relation.b`";

/// The rules of a file's `checks`, each as the file of the check that it stands for.
pub(crate) fn rules(
    file: &NamedFile,
    keys: &'static FileKeys,
    table: &document::Table,
    mistakes: &mut Vec<Mistake>,
) -> Vec<NamedFile> {
    let fields = Fields::new(keys, "", vec![Layer { text: &file.text, table }]);
    let mut checks: Vec<NamedFile> = Vec::new();
    for rule in fields.text_list("checks", mistakes) {
        match check(&file.name, &rule.value) {
            Some((name, sql)) if !checks.iter().any(|check| check.name == name) => {
                checks.push(NamedFile { name, text: FileText::new(file.text.file(), sql), made: true });
            }
            Some(_) => mistakes.push(mistake(&file.text, &rule, "is there twice", "take one of them out")),
            None => mistakes.push(mistake(&file.text, &rule, "is no check", &format!("checks are {FORMS}"))),
        }
    }
    checks
}

fn mistake(text: &FileText, rule: &Spanned<String>, what: &str, hint: &str) -> Mistake {
    Mistake::at(text, rule.span.clone(), "bad_value", format!("`{}` {what}", rule.value)).hint(hint)
}

/// The name and text of the check that a rule over a relation stands for.
fn check(relation: &str, rule: &str) -> Option<(String, String)> {
    let rule = rule.trim();
    let (kind, subject, select) = if let Some(columns) = rule.strip_prefix("not null ") {
        let columns = columns_of(columns)?;
        let null: Vec<String> = columns.iter().map(|column| format!("{column} IS NULL")).collect();
        ("not_null", columns.join("_"), format!("SELECT * FROM {relation} WHERE {}", null.join(" OR ")))
    } else if let Some(columns) = rule.strip_prefix("unique ") {
        let columns = columns_of(columns)?;
        let list = columns.join(", ");
        let sql = format!("SELECT {list}, count(*) AS rows FROM {relation} GROUP BY {list} HAVING count(*) > 1");
        ("unique", columns.join("_"), sql)
    } else if let Some(rest) = rule.strip_prefix("accepted values ") {
        let (column, values) = rest.split_once(" in ")?;
        let column = column_of(column)?;
        let values = values.trim().strip_prefix('(')?.strip_suffix(')')?;
        let values: Vec<String> = values.split(',').map(|value| literal(value.trim())).collect();
        (
            "accepted_values",
            column.to_owned(),
            format!("SELECT * FROM {relation} WHERE {column} NOT IN ({})", values.join(", ")),
        )
    } else if let Some(rest) = rule.strip_prefix("references ") {
        let (column, target) = rest.split_once(" in ")?;
        let column = column_of(column)?;
        let (other, key) = target_of(target)?;
        let sql = format!(
            "SELECT * FROM {relation} AS r WHERE r.{column} IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {other} AS o WHERE o.{key} = r.{column})"
        );
        ("references", column.to_owned(), sql)
    } else if let Some(rest) = rule.strip_prefix("freshness ") {
        let (column, within) = rest.split_once(" within ")?;
        let column = column_of(column)?;
        crate::quantity::parse_duration(within.trim()).ok()?;
        let sql = format!(
            "SELECT newest FROM (SELECT max({column}) AS newest FROM {relation}) AS n WHERE newest < now() - INTERVAL '{}'",
            within.trim()
        );
        ("freshness", column.to_owned(), sql)
    } else if let Some(rest) = rule.strip_prefix("row count between ") {
        let (least, most) = rest.split_once(" and ")?;
        let (least, most): (u64, u64) = (number(least)?, number(most)?);
        let sql = format!(
            "SELECT rows FROM (SELECT count(*) AS rows FROM {relation}) AS n WHERE rows NOT BETWEEN {least} AND {most}"
        );
        ("row_count", String::new(), sql)
    } else if let Some(rest) = rule.strip_prefix("sum ") {
        let (column, target) = rest.split_once(" equals ")?;
        let column = column_of(column)?;
        let (other, summed) = target_of(target)?;
        let sql = format!(
            "SELECT a.total AS total, b.total AS other FROM (SELECT sum({column}) AS total FROM {relation}) AS a \
             CROSS JOIN (SELECT sum({summed}) AS total FROM {other}) AS b WHERE a.total IS DISTINCT FROM b.total"
        );
        ("sum", column.to_owned(), sql)
    } else {
        return None;
    };
    let subject = if subject.is_empty() { subject } else { format!("_{subject}") };
    let name = format!("{CHECKS_SCHEMA}.{}_{kind}{subject}", relation.replace('.', "_"));
    // Braces of values must not be taken for columns.
    let message = format!("{relation}: {}", rule.replace(['{', '}', '"', '\\'], " "));
    Some((name, format!("-- weir: message = \"{message}\"\n{select}\n")))
}

fn columns_of(text: &str) -> Option<Vec<&str>> {
    text.split(',').map(column_of).collect()
}

fn column_of(text: &str) -> Option<&str> {
    Some(text.trim()).filter(|column| is_identifier(column))
}

/// `relation.column`, where the relation may be in a schema.
fn target_of(text: &str) -> Option<(&str, &str)> {
    let (relation, column) = text.trim().rsplit_once('.')?;
    (relation.split('.').all(is_identifier) && is_identifier(column)).then_some((relation, column))
}

fn number(text: &str) -> Option<u64> {
    text.trim().replace('_', "").parse().ok()
}

/// A number as it is, anything else as text.
fn literal(value: &str) -> String {
    match value.parse::<f64>() {
        Ok(_) => value.to_owned(),
        Err(_) => format!("'{}'", value.trim_matches('\'').replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use super::check;

    #[test]
    fn rules_name_their_checks_and_nonsense_is_none() {
        for (rule, name) in [
            ("not null id, amount", "checks.finance_orders_not_null_id_amount"),
            ("unique id", "checks.finance_orders_unique_id"),
            ("accepted values state in (open, 'paid', 3)", "checks.finance_orders_accepted_values_state"),
            ("references customer in customers.id", "checks.finance_orders_references_customer"),
            ("freshness at within 1 hour", "checks.finance_orders_freshness_at"),
            ("row count between 1 and 1_000", "checks.finance_orders_row_count"),
            ("sum amount equals finance.lines.amount", "checks.finance_orders_sum_amount"),
        ] {
            let made = check("finance.orders", rule);
            assert_eq!(made.as_ref().map(|(name, _)| name.as_str()), Some(name), "{rule}");
        }
        for rule in [
            "unique",
            "unique id; DROP",
            "not null a b",
            "accepted values state (a)",
            "references customer in customers",
            "freshness at within a while",
            "row count between 1",
            "sum amount equals lines",
            "sorted",
        ] {
            assert_eq!(check("orders", rule), None, "{rule}");
        }
        let (_, sql) = check("orders", "accepted values state in (open, it's, 3)").unwrap();
        assert!(sql.contains("NOT IN ('open', 'it''s', 3)"), "{sql}");
    }
}
