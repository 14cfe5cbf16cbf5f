//! A PostgreSQL table that holds a relation's current rows.
//!
//! Each apply is one transaction that also moves the cursor, kept in `weir_sinks` beside the table: readers see one
//! epoch, and a connection that breaks at the commit leaves no doubt that asking the cursor does not settle.
//! Rows travel as binary COPY into temporary tables; then keys that are gone are deleted, and after that the others
//! inserted or updated, so that a value which must be unique may move from one row to another.
//!
//! A reload fills a table beside and then, in one transaction, makes the target equal to it by DELETE and INSERT.
//! Not by TRUNCATE, which locks readers out and lets older snapshots see an empty table; not by renaming, which loses
//! the grants, indexes and views that people have put on the table. Only a table that Weir made and whose relation
//! has got another shape is replaced by renaming.

mod copy;
mod read;
mod shape;
mod tls;

use std::collections::HashSet;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{Array, Int64Array, RecordBatch, UInt32Array};
use arrow::compute::take_record_batch;
use arrow::datatypes::{DataType, Field, Schema};
use arrow::row::{RowConverter, SortField};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::execution::SendableRecordBatchStream;
use futures::{SinkExt, StreamExt};
use tokio_postgres::{Client, Config, CopyInSink, IsolationLevel, NoTls, Socket, Transaction};
use weir_incremental::Delta;
use weir_pipeline::EpochNumber;
use weir_pipeline::sink::{DeliveryClass, Feed, Held, Sink, SinkError};

use shape::{Found, Shape};
use tls::RustTls;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
const SILENCE_MAX: Duration = Duration::from_secs(60);
const COPY_CHUNK_BYTES: usize = 1 << 20;
const COPY_CHUNK_ROWS: usize = 4096;

/// One target table. It connects when it is first used, and again after an error.
pub struct PostgresSink {
    name: String,
    config: Config,
    tls: Option<RustTls>,
    schema: Option<String>,
    table: String,
    feed: Feed,
    connection: Option<Connection>,
}

type Driver<T> = tokio_postgres::Connection<Socket, T>;

struct Connection {
    client: Client,
    shape: Shape,
}

impl PostgresSink {
    /// `name` is the sink's name, under which its cursor is kept; `url` as libpq has it
    /// (`postgres://user:password@host/database`, `?sslmode=require` for TLS with the server's certificate checked,
    /// `&sslrootcert=FILE` against other roots than the machine's); `table` may have a schema (`reports.daily`).
    pub fn new(name: &str, url: &str, table: &str, feed: Feed) -> Result<Self, SinkError> {
        let (mut config, tls) =
            tls::parse_url(url).map_err(|error| SinkError::Refused(format!("the url of sink {name}: {error}")))?;
        if config.get_connect_timeout().is_none() {
            config.connect_timeout(CONNECT_TIMEOUT);
        }
        if config.get_tcp_user_timeout().is_none() {
            config.tcp_user_timeout(SILENCE_MAX);
        }
        if config.get_application_name().is_none() {
            config.application_name("weir");
        }
        let (schema, table) = match table.split_once('.') {
            Some((schema, table)) => (Some(schema.to_owned()), table.to_owned()),
            None => (None, table.to_owned()),
        };
        Ok(Self { name: name.to_owned(), config, tls, schema, table, feed, connection: None })
    }

