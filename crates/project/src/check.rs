//! Checks: a SELECT that must return no rows, kept like a model.

use std::time::Duration;

/// The SQL schema that checks are relations of: `checks/no_debt.sql` is `checks.no_debt`.
pub const CHECKS_SCHEMA: &str = "checks";

/// What is asked of a check's rows, each of which is a violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What a violation does.
    pub severity: CheckSeverity,
    /// So many rows are put up with.
    pub tolerance: u64,
    /// For so long, by the epochs' clock, more are put up with.
    pub grace: Duration,
    /// What is said of a violation, with `{column}` filled in from its row.
    pub message: Option<String>,
    /// Sinks that wait while it is violated, for [`CheckSeverity::Block`]; all when none is named.
    pub holds: Vec<String>,
    /// Who is told of violations, of [`MESSENGERS`].
    pub notify: Vec<String>,
}

/// Who can be told of violations: keys of `[checks]` in weir.toml.
pub const MESSENGERS: [&str; 2] = ["webhook", "command"];

impl Check {
    /// Whether a sink waits while it is violated.
    pub fn holds(&self, sink: &str) -> bool {
        self.severity == CheckSeverity::Block && (self.holds.is_empty() || self.holds.iter().any(|held| held == sink))
    }
}

/// What a violation does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckSeverity {
    /// It is told.
    Warn,
    /// It is told, and `weir checks` answers no.
    Error,
    /// The same, and sinks hold the last epoch before it.
    Block,
}

impl CheckSeverity {
    /// As it stands in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::Warn => "warn",
            Self::Error => "error",
            Self::Block => "block",
        }
    }
}
