//! `weir backup`: a copy of the data folder as of one moment, also while the pipeline runs.

use std::path::Path;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use weir_environment::Environment;
use weir_project::Project;
use weir_project::settings::MirrorPlace;
use weir_server::Control;
use weir_server::client::Client;

use super::{Answer, Failure, block_on, read_project};
use crate::backup::{Backup, MANIFEST, Source};
use crate::cli::Global;
use crate::output::Format;
use crate::progress::Progress;
use crate::{mirror, offline, report};

/// Arguments of `weir backup`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Where to: a folder, empty or with an earlier backup of this project, or s3://BUCKET/PREFIX
    to: String,
    /// Make none, but compare the one that is there with its checksums; 1 when it is damaged
    #[arg(long)]
    verify: bool,
}

const EXAMPLES: &str = "\
Takes a checkpoint, then copies log, journal, ledger, lake and checkpoints as of that moment, whether or not the pipeline
runs; it goes on meanwhile. Made into the same place again, only what is new is copied, and the backup before is whole
until the new one is. `weir restore` brings it back.

Examples:
  weir backup /mnt/backups/shop
  weir backup /mnt/backups/shop --verify
  weir restore /mnt/backups/shop --dry-run     how far it goes";

/// Time between two looks at a running backup.
const LOOK_INTERVAL: Duration = Duration::from_millis(300);

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let here = std::env::current_dir()?;
    let place = MirrorPlace::parse(&arguments.to, &here).map_err(Failure::Wrong)?;
    if arguments.verify {
        let to = arguments.to.clone();
        return block_on(|_| async move { verify(&place, &to).await });
    }
    let project = read_project(global)?;
    if let MirrorPlace::Folder(folder) = &place
        && is_within(folder, &project.dir.join(".weir"))
    {
        return Err(Failure::Wrong("the backup would be lost with the data folder that it is in".into()));
    }
    let format = global.format;
    block_on(|_| async move {
        let made = match Client::attach(&project.dir).await? {
            Some(client) => attached(&client, &place).await?,
            None => alone(project, &place).await?,
        };
        if format == Format::Json {
            println!("{made}");
        } else {
            println!(
                "backup up to epoch {}: {} files, {} bytes, of which {} were new",
                made["epoch"], made["files"], made["bytes"], made["bytes_copied"]
            );
        }
        Ok(Answer::Yes)
    })
}

fn is_within(folder: &Path, data: &Path) -> bool {
    let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_path_buf());
    absolute(folder).starts_with(absolute(data))
}

async fn verify(place: &MirrorPlace, to: &str) -> Result<Answer, Failure> {
    let target = mirror::target(&Environment::real(), place)?;
    let progress = Progress::new();
    tokio::task::block_in_place(|| {
        let Some(backup) = Backup::open(target)? else {
            return Err(Failure::Wrong(format!("{to} holds no backup: it has no {MANIFEST}")));
        };
        let verified = backup.verify(&|bytes| progress.line(&format!("{} MiB compared", bytes >> 20)));
        progress.done();
        match verified {
            Ok(()) => {
                println!("the backup up to epoch {} is as it was made", backup.manifest.epoch);
                Ok(Answer::Yes)
            }
            Err(error) => {
                report::error(&format!("{error:#}"));
                Ok(Answer::No)
            }
        }
    })
}

/// Has the running pipeline make it, and shows how it gets on.
async fn attached(client: &Client, place: &MirrorPlace) -> anyhow::Result<Value> {
    let to = match place {
        MirrorPlace::Folder(folder) => std::path::absolute(folder)?.display().to_string(),
        MirrorPlace::Objects(url) => url.clone(),
    };
    let order = Control::Backup { to };
    let progress = Progress::new();
    let making = client.control(&order);
    tokio::pin!(making);
    let made = loop {
        tokio::select! {
            made = &mut making => break made?,
            () = tokio::time::sleep(LOOK_INTERVAL) => {
                if let Ok(status) = client.status().await
                    && let (Some(done), Some(total)) = (status["backup"]["bytes"].as_u64(), status["backup"]["total"].as_u64())
                {
                    progress.line(&format!("{} of {} MiB", done >> 20, total >> 20));
                }
            }
        }
    };
    progress.done();
    Ok(made)
}

/// Makes it while nothing runs: the folder is held meanwhile.
async fn alone(project: Project, place: &MirrorPlace) -> anyhow::Result<Value> {
    let source = Source { project: project.clone(), environment: Environment::real() };
    let (_service, _host) = offline::open(project).await?;
    let target = mirror::target(&source.environment, place)?;
    let progress = Progress::new();
    let made = tokio::task::block_in_place(|| {
        let frozen = source.freeze()?;
        source.copy(&frozen, &target, &|done, total| progress.line(&format!("{} of {} MiB", done >> 20, total >> 20)))
    })?;
    progress.done();
    Ok(json!(made))
}
