//! One file a command: its arguments, its help with examples, and `run`.

pub mod completion;
pub mod graph;
pub mod new;
pub mod schema;
pub mod validate;

use weir_project::{Mistake, Project};

use crate::cli::Global;
use crate::report;

/// How a command that did its work ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// Done, or yes: exit code 0.
    Yes,
    /// The answer is no (rows differ, a check fails): exit code 1.
    No,
}

/// Why a command did not do its work.
#[derive(Debug)]
pub enum Failure {
    /// The command line asks for what cannot be: exit code 2.
    Wrong(String),
    /// The project has mistakes, which are told already: exit code 2.
    Mistakes,
    /// The work failed: exit code 3.
    Failed(anyhow::Error),
    /// Ctrl-C or a signal: exit code 130.
    #[allow(dead_code, reason = "for commands that run until stopped")]
    Interrupted,
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Failure::Failed(error)
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Failure::Failed(error.into())
    }
}

/// Reads the project that the command line names; its mistakes are told on standard error.
pub fn read_project(global: &Global) -> Result<Project, Failure> {
    let reading = Project::read(&global.dir, global.profile.as_deref());
    report::mistakes(&reading.mistakes);
    match reading.project {
        Some(project) => Ok(project),
        None => {
            let errors = reading.mistakes.iter().filter(|mistake: &&Mistake| mistake.is_error()).count();
            report::error(&report::count(errors, "mistake"));
            Err(Failure::Mistakes)
        }
    }
}
