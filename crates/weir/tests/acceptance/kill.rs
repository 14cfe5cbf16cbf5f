//! `kill -9` at random moments of a run that takes files and posts and feeds PostgreSQL: nothing acknowledged is
//! missing, nothing is there twice, in relations, in the lake, in PostgreSQL; and `weir verify` says equal each time.
//!
//! `WEIR_KILL_COUNT` kills (10 by default), at moments that `WEIR_KILL_SEED` determines; `cargo xtask kill` sets both.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::lake::table;
use super::support::{Connection, Postgres, Project, Rows, Running, Seeded, assert_same_rows, net, runs};

/// Events of one post.
const BATCH: u64 = 20;
/// Posts of one sender between two kills, at most.
const POSTS_MAX: u64 = 150;
/// Rows of one file.
const FILE_ROWS: u64 = 40;
/// Visitors that events are of.
const VISITORS: u64 = 50;
/// A kill comes this long after the start, at most.
const LIFE_MAX_MS: u64 = 2_500;
/// Senders are busy for about this long.
const BUSY_MAX_MS: u64 = 300;
/// Ids of orders begin here.
const ORDERS: u64 = 1_000_000_000;

/// What the outside knows.
#[derive(Default)]
pub struct Sent {
    pub next: AtomicU64,
    /// Ids whose post was answered with 2xx.
    pub acknowledged: Mutex<BTreeSet<u64>>,
}

/// The project that all this is done to; `log` is more of its `[log]`.
pub fn project(postgres: &Postgres, log: &str) -> Project {
    let project = Project::with_settings(&format!(
        "[state]\ncheckpoint_interval = \"1 second\"\n[lake]\nlanding_interval = \"700 milliseconds\"\n\
         compaction_interval = \"3 seconds\"\n[log]\nsegment_bytes = \"256 KiB\"\n{log}",
    ));
    let columns =
        "[columns]\nid = { type = \"BIGINT\", required = true }\nvisitor = \"TEXT\"\namount = \"DECIMAL(10, 2)\"\n";
    project.write("sources/clicks.toml", format!("kind = \"beacon\"\n{columns}"));
    project.write(
        "sources/orders.toml",
        format!("kind = \"files\"\npath = \"in/*.json\"\nsettle = \"0 seconds\"\n{columns}"),
    );
    project.write("models/clicks_flat.sql", "-- weir: key = [\"id\"]\nSELECT id, visitor, amount FROM clicks\n");
    project.write(
        "models/visits.sql",
        "-- weir: key = [\"visitor\"]\n\
         SELECT visitor, count(*) AS clicks, sum(amount) AS amount FROM clicks GROUP BY visitor\n",
    );
    project.write(
        "models/bought.sql",
        "-- weir: key = [\"id\"]\n\
         SELECT o.id AS id, o.visitor AS visitor, v.clicks AS clicks FROM orders o LEFT JOIN visits v ON o.visitor = v.visitor\n",
    );
    for model in ["clicks_flat", "visits", "bought"] {
        let url = postgres.url();
        project.write(
            &format!("sinks/{model}.toml"),
            format!("kind = \"postgres\"\nfrom = \"{model}\"\nurl = \"{url}\"\ntable = \"{model}\"\n"),
        );
    }
    project
}

/// An event or order as sent; everything in it follows from its id.
pub fn record(id: u64) -> String {
    format!("{{\"id\":{id},\"visitor\":\"v{}\",\"amount\":{}.25}}", id % VISITORS, id % 97)
}

/// Posts until the server is gone.
pub fn send(port: u16, sent: &Sent) {
    let Ok(mut connection) = Connection::open(port) else { return };
    for _ in 0..POSTS_MAX {
        let first = sent.next.fetch_add(BATCH, Ordering::Relaxed);
        let ids = first..first + BATCH;
        let body: Vec<String> = ids.clone().map(record).collect();
        match connection.post("/events/clicks", body.join("\n").as_bytes()) {
            Ok(reply) if reply.is_success() => {
                sent.acknowledged.lock().expect("nobody panics with it").extend(ids);
            }
            Ok(_) => continue,
            Err(_) => return,
        }
    }
}

/// One life of the process: it is fed, and killed.
pub fn live(project: &Project, sent: &Arc<Sent>, files: &mut u64, random: &mut Seeded) {
    let mut running = if random.below(4) == 0 {
        // Killed while it starts, before anybody can connect.
        let running = Running::start(&mut project.command(&["run"]));
        running.kill_after(Duration::from_millis(random.below(400)));
        return;
    } else {
        project.start()
    };
    let senders: Vec<_> = (0..2)
        .map(|_| {
            let (port, sent) = (project.beacon, sent.clone());
            std::thread::spawn(move || send(port, &sent))
        })
        .collect();
    for _ in 0..random.below(4) {
        let first = ORDERS + *files * FILE_ROWS;
        let rows: Vec<String> = (first..first + FILE_ROWS).map(record).collect();
        project.write(&format!("in/{files:06}.json"), rows.join("\n") + "\n");
        *files += 1;
        running.pass(Duration::from_millis(random.below(80)));
    }
    // Half of the kills come while the senders are at it, the others while it lands, compacts or rests.
    let life_max_ms = if random.below(2) == 0 { BUSY_MAX_MS } else { LIFE_MAX_MS };
    running.kill_after(Duration::from_millis(random.below(life_max_ms)));
    for sender in senders {
        sender.join().expect("a sender does not panic");
    }
}

