//! Nexmark through the whole program: JSON files in, models kept, beside what Flink did with such files here.
//!
//! Flink's figures were measured on this kind of machine with Flink 2.3, its SQL on JSON files, mini-batch and object reuse
//! on, results dropped. Weir's side does more: it journals, lands histories and models in the lake, and accounts for all.

use std::fs::File;
use std::io::BufWriter;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arrow::datatypes::DataType;
use arrow_json::LineDelimitedWriter;

use crate::events::{Kind, events};
use crate::live::Project;
use crate::report::{Bound, Report};

/// Events of one run.
const EVENTS: u64 = 2_000_000;
/// Events made at a time.
const CHUNK: u64 = 100_000;
/// Each query is run so often; the middle time counts.
const RUNS: usize = 3;

/// A query, its text, and what Flink did with it, million events a second.
const QUERIES: [(&str, &str, f64); 6] = [
    ("q0", include_str!("../nexmark/q0.sql"), 0.18),
    ("q4", include_str!("../nexmark/q4.sql"), 0.10),
    ("q9", include_str!("../nexmark/q9.sql"), 0.08),
    ("q17", include_str!("../nexmark/q17.sql"), 0.16),
    ("q18", include_str!("../nexmark/q18.sql"), 0.13),
    ("q20", include_str!("../nexmark/q20.sql"), 0.12),
];

/// Measures every query from the start of the program to its end.
pub fn run(report: &mut Report) -> Result<()> {
    let folder = tempfile::Builder::new().prefix("weir-bench-events-").tempdir()?;
    let mut files = Vec::new();
    for kind in Kind::ALL {
        let file =
            BufWriter::with_capacity(1 << 20, File::create(folder.path().join(format!("{}.json", kind.name())))?);
        files.push(LineDelimitedWriter::new(file));
    }
    for from in (0..EVENTS).step_by(CHUNK as usize) {
        for (file, rows) in files.iter_mut().zip(events(from..EVENTS.min(from + CHUNK))?) {
            file.write(&rows)?;
        }
    }
    files.iter_mut().try_for_each(LineDelimitedWriter::finish)?;
    drop(files);

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
        if !sql.contains(&format!(" {}", kind.name())) {
            continue;
        }
        let mut source = format!(
            "kind = \"files\"\npath = \"{}/{}.json\"\nsettle = \"0 seconds\"\nunknown_fields = \"drop\"\n[columns]\n",
            events.display(),
            kind.name()
        );
        for field in kind.schema().fields() {
            let column = match field.data_type() {
                DataType::Int64 => "BIGINT",
                DataType::Utf8 => "TEXT",
                _ => "TIMESTAMP",
            };
            source += &format!("{} = \"{column}\"\n", field.name());
        }
        project.write(&format!("sources/{}.toml", kind.name()), &source)?;
    }
    project.write("models/result.sql", sql)?;
    let start = Instant::now();
    project.weir(&["run", "--once"])?;
    let time = start.elapsed();
    let errors = project.weir(&["query", "--format", "csv", "SELECT count(*) AS count FROM weir.errors"])?;
    ensure!(errors.lines().nth(1) == Some("0"), "rows failed: {errors}");
    Ok(time)
}
