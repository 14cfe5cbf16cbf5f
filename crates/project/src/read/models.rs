//! `models/**/*.sql` and `checks/*.sql`: settings in comments, order of dependency, plans.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_incremental::{Planner, RelationTraits};

use crate::check::{Check, CheckSeverity, MESSENGERS};
use crate::document::{self, Table, Value};
use crate::fields::{Fields, Layer, Spanned, wrong_type};
use crate::keys::{self, FileKeys};
use crate::mistake::{FileText, Mistake, did_you_mean};
use crate::model::{Model, OnError, Refresh};
use crate::source::Notes;

use super::folder::NamedFile;
use super::sql::{self, Reference};
use super::{Known, Relations, measures, read_notes};

const MARKER: &str = "weir:";

/// A model's file, read but not planned.
struct Draft<'a> {
    name: &'a str,
    text: &'a FileText,
    made: bool,
    key: Vec<Spanned<String>>,
    refresh: Refresh,
    on_error: OnError,
    measures: Vec<Spanned<String>>,
    check: Option<Check>,
    notes: Notes,
    /// None when the SQL cannot be parsed.
    references: Option<Vec<Reference>>,
    /// Whether anything so far keeps it from being planned.
    sound: bool,
}

/// The files that become models.
pub(crate) struct ModelFiles<'a> {
    /// `models/`, and what others come to.
    pub models: Vec<NamedFile>,
    /// `splits/`.
    pub splits: &'a [NamedFile],
    /// `checks/`, and what lines beside sources and models come to.
    pub checks: &'a [NamedFile],
}

/// Reads and plans all models and checks; those with errors are left out, with a mistake each. `relations` knows the sources,
/// and gets the models.
pub(crate) fn read_models(
    files: &ModelFiles<'_>,
    planner: &mut Planner,
    relations: &mut Relations,
    mistakes: &mut Vec<Mistake>,
) -> Vec<Model> {
    let sources: BTreeSet<String> = relations.known.keys().cloned().collect();
    let mut drafts: Vec<Draft<'_>> = Vec::new();
    drafts.extend(files.models.iter().map(|file| read_draft(file, &keys::MODEL, mistakes)));
    drafts.extend(files.splits.iter().map(|file| read_draft(file, &keys::SPLIT, mistakes)));
    drafts.extend(files.checks.iter().map(|file| read_check(file, mistakes)));
    for draft in &drafts {
        relations.known.entry(draft.name.to_string()).or_insert(None);
    }
    let by_name: BTreeMap<&str, usize> = drafts.iter().enumerate().map(|(i, draft)| (draft.name, i)).collect();
    let mut sound: Vec<bool> = drafts.iter().map(|draft| draft.sound).collect();
    for (index, draft) in drafts.iter().enumerate() {
        for reference in draft.references.iter().flatten() {
            if !relations.known.contains_key(&reference.name) {
                let mistake = unknown_relation(draft.text, &reference.name, reference.span.clone(), relations);
                mistakes.push(placed(draft, mistake));
                sound[index] = false;
            }
        }
    }
    let order = order(&drafts, &by_name, &mut sound, mistakes);
    let mut models = Vec::new();
    let mut fed: BTreeSet<String> = sources;
    for index in order {
        let draft = &drafts[index];
        let mentions = draft.references.iter().flatten();
        let feeds = mentions.clone().any(|mention| fed.contains(&mention.name)) || draft.references.is_none();
        if feeds || !sound[index] {
            fed.insert(draft.name.to_string());
        } else {
            mistakes.push(
                Mistake::of_file(draft.text.file(), "unfed_model", "no source feeds this model: it never changes")
                    .warning(),
            );
        }
        let ready = mentions.clone().all(|mention| relations.known.get(&mention.name).is_some_and(Option::is_some));
        if !sound[index] || !ready {
            continue;
        }
        if let Some(model) = plan(draft, planner, mistakes) {
            let known =
                Known { schema: model.schema.clone(), append_only: model.plan.append_only, key: model.key.clone() };
            let traits = RelationTraits { append_only: known.append_only, key: known.key.clone() };
            planner.add_relation(model.name.clone(), model.schema.clone(), traits);
            relations.known.insert(draft.name.to_string(), Some(known));
            models.push(model);
        }
    }
    models
}

