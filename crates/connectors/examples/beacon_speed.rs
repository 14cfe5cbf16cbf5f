//! Measures what durability costs a beacon: acknowledged events per second, with the log and without storing.
//!
//! `cargo run --release -p weir-connectors --example beacon_speed [SECONDS] [CONNECTIONS] [FOLDER]`

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use weir_connectors::sources::beacon::{Appended, BeaconServer, BeaconSettings, Block, EventLog, Submission};
use weir_environment::Environment;
use weir_journal::{Topic, TopicOptions};

const EVENTS_PER_REQUEST: usize = 20;

/// Answers as if everything were stored.
struct Nowhere;

impl EventLog for Nowhere {
    fn append(&self, events: Submission, done: Appended) {
        done(Ok(0..events.records.len() as u64));
    }

    fn read(&self, _from: u64, _bytes_max: usize) -> Result<Block, String> {
        Ok(Block::default())
    }

    fn first_offset(&self) -> u64 {
        0
    }

    fn durable_end(&self) -> u64 {
        0
    }

    fn release(&self, _before: u64) -> Result<(), String> {
        Ok(())
    }

    fn on_durable(&self, _wake: Arc<dyn Fn() + Send + Sync>) {}
}

fn body() -> Bytes {
    let events: Vec<String> = (0..EVENTS_PER_REQUEST)
        .map(|number| {
            format!(
                "{{\"event\":\"click\",\"click_id\":\"6f1c{number:08}\",\"user\":{{\"id\":{}}},\"page\":\"/products/{}\",\
                 \"sent_at\":\"2026-01-01T00:00:{:02}Z\",\"campaign\":\"spring\",\"price\":{}.5}}",
                number * 7919,
                number * 31,
                number,
                number
            )
        })
        .collect();
    format!("[{}]", events.join(",")).into()
}

async fn load(address: SocketAddr, until: Instant, body: Bytes) -> (u64, u64) {
    let stream = TcpStream::connect(address).await.expect("the beacon listens");
    stream.set_nodelay(true).expect("a socket");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.expect("the beacon speaks HTTP");
    tokio::spawn(connection);
    let (mut accepted, mut refused) = (0, 0);
    while Instant::now() < until {
        let request = Request::post("/events/site")
            .header("host", "beacon")
            .header("user-agent", "Mozilla/5.0 (X11; Linux x86_64) beacon_speed")
            .header("content-type", "application/json")
            .body(Full::new(body.clone()))
            .expect("a well-formed request");
        let answer = sender.send_request(request).await.expect("an answer");
        let status = answer.status();
        answer.into_body().collect().await.expect("a whole answer");
        match status {
            StatusCode::OK => accepted += EVENTS_PER_REQUEST as u64,
            _ => refused += 1,
        }
    }
    (accepted, refused)
}

async fn measure(log: Arc<dyn EventLog>, time: Duration, connections: usize) -> f64 {
    let inputs = BTreeMap::from([("site".to_owned(), log)]);
    let clock = Environment::real().clock;
    let address = "127.0.0.1:0".parse().expect("an address");
    let server = BeaconServer::start(address, inputs, clock, BeaconSettings::default()).await.expect("a free port");
    let start = Instant::now();
    let body = body();
    let loads: Vec<_> =
        (0..connections).map(|_| tokio::spawn(load(server.address(), start + time, body.clone()))).collect();
    let (mut accepted, mut refused) = (0, 0);
    for load in loads {
        let (one_accepted, one_refused) = load.await.expect("a load that ends");
        accepted += one_accepted;
        refused += one_refused;
    }
    let rate = accepted as f64 / start.elapsed().as_secs_f64();
    if refused > 0 {
        println!("  {refused} requests were refused");
    }
    server.stop().await;
    rate
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    let number = |index: usize, default: usize| {
        arguments.get(index).and_then(|argument| argument.parse().ok()).unwrap_or(default)
    };
    let time = Duration::from_secs(number(1, 5) as u64);
    let connections = number(2, 64);
    let folder = arguments.get(3).cloned().unwrap_or_else(|| format!("/tmp/beacon_speed.{}", std::process::id()));
    let topic = Topic::open(&Environment::real(), &folder, TopicOptions::default()).expect("a folder to write in");
    println!("{connections} connections, {EVENTS_PER_REQUEST} events a request, {} bytes a body", body().len());
    let mut ratios = Vec::new();
    for _ in 0..3 {
        let without = measure(Arc::new(Nowhere), time, connections).await;
        let with = measure(topic.clone(), time, connections).await;
        println!(
            "without storing {without:>10.0} events/s   durable {with:>10.0} events/s   ratio {:.2}",
            with / without
        );
        ratios.push(with / without);
    }
    ratios.sort_by(f64::total_cmp);
    println!("ratio (middle of three) {:.2}; {} events in {folder}", ratios[1], topic.durable_end());
    if arguments.get(3).is_none() {
        drop(topic);
        std::fs::remove_dir_all(&folder).expect("the folder of our own");
    }
}
