//! `weir checks`: which checks are violated, by which rows; and putting up with a violation.

use clap::{Args, Subcommand};
use serde_json::Value;
use weir_project::mistake::did_you_mean;
use weir_project::{CHECKS_SCHEMA, Project};
use weir_server::Control;

use super::query::ask;
use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;
use crate::offline;
use crate::output::{Format, write_batches};

/// Rows shown of a violation.
const ROWS_MAX: usize = 5;

/// Arguments of `weir checks`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// Only this check
    name: Option<String>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Puts up with a violation until it is clear; the ledger says who and why
    Waive {
        /// The check
        name: String,
        /// Who puts up with it
        #[arg(long)]
        by: String,
        /// Why
        #[arg(long)]
        why: String,
    },
}

const EXAMPLES: &str = "\
A check is a file of checks/: a SELECT that must return no rows. The exit code is 1 when one of severity `error` or `block`
is violated and nobody has put up with it.

Examples:
  weir checks
  weir checks paid_twice
  weir checks waive paid_twice --by ann --why \"a test of the bank, booked back tomorrow\"
  weir query \"SELECT * FROM checks.paid_twice\"";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let format = global.format;
    match &arguments.command {
        Some(Command::Waive { name, by, why }) => {
            let check = relation(&project, name)?;
            let order = Control::Waive { check: check.clone(), by: by.clone(), why: why.clone() };
            block_on(|_| async move {
                let answer = offline::order(project, order).await?;
                println!("`{check}` is put up with from epoch {} until it is clear", answer["epoch"]);
                Ok(Answer::Yes)
            })
        }
        None => {
            let only = arguments.name.as_deref().map(|name| relation(&project, name)).transpose()?;
            block_on(|_| async move { Ok(tell(project, only.as_deref(), format).await?) })
        }
    }
}

/// The relation of a check.
fn relation(project: &Project, name: &str) -> Result<String, Failure> {
    let bare = name.strip_prefix(CHECKS_SCHEMA).and_then(|rest| rest.strip_prefix('.')).unwrap_or(name);
    let relation = format!("{CHECKS_SCHEMA}.{bare}");
    if project.model(&relation).is_some() {
        return Ok(relation);
    }
    let prefix = format!("{CHECKS_SCHEMA}.");
    let names: Vec<&str> = project.models.iter().filter_map(|model| model.name.strip_prefix(&prefix)).collect();
    let hint = did_you_mean(bare, names.iter().copied()).unwrap_or_else(|| match names.is_empty() {
        true => format!("a check is a file in {CHECKS_SCHEMA}/, and named after it"),
        false => format!("there are: {}", names.join(", ")),
    });
    Err(Failure::Wrong(format!("there is no check `{bare}`; {hint}")))
}

async fn tell(project: Project, only: Option<&str>, format: Format) -> anyhow::Result<Answer> {
    let filter = only.map_or_else(String::new, |name| format!(" WHERE name = '{name}'"));
    let (schema, batches) = ask(project.clone(), &format!("SELECT * FROM weir.checks{filter} ORDER BY name")).await?;
    write_batches(&schema, &batches, format, &mut std::io::stdout().lock())?;
    let mut answer = Answer::Yes;
    for check in batches.iter().flat_map(weir_schemas::to_json_rows) {
        if check["state"] != "open" {
            continue;
        }
        if check["severity"] != "warn" {
            answer = Answer::No;
        }
        if format == Format::Table {
            let name = check["name"].as_str().unwrap_or_default();
            violations(&project, name, check["rows"].as_u64().unwrap_or(0)).await?;
        }
    }
    Ok(answer)
}

/// Prints the first rows of a violation, as its message says it.
async fn violations(project: &Project, name: &str, rows: u64) -> anyhow::Result<()> {
    let message = project.model(name).and_then(|model| model.check.as_ref()?.message.clone());
    println!("\n{name}:");
    let (_, batches) = ask(project.clone(), &format!("SELECT * FROM {name} LIMIT {ROWS_MAX}")).await?;
    let shown: Vec<Value> = batches.iter().flat_map(weir_schemas::to_json_rows).collect();
    for row in &shown {
        println!("  {}", message.as_deref().map_or_else(|| row.to_string(), |message| filled(message, row)));
    }
    if rows > shown.len() as u64 {
        println!("  and {} more", rows - shown.len() as u64);
    }
    Ok(())
}

/// A message with `{column}` filled in.
fn filled(message: &str, row: &Value) -> String {
    let mut text = message.to_owned();
    for (column, value) in row.as_object().into_iter().flatten() {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        text = text.replace(&format!("{{{column}}}"), &value);
    }
    text
}
