//! Versions: what of a project has a meaning, written down so that the next start can tell what changed.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::time::Duration;

use arrow::datatypes::SchemaRef;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use weir_incremental::Relation;

use crate::{Measure, Model, OnError, Project, Refresh, Sink, SinkKind, Source, SourceKind};

/// The meaning of a project, without its texts and comments.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// Sources, then models in order of dependency, then sinks.
    pub entries: Vec<ManifestEntry>,
}

/// One source, model or sink.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestEntry {
    /// What it is.
    pub what: What,
    /// Its name.
    pub name: String,
    /// Fingerprint over everything below and over its inputs' versions.
    pub version: String,
    /// Columns and their types, in order; empty for sinks.
    pub columns: Vec<(String, String)>,
    /// Other facts by name, as people write them.
    pub facts: BTreeMap<String, String>,
    /// Names of the relations it reads.
    pub reads: Vec<String>,
}

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum What {
    /// A source.
    Source,
    /// A model.
    Model,
    /// A sink.
    Sink,
}

/// What happened to an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// It means something else.
    Changed,
}

/// What a change asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeSeverity {
    /// Nothing: what is there stays right.
    Harmless,
    /// What is there no longer agrees with the folder until it is rebuilt.
    Rebuild,
    /// Something that is there would go.
    Drop,
}

/// One difference between two manifests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What happened.
    pub kind: ChangeKind,
    /// To what kind of entry.
    pub what: What,
    /// Its name.
    pub name: String,
    /// One phrase each: "column `x` added", "key changed from `a` to `b`", "query changed".
    pub details: Vec<String>,
    /// What it asks for.
    pub severity: ChangeSeverity,
}

impl Project {
    /// The project's meaning, to be compared with what the folder meant at another time.
    pub fn manifest(&self) -> Manifest {
        let mut entries: Vec<ManifestEntry> =
            self.sources.iter().map(|source| source_entry(source, &self.dir)).collect();
        for model in &self.models {
            let inputs = versions_of(&entries, model.reads.iter());
            entries.push(model_entry(model, inputs));
        }
        for sink in &self.sinks {
            let inputs = versions_of(&entries, std::iter::once(&sink.from));
            entries.push(sink_entry(sink, inputs));
        }
        Manifest { entries }
    }
}

impl Manifest {
    /// The version of a source or model.
    pub fn version_of(&self, relation: &str) -> Option<&str> {
        self.entries
            .iter()
            .find(|entry| entry.what != What::Sink && entry.name == relation)
            .map(|entry| entry.version.as_str())
    }

    /// What changed from `old` to `new`: sources, models and sinks of `new` in its order, then what is gone.
    /// What only matters to people and to pace (notes, `retain`, `settle`) is told as harmless.
    pub fn diff(old: &Manifest, new: &Manifest) -> Vec<Change> {
        let find = |manifest: &Manifest, entry: &ManifestEntry| {
            manifest.entries.iter().find(|other| other.what == entry.what && other.name == entry.name).cloned()
        };
        let mut changes = Vec::new();
        for entry in &new.entries {
            match find(old, entry) {
                None => changes.push(Change {
                    kind: ChangeKind::Added,
                    what: entry.what,
                    name: entry.name.clone(),
                    details: Vec::new(),
                    // A new model lacks what its sources took in before it was there.
                    severity: if entry.what == What::Model {
                        ChangeSeverity::Rebuild
                    } else {
                        ChangeSeverity::Harmless
                    },
                }),
                Some(before) => {
                    let details = differences(&before, entry, old, new);
                    let same = before.version == entry.version;
                    if same && details.is_empty() {
                        continue;
                    }
                    changes.push(Change {
                        kind: ChangeKind::Changed,
                        what: entry.what,
                        name: entry.name.clone(),
                        details,
                        severity: if same { ChangeSeverity::Harmless } else { ChangeSeverity::Rebuild },
                    });
                }
            }
        }
        for entry in &old.entries {
            if find(new, entry).is_none() {
                // What a sink has written stays where it is.
                let severity = if entry.what == What::Sink { ChangeSeverity::Harmless } else { ChangeSeverity::Drop };
                changes.push(Change {
                    kind: ChangeKind::Removed,
                    what: entry.what,
                    name: entry.name.clone(),
                    details: Vec::new(),
                    severity,
                });
            }
        }
        changes
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            What::Source => "source",
            What::Model => "model",
            What::Sink => "sink",
        })
    }
}

