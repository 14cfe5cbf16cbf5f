//! The house rules, as checks that run inside `cargo test`: tiers, role lines, sizes, tests that wait, unproved unwraps.

mod rules;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::source::{self, Line};
use crate::workspace;

/// Something that breaks a rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// The file, relative to the checkout.
    pub path: PathBuf,
    /// Line from 1; 0 for the whole file.
    pub line: usize,
    /// The rule's name.
    pub rule: &'static str,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.path.display())?;
        if self.line > 0 {
            write!(formatter, ":{}", self.line)?;
        }
        write!(formatter, ": {} [{}]", self.message, self.rule)
    }
}

/// A Rust file, read.
pub struct SourceFile {
    /// Relative to the checkout.
    pub path: PathBuf,
    /// As it is.
    pub text: String,
    /// In lines, without strings and comments.
    pub lines: Vec<Line>,
}

impl SourceFile {
    fn new(path: &Path, text: String) -> Self {
        Self { path: path.to_path_buf(), lines: source::lines(path, &text), text }
    }
}

/// Where the counts of findings that are still allowed stand: `rule path count`, a line each. They may only shrink.
const ALLOWED: &str = "crates/xtask/tidy.allowed";

/// The table of reasons for which records are set aside.
const REASONS: &str = "crates/schemas/src/reasons.rs";

/// All rules over the whole workspace; prints findings, and says whether there are none.
pub fn run(update: bool) -> Result<bool> {
    let mut findings = check()?;
    let allowed_path = workspace::root().join(ALLOWED);
    let allowed = parse_allowed(&std::fs::read_to_string(&allowed_path).with_context(|| ALLOWED.to_owned())?)?;
    if update {
        let kept = lower(&allowed, &findings);
        std::fs::write(&allowed_path, print_allowed(&kept))?;
        findings = beyond(&kept, findings);
    } else {
        findings = beyond(&allowed, findings);
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    eprintln!(
        "tidy: {}",
        if findings.is_empty() { "every house rule holds".into() } else { format!("{} findings", findings.len()) }
    );
    Ok(findings.is_empty())
}

fn check() -> Result<Vec<Finding>> {
    let root = workspace::root();
    let packages = workspace::packages()?;
    let mut findings = rules::tiers(&packages, &root);
    let reasons = std::fs::read_to_string(root.join(REASONS)).with_context(|| REASONS.to_owned())?;
    for folder in ["crates", "bench"] {
        if !root.join(folder).is_dir() {
            continue;
        }
        for path in workspace::files(folder, ".rs")? {
            let text = std::fs::read_to_string(root.join(&path)).with_context(|| path.display().to_string())?;
            let file = SourceFile::new(&path, text);
            rules::file(&file, &mut findings);
            rules::reasons(&file, &reasons, &mut findings);
        }
    }
    let crates: Vec<&str> = packages.iter().map(|package| package.name.as_str()).collect();
    for page in ["ARCHITECTURE.md", "README.md"] {
        let text = std::fs::read_to_string(root.join(page)).with_context(|| page.to_owned())?;
        rules::names_that_exist(Path::new(page), &text, &crates, &root, &mut findings);
    }
    rules::architecture_is_short(&root, &mut findings)?;
    rules::every_crate_is_described(&root, &packages, &mut findings)?;
    findings.sort();
    Ok(findings)
}

type Allowed = BTreeMap<(String, PathBuf), usize>;

fn parse_allowed(text: &str) -> Result<Allowed> {
    let mut allowed = Allowed::new();
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let mut words = line.split_whitespace();
        let (rule, path, count) = (words.next(), words.next(), words.next().and_then(|count| count.parse().ok()));
        let (Some(rule), Some(path), Some(count)) = (rule, path, count) else {
            anyhow::bail!("{ALLOWED}: not `rule path count`: {line}");
        };
        allowed.insert((rule.to_owned(), PathBuf::from(path)), count);
    }
    Ok(allowed)
}

fn print_allowed(allowed: &Allowed) -> String {
    let mut text = String::from(
        "# Findings of `cargo xtask tidy` that are still allowed: rule, file, how many. The counts may only shrink;\n\
         # `cargo xtask tidy --update` lowers them to what is there.\n",
    );
    for ((rule, path), count) in allowed {
        text.push_str(&format!("{rule} {} {count}\n", path.display()));
    }
    text
}

fn count(findings: &[Finding]) -> Allowed {
    let mut counts = Allowed::new();
    for finding in findings {
        *counts.entry((finding.rule.to_owned(), finding.path.clone())).or_default() += 1;
    }
    counts
}

fn lower(allowed: &Allowed, findings: &[Finding]) -> Allowed {
    let counts = count(findings);
    let lowered = allowed.iter().map(|(key, &most)| (key.clone(), most.min(counts.get(key).copied().unwrap_or(0))));
    lowered.filter(|(_, count)| *count > 0).collect()
}

/// Findings that the allowed counts do not cover, and counts that are higher than what is there.
fn beyond(allowed: &Allowed, findings: Vec<Finding>) -> Vec<Finding> {
    let counts = count(&findings);
    let covered = |finding: &Finding| {
        let key = (finding.rule.to_owned(), finding.path.clone());
        counts[&key] <= allowed.get(&key).copied().unwrap_or(0)
    };
    let stale = allowed.iter().filter(|(key, most)| **most > counts.get(*key).copied().unwrap_or(0));
    let stale = stale.map(|((rule, path), most)| Finding {
        path: PathBuf::from(ALLOWED),
        line: 0,
        rule: "allowed",
        message: format!(
            "{most} findings of {rule} are allowed in {}, there are fewer; run `cargo xtask tidy --update`",
            path.display()
        ),
    });
    let stale: Vec<Finding> = stale.collect();
    findings.into_iter().filter(|finding| !covered(finding)).chain(stale).collect()
}

#[cfg(test)]
mod tests;
