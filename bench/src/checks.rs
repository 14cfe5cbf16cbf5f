//! What measures and ready-made checks cost: Nexmark's events through the whole program, with them and without.
//!
//! Every kind of ready-made check is there, and sums by group on the stream of bids, which is most of the events. The two
//! sides take turns, so that a machine that slows down slows both.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use crate::events::{self, Kind};
use crate::live::Project;
use crate::report::{Bound, Report};

/// Events of one run.
const EVENTS: u64 = 2_000_000;
/// Each side is run so often; the middle time counts.
const RUNS: usize = 5;

const MODELS: [(&str, &str); 2] = [
    (
        "by_currency",
        "-- weir: key = [\"currency\"]\nSELECT currency, count(*) AS bids, sum(price) AS price FROM bid GROUP BY currency\n",
    ),
    (
        "winning",
        "-- weir: key = [\"auction\"]\nSELECT auction, max(price) AS price, count(*) AS bids FROM bid GROUP BY auction\n",
    ),
];

/// How much is watched.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Watch {
    Nothing,
    Measures,
    All,
}

/// Measures the same work under each watch.
pub fn run(report: &mut Report) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("weir-bench-events-").tempdir()?;
    events::write(folder.path(), EVENTS)?;
    let sides = [Watch::Nothing, Watch::Measures, Watch::All];
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..RUNS {
        for (side, times) in sides.iter().zip(&mut times) {
            times.push(whole(folder.path(), *side)?);
        }
    }
    let [plain, measures, all] = times.map(|mut times| {
        times.sort();
        times[RUNS / 2].as_secs_f64()
    });
    report.figure("checks: without", EVENTS as f64 / 1e6 / plain, "M events/s", Bound::None);
    report.figure("checks: measures beside without", measures / plain, "", Bound::AtMost(1.1));
    report.figure("checks: measures and checks beside without", all / plain, "", Bound::AtMost(1.1));
    Ok(())
}

fn whole(events: &Path, watch: Watch) -> Result<Duration> {
    let project = Project::new("", "")?;
    for kind in Kind::ALL {
        let (measure, checks) = match kind {
            Kind::Bid => (
                "\"price by currency\"",
                "\"not null auction, bidder\", \"accepted values currency in (EUR, USD, GBP, CZK)\", \
                 \"freshness date_time within 10000 days\", \"row count between 1 and 1_000_000_000\", \
                 \"sum price equals by_currency.price\"",
            ),
            Kind::Auction => ("\"reserve by category\"", "\"unique id\", \"references seller in person.id\""),
            Kind::Person => ("", "\"unique id\", \"not null name, city\""),
        };
        let mut text = String::new();
        if watch != Watch::Nothing {
            text.push_str(&format!("measure = [{measure}]\n"));
        }
        if watch == Watch::All {
            text.push_str(&format!("checks = [{checks}]\n"));
        }
        text.push_str(&kind.source(events));
        if kind == Kind::Bid {
            text.push_str(
                "\n[enrich]\ncurrency = \"CASE price % 4 WHEN 0 THEN 'EUR' WHEN 1 THEN 'USD' WHEN 2 THEN 'GBP' ELSE 'CZK' END\"\n",
            );
        }
        project.write(&format!("sources/{}.toml", kind.name()), &text)?;
    }
    for (name, sql) in MODELS {
        let watched = if watch == Watch::Nothing { "" } else { "-- weir: measure = \"price\"\n" };
        project.write(&format!("models/{name}.sql"), &format!("{watched}{sql}"))?;
    }
    let start = Instant::now();
    project.weir(&["run", "--once"])?;
    let time = start.elapsed();
    if watch == Watch::All {
        let open = "SELECT count(*) AS count FROM weir.checks WHERE rows > 0 AND name NOT LIKE '%references%'";
        let open = project.weir(&["query", "--format", "csv", open])?;
        ensure!(open.lines().nth(1) == Some("0"), "checks are violated: {open}");
    }
    Ok(time)
}