/// "there is no relation `x`", with what was probably meant.
pub(crate) fn unknown_relation(
    text: &FileText,
    name: &str,
    span: std::ops::Range<usize>,
    relations: &Relations,
) -> Mistake {
    let names: Vec<&str> = relations.names().collect();
    let in_schema = names.iter().find(|known| known.rsplit('.').next() == Some(name));
    let hint = in_schema
        .map(|known| format!("did you mean `{known}`?"))
        .or_else(|| did_you_mean(name, names.iter().copied()))
        .unwrap_or_else(|| "a relation is a file in sources/ or models/, and named after it".into());
    Mistake::at(text, span, "unknown_relation", format!("there is no relation `{name}`")).hint(hint)
}

/// A mistake in a text that was made of a file has no place in that file.
fn placed(draft: &Draft<'_>, mistake: Mistake) -> Mistake {
    match draft.made {
        false => mistake,
        true => Mistake::of_file(draft.text.file(), mistake.code, format!("{} (`{}`)", mistake.message, draft.name))
            .hint_maybe(mistake.hint),
    }
}

fn read_draft<'a>(file: &'a NamedFile, keys: &'static FileKeys, mistakes: &mut Vec<Mistake>) -> Draft<'a> {
    let settings = settings_of(&file.text, mistakes);
    let fields = Fields::new(keys, "", vec![Layer { text: &file.text, table: &settings }]);
    fields.check_names(None, mistakes);
    let key = fields.text_list("key", mistakes);
    let interval = fields.duration("refresh_interval", mistakes);
    let refresh = match fields.choice("refresh", &[], mistakes).as_deref() {
        Some("full") => Refresh::Full { interval: interval.unwrap_or_default() },
        _ => {
            if let Some((text, entry)) = fields.entry("refresh_interval") {
                let message = "refresh_interval is for models that are recomputed as a whole";
                mistakes.push(
                    Mistake::at(text, entry.key_span.clone(), "bad_value", message)
                        .hint("leave it out, or add `-- weir: refresh = \"full\"`"),
                );
            }
            Refresh::Incremental
        }
    };
    let on_error = match fields.choice("on_error", &[], mistakes).as_deref() {
        Some("hold") => OnError::Hold,
        _ => OnError::Continue,
    };
    let empty = sql::is_empty(&file.text);
    if empty {
        mistakes.push(
            Mistake::of_file(file.text.file(), "empty_model", "there is no SELECT in this file")
                .hint("a model is a single SELECT"),
        );
    }
    Draft {
        name: &file.name,
        text: &file.text,
        made: file.made,
        key,
        refresh,
        on_error,
        measures: fields.text_list("measure", mistakes),
        check: None,
        notes: read_notes(&fields, mistakes),
        references: sql::references(&file.text),
        sound: !empty,
    }
}

fn read_check<'a>(file: &'a NamedFile, mistakes: &mut Vec<Mistake>) -> Draft<'a> {
    let settings = settings_of(&file.text, mistakes);
    let fields = Fields::new(&keys::CHECK, "", vec![Layer { text: &file.text, table: &settings }]);
    fields.check_names(None, mistakes);
    let severity = match fields.choice("severity", &[], mistakes).as_deref() {
        Some("warn") => CheckSeverity::Warn,
        Some("block") => CheckSeverity::Block,
        _ => CheckSeverity::Error,
    };
    let holds: Vec<String> = fields.text_list("holds", mistakes).into_iter().map(|sink| sink.value).collect();
    if !holds.is_empty() && severity != CheckSeverity::Block {
        let message = "only a check with severity = \"block\" holds sinks";
        mistakes.push(
            Mistake::of_file(file.text.file(), "bad_value", message)
                .hint("leave `holds` out, or add `-- weir: severity = \"block\"`"),
        );
    }
    let empty = sql::is_empty(&file.text);
    if empty {
        mistakes.push(
            Mistake::of_file(file.text.file(), "empty_model", "there is no SELECT in this file")
                .hint("a check is a single SELECT that must return no rows"),
        );
    }
    let check = Check {
        severity,
        tolerance: fields.whole("tolerance", mistakes),
        grace: fields.duration("grace", mistakes).unwrap_or_default(),
        message: fields.given_text("message", mistakes).map(|text| text.value),
        holds,
        notify: read_notify(&fields, mistakes),
    };
    Draft {
        name: &file.name,
        text: &file.text,
        made: file.made,
        key: Vec::new(),
        refresh: Refresh::Incremental,
        on_error: OnError::Continue,
        measures: Vec::new(),
        check: Some(check),
        notes: read_notes(&fields, mistakes),
        references: sql::references(&file.text),
        sound: !empty,
    }
}

