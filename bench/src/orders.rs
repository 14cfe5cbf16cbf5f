//! A table of many orders that single rows change: time to commit a change, freshness under load, bytes on disk.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::live::{Live, Project};
use crate::random::Seeded;
use crate::report::{Bound, Report};

const FEW: u64 = 100_000;
const MANY: u64 = 10_000_000;
const CUSTOMERS: u64 = 10_000;
/// Orders of one post while loading.
const LOAD_BATCH: u64 = 20_000;
/// Changes of each kind that are timed.
const CHANGES: u64 = 40;
/// Events a second while freshness is measured, and for how long.
const LOAD_RATE: u64 = 5_000;
const LOAD_TIME: Duration = Duration::from_secs(20);
const LOAD_POST: u64 = 20;

fn project() -> Result<Project> {
    let project = Project::new(
        "[state]\nmemory_max = \"16 GiB\"\n[log]\nqueue_bytes_max = \"256 MiB\"\n[epoch]\ninterval_min = \"5 milliseconds\"\n",
        "beacon_body_max = \"64 MiB\"",
    )?;
    project.write(
        "sources/orders.toml",
        "kind = \"beacon\"\nkey = [\"id\"]\nversion = \"revision\"\ndeleted = \"deleted\"\nunknown_fields = \"drop\"\n\
         [columns]\nid = { type = \"BIGINT\", required = true }\nrevision = \"BIGINT\"\ncustomer = \"BIGINT\"\n\
         amount = \"BIGINT\"\ndeleted = \"BOOLEAN\"\n",
    )?;
    project.write(
        "sources/customers.toml",
        "kind = \"beacon\"\nkey = [\"customer\"]\nunknown_fields = \"drop\"\n[columns]\ncustomer = { type = \"BIGINT\", required = true }\nname = \"TEXT\"\n",
    )?;
    project.write(
        "models/by_customer.sql",
        "-- weir: key = [\"customer\"]\nSELECT customer, count(*) AS orders, sum(amount) AS amount FROM orders GROUP BY customer\n",
    )?;
    project.write(
        "models/named.sql",
        "-- weir: key = [\"id\"]\nSELECT o.id AS id, c.name AS name, o.amount AS amount FROM orders o JOIN customers c ON o.customer = c.customer\n",
    )?;
    project.write("models/pairs.sql", "SELECT DISTINCT customer, amount FROM orders\n")?;
    Ok(project)
}

fn order(id: u64, revision: u64, amount: u64, deleted: bool) -> String {
    format!(
        "{{\"id\":{id},\"revision\":{revision},\"customer\":{},\"amount\":{amount},\"deleted\":{deleted}}}\n",
        id % CUSTOMERS
    )
}

/// Everything about this table, at both sizes.
pub fn run(report: &mut Report) -> Result<()> {
    let many = std::env::var("WEIR_BENCH_ROWS").ok().map_or(Ok(MANY), |rows| rows.parse())?;
    let few = {
        let project = project()?;
        let live = project.start()?;
        load(&live, FEW)?;
        changes(&live, FEW)?
    };
    let project = project()?;
    let live = project.start()?;
    let start = Instant::now();
    let bytes_in = load(&live, many)?;
    report.figure("orders: loaded", many as f64 / start.elapsed().as_secs_f64(), "rows/s", Bound::None);
    report.figure("orders: memory", live.memory()? as f64 / many as f64, "bytes/row", Bound::None);
    let with_many = changes(&live, many)?;
    for (kind, few, many) in [
        ("insert", few.insert, with_many.insert),
        ("update", few.update, with_many.update),
        ("delete", few.delete, with_many.delete),
    ] {
        report.figure(&format!("incremental: {kind}, many rows in"), milliseconds(many), "ms", Bound::AtMost(20.0));
        let ratio = many.as_secs_f64() / few.as_secs_f64();
        report.figure(&format!("incremental: {kind}, many beside few"), ratio, "", Bound::AtMost(2.0));
    }
    let fresh = freshness(&live, many)?;
    report.figure("freshness: p50", milliseconds(fresh.p50), "ms", Bound::None);
    report.figure("freshness: p99", milliseconds(fresh.p99), "ms", Bound::AtMost(250.0));
    report.figure("freshness: load", fresh.rate, "events/s", Bound::AtLeast(0.95 * LOAD_RATE as f64));
    drop(live);
    for (store, bytes) in project.bytes_on_disk()? {
        report.figure(&format!("bytes: {store}"), bytes as f64 / bytes_in as f64, "per byte in", Bound::None);
    }
    Ok(())
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// Posts customers and `count` orders and waits until the models have them; bytes posted.
fn load(live: &Live, count: u64) -> Result<u64> {
    let customers: String =
        (0..CUSTOMERS).map(|id| format!("{{\"customer\":{id},\"name\":\"customer {id}\"}}\n")).collect();
    let mut bytes = post(live, "customers", &customers)?;
    let mut random = Seeded(3);
    let mut first = 0;
    while first < count {
        let end = count.min(first + LOAD_BATCH);
        let body: String = (first..end).map(|id| order(id, 1, random.below(1000), false)).collect();
        bytes += post(live, "orders", &body)?;
        first = end;
    }
    let loaded = || -> Result<bool> {
        let rows = live.query("SELECT sum(orders) AS orders FROM by_customer")?;
        Ok(rows.first().and_then(|row| number(&row["orders"])).unwrap_or(0) == count)
    };
    let start = Instant::now();
    while !loaded()? {
        ensure!(start.elapsed() < Duration::from_secs(900), "{count} orders are not in after {:?}", start.elapsed());
        std::thread::sleep(Duration::from_millis(200));
    }
    Ok(bytes)
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok()).or_else(|| value.as_f64().map(|float| float as u64))
}

