//! What happened, line by line, and one number that says whether two runs were the same.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A growing record of a run.
#[derive(Debug, Default)]
pub struct Trace {
    lines: Vec<String>,
    hash: u64,
}

impl Trace {
    /// Adds a line.
    pub fn note(&mut self, line: fmt::Arguments<'_>) {
        let line = line.to_string();
        self.hash = xxh3_64_with_seed(line.as_bytes(), self.hash);
        self.lines.push(line);
    }

    /// A number that depends on every line.
    pub fn hash(&self) -> u64 {
        self.hash
    }

    /// The lines.
    pub fn into_lines(self) -> Vec<String> {
        self.lines
    }
}
