//! From the files of a folder to the parts of a project, one file a kind of file.

pub(crate) mod columns;
pub(crate) mod folder;
pub(crate) mod matchers;
pub(crate) mod measures;
pub(crate) mod models;
pub(crate) mod rows;
pub(crate) mod rules;
pub(crate) mod sinks;
pub(crate) mod sources;
pub(crate) mod splits;
pub(crate) mod sql;
pub(crate) mod tests;

pub use folder::FOLDERS;

use std::collections::BTreeMap;

use arrow::datatypes::SchemaRef;

use crate::fields::Fields;
use crate::mistake::Mistake;
use crate::source::Notes;

/// What is known of the relations while a project is being read.
#[derive(Default)]
pub(crate) struct Relations {
    /// By name; None for one whose file has mistakes, so that nothing more is said of what reads it.
    pub known: BTreeMap<String, Option<Known>>,
}

/// A relation whose file is right.
#[derive(Clone)]
pub(crate) struct Known {
    pub schema: SchemaRef,
    pub append_only: bool,
    pub key: Vec<String>,
}

impl Relations {
    /// All names, for hints.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.known.keys().map(String::as_str)
    }
}

/// Reads `description`, `owner` and `tags`.
pub(crate) fn read_notes(fields: &Fields<'_>, mistakes: &mut Vec<Mistake>) -> Notes {
    Notes {
        description: fields.given_text("description", mistakes).map(|text| text.value),
        owner: fields.given_text("owner", mistakes).map(|text| text.value),
        tags: fields.text_list("tags", mistakes).into_iter().map(|tag| tag.value).collect(),
        ..Notes::default()
    }
}
