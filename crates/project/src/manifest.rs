//! Versions: what of a project has a meaning, written down so that the next start can tell what changed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

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
