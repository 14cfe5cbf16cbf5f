//! What must be so: a model of all that was sent, acknowledged, committed and seen, in plain Rust and maps.
//!
//! It shares no code with what it judges. It knows:
//! 1. every submission of the clients, and which were acknowledged at which offsets. The log must hold exactly these, and
//!    of the others each wholly or not at all, at most once; what was once seen in the log stays where it is.
//! 2. every epoch that was reported as committed: how far it came into each input, and its clock. Epochs have no gap,
//!    neither positions nor clocks go back, and after a crash the last epoch is the last one reported, or the one whose
//!    commit was under way.
//! 3. for every epoch, by computing them again from the records up to its positions: what each relation must hold.

use std::collections::BTreeMap;
use std::ops::Range;

use weir_environment::Micros;
use weir_pipeline::EpochNumber;
use weir_pipeline::admission::Counts;

use crate::events::{Event, LATENESS, REPEATS_WITHIN, Sent};
use crate::project::{
    BUSY, CLICKS, OFFERS, ORDERS, PER_PRICE, PRICED, RECENT, RECENT_WITHIN, REVENUE, ROLLUP, SOLD, UNPRICED,
};
use crate::rows::{NULL, Rows, add};

/// What is known of an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Facts {
    /// Its clock.
    pub clock: Micros,
    /// Records that it and those before it have taken from the beacon's log.
    pub records: usize,
    /// Lines that they have taken from files.
    pub lines: usize,
    /// The epoch that the recomputed model shows, if it was computed.
    pub rolled_up: Option<EpochNumber>,
}

#[derive(Debug)]
struct Submission {
    arrival: Micros,
    records: Vec<Sent>,
    in_log: bool,
}

/// A record that the log gives.
#[derive(Debug)]
pub struct Found<'a> {
    /// Its arrival.
    pub arrival: Micros,
    /// Its bytes.
    pub raw: &'a [u8],
}

/// All that must be so.
#[derive(Debug)]
pub struct Oracle {
    submissions: Vec<Submission>,
    /// What is in the log, by offset: submission and record.
    log: Vec<(usize, usize)>,
    lines: Vec<Sent>,
    /// Lines before each file, and at last of all.
    files: Vec<usize>,
    epochs: Vec<Facts>,
    in_doubt: Option<Facts>,
    /// Whether the project has the model with rows that fail.
    can_fail: bool,
}

impl Oracle {
    /// Nothing was sent yet. `can_fail`: whether the project has the model whose rows may fail.
    pub fn new(can_fail: bool) -> Self {
        Self {
            submissions: Vec::new(),
            log: Vec::new(),
            lines: Vec::new(),
            files: vec![0],
            epochs: vec![Facts { clock: Micros::MIN, ..Facts::default() }],
            in_doubt: None,
            can_fail,
        }
    }

    /// Notes what a client sends; the number of the submission.
    pub fn sent(&mut self, arrival: Micros, records: Vec<Sent>) -> usize {
        self.submissions.push(Submission { arrival, records, in_log: false });
        self.submissions.len() - 1
    }

    /// Notes a closed file.
    pub fn closed(&mut self, lines: Vec<Sent>) {
        self.lines.extend(lines);
        self.files.push(self.lines.len());
    }

    /// Files so far.
    pub fn files(&self) -> usize {
        self.files.len() - 1
    }

    /// Lines before a line of a file.
    pub fn lines_before(&self, file: usize, line: usize) -> usize {
        self.files.get(file).map_or(usize::MAX, |before| before + line)
    }

    /// Lines in all files.
    pub fn lines(&self) -> usize {
        self.lines.len()
    }

    /// Records in the log, as far as was seen.
    pub fn logged(&self) -> usize {
        self.log.len()
    }

