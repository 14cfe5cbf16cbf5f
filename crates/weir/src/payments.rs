//! Days of the example payments, made from a seed: events, processors' reports and bank statements, with known faults and
//! with all that looks like a fault and is none (repeats, late lines, corrections, lost references, payouts split and merged).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::Path;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};

/// What to make.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Payments of all days together.
    pub payments: u64,
    /// Days, from 2026-03-01 on.
    pub days: u32,
    /// Faults of each kind.
    pub faults: u32,
    /// Of the random numbers.
    pub seed: u64,
}

/// Something wrong that was put in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// As the example's findings and checks call it.
    pub kind: &'static str,
    /// The event, line, payout or payment.
    pub id: String,
}

const PROCESSORS: [&str; 3] = ["acme", "borealis", "cobalt"];
const CURRENCIES: [&str; 4] = ["EUR", "GBP", "SEK", "USD"];
const MERCHANTS: u64 = 500;
const SECOND: i64 = 1;
const HOUR: i64 = 3600;
const DAY: i64 = 86_400;
/// 2026-03-01, seconds since 1970.
const START: i64 = 1_772_323_200;
/// Usual amounts are below, those that must be told apart from all others are above; cents.
const USUAL_MAX: i64 = 50_000;

/// What becomes of a payment besides the usual.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    MissingAtProcessor,
    WrongAmount,
    Twice,
    RefundedTooMuch,
    /// No fault: its line has lost its reference.
    Garbled,
}

#[derive(Debug, Clone)]
struct Event {
    id: String,
    merchant: u64,
    processor: usize,
    currency: usize,
    /// As processors report it, cents.
    amount: i64,
    net: i64,
    at: i64,
}

/// One day's files, and lines that come later than they should.
struct Day {
    events: BufWriter<File>,
    processor: BufWriter<File>,
}

struct Maker<'a> {
    folder: &'a Path,
    random: StdRng,
    faults: Vec<Fault>,
    days: Vec<Day>,
    payouts: BTreeMap<(i64, usize, usize), BTreeMap<i64, i64>>,
    lines: u64,
    special: i64,
    buffer: String,
}

fn money(cents: i64) -> String {
    format!("{}{}.{:02}", if cents < 0 { "-" } else { "" }, cents.abs() / 100, cents.abs() % 100)
}

fn instant(seconds: i64) -> String {
    chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default().format("%Y-%m-%dT%H:%M:%SZ").to_string()
}

fn date(seconds: i64) -> String {
    chrono::DateTime::from_timestamp(seconds, 0).unwrap_or_default().format("%Y-%m-%d").to_string()
}

fn payout_id(day: i64, processor: usize, currency: usize, batch: i64) -> String {
    let day = date(START + day * DAY).replace('-', "");
    format!("{}-{}-{day}-{batch}", PROCESSORS[processor], CURRENCIES[currency])
}

/// Writes `events/`, `processor/`, `bank/` and `faults.csv` below `folder`; returns the faults, sorted.
pub fn generate(folder: &Path, plan: Plan) -> std::io::Result<Vec<Fault>> {
    for name in ["events", "processor", "bank"] {
        fs::create_dir_all(folder.join(name))?;
    }
    let days = i64::from(plan.days.max(1));
    let open = |kind: &str, day: i64, extension: &str| {
        File::create(folder.join(kind).join(format!("{}.{extension}", date(START + day * DAY)))).map(BufWriter::new)
    };
    let mut files = Vec::new();
    // A day more for what comes late.
    for day in 0..=days {
        let mut processor = open("processor", day, "csv")?;
        writeln!(processor, "line_id,processor,reference,merchant,currency,amount,net,payout_id,processed_at")?;
        files.push(Day { events: open("events", day, "jsonl")?, processor });
    }
    let mut maker = Maker {
        folder,
        random: StdRng::seed_from_u64(plan.seed),
        faults: Vec::new(),
        days: files,
        payouts: BTreeMap::new(),
        lines: 0,
        special: USUAL_MAX,
        buffer: String::new(),
    };
    let roles = maker.roles(plan);
    let per_day = plan.payments.div_ceil(days as u64).max(1);
    for number in 0..plan.payments {
        let day = (number / per_day) as i64;
        // Between one and nine in the evening, so that nothing crosses midnight.
        let at = START + day * DAY + HOUR + (number % per_day) as i64 * 20 * HOUR / per_day as i64;
        maker.payment(number, day, at, roles.get(&number).copied())?;
    }
    for _ in 0..plan.faults {
        maker.add_from_nowhere(days)?;
    }
    for day in &mut maker.days {
        day.events.flush()?;
        day.processor.flush()?;
    }
    maker.bank(days, plan.faults)?;
    maker.faults.sort();
    let mut file = BufWriter::new(File::create(folder.join("faults.csv"))?);
    writeln!(file, "kind,id")?;
    for fault in &maker.faults {
        writeln!(file, "{},{}", fault.kind, fault.id)?;
    }
    file.flush()?;
    Ok(maker.faults)
}