fn read_notify(fields: &Fields<'_>, mistakes: &mut Vec<Mistake>) -> Vec<String> {
    let Some((text, _)) = fields.entry("notify") else { return MESSENGERS.map(str::to_owned).to_vec() };
    let mut notify = Vec::new();
    for name in fields.text_list("notify", mistakes) {
        if MESSENGERS.contains(&name.value.as_str()) {
            notify.push(name.value);
            continue;
        }
        let hint =
            did_you_mean(&name.value, MESSENGERS).unwrap_or_else(|| format!("there are {}", MESSENGERS.join(", ")));
        let message = format!("notify: there is no `{}`", name.value);
        mistakes.push(Mistake::at(text, name.span, "bad_value", message).hint(hint));
    }
    notify
}

/// The sinks that checks hold must be there.
pub(crate) fn check_holds(models: &[Model], sinks: &[NamedFile], mistakes: &mut Vec<Mistake>) {
    for model in models {
        for held in model.check.iter().flat_map(|check| &check.holds) {
            if !sinks.iter().any(|sink| sink.name == *held) {
                let hint = did_you_mean(held, sinks.iter().map(|sink| sink.name.as_str()));
                let message = format!("holds: there is no sink `{held}`");
                mistakes.push(Mistake::of_file(&model.file, "bad_value", message).hint_maybe(hint));
            }
        }
    }
}

/// The TOML in `-- weir:` comments, each entry at its place in the file.
pub(crate) fn settings_of(text: &FileText, mistakes: &mut Vec<Mistake>) -> Table {
    // All else becomes blanks, so that offsets in the TOML are offsets in the file.
    let mut toml = String::with_capacity(text.text().len());
    for line in text.text().split_inclusive('\n') {
        let content = line.trim_end_matches(['\n', '\r']);
        let settings = content
            .trim_start()
            .strip_prefix("--")
            .and_then(|comment| comment.trim_start_matches('-').trim_start().strip_prefix(MARKER));
        let blank = content.len() - settings.map_or(0, str::len);
        toml.extend(std::iter::repeat_n(' ', blank));
        toml.push_str(settings.unwrap_or_default());
        toml.push_str(&line[content.len()..]);
    }
    let blanked = FileText::new(text.file(), toml);
    let mut found = Vec::new();
    let table = document::parse(&blanked, &mut found);
    // Frames show the file as it is.
    mistakes.extend(found.into_iter().map(|mistake| Mistake { text: Some(text.clone()), ..mistake }));
    table
}

