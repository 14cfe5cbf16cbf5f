//! `weir log`: prints the records of a topic of the embedded log.

use std::io::Write;

use arrow::array::{Array, StringArray, TimestampMicrosecondArray};
use serde_json::json;
use weir_connectors::sources::beacon::Origin;
use weir_environment::Environment;
use weir_journal::Topic;
use weir_project::Project;

use clap::Args;

use super::{Answer, Failure, read_project};
use crate::cli::Global;
use crate::host::lock;
use crate::output::Format;
use crate::wiring::topic_options;

/// Arguments of `weir log`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The topic: the name of a beacon's input
    topic: String,
    /// First offset to print
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Records to print at most
    #[arg(long, default_value_t = 100)]
    limit: u64,
}

const EXAMPLES: &str = "\
Prints offset, arrival, client address and the record as it was received.

Examples:
  weir log site
  weir log site --from 1000 --limit 10 --format json";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    log(&project, &arguments.topic, arguments.from, arguments.limit, global.format)?;
    Ok(Answer::Yes)
}

/// Bytes read at once.
const READ_BYTES_MAX: usize = 4 << 20;

/// Prints records from an offset on, at most `limit`.
pub fn log(project: &Project, topic: &str, from: u64, limit: u64, format: Format) -> anyhow::Result<()> {
    let folder = project.settings.log.path.join(topic);
    if !folder.is_dir() {
        let mut known: Vec<String> = std::fs::read_dir(&project.settings.log.path)
            .into_iter()
            .flatten()
            .flatten()
            .map(|e| e.file_name().to_string_lossy().into_owned())
            .collect();
        known.sort();
        anyhow::bail!("there is no topic `{topic}`; topics: {}", known.join(", "));
    }
    let environment = Environment::real();
    let _lock = lock(&environment, &project.dir.join(".weir"))?;
    let reader = Topic::open(&environment, &folder, topic_options(project))?;
    let mut out = std::io::stdout().lock();
    let mut offset = from.max(reader.begin());
    let mut left = limit;
    while left > 0 && offset < reader.durable_end() {
        let block = reader.read(offset, READ_BYTES_MAX)?;
        if block.is_empty() {
            break;
        }
        for index in 0..block.len() {
            if left == 0 {
                break;
            }
            left -= 1;
            let at = block.first_offset + index as u64;
            let arrival = TimestampMicrosecondArray::from(vec![block.arrivals[index]]);
            let arrival = arrow::compute::cast(&arrival, &arrow::datatypes::DataType::Utf8)?;
            let arrival = arrow::array::AsArray::as_string::<i32>(&arrival).clone();
            let origin = Origin::decode(block.header(index));
            let value = String::from_utf8_lossy(block.value(index));
            match format {
                Format::Json => writeln!(
                    out,
                    "{}",
                    json!({
                        "offset": at,
                        "arrival": text(&arrival),
                        "client_address": origin.client_address,
                        "user_agent": origin.user_agent,
                        "referer": origin.referer,
                        "value": value,
                    })
                )?,
                _ => writeln!(out, "{at}\t{}\t{}\t{value}", text(&arrival), origin.client_address.unwrap_or("-"))?,
            }
        }
        offset = block.next_offset();
    }
    Ok(())
}

fn text(array: &StringArray) -> &str {
    if array.is_null(0) { "" } else { array.value(0) }
}
