//! `sinks/*.toml`.

use std::collections::BTreeMap;
use std::sync::Arc;

use weir_incremental::Planner;

use crate::document;
use crate::fields::{Fields, Layer, inside_string};
use crate::keys;
use crate::mistake::{FileText, Mistake};
use crate::model::OnError;
use crate::secret::Template;
use crate::sink::{LakeOptions, PostgresOptions, Sink, SinkKind};

use super::folder::NamedFile;
use super::models::unknown_relation;
use super::{Relations, read_notes, sql};

/// Reads all sinks; those with errors are left out, with a mistake each.
pub(crate) fn read_sinks(
    files: &[NamedFile],
    planner: &Planner,
    relations: &Relations,
    mistakes: &mut Vec<Mistake>,
) -> Vec<Sink> {
    let mut sinks: Vec<Sink> = Vec::new();
    let mut targets: BTreeMap<String, String> = BTreeMap::new();
    for file in files {
        let Some(sink) = read_sink(file, planner, relations, mistakes) else { continue };
        let target = match &sink.kind {
            SinkKind::Postgres(to) => format!("postgres {} {}.{}", to.url.as_written(), to.schema, to.table),
            SinkKind::Lake(to) => format!("lake {}", to.table),
        };
        if let Some(other) = targets.insert(target, file.name.clone()) {
            let message = format!("the sink `{other}` writes the same table");
            mistakes.push(
                Mistake::of_file(file.text.file(), "duplicate_name", message).hint("give one of them another table"),
            );
        }
        sinks.push(sink);
    }
    sinks
}

fn read_sink(file: &NamedFile, planner: &Planner, relations: &Relations, mistakes: &mut Vec<Mistake>) -> Option<Sink> {
    let errors_before = mistakes.iter().filter(|mistake| mistake.is_error()).count();
    let text = &file.text;
    let table = document::parse(text, mistakes);
    let fields = Fields::new(&keys::SINK, "", vec![Layer { text, table: &table }]);
    let kind_name = fields.choice("kind", keys::SINK_KINDS_LATER, mistakes);
    fields.check_names(kind_name.as_deref(), mistakes);
    for (name, hint) in [("kind", "add kind = \"postgres\", say"), ("from", "add from = \"a_model\"")] {
        if !fields.has(name) {
            let message = format!("the sink does not say `{name}`");
            mistakes.push(Mistake::of_file(text.file(), "missing_key", message).hint(hint));
        }
    }
    let notes = read_notes(&fields, mistakes);
    let on_error = fields.choice("on_error", &[], mistakes).map(|word| match word.as_str() {
        "hold" => OnError::Hold,
        _ => OnError::Continue,
    });
    let from = fields.given_text("from", mistakes);
    let condition = fields.given_text("where", mistakes);
    let relation = from.as_ref().and_then(|from| match relations.known.get(&from.value) {
        Some(known) => known.clone(),
        None => {
            mistakes.push(unknown_relation(text, &from.value, from.span.clone(), relations));
            None
        }
    });
    if let (Some(condition), Some(relation)) = (&condition, &relation) {
        sql::check_condition(planner, text, condition, &relation.schema, mistakes);
    }
    let default_table = from.as_ref().map(|from| from.value.rsplit('.').next().unwrap_or_default().to_string());
    let kind = match kind_name.as_deref() {
        Some("postgres") => {
            if let (Some(relation), Some(from)) = (&relation, &from)
                && !relation.append_only
                && relation.key.is_empty()
            {
                let message = format!("rows of `{}` change, and it has no key to find them by", from.value);
                mistakes.push(
                    Mistake::at(text, from.span.clone(), "needs_key", message)
                        .hint("declare the model's key in its file: `-- weir: key = [\"...\"]`"),
                );
            }
            postgres(&fields, text, default_table, mistakes).map(SinkKind::Postgres)
        }
        Some("lake") => {
            let name = fields.given_text("name", mistakes).map(|name| name.value);
            name.or(default_table).map(|table| SinkKind::Lake(LakeOptions { table }))
        }
        _ => None,
    };
    let errors = mistakes.iter().filter(|mistake| mistake.is_error()).count();
    if errors > errors_before || relation.is_none() {
        return None;
    }
    Some(Sink {
        name: file.name.clone(),
        file: text.file().to_path_buf(),
        kind: kind?,
        from: Arc::from(from?.value),
        where_sql: condition.map(|condition| condition.value),
        on_error,
        notes,
    })
}

fn postgres(
    fields: &Fields<'_>,
    text: &FileText,
    default_table: Option<String>,
    mistakes: &mut Vec<Mistake>,
) -> Option<PostgresOptions> {
    let schema = fields.text("schema", mistakes).unwrap_or_default();
    let table = fields.given_text("table", mistakes).map(|table| table.value).or(default_table);
    if !fields.has("url") {
        mistakes.push(
            Mistake::of_file(text.file(), "missing_key", "the sink does not say `url`")
                .hint("add url = \"postgres://user:${env:PASSWORD}@host/database\""),
        );
    }
    let url = fields.given_text("url", mistakes)?;
    let template = match Template::parse(url.value.clone()) {
        Ok(template) => template,
        Err(error) => {
            mistakes.push(Mistake::at(text, url.span, "bad_value", error.to_string()));
            return None;
        }
    };
    if let Some(password) = template.literal_password() {
        let place = match inside_string(text, &url.span, &url.value) {
            Some(start) => start + password.start..start + password.end,
            None => url.span.clone(),
        };
        mistakes.push(
            Mistake::at(text, place, "literal_secret", "a password does not belong in a file")
                .hidden()
                .hint("put it in the environment and write ${env:NAME}, or in a file and write ${file:/path}"),
        );
    } else if !["postgres://", "postgresql://", "${"].iter().any(|start| url.value.starts_with(start)) {
        mistakes.push(
            Mistake::at(text, url.span, "bad_value", "this is not a PostgreSQL URL")
                .hint("write postgres://user:${env:PASSWORD}@host/database"),
        );
    }
    Some(PostgresOptions { url: template, schema, table: table? })
}