    /// The connection in hand, or a new one.
    async fn connect(&mut self) -> Result<Connection, SinkError> {
        if let Some(connection) = self.connection.take()
            && !connection.client.is_closed()
        {
            return Ok(connection);
        }
        let client = match &self.tls {
            Some(tls) => start(self.config.connect(tls.clone()).await),
            None => start(self.config.connect(NoTls).await),
        }?;
        let schema = match &self.schema {
            Some(schema) => schema.clone(),
            None => {
                let row = client.query_one("SELECT current_schema()::text", &[]).await.map_err(failed)?;
                row.get::<_, Option<String>>(0)
                    .ok_or_else(|| SinkError::Refused(format!("sink {}: name a schema in `table`", self.name)))?
            }
        };
        let shape = Shape::new(&schema, &self.table, &self.feed)?;
        let cursors = shape.cursors();
        let there = client.query_one("SELECT to_regclass($1) IS NOT NULL", &[&cursors]).await.map_err(failed)?;
        if !there.get::<_, bool>(0) {
            let create = format!(
                "CREATE TABLE IF NOT EXISTS {cursors} (sink text PRIMARY KEY, version text NOT NULL, epoch bigint NOT NULL)"
            );
            match client.batch_execute(&create).await {
                // Two sinks at once: one of them wins, and that is enough.
                Err(error) if error.code().is_some_and(|code| ["23505", "42P07"].contains(&code.code())) => {}
                other => other.map_err(failed)?,
            }
        }
        let columns = shape.definitions();
        let count = if shape.keyed() { "" } else { ", weir_count bigint" };
        let temporary = format!(
            "CREATE TEMPORARY TABLE weir_come ({columns}) ON COMMIT DELETE ROWS; \
             CREATE TEMPORARY TABLE weir_gone ({columns}{count}) ON COMMIT DELETE ROWS"
        );
        client.batch_execute(&temporary).await.map_err(failed)?;
        Ok(Connection { client, shape })
    }

    async fn apply_in(
        &self,
        connection: &mut Connection,
        epoch: EpochNumber,
        changes: &Delta,
    ) -> Result<(), SinkError> {
        let Connection { client, shape } = connection;
        let transaction = client.transaction().await.map_err(failed)?;
        match read_cursor(&transaction, shape, &self.name, true).await? {
            Some((version, held)) if self.feed.continues(&version, held) && held >= epoch => return Ok(()),
            Some((version, held)) if !self.feed.continues(&version, held) => {
                return Err(SinkError::Refused(format!(
                    "{} holds another version of {}; it must be reloaded",
                    shape.target(),
                    self.feed.relation
                )));
            }
            _ => {}
        }
        match shape.look(&transaction).await? {
            Found::Fits => {}
            Found::Missing => transaction.batch_execute(&shape.create()).await.map_err(failed)?,
            Found::Differs(differences, _) => return Err(self.differs(shape, &differences)),
        }
        let key = &self.feed.key;
        if shape.keyed() {
            let (gone, come) = split_keyed(changes, key)?;
            if gone.num_rows() > 0 {
                let into = format!("COPY weir_gone ({}) FROM STDIN BINARY", shape.names(""));
                copy_all(&transaction, &into, &gone, key).await?;
                let same = shape.same_key("t", "g");
                let delete = format!("DELETE FROM {} t USING weir_gone g WHERE {same}", shape.target());
                transaction.batch_execute(&delete).await.map_err(failed)?;
            }
            if come.num_rows() > 0 {
                let into = format!("COPY weir_come ({}) FROM STDIN BINARY", shape.names(""));
                copy_all(&transaction, &into, &come, key).await?;
                transaction.batch_execute(&shape.upsert("weir_come")).await.map_err(failed)?;
            }
        } else {
            let (gone, come) = split_unkeyed(changes)?;
            if gone.num_rows() > 0 {
                let into = format!("COPY weir_gone ({}, weir_count) FROM STDIN BINARY", shape.names(""));
                let wanted = copy_all(&transaction, &into, &gone, key).await?;
                let deleted = transaction.execute(&shape.delete_equal("weir_gone"), &[]).await.map_err(failed)?;
                if deleted < wanted {
                    return Err(SinkError::Refused(format!(
                        "rows that {} took back are not in {}: somebody else has changed it; reload it",
                        self.feed.relation,
                        shape.target()
                    )));
                }
            }
            if come.num_rows() > 0 {
                let into = format!("COPY {} ({}) FROM STDIN BINARY", shape.target(), shape.names(""));
                copy_all(&transaction, &into, &come, key).await?;
            }
        }
        self.write_cursor(&transaction, shape, epoch).await?;
        transaction.commit().await.map_err(failed)
    }

