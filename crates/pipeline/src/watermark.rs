//! Event time: watermarks by partition, and which rows are late against them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Highest event times seen of one source, by partition, µs UTC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Watermarks {
    highest: BTreeMap<u32, i64>,
}

impl Watermarks {
    /// Judges rows of one partition in order and moves its watermark; `true` for a row that is late.
    ///
    /// A row is late when its time is more than `lateness_us` before the highest time that an earlier row of its
    /// partition had. Without a lateness nothing is late.
    pub fn judge(&mut self, partition: u32, times: &[i64], lateness_us: Option<i64>) -> Vec<bool> {
        let highest = self.highest.entry(partition).or_insert(i64::MIN);
        times
            .iter()
            .map(|time| {
                let late = lateness_us.is_some_and(|lateness| *time < highest.saturating_sub(lateness));
                if !late {
                    *highest = (*highest).max(*time);
                }
                late
            })
            .collect()
    }

    /// Moves the watermark by rows that are known to be admitted.
    pub fn observe(&mut self, partition: u32, time: i64) {
        let highest = self.highest.entry(partition).or_insert(i64::MIN);
        *highest = (*highest).max(time);
    }

    /// The time before which every row of every partition is late; None when nothing is ever late or nothing came.
    pub fn low(&self, lateness_us: Option<i64>) -> Option<i64> {
        let least = self.highest.values().min()?;
        Some(least.saturating_sub(lateness_us?))
    }

    /// The least of the highest times, None before the first row.
    pub fn least(&self) -> Option<i64> {
        self.highest.values().min().copied()
    }
}
