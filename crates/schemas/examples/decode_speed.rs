//! Measures the decoders on one core: JSON beside arrow-json, and access logs. Run with --release.

use std::fmt::Write;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arrow_json::ReaderBuilder;
use bytes::Bytes;
use weir_schemas::{
    AccessLogFormat, Attributes, Column, Contract, Format, JsonFormat, Records, UnknownFields, parse_sql_type,
    split_json_events,
};

const ROWS: usize = 200_000;

fn main() {
    let bids = bids();
    println!("{} bids of {} bytes", ROWS, bids.len() / ROWS);
    let contract = Contract::new(
        [
            ("auction", "BIGINT"),
            ("bidder", "BIGINT"),
            ("price", "BIGINT"),
            ("channel", "TEXT"),
            ("url", "TEXT"),
            ("dateTime", "TIMESTAMP"),
            ("extra", "TEXT"),
        ]
        .map(|(name, sql_type)| Column::new(name, parse_sql_type(sql_type).expect("a type of the table")))
        .into(),
        UnknownFields::Keep,
    );
    let decoder = JsonFormat.decoder(&contract);
    let schema = Arc::new(arrow::datatypes::Schema::new(decoder.schema().fields()[..7].to_vec()));
    let framed = frame(&JsonFormat, &bids);
    let chunks: Vec<Records> =
        framed.ranges.chunks(8192).map(|it| Records::new(bids_of(&bids, it), rebased(it))).collect();

    let framing = rate("frame lines", ROWS, bids.len(), || frame(&JsonFormat, &bids).len());
    let ours = rate("decode json", ROWS, bids.len(), || {
        chunks.iter().map(|chunk| decoder.decode(chunk, &Attributes::default()).batch.num_rows()).sum()
    });
    let theirs = rate("arrow-json", ROWS, bids.len(), || {
        let mut reader = ReaderBuilder::new(schema.clone()).with_batch_size(8192).build_decoder().expect("a schema");
        let (mut rows, mut at) = (0, 0);
        while at < bids.len() {
            at += reader.decode(&bids[at..]).expect("valid JSON");
            rows += reader.flush().expect("valid JSON").map_or(0, |batch| batch.num_rows());
        }
        rows
    });
    println!(
        "decode json is {:.2} times as fast as arrow-json; with framing {:.2}",
        ours / theirs,
        1.0 / (1.0 / ours + 1.0 / framing) / theirs
    );

    let bodies: Vec<Bytes> = framed
        .ranges
        .chunks(20)
        .map(|it| {
            let events: Vec<&str> = it
                .iter()
                .map(|(start, length)| {
                    std::str::from_utf8(&bids[*start as usize..(*start + *length) as usize]).expect("text")
                })
                .collect();
            format!("[{}]", events.join(",")).into()
        })
        .collect();
    rate("split bodies of 20", ROWS, bids.len(), || {
        bodies.iter().map(|body| split_json_events(body).expect("events").len()).sum()
    });
    rate("decode bodies of 20", ROWS, bids.len(), || {
        bodies
            .iter()
            .map(|body| decoder.decode(&split_json_events(body).expect("events"), &Attributes::default()).rows.len())
            .sum()
    });

    let log: Bytes = ACCESS_LINE.repeat(ROWS).into();
    let lines = frame(&AccessLogFormat, &log);
    let decoder = AccessLogFormat.decoder(&Contract::default());
    rate("decode access log", ROWS, log.len(), || decoder.decode(&lines, &Attributes::default()).rows.len());
}

const ACCESS_LINE: &str = "83.149.9.216 - - [17/May/2015:10:05:03 +0000] \"GET /presentations/logstash-monitorama-2013/images/kibana-search.png HTTP/1.1\" 200 203023 \"http://semicomplete.com/presentations/logstash-monitorama-2013/\" \"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_9_1) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/32.0.1700.77 Safari/537.36\"\n";

fn bids_of(bids: &Bytes, ranges: &[(u32, u32)]) -> Bytes {
    let end = ranges[ranges.len() - 1];
    bids.slice(ranges[0].0 as usize..(end.0 + end.1) as usize)
}

fn rebased(ranges: &[(u32, u32)]) -> Vec<(u32, u32)> {
    ranges.iter().map(|(start, length)| (start - ranges[0].0, *length)).collect()
}

fn frame(format: &dyn Format, bytes: &Bytes) -> Records {
    format.framer(None).frame(bytes, true).0
}

/// Bids as the Nexmark benchmark has them.
fn bids() -> Bytes {
    let mut text = String::new();
    let mut state = 42_u64;
    let mut next = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    for row in 0..ROWS {
        let micros = 1_700_000_000_000_000 + row as i64 * 100;
        let time = chrono::DateTime::from_timestamp_micros(micros).expect("a time").format("%Y-%m-%dT%H:%M:%S%.3fZ");
        let extra = "abcdefghijklmnopqrstuvwxyz".repeat(3);
        let _ = writeln!(
            text,
            "{{\"auction\":{},\"bidder\":{},\"price\":{},\"channel\":\"channel-{}\",\"url\":\"https://www.nexmark.com/abo/xyq/item.htm?query=1&channel_id={}\",\"dateTime\":\"{time}\",\"extra\":\"{}\"}}",
            next(10_000),
            next(100_000),
            next(1_000_000),
            next(10_000),
            next(1 << 30),
            &extra[..40 + next(30) as usize],
        );
    }
    text.into()
}

/// Rows a second of `work`, the best of several turns.
fn rate(name: &str, rows: usize, bytes: usize, mut work: impl FnMut() -> usize) -> f64 {
    let mut best = Duration::MAX;
    for _ in 0..7 {
        let start = Instant::now();
        assert_eq!(black_box(work()), rows, "{name} reads every row");
        best = best.min(start.elapsed());
    }
    let rate = rows as f64 / best.as_secs_f64();
    println!("{name:>20}: {:6.2} M rows/s, {:5.0} MB/s", rate / 1e6, bytes as f64 / best.as_secs_f64() / 1e6);
    rate
}
