//! `sources/*.toml`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use weir_incremental::Planner;
use weir_schemas::{AccessLogFormat, Contract, CsvFormat, CsvOptions, FormatRef, JsonFormat, UnknownFields};

use crate::document::{self, Value};
use crate::fields::{Fields, Layer, Spanned, wrong_type};
use crate::keys;
use crate::mistake::{FileText, Mistake, did_you_mean};
use crate::source::{Compression, Dedupe, FilesOptions, Notes, Source, SourceKind};

use super::folder::NamedFile;
use super::{columns, measures, read_notes, sql};

/// Reads one source; None when there is an error in it.
pub(crate) fn read_source(
    dir: &Path,
    file: &NamedFile,
    planner: &Planner,
    mistakes: &mut Vec<Mistake>,
) -> Option<Source> {
    let errors_before = mistakes.iter().filter(|mistake| mistake.is_error()).count();
    let table = document::parse(&file.text, mistakes);
    let fields = Fields::new(&keys::SOURCE, "", vec![Layer { text: &file.text, table: &table }]);
    let kind_name = fields.choice("kind", keys::SOURCE_KINDS_LATER, mistakes);
    fields.check_names(kind_name.as_deref(), mistakes);
    let reader = SourceReader { dir, text: &file.text, fields: &fields, planner };
    let kind = reader.kind(kind_name.as_deref(), mistakes);
    let source = reader.read(file, kind, mistakes);
    let errors = mistakes.iter().filter(|mistake| mistake.is_error()).count();
    if errors > errors_before { None } else { source }
}

struct SourceReader<'a> {
    dir: &'a Path,
    text: &'a FileText,
    fields: &'a Fields<'a>,
    planner: &'a Planner,
}

