//! A whole project, and reading one.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use arrow::datatypes::SchemaRef;
use datafusion::error::DataFusionError;
use weir_incremental::{Planner, Relation, RelationTraits};

use crate::document;
use crate::fields::{Fields, Layer};
use crate::keys;
use crate::mistake::Mistake;
use crate::read::folder::{Folder, NamedFile};
use crate::read::{Known, Relations, matchers, models, rules, sinks, sources, splits, tests};
use crate::{Model, Settings, Sink, Source, SourceKind, Split, TestCase};

/// A project without mistakes.
#[derive(Debug, Clone)]
pub struct Project {
    /// Its folder.
    pub dir: PathBuf,
    /// The profile it was read under.
    pub profile: Option<String>,
    /// `weir.toml` and the profile's overlay.
    pub settings: Settings,
    /// By name.
    pub sources: Vec<Source>,
    /// In order of dependency: every model stands behind what it reads. Checks are among them.
    pub models: Vec<Model>,
    /// By name. The relations in them are among the models.
    pub splits: Vec<Split>,
    /// By name.
    pub sinks: Vec<Sink>,
    /// By file.
    pub tests: Vec<TestCase>,
}

/// What reading a folder came to.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The project; None when there is an error among the mistakes.
    pub project: Option<Project>,
    /// All mistakes, errors and warnings, by file and place.
    pub mistakes: Vec<Mistake>,
}

impl Project {
    /// Reads the folder `dir` under a profile. Touches nothing outside of it.
    pub fn read(dir: &Path, profile: Option<&str>) -> Reading {
        let mut mistakes = Vec::new();
        let project = read(dir, profile, &mut mistakes);
        mistakes.sort_by(|a, b| (&a.file, a.line, a.column, a.code).cmp(&(&b.file, b.line, b.column, b.code)));
        mistakes.dedup();
        let sound = !mistakes.iter().any(Mistake::is_error);
        Reading { project: project.filter(|_| sound), mistakes }
    }

    /// The source of that name.
    pub fn source(&self, name: &str) -> Option<&Source> {
        self.sources.iter().find(|source| &*source.name == name)
    }

    /// The model of that name.
    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| &*model.name == name)
    }

    /// Schema of a source or model.
    pub fn schema(&self, relation: &str) -> Option<&SchemaRef> {
        self.source(relation).map(|source| &source.schema).or_else(|| self.model(relation).map(|model| &model.schema))
    }

    /// Names of all relations: sources, then models in order of dependency.
    pub fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.sources.iter().map(|source| &source.name).chain(self.models.iter().map(|model| &model.name))
    }

    /// A planner that knows all of the project's relations, for queries over them.
    pub fn planner(&self) -> Result<Planner, DataFusionError> {
        let mut planner = new_planner()?;
        for source in &self.sources {
            let traits = RelationTraits { append_only: source.append_only(), key: source.key.clone() };
            planner.add_relation(source.name.clone(), source.schema.clone(), traits);
        }
        for model in &self.models {
            let traits = RelationTraits { append_only: model.plan.append_only, key: model.key.clone() };
            planner.add_relation(model.name.clone(), model.schema.clone(), traits);
        }
        Ok(planner)
    }
}

fn new_planner() -> Result<Planner, DataFusionError> {
    Planner::new(&weir_functions::register)
}

fn read(dir: &Path, profile: Option<&str>, mistakes: &mut Vec<Mistake>) -> Option<Project> {
    let folder = Folder::read(dir, profile, mistakes)?;
    let tables: Vec<document::Table> = folder.settings.iter().map(|text| document::parse(text, mistakes)).collect();
    let layers: Vec<Layer<'_>> =
        folder.settings.iter().zip(&tables).map(|(text, table)| Layer { text, table }).collect();
    let settings = Settings::read(dir, &layers, mistakes);
    let mut planner = match new_planner() {
        Ok(planner) => planner,
        Err(error) => {
            let message = format!("SQL cannot be planned: {}", error.strip_backtrace());
            mistakes.push(Mistake::of_file("weir.toml", "unreadable", message));
            return None;
        }
    };
    let mut relations = Relations::default();
    let mut read_sources: Vec<Source> = Vec::new();
    for file in &folder.sources {
        relations.known.insert(file.name.clone(), None);
        let Some(source) = sources::read_source(dir, file, &planner, mistakes) else { continue };
        let known = Known { schema: source.schema.clone(), append_only: source.append_only(), key: source.key.clone() };
        let traits = RelationTraits { append_only: known.append_only, key: known.key.clone() };
        planner.add_relation(source.name.clone(), source.schema.clone(), traits);
        relations.known.insert(file.name.clone(), Some(known));
        read_sources.push(source);
    }
    check_shared_inputs(&read_sources, mistakes);
    let split = splits::read_splits(&folder.splits, mistakes);
    let key_of = |name: &str| declared_key(name, &read_sources, &folder, &split.models);
    let matched = matchers::read_matchers(&folder.matchers, &key_of, mistakes);
    let mut checks = ready_made_checks(&folder, mistakes);
    checks.extend(folder.checks.iter().chain(&split.checks).cloned());
    let files = models::ModelFiles {
        models: folder.models.iter().chain(&split.models).chain(&matched).cloned().collect(),
        splits: &folder.splits,
        checks: &checks,
    };
    check_unique_names(&folder, &files, mistakes);
    let mut read_models = models::read_models(&files, &mut planner, &mut relations, mistakes);
    models::read_model_notes(&folder.model_notes, &mut read_models, &relations, mistakes);
    let read_sinks = sinks::read_sinks(&folder.sinks, &planner, &relations, mistakes);
    models::check_holds(&read_models, &folder.sinks, mistakes);
    let read_tests = tests::read_tests(&folder.tests, &read_sources, &relations, mistakes);
    let read_from: Vec<PathBuf> = read_sources.iter().filter_map(|source| folder_read_from(dir, source)).collect();
    folder.report_strangers(&read_from, mistakes);
    Some(Project {
        dir: dir.to_path_buf(),
        profile: profile.map(str::to_string),
        settings,
        sources: read_sources,
        models: read_models,
        splits: split.splits,
        sinks: read_sinks,
        tests: read_tests,
    })
}

