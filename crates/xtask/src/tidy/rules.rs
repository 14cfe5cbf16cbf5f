//! Each house rule as a function from what it reads to its findings.

use std::path::{Path, PathBuf};

use anyhow::Result;

use super::{Finding, SourceFile};
use crate::workspace::Package;

/// Lines without tests beyond which a file must be cut.
const LINES_MAX: usize = 700;
/// Lines beyond which ARCHITECTURE.md is no longer read.
const ARCHITECTURE_LINES_MAX: usize = 300;

/// The tier of each crate; an edge goes only to a lower one.
const TIERS: [(&str, u8); 14] = [
    ("weir-environment", 0),
    ("weir-schemas", 1),
    ("weir-journal", 1),
    ("weir-incremental", 1),
    ("weir-functions", 1),
    ("weir-project", 2),
    ("weir-pipeline", 3),
    ("weir-connectors", 4),
    ("weir-server", 4),
    ("weir", 5),
    ("weir-simulation", DEVELOPMENT),
    ("weir-fuzzing", DEVELOPMENT),
    ("weir-bench", DEVELOPMENT),
    ("xtask", DEVELOPMENT),
];
/// Above all others: only for tests and chores.
const DEVELOPMENT: u8 = 9;

fn tier(package: &str) -> Option<u8> {
    TIERS.iter().find(|(name, _)| *name == package).map(|(_, tier)| *tier)
}

/// Edges between crates of the workspace go to a lower tier; those for tests may also go to the development tier.
pub fn tiers(packages: &[Package], root: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let path = package.manifest_path.strip_prefix(root).unwrap_or(&package.manifest_path).to_path_buf();
        let mut find = |message| findings.push(Finding { path: path.clone(), line: 0, rule: "tiers", message });
        let Some(own) = tier(&package.name) else {
            find(format!(
                "the crate {} has no tier; add it to the table in crates/xtask/src/tidy/rules.rs",
                package.name
            ));
            continue;
        };
        for dependency in &package.dependencies {
            let Some(other) = tier(&dependency.name) else { continue };
            let for_tests = dependency.kind.as_deref() == Some("dev");
            let allowed = other < own || (for_tests && other == DEVELOPMENT);
            if !allowed {
                find(format!("{} (tier {own}) must not depend on {} (tier {other})", package.name, dependency.name));
            }
        }
    }
    findings
}

/// The rules that look at one Rust file.
pub fn file(file: &SourceFile, findings: &mut Vec<Finding>) {
    role_line(file, findings);
    size(file, findings);
    unfinished(file, findings);
    tests_that_wait(file, findings);
    unproved_unwraps(file, findings);
    effects(file, findings);
}

fn find(findings: &mut Vec<Finding>, file: &SourceFile, line: usize, rule: &'static str, message: impl Into<String>) {
    findings.push(Finding { path: file.path.clone(), line, rule, message: message.into() });
}

fn role_line(file: &SourceFile, findings: &mut Vec<Finding>) {
    let first = file.text.lines().next().unwrap_or_default();
    if !first.starts_with("//! ") || first.len() < 16 || first.contains("Placeholder") {
        find(findings, file, 1, "role", "the first line must say the file's role: `//! ...`");
    }
}

fn size(file: &SourceFile, findings: &mut Vec<Finding>) {
    let count = file.lines.iter().filter(|line| !line.test).count();
    if count > LINES_MAX {
        find(findings, file, 0, "size", format!("{count} lines without tests, {LINES_MAX} at most; look for the seam"));
    }
}

/// Notes to oneself, in comments or code.
fn unfinished(file: &SourceFile, findings: &mut Vec<Finding>) {
    // Written in two parts, so that this file does not find itself.
    let notes = [["TO", "DO"].concat(), ["FIX", "ME"].concat(), ["XX", "X"].concat()];
    for (index, line) in file.text.lines().enumerate() {
        let words = || line.split(|character: char| !character.is_alphanumeric());
        if words().any(|word| notes.iter().any(|note| note == word)) {
            find(findings, file, index + 1, "unfinished", "do it, or file it; no notes in the code");
        }
    }
    for (index, line) in file.lines.iter().enumerate() {
        if ["todo!(", "unimplemented!(", "dbg!("].iter().any(|call| line.code.contains(call)) {
            find(findings, file, index + 1, "unfinished", "this is not finished");
        }
    }
}

fn tests_that_wait(file: &SourceFile, findings: &mut Vec<Finding>) {
    if file.path.components().any(|part| part.as_os_str() == "examples") {
        return;
    }
    for (index, line) in file.lines.iter().enumerate().filter(|(_, line)| line.test) {
        if line.code.contains("#[ignore") {
            find(findings, file, index + 1, "ignored", "a test runs or is not there");
        }
        if ["thread::sleep", "time::sleep", " sleep("].iter().any(|call| line.code.contains(call)) {
            find(findings, file, index + 1, "sleep", "a test waits for what it is about, not for a time");
        }
    }
}

fn unproved_unwraps(file: &SourceFile, findings: &mut Vec<Finding>) {
    for (index, line) in file.lines.iter().enumerate().filter(|(_, line)| !line.test) {
        let fails = line.code.contains(".unwrap()") || line.code.contains(".expect(\"");
        // The comment that proves it stands on the line or on one of the two before it.
        let proved = file.lines[index.saturating_sub(2)..=index].iter().any(|line| line.comment);
        if fails && !proved {
            find(findings, file, index + 1, "unwrap", "prove in a comment that it cannot fail, or return the error");
        }
    }
}

