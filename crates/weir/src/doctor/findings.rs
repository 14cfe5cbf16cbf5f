//! Judges what was read: what each damage means, and whether another store can restore it for certain.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use weir_connectors::lake::inspect::{Damage as LakeDamage, Wound};
use weir_connectors::sources::beacon::Position;
use weir_environment::Environment;
use weir_journal::inspect::{Damage, Inspection};
use weir_pipeline::EpochNumber;
use weir_pipeline::core::{Part, Times, folders};
use weir_pipeline::frames::CommitRecord;
use weir_pipeline::restore::obstacle;
use weir_pipeline::spec::PipelineSpec;
use weir_project::Project;

use super::stores::Stores;
use super::{Cure, Finding, Repair, Report, StoreReport};
use crate::host::generations;
use crate::wiring::open_sinks;

const FROM_A_COPY: &str = "bring the folder back from a backup";
/// How long a destination may take to say how far it is.
const SINK_WAIT_MAX: Duration = Duration::from_secs(10);

/// Judges everything but the sinks.
pub fn judge(stores: &Stores, project: &Project, spec: &PipelineSpec, data: &Path) -> Report {
    let judge = Judge { stores, project, spec, data };
    let mut damages = Vec::new();
    judge.journal(&mut damages);
    judge.ledger(&mut damages);
    judge.checkpoint(&mut damages);
    for (topic, inspection) in &stores.topics {
        judge.topic(topic, inspection, &mut damages);
    }
    judge.catalogues(&mut damages);
    judge.lake(&mut damages);
    judge.times(&mut damages);
    let mut report = Report { whole: true, stores: Vec::new(), damages, notes: Vec::new() };
    judge.account(&mut report);
    report
}

struct Judge<'a> {
    stores: &'a Stores,
    project: &'a Project,
    spec: &'a PipelineSpec,
    data: &'a Path,
}

fn none(why: impl Into<String>) -> Cure {
    Cure::None(format!("{}; {FROM_A_COPY}", why.into()))
}

/// `epoch 5`, `epochs 5 to 9`.
fn numbers(noun: &str, range: &Range<u64>) -> String {
    match range.end - range.start {
        0 | 1 => format!("{noun} {}", range.start),
        _ => format!("{noun}s {} to {}", range.start, range.end - 1),
    }
}

fn finding(store: &str, noun: &str, damage: &Damage, means: String, cure: Cure) -> Finding {
    Finding {
        store: store.to_owned(),
        file: damage.path.clone(),
        byte: Some(damage.position),
        records: damage.records.as_ref().map(|records| numbers(noun, records)),
        what: damage.what.clone(),
        means,
        cure,
    }
}

