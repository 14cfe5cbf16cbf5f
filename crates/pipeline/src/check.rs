//! Checks: when a violation opens and closes, and who put up with it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
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

/// What happens in the life of a violation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// There is one from now on.
    Opened,
    /// There still is, and nobody has put up with it.
    StillOpen,
    /// Somebody puts up with it.
    Waived,
    /// There is none any more.
    Closed,
}

impl EventKind {
    /// As the ledger and messages have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::StillOpen => "still_open",
            Self::Waived => "waived",
            Self::Closed => "closed",
        }
    }
}

/// One event in the life of a violation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckEvent {
    /// The check.
    pub check: String,
    /// What happened.
    pub kind: EventKind,
    /// When.
    pub at: Moment,
    /// Rows that the check had then.
    pub rows: Option<i64>,
    /// Who puts up with it.
    pub by: Option<String>,
    /// Why.
    pub why: Option<String>,
}

/// The events that an entry of the ledger tells of, in an order that lasts.
pub fn events(entry: &Value) -> Vec<CheckEvent> {
    let (Some(epoch), Some(clock)) = (entry["epoch"].as_u64(), entry["clock"].as_i64()) else { return Vec::new() };
    let at = Moment { epoch, clock };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let mut events = Vec::new();
    for (check, told) in entry["checks"].as_object().into_iter().flatten() {
        let kind = match told["event"].as_str() {
            Some("opened") => EventKind::Opened,
            Some("closed") => EventKind::Closed,
            _ => continue,
        };
        let rows = told["rows"].as_i64();
        events.push(CheckEvent { check: check.clone(), kind, at, rows, by: None, why: None });
    }
    let note = &entry["note"];
    if let (Some(check), Some(by)) = (text(&note["check"]), text(&note["waived_by"])) {
        let (rows, why) = (note["rows"].as_i64(), text(&note["why"]));
        events.push(CheckEvent { check, kind: EventKind::Waived, at, rows, by: Some(by), why });
    }
    events
}

impl CheckState {
    /// Whether it is violated and nobody put up with it.
    pub fn is_open(&self) -> bool {
        self.opened.is_some() && self.waived.is_none()
    }

    /// The next state, when the check has so many rows at `now`.
    pub fn judge(&mut self, check: &Check, rows: i64, now: Moment) -> Option<EventKind> {
        if u64::try_from(rows).unwrap_or(0) <= check.tolerance {
            let was = std::mem::take(self);
            return was.opened.map(|_| EventKind::Closed);
        }
        let since = *self.exceeded.get_or_insert(now);
        if self.opened.is_none() && now.clock >= due(check, since) {
            self.opened = Some(now);
            return Some(EventKind::Opened);
        }
        None
    }

    /// Whether it was judged with so many rows: it was not where it was filled from history, or its tolerance is another.
    pub fn is_judged(&self, check: &Check, rows: i64) -> bool {
        (u64::try_from(rows).unwrap_or(0) > check.tolerance) == self.exceeded.is_some()
    }

    /// When it changes though no row comes, µs UTC, while the check has so many rows: at once where it was never judged by
    /// them.
    pub fn next_due(&self, check: &Check, rows: i64) -> Option<i64> {
        if !self.is_judged(check, rows) {
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
            notify: Vec::new(),
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
        assert_eq!(judge(&mut state, 3, 30), Some(EventKind::Opened));
        assert_eq!((state.is_open(), state.next_due(&check, 3)), (true, None));
        assert_eq!(judge(&mut state, 4, 31), None);
        state.waived = Some(Waiver { at: Moment { epoch: 2, clock: 32 }, by: "me".into(), why: "known".into() });
        assert!(!state.is_open());
        assert_eq!(judge(&mut state, 1, 33), Some(EventKind::Closed));
        assert_eq!(state, CheckState::default());
        // Rows that it was never judged by.
        assert_eq!((state.next_due(&check, 2), state.next_due(&check, 3)), (None, Some(i64::MIN)));
        assert!(check.holds("site") && !check.holds("lake"));
    }
}