/// Posts until taken: a beacon that is behind asks to come back.
fn post(live: &Live, source: &str, body: &str) -> Result<u64> {
    let mut beacon = live.beacon()?;
    loop {
        let reply = beacon.post(&format!("/events/{source}"), body.as_bytes())?;
        match reply.status {
            429 | 503 => std::thread::sleep(Duration::from_millis(50)),
            _ => {
                ensure!(reply.is_success(), "{source}: {} {}", reply.status, reply.text());
                return Ok(body.len() as u64);
            }
        }
    }
}

/// Median time from posted to committed and visible, by kind of change.
struct Changes {
    insert: Duration,
    update: Duration,
    delete: Duration,
}

fn changes(live: &Live, count: u64) -> Result<Changes> {
    let mut beacon = live.beacon()?;
    let mut server = live.connect()?;
    let mut timed = |make: &dyn Fn(u64) -> (u64, String, Option<u64>)| -> Result<Duration> {
        let mut times = Vec::new();
        for round in 0..CHANGES {
            let (id, body, amount) = make(round);
            let start = Instant::now();
            let reply = beacon.post("/events/orders", body.as_bytes())?;
            ensure!(reply.is_success(), "{} {}", reply.status, reply.text());
            loop {
                let reply = server.get(&format!("/tables/named/{id}"))?;
                let there = reply.is_success().then(|| reply.text());
                let seen = match (&there, amount) {
                    (None, None) => true,
                    (Some(row), Some(amount)) => row.contains(&format!("\"amount\":{amount}")),
                    _ => false,
                };
                if seen {
                    break;
                }
                ensure!(start.elapsed() < Duration::from_secs(30), "order {id} does not change");
            }
            times.push(start.elapsed());
        }
        times.sort();
        Ok(times[times.len() / 2])
    };
    let base = count * 2;
    Ok(Changes {
        insert: timed(&|round| (base + round, order(base + round, 1, 5_000 + round, false), Some(5_000 + round)))?,
        update: timed(&|round| (round * 7, order(round * 7, 2, 6_000 + round, false), Some(6_000 + round)))?,
        delete: timed(&|round| (round * 7, order(round * 7, 3, 0, true), None))?,
    })
}

struct Freshness {
    p50: Duration,
    p99: Duration,
    rate: f64,
}

/// Updates orders at a steady rate from one connection, and times single ones on another.
fn freshness(live: &Live, count: u64) -> Result<Freshness> {
    let (mut load_beacon, mut beacon, mut server) = (live.beacon()?, live.beacon()?, live.connect()?);
    let end = Instant::now() + LOAD_TIME;
    let load = std::thread::spawn(move || -> Result<f64> {
        let mut random = Seeded(11);
        let start = Instant::now();
        let mut sent = 0;
        while Instant::now() < end {
            let due = start + Duration::from_secs_f64(sent as f64 / LOAD_RATE as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let body: String =
                (0..LOAD_POST).map(|_| order(random.below(count), 10 + sent, random.below(1000), false)).collect();
            let reply = load_beacon.post("/events/orders", body.as_bytes())?;
            ensure!(reply.is_success(), "under load: {} {}", reply.status, reply.text());
            sent += LOAD_POST;
        }
        Ok(sent as f64 / start.elapsed().as_secs_f64())
    });
    let mut times = Vec::new();
    let mut probe = count * 3;
    while Instant::now() < end {
        let reply = beacon.post("/events/orders", order(probe, 1, 1, false).as_bytes())?;
        ensure!(reply.is_success(), "probe: {} {}", reply.status, reply.text());
        let acknowledged = Instant::now();
        while !server.get(&format!("/tables/named/{probe}"))?.is_success() {
            ensure!(acknowledged.elapsed() < Duration::from_secs(60), "order {probe} does not appear");
            std::thread::sleep(Duration::from_micros(500));
        }
        times.push(acknowledged.elapsed());
        probe += 1;
    }
    // A panic in the load is a mistake of this file; it is passed on.
    let rate = load.join().map_err(|_| anyhow::anyhow!("the load panicked"))??;
    times.sort();
    let percentile = |percent: usize| times.get(times.len() * percent / 100).copied().context("no probe came through");
    Ok(Freshness { p50: percentile(50)?, p99: percentile(99)?, rate })
}
