//! `weir schema infer`: drafts the columns of a source from samples.

use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, Subcommand};
use weir_project::infer::{SampleFormat, draft};

use super::{Answer, Failure};
use crate::cli::Global;

/// Arguments of `weir schema`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    #[command(subcommand)]
    command: SchemaCommand,
}

#[derive(Debug, Subcommand)]
enum SchemaCommand {
    /// Drafts [columns] for a source from a sample of its records
    Infer(InferArguments),
}

#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
struct InferArguments {
    /// A file of JSON lines or CSV; - for standard input
    file: PathBuf,
    /// What the file is; otherwise told by its name
    #[arg(long = "input", value_enum)]
    input: Option<InputFormat>,
    /// How much of the file to look at, MiB
    #[arg(long, default_value_t = 16)]
    look_mib: u64,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum InputFormat {
    /// One JSON object a line, or a list of objects
    Json,
    /// With a header
    Csv,
}

const EXAMPLES: &str = "\
Examples:
  weir schema infer samples/clicks.json >> sources/clicks.toml
  weir schema infer orders.csv
  head -1000 events.log | weir schema infer - --input json";

/// Runs the command.
pub fn run(_global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let SchemaCommand::Infer(infer) = &arguments.command;
    let format = match infer.input {
        Some(InputFormat::Json) => SampleFormat::Json,
        Some(InputFormat::Csv) => SampleFormat::Csv,
        None => format_of(&infer.file)?,
    };
    let sample = read_sample(&infer.file, infer.look_mib << 20)?;
    match draft(format, &sample) {
        Ok(columns) => {
            print!("{columns}");
            Ok(Answer::Yes)
        }
        Err(message) => Err(Failure::Failed(anyhow::anyhow!("{}: {message}", infer.file.display()))),
    }
}

fn format_of(file: &Path) -> Result<SampleFormat, Failure> {
    let name = file.to_string_lossy().to_lowercase();
    let name = name.trim_end_matches(".gz");
    let ends = |endings: &[&str]| endings.iter().any(|ending| name.ends_with(ending));
    if ends(&[".json", ".jsonl", ".ndjson"]) {
        Ok(SampleFormat::Json)
    } else if ends(&[".csv"]) {
        Ok(SampleFormat::Csv)
    } else {
        Err(Failure::Wrong(format!("cannot tell what {} is: say --input json or --input csv", file.display())))
    }
}

fn read_sample(file: &Path, bytes_max: u64) -> Result<Vec<u8>, Failure> {
    let reader: Box<dyn Read> = if file == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        let opened = std::fs::File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
        match file.extension().is_some_and(|extension| extension == "gz") {
            true => Box::new(flate2::read::MultiGzDecoder::new(opened)),
            false => Box::new(opened),
        }
    };
    let mut sample = Vec::new();
    reader.take(bytes_max).read_to_end(&mut sample).with_context(|| format!("cannot read {}", file.display()))?;
    if sample.len() as u64 == bytes_max {
        // The last line is cut off.
        let end = sample.iter().rposition(|byte| *byte == b'\n').map_or(sample.len(), |at| at + 1);
        sample.truncate(end);
    }
    Ok(sample)
}
