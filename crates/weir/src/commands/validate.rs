//! `weir validate`: every mistake of a project at once.

use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use clap::Args;
use serde_json::json;
use weir_incremental::Growth;
use weir_project::{Mistake, Project, Refresh, Severity, SinkKind, SourceKind, Template};

use super::{Answer, Failure};
use crate::cli::Global;
use crate::output::Format;
use crate::report;

/// Arguments of `weir validate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Also look whether secrets are there, folders exist and services answer
    #[arg(long)]
    connect: bool,
}

const EXAMPLES: &str = "\
Reads everything and touches nothing outside the folder, unless --connect is given. Exit code 2 when there is an error.

Examples:
  weir validate
  weir -C shop validate --profile prod --connect
  weir validate --format json     the mistakes for an editor or a build";

/// How long a service may take to answer.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// Runs the command.
pub fn run(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let reading = Project::read(&global.dir, global.profile.as_deref());
    let mut mistakes = reading.mistakes;
    if let Some(project) = &reading.project {
        mistakes.extend(unbounded(project));
        if arguments.connect {
            mistakes.extend(unreachable(project));
        }
    }
    let errors = mistakes.iter().filter(|mistake| mistake.is_error()).count();
    match global.format {
        Format::Json => println!("{}", serde_json::Value::Array(mistakes.iter().map(as_json).collect())),
        _ => {
            report::mistakes(&mistakes);
            if errors > 0 {
                report::error(&report::count(errors, "mistake"));
            } else if let Some(project) = &reading.project {
                println!("{}", summary(project));
            }
        }
    }
    if errors > 0 { Err(Failure::Mistakes) } else { Ok(Answer::Yes) }
}

fn summary(project: &Project) -> String {
    let checks = project.models.iter().filter(|model| model.check.is_some()).count();
    format!(
        "ok: {}, {}, {}, {}, {}",
        report::count(project.sources.len(), "source"),
        report::count(project.models.len() - checks, "model"),
        report::count(checks, "check"),
        report::count(project.sinks.len(), "sink"),
        report::count(project.tests.len(), "test"),
    )
}

fn as_json(mistake: &Mistake) -> serde_json::Value {
    json!({
        "code": mistake.code,
        "severity": if mistake.severity == Severity::Error { "error" } else { "warning" },
        "file": mistake.file,
        "line": mistake.line,
        "column": mistake.column,
        "length": mistake.length,
        "message": mistake.message,
        "hint": mistake.hint,
    })
}

/// Models that remember every row of what never ends: one warning a model. One row of each key that the query names is what
/// was asked for; `weir explain` tells of it.
fn unbounded(project: &Project) -> Vec<Mistake> {
    let streams = project.sources.iter().filter(|source| source.key.is_empty()).map(|source| source.name.clone());
    let mut growth = Growth::of(streams);
    let mut mistakes = Vec::new();
    for model in &project.models {
        let states = growth.add(&model.plan).into_iter().filter(|state| state.every_row);
        let kept: Vec<String> = states.map(|state| state.kept).collect();
        if !kept.is_empty() && model.refresh == Refresh::Incremental {
            let message = format!("nothing bounds what `{}` remembers: {}", model.name, kept.join("; "));
            let hint = format!("`weir explain {}` shows how fast it grows, and what would bound it", model.name);
            mistakes.push(Mistake::of_file(&model.file, "unbounded_state", message).hint(hint).warning());
        }
    }
    mistakes
}

/// What of the outside is not there.
fn unreachable(project: &Project) -> Vec<Mistake> {
    let mut mistakes = Vec::new();
    for source in &project.sources {
        let SourceKind::Files(files) = &source.kind else { continue };
        let whole =
            files.path.components().take_while(|part| !part.as_os_str().to_string_lossy().contains(['*', '?', '[']));
        let mut folder: std::path::PathBuf = whole.collect();
        if folder == files.path {
            folder.pop();
        }
        if !folder.is_dir() {
            let message = format!("the folder {} is not there", folder.display());
            mistakes.push(Mistake::of_file(&source.file, "unreachable", message).hint("make it, or mend `path`"));
        }
    }
    for sink in &project.sinks {
        let SinkKind::Postgres(postgres) = &sink.kind else { continue };
        if let Err(message) = reach(&postgres.url) {
            mistakes.push(Mistake::of_file(&sink.file, "unreachable", message));
        }
    }
    mistakes
}

/// Whether the secrets of a PostgreSQL URL are there and its host answers.
fn reach(url: &Template) -> Result<(), String> {
    let secret = url.resolve().map_err(|error| error.to_string())?;
    let rest = secret.expose().split_once("://").map_or("", |(_, rest)| rest);
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    let host = authority.rsplit('@').next().unwrap_or_default();
    let host = if host.rsplit(']').next().is_some_and(|end| end.contains(':')) {
        host.to_string()
    } else {
        format!("{host}:5432")
    };
    let addresses = host.to_socket_addrs().map_err(|error| format!("{host} is unknown: {error}"))?;
    let mut last = format!("{host} has no address");
    for address in addresses {
        match TcpStream::connect_timeout(&address, CONNECT_WAIT) {
            Ok(_) => return Ok(()),
            Err(error) => last = format!("{host} does not answer: {error}"),
        }
    }
    Err(last)
}
