//! Tells of violations: follows the ledger's events of checks, off the epoch's path, and hands each to a messenger.
//!
//! Invariants:
//! 1. The ledger is the queue. What is in memory is one event; what is durable is the place in the ledger up to which
//!    events are delivered, so that neither a restart nor a messenger that is down loses one.
//! 2. An event is delivered at least once, in the ledger's order, under an id that is the same every time: the place is
//!    written after the delivery.
//! 3. Nothing is told of what happened before the messenger was declared.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat};
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::watch;
use weir_environment::Environment;

use crate::EpochNumber;
use crate::check::{CheckEvent, EventKind, Moment, events};
use crate::contents::Contents;
use crate::core::SharedLedger;

/// What is sent out.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// The same whenever it is sent again.
    pub id: String,
    /// What it says.
    pub body: Value,
}

/// Carries messages out. Errors say nothing secret.
#[async_trait]
pub trait Messenger: Send + Sync {
    /// Hands over one message; an error means that it may not have been taken, and it is sent again.
    async fn deliver(&self, message: &Message) -> Result<(), String>;
}

/// Why messengers do not deliver, by name, until they do.
pub type DeliveryFailures = Arc<Mutex<BTreeMap<String, String>>>;

/// Follows the ledger for one messenger.
pub struct Notifier {
    /// The messenger's name.
    pub name: String,
    /// Who carries the events.
    pub messenger: Arc<dyn Messenger>,
    /// Checks by relation, with the names of their severities.
    pub checks: BTreeMap<String, &'static str>,
    /// Those whose events this messenger does not carry. Of a check that is gone, its end is told.
    pub silent: Vec<String>,
    /// How often an open violation is told of again.
    pub remind: Option<Duration>,
    /// The project's name.
    pub project: String,
    /// Folder of the places in the ledger.
    pub folder: PathBuf,
    /// The machine.
    pub environment: Environment,
    /// What is published.
    pub contents: Arc<Contents>,
    /// Where events are read.
    pub ledger: SharedLedger,
    /// Told of failures.
    pub failures: DeliveryFailures,
}

/// Up to where events are delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Place {
    /// Events of all epochs before this one are.
    epoch: EpochNumber,
    /// So many of this one are; all of them where there is none.
    delivered: Option<usize>,
    /// Reminders of violations by check: the epoch in which it opened, and the number of the last one.
    #[serde(default)]
    reminded: BTreeMap<String, (EpochNumber, u64)>,
}

const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// An event that cannot be delivered for so long is given up, so that what happens since is told of.
const GIVE_UP_AFTER: Duration = Duration::from_secs(24 * 3600);
/// So many events are read at once, and the rest of an epoch.
const EVENTS_MAX: usize = 256;

impl Notifier {
    /// Follows until `stop` turns true, then delivers what is there with one try each. What happens from this call on is
    /// told, whenever the future is polled.
    pub fn run(self, stop: watch::Receiver<bool>) -> impl Future<Output = ()> + Send {
        let begun = self.begin();
        async move {
            if let Some(place) = begun {
                self.follow(place, stop).await;
            }
        }
    }

    async fn follow(&self, mut place: Place, mut stop: watch::Receiver<bool>) {
        let mut published = self.contents.subscribe();
        let mut delay = RETRY_FIRST;
        loop {
            let last = *stop.borrow();
            let outcome = self.pass(&mut place).await;
            if last {
                return;
            }
            let (wait, failure) = match outcome {
                Ok(until_reminder) => {
                    delay = RETRY_FIRST;
                    (until_reminder, None)
                }
                Err(error) => {
                    let wait = delay;
                    delay = (delay * 2).min(RETRY_MAX);
                    (Some(wait), Some(error))
                }
            };
            let failed = failure.is_some();
            self.note(failure);
            tokio::select! {
                changed = published.changed(), if !failed => if changed.is_err() { return },
                () = tokio::time::sleep(wait.unwrap_or(Duration::MAX)), if wait.is_some() => {}
                _ = stop.changed() => {}
            }
        }
    }

    /// The place where it goes on: the end of the ledger at its first start.
    fn begin(&self) -> Option<Place> {
        let storage = &self.environment.storage;
        let path = self.path();
        let place = if storage.exists(&path) {
            let read = storage.read(&path).map_err(|error| error.to_string());
            read.and_then(|bytes| serde_json::from_slice(&bytes).map_err(|error| error.to_string()))
        } else {
            let place = Place { epoch: self.contents.now().0, ..Place::default() };
            self.save(&place).map(|()| place)
        };
        match place {
            Ok(place) => Some(place),
            Err(error) => {
                let message = format!("{} cannot be used: {error}", path.display());
                tracing::error!(messenger = self.name, %message, "nothing will be told of checks");
                self.note(Some(message));
                None
            }
        }
    }

    /// Delivers what there is; the time until the next reminder.
    async fn pass(&self, place: &mut Place) -> Result<Option<Duration>, String> {
        while self.contents.last_check_event() > place.epoch || place.delivered.is_some() {
            let (found, all_up_to) = self.read(place).await?;
            for (event, index) in found {
                self.deliver(&event).await?;
                place.epoch = event.at.epoch;
                place.delivered = Some(index + 1);
                self.save(place)?;
            }
            let Some(epoch) = all_up_to else { continue };
            if epoch > place.epoch || place.delivered.is_some() {
                place.epoch = epoch;
                place.delivered = None;
                self.save(place)?;
            }
            if self.contents.last_check_event() > epoch {
                // The ledger's file is behind the epochs; it will have them.
                return Ok(Some(RETRY_FIRST));
            }
        }
        self.remind(place).await
    }