/// Indices so that every model stands behind what it reads; models in or behind a circle are not sound any more.
fn order(
    drafts: &[Draft<'_>],
    by_name: &BTreeMap<&str, usize>,
    sound: &mut [bool],
    mistakes: &mut Vec<Mistake>,
) -> Vec<usize> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    struct Search<'s, 'd> {
        drafts: &'s [Draft<'d>],
        by_name: &'s BTreeMap<&'s str, usize>,
        marks: Vec<Mark>,
        path: Vec<usize>,
        order: Vec<usize>,
        circles: Vec<(usize, Reference, Vec<usize>)>,
    }
    impl Search<'_, '_> {
        fn visit(&mut self, index: usize) {
            self.marks[index] = Mark::Open;
            self.path.push(index);
            for reference in self.drafts[index].references.iter().flatten() {
                let Some(&next) = self.by_name.get(reference.name.as_str()) else { continue };
                match self.marks[next] {
                    Mark::New => self.visit(next),
                    Mark::Open => {
                        let start = self.path.iter().position(|&at| at == next).unwrap_or(0);
                        let circle = self.path[start..].to_vec();
                        self.circles.push((index, reference.clone(), circle));
                    }
                    Mark::Done => {}
                }
            }
            self.path.pop();
            self.marks[index] = Mark::Done;
            self.order.push(index);
        }
    }
    let mut search = Search {
        drafts,
        by_name,
        marks: vec![Mark::New; drafts.len()],
        path: Vec::new(),
        order: Vec::new(),
        circles: Vec::new(),
    };
    for index in 0..drafts.len() {
        if search.marks[index] == Mark::New {
            search.visit(index);
        }
    }
    let mut told = BTreeSet::new();
    for (index, reference, circle) in search.circles {
        for &member in &circle {
            sound[member] = false;
        }
        let mut members = circle.clone();
        members.sort_unstable();
        if !told.insert(members) {
            continue;
        }
        let mut names: Vec<&str> = circle.iter().map(|&member| drafts[member].name).collect();
        names.push(names[0]);
        let (message, hint) = match circle.len() {
            1 => (format!("model `{}` reads itself", names[0]), "read what feeds it instead".to_string()),
            _ => {
                let message = format!("models read each other in a circle: {}", names.join(" -> "));
                (message, "take one of them apart: what both need can be a model of its own".to_string())
            }
        };
        mistakes.push(Mistake::at(drafts[index].text, reference.span, "cycle", message).hint(hint));
    }
    search.order
}

fn plan(draft: &Draft<'_>, planner: &Planner, mistakes: &mut Vec<Mistake>) -> Option<Model> {
    let planned = match draft.refresh {
        Refresh::Incremental => planner.plan(draft.name, draft.text.text()),
        Refresh::Full { .. } => planner.plan_whole(draft.name, draft.text.text()),
    };
    let plan = match planned {
        Ok(plan) => plan,
        Err(error) => {
            let whole = first_statement(draft.text);
            let told = sql::plan_mistakes(draft.text, Some(0), draft.text.text(), whole, &error);
            mistakes.extend(told.into_iter().map(|mistake| placed(draft, mistake)));
            return None;
        }
    };
    let mut key = Vec::new();
    let mut sound = true;
    for column in &draft.key {
        if plan.schema.field_with_name(&column.value).is_ok() {
            key.push(column.value.clone());
            continue;
        }
        sound = false;
        let names: Vec<&str> = plan.schema.fields().iter().map(|field| field.name().as_str()).collect();
        let hint = did_you_mean(&column.value, names.iter().copied())
            .unwrap_or_else(|| format!("its columns are {}", names.join(", ")));
        let message = format!("key: the model has no column `{}`", column.value);
        mistakes.push(Mistake::at(draft.text, column.span.clone(), "unknown_column", message).hint(hint));
    }
    // Checks, outputs and unmatched rows show rows as they are: `SELECT *` has what a source keeps of unknown fields.
    let shows_rows = draft.check.is_some() || draft.made;
    let is_kept = |name: &str| name.starts_with('_') && !(shows_rows && name == "_extra");
    if let Some(field) = plan.schema.fields().iter().find(|field| is_kept(field.name())) {
        let message = format!("column `{}`: names that begin with `_` are kept for Weir", field.name());
        mistakes.push(
            Mistake::at(draft.text, first_statement(draft.text), "bad_name", message)
                .hint(format!("name it: `... AS {}`", field.name().trim_start_matches('_'))),
        );
        sound = false;
    }
    sound.then(|| Model {
        name: Arc::from(draft.name),
        file: draft.text.file().to_path_buf(),
        sql: draft.text.text().to_string(),
        key,
        refresh: draft.refresh,
        on_error: draft.on_error,
        measures: measures::measures(draft.text, &draft.measures, &plan.schema, &[], mistakes),
        check: draft.check.clone(),
        schema: plan.schema.clone(),
        reads: plan.reads.clone(),
        plan,
        notes: draft.notes.clone(),
    })
}