    async fn reload_in(
        &self,
        connection: &mut Connection,
        epoch: EpochNumber,
        mut contents: SendableRecordBatchStream,
    ) -> Result<(), SinkError> {
        let Connection { client, shape } = connection;
        let beside = shape.beside();
        let filling = client.transaction().await.map_err(failed)?;
        let replace = match shape.look(&filling).await? {
            Found::Fits => false,
            Found::Missing | Found::Differs(_, true) => true,
            Found::Differs(differences, false) => return Err(self.differs(shape, &differences)),
        };
        let unlogged = if replace { "" } else { "UNLOGGED" };
        let create =
            format!("DROP TABLE IF EXISTS {beside}; CREATE {unlogged} TABLE {beside} ({})", shape.definitions());
        filling.batch_execute(&create).await.map_err(failed)?;
        let into = format!("COPY {beside} ({}) FROM STDIN BINARY", shape.names(""));
        let mut copy = Copy::start(&filling, &into).await?;
        while let Some(batch) = contents.next().await {
            let batch = batch.map_err(|error| SinkError::Retry(error.to_string()))?;
            copy.write(&batch, &self.feed.key).await?;
        }
        copy.finish().await?;
        if shape.keyed() {
            filling.batch_execute(&shape.key_beside()).await.map_err(failed)?;
        }
        filling.batch_execute(&format!("ANALYZE {beside}")).await.map_err(failed)?;
        filling.commit().await.map_err(failed)?;

        let switching = client.transaction().await.map_err(failed)?;
        read_cursor(&switching, shape, &self.name, true).await?;
        let switch = if replace { shape.swap() } else { shape.level() };
        switching.batch_execute(&switch).await.map_err(failed)?;
        self.write_cursor(&switching, shape, epoch).await?;
        switching.commit().await.map_err(failed)
    }

    async fn write_cursor(
        &self,
        transaction: &Transaction<'_>,
        shape: &Shape,
        epoch: EpochNumber,
    ) -> Result<(), SinkError> {
        let write = format!(
            "INSERT INTO {} (sink, version, epoch) VALUES ($1, $2, $3) \
             ON CONFLICT (sink) DO UPDATE SET version = EXCLUDED.version, epoch = EXCLUDED.epoch",
            shape.cursors()
        );
        let written = transaction.execute(&write, &[&self.name, &self.feed.version, &(epoch as i64)]).await;
        written.map(|_| ()).map_err(failed)
    }

    fn differs(&self, shape: &Shape, differences: &[String]) -> SinkError {
        SinkError::Refused(format!(
            "{} does not fit {}: {}. Change the table, or name another one in sink {}",
            shape.target(),
            self.feed.relation,
            differences.join("; "),
            self.name
        ))
    }
}

#[async_trait]
impl Sink for PostgresSink {
    fn class(&self) -> DeliveryClass {
        DeliveryClass::Transactional
    }

    async fn cursor(&mut self) -> Result<Option<EpochNumber>, SinkError> {
        let mut connection = self.connect().await?;
        let Connection { client, shape } = &mut connection;
        let transaction = client.transaction().await.map_err(failed)?;
        let cursor = read_cursor(&transaction, shape, &self.name, false).await?;
        let missing = matches!(shape.look(&transaction).await?, Found::Missing);
        transaction.commit().await.map_err(failed)?;
        self.connection = Some(connection);
        Ok(cursor.filter(|(version, held)| self.feed.continues(version, *held) && !missing).map(|(_, epoch)| epoch))
    }

