//! `weir checks`: which checks are violated, by which rows; and putting up with a violation.

use arrow::array::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use clap::{Args, Subcommand};
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
/// Past violations shown of a check.
const VIOLATIONS_MAX: usize = 20;

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
is violated and nobody has put up with it. With a name, its past violations are shown as well; `weir.violations` has all.

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
    if format == Format::Table && batches.iter().all(|batch| batch.num_rows() == 0) {
        println!(
            "there are no checks: one is a file in {CHECKS_SCHEMA}/, or a line `checks = [...]` beside a source or model"
        );
        return Ok(Answer::Yes);
    }
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
    if let (Some(name), Format::Table) = (only, format) {
        history(&project, name).await?;
    }
    Ok(answer)
}

/// Prints the last violations of a check, as the ledger has them.
async fn history(project: &Project, name: &str) -> anyhow::Result<()> {
    let sql = format!(
        "SELECT state, opened_epoch, opened, rows, waived_by, waived_why, closed_epoch, closed FROM weir.violations \
         WHERE name = '{name}' ORDER BY opened_epoch DESC LIMIT {VIOLATIONS_MAX}"
    );
    let (schema, batches) = ask(project.clone(), &sql).await?;
    if batches.iter().all(|batch| batch.num_rows() == 0) {
        println!("\nIt was never violated.");
        return Ok(());
    }
    println!("\nIts violations, the latest first:");
    write_batches(&schema, &batches, Format::Table, &mut std::io::stdout().lock())
}

/// Prints the first rows of a violation, as its message says it.
async fn violations(project: &Project, name: &str, rows: u64) -> anyhow::Result<()> {
    let message = project.model(name).and_then(|model| model.check.as_ref()?.message.clone());
    println!("\n{name}:");
    let (_, batches) = ask(project.clone(), &format!("SELECT * FROM {name} LIMIT {ROWS_MAX}")).await?;
    let mut shown = 0;
    for batch in batches.iter().filter(|batch| batch.num_rows() > 0) {
        let plain = weir_schemas::to_json_rows(batch);
        for (row, plain) in plain.iter().enumerate() {
            let told = message.as_deref().map(|message| filled(message, batch, row)).transpose()?;
            println!("  {}", told.unwrap_or_else(|| plain.to_string()));
            shown += 1;
        }
    }
    if rows > shown {
        println!("  and {} more", rows - shown);
    }
    Ok(())
}

/// A message with `{column}` filled in, every value to its last digit.
fn filled(message: &str, rows: &RecordBatch, row: usize) -> anyhow::Result<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut text = message.to_owned();
    for (field, column) in rows.schema().fields().iter().zip(rows.columns()) {
        let value = ArrayFormatter::try_new(column, &options)?.value(row).to_string();
        text = text.replace(&format!("{{{}}}", field.name()), &value);
    }
    Ok(text)
}
