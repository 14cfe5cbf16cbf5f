//! `weir doctor`: says what of the data folder is whole, what is damaged, and repairs what another store can restore.

use clap::Args;
use serde_json::json;
use weir_environment::Environment;
use weir_project::Project;

use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;
use crate::doctor::{Cure, Report, carry_out, data_folder, examine, shown};
use crate::host::lock;
use crate::output::Format;

/// Arguments of `weir doctor`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Carry out the repairs that were listed; what they replace is moved aside, never removed
    #[arg(long)]
    repair: bool,
    /// Do not ask the sinks how far they are
    #[arg(long)]
    no_sinks: bool,
}

const EXAMPLES: &str = "\
Reads every byte of log, journal, ledger, checkpoint and lake, and holds them against each other and against what the
sinks have. Changes nothing unless told to. The pipeline has to be stopped. Exit code 1 when something is damaged.

Examples:
  weir doctor
  weir doctor --format json
  weir doctor --repair           does what `weir doctor` said it would";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let (repair, ask_sinks, format) = (arguments.repair, !arguments.no_sinks, global.format);
    block_on(|_| async move { Ok(doctor(project, repair, ask_sinks, format).await?) })
}

async fn doctor(project: Project, repair: bool, ask_sinks: bool, format: Format) -> anyhow::Result<Answer> {
    let environment = Environment::real();
    let data = data_folder(&project);
    if !environment.storage.exists(&data) {
        println!("{} is not there: nothing has run yet", data.display());
        return Ok(Answer::Yes);
    }
    let held = lock(&environment, &data)?;
    let report = examine(&environment, &project, ask_sinks).await?;
    if !repair {
        print(&project, &report, format);
        return Ok(if report.whole { Answer::Yes } else { Answer::No });
    }
    let repairs = report.repairs();
    let quiet = format == Format::Json;
    if !quiet {
        print(&project, &report, format);
    }
    carry_out(&environment, &project, held, &repairs, &|what| {
        if !quiet {
            println!("repair: {what}");
        }
    })
    .await?;
    let _held = lock(&environment, &data)?;
    let after = examine(&environment, &project, ask_sinks).await?;
    if quiet {
        println!("{}", json!({"before": report, "repairs": repairs, "after": after}));
    } else if !repairs.is_empty() {
        println!();
        print(&project, &after, format);
    }
    Ok(if after.whole { Answer::Yes } else { Answer::No })
}

fn print(project: &Project, report: &Report, format: Format) {
    if format == Format::Json {
        println!("{}", json!(report));
        return;
    }
    let width = report.stores.iter().map(|store| store.store.len()).max().unwrap_or(0);
    for store in &report.stores {
        let state = if store.whole { "whole  " } else { "DAMAGED" };
        println!("{:width$}  {state}  {}", store.store, store.holds);
    }
    for damage in &report.damages {
        let byte = damage.byte.map(|byte| format!(" at byte {byte}")).unwrap_or_default();
        let records = damage.records.as_ref().map(|records| format!(", {records}")).unwrap_or_default();
        println!("\ndamage in {}: {}{byte}{records}", damage.store, shown(&project.dir, &damage.file));
        println!("  what:  {}", damage.what);
        println!("  means: {}", damage.means);
        match &damage.cure {
            Cure::Repair(repair) => println!("  help:  `weir doctor --repair` {}", repair.describe()),
            Cure::None(why) => println!("  help:  nothing here can restore it: {why}"),
        }
    }
    for note in &report.notes {
        println!("\nnote: {note}");
    }
    if report.whole {
        println!("\nall of it is whole, and of one time");
    } else {
        let repairable = report.damages.iter().filter(|damage| matches!(damage.cure, Cure::Repair(_))).count();
        println!("\n{} damaged, {repairable} of them can be repaired", report.damages.len());
    }
}