    async fn apply(&mut self, epoch: EpochNumber, changes: &Delta) -> Result<(), SinkError> {
        let mut connection = self.connect().await?;
        // After an error the connection is let go, and with it whatever it was doing.
        self.apply_in(&mut connection, epoch, changes).await?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn reload(&mut self, epoch: EpochNumber, contents: SendableRecordBatchStream) -> Result<(), SinkError> {
        let mut connection = self.connect().await?;
        self.reload_in(&mut connection, epoch, contents).await?;
        self.connection = Some(connection);
        Ok(())
    }

    async fn read_back(&mut self) -> Result<Option<Held>, SinkError> {
        let mut connection = self.connect().await?;
        let Connection { client, shape } = &mut connection;
        // Cursor and rows as of one moment.
        let reading = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true);
        let transaction = reading.start().await.map_err(failed)?;
        let cursor = read_cursor(&transaction, shape, &self.name, false).await?;
        let held = match shape.look(&transaction).await? {
            Found::Missing => Some((0, 0)),
            Found::Fits => read::held(&transaction, shape, &self.feed.schema).await?,
            Found::Differs(differences, _) => return Err(self.differs(shape, &differences)),
        };
        transaction.commit().await.map_err(failed)?;
        self.connection = Some(connection);
        let epoch = cursor.filter(|(version, held)| self.feed.continues(version, *held)).map(|(_, epoch)| epoch);
        Ok(held.map(|(rows, checksum)| Held { epoch, rows, checksum }))
    }
}

/// Lets a new connection run by itself; its error reaches whoever uses the client.
fn start<T>(connected: Result<(Client, Driver<T>), tokio_postgres::Error>) -> Result<Client, SinkError>
where
    T: tokio_postgres::tls::TlsStream + Unpin + Send + 'static,
{
    let (client, driver) = connected.map_err(failed)?;
    tokio::spawn(driver);
    Ok(client)
}

async fn read_cursor(
    transaction: &Transaction<'_>,
    shape: &Shape,
    name: &str,
    lock: bool,
) -> Result<Option<(String, EpochNumber)>, SinkError> {
    let lock = if lock { " FOR UPDATE" } else { "" };
    let read = format!("SELECT version, epoch FROM {} WHERE sink = $1{lock}", shape.cursors());
    let row = transaction.query_opt(&read, &[&name]).await.map_err(failed)?;
    Ok(row.map(|row| (row.get(0), row.get::<_, i64>(1) as u64)))
}

/// Rows whose keys go, and rows that come or change.
fn split_keyed(changes: &Delta, key: &[String]) -> Result<(RecordBatch, RecordBatch), SinkError> {
    let columns = key
        .iter()
        .map(|name| changes.rows.column_by_name(name).cloned())
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| SinkError::Refused("a key column is not in the relation".into()))?;
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let keys = RowConverter::new(fields).and_then(|converter| converter.convert_columns(&columns)).map_err(broken)?;
    let (mut come, mut gone, mut coming) = (Vec::new(), Vec::new(), HashSet::new());
    for (row, weight) in changes.weights.values().iter().enumerate() {
        if *weight > 0 {
            come.push(row as u32);
            coming.insert(keys.row(row));
        }
    }
    for (row, weight) in changes.weights.values().iter().enumerate() {
        if *weight < 0 && !coming.contains(&keys.row(row)) {
            gone.push(row as u32);
        }
    }
    let take = |rows| take_record_batch(&changes.rows, &UInt32Array::from(rows)).map_err(broken);
    Ok((take(gone)?, take(come)?))
}

