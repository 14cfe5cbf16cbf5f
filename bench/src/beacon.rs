//! Acknowledged events of the beacon, beside the same server answering without storing.

use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::report::{Bound, Report};

/// Runs the connector's own driver, which prints lines `name value`.
pub fn run(report: &mut Report) -> Result<()> {
    let driver = std::env::current_exe()?.with_file_name("examples").join("beacon_speed");
    ensure!(driver.exists(), "{} is missing; `cargo xtask bench` builds it", driver.display());
    let output = Command::new(driver).output()?;
    let printed = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "beacon_speed: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    let value = |name: &str| -> Result<f64> {
        let line =
            printed.lines().find(|line| line.starts_with(name)).with_context(|| format!("no {name} in {printed}"))?;
        Ok(line.rsplit(' ').next().unwrap_or_default().parse()?)
    };
    let (stored, answered) = (value("stored")?, value("answered")?);
    report.figure("beacon: stored and acknowledged", stored, "events/s", Bound::None);
    report.figure("beacon: answered without storing", answered, "events/s", Bound::None);
    report.figure("beacon: stored beside not stored", stored / answered, "", Bound::AtLeast(0.5));
    Ok(())
}
