//! Checks: judged with each epoch, and committed with it.

use serde_json::json;
use weir_incremental::Relation;

use super::{CommitError, Core, EpochReport};
use crate::change::Change;
use crate::check::{CheckState, EventKind, Moment, Waiver};
use crate::frames::CommitRecord;

impl Core {
    /// Opens and closes violations by the rows that checks have after these changes.
    pub(super) fn judge_checks(&self, now: Moment, changes: &[Change], record: &mut CommitRecord) {
        let mut told = serde_json::Map::new();
        record.checks.retain(|name, state| {
            let is_there = self.spec.checks().any(|(check, _)| check.as_ref() == name);
            if !is_there && state.opened.is_some() {
                told.insert(name.clone(), json!({"event": EventKind::Closed.name(), "removed": true}));
            }
            is_there
        });
        for (name, check) in self.spec.checks() {
            let change: i64 = changes.iter().filter(|c| c.relation == *name).map(|c| c.rows).sum();
            let mut state = record.checks.remove(name.as_ref()).unwrap_or_default();
            let rows = self.contents.rows(name) + change;
            if let Some(event) = state.judge(check, rows, now) {
                told.insert(name.to_string(), json!({"event": event.name(), "rows": rows}));
            }
            if state != CheckState::default() {
                record.checks.insert(name.to_string(), state);
            }
        }
        if !told.is_empty() {
            record.ledger["checks"] = told.into();
        }
    }

    /// How a check stands after the last epoch.
    pub(super) fn standing(&self, check: &Relation) -> CheckState {
        self.last.checks.get(check.as_ref()).cloned().unwrap_or_default()
    }

    /// Checks that are violated, and that nobody has put up with.
    pub fn violated(&self) -> Vec<Relation> {
        self.spec.checks().map(|(name, _)| name.clone()).filter(|name| self.standing(name).is_open()).collect()
    }

    /// Notes that somebody puts up with a violation until it is clear; false when there is none.
    pub fn waive(&mut self, check: &str, by: &str, why: &str) -> Result<Option<EpochReport>, CommitError> {
        let Some(state) = self.last.checks.get(check).filter(|state| state.opened.is_some()) else { return Ok(None) };
        let epoch = self.epoch + 1;
        let clock = self.environment.clock.now().max(self.last.clock);
        let waived = Some(Waiver { at: Moment { epoch, clock }, by: by.to_owned(), why: why.to_owned() });
        let state = CheckState { waived, ..state.clone() };
        let note = json!({"check": check, "waived_by": by, "why": why, "rows": self.contents.rows(check)});
        let before = self.last.checks.insert(check.to_owned(), state);
        match self.commit_marker(note) {
            Ok(()) => Ok(Some(EpochReport { epoch, rows: 0 })),
            Err(error) => {
                self.last.checks.extend(before.map(|before| (check.to_owned(), before)));
                Err(error)
            }
        }
    }
}