/// Rows that go with their number as the column `weir_count`, and rows that come, each as often as it does.
fn split_unkeyed(changes: &Delta) -> Result<(RecordBatch, RecordBatch), SinkError> {
    let (mut come, mut gone, mut counts) = (Vec::new(), Vec::new(), Vec::new());
    for (row, weight) in changes.weights.values().iter().enumerate() {
        if *weight > 0 {
            come.extend(std::iter::repeat_n(row as u32, *weight as usize));
        } else if *weight < 0 {
            gone.push(row as u32);
            counts.push(-weight);
        }
    }
    let gone = take_record_batch(&changes.rows, &UInt32Array::from(gone)).map_err(broken)?;
    let mut fields: Vec<_> = gone.schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("weir_count", DataType::Int64, false)));
    let mut columns = gone.columns().to_vec();
    columns.push(Arc::new(Int64Array::from(counts)));
    let schema = Arc::new(Schema::new(fields));
    let gone = RecordBatch::try_new(schema, columns).map_err(broken)?;
    let come = take_record_batch(&changes.rows, &UInt32Array::from(come)).map_err(broken)?;
    Ok((gone, come))
}

/// A COPY under way.
struct Copy {
    sink: Pin<Box<CopyInSink<Bytes>>>,
    buffer: Vec<u8>,
}

impl Copy {
    async fn start(transaction: &Transaction<'_>, into: &str) -> Result<Self, SinkError> {
        let sink = Box::pin(transaction.copy_in(into).await.map_err(failed)?);
        Ok(Self { sink, buffer: copy::HEADER.to_vec() })
    }

    async fn write(&mut self, batch: &RecordBatch, key: &[String]) -> Result<(), SinkError> {
        let mut start = 0;
        while start < batch.num_rows() {
            let rows = COPY_CHUNK_ROWS.min(batch.num_rows() - start);
            copy::encode(&batch.slice(start, rows), key, &mut self.buffer)?;
            start += rows;
            if self.buffer.len() >= COPY_CHUNK_BYTES {
                self.send().await?;
            }
        }
        Ok(())
    }

    async fn send(&mut self) -> Result<(), SinkError> {
        let chunk = Bytes::from(std::mem::take(&mut self.buffer));
        self.sink.send(chunk).await.map_err(failed)
    }

    async fn finish(mut self) -> Result<(), SinkError> {
        self.buffer.extend_from_slice(copy::TRAILER);
        self.send().await?;
        self.sink.as_mut().finish().await.map(|_| ()).map_err(failed)
    }
}

/// Copies the rows; returns the sum of `weir_count`, or 0 where there is no such column.
async fn copy_all(
    transaction: &Transaction<'_>,
    into: &str,
    rows: &RecordBatch,
    key: &[String],
) -> Result<u64, SinkError> {
    let mut copy = Copy::start(transaction, into).await?;
    copy.write(rows, key).await?;
    copy.finish().await?;
    let counts = rows.column_by_name("weir_count").and_then(|counts| counts.as_any().downcast_ref::<Int64Array>());
    Ok(counts.map_or(0, |counts| counts.values().iter().map(|count| *count as u64).sum()))
}

fn broken(error: arrow::error::ArrowError) -> SinkError {
    SinkError::Refused(error.to_string())
}

/// What an error of the server or the connection means for the caller.
fn failed(error: tokio_postgres::Error) -> SinkError {
    let Some(server) = error.as_db_error() else {
        if tls::is_distrust(&error) {
            return SinkError::Refused(format!("PostgreSQL: the server's certificate is not to be trusted: {error}"));
        }
        // No answer from a server: it is down, or the way there is.
        let source = std::error::Error::source(&error).map(|source| format!(": {source}")).unwrap_or_default();
        return SinkError::Retry(format!("PostgreSQL: {error}{source}"));
    };
    let mut message = format!("PostgreSQL: {}", server.message());
    for more in [server.detail(), server.hint(), server.where_()].into_iter().flatten() {
        message.push_str(". ");
        message.push_str(more);
    }
    // Classes of SQLSTATE that pass by themselves: connection, resources, operator, system, rollback, lock.
    match &server.code().code()[..2] {
        "08" | "53" | "57" | "58" | "40" | "55" => SinkError::Retry(message),
        _ => SinkError::Refused(message),
    }
}
