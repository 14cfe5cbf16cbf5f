//! Whether journal, checkpoint, ledger and lake are of one time: asked at every start, since a folder may have been put
//! together from parts of different days.
//!
//! With J the last epoch of the journal and F its first, C the checkpoint's, G the ledger's last and L the landed one:
//! `F - 1 <= C <= L <= J` and `G <= J`, whatever instruction a crash came at. (A rebuild may have landed an epoch that the
//! journal does not know; it is repeated before anything else.) Where two of them keep the same epoch they say the same of
//! it.

use weir_journal::{EpochJournal, JournalError, Ledger};

use super::PipelineError;
use super::recovery::commit_record;
use crate::EpochNumber;
use crate::frames::CommitRecord;

/// How far each store of a folder has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Times {
    /// The first and the last epoch of the journal; None when it has none.
    pub journal: Option<(EpochNumber, EpochNumber)>,
    /// The epoch of the checkpoint; 0 when there is none.
    pub checkpoint: EpochNumber,
    /// The last epoch of the ledger; 0 when it has none.
    pub ledger: EpochNumber,
    /// The last landed epoch of the lake; 0 when there is none.
    pub landed: EpochNumber,
    /// Whether a rebuild may have landed what the journal does not know.
    pub rebuilding: bool,
}

/// The store that is not of the time of the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The epoch journal.
    Journal,
    /// The checkpoint.
    Checkpoint,
    /// The ledger.
    Ledger,
    /// The lake.
    Lake,
}

impl Times {
    /// What cannot be so: the store that has to be another one, and a sentence.
    pub fn conflicts(&self) -> Vec<(Part, String)> {
        let mut found = Vec::new();
        let (first, last) = self.journal.unwrap_or((1, 0));
        let (checkpoint, ledger, landed) = (self.checkpoint, self.ledger, self.landed);
        let ends = |what: &str, at: EpochNumber| {
            let older = "the journal is older, or lost its end";
            (Part::Journal, format!("{what} knows epoch {at}, and the journal ends with epoch {last}: {older}"))
        };
        if checkpoint > last {
            found.push(ends("the checkpoint", checkpoint));
        }
        if landed > last && !self.rebuilding {
            found.push(ends("the lake", landed));
        }
        if ledger > last {
            found.push(ends("the ledger", ledger));
        }
        if first > checkpoint + 1 {
            let what = if checkpoint == 0 {
                format!("the checkpoint is missing, and the journal begins with epoch {first}")
            } else {
                format!(
                    "the journal begins with epoch {first}, and the checkpoint is of epoch {checkpoint}: it is older"
                )
            };
            found.push((Part::Checkpoint, what));
        }
        if landed < checkpoint {
            let what = format!(
                "the checkpoint is of epoch {checkpoint}, and the lake has landed epoch {landed}: the lake is older"
            );
            found.push((Part::Lake, what));
        }
        if ledger + 1 < first {
            let older = "the ledger is older, or lost its end";
            let what =
                format!("the ledger ends with epoch {ledger}, and the journal begins with epoch {first}: {older}");
            found.push((Part::Ledger, what));
        }
        found
    }
}

/// Refuses to start from stores that are not of one time.
pub(super) fn check(
    times: Times,
    journal: &EpochJournal,
    ledger: &Ledger,
    checkpoint: Option<&CommitRecord>,
) -> Result<(), PipelineError> {
    if let Some((_, conflict)) = times.conflicts().into_iter().next() {
        return Err(PipelineError::Apart(conflict));
    }
    if let Some(ours) = checkpoint
        && let Some(theirs) = committed(journal, times.checkpoint)?
        && theirs != *ours
    {
        return Err(PipelineError::Apart(format!(
            "checkpoint and journal say different things of epoch {}: one of them is of another folder or time",
            times.checkpoint
        )));
    }
    if let Some(theirs) = committed(journal, times.ledger)? {
        for entry in ledger.entries(times.ledger) {
            if entry?.payload != theirs.ledger.to_string().as_bytes() {
                return Err(PipelineError::Apart(format!(
                    "ledger and journal say different things of epoch {}: one of them is of another folder or time",
                    times.ledger
                )));
            }
        }
    }
    Ok(())
}

/// The commit record of an epoch, where the journal keeps it.
fn committed(journal: &EpochJournal, epoch: EpochNumber) -> Result<Option<CommitRecord>, PipelineError> {
    match journal.read(epoch) {
        Ok(committed) => Ok(Some(commit_record(epoch, &committed.payload)?)),
        Err(JournalError::OutOfRange { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::Times;

    #[test]
    fn stores_of_one_time_have_no_conflicts_and_others_do() {
        let sound = Times { journal: Some((5, 20)), checkpoint: 10, ledger: 19, landed: 12, rebuilding: false };
        assert_eq!(sound.conflicts(), []);
        let nothing = Times { journal: None, checkpoint: 0, ledger: 0, landed: 0, rebuilding: false };
        assert_eq!(nothing.conflicts(), []);
        for wrong in [
            Times { journal: Some((5, 9)), ..sound },
            Times { journal: None, ..sound },
            Times { checkpoint: 3, ..sound },
            Times { checkpoint: 0, ..sound },
            Times { landed: 9, ..sound },
            Times { landed: 21, ..sound },
            Times { ledger: 21, ..sound },
            Times { ledger: 3, ..sound },
        ] {
            assert!(!wrong.conflicts().is_empty(), "{wrong:?}");
        }
        assert!(Times { landed: 21, rebuilding: true, ..sound }.conflicts().is_empty());
    }
}