impl Judge<'_> {
    fn journal(&self, found: &mut Vec<Finding>) {
        let cure = self.journal_cure();
        for damage in &self.stores.journal.damages {
            let checkpoint = self.stores.checkpoint_epoch();
            let behind = |records: &Range<u64>| records.end <= checkpoint + 1;
            let means = match &damage.records {
                None => "no epoch is touched, but nobody starts from such a file".to_owned(),
                Some(records) if behind(records) => {
                    format!(
                        "{} is in the checkpoint (of epoch {checkpoint}) and in the lake",
                        numbers("epoch", records)
                    )
                }
                Some(records) => format!(
                    "{} happened after the checkpoint (of epoch {checkpoint}): what was admitted then, and where the inputs \
                     stood, is gone",
                    numbers("epoch", records)
                ),
            };
            found.push(finding("journal", "epoch", damage, means, cure.clone()));
        }
    }

    fn journal_cure(&self) -> Cure {
        let stores = self.stores;
        let journal = &stores.journal;
        let checkpoint = stores.checkpoint_epoch();
        if !stores.checkpoint.damages.is_empty() || stores.record.is_none() {
            return none("the checkpoint does not say either what happened");
        }
        let records = || journal.damages.iter().filter_map(|damage| damage.records.as_ref());
        if let Some(lost) = records().find(|records| records.end > checkpoint + 1) {
            return none(format!("no other store has all of {}", numbers("epoch", lost)));
        }
        let last_damaged = journal.segments.iter().rposition(|segment| !segment.whole).unwrap_or(0);
        let next = journal.segments.get(last_damaged + 1).map(|segment| segment.first);
        if let Some(first) = next.filter(|first| *first <= checkpoint + 1 && journal.end > *first) {
            return Cure::Repair(Repair::JournalFront { before: first });
        }
        let all_at = [stores.last_epoch(), stores.ledger_epoch(), stores.lake.landed.unwrap_or(0)];
        if all_at == [checkpoint; 3] && journal.unfinished_bytes == 0 && stores.ledger.damages.is_empty() {
            return Cure::Repair(Repair::Journal { epoch: checkpoint });
        }
        none("epochs after the checkpoint are in the same file, and may be incomplete")
    }

    fn ledger(&self, found: &mut Vec<Finding>) {
        let stores = self.stores;
        let cure = match stores.ledger.damages.first() {
            None => none(""),
            Some(first) if stores.journal_holds_from(first.next.max(1)) => {
                Cure::Repair(Repair::Ledger { from: first.next.max(1) })
            }
            Some(first) => {
                let begin = if stores.journal.count > 0 { stores.journal.begin } else { 0 };
                none(format!(
                    "the commit records from epoch {} on would be needed to write the entries again, and the journal \
                     begins with epoch {begin}{}",
                    first.next.max(1),
                    if stores.journal.damages.is_empty() { "" } else { " and is damaged itself" }
                ))
            }
        };
        for damage in &stores.ledger.damages {
            let means = "rows are not touched; the proof of what was counted is broken from there on".to_owned();
            found.push(finding("ledger", "epoch", damage, means, cure.clone()));
        }
        let about = |what: String, means: &str| Finding {
            store: "ledger".into(),
            file: self.data.join(folders::LEDGER),
            byte: None,
            records: None,
            what,
            means: means.to_owned(),
            cure: none("which of the two is right cannot be told"),
        };
        if let Some(epoch) = stores.ledger_differs {
            let what = format!("ledger and journal say different things of epoch {epoch}");
            found.push(about(what, "one of them was changed, or is of another folder or time"));
        }
        if let Some(epoch) = stores.ledger_gap.filter(|_| stores.ledger.damages.is_empty()) {
            found.push(about(format!("the entry of epoch {epoch} is missing"), "what was counted then is not proved"));
        }
    }

    /// How a checkpoint that is lost can be made anew.
    fn checkpoint_cure(&self) -> Cure {
        let stores = self.stores;
        if !stores.ledger.damages.is_empty() && self.ledger_is_beyond_repair() {
            return none("the ledger is damaged too, and what is made anew could not be proved");
        }
        if stores.journal_holds_from(1) && stores.journal.begin == 1 {
            return Cure::Repair(Repair::CheckpointFromJournal);
        }
        let Some(landed) = stores.lake.landed else { return none("the lake is damaged too") };
        if !stores.lake.damages.is_empty() {
            return none("the lake is damaged too");
        }
        if !stores.journal_holds_from(landed) || !stores.commits.contains_key(&landed) {
            return none(format!(
                "the journal does not hold the commit of epoch {landed}, up to which the lake has landed"
            ));
        }
        match obstacle(self.spec) {
            None => Cure::Repair(Repair::CheckpointFromLake { epoch: landed }),
            Some(obstacle) => none(obstacle),
        }
    }

    fn ledger_is_beyond_repair(&self) -> bool {
        let first = self.stores.ledger.damages.first();
        first.is_some_and(|first| !self.stores.journal_holds_from(first.next.max(1)))
    }

    fn checkpoint(&self, found: &mut Vec<Finding>) {
        let stores = self.stores;
        for damage in &stores.checkpoint.damages {
            let means = match &damage.state {
                Some(state) => format!("the state `{state}` after epoch {} is lost", stores.checkpoint_epoch()),
                None => "the state of sources, models and lookups is lost".to_owned(),
            };
            found.push(Finding {
                store: "checkpoint".into(),
                file: damage.path.clone(),
                byte: Some(damage.position),
                records: damage.state.as_ref().map(|state| format!("state {state}")),
                what: damage.what.clone(),
                means,
                cure: self.checkpoint_cure(),
            });
        }
        if stores.checkpoint.damages.is_empty() && (stores.checkpoint_differs || self.unreadable_record()) {
            let what = if stores.checkpoint_differs {
                format!("checkpoint and journal say different things of epoch {}", stores.checkpoint_epoch())
            } else {
                "what it says of inputs and counts cannot be read".to_owned()
            };
            found.push(Finding {
                store: "checkpoint".into(),
                file: self.project.settings.state.path.clone(),
                byte: None,
                records: None,
                what,
                means: "one of them is of another folder or time".into(),
                cure: none("which of the two is right cannot be told"),
            });
        }
    }

    fn unreadable_record(&self) -> bool {
        self.stores.checkpoint.epoch.is_some() && self.stores.record.is_none()
    }

    /// Where the pipeline stands in a topic by a commit record.
    fn position(record: Option<&CommitRecord>, topic: &str) -> Option<Position> {
        Position::of(&record?.inputs.get(topic)?.cursor).ok()
    }

    fn topic(&self, topic: &str, inspection: &Inspection, found: &mut Vec<Finding>) {
        let stores = self.stores;
        let store = format!("topic {topic}");
        let kept = Self::position(stores.record.as_ref().map(|record| &record.commit), topic).unwrap_or_default();
        let stands = Self::position(stores.last.as_ref().map(|(_, record)| record), topic)
            .filter(|stands| stands.next >= kept.next)
            .unwrap_or_else(|| kept.clone());
        let cure = self.topic_cure(topic, inspection, &kept);
        for damage in &inspection.damages {
            let means = match &damage.records {
                None => "no record is touched, but nobody starts from such a file".to_owned(),
                Some(records) if records.end <= kept.next => {
                    format!("{} has been taken in, landed and checkpointed", numbers("record", records))
                }
                Some(records) => {
                    let lost = records.start.max(stands.next)..records.end;
                    if lost.is_empty() {
                        format!("{} has been taken in", numbers("record", records))
                    } else {
                        format!("{} was acknowledged and never taken in: it is lost", numbers("record", &lost))
                    }
                }
            };
            found.push(finding(&store, "record", damage, means, cure.clone()));
        }
        let mut about = |what: String, means: String| {
            found.push(Finding {
                store: store.clone(),
                file: self.project.settings.log.path.join(topic),
                byte: None,
                records: None,
                what,
                means,
                cure: none("no other store has the raw records"),
            });
        };
        if inspection.end < stands.next {
            about(
                format!("the log ends with record {}, and the pipeline has taken in {}", inspection.end, stands.next),
                "the log is older, or lost its end; whether more had been acknowledged cannot be told".into(),
            );
        } else if inspection.damages.is_empty() && inspection.begin > stands.next && stands.next > 0 {
            about(
                format!("the log begins with record {}, and the pipeline stands at {}", inspection.begin, stands.next),
                format!("{} is lost", numbers("record", &(stands.next..inspection.begin))),
            );
        }
        if let (Some(ours), Some(other)) = (stands.log, inspection.identity)
            && ours != other
        {
            about(
                format!("it is another log ({other:08x}) than the pipeline has read so far ({ours:08x})"),
                "its files have taken the place of others: of another topic, or of another folder".into(),
            );
        }
    }

    fn topic_cure(&self, topic: &str, inspection: &Inspection, kept: &Position) -> Cure {
        if inspection.damages.is_empty() {
            return none("");
        }
        let records = || inspection.damages.iter().filter_map(|damage| damage.records.as_ref());
        if records().any(|records| records.end > kept.next) || kept.next == 0 {
            return none("no other store has the raw records");
        }
        let last_damaged = inspection.segments.iter().rposition(|segment| !segment.whole).unwrap_or(0);
        let next = inspection.segments.get(last_damaged + 1).map(|segment| segment.first);
        if let Some(first) = next.filter(|first| *first <= kept.next) {
            return Cure::Repair(Repair::TopicFront { topic: topic.to_owned(), before: first });
        }
        // The walk went on behind the damage to the end: nothing follows what was taken in.
        if inspection.end == kept.next && inspection.unfinished_bytes == 0 {
            let (topic, at) = (topic.to_owned(), kept.next);
            return Cure::Repair(Repair::Topic { topic, at, identity: kept.log });
        }
        none("records that were not taken in yet are in the same file")
    }

    fn catalogues(&self, found: &mut Vec<Finding>) {
        for (path, position, line) in &self.stores.catalogues {
            found.push(Finding {
                store: "files".into(),
                file: path.clone(),
                byte: Some(*position),
                records: Some(format!("line {line}")),
                what: "a line is not what was written".into(),
                means: "in which order files were read is no longer known".into(),
                cure: none("no other store has it"),
            });
        }
    }

    fn lake(&self, found: &mut Vec<Finding>) {
        for damage in &self.stores.lake.damages {
            let store = match &damage.relation {
                Some(relation) => format!("lake {relation}"),
                None => "lake".to_owned(),
            };
            let records = match (damage.rows, damage.epochs) {
                (Some(rows), Some((first, last))) => {
                    Some(format!("{rows} changes of {}", numbers("epoch", &(first..last + 1))))
                }
                (Some(rows), None) => Some(format!("{rows} rows")),
                _ => None,
            };
            let (means, cure) = self.lake_cure(damage);
            let byte = matches!(damage.wound, Wound::Data).then_some(damage.position);
            found.push(Finding {
                store,
                file: damage.path.clone(),
                byte,
                records,
                what: damage.what.clone(),
                means,
                cure,
            });
        }
    }

    fn lake_cure(&self, damage: &LakeDamage) -> (String, Cure) {
        let stores = self.stores;
        let lake = &self.project.settings.lake.path;
        let anew = stores.journal_holds_from(1) && stores.journal.begin == 1 && !self.ledger_is_beyond_repair();
        let Some(relation) = &damage.relation else {
            if damage.path.starts_with(lake.join("published")) {
                let means = "a table that a sink publishes is damaged; what it is fed from is not".to_owned();
                return (
                    means,
                    Cure::None("remove the table's folder: the sink fills it anew at the next start".into()),
                );
            }
            let means = "which epochs are landed is not known".to_owned();
            let checkpointed = stores.checkpoint.damages.is_empty() && stores.checkpoint_epoch() > 0;
            let others_whole = stores.lake.damages.iter().all(|other| other.relation.is_none());
            return match (checkpointed && others_whole, anew) {
                (true, _) => (means, Cure::Repair(Repair::Landings { epoch: stores.checkpoint_epoch() })),
                (false, true) => (means, Cure::Repair(Repair::Anew)),
                (false, false) => (means, none("what is landed beyond doubt cannot be told")),
            };
        };
        let is_model = self.spec.models.iter().any(|model| model.plan.name.as_ref() == relation);
        let of_model = |name: &Option<String>| {
            name.as_ref()
                .is_some_and(|name| self.spec.models.iter().any(|model| model.plan.name.as_ref() == name.as_str()))
        };
        if anew {
            return (
                "rows of it are lost; the journal still holds all that was ever admitted".into(),
                Cure::Repair(Repair::Anew),
            );
        }
        let sources_whole = stores.lake.damages.iter().all(|other| of_model(&other.relation));
        let rest_whole = stores.checkpoint.damages.is_empty() && stores.journal.damages.is_empty();
        if is_model && sources_whole && rest_whole {
            let means = "rows of a model are lost; the history of its sources is whole".to_owned();
            return (means, Cure::Repair(Repair::Model { model: relation.clone() }));
        }
        let why = if is_model {
            "the model could be made from its sources' history, were that, checkpoint and journal whole"
        } else {
            "only the lake has what a source admitted before the journal begins"
        };
        ("rows are lost".into(), none(why))
    }

    /// Stores that are whole, each for itself, and not of one time.
    fn times(&self, found: &mut Vec<Finding>) {
        let stores = self.stores;
        let journal = (stores.journal.count > 0).then(|| (stores.journal.begin, stores.last_epoch()));
        let times = Times {
            journal,
            checkpoint: stores.checkpoint_epoch(),
            ledger: stores.ledger_epoch(),
            landed: stores.lake.landed.unwrap_or(0),
            rebuilding: false,
        };
        // What is damaged says nothing of its time.
        let known_damage = found.iter().any(|finding| !finding.store.starts_with("topic"));
        if known_damage {
            return;
        }
        for (part, conflict) in times.conflicts() {
            let last = stores.last_epoch();
            let outlived = times.checkpoint <= last && times.landed <= last && times.ledger <= last;
            let cure = if !outlived {
                none("only the journal has where the inputs stood")
            } else if stores.ledger.count == 0 || times.ledger + 1 < stores.journal.begin {
                none("entries of the ledger are gone whose commit records are gone too")
            } else {
                self.checkpoint_cure()
            };
            let (store, file) = match part {
                Part::Journal => ("journal", self.data.join(folders::JOURNAL)),
                Part::Checkpoint => ("checkpoint", self.project.settings.state.path.clone()),
                Part::Ledger => ("ledger", self.data.join(folders::LEDGER)),
                Part::Lake => ("lake landings", self.project.settings.lake.path.clone()),
            };
            found.push(Finding {
                store: store.into(),
                file,
                byte: None,
                records: None,
                what: conflict,
                means: "a part of the folder was replaced by an older one, or is gone".into(),
                cure,
            });
        }
    }

    fn account(&self, report: &mut Report) {
        let stores = self.stores;
        let mut add = |store: String, holds: String| {
            let name = store.split(' ').next().unwrap_or_default().to_owned();
            let is_damaged = |finding: &Finding| {
                finding.store == store || (name == "lake" && finding.store == "lake" && store == "lake landings")
            };
            let whole = !report.damages.iter().any(is_damaged);
            report.stores.push(StoreReport { store, whole, holds });
        };
        let segments = |inspection: &Inspection, noun: &str, all: &str| {
            let files = inspection.segments.len();
            let bytes: u64 = inspection.segments.iter().map(|segment| segment.bytes).sum();
            let range = match inspection.count {
                0 => format!("no {all}"),
                count => format!("{count} {all}, {}", numbers(noun, &(inspection.begin..inspection.end))),
            };
            format!("{range}; {files} files, {bytes} bytes")
        };
        add("journal".into(), segments(&stores.journal, "epoch", "epochs"));
        add("ledger".into(), segments(&stores.ledger, "epoch", "entries"));
        let checkpoint = &stores.checkpoint;
        add(
            "checkpoint".into(),
            match checkpoint.epoch {
                None => "none".to_owned(),
                Some(epoch) => {
                    format!(
                        "epoch {epoch}; {} keys, {} files, {} bytes",
                        checkpoint.entries, checkpoint.files, checkpoint.bytes
                    )
                }
            },
        );
        for (topic, inspection) in &stores.topics {
            add(format!("topic {topic}"), segments(inspection, "record", "records"));
        }
        if stores.catalogue_count > 0 {
            add("files".into(), format!("{} catalogues", stores.catalogue_count));
        }
        let mut unchecked = 0;
        for table in &stores.lake.tables {
            let place = table.folder.strip_prefix(&self.project.settings.lake.path).unwrap_or(&table.folder);
            let store = match &table.relation {
                Some(relation) => format!("lake {relation}"),
                None => format!(
                    "lake {}",
                    if place.starts_with("weir_epochs") { "landings".into() } else { place.display().to_string() }
                ),
            };
            unchecked += table.unchecked;
            add(store, format!("{} rows; {} files, {} bytes", table.rows, table.files, table.bytes));
        }
        if unchecked > 0 {
            report.notes.push(format!(
                "{unchecked} files of the lake were written by an earlier release, or by another program: nothing vouches for \
                 their bytes"
            ));
        }
    }
}

