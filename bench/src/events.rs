//! Nexmark's events (Tucker and others, 2002, as the published generators draw them) made in columns, the same for the
//! same numbers: of fifty events one person, three auctions and 46 bids, with hot sellers, auctions, bidders and channels.

use std::fs::File;
use std::io::BufWriter;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

use anyhow::Result;
use arrow::array::{ArrayRef, Int64Builder, RecordBatch, StringBuilder, TimestampMicrosecondBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow_json::LineDelimitedWriter;

use crate::random::Seeded;

/// Events of one cycle: a person, then three auctions, then bids.
const CYCLE: u64 = 50;
const AUCTIONS: u64 = 3;
/// Ids begin here.
const FIRST_ID: u64 = 1000;
const FIRST_CATEGORY: u64 = 10;
const CATEGORIES: u64 = 5;
/// Hot people and auctions are the first of so many.
const HOT: u64 = 100;
const ACTIVE_PEOPLE: u64 = 1000;
const AUCTIONS_IN_FLIGHT: u64 = 100;
const LEAD: u64 = 10;
const CHANNELS: usize = 10_000;
/// 2026-01-01T00:00:00Z, in microseconds.
const START: i64 = 1_767_225_600_000_000;
/// Microseconds between events: ten thousand a second.
const DELAY: i64 = 100;

/// The relations of Nexmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Person,
    Auction,
    Bid,
}

impl Kind {
    /// All, in a fixed order.
    pub const ALL: [Kind; 3] = [Kind::Person, Kind::Auction, Kind::Bid];

    /// Name of the relation.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Person => "person",
            Kind::Auction => "auction",
            Kind::Bid => "bid",
        }
    }

    /// Columns of the relation.
    pub fn schema(self) -> SchemaRef {
        let (id, text, at) = (DataType::Int64, DataType::Utf8, DataType::Timestamp(TimeUnit::Microsecond, None));
        let columns: &[(&str, &DataType)] = match self {
            Kind::Person => &[
                ("id", &id),
                ("name", &text),
                ("email_address", &text),
                ("credit_card", &text),
                ("city", &text),
                ("state", &text),
                ("date_time", &at),
                ("extra", &text),
            ],
            Kind::Auction => &[
                ("id", &id),
                ("item_name", &text),
                ("description", &text),
                ("initial_bid", &id),
                ("reserve", &id),
                ("date_time", &at),
                ("expires", &at),
                ("seller", &id),
                ("category", &id),
                ("extra", &text),
            ],
            Kind::Bid => &[
                ("auction", &id),
                ("bidder", &id),
                ("price", &id),
                ("channel", &text),
                ("url", &text),
                ("date_time", &at),
                ("extra", &text),
            ],
        };
        Arc::new(Schema::new(columns.iter().map(|(n, t)| Field::new(*n, (*t).clone(), true)).collect::<Vec<_>>()))
    }

    /// Where [`write`] puts its events.
    pub fn file(self, folder: &Path) -> PathBuf {
        folder.join(format!("{}.json", self.name()))
    }

    /// A source that reads that file.
    pub fn source(self, folder: &Path) -> String {
        let columns = self.schema().fields().iter().fold(String::new(), |columns, field| {
            let kind = match field.data_type() {
                DataType::Int64 => "BIGINT",
                DataType::Utf8 => "TEXT",
                _ => "TIMESTAMP",
            };
            columns + &format!("{} = \"{kind}\"\n", field.name())
        });
        format!(
            "kind = \"files\"\npath = \"{}\"\nsettle = \"0 seconds\"\ntime = \"date_time\"\nunknown_fields = \"drop\"\n[columns]\n{columns}",
            self.file(folder).display()
        )
    }
}

/// Writes the first `count` events to a folder, a file of JSON lines for each kind.
pub fn write(folder: &Path, count: u64) -> Result<()> {
    const CHUNK: u64 = 100_000;
    let mut files = Vec::new();
    for kind in Kind::ALL {
        let file = BufWriter::with_capacity(1 << 20, File::create(kind.file(folder))?);
        files.push(LineDelimitedWriter::new(file));
    }
    for from in (0..count).step_by(CHUNK as usize) {
        for (file, rows) in files.iter_mut().zip(events(from..count.min(from + CHUNK))?) {
            file.write(&rows)?;
        }
    }
    files.iter_mut().try_for_each(LineDelimitedWriter::finish)?;
    Ok(())
}