/// A source's pattern relative to the project's folder, when it is inside.
fn folder_read_from(dir: &Path, source: &Source) -> Option<PathBuf> {
    let SourceKind::Files(options) = &source.kind else { return None };
    options.path.strip_prefix(dir).ok().map(Path::to_path_buf)
}

/// The checks that lines of sources and models stand for.
fn ready_made_checks(folder: &Folder, mistakes: &mut Vec<Mistake>) -> Vec<NamedFile> {
    let mut checks = Vec::new();
    for file in &folder.sources {
        // Its mistakes are told where it is read.
        let table = document::parse(&file.text, &mut Vec::new());
        checks.extend(rules::rules(file, &keys::SOURCE, &table, mistakes));
    }
    for (files, keys) in [(&folder.models, &keys::MODEL), (&folder.splits, &keys::SPLIT)] {
        for file in files {
            let table = models::settings_of(&file.text, &mut Vec::new());
            checks.extend(rules::rules(file, keys, &table, mistakes));
        }
    }
    checks
}

/// The key that a relation's file declares; empty when there is none, or no such relation.
fn declared_key(name: &str, sources: &[Source], folder: &Folder, made: &[NamedFile]) -> Vec<String> {
    if let Some(source) = sources.iter().find(|source| &*source.name == name) {
        return source.key.clone();
    }
    let file = folder.models.iter().chain(&folder.splits).chain(made).find(|file| file.name == name);
    let Some(file) = file else { return Vec::new() };
    let table = models::settings_of(&file.text, &mut Vec::new());
    let fields = Fields::new(&keys::MODEL, "", vec![Layer { text: &file.text, table: &table }]);
    fields.text_list("key", &mut Vec::new()).into_iter().map(|column| column.value).collect()
}

/// Sources and models share one space of names.
fn check_unique_names(folder: &Folder, files: &models::ModelFiles<'_>, mistakes: &mut Vec<Mistake>) {
    let mut first: BTreeMap<&str, &NamedFile> = BTreeMap::new();
    for file in folder.sources.iter().chain(&files.models).chain(files.splits).chain(files.checks) {
        if let Some(other) = first.get(file.name.as_str()) {
            let message = format!("`{}` is defined by {} already", file.name, other.text.file().display());
            mistakes.push(
                Mistake::of_file(file.text.file(), "duplicate_name", message)
                    .hint("sources and models share one space of names: rename one of the files"),
            );
        } else {
            first.insert(&file.name, file);
        }
    }
}

/// Sources that share an input must agree on what it is.
fn check_shared_inputs(sources: &[Source], mistakes: &mut Vec<Mistake>) {
    let mut first: BTreeMap<(&str, &str), &Source> = BTreeMap::new();
    for source in sources {
        let key = (source.kind.name(), source.input.as_str());
        let Some(other) = first.get(&key) else {
            first.insert(key, source);
            continue;
        };
        let differs = match () {
            () if other.kind != source.kind => "other files",
            () if other.format != source.format || other.format_options != source.format_options => "another format",
            () => continue,
        };
        let message = format!("reads the input \"{}\" with {differs} than `{}`", source.input, other.name);
        mistakes
            .push(Mistake::of_file(&source.file, "bad_value", message).hint(
                "sources that share an input read the same bytes: make them agree, or give `input` another name",
            ));
    }
}
