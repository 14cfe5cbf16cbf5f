//! `weir simulate`: plays visitors against the beacon over real HTTP, or writes the files of the example payments.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use tokio::sync::watch;
use weir_environment::Environment;

use anyhow::Context;
use clap::{Args, Subcommand};

use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;
use crate::payments;
use crate::progress::Progress;
use crate::visitors::Visitors;

/// Arguments of `weir simulate`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    #[command(subcommand)]
    what: Option<What>,
    /// Of the random numbers: the same seed plays the same visitors
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Events a second
    #[arg(long, default_value_t = 200)]
    rate: u64,
    /// For how long; until Ctrl-C when not given
    #[arg(long, value_name = "SECONDS")]
    seconds: Option<u64>,
    /// The beacon; that of the project when not given
    #[arg(long)]
    url: Option<String>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Writes days of payments, processors' reports and bank statements, with known faults
    #[command(after_help = PAYMENTS_EXAMPLES)]
    Payments(PaymentsArguments),
}

/// Arguments of `weir simulate payments`.
#[derive(Debug, Args)]
struct PaymentsArguments {
    /// Payments of all days together
    #[arg(long, default_value_t = 20_000)]
    payments: u64,
    /// Days
    #[arg(long, default_value_t = 5)]
    days: u32,
    /// Faults of each of nine kinds
    #[arg(long, default_value_t = 5)]
    faults: u32,
    /// Of the random numbers: the same seed writes the same files
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where to
    #[arg(long, default_value = "data", value_name = "DIR")]
    out: PathBuf,
}

const PAYMENTS_EXAMPLES: &str = "\
For a project made with `weir new pay --example payments`. Files of the same names are written anew; `faults.csv` says what
was put in.

Examples:
  weir simulate payments
  weir simulate payments --payments 1000000 --days 10 --seed 7";

const EXAMPLES: &str = "\
Plays visitors of the example shop over real HTTP. Requests that fail are sent again with the same events.

Examples:
  weir simulate
  weir simulate --rate 5000 --seconds 60 --seed 7
  weir simulate payments --payments 100000";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    if let Some(What::Payments(arguments)) = &arguments.what {
        return write_payments(global, arguments);
    }
    let url = match &arguments.url {
        Some(url) => url.clone(),
        None => format!("http://{}", read_project(global)?.settings.server.beacon_listen),
    };
    let options = SimulateOptions { url, seed: arguments.seed, rate: arguments.rate, seconds: arguments.seconds };
    block_on(|stop| async move {
        run(&options, stop.subscribe()).await?;
        Ok(Answer::Yes)
    })
}

fn write_payments(global: &Global, arguments: &PaymentsArguments) -> Result<Answer, Failure> {
    if arguments.days == 0 || arguments.payments == 0 {
        return Err(Failure::Wrong(
            "there is no day without a payment: give --payments and --days of at least 1".into(),
        ));
    }
    let plan = payments::Plan {
        payments: arguments.payments,
        days: arguments.days,
        faults: arguments.faults,
        seed: arguments.seed,
    };
    let folder = global.dir.join(&arguments.out);
    let faults = payments::generate(&folder, plan).with_context(|| format!("cannot write to {}", folder.display()))?;
    println!("wrote {} payments and {} faults to {}", plan.payments, faults.len(), folder.display());
    Ok(Answer::Yes)
}

/// What to play.
#[derive(Debug, Clone)]
pub struct SimulateOptions {
    /// The beacon: `http://127.0.0.1:8314`.
    pub url: String,
    /// Of the random numbers.
    pub seed: u64,
    /// Events a second.
    pub rate: u64,
    /// How long; none: until stopped.
    pub seconds: Option<u64>,
}

/// What was played so far.
#[derive(Debug, Default)]
pub struct Played {
    /// Events that the beacon acknowledged.
    pub acknowledged: AtomicU64,
    /// Requests that failed and were sent again.
    pub retries: AtomicU64,
}

const TICK: Duration = Duration::from_millis(50);
/// Events of one request at most.
const BATCH_MAX: usize = 20;
/// Events that wait for the beacon at most; beyond it visitors stay away.
const OUTBOX_MAX: usize = 100_000;

/// Plays until the time is over or `stop` turns true, then sends what is left.
///
/// A request without an answer is sent again with the same events, as a logger with an outbox does; `dedupe` drops the
/// repeats.
pub async fn simulate(
    options: &SimulateOptions,
    played: Arc<Played>,
    stop: watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let client: Client<HttpConnector, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let clock = Environment::real().clock;
    let mut visitors = Visitors::new(options.seed);
    let mut outbox: VecDeque<(&'static str, Vec<Value>)> = VecDeque::new();
    let mut waiting = 0;
    let started = Instant::now();
    let mut made = 0;
    loop {
        let elapsed = started.elapsed();
        let over = options.seconds.is_some_and(|s| elapsed.as_secs() >= s) || *stop.borrow();
        if over && (outbox.is_empty() || *stop.borrow()) {
            return Ok(());
        }
        let due = (elapsed.as_secs_f64() * options.rate as f64) as u64;
        if !over && due > made && waiting < OUTBOX_MAX {
            let events = visitors.tick((due - made) as usize, clock.now());
            for (path, events) in [("site", events.site), ("backend", events.backend)] {
                waiting += events.len();
                outbox.extend(events.chunks(BATCH_MAX).map(|batch| (path, batch.to_vec())));
            }
        }
        made = made.max(due);
        while let Some((path, batch)) = outbox.front() {
            let body = serde_json::to_vec(batch)?;
            let request = Request::post(format!("{}/events/{path}", options.url))
                .header("content-type", "application/json")
                .header("user-agent", "weir-simulate")
                .body(Full::new(Bytes::from(body)))?;
            match client.request(request).await {
                Ok(answer) if answer.status().is_success() => {
                    played.acknowledged.fetch_add(batch.len() as u64, Ordering::Relaxed);
                    waiting -= batch.len();
                    outbox.pop_front();
                }
                Ok(answer) if answer.status().is_client_error() && answer.status().as_u16() != 429 => {
                    let status = answer.status();
                    let text = answer.into_body().collect().await?.to_bytes();
                    anyhow::bail!("the beacon refuses events: {status} {}", String::from_utf8_lossy(&text));
                }
                Ok(_) | Err(_) => {
                    played.retries.fetch_add(1, Ordering::Relaxed);
                    break;
                }
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

/// Plays with a line of progress.
pub async fn run(options: &SimulateOptions, stop: watch::Receiver<bool>) -> anyhow::Result<()> {
    let played = Arc::new(Played::default());
    let progress = Progress::new();
    let shown = {
        let (played, rate) = (played.clone(), options.rate);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_millis(500)).await;
                progress.line(&format!(
                    "{} events acknowledged, {rate} a second asked for, {} retries",
                    played.acknowledged.load(Ordering::Relaxed),
                    played.retries.load(Ordering::Relaxed)
                ));
            }
        })
    };
    let result = simulate(options, played.clone(), stop).await;
    shown.abort();
    eprintln!();
    println!("{} events acknowledged", played.acknowledged.load(Ordering::Relaxed));
    result
}