/// Everything that anybody can see is compared with what was sent.
pub fn check(project: &Project, postgres: &Postgres, sent: &Sent, files: u64) {
    let missing = missing(project, postgres, sent, files);
    assert!(missing.is_empty(), "acknowledged and missing: {:?}", missing.iter().take(5).collect::<Vec<_>>());
}

/// As [`check`]; events that were acknowledged may be missing, and are returned.
pub fn missing(project: &Project, postgres: &Postgres, sent: &Sent, files: u64) -> BTreeSet<u64> {
    project.run_once();
    let clicks = ids(&project.query(&runs_sql("clicks")));
    let acknowledged = sent.acknowledged.lock().expect("nobody panics with it");
    let missing = acknowledged.difference(&clicks).copied().collect();
    let never_sent = clicks.iter().find(|id| **id >= sent.next.load(Ordering::Relaxed));
    assert_eq!(never_sent, None, "a row that nobody sent");
    let orders = ids(&project.query(&runs_sql("orders")));
    assert_eq!(orders, (ORDERS..ORDERS + files * FILE_ROWS).collect(), "orders are the rows of all files");

    // What models say follows from the rows that are there.
    let mut visits: BTreeMap<String, (u64, u64)> = BTreeMap::new();
    for id in &clicks {
        let visit = visits.entry(format!("v{}", id % VISITORS)).or_default();
        *visit = (visit.0 + 1, visit.1 + (id % 97) * 100 + 25);
    }
    let expected: Rows = visits
        .iter()
        .map(|(visitor, (clicks, cents))| {
            let pairs = [("visitor", visitor.clone()), ("clicks", clicks.to_string()), ("cents", cents.to_string())];
            pairs.map(|(name, value)| (name.to_owned(), value)).into()
        })
        .collect();
    let visits_sql = "SELECT visitor, clicks, CAST(amount * 100 AS BIGINT) AS cents FROM visits";
    assert_eq!(clicks.is_empty(), expected.is_empty());
    if !expected.is_empty() {
        let sorted = |mut rows: Rows| {
            rows.sort();
            rows
        };
        let expected = sorted(expected);
        assert_same_rows("visits by weir query", &project.query(visits_sql), &expected);
        assert_same_rows("visits in PostgreSQL", &postgres.query(visits_sql), &expected);
        assert_eq!(ids(&postgres.query(&runs_sql("clicks_flat"))), clicks, "clicks in PostgreSQL");
        let visits = net(&table(project, "visits"));
        assert!(visits.iter().all(|row| row["_weight_sum"] == "1"), "visits in the lake: {visits:?}");
        assert_eq!(visits.len(), expected.len(), "visits in the lake");
        assert_eq!(ids(&runs(&table(project, "clicks"))), clicks, "clicks in the lake");
    }
    if files > 0 {
        let sql = "SELECT id, visitor, clicks FROM bought";
        assert_same_rows("bought in PostgreSQL", &postgres.query(sql), &project.query(sql));
    }
    project.verify();
    missing
}

/// The runs of consecutive ids in a relation: there are few, however many rows there are.
fn runs_sql(relation: &str) -> String {
    format!(
        "SELECT min(id) AS first, max(id) AS last, count(*) AS count \
         FROM (SELECT id, id - row_number() OVER (ORDER BY id) AS run FROM {relation}) AS numbered GROUP BY run"
    )
}

/// The ids of runs, of which none may be there twice.
#[track_caller]
fn ids(runs: &Rows) -> BTreeSet<u64> {
    let mut ids = BTreeSet::new();
    for run in runs {
        let number = |column: &str| run[column].parse::<u64>().expect("a number");
        let (first, last) = (number("first"), number("last"));
        assert_eq!(number("count"), last + 1 - first, "some ids are there twice: {run:?}");
        assert!((first..=last).all(|id| ids.insert(id)), "some ids are there twice: {run:?}");
    }
    ids
}

pub fn number(variable: &str, default: u64) -> u64 {
    std::env::var(variable).map_or(default, |value| value.parse().expect("a number"))
}

#[test]
fn nothing_is_lost_or_doubled_by_kills_at_random_moments() {
    let (count, seed) = (number("WEIR_KILL_COUNT", 10), number("WEIR_KILL_SEED", 1));
    let postgres = Postgres::start();
    let project = project(&postgres, "");
    let sent = Arc::new(Sent::default());
    let mut random = Seeded::new(seed);
    let mut files = 0;
    for life in 1..=count {
        live(&project, &sent, &mut files, &mut random);
        check(&project, &postgres, &sent, files);
        let acknowledged = sent.acknowledged.lock().expect("nobody panics with it").len();
        println!("kill {life} of {count}: {acknowledged} events acknowledged, {files} files, all there once");
    }
    assert!(!sent.acknowledged.lock().expect("nobody panics with it").is_empty(), "no life was long enough");
}

#[test]
fn a_postgres_that_was_down_is_caught_up() {
    let mut postgres = Postgres::start();
    let project = project(&postgres, "");
    let mut running = project.start();
    let sent = Arc::new(Sent::default());
    send(project.beacon, &sent);
    postgres.kill();
    send(project.beacon, &sent);
    let mut server = Connection::open(project.server).expect("it listens");
    running.wait_until("lookups while PostgreSQL is down", || {
        server.get("/tables/visits/v1").is_ok_and(|reply| reply.is_success())
    });
    postgres.go_on();
    let expected = sent.acknowledged.lock().expect("nobody panics with it").len().to_string();
    let count = "SELECT count(*)::text AS count FROM clicks_flat";
    running.wait_until("PostgreSQL has all", || postgres.query(count)[0]["count"] == expected);
    drop(running);
    check(&project, &postgres, &sent, 0);
}