/// Asks each sink how far it is: one that is ahead was fed by a later state of this folder, or by another folder.
pub async fn ask_sinks(
    environment: &Environment,
    project: &Project,
    spec: &PipelineSpec,
    data: &Path,
    last: EpochNumber,
    report: &mut Report,
) {
    let asked = async {
        let (generations, lineage) = generations(environment, data)?;
        open_sinks(environment, project, spec, &generations, &lineage).await
    };
    let feeds = match asked.await {
        Ok(feeds) => feeds,
        Err(error) => {
            report.notes.push(format!("the sinks were not asked: {error:#}"));
            return;
        }
    };
    for mut feed in feeds {
        let store = format!("sink {}", feed.name);
        match tokio::time::timeout(SINK_WAIT_MAX, feed.sink.cursor()).await {
            Ok(Ok(Some(held))) if held > last => report.damages.push(Finding {
                store,
                file: data.to_path_buf(),
                byte: None,
                records: Some(numbers("epoch", &(last + 1..held + 1))),
                what: format!("the sink holds epoch {held}, and this folder ends with epoch {last}"),
                means: "all of the folder is older than what it has fed, or it is another folder".into(),
                cure: Cure::None(format!(
                    "{FROM_A_COPY}; if this folder is the one to go on with, `weir run --reload-ahead` loads the sink anew"
                )),
            }),
            Ok(Ok(held)) => {
                let holds = held.map_or_else(|| "nothing of this version".to_owned(), |held| format!("epoch {held}"));
                report.stores.push(StoreReport { store, whole: true, holds });
            }
            Ok(Err(error)) => report.notes.push(format!("{store} was not asked: {error}")),
            Err(_) => report.notes.push(format!("{store} was not asked: it does not answer")),
        }
    }
}
