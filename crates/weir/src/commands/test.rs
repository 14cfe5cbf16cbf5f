//! `weir test`: runs the cases of tests/, in both tempos.

use std::path::{Path, PathBuf};
use std::time::Instant;

use clap::Args;
use weir_environment::Environment;
use weir_pipeline::cases::{CaseResult, run_case};
use weir_pipeline::compile::compile;
use weir_project::Project;

use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;

/// Arguments of `weir test`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Only cases whose name contains this
    only: Option<String>,
    /// Also write the results as JUnit XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Runs the cases of tests/ in batch, all at once, row by row and cut at random. Exit code 1 when one fails.

Examples:
  weir test
  weir test sessions
  weir test --junit results.xml";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let (only, junit) = (arguments.only.clone(), arguments.junit.clone());
    block_on(|_| async move {
        Ok(if test(project, only.as_deref(), junit.as_deref()).await? { Answer::Yes } else { Answer::No })
    })
}

/// Runs and prints; true when all pass. `only` restricts to names that contain it.
pub async fn test(project: Project, only: Option<&str>, junit: Option<&Path>) -> anyhow::Result<bool> {
    let spec = compile(&project)?;
    let environment = Environment::real();
    let started = Instant::now();
    let mut results: Vec<(CaseResult, f64)> = Vec::new();
    for case in project.tests.iter().filter(|c| only.is_none_or(|o| c.name.contains(o))) {
        let began = Instant::now();
        let result = run_case(&spec, case, environment.random.as_ref()).await?;
        println!("{} {}", if result.failures.is_empty() { "pass" } else { "FAIL" }, result.name);
        for failure in &result.failures {
            println!("{failure}");
        }
        results.push((result, began.elapsed().as_secs_f64()));
    }
    let failed = results.iter().filter(|(r, _)| !r.failures.is_empty()).count();
    println!("{} passed, {failed} failed in {:.2} s", results.len() - failed, started.elapsed().as_secs_f64());
    if let Some(path) = junit {
        std::fs::write(path, junit_xml(&results, failed))?;
    }
    Ok(failed == 0)
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn junit_xml(results: &[(CaseResult, f64)], failed: usize) -> String {
    let mut xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuite name=\"weir\" tests=\"{}\" failures=\"{failed}\">\n",
        results.len()
    );
    for (result, seconds) in results {
        xml.push_str(&format!("  <testcase name=\"{}\" time=\"{seconds:.3}\">", escape(&result.name)));
        for failure in &result.failures {
            xml.push_str(&format!("<failure>{}</failure>", escape(failure)));
        }
        xml.push_str("</testcase>\n");
    }
    xml.push_str("</testsuite>\n");
    xml
}
