//! The server on a real socket, before a backend of a few rows.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{
    ArrayRef, AsArray, BooleanArray, Decimal128Array, Int64Array, ListArray, RecordBatch, StringArray,
    TimestampMicrosecondArray,
};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef, TimeUnit};
use async_trait::async_trait;
use futures::{StreamExt, stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_server::client::Client;
use weir_server::{
    Access, Attachment, Backend, Control, Encoding, Failure, FailureKind, KeyColumn, Lookup, Place, QueryAnswer,
    QueryLimits, Server, ServerSettings,
};

struct Few;

fn batch(ids: &[i64]) -> RecordBatch {
    let names: StringArray = ids.iter().map(|id| (id % 2 == 1).then(|| format!("n\"{id}"))).collect();
    let times = TimestampMicrosecondArray::from(vec![1_700_000_000_123_456; ids.len()]).with_timezone("UTC");
    let prices = Decimal128Array::from(vec![12_345; ids.len()]).with_precision_and_scale(10, 2).unwrap();
    let tags = ListArray::from_iter_primitive::<Int64Type, _, _>(ids.iter().map(|id| Some(vec![Some(*id), None])));
    RecordBatch::try_from_iter_with_nullable([
        ("id", Arc::new(Int64Array::from(ids.to_vec())) as ArrayRef, false),
        ("name", Arc::new(names) as ArrayRef, true),
        ("at", Arc::new(times) as ArrayRef, true),
        ("price", Arc::new(prices) as ArrayRef, true),
        ("ok", Arc::new(BooleanArray::from(vec![true; ids.len()])) as ArrayRef, true),
        ("tags", Arc::new(tags) as ArrayRef, true),
    ])
    .unwrap()
}

fn failure(kind: FailureKind, message: &str) -> Failure {
    Failure::new(kind, message)
}

#[async_trait]
impl Backend for Few {
    async fn query(&self, sql: &str, _limits: &QueryLimits) -> Result<QueryAnswer, Failure> {
        let schema: SchemaRef = batch(&[1]).schema();
        let batches = match sql {
            "rows" => vec![Ok(batch(&[1, 2])), Ok(batch(&[3]))],
            "none" => vec![],
            "early" => vec![Err(failure(FailureKind::Limit, "no memory"))],
            "late" => vec![Ok(batch(&[1])), Err(failure(FailureKind::Internal, "broke"))],
            "for ever" => {
                let endless = stream::iter([Ok(batch(&[1]))]).chain(stream::pending());
                return Ok(QueryAnswer { epoch: 7, schema, batches: Box::pin(endless) });
            }
            "hangs" => std::future::pending().await,
            _ => {
                let mistake = Failure {
                    place: Some(Place { line: 1, column: 8 }),
                    hint: Some("try `id`".into()),
                    ..failure(FailureKind::Request, "no column `ib`")
                };
                return Err(mistake);
            }
        };
        Ok(QueryAnswer { epoch: 7, schema, batches: Box::pin(stream::iter(batches)) })
    }

    fn key(&self, table: &str) -> Result<Vec<KeyColumn>, Failure> {
        let column = |name: &str, data_type| KeyColumn { name: name.into(), data_type };
        match table {
            "by_id" => Ok(vec![column("id", DataType::Int64)]),
            "finance.by_day" => Ok(vec![
                column("day", DataType::Date32),
                column("name", DataType::Utf8),
                column("at", DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))),
            ]),
            "stream" => Err(failure(FailureKind::Conflict, "`stream` has no key")),
            _ => Err(failure(FailureKind::NotFound, "there is no such relation")),
        }
    }

    fn lookup(&self, table: &str, key: &[ArrayRef]) -> Result<Lookup, Failure> {
        let row = match table {
            "by_id" => {
                let id = key[0].as_primitive::<Int64Type>().value(0);
                (id < 10).then(|| batch(&[id]))
            }
            _ => {
                let text = arrow::util::display::array_value_to_string(&key[0], 0).unwrap();
                let name = key[1].as_string::<i32>().value(0).to_owned();
                let schema = Schema::new(vec![Field::new("k", DataType::Utf8, true)]);
                let column: ArrayRef = Arc::new(StringArray::from(vec![format!("{text}|{name}")]));
                Some(RecordBatch::try_new(Arc::new(schema), vec![column]).unwrap())
            }
        };
        Ok(Lookup { epoch: 9, row })
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({ "epoch": 9 })
    }

    fn ready(&self) -> Result<(), String> {
        Err("recovering".into())
    }

    async fn verify(&self, models: &[String]) -> Result<serde_json::Value, Failure> {
        Ok(serde_json::json!({ "same": true, "models": models }))
    }

    async fn control(&self, order: Control) -> Result<serde_json::Value, Failure> {
        Ok(serde_json::json!({ "done": order }))
    }
}

