//! Nexmark: people, auctions and bids, and the queries of the published suite without those that need processing time.

use crate::coverage::{Part, says};
use crate::history::{Course, Table};
use crate::set::{prove, queries};
use arrow::array::{ArrayRef, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray};
use nexmark::EventGenerator;
use nexmark::config::NexmarkConfig;
use nexmark::event::{Auction, Bid, Event, Person};
use std::path::Path;
use std::sync::Arc;

#[test]
fn every_query_of_nexmark_is_kept() {
    let (events, epochs) = if crate::long() { (50_000, 10) } else { (5_000, 6) };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sets/queries/nexmark");
    let course = Course { seed: 2 + crate::seed(), epochs, whole: false };
    let verdicts = prove(&tables(events), &queries(&folder), course);
    assert!(verdicts.iter().filter(|verdict| matches!(verdict.result, Ok(rows) if rows > 0)).count() > 18);
    let about = "The queries of the published Nexmark suite over events of the crate `nexmark`, against DuckDB, without q12, whose \
                 windows are of processing time. Windows are written with `date_bin`, sessions with `lag` and a running sum.";
    says("Nexmark", Part::of(about, &verdicts));
}

/// 2026-01-01T00:00:00Z in milliseconds.
const START_MS: u64 = 1_767_225_600_000;

fn tables(events: usize) -> Vec<Table> {
    // Ten events a second, so that windows of ten seconds are many.
    let config = NexmarkConfig { base_time: START_MS, first_rate: 10, next_rate: 10, ..NexmarkConfig::default() };
    let (mut people, mut auctions, mut bids) = (Vec::new(), Vec::new(), Vec::new());
    for event in EventGenerator::new(config).take(events) {
        match event {
            Event::Person(person) => people.push(person),
            Event::Auction(auction) => auctions.push(auction),
            Event::Bid(bid) => bids.push(bid),
        }
    }
    let side: Vec<usize> = (0..100).collect();
    vec![
        table::<Person>(
            "person",
            &people,
            &[
                ("id", &|p| Value::Number(p.id)),
                ("name", &|p| Value::Text(&p.name)),
                ("email_address", &|p| Value::Text(&p.email_address)),
                ("credit_card", &|p| Value::Text(&p.credit_card)),
                ("city", &|p| Value::Text(&p.city)),
                ("state", &|p| Value::Text(&p.state)),
                ("date_time", &|p| Value::Instant(p.date_time)),
                ("extra", &|p| Value::Text(&p.extra)),
            ],
        ),
        table::<Auction>(
            "auction",
            &auctions,
            &[
                ("id", &|a| Value::Number(a.id)),
                ("item_name", &|a| Value::Text(&a.item_name)),
                ("description", &|a| Value::Text(&a.description)),
                ("initial_bid", &|a| Value::Number(a.initial_bid)),
                ("reserve", &|a| Value::Number(a.reserve)),
                ("date_time", &|a| Value::Instant(a.date_time)),
                ("expires", &|a| Value::Instant(a.expires)),
                ("seller", &|a| Value::Number(a.seller)),
                ("category", &|a| Value::Number(a.category)),
                ("extra", &|a| Value::Text(&a.extra)),
            ],
        ),
        table::<Bid>(
            "bid",
            &bids,
            &[
                ("auction", &|b| Value::Number(b.auction)),
                ("bidder", &|b| Value::Number(b.bidder)),
                ("price", &|b| Value::Number(b.price)),
                ("channel", &|b| Value::Text(&b.channel)),
                ("url", &|b| Value::Text(&b.url)),
                ("date_time", &|b| Value::Instant(b.date_time)),
                ("extra", &|b| Value::Text(&b.extra)),
            ],
        ),
        table::<usize>("side_input", &side, &[("key", &|n| Value::Number(*n)), ("value", &|n| Value::Number(n * n))]),
    ]
}

/// A value of an event.
enum Value<'a> {
    Number(usize),
    Text(&'a str),
    /// Milliseconds.
    Instant(u64),
}

type Getter<'f, T> = &'f dyn for<'a> Fn(&'a T) -> Value<'a>;

fn table<T>(name: &str, rows: &[T], columns: &[(&str, Getter<'_, T>)]) -> Table {
    let column = |get: Getter<'_, T>| -> ArrayRef {
        match get(rows.first().expect("events of each kind")) {
            Value::Number(_) => Arc::new(Int64Array::from_iter(rows.iter().map(|row| match get(row) {
                Value::Number(number) => Some(number as i64),
                _ => None,
            }))),
            Value::Text(_) => Arc::new(StringArray::from_iter(rows.iter().map(|row| match get(row) {
                Value::Text(text) => Some(text),
                _ => None,
            }))),
            Value::Instant(_) => {
                Arc::new(TimestampMicrosecondArray::from_iter(rows.iter().map(|row| match get(row) {
                    Value::Instant(ms) => Some(ms as i64 * 1000),
                    _ => None,
                })))
            }
        }
    };
    let columns = columns.iter().map(|(name, get)| (*name, column(*get), true));
    Table::new(name, RecordBatch::try_from_iter_with_nullable(columns).expect("columns of one length"))
}
