//! `weir status`: progress, counts, sinks and bytes on disk.

use std::path::Path;

use serde_json::{Value, json};
use weir_project::Project;
use weir_server::Backend;
use weir_server::client::Client;

use clap::Args;

use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;
use crate::offline;
use crate::output::Format;

/// Arguments of `weir status`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {}

const EXAMPLES: &str = "\
Examples:
  weir status
  weir status --format json";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let _ = arguments;
    let format = global.format;
    block_on(|_| async move {
        status(project, format).await?;
        Ok(Answer::Yes)
    })
}

/// Collects and prints.
pub async fn status(project: Project, format: Format) -> anyhow::Result<()> {
    let (dir, lake) = (project.dir.clone(), project.settings.lake.path.clone());
    let mut status = match Client::attach(&dir).await? {
        Some(client) => client.status().await?,
        None => offline::open(project).await?.0.status(),
    };
    status["bytes"] = bytes_by_store(&dir.join(".weir"), &lake);
    if format == Format::Json {
        println!("{status}");
        return Ok(());
    }
    let running = status["running"].as_bool() == Some(true);
    println!("{}", if running { "running" } else { "not running" });
    println!("epoch {}, landed in the lake up to {}", status["epoch"], status["landed"]);
    if let Some(waiting) = status["waiting"].as_str() {
        println!("waiting: {waiting}");
    }
    if let Some(mirror) = status["mirror"].as_object() {
        println!("{}", mirror_line(mirror));
    }
    section("source", &status["sources"], |value| {
        let counts = &value["counts"];
        format!(
            "{} rows; {} records, {} quarantined, {} late, {} duplicate, {} superseded",
            value["rows"],
            counts["records"],
            counts["quarantined"],
            counts["late"],
            counts["duplicate"],
            counts["superseded"]
        )
    });
    section("model", &status["models"], |value| format!("{} rows", value["rows"]));
    section("check", &status["checks"], |value| {
        format!("{}, {} rows", value["state"].as_str().unwrap_or_default(), value["rows"])
    });
    section("sink", &status["sinks"], |value| match value["failure"].as_str() {
        Some(failure) => format!("epoch {}: {failure}", value["cursor"]),
        None => format!("epoch {}", value["cursor"]),
    });
    section("behind", &status["recompute_failures"], |value| value.as_str().unwrap_or_default().to_owned());
    section("notify", &status["delivery_failures"], |value| value.as_str().unwrap_or_default().to_owned());
    section("input", &status["input_failures"], |value| value.as_str().unwrap_or_default().to_owned());
    println!("in quarantine {}, late {}, rows with errors {}", status["quarantined"], status["late"], status["errors"]);
    section("bytes", &status["bytes"], ToString::to_string);
    Ok(())
}

/// How far the mirror is behind, and what of that a lost disk may take with it.
fn mirror_line(mirror: &serde_json::Map<String, Value>) -> String {
    let text = |name: &str| mirror[name].as_str().unwrap_or_default();
    let seconds = |value: &Value| format!("{:.1} s", value.as_f64().unwrap_or_default());
    let bound = &mirror["loss_max"];
    let loss = if text("mode") == "sync" {
        "a lost disk takes nothing acknowledged with it".to_owned()
    } else {
        let (records, bytes) = (&mirror["lag_records"], &mirror["lag_bytes"]);
        format!(
            "a lost disk would take {records} records ({bytes} bytes, {}) with it, at most {} or {} bytes",
            seconds(&mirror["lag_seconds"]),
            seconds(&bound["seconds"]),
            bound["bytes"]
        )
    };
    let failure = mirror["failure"].as_str().map(|failure| format!("; it fails: {failure}")).unwrap_or_default();
    format!("mirror {} ({}): {loss}{failure}", text("place"), text("mode"))
}

fn section(title: &str, values: &Value, show: impl Fn(&Value) -> String) {
    let Some(values) = values.as_object() else { return };
    let width = values.keys().map(String::len).max().unwrap_or(0);
    for (name, value) in values {
        println!("{title:6} {name:width$}  {}", show(value));
    }
}

/// Bytes under each folder of the data folder, and of the lake.
fn bytes_by_store(data: &Path, lake: &Path) -> Value {
    let mut stores = serde_json::Map::new();
    for entry in std::fs::read_dir(data).into_iter().flatten().flatten() {
        if entry.path().is_dir() && entry.path() != lake {
            stores.insert(entry.file_name().to_string_lossy().into_owned(), json!(bytes_under(&entry.path())));
        }
    }
    stores.insert("lake".into(), json!(bytes_under(lake)));
    Value::Object(stores)
}

fn bytes_under(folder: &Path) -> u64 {
    std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(metadata) if metadata.is_dir() => bytes_under(&entry.path()),
            Ok(metadata) => metadata.len(),
            Err(_) => 0,
        })
        .sum()
}