/// The events of these numbers, a batch for each kind in the order of [`Kind::ALL`].
pub fn events(numbers: Range<u64>) -> Result<[RecordBatch; 3]> {
    let count = (numbers.end - numbers.start) as usize;
    let mut random = Seeded(numbers.start.wrapping_mul(0x2545_f491_4f6c_dd1d) + 7);
    let mut persons = Columns::new(1, 6, 1, count / 50 + 1);
    let mut auctions = Columns::new(5, 3, 2, count / 16 + 3);
    let mut bids = Columns::new(3, 3, 1, count);
    for number in numbers {
        match number % CYCLE {
            0 => persons.person(number, &mut random),
            offset if offset <= AUCTIONS => auctions.auction(number, &mut random),
            _ => bids.bid(number, &mut random),
        }
    }
    Ok([persons.finish(Kind::Person)?, auctions.finish(Kind::Auction)?, bids.finish(Kind::Bid)?])
}

fn at(number: u64) -> i64 {
    // Milliseconds, as the published generators have it.
    (START + number as i64 * DELAY) / 1000 * 1000
}

fn last_person(number: u64) -> u64 {
    number / CYCLE
}

fn last_auction(number: u64) -> u64 {
    let offset = number % CYCLE;
    (number / CYCLE * AUCTIONS + offset.min(AUCTIONS)).saturating_sub(1)
}

fn any_person(number: u64, random: &mut Seeded) -> u64 {
    let people = last_person(number) + 1;
    let active = people.min(ACTIVE_PEOPLE);
    people - active + random.below(active + LEAD)
}

fn price(random: &mut Seeded) -> i64 {
    let exponent = random.below(1 << 24) as f32 / (1 << 24) as f32 * 6.0;
    (10.0_f32.powf(exponent) * 100.0).round() as i64
}

/// Columns of one kind of event while they are made: numbers, texts and instants, each in the order of the schema.
struct Columns {
    numbers: Vec<Int64Builder>,
    texts: Vec<StringBuilder>,
    instants: Vec<TimestampMicrosecondBuilder>,
    text: String,
}

impl Columns {
    fn new(numbers: usize, texts: usize, instants: usize, rows: usize) -> Self {
        Self {
            numbers: (0..numbers).map(|_| Int64Builder::with_capacity(rows)).collect(),
            texts: (0..texts).map(|_| StringBuilder::with_capacity(rows, rows * 32)).collect(),
            instants: (0..instants).map(|_| TimestampMicrosecondBuilder::with_capacity(rows)).collect(),
            text: String::new(),
        }
    }

    fn numbers(&mut self, values: &[i64]) {
        self.numbers.iter_mut().zip(values).for_each(|(column, value)| column.append_value(*value));
    }

    fn letters(&mut self, column: usize, count: usize, random: &mut Seeded) {
        const CHUNK: usize = 8;
        self.text.clear();
        while self.text.len() < count {
            let mut bits = random.next();
            for _ in 0..CHUNK.min(count - self.text.len()) {
                self.text.push((b'a' + (((bits & 0xff) * 26) >> 8) as u8) as char);
                bits >>= 8;
            }
        }
        self.texts[column].append_value(&self.text);
    }

    /// What fills an event up to its usual size.
    fn extra(&mut self, column: usize, size: u64, random: &mut Seeded) {
        let delta = (size + 2) / 5;
        let length = size - delta + random.below(2 * delta);
        self.letters(column, length as usize, random);
    }

