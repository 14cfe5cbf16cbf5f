//! What `cargo xtask bench` measures: each figure a ratio of two things done in the same run on the same machine.

/// The text of one of Nexmark's queries, as the tests of the query sets keep it.
macro_rules! nexmark_query {
    ($name:literal) => {
        include_str!(concat!("../../crates/incremental/tests/sets/queries/nexmark/", $name, ".sql"))
    };
}

mod batch;
mod beacon;
mod checks;
mod events;
mod files;
mod growth;
#[path = "../../crates/weir/tests/acceptance/support/http.rs"]
mod http;
mod live;
mod nexmark;
mod orders;
mod random;
mod report;
mod whole;

use std::process::ExitCode;

use anyhow::Result;

use report::Report;

/// A benchmark's name and what runs it.
const BENCHMARKS: [(&str, fn(&mut Report) -> Result<()>); 8] = [
    ("beacon", beacon::run),
    ("files", files::run),
    ("incremental", orders::run),
    ("nexmark", nexmark::run),
    ("whole", whole::run),
    ("growth", growth::run),
    ("batch", batch::run),
    ("checks", checks::run),
];
/// Names of figures that come with another benchmark.
const WITH_INCREMENTAL: [&str; 2] = ["freshness", "bytes"];

fn main() -> ExitCode {
    weir_environment::keep_freed_memory();
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    for name in &mut names {
        if WITH_INCREMENTAL.contains(&name.as_str()) {
            *name = "incremental".into();
        }
    }
    if let Some(unknown) = names.iter().find(|name| !BENCHMARKS.iter().any(|(known, _)| known == name)) {
        eprintln!(
            "no benchmark `{unknown}`; there are beacon, files, incremental, freshness, bytes, nexmark, whole, growth, batch and checks"
        );
        return ExitCode::from(2);
    }
    let mut report = Report::default();
    for (name, run) in BENCHMARKS {
        if !names.is_empty() && !names.iter().any(|asked| asked == name) {
            continue;
        }
        eprintln!("== {name}");
        if let Err(error) = run(&mut report) {
            eprintln!("{name}: {error:#}");
            report.failed(name, &error.to_string());
        }
    }
    report.print();
    if report.holds() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}
