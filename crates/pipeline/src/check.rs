//! Checks: when a violation opens and closes, and who put up with it.

use serde::{Deserialize, Serialize};
use weir_project::Check;

use crate::EpochNumber;

/// An epoch and its clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Moment {
    /// The epoch.
    pub epoch: EpochNumber,
    /// Its reading of the clock, µs UTC.
    pub clock: i64,
}

/// Who put up with a violation, until it is clear.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Waiver {
    /// When.
    pub at: Moment,
    /// Who.
    pub by: String,
    /// Why.
    pub why: String,
}

/// How a check stands at an epoch: the life of its present violation.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckState {
    /// Since when it has more rows than it may; it is no violation yet while its grace lasts.
    pub exceeded: Option<Moment>,
    /// Since when it is violated.
    pub opened: Option<Moment>,
    /// Who put up with it.
    pub waived: Option<Waiver>,
}

/// What an epoch changed in the life of a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transition {
    /// There is one from now on.
    Opened,
    /// There is none any more.
    Closed,
}

impl Transition {
    /// As the ledger has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Closed => "closed",
        }
    }
}

impl CheckState {
    /// Whether it is violated and nobody put up with it.
    pub fn is_open(&self) -> bool {
        self.opened.is_some() && self.waived.is_none()
    }

    /// The next state, when the check has so many rows at `now`.
    pub fn judge(&mut self, check: &Check, rows: i64, now: Moment) -> Option<Transition> {
        if u64::try_from(rows).unwrap_or(0) <= check.tolerance {
            let was = std::mem::take(self);
            return was.opened.map(|_| Transition::Closed);
        }
        let since = *self.exceeded.get_or_insert(now);
        if self.opened.is_none() && now.clock >= due(check, since) {
            self.opened = Some(now);
            return Some(Transition::Opened);
        }
        None
    }

    /// When it changes though no row comes, µs UTC, while the check has so many rows: at once where it was never judged by
    /// them, as a check that was filled from history, or whose tolerance is another.
    pub fn next_due(&self, check: &Check, rows: i64) -> Option<i64> {
        let exceeds = u64::try_from(rows).unwrap_or(0) > check.tolerance;
        if exceeds != self.exceeded.is_some() {
            return Some(i64::MIN);
        }
        self.exceeded.filter(|_| self.opened.is_none()).map(|since| due(check, since))
    }
}

fn due(check: &Check, since: Moment) -> i64 {
    since.clock.saturating_add(i64::try_from(check.grace.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use weir_project::CheckSeverity;

    #[test]
    fn a_violation_opens_after_its_grace_and_a_waiver_ends_with_it() {
        let check = Check {
            severity: CheckSeverity::Block,
            tolerance: 2,
            grace: Duration::from_micros(10),
            message: None,
            holds: vec!["site".into()],
        };
        let mut state = CheckState::default();
        let judge = |state: &mut CheckState, rows, clock| state.judge(&check, rows, Moment { epoch: 1, clock });
        assert_eq!(judge(&mut state, 2, 0), None);
        assert_eq!(state, CheckState::default());
        assert_eq!(judge(&mut state, 3, 5), None);
        assert_eq!(state.next_due(&check, 3), Some(15));
        assert_eq!(judge(&mut state, 9, 14), None);
        // It was clear in between: the grace begins anew.
        assert_eq!(judge(&mut state, 0, 14), None);
        assert_eq!(judge(&mut state, 3, 20), None);
        assert_eq!(judge(&mut state, 3, 30), Some(Transition::Opened));
        assert_eq!((state.is_open(), state.next_due(&check, 3)), (true, None));
        assert_eq!(judge(&mut state, 4, 31), None);
        state.waived = Some(Waiver { at: Moment { epoch: 2, clock: 32 }, by: "me".into(), why: "known".into() });
        assert!(!state.is_open());
        assert_eq!(judge(&mut state, 1, 33), Some(Transition::Closed));
        assert_eq!(state, CheckState::default());
        // Rows that it was never judged by.
        assert_eq!((state.next_due(&check, 2), state.next_due(&check, 3)), (None, Some(i64::MIN)));
        assert!(check.holds("site") && !check.holds("lake"));
    }
}
