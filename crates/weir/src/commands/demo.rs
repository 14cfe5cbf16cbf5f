//! `weir demo`: the example in a temporary folder, with visitors, a kill and a restart in the middle, and a verification.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use serde_json::Value;
use tokio::process::{Child, Command};
use tokio::sync::watch;
use weir_server::Encoding;
use weir_server::client::Client;

use clap::Args;

use super::simulate::{Played, SimulateOptions, simulate};
use super::{Answer, Failure, block_on};
use crate::cli::Global;

/// Arguments of `weir demo`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// How long visitors come
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Events a second
    #[arg(long, default_value_t = 400)]
    rate: u64,
    /// Of the visitors
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

const EXAMPLES: &str = "\
Makes the example shop in a temporary folder, runs it, plays visitors, kills it with kill -9 half-way, starts it again, and
verifies. Exit code 1 when something is missing or differs.

Examples:
  weir demo
  weir demo --seconds 120 --rate 2000";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let _ = global;
    let options = DemoOptions { seconds: arguments.seconds, rate: arguments.rate, seed: arguments.seed };
    block_on(|stop| async move { Ok(if demo(&options, stop.subscribe()).await? { Answer::Yes } else { Answer::No }) })
}

/// How to show it.
#[derive(Debug, Clone)]
pub struct DemoOptions {
    /// How long visitors come.
    pub seconds: u64,
    /// Events a second.
    pub rate: u64,
    /// Of the visitors.
    pub seed: u64,
}

const START_PATIENCE: Duration = Duration::from_secs(60);

fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn start(dir: &Path) -> anyhow::Result<Child> {
    let program = std::env::current_exe()?;
    let errors = std::fs::File::options().create(true).append(true).open(dir.join("run.log"))?;
    let mut command = Command::new(program);
    command.arg("run").arg("-C").arg(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(errors).kill_on_drop(true);
    Ok(command.spawn()?)
}

async fn attached(dir: &Path, child: &mut Child) -> anyhow::Result<Client> {
    let began = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            let log = std::fs::read_to_string(dir.join("run.log")).unwrap_or_default();
            bail!("weir run ended with {status}:\n{log}");
        }
        if let Ok(Some(client)) = Client::attach(dir).await
            && client.status().await.is_ok()
        {
            return Ok(client);
        }
        if began.elapsed() > START_PATIENCE {
            bail!("weir run did not answer within a minute");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn rows(client: &Client, sql: &str) -> anyhow::Result<Vec<Value>> {
    let answer = client.query(sql, Encoding::Json).await?.bytes().await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    Ok(answer["rows"].as_array().cloned().unwrap_or_default())
}

async fn numbers(client: &Client) -> anyhow::Result<String> {
    let funnel = rows(client, "SELECT visitors FROM funnel ORDER BY step").await?;
    let funnel: Vec<String> = funnel.iter().map(|r| r["visitors"].to_string()).collect();
    let money = rows(client, "SELECT sum(revenue) AS revenue FROM revenue_by_minute").await?;
    let active = rows(client, "SELECT visitors FROM active_visitors").await?;
    let status = client.status().await?;
    let text = |value: Option<&Value>, field: &str| match value.map(|v| &v[field]) {
        Some(Value::String(text)) => text.clone(),
        Some(Value::Null) | None => "0".into(),
        Some(other) => other.to_string(),
    };
    Ok(format!(
        "epoch {:>5} | active {:>5} | funnel {} | revenue {:>10}",
        status["epoch"].to_string(),
        text(active.first(), "visitors"),
        funnel.join(" > "),
        text(money.first(), "revenue"),
    ))
}

/// Shows it; true when verification finds everything equal and nothing lost.
pub async fn demo(options: &DemoOptions, mut stop: watch::Receiver<bool>) -> anyhow::Result<bool> {
    let folder = tempfile::Builder::new().prefix("weir-demo-").tempdir()?;
    let dir = folder.path().join("shop");
    super::new::write_shop(&dir)?;
    let (beacon, listen) = (free_port()?, free_port()?);
    let mut settings = std::fs::read_to_string(dir.join("weir.toml"))?;
    settings
        .push_str(&format!("\n[server]\nlisten = \"127.0.0.1:{listen}\"\nbeacon_listen = \"127.0.0.1:{beacon}\"\n"));
    std::fs::write(dir.join("weir.toml"), settings)?;
    println!("a shop in {}", dir.display());

    let mut child = start(&dir)?;
    let mut client = attached(&dir, &mut child).await?;
    println!("weir run is up; {} events a second for {} seconds\n", options.rate, options.seconds);
    let played = Arc::new(Played::default());
    let play = SimulateOptions {
        url: format!("http://127.0.0.1:{beacon}"),
        seed: options.seed,
        rate: options.rate,
        seconds: Some(options.seconds),
    };
    let mut visitors = {
        let (played, stop) = (played.clone(), stop.clone());
        tokio::spawn(async move { simulate(&play, played, stop).await })
    };
    let began = Instant::now();
    let mut killed = false;
    loop {
        tokio::select! {
            done = &mut visitors => {
                done.context("the visitors ended unexpectedly")??;
                break;
            }
            () = tokio::time::sleep(Duration::from_secs(1)) => {}
            _ = stop.changed() => bail!("interrupted"),
        }
        if !killed && began.elapsed() >= Duration::from_secs(options.seconds / 2) {
            killed = true;
            child.kill().await?;
            println!("\n  kill -9: {} events were acknowledged so far", played.acknowledged.load(Ordering::Relaxed));
            let restarted = Instant::now();
            child = start(&dir)?;
            client = attached(&dir, &mut child).await?;
            println!("  up again after {:.1} s, nothing done by hand\n", restarted.elapsed().as_secs_f64());
        }
        if let Ok(line) = numbers(&client).await {
            println!("{line}");
        }
    }
    let acknowledged = played.acknowledged.load(Ordering::Relaxed);
    // What is acknowledged is durable, and admitted with the next epochs.
    let patience = Instant::now();
    let count = "SELECT sum(admitted + duplicate + superseded + late + quarantined) AS n FROM weir.sources WHERE input IN ('site', 'backend')";
    let taken = loop {
        let taken = rows(&client, count).await?.first().and_then(|r| r["n"].as_u64()).unwrap_or_default();
        if taken >= acknowledged || patience.elapsed() > Duration::from_secs(20) {
            break taken;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    println!("\n{}", numbers(&client).await?);
    let duplicates = rows(&client, "SELECT sum(duplicate) AS n FROM weir.sources").await?;
    println!(
        "\n{acknowledged} events acknowledged, {taken} taken in, {} of them repeats that were dropped",
        duplicates.first().map_or(Value::Null, |r| r["n"].clone())
    );
    println!("weir verify: every model again, in batch, from history");
    let verification = client.verify(&[]).await?;
    for relation in verification["relations"].as_array().into_iter().flatten() {
        let verdict = if relation["equal"].as_bool() == Some(true) { "equal" } else { "DIFFERS" };
        println!("  {verdict}  {} ({} rows)", relation["relation"].as_str().unwrap_or_default(), relation["rows"]);
    }
    let _ = client.control(&weir_server::Control::Stop).await;
    let _ = child.wait().await;
    let good = verification["same"].as_bool() == Some(true) && taken >= acknowledged;
    println!("\n{}", if good { "stream and batch are equal; nothing acknowledged is missing" } else { "NOT EQUAL" });
    Ok(good)
}
