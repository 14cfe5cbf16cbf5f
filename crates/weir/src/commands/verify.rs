//! `weir verify`: recomputes every model in batch from history and compares it with the live one.

use anyhow::Context;
use weir_pipeline::verify::{Verification, verify_sink};
use weir_project::Project;
use weir_server::client::Client;

use clap::Args;

use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;
use crate::offline;
use crate::output::Format;
use crate::progress::Progress;
use crate::report;
use crate::wiring::open_sinks;

/// Arguments of `weir verify`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {}

const EXAMPLES: &str = "\
Runs every model's SQL in batch over the sources' history and compares rows, checksums and measures; replays the ledger
from its first entry, and names the first that does not fit. While nothing runs, destinations are read back and their rows
and checksums compared with the relation's. Exit code 1 when something differs.

Examples:
  weir verify
  weir verify --format json";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let _ = arguments;
    let format = global.format;
    block_on(|_| async move { Ok(if verify(project, format).await? { Answer::Yes } else { Answer::No }) })
}

/// Verifies and prints; true when everything is equal.
pub async fn verify(project: Project, format: Format) -> anyhow::Result<bool> {
    let verification: serde_json::Value = if let Some(client) = Client::attach(&project.dir).await? {
        client.verify(&[]).await?
    } else {
        let (service, host) = offline::open(project).await?;
        let progress = Progress::new();
        let mut verification: Verification =
            service.verify_all(&|relation| progress.line(&format!("verifying {relation}"))).await?;
        let snapshot = host.core.contents().pin();
        for mut feed in
            open_sinks(&host.environment, &host.project, &host.spec, &host.generations, &host.lineage).await?
        {
            progress.line(&format!("verifying sink {}", feed.name));
            verification.sinks.push(verify_sink(&snapshot, &mut feed).await?);
        }
        progress.done();
        let equal = verification.equal();
        let mut value = serde_json::to_value(&verification)?;
        value["same"] = equal.into();
        value
    };
    let equal = verification["same"].as_bool().context("the answer has no verdict")?;
    if format == Format::Json {
        println!("{verification}");
        return Ok(equal);
    }
    let relations = verification["relations"].as_array().cloned().unwrap_or_default();
    let width = relations.iter().filter_map(|r| r["relation"].as_str()).map(str::len).max().unwrap_or(0);
    println!("epoch {}", verification["epoch"]);
    for relation in &relations {
        let name = relation["relation"].as_str().unwrap_or_default();
        let rows = &relation["rows"];
        if relation["equal"].as_bool() == Some(true) {
            let measures = relation["measures"].as_array().map_or(0, Vec::len);
            let measures =
                if measures > 0 { format!(", {}", report::count(measures, "measure")) } else { String::new() };
            println!("  {name:width$}  equal    {rows} rows{measures}");
            continue;
        }
        println!("  {name:width$}  DIFFERS  {rows} rows in batch, {} differ", relation["differing"]);
        for difference in relation["differences"].as_array().into_iter().flatten() {
            let side = difference["only_in"].as_str().unwrap_or_default();
            println!("    only in {side}: {} (x{})", difference["row"], difference["times"]);
        }
        for measure in relation["measures"].as_array().into_iter().flatten() {
            if let Some([group, live, batch]) = measure["difference"].as_array().map(Vec::as_slice) {
                let (name, group) = (text(&measure["measure"]), text(group));
                println!("    measure {name}, {group}: {} in the ledger, {} in batch", text(live), text(batch));
            }
        }
    }
    for sink in verification["sinks"].as_array().into_iter().flatten() {
        let verdict = match sink["equal"].as_bool() {
            Some(true) => "equal",
            Some(false) => "DIFFERS",
            None => "not compared",
        };
        let told = sink["told"].as_str().map(|told| format!(": {told}")).unwrap_or_default();
        let rows = sink["rows"].as_i64().map(|rows| format!(", {rows} rows")).unwrap_or_default();
        println!("  sink {}  {verdict}{rows}{told}", text(&sink["sink"]));
    }
    let same = relations.iter().all(|relation| relation["equal"].as_bool() == Some(true));
    let ledger = &verification["ledger"];
    let contents = if same { "stream and batch are equal" } else { "stream and batch DIFFER" };
    match ledger["misfit"].as_str() {
        None => println!("{contents}; the ledger's chain holds"),
        Some(misfit) => println!("{contents}; the ledger does NOT hold: {misfit}"),
    }
    Ok(equal)
}

fn text(value: &serde_json::Value) -> &str {
    value.as_str().unwrap_or_default()
}