impl SourceReader<'_> {
    fn read(&self, file: &NamedFile, kind: Option<SourceKind>, mistakes: &mut Vec<Mistake>) -> Option<Source> {
        let fields = self.fields;
        let mut notes = read_notes(fields, mistakes);
        if let Some(schema) = fields.given_text("schema", mistakes) {
            mistakes.push(
                Mistake::at(self.text, schema.span, "unsupported", "schema files are not supported yet")
                    .hint("write [columns] in this file"),
            );
        }
        let format = self.format(mistakes);
        let contract = self.contract(format.as_deref(), &mut notes, mistakes);
        let (decoding, format_options) = self.decoding(format.as_deref().unwrap_or("json"), mistakes);
        let decoded = decoding.decoder(&contract).schema();
        // With a mistake in the columns, what is said about expressions over them would mislead.
        let checkable = !contract.columns.is_empty();
        let where_sql = fields.given_text("where", mistakes);
        if let Some(condition) = where_sql.as_ref().filter(|_| checkable) {
            sql::check_condition(self.planner, self.text, condition, &decoded, mistakes);
        }
        let (enrich, schema) = self.enrich(decoded, checkable, mistakes);
        let time = self.column("time", &schema, mistakes, |found| {
            matches!(found, DataType::Timestamp(..)).then_some(()).ok_or("a TIMESTAMP")
        });
        let key = self.columns("key", fields.text_list("key", mistakes), &schema, mistakes);
        let version = self.column("version", &schema, mistakes, |found| {
            (!found.is_nested() && *found != DataType::Boolean).then_some(()).ok_or("a type with an order")
        });
        let deleted = self
            .column("deleted", &schema, mistakes, |found| (*found == DataType::Boolean).then_some(()).ok_or("BOOLEAN"));
        for name in ["version", "deleted"] {
            self.only_with_key(name, &key, mistakes);
        }
        let dedupe = self.dedupe(&schema, mistakes);
        let given = fields.text_list("measure", mistakes);
        let personal = contract.columns.iter().filter(|column| column.personal).map(|column| column.name.clone());
        let measures = measures::measures(self.text, &given, &schema, &personal.collect::<Vec<_>>(), mistakes);
        let input = fields.given_text("input", mistakes);
        Some(Source {
            name: Arc::from(file.name.as_str()),
            file: self.text.file().to_path_buf(),
            kind: kind?,
            input: input.map_or_else(|| file.name.clone(), |input| input.value),
            where_sql: where_sql.map(|text| text.value),
            format: format?,
            format_options,
            decoding,
            contract,
            time,
            lateness: fields.duration("lateness", mistakes),
            ahead_max: fields.duration("ahead_max", mistakes),
            retain: fields.duration("retain", mistakes),
            key,
            version,
            deleted,
            dedupe,
            quarantine_max: fields.share("quarantine_max", mistakes),
            measures,
            enrich,
            schema,
            notes,
        })
    }

    fn kind(&self, name: Option<&str>, mistakes: &mut Vec<Mistake>) -> Option<SourceKind> {
        match name {
            None if !self.fields.has("kind") => {
                mistakes.push(
                    Mistake::of_file(self.text.file(), "missing_key", "the source does not say its kind")
                        .hint("add kind = \"beacon\" or kind = \"files\""),
                );
                None
            }
            None => None,
            Some("beacon") => Some(SourceKind::Beacon),
            Some(_) => self.files(mistakes).map(SourceKind::Files),
        }
    }

    fn files(&self, mistakes: &mut Vec<Mistake>) -> Option<FilesOptions> {
        let settle = self.fields.duration("settle", mistakes).unwrap_or_default();
        let compression = match self.fields.choice("compression", &[], mistakes).as_deref() {
            Some("gzip") => Compression::Gzip,
            Some("zstd") => Compression::Zstd,
            Some("none") => Compression::None,
            _ => Compression::Auto,
        };
        let Some(path) = self.fields.given_text("path", mistakes) else {
            if !self.fields.has("path") {
                mistakes.push(
                    Mistake::of_file(self.text.file(), "missing_key", "the source does not say which files it reads")
                        .hint("add path = \"data/*.json\", say"),
                );
            }
            return None;
        };
        if let Err(error) = glob::Pattern::new(&path.value) {
            let message = format!("this is not a pattern of files: {}", error.msg);
            mistakes.push(Mistake::at(self.text, path.span, "bad_value", message));
            return None;
        }
        Some(FilesOptions { path: self.dir.join(path.value), settle, compression })
    }

    fn format(&self, mistakes: &mut Vec<Mistake>) -> Option<String> {
        self.fields.choice("format", keys::FORMATS_LATER, mistakes)
    }

    /// The format with its details, and those that are given as they are shown.
    fn decoding(&self, format: &str, mistakes: &mut Vec<Mistake>) -> (FormatRef, BTreeMap<String, String>) {
        let mut shown = BTreeMap::new();
        if let Some((text, entry)) = self.fields.entry("csv")
            && format != "csv"
        {
            let message = format!("[csv] means nothing for format \"{format}\"");
            mistakes.push(Mistake::at(text, entry.key_span.clone(), "unknown_key", message));
        }
        match format {
            "csv" => {}
            "access_log" => return (Arc::new(AccessLogFormat), shown),
            _ => return (Arc::new(JsonFormat), shown),
        }
        let inner: Vec<Layer<'_>> = self.fields.table("csv", mistakes).into_iter().collect();
        let csv = Fields::new(&keys::SOURCE, "csv", inner);
        csv.check_names(None, mistakes);
        let mut list = |name: &str| {
            let given: Vec<String> = csv.text_list(name, mistakes).into_iter().map(|text| text.value).collect();
            if !given.is_empty() {
                shown.insert(name.to_string(), given.join(", "));
            }
            given
        };
        let header = list("header");
        let mut options = CsvOptions {
            header: (!header.is_empty()).then_some(header),
            null: list("null"),
            time_formats: list("time_formats"),
            ..CsvOptions::default()
        };
        if let Some(delimiter) = csv.given_text("delimiter", mistakes) {
            match delimiter.value.as_bytes() {
                [byte] if !matches!(byte, b'"' | b'\n' | b'\r') => options.delimiter = *byte,
                _ => {
                    let message = "`delimiter` is one character of ASCII";
                    mistakes.push(Mistake::at(self.text, delimiter.span, "bad_value", message));
                }
            }
            shown.insert("delimiter".into(), delimiter.value);
        }
        (Arc::new(CsvFormat::new(options)), shown)
    }

    fn contract(&self, format: Option<&str>, notes: &mut Notes, mistakes: &mut Vec<Mistake>) -> Contract {
        let unknown = match self.fields.choice("unknown_fields", &[], mistakes).as_deref() {
            Some("drop") => UnknownFields::Drop,
            Some("refuse") => UnknownFields::Refuse,
            // The twelve fields of an access log are all there are.
            _ if format == Some("access_log") => UnknownFields::Drop,
            _ => UnknownFields::Keep,
        };
        let Some(given) = self.fields.table("columns", mistakes) else {
            if format == Some("access_log") {
                return weir_schemas::access_log_contract();
            }
            if !self.fields.has("columns") && !self.fields.has("schema") {
                mistakes.push(
                    Mistake::of_file(self.text.file(), "missing_key", "the source has no columns")
                        .hint("add [columns], or let `weir schema infer FILE` draft them"),
                );
            }
            return Contract::default();
        };
        let contract = columns::read_columns(given, unknown, notes, mistakes);
        if given.table.entries.is_empty() {
            mistakes.push(Mistake::of_file(self.text.file(), "missing_key", "the source has no columns"));
        }
        contract
    }

    /// The enriched columns, and the schema with them.
    fn enrich(
        &self,
        decoded: SchemaRef,
        checkable: bool,
        mistakes: &mut Vec<Mistake>,
    ) -> (Vec<(String, String)>, SchemaRef) {
        let mut schema = decoded;
        let mut enrich = Vec::new();
        let Some(given) = self.fields.table("enrich", mistakes) else { return (enrich, schema) };
        for entry in &given.table.entries {
            let Value::Text(expression) = &entry.node.value else {
                mistakes.push(wrong_type(
                    self.text,
                    &entry.node,
                    &entry.key,
                    "a SQL expression in a string",
                    &entry.node.value,
                ));
                continue;
            };
            columns::check_column_name(self.text, entry, mistakes);
            if schema.field_with_name(&entry.key).is_ok() {
                let message = format!("there is a column `{}` already", entry.key);
                mistakes.push(Mistake::at(self.text, entry.key_span.clone(), "duplicate_name", message));
                continue;
            }
            enrich.push((entry.key.clone(), expression.clone()));
            if !checkable {
                continue;
            }
            let spanned = Spanned { value: expression.clone(), span: entry.node.span.clone() };
            let Some(found) = sql::check_expression(self.planner, self.text, &spanned, &schema, mistakes) else {
                continue;
            };
            let Some(data_type) = sql::relation_type(&found) else {
                let message = format!("values of type {found} cannot be kept in a column");
                mistakes.push(
                    Mistake::at(self.text, spanned.span, "type_mismatch", message).hint("cast it: `CAST(... AS TEXT)`"),
                );
                continue;
            };
            let mut fields: Vec<Arc<Field>> = schema.fields().iter().cloned().collect();
            fields.push(Arc::new(Field::new(&entry.key, data_type, true)));
            schema = Arc::new(Schema::new(fields));
        }
        (enrich, schema)
    }

    fn dedupe(&self, schema: &SchemaRef, mistakes: &mut Vec<Mistake>) -> Option<Dedupe> {
        let layer = self.fields.table("dedupe", mistakes)?;
        let (_, whole) = self.fields.entry("dedupe")?;
        let dedupe = Fields::new(&keys::SOURCE, "dedupe", vec![layer]);
        dedupe.check_names(None, mistakes);
        let by = self.columns("dedupe.by", dedupe.text_list("by", mistakes), schema, mistakes);
        let within = dedupe.duration("within", mistakes);
        for name in ["by", "within"] {
            if !dedupe.has(name) {
                let message = format!("dedupe needs `{name}`");
                mistakes.push(
                    Mistake::at(self.text, whole.node.span.clone(), "missing_key", message)
                        .hint("write dedupe = { by = [\"id\"], within = \"7 days\" }"),
                );
            }
        }
        Some(Dedupe { by, within: within? })
    }

    fn only_with_key(&self, name: &str, key: &[String], mistakes: &mut Vec<Mistake>) {
        if let Some((text, entry)) = self.fields.entry(name)
            && key.is_empty()
            && !self.fields.has("key")
        {
            let message = format!("`{name}` means something only for a table, and this source has no key");
            mistakes.push(
                Mistake::at(text, entry.key_span.clone(), "missing_key", message).hint("add key = [\"id\"], say"),
            );
        }
    }

    fn column(
        &self,
        name: &str,
        schema: &SchemaRef,
        mistakes: &mut Vec<Mistake>,
        fits: impl Fn(&DataType) -> Result<(), &'static str>,
    ) -> Option<String> {
        let given = self.fields.given_text(name, mistakes)?;
        let span = given.span.clone();
        let column = self.columns(name, vec![given], schema, mistakes).pop()?;
        let found = schema.field_with_name(&column).ok()?.data_type();
        if let Err(wanted) = fits(found) {
            let found = weir_schemas::sql_type_name(found);
            let message = format!("`{name}` must be {wanted}, and `{column}` is {found}");
            mistakes.push(Mistake::at(self.text, span, "type_mismatch", message));
        }
        Some(column)
    }

    /// Column names that exist; of the others a mistake.
    fn columns(
        &self,
        name: &str,
        given: Vec<Spanned<String>>,
        schema: &SchemaRef,
        mistakes: &mut Vec<Mistake>,
    ) -> Vec<String> {
        let mut known = Vec::new();
        for column in given {
            if schema.field_with_name(&column.value).is_ok() {
                known.push(column.value);
            } else if !schema.fields().is_empty() {
                let message = format!("{name}: there is no column `{}`", column.value);
                let names = schema.fields().iter().map(|field| field.name().as_str());
                let hint = did_you_mean(&column.value, names);
                mistakes.push(Mistake::at(self.text, column.span, "unknown_column", message).hint_maybe(hint));
            }
        }
        known
    }
}