impl Maker<'_> {
    /// Which payments are not usual.
    fn roles(&mut self, plan: Plan) -> BTreeMap<u64, Role> {
        let mut wanted = Vec::new();
        for role in [Role::MissingAtProcessor, Role::WrongAmount, Role::Twice, Role::RefundedTooMuch] {
            wanted.extend(std::iter::repeat_n(role, plan.faults as usize));
        }
        wanted.extend(std::iter::repeat_n(Role::Garbled, plan.payments as usize / 200));
        let mut roles = BTreeMap::new();
        for role in wanted.into_iter().take(plan.payments as usize) {
            loop {
                let number = self.random.random_range(0..plan.payments);
                if let std::collections::btree_map::Entry::Vacant(free) = roles.entry(number) {
                    free.insert(role);
                    break;
                }
            }
        }
        roles
    }

    /// An amount that nothing else has.
    fn special(&mut self) -> i64 {
        self.special += 1;
        self.special
    }

    fn fault(&mut self, kind: &'static str, id: &str) {
        self.faults.push(Fault { kind, id: id.to_owned() });
    }

    /// Writes the event in the buffer, now and then twice, as a sender does that has missed the answer.
    fn write_event(&mut self, day: i64) -> std::io::Result<()> {
        let times = if self.random.random_bool(0.01) { 2 } else { 1 };
        for _ in 0..times {
            self.days[day as usize].events.write_all(self.buffer.as_bytes())?;
        }
        Ok(())
    }

    fn payment(&mut self, number: u64, day: i64, at: i64, role: Option<Role>) -> std::io::Result<()> {
        let amount = match role {
            Some(_) => self.special(),
            None => self.random.random_range(100..USUAL_MAX),
        };
        let merchant = self.random.random_range(0..MERCHANTS);
        let (processor, currency) = (self.random.random_range(0..3), self.random.random_range(0..4));
        let payment = format!("p{number}");
        let head = |kind: &str, at: i64| {
            format!(
                "{{\"type\":\"{kind}\",\"payment\":\"{payment}\",\"merchant\":\"m{merchant}\",\"processor\":\"{}\",\
                 \"currency\":\"{}\",\"at\":\"{}\"",
                PROCESSORS[processor],
                CURRENCIES[currency],
                instant(at)
            )
        };
        self.buffer = format!("{},\"amount\":\"{}\"}}\n", head("payment", at), money(amount));
        self.write_event(day)?;
        if role.is_none() && self.random.random_bool(0.03) {
            // Given up at the till.
            return Ok(());
        }
        let (fee, scheme, interchange) = (amount * 29 / 1000 + 30, amount * 2 / 1000, amount * 6 / 1000);
        let (tax, reserve) = (fee / 5, amount / 20);
        let event = Event {
            id: format!("c{number}"),
            merchant,
            processor,
            currency,
            amount,
            net: amount - scheme - interchange,
            at: at + 2 * SECOND,
        };
        self.buffer = format!(
            "{},\"id\":\"{}\",\"amount\":\"{}\",\"fee\":\"{}\",\"tax\":\"{}\",\"scheme_fee\":\"{}\",\
             \"interchange\":\"{}\",\"reserve\":\"{}\"}}\n",
            head("capture", event.at),
            event.id,
            money(amount),
            money(fee),
            money(tax),
            money(scheme),
            money(interchange),
            money(reserve)
        );
        self.write_event(day)?;
        self.report(day, &event, role)?;
        let too_much = role == Some(Role::RefundedTooMuch);
        if too_much || (role.is_none() && self.random.random_bool(0.04)) {
            let back = if too_much { amount + 1 } else { self.random.random_range(100..=amount) };
            let refund = Event { id: format!("r{number}"), amount: -back, net: -back, at: at + HOUR, ..event.clone() };
            self.buffer =
                format!("{},\"id\":\"{}\",\"amount\":\"{}\"}}\n", head("refund", refund.at), refund.id, money(back));
            self.write_event(day)?;
            self.report(day, &refund, None)?;
            if too_much {
                self.fault("refunded too much", &payment);
            }
        } else if role.is_none() && self.random.random_bool(0.005) {
            let dispute = Event {
                id: format!("b{number}"),
                amount: -amount,
                net: -amount - 1500,
                at: at + 2 * HOUR,
                ..event.clone()
            };
            self.buffer = format!(
                "{},\"id\":\"{}\",\"amount\":\"{}\",\"fee\":\"15.00\"}}\n",
                head("chargeback", dispute.at),
                dispute.id,
                money(amount)
            );
            self.write_event(day)?;
            self.report(day, &dispute, None)?;
        }
        Ok(())
    }

    /// The processor's line about an event.
    fn report(&mut self, day: i64, event: &Event, role: Option<Role>) -> std::io::Result<()> {
        let mut line = event.clone();
        let mut reference = event.id.clone();
        match role {
            Some(Role::MissingAtProcessor) => {
                self.fault("missing at processor", &event.id);
                return Ok(());
            }
            Some(Role::WrongAmount) => {
                let off = self.random.random_range(2..5000);
                line.amount += off;
                line.net += off;
                self.fault("wrong amount at processor", &event.id);
            }
            Some(Role::Garbled) => {
                reference = if self.random.random_bool(0.5) { String::new() } else { format!("?{}", event.id) };
            }
            _ => {}
        }
        self.line(day, &line, &reference)?;
        if role == Some(Role::Twice) {
            line.at += 300 * SECOND;
            let id = self.line(day, &line, &reference)?;
            self.fault("twice at processor", &id);
        }
        Ok(())
    }

    fn line(&mut self, day: i64, event: &Event, reference: &str) -> std::io::Result<String> {
        self.lines += 1;
        let id = format!("l{}", self.lines);
        let batch = (event.at - START) % DAY / (6 * HOUR);
        let key = (day, event.processor, event.currency);
        *self.payouts.entry(key).or_default().entry(batch).or_default() += event.net;
        let payout = payout_id(day, event.processor, event.currency, batch);
        let at = event.at + self.random.random_range(1..30);
        let text = |amount: i64| {
            format!(
                "{id},{},{reference},m{},{},{},{},{payout},{}\n",
                PROCESSORS[event.processor],
                event.merchant,
                CURRENCIES[event.currency],
                money(amount),
                money(event.net + amount - event.amount),
                instant(at)
            )
        };
        let late = self.random.random_bool(0.03);
        if self.random.random_bool(0.005) {
            // Corrected by the line below.
            self.days[day as usize].processor.write_all(text(event.amount + 100).as_bytes())?;
        }
        self.days[(day + i64::from(late)) as usize].processor.write_all(text(event.amount).as_bytes())?;
        Ok(id)
    }

    /// A line that no event is behind, and a dispute of a payment that never was.
    fn add_from_nowhere(&mut self, days: i64) -> std::io::Result<()> {
        let day = self.random.random_range(0..days);
        let amount = self.special();
        let mut event = Event {
            id: format!("x{amount}"),
            merchant: self.random.random_range(0..MERCHANTS),
            processor: self.random.random_range(0..3),
            currency: self.random.random_range(0..4),
            amount,
            net: amount - 7,
            at: START + day * DAY + 12 * HOUR,
        };
        let id = self.line(day, &event, &event.id.clone())?;
        self.fault("unknown to ledger", &id);
        event.id = format!("b{amount}");
        (event.amount, event.net) = (-amount, -amount - 1500);
        self.buffer = format!(
            "{{\"type\":\"chargeback\",\"id\":\"{}\",\"payment\":\"q{amount}\",\"merchant\":\"m{}\",\"processor\":\"{}\",\
             \"currency\":\"{}\",\"amount\":\"{}\",\"fee\":\"15.00\",\"at\":\"{}\"}}\n",
            event.id,
            event.merchant,
            PROCESSORS[event.processor],
            CURRENCIES[event.currency],
            money(amount),
            instant(event.at)
        );
        self.write_event(day)?;
        self.line(day, &event, &event.id.clone())?;
        self.fault("dispute of nothing", &event.id);
        Ok(())
    }

    /// The statements: each payout two days later, some split, merged, late, short, missing, or from nowhere.
    fn bank(&mut self, days: i64, faults: u32) -> std::io::Result<()> {
        let payouts = std::mem::take(&mut self.payouts);
        let mut keys: Vec<_> = payouts.keys().copied().collect();
        keys.shuffle(&mut self.random);
        // Of one processor, currency and day at most one thing is odd.
        let mut odd = keys.iter().copied();
        let mut take = |count: u32| -> BTreeSet<_> { odd.by_ref().take(count as usize).collect() };
        let (missing, short, unknown) = (take(faults), take(faults), take(faults));
        let merged: BTreeSet<_> = take(keys.len() as u32 / 8);
        let mut statements: BTreeMap<i64, Vec<String>> = BTreeMap::new();
        let mut number = 0;
        for (key @ (day, processor, currency), batches) in &payouts {
            let mut write = |maker: &mut Self, amount: i64, reference: &str| {
                number += 1;
                let late = i64::from(maker.random.random_bool(0.1));
                let booked = day + 2 + late;
                let line = format!(
                    "k{number},{},{},{},{reference},{},{}\n",
                    PROCESSORS[*processor],
                    CURRENCIES[*currency],
                    money(amount),
                    date(START + day * DAY),
                    instant(START + booked * DAY + 9 * HOUR)
                );
                statements.entry(booked).or_default().push(line);
                format!("k{number}")
            };
            let id = |batch: i64| payout_id(*day, *processor, *currency, batch);
            let mut batches: Vec<(i64, i64)> = batches.iter().map(|(batch, net)| (*batch, *net)).collect();
            if merged.contains(key) && batches.len() > 1 {
                let sum = batches[0].1 + batches[1].1;
                write(self, sum, &format!("COLLECT {}", day + 1));
                batches.drain(..2);
            }
            let first = batches.first().map(|(batch, _)| *batch);
            for (batch, net) in batches {
                let payout = id(batch);
                let is_first = first == Some(batch);
                if is_first && missing.contains(key) {
                    self.fault("missing at bank", &payout);
                } else if is_first && short.contains(key) {
                    write(self, net - 777, &payout);
                    self.fault("wrong amount at bank", &payout);
                } else if self.random.random_bool(0.15) {
                    let part = net / 3;
                    write(self, part, &payout);
                    write(self, net - part, &payout);
                } else {
                    write(self, net, &payout);
                }
            }
            if unknown.contains(key) {
                let amount = self.special();
                let id = write(self, amount, "TRANSFER");
                self.fault("unknown at bank", &id);
            }
        }
        for (day, mut lines) in statements {
            lines.shuffle(&mut self.random);
            let name = format!("{}.csv", date(START + day.min(days + 3) * DAY));
            let mut file = BufWriter::new(File::create(self.folder.join("bank").join(name))?);
            writeln!(file, "line_id,counterparty,currency,amount,reference,payout_day,booked_at")?;
            for line in lines {
                file.write_all(line.as_bytes())?;
            }
            file.flush()?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_files_again() {
        let plan = Plan { payments: 500, days: 3, faults: 2, seed: 9 };
        let made = |plan| {
            let folder = tempfile::tempdir().expect("a temporary folder");
            let faults = generate(folder.path(), plan).expect("it is written");
            let file = folder.path().join("processor/2026-03-02.csv");
            (faults, fs::read_to_string(file).expect("a report"))
        };
        assert_eq!(made(plan), made(plan));
        assert_ne!(made(plan), made(Plan { seed: 10, ..plan }));
        let kinds: BTreeSet<_> = made(plan).0.into_iter().map(|fault| fault.kind).collect();
        assert_eq!(kinds.len(), 9);
    }
}
