//! Segment files of topics, the epoch journal and the ledger.

use std::path::Path;

use weir_environment::Environment;
use weir_journal::{
    EpochJournal, EpochJournalOptions, JournalError, Ledger, LedgerOptions, PackedFrame, Record, Topic, TopicOptions,
    inspect,
};

/// Which of the three a file is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A topic.
    Topic,
    /// The epoch journal.
    Epochs,
    /// The ledger.
    Ledger,
}

/// All of them.
pub const KINDS: [Kind; 3] = [Kind::Topic, Kind::Epochs, Kind::Ledger];
const FOLDER: &str = "/log";

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Self::Topic => "/log/00000000000000000000.topic",
            Self::Epochs => "/log/00000000000000000001.epochs",
            Self::Ledger => "/log/00000000000000000000.ledger",
        }
    }
}

/// A file with a short history, as it is written.
///
/// # Panics
/// When a world in memory cannot be written to.
pub fn valid(kind: Kind) -> Vec<u8> {
    let (environment, _) = Environment::simulated(1);
    let text = |number: u64| format!("number {number} {}", "lorem ipsum ".repeat(number as usize * 5 % 70));
    let work = || -> Result<(), Box<dyn std::error::Error>> {
        match kind {
            Kind::Topic => {
                let topic = Topic::open(&environment, FOLDER, topic_options())?;
                for number in 0..12 {
                    let key = (number % 3 == 0).then(|| "key".into());
                    let record =
                        Record { arrival: number as i64, key, value: text(number).into(), ..Record::default() };
                    topic.append_blocking(&vec![record; 1 + number as usize % 3])?;
                }
            }
            Kind::Epochs => {
                let mut journal = EpochJournal::open(&environment, FOLDER, epoch_options())?;
                for number in 1..10 {
                    journal.begin(number, b"intent")?;
                    let bytes = [PackedFrame::begin("relation"), text(number).into_bytes()].concat();
                    journal.frame(&PackedFrame::pack(1, bytes, journal.compression()))?;
                    journal.commit(text(number).as_bytes())?;
                }
            }
            Kind::Ledger => {
                let mut ledger = Ledger::open(&environment, FOLDER, LedgerOptions::default())?;
                for number in 1..12 {
                    ledger.append(number, text(number).as_bytes())?;
                    ledger.sync()?;
                }
            }
        }
        Ok(())
    };
    if let Err(error) = work() {
        panic!("{error}");
    }
    environment.storage.read(Path::new(kind.file())).unwrap_or_default()
}

fn topic_options() -> TopicOptions {
    TopicOptions { disk_reserve_bytes: 0, ..TopicOptions::default() }
}

fn epoch_options() -> EpochJournalOptions {
    EpochJournalOptions { disk_reserve_bytes: 0, ..EpochJournalOptions::default() }
}

/// Opens and reads a file of these bytes.
///
/// # Panics
/// When the inspection and a reader disagree on whether it is whole.
pub fn read(kind: Kind, bytes: &[u8]) {
    let (environment, simulator) = Environment::simulated(0);
    simulator.plant(Path::new(kind.file()), bytes);
    let folder = Path::new(FOLDER);
    let inspected = match kind {
        Kind::Topic => inspect::topic(&environment, folder),
        Kind::Epochs => inspect::epochs(&environment, folder, &mut |_| {}),
        Kind::Ledger => inspect::ledger(&environment, folder, &mut |_| {}),
    };
    let whole = inspected.as_ref().is_ok_and(|inspection| inspection.damages.is_empty());
    let count = inspected.map_or(0, |inspection| inspection.count);
    let found = read_all(&environment, kind);
    match found {
        Ok(found) => assert!(whole && found == count, "{kind:?}: {found} were read, and the inspection saw {count}"),
        Err(error) => assert!(!whole, "{kind:?}: the inspection saw nothing wrong, and a reader did: {error}"),
    }
}

/// How many records, epochs or entries there are.
fn read_all(environment: &Environment, kind: Kind) -> Result<u64, JournalError> {
    match kind {
        Kind::Topic => Topic::open(environment, FOLDER, topic_options())?.verify(),
        Kind::Epochs => {
            let journal = EpochJournal::open(environment, FOLDER, epoch_options())?;
            let last = journal.last().map_or(0, |commit| commit.epoch);
            (1..=last).try_for_each(|epoch| journal.read(epoch).map(|_| ()))?;
            Ok(last)
        }
        Kind::Ledger => {
            let ledger = Ledger::open(environment, FOLDER, LedgerOptions::default())?;
            let misfit = |what: String| JournalError::Refused { path: FOLDER.into(), message: what };
            ledger.verify().map_err(|error| misfit(error.to_string()))?;
            ledger.entries(0).try_fold(0, |count, entry| entry.map(|_| count + 1))
        }
    }
}
