//! Sinks: which relation goes where.

use std::path::PathBuf;

use weir_incremental::Relation;

use crate::model::OnError;
use crate::secret::Template;
use crate::source::Notes;

/// One destination.
#[derive(Debug, Clone)]
pub struct Sink {
    /// The file's name.
    pub name: String,
    /// Its file, relative to the project's folder.
    pub file: PathBuf,
    /// What takes the rows.
    pub kind: SinkKind,
    /// The relation it is fed from.
    pub from: Relation,
    /// Which of its rows, as SQL over its columns; None for all.
    pub where_sql: Option<String>,
    /// What to do while rows of the model fail; None: as the model says.
    pub on_error: Option<OnError>,
    /// For people.
    pub notes: Notes,
}

/// What takes the rows, with its own options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkKind {
    /// A PostgreSQL table.
    Postgres(PostgresOptions),
    /// A Delta Lake table of the relation's contents, beside the history that is kept anyway.
    Lake(LakeOptions),
}

impl SinkKind {
    /// As written in `kind = "..."`.
    pub fn name(&self) -> &'static str {
        match self {
            SinkKind::Postgres(_) => "postgres",
            SinkKind::Lake(_) => "lake",
        }
    }
}

/// Where in PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    /// The connection, may name secrets.
    pub url: Template,
    /// Schema of the table.
    pub schema: String,
    /// The table.
    pub table: String,
}

/// Where in the lake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LakeOptions {
    /// Name of the table.
    pub table: String,
}
