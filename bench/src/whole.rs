//! Nexmark through the whole program: JSON files in, models kept, beside what Flink did with such files here.
//!
//! Flink's figures were measured on this kind of machine with Flink 2.3, its SQL on JSON files, mini-batch and object reuse
//! on, results dropped. Weir's side does more: it journals, lands histories and models in the lake, and accounts for all.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::events::{self, Kind};
use crate::live::Project;
use crate::report::{Bound, Report};

/// Events of one run.
const EVENTS: u64 = 2_000_000;
/// Each query is run so often; the middle time counts.
const RUNS: usize = 3;

/// A query, its text, and what Flink did with it, million events a second.
const QUERIES: [(&str, &str, f64); 6] = [
    ("q0", nexmark_query!("q00"), 0.18),
    ("q4", nexmark_query!("q04"), 0.10),
    ("q9", nexmark_query!("q09"), 0.08),
    ("q17", nexmark_query!("q17"), 0.16),
    ("q18", nexmark_query!("q18"), 0.13),
    ("q20", nexmark_query!("q20"), 0.12),
];

/// Measures every query from the start of the program to its end.
pub fn run(report: &mut Report) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("weir-bench-events-").tempdir()?;
    events::write(folder.path(), EVENTS)?;
    let mut ratios = Vec::new();
    for (name, sql, flink) in QUERIES {
        let mut times = Vec::new();
        for _ in 0..RUNS {
            times.push(whole(folder.path(), sql).with_context(|| name.to_owned())?);
        }
        times.sort();
        let rate = EVENTS as f64 / 1e6 / times[RUNS / 2].as_secs_f64();
        report.figure(&format!("whole: {name}"), rate, "M events/s", Bound::None);
        report.figure(&format!("whole: {name} beside Flink's figure"), rate / flink, "", Bound::AtLeast(2.0));
        ratios.push((rate / flink).ln());
    }
    let mean = (ratios.iter().sum::<f64>() / ratios.len() as f64).exp();
    report.figure("whole: all beside Flink's, geometric mean", mean, "", Bound::AtLeast(5.0));
    Ok(())
}

fn whole(events: &std::path::Path, sql: &str) -> Result<Duration> {
    let project = Project::new("", "")?;
    for kind in Kind::ALL {
        // A relation that the query does not read is not a source of its project.
        if sql.lines().any(|line| !line.starts_with("--") && line.contains(&format!(" {}", kind.name()))) {
            project.write(&format!("sources/{}.toml", kind.name()), &kind.source(events))?;
        }
    }
    project.write("models/result.sql", sql)?;
    let start = Instant::now();
    project.weir(&["run", "--once"])?;
    let time = start.elapsed();
    let errors = project.weir(&["query", "--format", "csv", "SELECT count(*) AS count FROM weir.errors"])?;
    ensure!(errors.lines().nth(1) == Some("0"), "rows failed: {errors}");
    Ok(time)
}
