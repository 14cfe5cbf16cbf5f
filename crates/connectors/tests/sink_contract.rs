//! The contract of sinks, for each kind: random changes, crashes between and within applies, repeats, reloads.

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use common::postgres::PostgresServer;
use common::{delta, rows, rows_schema};
use datafusion::execution::SendableRecordBatchStream;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use deltalake::DeltaTableBuilder;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_connectors::lake::LakeOptions;
use weir_connectors::sinks::lake::LakeSink;
use weir_connectors::sinks::postgres::PostgresSink;
use weir_incremental::Delta;
use weir_pipeline::sink::{Feed, Sink, SinkError};

type Row = (i64, String, Option<i64>);

/// A destination under test.
#[async_trait]
trait Target: Send + Sync {
    async fn open(&self, feed: Feed) -> Box<dyn Sink>;
    /// The rows as another program reads them, sorted.
    async fn contents(&self) -> Vec<Row>;
}

struct Lake(tempfile::TempDir, LakeOptions);

impl Lake {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap(), LakeOptions { checkpoint_commits: 10, ..Default::default() })
    }
}

#[async_trait]
impl Target for Lake {
    async fn open(&self, feed: Feed) -> Box<dyn Sink> {
        Box::new(LakeSink::open(self.0.path().to_str().unwrap(), feed, self.1.clone()).await.unwrap())
    }

    async fn contents(&self) -> Vec<Row> {
        let url = deltalake::ensure_table_uri(self.0.path().to_str().unwrap()).unwrap();
        let table = DeltaTableBuilder::from_url(url).unwrap().load().await.unwrap();
        let provider = table.table_provider().await.unwrap();
        let context = datafusion::prelude::SessionContext::new();
        let frame = context.read_table(provider).unwrap();
        let text = datafusion::arrow::datatypes::DataType::Utf8;
        let sql_rows = frame
            .select(vec![
                datafusion::prelude::col("id"),
                datafusion::prelude::cast(datafusion::prelude::col("name"), text),
                datafusion::prelude::col("amount"),
            ])
            .unwrap();
        let mut found = Vec::new();
        for batch in sql_rows.collect().await.unwrap() {
            use arrow::array::{Array, AsArray};
            use arrow::datatypes::Int64Type;
            let (ids, amounts) =
                (batch.column(0).as_primitive::<Int64Type>(), batch.column(2).as_primitive::<Int64Type>());
            let names = batch.column(1).as_string::<i32>();
            for row in 0..batch.num_rows() {
                let amount = (!amounts.is_null(row)).then(|| amounts.value(row));
                found.push((ids.value(row), names.value(row).to_owned(), amount));
            }
        }
        found.sort();
        found
    }
}

struct Postgres(Arc<PostgresServer>);

#[async_trait]
impl Target for Postgres {
    async fn open(&self, feed: Feed) -> Box<dyn Sink> {
        Box::new(PostgresSink::new("under_test", &self.0.url(), "public.under_test", feed).unwrap())
    }

    async fn contents(&self) -> Vec<Row> {
        let client = self.0.client().await;
        let rows = client.query("SELECT id, name, amount FROM under_test", &[]).await.unwrap();
        let mut found: Vec<Row> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        found.sort();
        found
    }
}

fn feed(key: &[&str], version: &str) -> Feed {
    Feed {
        relation: "under_test".into(),
        schema: rows_schema(),
        key: key.iter().map(|name| (*name).to_owned()).collect(),
        append_only: false,
        version: version.to_owned(),
        earlier: Vec::new(),
    }
}

fn stream(rows: RecordBatch) -> SendableRecordBatchStream {
    let schema: SchemaRef = rows.schema();
    Box::pin(RecordBatchStreamAdapter::new(schema, futures::stream::iter(vec![Ok(rows)])))
}

fn to_delta(changes: &[(Row, i64)]) -> Delta {
    delta(&changes.iter().map(|((id, name, amount), w)| (*id, name.as_str(), *amount, *w)).collect::<Vec<_>>())
}

fn to_batch(contents: &[Row]) -> RecordBatch {
    rows(&contents.iter().map(|(id, name, amount)| (*id, name.as_str(), *amount)).collect::<Vec<_>>())
}

/// Random changes of a keyed relation; the sink is dropped, reopened and made to apply again at random.
async fn keyed_changes_arrive_exactly_once(target: &dyn Target, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let mut sink = target.open(feed(&["id"], "v1")).await;
    assert_eq!(sink.cursor().await.unwrap(), None);
    let mut model: BTreeMap<i64, Row> = BTreeMap::new();
    for epoch in 1..=16_u64 {
        let mut changes = Vec::new();
        let ids: std::collections::BTreeSet<i64> =
            (0..random.random_range(0..12)).map(|_| random.random_range(0..30)).collect();
        for id in ids {
            if let Some(old) = model.remove(&id) {
                changes.push((old, -1));
            }
            if random.random_bool(0.7) {
                let new =
                    (id, format!("n{}", random.random_range(0..5)), random.random_bool(0.8).then_some(epoch as i64));
                changes.push((new.clone(), 1));
                model.insert(id, new);
            }
        }
        let change = to_delta(&changes);
        sink.apply(epoch, &change).await.unwrap();
        if random.random_bool(0.3) {
            sink = target.open(feed(&["id"], "v1")).await;
            assert_eq!(sink.cursor().await.unwrap(), Some(epoch));
        }
        if random.random_bool(0.3) {
            sink.apply(epoch, &change).await.unwrap();
        }
        assert_eq!(target.contents().await, model.values().cloned().collect::<Vec<_>>(), "seed {seed} epoch {epoch}");
    }
    // Another version of the relation: nothing is taken for its own, a reload replaces everything.
    let mut sink = target.open(feed(&["id"], "v2")).await;
    assert_eq!(sink.cursor().await.unwrap(), None);
    assert!(matches!(sink.apply(21, &to_delta(&[])).await, Err(SinkError::Refused(_))));
    let contents = vec![(1, "one".to_owned(), None), (100, "new".to_owned(), Some(5))];
    sink.reload(21, stream(to_batch(&contents))).await.unwrap();
    assert_eq!(sink.cursor().await.unwrap(), Some(21));
    assert_eq!(target.contents().await, contents);
    let next = [((1, "one".to_owned(), None), -1), ((2, "two".to_owned(), Some(2)), 1)];
    sink.apply(22, &to_delta(&next)).await.unwrap();
    assert_eq!(target.contents().await, vec![(2, "two".to_owned(), Some(2)), (100, "new".to_owned(), Some(5))]);
}