impl fmt::Display for Change {
    /// One line: `model `revenue` changed: query changed; column `x` added`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = match self.kind {
            ChangeKind::Added => "added",
            ChangeKind::Removed => "removed",
            ChangeKind::Changed => "changed",
        };
        write!(f, "{} `{}` {verb}", self.what, self.name)?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details.join("; "))?;
        }
        Ok(())
    }
}

/// A fact that is the query itself: told as changed, not shown.
const QUERY: &str = "query";

fn differences(before: &ManifestEntry, after: &ManifestEntry, old: &Manifest, new: &Manifest) -> Vec<String> {
    let mut details = Vec::new();
    let (then, now) = (&before.facts, &after.facts);
    for name in then.keys().chain(now.keys().filter(|name| !then.contains_key(*name))) {
        match (then.get(name), now.get(name)) {
            (Some(a), Some(b)) if a == b => {}
            _ if name == QUERY => details.push("query changed".into()),
            (Some(a), Some(b)) => details.push(format!("{name} changed from {a} to {b}")),
            (Some(a), None) => details.push(format!("{name} removed (was {a})")),
            (None, Some(b)) => details.push(format!("{name} added: {b}")),
            (None, None) => {}
        }
    }
    for (name, data_type) in &after.columns {
        match before.columns.iter().find(|(other, _)| other == name) {
            None => details.push(format!("column `{name}` added")),
            Some((_, was)) if was != data_type => {
                details.push(format!("column `{name}` changed from {was} to {data_type}"));
            }
            Some(_) => {}
        }
    }
    for (name, _) in &before.columns {
        if !after.columns.iter().any(|(other, _)| other == name) {
            details.push(format!("column `{name}` removed"));
        }
    }
    if details.is_empty() && before.columns != after.columns {
        details.push("order of columns changed".into());
    }
    for relation in &after.reads {
        let (was, is) = (old.version_of(relation), new.version_of(relation));
        if before.reads.contains(relation) && was.is_some() && was != is {
            details.push(format!("reads `{relation}`, which changed"));
        }
    }
    details
}

/// Facts that change nothing of what rows mean: they are told, and are not part of the version.
const HARMLESS: &[&str] = &[
    "retain",
    "settle",
    "quarantine_max",
    "on_error",
    "refresh_interval",
    "severity",
    "tolerance",
    "grace",
    "holds",
    "measure",
];

fn entry(
    what: What,
    name: &str,
    facts: BTreeMap<String, String>,
    columns: Vec<(String, String)>,
    inputs: Vec<(String, String)>,
) -> ManifestEntry {
    let mut digest = Sha256::new();
    let mut add = |part: &str| {
        digest.update((part.len() as u64).to_le_bytes());
        digest.update(part.as_bytes());
    };
    add(&what.to_string());
    for (name, value) in facts.iter().filter(|(name, _)| !HARMLESS.contains(&name.as_str())) {
        add(name);
        add(value);
    }
    for (name, data_type) in &columns {
        add(name);
        add(data_type);
    }
    for (relation, version) in &inputs {
        add(relation);
        add(version);
    }
    let version: String = digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let reads = inputs.into_iter().map(|(relation, _)| relation).collect();
    ManifestEntry { what, name: name.to_string(), version, columns, facts, reads }
}

fn versions_of<'a>(entries: &[ManifestEntry], relations: impl Iterator<Item = &'a Relation>) -> Vec<(String, String)> {
    relations
        .map(|relation| {
            let known = entries.iter().find(|entry| entry.what != What::Sink && *entry.name == **relation);
            (relation.to_string(), known.map(|entry| entry.version.clone()).unwrap_or_default())
        })
        .collect()
}

