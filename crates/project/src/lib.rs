//! The user's folder: read, resolved, validated; its graph and its versions.
//!
//! [`Project::read`] is the one way in. It reads everything, touches nothing outside the folder and reports every
//! mistake at once, each with file, line, column and a hint. This crate runs nothing.

pub mod check;
mod document;
mod fields;
pub mod graph;
pub mod infer;
pub mod keys;
pub mod manifest;
pub mod measure;
pub mod mistake;
pub mod model;
mod project;
pub mod quantity;
mod read;
pub mod secret;
pub mod settings;
pub mod sink;
pub mod source;
pub mod split;
pub mod test_case;

pub use check::{CHECKS_SCHEMA, Check, CheckSeverity, MESSENGERS};
pub use graph::Graph;
pub use manifest::{Change, ChangeKind, ChangeSeverity, Manifest, ManifestEntry, What};
pub use measure::Measure;
pub use mistake::{Mistake, Severity};
pub use model::{Model, OnError, Refresh};
pub use project::{Project, Reading};
pub use read::FOLDERS;
pub use secret::{Secret, Template};
pub use settings::Settings;
pub use sink::{Sink, SinkKind};
pub use source::{Source, SourceKind};
pub use split::Split;
pub use test_case::TestCase;