async fn server_with(settings: ServerSettings) -> Server {
    Server::start("127.0.0.1:0".parse().unwrap(), Arc::new(Few), settings).await.unwrap()
}

async fn server() -> Server {
    server_with(ServerSettings::default()).await
}

struct Reply {
    status: u16,
    headers: String,
    body: String,
}

impl Reply {
    fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

/// Sends a request as written and reads until the server closes.
async fn ask(address: SocketAddr, start: &str, headers: &str, body: &str) -> Reply {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let host = if headers.contains("Host:") { String::new() } else { format!("Host: {address}\r\n") };
    let length = body.len();
    let request =
        format!("{start} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes);
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("an answer within 20 s").unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (headers, body) = text.split_once("\r\n\r\n").unwrap();
    let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
    let body = match headers.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        true => unchunked(body),
        false => body.to_owned(),
    };
    Reply { status, headers: headers.to_ascii_lowercase(), body }
}

fn unchunked(mut text: &str) -> String {
    let mut plain = String::new();
    while let Some((size, rest)) = text.split_once("\r\n") {
        let size = usize::from_str_radix(size, 16).unwrap();
        plain.push_str(&rest[..size]);
        text = rest[size..].trim_start_matches("\r\n");
    }
    plain
}

const JSON: &str = "Content-Type: application/json\r\n";

async fn query(address: SocketAddr, sql: &str, accept: &str) -> Reply {
    let body = serde_json::json!({ "sql": sql }).to_string();
    ask(address, "POST /query", &format!("{JSON}Accept: {accept}\r\n"), &body).await
}

#[tokio::test]
async fn a_query_is_answered_as_json() {
    let server = server().await;
    let reply = query(server.attachment().address, "rows", "*/*").await;
    assert_eq!(reply.status, 200);
    assert!(reply.headers.contains("weir-epoch: 7"));
    let answer = reply.json();
    assert_eq!(answer["epoch"], 7);
    assert_eq!(answer["columns"][0], serde_json::json!({ "name": "id", "type": "Int64" }));
    let rows = answer["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 3);
    assert_eq!(rows[0]["name"], "n\"1");
    assert_eq!(rows[1]["name"], serde_json::Value::Null);
    assert_eq!(rows[2]["tags"], serde_json::json!([3, null]));
    assert!(rows[0]["at"].as_str().unwrap().starts_with("2023-11-14T22:13:20.123456"));
    let none = query(server.attachment().address, "none", "application/json").await.json();
    assert_eq!((&none["rows"], none["columns"].as_array().unwrap().len()), (&serde_json::json!([]), 6));
}

#[tokio::test]
async fn a_query_is_answered_as_csv() {
    let server = server().await;
    let reply = query(server.attachment().address, "rows", "text/csv").await;
    let lines: Vec<&str> = reply.body.lines().collect();
    assert_eq!(lines[0], "id,name,at,price,ok,tags");
    assert_eq!(lines.len(), 4);
    assert!(lines[1].starts_with("1,\"n\"\"1\",2023-11-14T22:13:20.123456Z,123.45,true,"), "{}", lines[1]);
    assert!(lines[3].ends_with("\"[3,null]\""), "{}", lines[3]);
    let none = query(server.attachment().address, "none", "text/csv").await;
    assert_eq!(none.body.trim_end(), "id,name,at,price,ok,tags");
}

#[tokio::test]
async fn a_query_that_fails_says_why_and_where() {
    let server = server().await;
    let address = server.attachment().address;
    let reply = query(address, "wrong", "*/*").await;
    let error = &reply.json()["error"];
    assert_eq!((reply.status, &error["kind"]), (400, &serde_json::json!("request")));
    assert_eq!(error["place"], serde_json::json!({ "line": 1, "column": 8 }));
    assert_eq!(error["hint"], "try `id`");
    assert_eq!(query(address, "early", "*/*").await.status, 422);
    let late = query(address, "late", "*/*").await;
    assert_eq!((late.status, &late.json()["error"]["message"]), (200, &serde_json::json!("broke")));
    let json = "Content-Type: text/plain\r\n";
    assert_eq!(ask(address, "POST /query", json, "{\"sql\":\"rows\"}").await.status, 415);
    assert_eq!(ask(address, "POST /query", JSON, "{\"sq\":\"rows\"}").await.status, 400);
    assert_eq!(query(address, "rows", "image/png").await.status, 406);
    let reply = ask(address, "GET /query", "", "").await;
    assert_eq!(reply.status, 405);
    assert!(reply.headers.contains("allow: post"));
    assert_eq!(ask(address, "GET /nowhere", "", "").await.status, 404);
    assert_eq!(ask(address, "POST /query", JSON, &" ".repeat(2 << 20)).await.status, 413);
}

#[tokio::test]
async fn limits_of_time_rows_and_number_hold() {
    let limits = QueryLimits { time_max: Duration::from_millis(50), rows_max: 2, ..QueryLimits::default() };
    let server = server_with(ServerSettings { limits, queries_max: 1, ..ServerSettings::default() }).await;
    let address = server.attachment().address;
    let reply = query(address, "hangs", "*/*").await;
    assert_eq!((reply.status, &reply.json()["error"]["kind"]), (422, &serde_json::json!("limit")));
    let reply = query(address, "for ever", "*/*").await;
    assert_eq!(reply.json()["error"]["kind"], "limit");
    let reply = query(address, "rows", "*/*").await;
    assert!(reply.json()["error"]["message"].as_str().unwrap().contains("more than 2 rows"));

    let server = server_with(ServerSettings { queries_max: 1, ..ServerSettings::default() }).await;
    let address = server.attachment().address;
    let mut held = TcpStream::connect(address).await.unwrap();
    let body = "{\"sql\":\"for ever\"}";
    let request =
        format!("POST /query HTTP/1.1\r\nHost: {address}\r\n{JSON}Content-Length: {}\r\n\r\n{body}", body.len());
    held.write_all(request.as_bytes()).await.unwrap();
    held.read_exact(&mut [0; 12]).await.unwrap();
    let reply = query(address, "rows", "*/*").await;
    assert_eq!(reply.status, 429);
    assert!(reply.headers.contains("retry-after: 1"));
}

#[tokio::test]
async fn a_row_is_found_by_its_key() {
    let server = server().await;
    let address = server.attachment().address;
    let reply = ask(address, "GET /tables/by_id/3", "", "").await;
    assert_eq!((reply.status, &reply.json()["id"]), (200, &serde_json::json!(3)));
    assert!(reply.headers.contains("weir-epoch: 9"));
    let reply = ask(address, "GET /tables/finance.by_day/2024-02-29/a%2Fb%20%C3%A9/2024-02-29T00:00:00Z", "", "").await;
    assert_eq!(reply.json()["k"], "2024-02-29|a/b é");
    for (path, status) in [
        ("/tables/by_id/99", 404),
        ("/tables/by_id/x", 400),
        ("/tables/by_id/1/2", 400),
        ("/tables/by_id/%zz", 400),
        ("/tables/by_id", 400),
        ("/tables/nowhere/1", 404),
        ("/tables/stream/1", 409),
    ] {
        let reply = ask(address, &format!("GET {path}"), "", "").await;
        assert_eq!(reply.status, status, "{path}");
        assert!(!reply.json()["error"]["message"].as_str().unwrap().is_empty());
    }
}

#[tokio::test]
async fn pages_of_others_are_turned_away() {
    let access = Access { hosts: vec!["weir.internal".into()], origins: vec!["https://reports.example".into()] };
    let server = server_with(ServerSettings { access, ..ServerSettings::default() }).await;
    let address = server.attachment().address;
    let port = address.port();
    for (headers, status) in [
        (format!("Host: 127.0.0.1:{port}\r\n"), 200),
        (format!("Host: localhost:{port}\r\n"), 200),
        (format!("Host: [::1]:{port}\r\n"), 200),
        ("Host: weir.internal\r\n".to_owned(), 200),
        (format!("Host: evil.example:{port}\r\n"), 403),
        ("Host: 127.0.0.1.evil.example\r\n".to_owned(), 403),
        (format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n"), 200),
        (format!("Host: localhost:{port}\r\nOrigin: https://reports.example\r\n"), 200),
        (format!("Host: localhost:{port}\r\nOrigin: http://evil.example\r\n"), 403),
        (format!("Host: localhost:{port}\r\nOrigin: null\r\n"), 403),
    ] {
        assert_eq!(ask(address, "GET /status", &headers, "").await.status, status, "{headers}");
    }
}

#[tokio::test]
async fn orders_need_the_token() {
    let server = server().await;
    let address = server.attachment().address;
    let stop = "{\"order\":\"stop\"}";
    assert_eq!(ask(address, "POST /control", JSON, stop).await.status, 401);
    let wrong = format!("{JSON}Authorization: Bearer {}\r\n", "0".repeat(64));
    assert_eq!(ask(address, "POST /control", &wrong, stop).await.status, 401);
    assert_eq!(ask(address, "POST /verify", JSON, "{}").await.status, 401);
    let right = format!("{JSON}Authorization: Bearer {}\r\n", server.attachment().token);
    assert_eq!(ask(address, "POST /control", &right, stop).await.json()["done"]["order"], "stop");
    assert_eq!(ask(address, "POST /control", &right, "{\"order\":\"dance\"}").await.status, 400);
    assert_eq!(ask(address, "GET /health/live", "", "").await.status, 200);
    let reply = ask(address, "GET /health/ready", "", "").await;
    assert_eq!((reply.status, &reply.json()["error"]), (503, &serde_json::json!("recovering")));
}

#[tokio::test]
async fn a_command_attaches_by_the_file_in_the_project() {
    let project = tempfile::tempdir().unwrap();
    std::fs::create_dir(project.path().join(".weir")).unwrap();
    assert!(Client::attach(project.path()).await.unwrap().is_none());
    let server = server().await;
    server.attachment().write(project.path()).unwrap();
    server.attachment().write(project.path()).unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(Attachment::path(project.path())).unwrap());
    assert_eq!(mode & 0o777, 0o600);
    let client = Client::attach(project.path()).await.unwrap().unwrap();
    assert_eq!(client.status().await.unwrap()["epoch"], 9);
    assert_eq!(client.verify(&["a".into()]).await.unwrap()["models"][0], "a");
    let order = Control::Backfill { model: "m".into() };
    assert_eq!(client.control(&order).await.unwrap()["done"]["model"], "m");
    let answer = client.query("rows", Encoding::Arrow).await.unwrap();
    assert_eq!(answer.epoch, Some(7));
    let bytes = answer.bytes().await.unwrap();
    let reader = arrow::ipc::reader::StreamReader::try_new(&bytes[..], None).unwrap();
    let batches: Vec<RecordBatch> = reader.map(Result::unwrap).collect();
    assert_eq!(batches, [batch(&[1, 2]), batch(&[3])]);
    let failure = client.query("wrong", Encoding::Json).await.unwrap_err();
    assert_eq!((failure.kind, failure.place), (FailureKind::Request, Some(Place { line: 1, column: 8 })));
    let broken = match client.query("late", Encoding::Arrow).await {
        Ok(answer) => answer.bytes().await.unwrap_err(),
        Err(failure) => failure,
    };
    assert_eq!(broken.kind, FailureKind::Unavailable);
    let attachment = server.attachment().clone();
    server.stop().await;
    assert!(Client::attach(project.path()).await.unwrap().is_none(), "a file left behind misleads nobody");
    attachment.remove(project.path()).unwrap();
    assert!(!Attachment::path(project.path()).exists());
}
