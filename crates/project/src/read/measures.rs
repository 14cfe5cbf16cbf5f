//! `measure = "amount by currency"`, held against a relation's columns.

use arrow::datatypes::{DataType, SchemaRef};

use crate::fields::Spanned;
use crate::measure::Measure;
use crate::mistake::{FileText, Mistake, did_you_mean};

/// The measures that are right; of the others a mistake. Groups stay in the ledger for ever, so that no column in
/// `personal` may make them.
pub(crate) fn measures(
    text: &FileText,
    given: &[Spanned<String>],
    schema: &SchemaRef,
    personal: &[String],
    mistakes: &mut Vec<Mistake>,
) -> Vec<Measure> {
    let mut measures: Vec<Measure> = Vec::new();
    for wanted in given {
        let mut wrong = |code, message: String, hint: Option<String>| {
            mistakes.push(Mistake::at(text, wanted.span.clone(), code, message).hint_maybe(hint));
        };
        let Some(measure) = Measure::parse(&wanted.value) else {
            let hint = "write `amount`, or `amount by currency`".to_owned();
            wrong("bad_value", format!("`{}` is no measure", wanted.value), Some(hint));
            continue;
        };
        if schema.fields().is_empty() {
            // What is wrong with the columns is told already.
            continue;
        }
        let names = || schema.fields().iter().map(|field| field.name().as_str());
        let unknown = measure.by.iter().chain([&measure.column]).find(|name| schema.field_with_name(name).is_err());
        if let Some(name) = unknown {
            let hint = did_you_mean(name, names())
                .unwrap_or_else(|| format!("its columns are {}", names().collect::<Vec<_>>().join(", ")));
            wrong("unknown_column", format!("measure: there is no column `{name}`"), Some(hint));
            continue;
        }
        let type_of =
            |name: &str| schema.field_with_name(name).map_or(DataType::Null, |field| field.data_type().clone());
        let summed = type_of(&measure.column);
        let group = measure.by.iter().find(|name| !makes_groups(&type_of(name)));
        let told = measure.by.iter().find(|name| personal.contains(name));
        if !is_summed(&summed) {
            let found = weir_schemas::sql_type_name(&summed);
            let hint = "a measure is a whole number, a DECIMAL or a float".to_owned();
            wrong("type_mismatch", format!("measure: `{}` is {found}, which has no sum", measure.column), Some(hint));
        } else if let Some(name) = group {
            let found = weir_schemas::sql_type_name(&type_of(name));
            let hint = "group by text, whole numbers, decimals, booleans, dates or timestamps".to_owned();
            wrong("type_mismatch", format!("measure: `{name}` is {found}, which makes no groups"), Some(hint));
        } else if let Some(name) = told {
            let hint = "the ledger keeps groups for ever: group by another column".to_owned();
            wrong("bad_value", format!("measure: `{name}` is personal"), Some(hint));
        } else if measures.contains(&measure) {
            wrong("bad_value", format!("`{measure}` is there twice"), Some("take one of them out".into()));
        } else {
            measures.push(measure);
        }
    }
    measures
}

fn is_summed(data_type: &DataType) -> bool {
    data_type.is_signed_integer() || data_type.is_floating() || matches!(data_type, DataType::Decimal128(..))
}

fn makes_groups(data_type: &DataType) -> bool {
    !data_type.is_nested() && !data_type.is_floating() && !matches!(data_type, DataType::Binary)
}