/// The first word that is not in a comment: where a mistake without a place is shown.
fn first_statement(text: &FileText) -> std::ops::Range<usize> {
    let mut at = 0;
    for line in text.text().split_inclusive('\n') {
        let content = line.trim_start();
        if !content.is_empty() && !content.starts_with("--") {
            let start = at + line.len() - content.len();
            let word = content.find(|c: char| !c.is_alphanumeric()).unwrap_or(content.len()).max(1);
            return start..start + word;
        }
        at += line.len();
    }
    0..0
}

/// Reads `models/**/*.toml` into the notes of the models of the same name.
pub(crate) fn read_model_notes(
    files: &[NamedFile],
    models: &mut [Model],
    relations: &Relations,
    mistakes: &mut Vec<Mistake>,
) {
    for file in files {
        let text = &file.text;
        let table = document::parse(text, mistakes);
        let fields = Fields::new(&keys::MODEL_NOTES, "", vec![Layer { text, table: &table }]);
        fields.check_names(None, mistakes);
        let read = read_notes(&fields, mistakes);
        if !relations.known.contains_key(&file.name) {
            let message = format!("there is no model `{}` for these notes", file.name);
            mistakes.push(
                Mistake::of_file(text.file(), "unknown_file", message)
                    .hint("notes stand beside the model, under the same name"),
            );
            continue;
        }
        let Some(model) = models.iter_mut().find(|model| *model.name == *file.name) else { continue };
        let given = fields.text_list("measure", mistakes);
        let added = measures::measures(text, &given, &model.schema, &[], mistakes);
        model.measures.extend(added);
        let notes = &mut model.notes;
        notes.description = read.description.or(notes.description.take());
        notes.owner = read.owner.or(notes.owner.take());
        notes.tags.extend(read.tags);
        read_model_columns(&fields, model, mistakes);
        check_measures(model, mistakes);
    }
}

/// Measures of both files together: none is there twice, and the ledger keeps nothing personal.
fn check_measures(model: &Model, mistakes: &mut Vec<Mistake>) {
    for (index, measure) in model.measures.iter().enumerate() {
        if let Some(name) = measure.by.iter().find(|name| model.notes.personal.contains(name)) {
            let message = format!("measure: `{name}` is personal");
            mistakes.push(
                Mistake::of_file(&model.file, "bad_value", message)
                    .hint("the ledger keeps groups for ever: group by another column"),
            );
        }
        if model.measures[..index].contains(measure) {
            let message = format!("measure: `{measure}` is there twice");
            mistakes.push(Mistake::of_file(&model.file, "bad_value", message).hint("take one of them out"));
        }
    }
}

fn read_model_columns(fields: &Fields<'_>, model: &mut Model, mistakes: &mut Vec<Mistake>) {
    let Some(columns) = fields.table("columns", mistakes) else { return };
    let (text, notes) = (columns.text, &mut model.notes);
    for entry in &columns.table.entries {
        if model.schema.field_with_name(&entry.key).is_err() {
            let names = model.schema.fields().iter().map(|field| field.name().as_str());
            let hint = did_you_mean(&entry.key, names);
            let message = format!("model `{}` has no column `{}`", model.name, entry.key);
            mistakes.push(Mistake::at(text, entry.key_span.clone(), "unknown_column", message).hint_maybe(hint));
            continue;
        }
        match &entry.node.value {
            Value::Text(description) => {
                notes.columns.insert(entry.key.clone(), description.clone());
            }
            Value::Table(table) => {
                let long = Fields::new(&keys::MODEL_NOTES, "columns.*", vec![Layer { text, table }]);
                long.check_names(None, mistakes);
                if let Some(description) = long.given_text("description", mistakes) {
                    notes.columns.insert(entry.key.clone(), description.value);
                }
                if long.boolean("personal", mistakes) {
                    notes.personal.push(entry.key.clone());
                }
            }
            other => {
                mistakes.push(wrong_type(text, &entry.node, &entry.key, "a description or a table", other));
            }
        }
    }
}
