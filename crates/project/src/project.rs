//! A whole project, and reading one.

use std::path::{Path, PathBuf};

use weir_incremental::Relation;

use crate::fields::Layer;
use crate::manifest::Manifest;
use crate::mistake::{FileText, Mistake};
use crate::{Model, Settings, Sink, Source, TestCase, document};

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
    /// In order of dependency: every model stands behind what it reads.
    pub models: Vec<Model>,
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
        let text = FileText::new("weir.toml", std::fs::read_to_string(dir.join("weir.toml")).unwrap_or_default());
        let table = document::parse(&text, &mut mistakes);
        let settings = Settings::read(dir, &[Layer { text: &text, table: &table }], &mut mistakes);
        let project = Project {
            dir: dir.to_path_buf(),
            profile: profile.map(str::to_string),
            settings,
            sources: Vec::new(),
            models: Vec::new(),
            sinks: Vec::new(),
            tests: Vec::new(),
        };
        Reading { project: (!mistakes.iter().any(Mistake::is_error)).then_some(project), mistakes }
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
    pub fn schema(&self, relation: &Relation) -> Option<&arrow::datatypes::SchemaRef> {
        self.source(relation).map(|s| &s.schema).or_else(|| self.model(relation).map(|m| &m.schema))
    }

    /// Its meaning, to be compared with what a later folder means.
    pub fn manifest(&self) -> Manifest {
        Manifest::default()
    }
}