    fn person(&mut self, number: u64, random: &mut Seeded) {
        const FIRST: [&str; 11] =
            ["peter", "paul", "luke", "john", "saul", "vicky", "kate", "julie", "sarah", "deiter", "walter"];
        const LAST: [&str; 9] =
            ["shultz", "abrams", "spencer", "white", "bartels", "walton", "smith", "jones", "noris"];
        const CITIES: [&str; 10] = [
            "phoenix",
            "los angeles",
            "san francisco",
            "boise",
            "portland",
            "bend",
            "redmond",
            "seattle",
            "kent",
            "cheyenne",
        ];
        const STATES: [&str; 6] = ["az", "ca", "id", "or", "wa", "wy"];
        self.numbers(&[(last_person(number) + FIRST_ID) as i64]);
        let mut one = |from: &[&'static str]| from[random.below(from.len() as u64) as usize];
        let (first, last, city, state) = (one(&FIRST), one(&LAST), one(&CITIES), one(&STATES));
        self.texts[0].append_value(format!("{first} {last}"));
        self.texts[1].append_value(format!("{first}{}@{last}.com", random.below(1000)));
        let mut digits = || 1000 + random.below(9000);
        self.texts[2].append_value(format!("{} {} {} {}", digits(), digits(), digits(), digits()));
        self.texts[3].append_value(city);
        self.texts[4].append_value(state);
        self.extra(5, 120, random);
        self.instants[0].append_value(at(number));
    }

    fn auction(&mut self, number: u64, random: &mut Seeded) {
        let hot = random.below(4) > 0;
        let seller = if hot { last_person(number) / HOT * HOT } else { any_person(number, random) };
        let initial = price(random);
        let reserve = initial + price(random);
        let category = FIRST_CATEGORY + random.below(CATEGORIES);
        self.numbers(&[
            (last_auction(number) + FIRST_ID) as i64,
            initial,
            reserve,
            (seller + FIRST_ID) as i64,
            category as i64,
        ]);
        self.letters(0, 20, random);
        self.letters(1, 100, random);
        self.extra(2, 332, random);
        let horizon = AUCTIONS_IN_FLIGHT * CYCLE / AUCTIONS * DELAY as u64 / 1000;
        let open = 1 + random.below(2 * horizon);
        self.instants[0].append_value(at(number));
        self.instants[1].append_value(at(number) + open as i64 * 1000);
    }

    fn bid(&mut self, number: u64, random: &mut Seeded) {
        static ADDRESSES: LazyLock<Vec<(String, String)>> = LazyLock::new(|| {
            (0..CHANNELS as u64)
                .map(|channel| {
                    let mut random = Seeded(channel + 1);
                    let mut part = || (0..4).map(|_| (b'a' + random.below(26) as u8) as char).collect::<String>();
                    let mut address =
                        format!("https://www.nexmark.com/{}/{}/{}/item.htm?query=1", part(), part(), part());
                    if channel % 10 > 0 {
                        address += &format!("&channel_id={}", (channel as u32).reverse_bits());
                    }
                    (format!("channel-{channel}"), address)
                })
                .collect()
        });
        const HOT_CHANNELS: [&str; 4] = ["Google", "Facebook", "Baidu", "Apple"];
        let last = last_auction(number);
        let auction = if random.below(2) > 0 {
            last / HOT * HOT
        } else {
            let least = last.saturating_sub(AUCTIONS_IN_FLIGHT);
            least + random.below(last - least + 1 + LEAD)
        };
        let hot = random.below(4) > 0;
        let bidder = if hot { last_person(number) / HOT * HOT + 1 } else { any_person(number, random) };
        self.numbers(&[(auction + FIRST_ID) as i64, (bidder + FIRST_ID) as i64, price(random)]);
        if random.below(2) > 0 {
            let channel = random.below(HOT_CHANNELS.len() as u64) as usize;
            self.texts[0].append_value(HOT_CHANNELS[channel]);
            self.texts[1].append_value(ADDRESSES[channel * 10].1.as_str());
        } else {
            let (channel, address) = &ADDRESSES[random.below(CHANNELS as u64) as usize];
            self.texts[0].append_value(channel);
            self.texts[1].append_value(address);
        }
        self.extra(2, 68, random);
        self.instants[0].append_value(at(number));
    }

    fn finish(mut self, kind: Kind) -> Result<RecordBatch> {
        let (mut numbers, mut texts, mut instants) =
            (self.numbers.iter_mut(), self.texts.iter_mut(), self.instants.iter_mut());
        let schema = kind.schema();
        let columns: Vec<ArrayRef> = schema
            .fields()
            .iter()
            .filter_map(|field| -> Option<ArrayRef> {
                Some(match field.data_type() {
                    DataType::Int64 => Arc::new(numbers.next()?.finish()),
                    DataType::Utf8 => Arc::new(texts.next()?.finish()),
                    _ => Arc::new(instants.next()?.finish()),
                })
            })
            .collect();
        Ok(RecordBatch::try_new(schema, columns)?)
    }
}