fn source_entry(source: &Source, dir: &Path) -> ManifestEntry {
    let mut facts = BTreeMap::new();
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            facts.insert(name.to_string(), value);
        }
    };
    let list = |names: &[String]| (!names.is_empty()).then(|| names.join(", "));
    fact("kind", Some(source.kind.name().to_string()));
    fact("input", Some(source.input.clone()));
    if let SourceKind::Files(files) = &source.kind {
        // A folder that is moved, or named in another way, means the same.
        let path = files.path.strip_prefix(dir).unwrap_or(&files.path);
        fact("path", Some(path.display().to_string()));
        fact("settle", Some(shown(files.settle)));
        fact("compression", Some(format!("{:?}", files.compression).to_lowercase()));
    }
    fact("where", source.where_sql.clone());
    fact("format", Some(source.format.clone()));
    for (name, value) in &source.format_options {
        fact(&format!("{}.{name}", source.format), Some(format!("{value:?}")));
    }
    let unknown = format!("{:?}", source.contract.unknown).to_lowercase();
    fact("unknown_fields", Some(unknown));
    for column in &source.contract.columns {
        let origin = column.origin.to_string();
        fact(&format!("{}.from", column.name), (origin != column.name).then_some(origin));
        fact(&format!("{}.required", column.name), column.required.then(|| "true".to_string()));
    }
    for (name, sql) in &source.enrich {
        fact(&format!("enrich.{name}"), Some(sql.clone()));
    }
    fact("time", source.time.clone());
    fact("lateness", source.lateness.map(shown));
    fact("ahead_max", source.ahead_max.map(shown));
    fact("retain", source.retain.map(shown));
    fact("key", list(&source.key));
    fact("version", source.version.clone());
    fact("deleted", source.deleted.clone());
    if let Some(dedupe) = &source.dedupe {
        fact("dedupe", Some(format!("{} within {}", dedupe.by.join(", "), shown(dedupe.within))));
    }
    fact("quarantine_max", source.quarantine_max.map(|share| format!("{}%", share * 100.0)));
    fact("measure", shown_measures(&source.measures));
    entry(What::Source, &source.name, facts, columns(&source.schema), Vec::new())
}

fn model_entry(model: &Model, inputs: Vec<(String, String)>) -> ManifestEntry {
    let mut facts = BTreeMap::from([(QUERY.to_string(), model.plan.fingerprint.clone())]);
    if !model.key.is_empty() {
        facts.insert("key".into(), model.key.join(", "));
    }
    if let Refresh::Full { interval } = model.refresh {
        facts.insert("refresh".into(), "full".into());
        facts.insert("refresh_interval".into(), shown(interval));
    }
    if model.on_error == OnError::Hold {
        facts.insert("on_error".into(), "hold".into());
    }
    if let Some(measures) = shown_measures(&model.measures) {
        facts.insert("measure".into(), measures);
    }
    if let Some(check) = &model.check {
        facts.insert("severity".into(), check.severity.name().into());
        facts.insert("tolerance".into(), check.tolerance.to_string());
        facts.insert("grace".into(), shown(check.grace));
        if !check.holds.is_empty() {
            facts.insert("holds".into(), check.holds.join(", "));
        }
    }
    entry(What::Model, &model.name, facts, columns(&model.schema), inputs)
}

fn sink_entry(sink: &Sink, inputs: Vec<(String, String)>) -> ManifestEntry {
    let mut facts = BTreeMap::from([
        ("kind".to_string(), sink.kind.name().to_string()),
        ("from".to_string(), sink.from.to_string()),
    ]);
    match &sink.kind {
        SinkKind::Postgres(to) => {
            // As written: secrets are named here, never shown.
            facts.insert("url".into(), to.url.as_written().to_string());
            facts.insert("table".into(), format!("{}.{}", to.schema, to.table));
        }
        SinkKind::Lake(to) => {
            facts.insert("table".into(), to.table.clone());
        }
    }
    if let Some(condition) = &sink.where_sql {
        facts.insert("where".into(), condition.clone());
    }
    if let Some(on_error) = sink.on_error {
        facts.insert("on_error".into(), format!("{on_error:?}").to_lowercase());
    }
    entry(What::Sink, &sink.name, facts, Vec::new(), inputs)
}

fn columns(schema: &SchemaRef) -> Vec<(String, String)> {
    schema.fields().iter().map(|field| (field.name().clone(), weir_schemas::sql_type_name(field.data_type()))).collect()
}

fn shown_measures(measures: &[Measure]) -> Option<String> {
    let shown: Vec<String> = measures.iter().map(ToString::to_string).collect();
    (!shown.is_empty()).then(|| shown.join("; "))
}

/// A duration in the largest unit that it is a whole number of.
fn shown(duration: Duration) -> String {
    let micros = duration.as_micros();
    let units = [
        (86_400_000_000, "day"),
        (3_600_000_000, "hour"),
        (60_000_000, "minute"),
        (1_000_000, "second"),
        (1_000, "millisecond"),
        (1, "microsecond"),
    ];
    let (size, unit) = units.into_iter().find(|(size, _)| micros.is_multiple_of(*size)).unwrap_or((1, "microsecond"));
    let number = micros / size;
    format!("{number} {unit}{}", if number == 1 { "" } else { "s" })
}