    /// The next events with their numbers within their epochs, from the place on, and the epoch up to which they are all
    /// there are; None where there are more.
    async fn read(&self, place: &Place) -> Result<(Vec<(CheckEvent, usize)>, Option<EpochNumber>), String> {
        let entries = self.ledger.lock().entries(place.epoch);
        let (from, delivered) = (place.epoch, place.delivered.unwrap_or(usize::MAX));
        let reading = tokio::task::spawn_blocking(move || {
            let mut found = Vec::new();
            let mut up_to = from;
            for entry in entries {
                let entry = entry.map_err(|error| error.to_string())?;
                let value: Value = serde_json::from_slice(&entry.payload).map_err(|error| error.to_string())?;
                let skip = if entry.epoch == from { delivered } else { 0 };
                found.extend(events(&value).into_iter().enumerate().skip(skip).map(|(index, event)| (event, index)));
                if found.len() >= EVENTS_MAX {
                    return Ok((found, None));
                }
                up_to = entry.epoch;
            }
            Ok((found, Some(up_to)))
        });
        reading.await.map_err(|error| error.to_string())?
    }

    async fn deliver(&self, event: &CheckEvent) -> Result<(), String> {
        if self.silent.contains(&event.check) {
            return Ok(());
        }
        let age = self.environment.clock.now().saturating_sub(event.at.clock);
        match self.messenger.deliver(&self.message(event, None)).await {
            Err(error) if age > micros(GIVE_UP_AFTER) => {
                let (check, kind) = (&event.check, event.kind.name());
                tracing::error!(messenger = self.name, check, kind, %error, "an event is a day old and is given up");
                Ok(())
            }
            other => other,
        }
    }

    /// Tells of violations that are still open when it is time; the time until the next.
    async fn remind(&self, place: &mut Place) -> Result<Option<Duration>, String> {
        let Some(remind) = self.remind.map(micros).filter(|remind| *remind > 0) else { return Ok(None) };
        let now = self.environment.clock.now();
        let mut next = i64::MAX;
        let snapshot = self.contents.pin();
        let open: Vec<(&String, Moment, i64)> = self
            .checks
            .keys()
            .filter(|check| !self.silent.contains(check))
            .filter_map(|check| {
                let state = snapshot.check(check);
                let opened = state.opened.filter(|_| state.is_open())?;
                Some((check, opened, snapshot.totals(&check.as_str().into()).rows))
            })
            .collect();
        drop(snapshot);
        let mut reminded = place.reminded.clone();
        reminded.retain(|check, _| open.iter().any(|(of, ..)| *of == check));
        for (check, opened, rows) in open {
            let number = u64::try_from(now.saturating_sub(opened.clock) / remind).unwrap_or(0);
            let last = reminded.get(check).filter(|(epoch, _)| *epoch == opened.epoch).map_or(0, |(_, number)| *number);
            if number > last {
                let event = CheckEvent {
                    check: check.clone(),
                    kind: EventKind::StillOpen,
                    at: opened,
                    rows: Some(rows),
                    by: None,
                    why: None,
                };
                self.messenger.deliver(&self.message(&event, Some(number))).await?;
                reminded.insert(check.clone(), (opened.epoch, number));
                place.reminded = reminded.clone();
                self.save(place)?;
            }
            let due = opened.clock.saturating_add(remind.saturating_mul(i64::try_from(number).unwrap_or(0) + 1));
            next = next.min(due);
        }
        place.reminded = reminded;
        let wait = u64::try_from(next.saturating_sub(now)).unwrap_or(0);
        Ok((next != i64::MAX).then(|| Duration::from_micros(wait)))
    }

    /// What is said of an event. Counts, names and times: never a value of a row.
    fn message(&self, event: &CheckEvent, reminder: Option<u64>) -> Message {
        let kind = event.kind.name();
        let number = reminder.map(|number| format!(":{number}")).unwrap_or_default();
        let id = format!("{}@{}:{kind}{number}", event.check, event.at.epoch);
        let at = DateTime::from_timestamp_micros(event.at.clock).unwrap_or_default();
        let mut body = json!({
            "id": id,
            "event": kind,
            "check": event.check,
            "severity": self.checks.get(&event.check),
            "project": self.project,
            "epoch": event.at.epoch,
            "at": at.to_rfc3339_opts(SecondsFormat::Micros, true),
            "rows": event.rows,
        });
        if let Some(by) = &event.by {
            body["waived_by"] = json!(by);
            body["waived_why"] = json!(event.why);
        }
        Message { id, body }
    }

    fn note(&self, failure: Option<String>) {
        let mut failures = self.failures.lock();
        match failure {
            None => drop(failures.remove(&self.name)),
            Some(message) => {
                tracing::warn!(messenger = self.name, %message, "an event of a check could not be told and is tried again");
                failures.insert(self.name.clone(), message);
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.json", self.name))
    }

    fn save(&self, place: &Place) -> Result<(), String> {
        let storage = &self.environment.storage;
        let bytes = serde_json::to_vec(place).map_err(|error| error.to_string())?;
        storage.create_dir_all(&self.folder).map_err(|error| error.to_string())?;
        storage.write_atomic(&self.path(), &bytes).map_err(|error| error.to_string())
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}
