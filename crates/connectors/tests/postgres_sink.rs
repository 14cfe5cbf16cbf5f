//! What is peculiar to PostgreSQL: types, tables that are there already, servers that go away, readers meanwhile.

mod common;

use std::sync::Arc;

use arrow::array::RecordBatch;
use common::postgres::PostgresServer;
use common::{delta, every_type, rows, rows_schema};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use futures::StreamExt;
use weir_connectors::sinks::postgres::PostgresSink;
use weir_incremental::Delta;
use weir_pipeline::sink::{Feed, Sink, SinkError};

fn feed(batch: &RecordBatch, key: &[&str], version: &str) -> Feed {
    Feed {
        relation: "visits".into(),
        schema: batch.schema(),
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        append_only: false,
        version: version.to_owned(),
        earlier: Vec::new(),
    }
}

fn keyed(server: &PostgresServer) -> PostgresSink {
    let feed = feed(&RecordBatch::new_empty(rows_schema()), &["id"], "v1");
    PostgresSink::new("visits", &server.url(), "visits", feed).unwrap()
}

fn stream(batches: Vec<RecordBatch>) -> SendableRecordBatchStream {
    let schema = batches[0].schema();
    Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(batches.into_iter().map(Ok))))
}

/// One column of the table as text, by id.
async fn texts(client: &tokio_postgres::Client, column: &str) -> Vec<String> {
    let sql = format!("SELECT coalesce(({column})::text, 'NULL') FROM visits ORDER BY id");
    client.query(&sql, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn every_type_arrives_as_its_postgresql_counterpart() {
    let server = PostgresServer::start();
    let client = server.client().await;
    client.batch_execute("SET TIME ZONE 'UTC'").await.unwrap();
    let all = every_type();
    for key in [&["id"][..], &[]] {
        let mut sink = PostgresSink::new("visits", &server.url(), "visits", feed(&all, key, "v1")).unwrap();
        sink.apply(1, &Delta::inserts(all.clone())).await.unwrap();
        let expected = [
            ("flag", ["true", "false", "true", "NULL"]),
            ("tiny", ["-128", "0", "127", "NULL"]),
            ("small", ["-32768", "0", "32767", "NULL"]),
            ("medium", ["-2147483648", "0", "2147483647", "NULL"]),
            ("big", ["-9223372036854775808", "0", "9223372036854775807", "NULL"]),
            ("single", ["NaN", "-0", "3.4028235e+38", "NULL"]),
            ("double", ["Infinity", "NaN", "0.1", "NULL"]),
            ("price", ["-1.2345", "0.0000", "9999999999999999.9999", "NULL"]),
            ("name", ["plain", "", "naïve ☃ \u{1F600}", "NULL"]),
            ("blob", ["\\x00ff", "\\x", "\\x616263", "NULL"]),
            ("day", ["1970-01-01", "0001-01-01", "2024-10-04", "NULL"]),
            ("local", ["2023-11-14 22:13:20.123456", "1970-01-01 00:00:00", "0001-01-01 00:00:00", "NULL"]),
            ("instant", ["2023-11-14 22:13:20.123456+00", "1970-01-01 00:00:00+00", "0001-01-01 00:00:00+00", "NULL"]),
            ("list", ["[1, null]", "[]", "[3, 4]", "NULL"]),
            ("struct->'a'", ["1", "null", "3", "NULL"]),
            ("map", ["{\"x\": 1.5, \"y\": null}", "{}", "{\"z\": -2.0}", "NULL"]),
        ];
        for (column, values) in expected {
            assert_eq!(texts(&client, column).await, values, "{column}, key {key:?}");
        }
        // Taken back row by row, whatever the types.
        let back = Delta::new(all.clone(), vec![-1; 4].into());
        sink.apply(2, &back).await.unwrap();
        assert!(texts(&client, "id").await.is_empty(), "key {key:?}");
        client.batch_execute("DROP TABLE visits; DELETE FROM weir_sinks").await.unwrap();
    }
}

#[tokio::test]
async fn a_table_of_another_shape_is_refused_with_the_differences() {
    let server = PostgresServer::start();
    let client = server.client().await;
    client.batch_execute("CREATE TABLE visits (id text, amount bigint, owner text NOT NULL)").await.unwrap();
    let error = keyed(&server).apply(1, &delta(&[(1, "a", None, 1)])).await.unwrap_err();
    let SinkError::Refused(message) = error else { panic!("{error}") };
    for part in [
        "column `id` is text, wanted is bigint",
        "column `name` text is missing",
        "column `owner` must not be NULL",
        "no PRIMARY KEY or unique index on (\"id\")",
    ] {
        assert!(message.contains(part), "{part}: {message}");
    }
    let error = keyed(&server).reload(1, stream(vec![rows(&[])])).await.unwrap_err();
    assert!(matches!(error, SinkError::Refused(_)), "{error}");
}

#[tokio::test]
async fn a_reload_keeps_what_people_put_on_the_table_and_does_not_wait_for_readers() {
    let server = PostgresServer::start();
    let mut client = server.client().await;
    client
        .batch_execute(
            "CREATE ROLE analyst; \
             CREATE TABLE visits (id bigint UNIQUE, name varchar, amount bigint, noted timestamptz DEFAULT now()); \
             CREATE VIEW seen AS SELECT name FROM visits; GRANT SELECT ON visits TO analyst",
        )
        .await
        .unwrap();
    let mut sink = keyed(&server);
    sink.apply(1, &delta(&[(1, "a", None, 1), (2, "b", Some(2), 1)])).await.unwrap();
    let reader = client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
    let reader = reader.start().await.unwrap();
    let count = "SELECT count(*) FROM seen";
    assert_eq!(reader.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 2);
    sink.reload(5, stream(vec![rows(&[(2, "b", Some(2))]), rows(&[(3, "c", None), (4, "d", None)])])).await.unwrap();
    assert_eq!(reader.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 2, "an open reader keeps its epoch");
    reader.commit().await.unwrap();
    assert_eq!(texts(&client, "name").await, ["b", "c", "d"]);
    assert_eq!(client.query_one(count, &[]).await.unwrap().get::<_, i64>(0), 3);
    let granted = client.query_one("SELECT has_table_privilege('analyst', 'visits', 'SELECT')", &[]).await.unwrap();
    assert!(granted.get::<_, bool>(0));
    let left = client.query_one("SELECT to_regclass('visits__weir_new') IS NULL", &[]).await.unwrap();
    assert!(left.get::<_, bool>(0), "nothing is left beside");
}

#[tokio::test]
async fn a_table_of_weirs_own_follows_the_relations_shape_on_reload() {
    let server = PostgresServer::start();
    let client = server.client().await;
    keyed(&server).apply(1, &delta(&[(1, "a", None, 1)])).await.unwrap();
    let all = every_type();
    for version in ["v2", "v3"] {
        let feed = feed(&all, &["id"], version);
        let mut sink = PostgresSink::new("visits", &server.url(), "visits", feed).unwrap();
        assert_eq!(sink.cursor().await.unwrap(), None);
        sink.reload(2, stream(vec![all.clone()])).await.unwrap();
        assert_eq!(sink.cursor().await.unwrap(), Some(2));
        assert_eq!(texts(&client, "tiny").await, ["-128", "0", "127", "NULL"]);
        sink.apply(3, &Delta::inserts(all.slice(0, 1))).await.unwrap();
    }
}

#[tokio::test]
async fn a_value_that_must_be_unique_moves_from_one_key_to_another() {
    let server = PostgresServer::start();
    let client = server.client().await;
    let create = "CREATE TABLE visits (id bigint PRIMARY KEY, name text UNIQUE, amount bigint)";
    client.batch_execute(create).await.unwrap();
    let mut sink = keyed(&server);
    sink.apply(1, &delta(&[(1, "owner", None, 1)])).await.unwrap();
    sink.apply(2, &delta(&[(2, "owner", None, 1), (1, "owner", None, -1)])).await.unwrap();
    assert_eq!(texts(&client, "id").await, ["2"]);
}

#[tokio::test]
async fn a_server_that_crashes_is_waited_for_and_nothing_is_lost_or_doubled() {
    let server = Arc::new(PostgresServer::start());
    let unkeyed = feed(&RecordBatch::new_empty(rows_schema()), &[], "v1");
    let mut sink = PostgresSink::new("visits", &server.url(), "visits", unkeyed).unwrap();
    sink.apply(1, &delta(&[(1, "a", None, 1)])).await.unwrap();
    server.crash();
    let error = sink.apply(2, &delta(&[(2, "b", None, 1)])).await.unwrap_err();
    assert!(matches!(error, SinkError::Retry(_)), "{error}");
    let error = sink.cursor().await.unwrap_err();
    assert!(matches!(error, SinkError::Retry(_)), "{error}");
    server.resume();
    assert_eq!(sink.cursor().await.unwrap(), Some(1));
    sink.apply(2, &delta(&[(2, "b", None, 1)])).await.unwrap();
    assert_eq!(texts(&server.client().await, "name").await, ["a", "b"]);

    // Half-way through a reload.
    let crashing = server.clone();
    let halves = futures::stream::iter([rows(&[(7, "x", None)]), rows(&[(8, "y", None)])]).enumerate();
    let halves = halves.map(move |(half, rows)| {
        if half == 1 {
            crashing.crash();
        }
        Ok(rows)
    });
    let contents = Box::pin(RecordBatchStreamAdapter::new(rows_schema(), halves));
    let error = sink.reload(9, contents).await.unwrap_err();
    assert!(matches!(error, SinkError::Retry(_)), "{error}");
    server.resume();
    assert_eq!(sink.cursor().await.unwrap(), Some(2));
    assert_eq!(texts(&server.client().await, "name").await, ["a", "b"]);
    sink.reload(9, stream(vec![rows(&[(7, "x", None)])])).await.unwrap();
    assert_eq!(sink.cursor().await.unwrap(), Some(9));
    assert_eq!(texts(&server.client().await, "name").await, ["x"]);
}

#[tokio::test]
async fn what_postgresql_cannot_hold_or_forbids_is_refused_and_says_where() {
    let server = PostgresServer::start();
    let client = server.client().await;
    let mut sink = keyed(&server);
    let error = sink.apply(1, &delta(&[(1, "fine", None, 1), (2, "not\0fine", None, 1)])).await.unwrap_err();
    let SinkError::Refused(message) = error else { panic!("{error}") };
    assert!(message.contains("column `name` of the row id = 2") && message.contains("NUL"), "{message}");
    sink.apply(1, &delta(&[(1, "fine", None, 1)])).await.unwrap();
    assert_eq!(texts(&client, "name").await, ["fine"]);

    let error = sink.apply(2, &delta(&[(5, "a", None, 1), (5, "b", None, 1)])).await.unwrap_err();
    assert!(matches!(error, SinkError::Refused(_)), "two rows of one key: {error}");

    client.batch_execute("CREATE ROLE guest LOGIN; GRANT SELECT ON visits, weir_sinks TO guest").await.unwrap();
    let url = server.url().replace("postgres@", "guest@");
    let feed = feed(&RecordBatch::new_empty(rows_schema()), &["id"], "v1");
    let mut sink = PostgresSink::new("visits", &url, "visits", feed).unwrap();
    let error = sink.apply(2, &delta(&[(3, "a", None, 1)])).await.unwrap_err();
    assert!(matches!(&error, SinkError::Refused(message) if message.contains("permission denied")), "{error}");
}

#[tokio::test]
async fn tls_is_used_when_asked_for_and_only_with_a_certificate_that_is_trusted() {
    let server = PostgresServer::start_with_tls();
    let hba = "CREATE TABLE seen (ssl boolean); CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS \
               'BEGIN INSERT INTO seen SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid(); RETURN NULL; END'; \
               CREATE TABLE visits (id bigint PRIMARY KEY, name text, amount bigint); \
               CREATE TRIGGER note AFTER INSERT ON visits EXECUTE FUNCTION note()";
    let client = server.client().await;
    client.batch_execute(hba).await.unwrap();
    // The certificate belongs in a place that we may read.
    let certificate = tempfile::NamedTempFile::new().unwrap();
    std::fs::copy(server.certificate(), certificate.path()).unwrap();
    let open = |url: String| {
        let feed = feed(&RecordBatch::new_empty(rows_schema()), &["id"], "v1");
        PostgresSink::new("visits", &url, "visits", feed).unwrap()
    };
    let trusted = format!("?sslmode=verify-full&sslrootcert={}", certificate.path().display());
    let url = server.url().replace("127.0.0.1", "localhost");
    open(url.clone() + &trusted).apply(1, &delta(&[(1, "a", None, 1)])).await.unwrap();
    assert!(client.query_one("SELECT ssl FROM seen", &[]).await.unwrap().get::<_, bool>(0));
    let error = open(url + "?sslmode=require").cursor().await.unwrap_err();
    assert!(matches!(error, SinkError::Refused(_)), "{error}");
    let error = open(server.url() + &trusted).cursor().await.unwrap_err();
    assert!(matches!(error, SinkError::Refused(_)), "another name than the certificate's: {error}");
}
