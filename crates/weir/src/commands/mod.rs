//! One file a command: its arguments, its help with examples, and `run`.

pub mod backfill;
pub mod backup;
pub mod checks;
pub mod completion;
pub mod demo;
pub mod doctor;
pub mod explain;
pub mod graph;
pub mod ledger;
pub mod log;
pub mod new;
pub mod query;
pub mod replay;
pub mod restore;
pub mod run;
pub mod schema;
pub mod simulate;
pub mod status;
pub mod test;
pub mod validate;
pub mod verify;
pub mod why;

use tokio::sync::watch;
use weir_project::{Mistake, Project};

use crate::cli::Global;
use crate::host::{ChangedProject, FolderInUse};
use crate::{report, signals};

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

/// Runs the asynchronous part of a command; Ctrl-C turns the channel true.
pub fn block_on<W, F>(work: W) -> Result<Answer, Failure>
where
    W: FnOnce(watch::Sender<bool>) -> F,
    F: Future<Output = Result<Answer, Failure>>,
{
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let (stop, _) = watch::channel(false);
    let result = runtime.block_on(async {
        signals::stop_on_signal(stop.clone())?;
        work(stop).await
    });
    // What still runs beside holds nothing that must be finished.
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    result.map_err(|failure| match failure {
        Failure::Failed(error) => report_changed(error),
        other => other,
    })
}

/// A changed project and a folder in use are the asker's to settle, not failures of the work.
fn report_changed(error: anyhow::Error) -> Failure {
    if let Some(changed) = error.downcast_ref::<ChangedProject>() {
        let mut message = String::from("the project changed in meaning since it ran last:");
        for change in &changed.changes {
            message.push_str(&format!("\n  {change}"));
        }
        message.push_str(
            "\nhelp: --on-change rebuild builds what changed from history; --on-change keep runs what was accepted",
        );
        if changed.needs_allow_drop {
            message.push_str("\nhelp: something would be dropped: add --allow-drop to allow that");
        }
        return Failure::Wrong(message);
    }
    if let Some(failure) = error.downcast_ref::<weir_server::Failure>()
        && failure.kind == weir_server::FailureKind::Request
    {
        let hint = failure.hint.as_ref().map(|hint| format!("\nhelp: {hint}")).unwrap_or_default();
        return Failure::Wrong(format!("{failure}{hint}"));
    }
    if error.downcast_ref::<FolderInUse>().is_some() {
        return Failure::Failed(error.context("stop the other one first"));
    }
    Failure::Failed(error)
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
