//! `weir run`: sources, models, sinks and server until stopped.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use weir_connectors::sources::beacon::{BeaconServer, BeaconSettings, EventLog};
use weir_pipeline::copies::Copies;
use weir_pipeline::runtime::{self, Run, RunMode, RunSummary};
use weir_project::Project;
use weir_server::{QueryLimits, Server, ServerSettings};

use clap::Args;

use super::{Answer, Failure, block_on, read_project};
use crate::backups::Backups;
use crate::cli::Global;
use crate::host::{Host, OnChange, OpenOptions};
use crate::progress::Progress;
use crate::service::{Origins, Service, ServiceParts};
use crate::wiring::{notifiers, open_inputs, open_sinks, publisher};

/// Arguments of `weir run`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Take in all input that is there, bring models and sinks up to date, and end
    #[arg(long)]
    once: bool,
    /// What to do with a project that changed in meaning since it ran last
    #[arg(long, value_enum, default_value_t = OnChange::Refuse)]
    on_change: OnChange,
    /// Allow --on-change rebuild to drop what the project no longer has
    #[arg(long)]
    allow_drop: bool,
    /// Records of one epoch at most, to choose how the stream is cut
    #[arg(long, value_name = "N")]
    epoch_rows: Option<usize>,
    /// Load sinks anew that hold later epochs than this folder, as after it was restored from a copy
    #[arg(long)]
    reload_ahead: bool,
    /// Print nothing but errors
    #[arg(long, short)]
    quiet: bool,
}

const EXAMPLES: &str = "\
Takes in events and files, keeps models up to date, feeds sinks and answers queries until Ctrl-C. Stop and start at any
time: work goes on where it stopped.

Examples:
  weir run
  weir run --once                      for a script or a test
  weir run --on-change rebuild         after a model was changed: its history is run through it again
  weir run --profile prod";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let options = RunOptions {
        once: arguments.once,
        epoch_rows: arguments.epoch_rows,
        open: OpenOptions {
            on_change: arguments.on_change,
            allow_drop: arguments.allow_drop,
            ..OpenOptions::default()
        },
        reload_ahead: arguments.reload_ahead,
        quiet: arguments.quiet,
    };
    let once = options.once;
    block_on(|stop| async move {
        let asked = stop.subscribe();
        let summary = run(project, options, stop).await?;
        if once && *asked.borrow() {
            return Err(Failure::Interrupted);
        }
        if summary.behind.iter().any(|behind| !behind.held) {
            return Err(anyhow::anyhow!("not every sink holds the last epoch").into());
        }
        Ok(if summary.behind.is_empty() { Answer::Yes } else { Answer::No })
    })
}

/// What a run is told.
#[derive(Debug, Clone, Default)]
pub struct RunOptions {
    /// Take in what is there and end.
    pub once: bool,
    /// Force small epochs.
    pub epoch_rows: Option<usize>,
    /// How to open.
    pub open: OpenOptions,
    /// Load sinks anew that are ahead of the folder.
    pub reload_ahead: bool,
    /// Say nothing.
    pub quiet: bool,
}

