//! Every reader of outside bytes under seeded mutations of valid inputs: no panic, no runaway memory, every record answered
//! for. `WEIR_FUZZ_RUNS` inputs a reader (500 by default), from `WEIR_FUZZ_SEED`.

mod memory;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::sync::Arc;

use flate2::Compression;
use flate2::write::GzEncoder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_fuzzing::mutate::mutate;
use weir_fuzzing::{beacon, folder, formats, segments};

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// Calls `read` with mutations of `valid`. Memory may grow by some MiB, and by a small multiple of the input.
fn each(what: &str, valid: &[u8], share: u64, mut read: impl FnMut(&[u8], &mut StdRng)) {
    let runs = (setting("WEIR_FUZZ_RUNS", 500) / share).max(1);
    let first = setting("WEIR_FUZZ_SEED", 1) << 32;
    for seed in first..first + runs {
        let mut random = StdRng::seed_from_u64(seed);
        let mut bytes = valid.to_vec();
        mutate(&mut bytes, &mut random);
        let bound = (64 << 20) + 512 * bytes.len();
        let grown = memory::growth_of(|| read(&bytes, &mut random));
        assert!(grown < bound, "{what}, seed {seed}: {grown} bytes of memory for {} bytes", bytes.len());
    }
}

#[test]
fn segments_of_any_bytes_are_read_refused_or_cut_off() {
    for kind in segments::KINDS {
        let valid = segments::valid(kind);
        segments::read(kind, &valid);
        each(&format!("{kind:?}"), &valid, 1, |bytes, _| segments::read(kind, bytes));
    }
}

#[test]
fn every_record_of_any_bytes_is_answered_for_in_every_format() {
    for name in formats::names() {
        formats::read(name, formats::valid(name), 7);
        each(name, formats::valid(name), 1, |bytes, random| {
            // Pieces must not be so small that a long input is framed over and over.
            let piece = random.random_range(1..200).max(bytes.len() / 50);
            formats::read(name, bytes, piece);
        });
    }
}

const BODY: &[u8] = b"[{\"a\":1,\"b\":\"x\\u00e9\"},{\"c\":[1,{\"d\":null}]}]";
const QUERY: &[u8] = b"id=1&name=Zo%C3%AB&name=other&empty=&=x&a+b=c%2Bd";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes).expect("memory takes every write");
    encoder.finish().expect("memory takes every write")
}

#[test]
fn what_a_beacon_is_sent_is_taken_or_refused() {
    each("a body", BODY, 1, |bytes, _| beacon::body(bytes, false));
    each("a packed body", &gzip(BODY), 1, |bytes, _| beacon::body(bytes, true));
    let mut bomb = GzEncoder::new(Vec::new(), Compression::default());
    for _ in 0..100 {
        bomb.write_all(&[b'['; 1 << 20]).expect("memory takes every write");
    }
    let bomb = bomb.finish().expect("memory takes every write");
    each("a bomb", &bomb, 20, |bytes, _| beacon::body(bytes, true));
    each("a query", QUERY, 1, |bytes, _| beacon::query(&String::from_utf8_lossy(bytes)));
    each("headers", b"\x03\x00abc\xff\xff\x02\x00xy", 1, |bytes, _| beacon::headers(bytes));
}

#[test]
fn a_query_string_of_very_many_names_is_one_event() {
    // Names were compared with all before them: the longest request that is let in took half a minute.
    let query: String = (0..400_000).map(|number| format!("{number}&")).collect();
    beacon::query(&query);
}

#[test]
fn a_folder_with_any_file_is_a_project_or_has_mistakes() {
    let place = tempfile::tempdir().expect("a folder");
    folder::write(place.path()).expect("written");
    for (file, (name, valid)) in folder::FILES.iter().enumerate() {
        folder::read(place.path(), file, valid.as_bytes()).expect("the disk works");
        each(name, valid.as_bytes(), 5, |bytes, _| {
            folder::read(place.path(), file, bytes).expect("the disk works");
        });
    }
}

/// Requests as they are on the wire.
const REQUESTS: [&str; 4] = [
    "POST /events/site HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{\"a\":1}",
    "GET /i/site?id=1&name=x HTTP/1.1\r\nHost: a\r\nUser-Agent: b\r\nReferer: c\r\n\r\n",
    "POST /events/site HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n{\"a\":1}\r\n0\r\n\r\n",
    "OPTIONS /events/site HTTP/1.1\r\nHost: a\r\nOrigin: http://b\r\nAccess-Control-Request-Method: POST\r\n\r\n",
];

/// One that is answered, and whose connection is closed then.
const VALID: &str = "POST /events/site HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 7\r\n\r\n{\"a\":1}";

#[test]
fn a_beacon_that_is_sent_any_bytes_goes_on_answering() {
    use weir_connectors::sources::beacon::{BeaconServer, BeaconSettings, EventLog};
    use weir_environment::Environment;
    use weir_journal::{Topic, TopicOptions};
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let (environment, _) = Environment::simulated(1);
    let options = TopicOptions { disk_reserve_bytes: 0, ..TopicOptions::default() };
    let topic = Topic::open(&environment, "/site", options).expect("opens");
    let inputs = BTreeMap::from([("site".to_owned(), topic.clone() as Arc<dyn EventLog>)]);
    let address = "127.0.0.1:0".parse().expect("an address");
    let clock = Environment::real().clock;
    let server =
        runtime.block_on(BeaconServer::start(address, inputs, clock, BeaconSettings::default())).expect("it listens");
    let send = |bytes: &[u8], ends: bool| {
        let mut connection = std::net::TcpStream::connect(server.address()).expect("it takes connections");
        // It may hang up before it has read all, and then there may be no answer.
        let _ = connection.write_all(bytes);
        if ends {
            let _ = connection.shutdown(std::net::Shutdown::Write);
        }
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer);
        answer
    };
    for request in REQUESTS {
        each("a request", request.as_bytes(), 10, |bytes, _| {
            let answer = send(bytes, true);
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1."), "{:?}", String::from_utf8_lossy(&answer));
        });
        let before = topic.durable_end();
        assert!(send(VALID.as_bytes(), false).starts_with(b"HTTP/1.1 200"), "it still answers");
        assert_eq!(topic.durable_end(), before + 1);
    }
    runtime.block_on(server.stop());
}
