//! `weir restore`: brings the data folder back from a mirror or a backup.

use clap::Args;
use serde_json::json;
use weir_environment::Environment;
use weir_project::settings::MirrorPlace;

use super::{Answer, Failure, block_on, read_project};
use crate::backup::Backup;
use crate::cli::Global;
use crate::mirror::{self, MARKER};
use crate::output::Format;
use crate::progress::Progress;
use crate::restore::{Reach, next_record, occupied, reach, restore};

/// Arguments of `weir restore`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// A mirror ([log] mirror) or a backup (`weir backup`): a folder or s3://BUCKET/PREFIX
    from: String,
    /// Only say how far it goes
    #[arg(long)]
    dry_run: bool,
}

const EXAMPLES: &str = "\
The project's data folder (.weir) has to be empty. What a backup holds is checked against its checksums. The next `weir run`
recovers as after a crash and goes on; destinations that hold epochs which the copy does not have are loaded anew.

Examples:
  weir restore /mnt/second/shop --dry-run
  weir restore /mnt/second/shop
  weir -C shop restore s3://backups/shop && weir -C shop run";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let format = global.format;
    let here = std::env::current_dir()?;
    let place = MirrorPlace::parse(&arguments.from, &here).map_err(Failure::Wrong)?;
    let from = arguments.from.clone();
    let dry_run = arguments.dry_run;
    let occupied = occupied(&project);
    if let Some(first) = occupied.first()
        && !dry_run
    {
        return Err(Failure::Wrong(format!(
            "{} is not empty, and a restore would write over it\nhelp: move {} away first",
            first.display(),
            project.dir.join(".weir").display()
        )));
    }
    block_on(|_| async move {
        let environment = Environment::real();
        let target = mirror::target(&environment, &place)?;
        let progress = Progress::new();
        let found = tokio::task::block_in_place(|| -> anyhow::Result<_> {
            Ok((Backup::open(target.clone())?, mirror::marker(&*target)?))
        })?;
        let source = match found {
            (Some(backup), _) => {
                let progress = &progress;
                tokio::task::block_in_place(|| backup.verify(&|bytes| progress.line(&checked(bytes))))?;
                backup.target()
            }
            (None, Some(marker)) if marker.complete => target,
            (None, Some(_)) => {
                return Err(Failure::Wrong(format!("{from} is not complete: the pipeline ended before it was")));
            }
            (None, None) => {
                return Err(Failure::Wrong(format!(
                    "{from} is neither a mirror nor a backup: it has no {MARKER} and no {}",
                    crate::backup::MANIFEST
                )));
            }
        };
        let reach = if dry_run {
            tokio::task::block_in_place(|| reach(&environment, &project, &*source))?
        } else {
            restore(&environment, &project, &*source, &progress).await?
        };
        progress.done();
        tell(&reach, dry_run, format);
        Ok(Answer::Yes)
    })
}

fn checked(bytes: u64) -> String {
    format!("{} MiB checked", bytes >> 20)
}

fn tell(reach: &Reach, dry_run: bool, format: Format) {
    if format == Format::Json {
        println!("{}", json!(reach));
        return;
    }
    let at = chrono::DateTime::from_timestamp_micros(reach.clock).map(|at| at.to_rfc3339()).unwrap_or_default();
    let verb = if dry_run { "would be restored" } else { "restored" };
    println!("{verb} up to epoch {} of {at}", reach.epoch);
    for (name, (_, end)) in &reach.topics {
        let taken = reach.inputs.get(name).and_then(|cursor| next_record(cursor)).unwrap_or(0);
        println!("input  {name}: records before {end}, of which epochs have taken those before {taken}");
    }
    if !dry_run {
        println!("`weir run` goes on from here");
    }
}
