//! Acknowledged events of the beacon, beside the same server answering without storing.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::report::{Bound, Report};

/// Runs the connector's own driver, which measures both in turns and closes with the middle ratio.
pub fn run(report: &mut Report) -> Result<()> {
    let driver = std::env::current_exe()?.with_file_name("examples").join("beacon_speed");
    ensure!(driver.exists(), "{} is missing; `cargo xtask bench` builds it", driver.display());
    let output = Command::new(driver).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "beacon_speed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    eprint!("{printed}");
    let closing = printed.lines().rfind(|line| line.starts_with("ratio")).context("no ratio in what it printed")?;
    let ratio =
        closing.split([' ', ';']).find_map(|word| word.parse::<f64>().ok()).context("no number in the ratio")?;
    report.figure("beacon: durable beside not stored", ratio, "", Bound::AtLeast(0.5));
    Ok(())
}