/// What crates below the pipeline may reach only through `weir_environment`.
const EFFECTS: [&str; 17] = [
    "SystemTime::now",
    "Instant::now",
    "Utc::now",
    "Local::now",
    "thread::spawn",
    "thread::scope",
    "thread::Builder",
    "tokio::spawn",
    "spawn_blocking",
    "rand::",
    "std::fs",
    "fs::File",
    "tokio::fs",
    "TcpStream",
    "TcpListener",
    "UdpSocket",
    "std::process",
];
/// The crates that are held to it.
const WITHOUT_EFFECTS: [&str; 5] = ["schemas", "journal", "incremental", "functions", "project"];
/// `project` reads the user's folder itself.
const FOLDER_READERS: [&str; 1] = ["project"];

fn effects(file: &SourceFile, findings: &mut Vec<Finding>) {
    let mut parts = file.path.components().map(|part| part.as_os_str().to_string_lossy());
    let (Some(_), Some(name)) = (parts.next(), parts.next()) else { return };
    if !WITHOUT_EFFECTS.contains(&name.as_ref()) {
        return;
    }
    for (index, line) in file.lines.iter().enumerate().filter(|(_, line)| !line.test) {
        let Some(effect) = EFFECTS.iter().find(|effect| line.code.contains(**effect)) else { continue };
        if effect.contains("fs") && FOLDER_READERS.contains(&name.as_ref()) {
            continue;
        }
        find(
            findings,
            file,
            index + 1,
            "effects",
            format!("`{effect}` below the pipeline goes through weir_environment"),
        );
    }
}

/// How a reason's code is written where a record is set aside; the code stands behind it, in quotes.
const REASON_MARKS: [&str; 9] = [
    "Err((",
    "Some((",
    "of_record(",
    "of_value(",
    "GivenUp(",
    "reason: ",
    "aside(record, ",
    "aside(rows[row], ",
    "push((row, ",
];
/// Where records are set aside.
const REASON_PLACES: [&str; 3] = ["crates/schemas/src", "crates/connectors/src/sources", "crates/pipeline/src"];

/// Every code that a record is set aside with is in the table that the documentation is made from (`table`: its text).
pub fn reasons(file: &SourceFile, table: &str, findings: &mut Vec<Finding>) {
    if !REASON_PLACES.iter().any(|place| file.path.starts_with(place)) {
        return;
    }
    for (index, text) in file.text.lines().enumerate().filter(|(index, _)| !file.lines[*index].test) {
        for mark in REASON_MARKS {
            let behind = text.split(mark).nth(1).and_then(|behind| behind.strip_prefix('"'));
            let Some(code) = behind.and_then(|behind| behind.split('"').next()) else { continue };
            let is_code =
                !code.is_empty() && code.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
            if is_code && !table.contains(&format!("\"{code}\",")) {
                let message = format!("the reason `{code}` is not in crates/schemas/src/reasons.rs");
                find(findings, file, index + 1, "reasons", message);
            }
        }
    }
}

/// Paths and crates that a page names in backticks exist.
pub fn names_that_exist(page: &Path, text: &str, crates: &[&str], root: &Path, findings: &mut Vec<Finding>) {
    let mut in_block = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            continue;
        }
        for name in line.split('`').skip(1).step_by(2) {
            let missing = if name.starts_with("weir-") && name.chars().all(|c| c.is_ascii_lowercase() || c == '-') {
                !crates.contains(&name)
            } else {
                looks_like_a_path(name) && !root.join(name.split(':').next().unwrap_or(name)).exists()
            };
            if missing {
                let message = format!("names `{name}`, which is not there");
                findings.push(Finding { path: page.to_path_buf(), line: index + 1, rule: "names", message });
            }
        }
    }
}

fn looks_like_a_path(name: &str) -> bool {
    let tops = ["crates/", "docs/", "decisions/", "bench/", ".ci/"];
    tops.iter().any(|top| name.starts_with(top)) && !name.contains(['*', '<', '{', ' '])
}

/// ARCHITECTURE.md stays short enough to be read.
pub fn architecture_is_short(root: &Path, findings: &mut Vec<Finding>) -> Result<()> {
    let count = std::fs::read_to_string(root.join("ARCHITECTURE.md"))?.lines().count();
    if count > ARCHITECTURE_LINES_MAX {
        let message = format!("{count} lines, {ARCHITECTURE_LINES_MAX} at most");
        findings.push(Finding { path: PathBuf::from("ARCHITECTURE.md"), line: 0, rule: "size", message });
    }
    Ok(())
}

/// ARCHITECTURE.md has a paragraph for every crate.
pub fn every_crate_is_described(root: &Path, packages: &[Package], findings: &mut Vec<Finding>) -> Result<()> {
    let text = std::fs::read_to_string(root.join("ARCHITECTURE.md"))?;
    for package in packages {
        let folder = package.manifest_path.parent().and_then(|folder| folder.strip_prefix(root).ok());
        let Some(folder) = folder else { continue };
        if !text.contains(&format!("`{}`", folder.display())) {
            let message = format!("does not describe `{}`", folder.display());
            findings.push(Finding { path: PathBuf::from("ARCHITECTURE.md"), line: 0, rule: "names", message });
        }
    }
    Ok(())
}
