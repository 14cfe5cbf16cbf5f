//! One line of progress on a terminal, rewritten in place; nothing where nobody watches.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use std::sync::Mutex;

/// Time between two lines.
const INTERVAL: Duration = Duration::from_millis(200);
/// Work shorter than this says nothing.
const QUIET: Duration = Duration::from_secs(1);

/// The line.
#[derive(Debug)]
pub struct Progress {
    started: Instant,
    shown: Mutex<Option<Instant>>,
    enabled: bool,
}

impl Progress {
    /// On standard error, when that is a terminal.
    pub fn new() -> Self {
        Self { started: Instant::now(), shown: Mutex::new(None), enabled: std::io::stderr().is_terminal() }
    }

    /// Shows a line, at most every fifth of a second and not within the first second.
    pub fn line(&self, text: &str) {
        if !self.enabled || self.started.elapsed() < QUIET {
            return;
        }
        // A poisoned lock means that another thread died while printing; the line does not matter then.
        let Ok(mut shown) = self.shown.lock() else { return };
        if shown.is_some_and(|at| at.elapsed() < INTERVAL) {
            return;
        }
        *shown = Some(Instant::now());
        let _ = write!(std::io::stderr(), "\r\x1b[2K{text}");
        let _ = std::io::stderr().flush();
    }

    /// Removes the line.
    pub fn done(&self) {
        if let Ok(mut shown) = self.shown.lock()
            && shown.take().is_some()
        {
            let _ = write!(std::io::stderr(), "\r\x1b[2K");
        }
    }
}
