//! The beacon on a real socket: what is acknowledged is in the log, and everything else is refused with a reason.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, AsArray};
use weir_connectors::sources::beacon::{
    BeaconInput, BeaconServer, BeaconSettings, EventLog, Origin, Refused, event_of_query,
};
use weir_environment::Environment;
use weir_journal::{Topic, TopicOptions};
use weir_pipeline::input::{Cursor, Input};

use super::memory::{Connection, MemoryLog};

async fn beacon_with(settings: BeaconSettings) -> (BeaconServer, Arc<MemoryLog>, Connection) {
    let log = Arc::new(MemoryLog::default());
    let inputs: BTreeMap<String, Arc<dyn EventLog>> = BTreeMap::from([("site".to_owned(), log.clone() as _)]);
    let clock = Environment::real().clock;
    let server = BeaconServer::start("127.0.0.1:0".parse().unwrap(), inputs, clock, settings).await.unwrap();
    let connection = Connection::open(server.address()).await;
    (server, log, connection)
}

async fn beacon() -> (BeaconServer, Arc<MemoryLog>, Connection) {
    beacon_with(BeaconSettings::default()).await
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn a_pixel_request_stores_its_parameters_and_answers_a_gif() {
    let (_server, log, mut connection) = beacon().await;
    let headers = "User-Agent: Test/1\r\nReferer: http://shop/\r\n";
    let reply = connection.send("GET /i/site?event=page+view&name=%C3%A9&tag=a&tag=b&bare", headers, b"").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), Some("image/gif"));
    assert!(reply.header("cache-control").unwrap().contains("no-store"));
    assert_eq!(reply.body.len(), 43);
    assert!(reply.body.starts_with(b"GIF89a\x01\x00\x01\x00"));
    assert_eq!(log.values(), [r#"{"event":"page view","name":"é","tag":["a","b"],"bare":""}"#]);
    let headers = log.state.lock().events[0].1.clone();
    let origin = Origin::decode(&headers);
    assert_eq!(origin.client_address, Some("127.0.0.1"));
    assert_eq!(origin.user_agent, Some("Test/1"));
    assert_eq!(origin.referer, Some("http://shop/"));
}

#[tokio::test]
async fn every_shape_of_body_is_cut_into_its_events() {
    let (_server, log, mut connection) = beacon().await;
    let json = "Content-Type: application/json\r\n";
    let text = "Content-Type: text/plain;charset=UTF-8\r\n";
    let lines = "Content-Type: application/x-ndjson\r\n";
    for (headers, body, count) in [
        (json, r#"{"a":1}"#, 1),
        (json, r#"[{"a":2},{"a":3}]"#, 2),
        (lines, "{\"a\":4}\n{\"a\":5}\r\n\n", 2),
        (text, r#"{"a":6}"#, 1),
        ("", r#"{"a":7}"#, 1),
        (json, "[]", 0),
    ] {
        let reply = connection.send("POST /events/site", headers, body.as_bytes()).await;
        assert_eq!((reply.status, &reply.json()["accepted"]), (200, &serde_json::json!(count)), "{body}");
    }
    let zipped = gzip(br#"{"a":8}"#);
    let reply = connection.send("POST /events/site", "Content-Encoding: gzip\r\n", &zipped).await;
    assert_eq!(reply.status, 200);
    let expected: Vec<String> = (1..=8).map(|number| format!("{{\"a\":{number}}}")).collect();
    assert_eq!(log.values(), expected);
}

#[tokio::test]
async fn a_broken_batch_is_refused_whole_and_says_where() {
    let (_server, log, mut connection) = beacon().await;
    for (body, position, line) in
        [("{\"a\":1}\n{\"a\":}\n{\"a\":3}", 13, 2), ("[{\"a\":1},3]", 9, 1), ("{\"a\":1} x", 8, 1)]
    {
        let reply = connection.send("POST /events/site", "", body.as_bytes()).await;
        assert_eq!(reply.status, 400, "{body}");
        let answer = reply.json();
        let found = answer["position"].as_u64().unwrap();
        assert!(found.abs_diff(position) <= 1, "{body}: {answer}");
        assert_eq!(answer["line"], line);
        assert!(!answer["error"].as_str().unwrap().is_empty());
    }
    let reply = connection.send("POST /events/site", "", b"{\"a\":\"\xff\"}").await;
    assert_eq!(reply.status, 400);
    let reply = connection.send("POST /events/site", "Content-Encoding: gzip\r\n", b"not gzip").await;
    assert_eq!(reply.status, 400);
    let reply = connection.send("GET /i/site?a=%zz", "", b"").await;
    assert_eq!((reply.status, reply.json()["position"].as_u64()), (400, Some(2)));
    let reply = connection.send("GET /i/site?a=%ff", "", b"").await;
    assert_eq!(reply.status, 400);
    assert!(log.values().is_empty());
}

#[tokio::test]
async fn deeply_nested_json_is_answered_and_stops_nothing() {
    let (_server, _log, mut connection) = beacon().await;
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let reply = connection.send("POST /events/site", "", deep.as_bytes()).await;
    assert!(reply.status == 200 || reply.status == 400, "{}", reply.status);
    let reply = connection.send("POST /events/site", "", b"{}").await;
    assert_eq!(reply.status, 200);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_its_own_status() {
    let settings = BeaconSettings { body_size_max: 1000, ..BeaconSettings::default() };
    let (server, log, mut connection) = beacon_with(settings).await;
    let reply = connection.send("POST /events/nowhere", "", b"{}").await;
    assert_eq!((reply.status, &reply.json()["inputs"]), (404, &serde_json::json!(["site"])));
    assert_eq!(connection.send("GET /i/nowhere?a=1", "", b"").await.status, 404);
    assert_eq!(connection.send("GET /", "", b"").await.status, 404);
    let reply = connection.send("GET /events/site", "", b"").await;
    assert_eq!((reply.status, reply.header("allow")), (405, Some("POST, OPTIONS")));
    assert_eq!(connection.send("POST /i/site", "", b"{}").await.status, 405);
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    assert_eq!(connection.send("POST /events/site", form, b"a=1").await.status, 415);
    let reply = connection.send("POST /events/site", "Content-Encoding: br\r\n", b"x").await;
    assert_eq!((reply.status, reply.header("accept-encoding")), (415, Some("gzip")));
    let bomb = gzip(&vec![b' '; 100_000]);
    let reply = connection.send("POST /events/site", "Content-Encoding: gzip\r\n", &bomb).await;
    assert_eq!(reply.status, 413);
    let mut fresh = Connection::open(server.address()).await;
    assert_eq!(fresh.send("POST /events/site", "", &[b' '; 1001]).await.status, 413);
    let mut fresh = Connection::open(server.address()).await;
    fresh.write(b"POST /events/site HTTP/1.1\r\nHost: beacon\r\n\r\n").await;
    assert_eq!(fresh.reply().await.status, 411);
    let mut fresh = Connection::open(server.address()).await;
    fresh.write(b"POST /events/site HTTP/1.1\r\nHost: beacon\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    fresh.write(format!("400\r\n{}\r\n", " ".repeat(1024)).as_bytes()).await;
    assert_eq!(fresh.reply().await.status, 413);
    let mut fresh = Connection::open(server.address()).await;
    fresh.write(b"POST /events/site HTTP/1.1\r\nHost: beacon\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    fresh.write(b"3\r\n{\"a\r\n4\r\n\":1}\r\n0\r\n\r\n").await;
    assert_eq!(fresh.reply().await.status, 200);
    assert_eq!(log.values(), [r#"{"a":1}"#]);
}

#[tokio::test]
async fn a_log_that_takes_nothing_is_answered_with_when_to_come_again() {
    let (_server, log, mut connection) = beacon().await;
    for (refusal, status, after) in [
        (Refused::Behind { retry_after: Duration::from_millis(1500) }, 429, "2"),
        (Refused::DiskFull, 503, "10"),
        (Refused::Failed("no sync".into()), 503, "10"),
        (Refused::Closed, 503, "10"),
    ] {
        log.state.lock().refuse = Some(refusal);
        for (start, body) in [("POST /events/site", &b"{}"[..]), ("GET /i/site?a=1", &b""[..])] {
            let reply = connection.send(start, "", body).await;
            assert_eq!((reply.status, reply.header("retry-after")), (status, Some(after)));
        }
    }
    log.state.lock().refuse = None;
    assert_eq!(connection.send("POST /events/site", "", b"{}").await.status, 200);
    assert_eq!(log.values(), ["{}"]);
}

#[tokio::test]
async fn no_answer_comes_before_the_events_are_durable() {
    let (server, log, mut connection) = beacon().await;
    log.state.lock().held = Some(Vec::new());
    connection.write(b"POST /events/site HTTP/1.1\r\nHost: beacon\r\nContent-Length: 2\r\n\r\n{}").await;
    while log.state.lock().held.as_ref().is_none_or(Vec::is_empty) {
        tokio::task::yield_now().await;
    }
    let mut other = Connection::open(server.address()).await;
    assert_eq!(other.send("GET /", "", b"").await.status, 404, "others are still answered");
    assert!(log.values().is_empty());
    let stopping = tokio::spawn(server.stop());
    log.let_go();
    assert_eq!(connection.reply().await.status, 200, "a request that has begun is finished when the beacon stops");
    stopping.await.unwrap();
    assert_eq!(log.values(), ["{}"]);
    assert!(connection.is_closed().await);
}

#[tokio::test]
async fn too_many_bytes_in_flight_are_answered_with_429() {
    let settings = BeaconSettings { in_flight_size_max: 10, ..BeaconSettings::default() };
    let (_server, _log, mut connection) = beacon_with(settings).await;
    let reply = connection.send("POST /events/site", "", br#"{"a":"12345678"}"#).await;
    assert_eq!((reply.status, reply.header("retry-after")), (429, Some("1")));
    let mut connection = Connection::open(_server.address()).await;
    assert_eq!(connection.send("POST /events/site", "", b"{}").await.status, 200, "the place was given back");
}

#[tokio::test]
async fn a_client_that_sends_nothing_is_let_go() {
    let settings = BeaconSettings {
        header_timeout: Duration::from_millis(50),
        body_timeout: Duration::from_millis(50),
        ..BeaconSettings::default()
    };
    let (server, _log, mut connection) = beacon_with(settings).await;
    connection.write(b"POST /eve").await;
    assert!(connection.is_closed().await);
    let mut connection = Connection::open(server.address()).await;
    connection.write(b"POST /events/site HTTP/1.1\r\nHost: beacon\r\nContent-Length: 9\r\n\r\n{").await;
    assert_eq!(connection.reply().await.status, 408);
}

#[tokio::test]
async fn pages_of_any_origin_may_send() {
    let (_server, _log, mut connection) = beacon().await;
    let reply = connection.send("OPTIONS /events/site", "Origin: http://shop\r\n", b"").await;
    assert_eq!(reply.status, 204);
    assert!(reply.header("access-control-allow-methods").unwrap().contains("POST"));
    let reply = connection.send("POST /events/site", "Origin: http://shop\r\n", b"{}").await;
    assert_eq!(reply.header("access-control-allow-origin"), Some("http://shop"));
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (_server, log, mut connection) = beacon().await;
    let one = "POST /events/site HTTP/1.1\r\nHost: beacon\r\nContent-Length: 7\r\n\r\n";
    connection.write(format!("{one}{{\"a\":1}}{one}{{\"a\":2}}").as_bytes()).await;
    assert_eq!(connection.reply().await.status, 200);
    assert_eq!(connection.reply().await.status, 200);
    assert_eq!(log.values(), [r#"{"a":1}"#, r#"{"a":2}"#]);
}

#[tokio::test]
async fn the_input_gives_what_is_durable_from_any_cursor() {
    let (_server, log, mut connection) = beacon().await;
    let input = BeaconInput::new(log.clone());
    let start = Cursor::default();
    let polled = input.poll(&start, 1000).await.unwrap();
    assert!(polled.chunks.is_empty() && polled.cursor == start && !polled.more);
    for number in 0..10 {
        let body = format!("[{{\"a\":{number}}},{{\"b\":{number}}}]");
        connection.send("POST /events/site", "User-Agent: Test/1\r\n", body.as_bytes()).await;
    }
    input.changed().await;
    let mut cursors = vec![start];
    let mut offsets = Vec::new();
    loop {
        let polled = input.poll(cursors.last().unwrap(), 30).await.unwrap();
        for chunk in &polled.chunks {
            assert_eq!(chunk.records.len(), chunk.offsets.len());
            assert_eq!(chunk.arrivals.len(), chunk.offsets.len());
            assert_eq!(chunk.attributes.columns.len(), 4);
            let (_, user_agents) = &chunk.attributes.columns[2];
            assert_eq!(user_agents.as_string::<i32>().value(0), "Test/1");
            assert_eq!(chunk.attributes.columns[3].1.null_count(), chunk.records.len());
            offsets.extend(chunk.offsets.iter().copied());
        }
        let more = polled.more;
        cursors.push(polled.cursor);
        if !more {
            break;
        }
    }
    assert_eq!(offsets, (0..20).collect::<Vec<u64>>());
    assert!(cursors.len() > 3);
    for pair in cursors.windows(2) {
        let once = input.poll(&pair[0], 30).await.unwrap();
        let again = input.poll(&pair[0], 30).await.unwrap();
        assert_eq!((&once.cursor, &again.cursor), (&pair[1], &pair[1]));
        assert_eq!(once.chunks[0].records.get(0), again.chunks[0].records.get(0));
    }
    input.release(&cursors[2]).await.unwrap();
    assert!(log.first_offset() > 0);
    assert!(input.poll(&cursors[1], 100).await.is_err(), "what was released cannot be read again");
    assert!(input.poll(&cursors[2], 100).await.is_ok());
}

#[test]
fn origins_survive_being_written_and_read() {
    let long = "é".repeat(5000);
    for origin in [
        Origin::default(),
        Origin { client_address: Some("::1"), user_agent: Some(""), referer: None },
        Origin { client_address: None, user_agent: None, referer: Some("http://x/?a=1") },
    ] {
        assert_eq!(Origin::decode(&origin.encode()), origin);
    }
    let encoded = Origin { user_agent: Some(&long), ..Origin::default() }.encode();
    assert_eq!(Origin::decode(&encoded).user_agent, Some(&long[..4096]));
    for cut in 0..encoded.len().min(20) {
        Origin::decode(&encoded[..cut]);
    }
}

#[test]
fn an_empty_query_is_an_empty_object() {
    assert_eq!(event_of_query("").unwrap(), "{}");
    assert_eq!(event_of_query("&&a=1&").unwrap(), r#"{"a":"1"}"#);
    assert_eq!(event_of_query("%22=%5C%00").unwrap(), r#"{"\"":"\\\u0000"}"#);
}

#[tokio::test]
async fn what_a_topic_of_the_journal_acknowledged_is_read_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let environment = Environment::real();
    let open = || Topic::open(&environment, folder.path().join("site"), TopicOptions::default()).unwrap();
    let topic = open();
    let inputs: BTreeMap<String, Arc<dyn EventLog>> = BTreeMap::from([("site".to_owned(), topic.clone() as _)]);
    let address = "127.0.0.1:0".parse().unwrap();
    let settings = BeaconSettings::default();
    let server = BeaconServer::start(address, inputs, environment.clock.clone(), settings).await.unwrap();
    let mut connection = Connection::open(server.address()).await;
    for number in 0..5 {
        let body = format!("[{{\"a\":{number}}},{{\"b\":{number}}}]");
        let reply = connection.send("POST /events/site", "User-Agent: Test/1\r\n", body.as_bytes()).await;
        assert_eq!(reply.status, 200);
    }
    server.stop().await;
    drop(topic);
    let input = BeaconInput::new(open());
    input.changed().await;
    let polled = input.poll(&Cursor::default(), 1 << 20).await.unwrap();
    let chunk = &polled.chunks[0];
    assert_eq!(chunk.offsets, (0..10).collect::<Vec<u64>>());
    assert_eq!(chunk.records.get(9), br#"{"b":4}"#);
    assert_eq!(chunk.attributes.columns[2].1.as_string::<i32>().value(9), "Test/1");
}

#[tokio::test]
async fn a_full_disk_under_the_topic_is_answered_with_503_until_there_is_room() {
    let (environment, simulator) = Environment::simulated(7);
    let options = TopicOptions { disk_reserve_bytes: 0, ..TopicOptions::default() };
    let topic = Topic::open(&environment, "/site", options).unwrap();
    let inputs: BTreeMap<String, Arc<dyn EventLog>> = BTreeMap::from([("site".to_owned(), topic.clone() as _)]);
    let address = "127.0.0.1:0".parse().unwrap();
    let settings = BeaconSettings::default();
    let server = BeaconServer::start(address, inputs, environment.clock.clone(), settings).await.unwrap();
    let mut connection = Connection::open(server.address()).await;
    simulator.set_capacity(Some(simulator.used_bytes() + 8));
    let reply = connection.send("POST /events/site", "", br#"{"a":1}"#).await;
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("10")));
    assert_eq!(topic.durable_end(), 0);
    simulator.set_capacity(None);
    assert_eq!(connection.send("POST /events/site", "", br#"{"a":2}"#).await.status, 200);
    assert_eq!(topic.durable_end(), 1);
}
