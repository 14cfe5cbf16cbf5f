//! Measures what durability costs a beacon: acknowledged events per second without storing, with the log, and with a mirror
//! of the log in another folder (which is on the same disk, unless told otherwise).
//!
//! `cargo run --release -p weir-connectors --example beacon_speed [SECONDS] [CONNECTIONS] [FOLDER] [MIRROR]`

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
use weir_environment::mirror::{FolderTarget, Keeping, Mirror, MirrorMode, MirrorSettings, Root};
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
    let second = arguments.get(4).cloned().unwrap_or_else(|| format!("{folder}.mirror"));
    let environment = Environment::real();
    let plain = topic(&environment, &folder, "plain");
    let (following, behind) = mirrored(&environment, &folder, &second, "async", MirrorMode::Async);
    let (in_step, beside) = mirrored(&environment, &folder, &second, "sync", MirrorMode::Sync);
    println!("{connections} connections, {EVENTS_PER_REQUEST} events a request, {} bytes a body", body().len());
    let mut ratios = [const { Vec::new() }; 3];
    for _ in 0..3 {
        let without = measure(Arc::new(Nowhere), time, connections).await;
        let durable = measure(plain.clone(), time, connections).await;
        let following = measure(following.clone(), time, connections).await;
        let in_step = measure(in_step.clone(), time, connections).await;
        println!(
            "events/s: without storing {without:.0}, durable {durable:.0}, with a mirror that follows {following:.0}, in step {in_step:.0}"
        );
        ratios[0].push(durable / without);
        ratios[1].push(following / durable);
        ratios[2].push(in_step / durable);
    }
    let middle = ratios.map(|mut of_three| {
        of_three.sort_by(f64::total_cmp);
        of_three[1]
    });
    println!("ratios (middle of three): durable to without storing {:.2}", middle[0]);
    println!("a mirror that follows to none {:.2}; in step to none {:.2}", middle[1], middle[2]);
    drop((plain, following, in_step));
    behind.close();
    beside.close();
    if arguments.get(3).is_none() {
        std::fs::remove_dir_all(&folder).expect("the folder of our own");
        std::fs::remove_dir_all(&second).expect("the folder of our own");
    }
}

fn topic(environment: &Environment, folder: &str, name: &str) -> Arc<Topic> {
    Topic::open(environment, format!("{folder}/{name}/log"), TopicOptions::default()).expect("a folder to write in")
}

fn mirrored(
    environment: &Environment,
    folder: &str,
    second: &str,
    name: &str,
    mode: MirrorMode,
) -> (Arc<Topic>, Mirror) {
    let target = Arc::new(FolderTarget::new(environment.storage.clone(), format!("{second}/{name}")));
    let root = Root {
        folder: format!("{folder}/{name}/log").into(),
        name: "log",
        keeping: Keeping::Acknowledged,
        order: Root::by_name,
    };
    let settings = MirrorSettings { mode, lag_max: Duration::from_secs(10), lag_bytes_max: 64 << 20 };
    let mirror = Mirror::new(environment, target, vec![root], settings);
    mirror.level(&|_| {}).expect("a folder for the mirror");
    (topic(&mirror.start(), folder, name), mirror)
}