/// A history that was restored from a copy goes on with other epochs of the same numbers.
async fn epochs_of_a_lost_history_are_not_taken_for_its_own(target: &dyn Target) {
    let restored = |last| Feed { earlier: vec![("v1@lost".to_owned(), last)], ..feed(&["id"], "v1@restored") };
    let row = |id: i64| (id, "row".to_owned(), None);
    let mut sink = target.open(feed(&["id"], "v1@lost")).await;
    sink.apply(7, &to_delta(&[(row(1), 1)])).await.unwrap();

    // It holds epoch 7, and the restored history has only six of the lost one's.
    let mut sink = target.open(restored(6)).await;
    assert_eq!(sink.cursor().await.unwrap(), None);
    assert!(matches!(sink.apply(9, &to_delta(&[(row(2), 1)])).await, Err(SinkError::Refused(_))));
    // Epoch 7 itself is common to both.
    let mut sink = target.open(restored(7)).await;
    assert_eq!(sink.cursor().await.unwrap(), Some(7));
    sink.apply(9, &to_delta(&[(row(2), 1)])).await.unwrap();
    assert_eq!(target.contents().await, vec![row(1), row(2)]);
    // From here on it is the restored history's, whatever its number.
    let mut sink = target.open(restored(7)).await;
    assert_eq!(sink.cursor().await.unwrap(), Some(9));
    let mut sink = target.open(feed(&["id"], "v1@lost")).await;
    assert_eq!(sink.cursor().await.unwrap(), None, "the lost history cannot go on with it");
}

/// A relation without a key is a multiset.
async fn equal_rows_are_counted(target: &dyn Target) {
    let mut sink = target.open(feed(&[], "v1")).await;
    let row = |id: i64, amount| (id, "same".to_owned(), amount);
    sink.apply(3, &to_delta(&[(row(1, None), 3), (row(2, Some(1)), 2)])).await.unwrap();
    assert_eq!(target.contents().await.len(), 5);
    sink.apply(4, &to_delta(&[(row(1, None), -2), (row(2, Some(1)), -2), (row(3, None), 1)])).await.unwrap();
    assert_eq!(target.contents().await, vec![row(1, None), row(3, None)]);
    let error = sink.apply(5, &to_delta(&[(row(9, None), -1)])).await.unwrap_err();
    assert!(matches!(&error, SinkError::Refused(message) if message.contains("took back")), "{error}");
    let mut sink = target.open(feed(&[], "v1")).await;
    assert_eq!(sink.cursor().await.unwrap(), Some(4));
    assert_eq!(target.contents().await, vec![row(1, None), row(3, None)]);
    sink.reload(6, stream(to_batch(&[row(7, None), row(7, None)]))).await.unwrap();
    assert_eq!(target.contents().await, vec![row(7, None), row(7, None)]);
}

#[tokio::test]
async fn a_lake_table_takes_keyed_changes_exactly_once() {
    for seed in 0..2 {
        keyed_changes_arrive_exactly_once(&Lake::new(), seed).await;
    }
}

#[tokio::test]
async fn a_lake_table_of_many_buckets_takes_keyed_changes_exactly_once() {
    for seed in 10..12 {
        let mut lake = Lake::new();
        lake.1 = LakeOptions { bucket_bytes: 600, keep_removed: std::time::Duration::ZERO, ..lake.1 };
        keyed_changes_arrive_exactly_once(&lake, seed).await;
        let commits = std::fs::read_dir(lake.0.path().join("_delta_log")).unwrap().flatten();
        let log: String = commits.filter_map(|commit| std::fs::read_to_string(commit.path()).ok()).collect();
        assert!(log.contains("\"path\":\"b3-4-"), "the table has been spread over buckets");
    }
}

#[tokio::test]
async fn a_lake_table_knows_the_epochs_of_a_lost_history() {
    epochs_of_a_lost_history_are_not_taken_for_its_own(&Lake::new()).await;
}

#[tokio::test]
async fn a_postgresql_table_knows_the_epochs_of_a_lost_history() {
    epochs_of_a_lost_history_are_not_taken_for_its_own(&Postgres(Arc::new(PostgresServer::start()))).await;
}

#[tokio::test]
async fn a_lake_table_counts_equal_rows() {
    equal_rows_are_counted(&Lake::new()).await;
}

#[tokio::test]
async fn a_postgresql_table_takes_keyed_changes_exactly_once() {
    let server = Arc::new(PostgresServer::start());
    for seed in 0..2 {
        keyed_changes_arrive_exactly_once(&Postgres(server.clone()), seed).await;
        server.client().await.batch_execute("DROP TABLE under_test; DROP TABLE weir_sinks").await.unwrap();
    }
}

#[tokio::test]
async fn a_postgresql_table_counts_equal_rows() {
    equal_rows_are_counted(&Postgres(Arc::new(PostgresServer::start()))).await;
}