    /// Notes that a submission was acknowledged; the error says what is wrong with it.
    pub fn acknowledged(&mut self, submission: usize, offsets: Range<u64>) -> Result<(), String> {
        let Submission { records, in_log, .. } = &mut self.submissions[submission];
        if offsets.start as usize != self.log.len() || offsets.end - offsets.start != records.len() as u64 || *in_log {
            let (count, end) = (records.len(), self.log.len());
            return Err(format!(
                "submission {submission} of {count} records was acknowledged at {offsets:?}, and the log ended at {end}"
            ));
        }
        *in_log = true;
        self.log.extend((0..records.len()).map(|record| (submission, record)));
        Ok(())
    }

    /// Looks at what the log holds after a start: records from `begin` on.
    pub fn look_at_log(&mut self, begin: u64, found: &[Found<'_>]) -> Result<(), String> {
        let end = begin as usize + found.len();
        if end < self.log.len() {
            return Err(format!(
                "the log ends at {end}, and records up to {} were acknowledged or seen",
                self.log.len()
            ));
        }
        for (index, record) in found.iter().enumerate() {
            let offset = begin as usize + index;
            if offset == self.log.len() {
                self.settle(&found[index..])?;
            }
            let (submission, place) = self.log[offset];
            let submission = &self.submissions[submission];
            if submission.records[place].raw != record.raw || submission.arrival != record.arrival {
                let raw = String::from_utf8_lossy(record.raw);
                return Err(format!("the record at offset {offset} is another than was acknowledged or seen: {raw}"));
            }
        }
        Ok(())
    }

    /// Takes the submission that `found` begins with into the log: one that was not acknowledged, and is there wholly.
    fn settle(&mut self, found: &[Found<'_>]) -> Result<(), String> {
        let offset = self.log.len();
        let first = |submission: &Submission| !submission.in_log && submission.records[0].raw == found[0].raw;
        let Some(number) = self.submissions.iter().position(first) else {
            let raw = String::from_utf8_lossy(found[0].raw);
            return Err(format!("the record at offset {offset} was never sent, or is there twice: {raw}"));
        };
        let submission = &mut self.submissions[number];
        if submission.records.len() > found.len() {
            return Err(format!("of submission {number}, only a part is in the log, at offset {offset}"));
        }
        submission.in_log = true;
        self.log.extend((0..submission.records.len()).map(|record| (number, record)));
        Ok(())
    }

    /// Notes the epoch whose commit is under way.
    pub fn commits(&mut self, facts: Facts) {
        self.in_doubt = Some(facts);
    }

    /// Notes an epoch that was reported as committed.
    pub fn committed(&mut self, epoch: EpochNumber, facts: Facts) -> Result<(), String> {
        self.in_doubt = None;
        let last = self.epochs[self.epochs.len() - 1];
        if epoch != self.epochs.len() as u64 {
            return Err(format!("epoch {epoch} was committed after epoch {}", self.epochs.len() - 1));
        }
        if facts.clock < last.clock || facts.records < last.records || facts.lines < last.lines {
            return Err(format!("epoch {epoch} goes back: {facts:?} after {last:?}"));
        }
        if facts.records > self.log.len() || facts.lines > self.lines.len() {
            return Err(format!("epoch {epoch} has taken more than there is: {facts:?}"));
        }
        self.epochs.push(facts);
        Ok(())
    }

    /// Looks at the epoch that a start has found.
    pub fn recovered(&mut self, epoch: EpochNumber, facts: Facts) -> Result<(), String> {
        let last = self.epochs.len() as u64 - 1;
        if epoch == last + 1
            && let Some(doubtful) = self.in_doubt.take()
        {
            let same = Facts { clock: doubtful.clock, ..facts } == doubtful;
            return if same {
                self.committed(epoch, facts)
            } else {
                Err(format!("epoch {epoch} is another than tried"))
            };
        }
        self.in_doubt = None;
        if epoch != last {
            return Err(format!("epoch {last} was committed, and the start found epoch {epoch}"));
        }
        let known = self.epochs[last as usize];
        if epoch > 0 && known != facts {
            return Err(format!("epoch {epoch} was {known:?}, and is {facts:?} after the start"));
        }
        Ok(())
    }

    /// The last epoch.
    pub fn epoch(&self) -> EpochNumber {
        self.epochs.len() as u64 - 1
    }

    /// What is known of an epoch.
    pub fn facts(&self, epoch: EpochNumber) -> Facts {
        self.epochs[epoch as usize]
    }

    /// What every relation must hold as of an epoch.
    pub fn expected(&self, epoch: EpochNumber) -> Expected {
        let facts = self.facts(epoch);
        let admitted = self.admit(facts);
        let rollup = facts.rolled_up.map(|of| rollup(&self.admit(self.facts(of))));
        let mut expected = Expected::of(admitted, facts.clock, rollup);
        if !self.can_fail {
            expected.relations.remove(ERRORS);
        }
        expected
    }

    fn admit(&self, facts: Facts) -> Admitted {
        let mut admitted = Admitted::default();
        for (offset, (submission, record)) in self.log[..facts.records].iter().enumerate() {
            let submission = &self.submissions[*submission];
            admitted.take(&submission.records[*record], submission.arrival, offset);
        }
        for line in &self.lines[..facts.lines] {
            admitted.take(line, 0, 0);
        }
        admitted
    }
}

/// What sources hold, and what was set aside.
#[derive(Debug, Default)]
struct Admitted {
    clicks: Vec<(i64, i64, Micros)>,
    newest: Option<Micros>,
    /// Order, price and whether it is there, of every offer that ever was.
    offers: BTreeMap<i64, ((i64, Micros, usize), i64, bool)>,
    orders: Vec<(i64, i64, i64)>,
    late: Rows,
    broken: Rows,
    counts: Counts,
    unrouted: u64,
}

impl Admitted {
    fn take(&mut self, sent: &Sent, arrival: Micros, offset: usize) {
        let raw = || String::from_utf8_lossy(&sent.raw).into_owned();
        if sent.event == Event::Other {
            self.unrouted += 1;
            return;
        }
        self.counts.records += 1;
        if matches!(sent.event, Event::Broken | Event::Offer { offer: None, .. }) {
            self.counts.quarantined += 1;
            add(&mut self.broken, raw(), 1);
            return;
        }
        self.counts.rows += 1;
        match sent.event {
            Event::Click { id, offer, at } => {
                if self.newest.is_some_and(|newest| at < newest - LATENESS) {
                    self.counts.late += 1;
                    add(&mut self.late, raw(), 1);
                    return;
                }
                self.newest = self.newest.max(Some(at));
                let repeats =
                    |click: &(i64, i64, Micros)| click.0 == id && click.2.abs_diff(at) <= REPEATS_WITHIN as u64;
                if self.clicks.iter().any(repeats) {
                    self.counts.duplicate += 1;
                    return;
                }
                self.clicks.push((id, offer, at));
            }
            Event::Offer { offer: Some(offer), price, revision, gone } => {
                let order = (revision, arrival, offset);
                if self.offers.get(&offer).is_some_and(|(held, _, _)| *held > order) {
                    self.counts.superseded += 1;
                    return;
                }
                self.offers.insert(offer, (order, price, !gone));
            }
            Event::Order { order, offer, amount } => self.orders.push((order, offer, amount)),
            Event::Offer { offer: None, .. } | Event::Other | Event::Broken => {}
        }
        self.counts.admitted += 1;
    }

    fn price(&self, offer: i64) -> Option<i64> {
        self.offers.get(&offer).filter(|(_, _, there)| *there).map(|(_, price, _)| *price)
    }

    fn priced(&self) -> impl Iterator<Item = (i64, i64, Option<i64>)> {
        self.clicks.iter().map(|(id, offer, _)| (*id, *offer, self.price(*offer)))
    }
}

/// Count and sum of the prices that are known.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    count: i64,
    total: Option<i64>,
}

impl Sum {
    fn add(&mut self, value: Option<i64>) {
        self.count += 1;
        self.total = value.map_or(self.total, |value| Some(self.total.unwrap_or(0) + value));
    }
}

fn text(value: Option<i64>) -> String {
    value.map_or_else(|| NULL.to_owned(), |value| value.to_string())
}

/// Sums by offer, and over all under none.
fn rollup(admitted: &Admitted) -> BTreeMap<Option<i64>, Sum> {
    // Over nothing there is one row, too: the sum over all.
    let mut sums = BTreeMap::from([(None, Sum::default())]);
    for (_, offer, price) in admitted.priced() {
        sums.entry(Some(offer)).or_default().add(price);
        sums.entry(None).or_default().add(price);
    }
    sums
}

/// What every relation must hold.
#[derive(Debug)]
pub struct Expected {
    /// By name. Columns of system relations that only say when and where are left out.
    pub relations: BTreeMap<&'static str, Rows>,
    /// Sums over all sources.
    pub counts: Counts,
    /// Records that no source asked for.
    pub unrouted: u64,
    /// Rows of the check.
    pub unpriced: u64,
}

/// Quarantined records by their bytes.
pub const QUARANTINED: &str = weir_pipeline::spec::QUARANTINE;
/// Late records by their bytes.
pub const LATE: &str = weir_pipeline::spec::LATE;
/// Models with rows whose expressions fail, once for each.
pub const ERRORS: &str = weir_pipeline::spec::ERRORS;

impl Expected {
    fn of(admitted: Admitted, clock: Micros, rolled_up: Option<BTreeMap<Option<i64>, Sum>>) -> Self {
        let mut relations: BTreeMap<&'static str, Rows> = BTreeMap::new();
        let mut row = |relation: &'static str, row: String| add(relations.entry(relation).or_default(), row, 1);
        for (id, offer, at) in &admitted.clicks {
            row(CLICKS, format!("click|{id}|{offer}|{at}"));
            if *at > clock.saturating_sub(RECENT_WITHIN) {
                row(RECENT, format!("{id}|{offer}"));
            }
        }
        for (offer, ((revision, _, _), price, _)) in admitted.offers.iter().filter(|(_, (_, _, there))| *there) {
            row(OFFERS, format!("offer|{offer}|{price}|{revision}|false"));
        }
        let mut sold: BTreeMap<i64, (i64, i64)> = BTreeMap::new();
        for (order, offer, amount) in &admitted.orders {
            row(ORDERS, format!("{order}|{offer}|{amount}"));
            if let Some(price) = admitted.price(*offer) {
                let entry = sold.entry(*offer).or_default();
                *entry = (entry.0 + 1, entry.1 + amount * price);
            }
        }
        for (offer, (orders, total)) in sold {
            row(SOLD, format!("{offer}|{orders}|{total}"));
        }
        let mut unpriced = 0;
        let mut by_offer: BTreeMap<i64, Sum> = BTreeMap::new();
        let mut by_price: BTreeMap<Option<i64>, i64> = BTreeMap::new();
        for (id, offer, price) in admitted.priced() {
            row(PRICED, format!("{id}|{offer}|{}", text(price)));
            by_offer.entry(offer).or_default().add(price);
            *by_price.entry(price).or_default() += 1;
            if price.is_none() {
                unpriced += 1;
                row(UNPRICED, id.to_string());
            }
        }
        for (offer, sum) in by_offer {
            row(REVENUE, format!("{offer}|{}|{}", sum.count, text(sum.total)));
        }
        for (price, count) in by_price {
            match price {
                Some(3) => row(ERRORS, PER_PRICE.to_owned()),
                Some(price) => row(PER_PRICE, format!("{price}|{}|{count}", 100 / (price - 3))),
                None => row(PER_PRICE, format!("{NULL}|{NULL}|{count}")),
            }
        }
        let mut busy: BTreeMap<i64, i64> = BTreeMap::new();
        for (offer, sum) in rolled_up.unwrap_or_default() {
            row(ROLLUP, format!("{}|{}|{}", text(offer), sum.count, text(sum.total)));
            if sum.count > 2 {
                *busy.entry(sum.count).or_default() += 1;
            }
        }
        for (count, offers) in busy {
            row(BUSY, format!("{count}|{offers}"));
        }
        relations.insert(QUARANTINED, admitted.broken);
        relations.insert(LATE, admitted.late);
        Self { relations, counts: admitted.counts, unrouted: admitted.unrouted, unpriced }
    }
}