/// Runs a project until `stop` turns true (or everything is taken in, with `once`).
pub async fn run(project: Project, options: RunOptions, stop: watch::Sender<bool>) -> anyhow::Result<RunSummary> {
    let progress = Progress::new();
    let host = Host::open(project, &options.open, &progress).await?;
    progress.done();
    let mut feeds = open_sinks(&host.environment, &host.project, &host.spec, &host.generations, &host.lineage).await?;
    feeds.iter_mut().for_each(|feed| feed.reload_ahead = options.reload_ahead);
    let inputs = {
        let (environment, project, spec) = (host.environment.clone(), host.project.clone(), host.spec.clone());
        let positions = host.core.last().inputs.clone();
        tokio::task::spawn_blocking(move || open_inputs(&environment, &project, &spec, &positions)).await??
    };
    if let Some(mirror) = &host.mirror {
        inputs.topics.iter().for_each(|(name, topic)| mirror.follow(name, topic));
        let (mirror, mut stopping) = (mirror.clone(), stop.subscribe());
        tokio::spawn(async move {
            if stopping.wait_for(|stop| *stop).await.is_ok() {
                mirror.hurry();
            }
        });
    }
    let shared = Arc::new(runtime::Progress::default());
    let (control, controls) = mpsc::channel(16);
    let service = Arc::new(Service::new(ServiceParts {
        spec: host.spec.clone(),
        contents: host.core.contents().clone(),
        indexes: host.core.indexes().clone(),
        ledger: host.core.ledger().clone(),
        progress: shared.clone(),
        origins: Some(Origins::of(&host, &inputs)),
        control: Some(control),
        stop: Some(stop.clone()),
        mirror: host.mirror.clone(),
        backups: Some(Backups::of(host.project.clone())),
    }));

    let (told, telling) = watch::channel(false);
    let mut notifying = JoinSet::new();
    for notifier in notifiers(&host, &shared.delivery_failures)? {
        notifying.spawn(notifier.run(telling.clone()));
    }
    if let Some(publisher) = publisher(&host, &shared.delivery_failures)? {
        notifying.spawn(publisher.run(telling));
    }

    let settings = &host.project.settings;
    let beacon = if inputs.topics.is_empty() || options.once {
        None
    } else {
        let logs: BTreeMap<String, Arc<dyn EventLog>> =
            inputs.topics.iter().map(|(name, topic)| (name.clone(), topic.clone() as Arc<dyn EventLog>)).collect();
        let address = settings.server.beacon_listen;
        let limits = BeaconSettings {
            body_size_max: usize::try_from(settings.server.beacon_body_max).unwrap_or(usize::MAX),
            ..BeaconSettings::default()
        };
        let server = BeaconServer::start(address, logs, host.environment.clock.clone(), limits).await;
        Some(server.with_context(|| format!("the beacon cannot listen on {address} ([server] beacon_listen)"))?)
    };
    let server = if options.once {
        None
    } else {
        let address = settings.server.listen;
        let limits = QueryLimits {
            time_max: settings.query.time_max,
            memory_max: usize::try_from(settings.query.memory_max).unwrap_or(usize::MAX),
            rows_max: settings.query.rows_max,
        };
        let queries_max = usize::try_from(settings.query.concurrency).unwrap_or(usize::MAX);
        let settings = ServerSettings { limits, queries_max, ..ServerSettings::default() };
        let server = Server::start(address, service.clone(), settings).await;
        let server = server.with_context(|| format!("the server cannot listen on {address} ([server] listen)"))?;
        server.attachment().write(&host.project.dir).context("the server's address cannot be written")?;
        Some(server)
    };
    if !options.quiet && !options.once {
        if let Some(beacon) = &beacon {
            eprintln!("beacon   http://{}", beacon.address());
        }
        if let Some(server) = &server {
            eprintln!("server   http://{}", server.attachment().address);
        }
        eprintln!("running; Ctrl-C stops");
    }

    let mut loop_settings = host.spec.settings.clone();
    if let Some(rows) = options.epoch_rows {
        loop_settings.epoch_rows_max = rows.max(1);
    }
    let dir = host.project.dir.clone();
    let _lock = host.lock;
    let run = Run {
        core: host.core,
        store: host.store,
        copies: host.mirror.clone().map(|mirror| mirror as Arc<dyn Copies>),
        inputs: inputs.inputs,
        feeds,
        settings: loop_settings,
        environment: host.environment,
        progress: shared.clone(),
    };
    let mode = if options.once { RunMode::Once } else { RunMode::Until };
    let shown = tokio::spawn(show(shared, progress, options.quiet));
    let summary = runtime::run(run, mode, controls, stop.subscribe()).await;
    shown.abort();
    // What happened last is told of as well; what cannot be told now is with the next start.
    told.send_replace(true);
    if tokio::time::timeout(TELL_MAX, notifying.join_all()).await.is_err() {
        tracing::warn!("not all events of checks are told yet; the next start goes on with them");
    }
    if let Some(beacon) = beacon {
        beacon.stop().await;
    }
    for topic in inputs.topics.values() {
        topic.close();
    }
    if let Some(server) = server {
        let _ = server.attachment().remove(&dir);
        server.stop().await;
    }
    if let Some(mirror) = host.mirror
        && !mirror.clone().close().await
    {
        eprintln!(
            "the mirror lacks {} bytes of log and journal: the next start ships them",
            mirror.status()["lag_bytes"]
        );
    }
    let summary = summary?;
    if !options.quiet {
        eprintln!("epoch {}, {} rows taken in", summary.epoch, summary.rows);
    }
    for check in &summary.violated {
        eprintln!("`{check}` is violated: `weir checks` shows by what");
    }
    for behind in &summary.behind {
        eprintln!("sink {} does not hold the last epoch: {}", behind.sink, behind.reason);
    }
    Ok(summary)
}

/// How long the end of a run waits for messengers.
const TELL_MAX: Duration = Duration::from_secs(30);

/// Keeps a line of progress up to date.
async fn show(shared: Arc<runtime::Progress>, progress: Progress, quiet: bool) {
    if quiet || !std::io::stderr().is_terminal() {
        return;
    }
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        let (epoch, rows) = *shared.admitted.lock();
        let waiting = shared.waiting.lock().clone().map(|w| format!("; waiting: {w}")).unwrap_or_default();
        let failing: Vec<String> =
            shared.input_failures.lock().iter().map(|(name, why)| format!("; {name}: {why}")).collect();
        progress.line(&format!("epoch {epoch}, {rows} rows, {} rows/s{waiting}{}", rows - before, failing.join("")));
        before = rows;
    }
}
