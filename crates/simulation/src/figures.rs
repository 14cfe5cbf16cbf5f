//! What runs did, in numbers that can be added.

use std::collections::BTreeMap;
use std::fmt;

/// Sums over runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Figures {
    /// Runs.
    pub runs: u64,
    /// Steps.
    pub steps: u64,
    /// Starts of the process, the first and those that failed among them.
    pub starts: u64,
    /// Epochs.
    pub epochs: u64,
    /// Records that clients sent.
    pub sent: u64,
    /// Records that were acknowledged.
    pub acknowledged: u64,
    /// Submissions that were refused.
    pub refused: u64,
    /// Times that a sink was brought forward.
    pub fed: u64,
    /// Relations whose rows were compared with the model.
    pub relations_checked: u64,
    /// Faults, and other things worth counting, by kind.
    pub faults: BTreeMap<String, u64>,
    /// Whether the disk is full now.
    pub(crate) is_full: bool,
}

impl Figures {
    /// Counts something by its kind.
    pub(crate) fn count(&mut self, kind: &str) {
        *self.faults.entry(kind.to_owned()).or_default() += 1;
    }

    /// Adds another run's.
    pub fn add(&mut self, other: &Figures) {
        self.runs += other.runs;
        self.steps += other.steps;
        self.starts += other.starts;
        self.epochs += other.epochs;
        self.sent += other.sent;
        self.acknowledged += other.acknowledged;
        self.refused += other.refused;
        self.fed += other.fed;
        self.relations_checked += other.relations_checked;
        for (kind, count) in &other.faults {
            *self.faults.entry(kind.clone()).or_default() += count;
        }
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} runs, {} steps, {} starts, {} epochs", self.runs, self.steps, self.starts, self.epochs)?;
        let Self { sent, acknowledged, refused, .. } = self;
        writeln!(f, "{sent} records sent, {acknowledged} acknowledged; {refused} submissions refused")?;
        writeln!(f, "{} relations compared row by row, sinks fed {} times", self.relations_checked, self.fed)?;
        for (kind, count) in &self.faults {
            writeln!(f, "{count:>10} {kind}")?;
        }
        Ok(())
    }
}
