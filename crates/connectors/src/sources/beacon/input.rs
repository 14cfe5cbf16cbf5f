//! The durable events of a beacon's log, as an input of one partition.

use std::fmt;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, StringBuilder, TimestampMicrosecondArray};
use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use weir_pipeline::input::{Chunk, Cursor, Input, InputError, Polled};
use weir_schemas::{Attribute, Attributes, Records};

use super::log::{Block, EventLog};
use super::origin::Origin;

/// About how many bytes are read from the log at once.
const CHUNK_SIZE: usize = 8 << 20;

/// A cursor of a beacon's log, as text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Offset of the next event.
    pub next: u64,
    /// Which log it is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<u32>,
}

impl Position {
    /// Reads a cursor.
    ///
    /// # Errors
    /// When it is none of a beacon's log.
    pub fn of(cursor: &Cursor) -> Result<Self, InputError> {
        if cursor.0.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(&cursor.0)
            .map_err(|error| InputError::Stopped(format!("the stored cursor `{}` cannot be read: {error}", cursor.0)))
    }

    fn cursor(&self) -> Cursor {
        let log = self.log.map(|log| format!(",\"log\":{log}")).unwrap_or_default();
        Cursor(format!("{{\"next\":{}{log}}}", self.next))
    }
}

/// Reads a beacon's log. Its cursor is the offset of the next event, and which log that is.
pub struct BeaconInput {
    log: Arc<dyn EventLog>,
    grown: Arc<Notify>,
    /// Offset up to which polls have come.
    reached: Arc<parking_lot::Mutex<u64>>,
}

impl fmt::Debug for BeaconInput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("BeaconInput").field("durable_end", &self.log.durable_end()).finish_non_exhaustive()
    }
}

impl BeaconInput {
    /// Reads `log` from its beginning or from a cursor.
    pub fn new(log: Arc<dyn EventLog>) -> Self {
        let grown = Arc::new(Notify::new());
        let wake = Arc::clone(&grown);
        log.on_durable(Arc::new(move || wake.notify_one()));
        let first = log.first_offset();
        Self { log, grown, reached: Arc::new(parking_lot::Mutex::new(first)) }
    }

    /// Whether the log is the one that a cursor is of, and reaches as far: to be asked before more is appended to it.
    ///
    /// # Errors
    /// [`InputError::Stopped`] says what does not fit.
    pub fn check(&self, cursor: &Cursor) -> Result<(), InputError> {
        check(self.log.as_ref(), &Position::of(cursor)?)
    }
}

#[async_trait]
impl Input for BeaconInput {
    async fn poll(&self, cursor: &Cursor, bytes_max: usize) -> Result<Polled, InputError> {
        let position = Position::of(cursor)?;
        let start = position.next;
        let log = Arc::clone(&self.log);
        let read = tokio::task::spawn_blocking(move || read(log.as_ref(), &position, bytes_max)).await;
        let (chunks, next, end) = read.map_err(|error| InputError::Retry(error.to_string()))??;
        *self.reached.lock() = next;
        let moved = || Position { next, log: self.log.identity() }.cursor();
        let cursor = if next == start { cursor.clone() } else { moved() };
        Ok(Polled { chunks, cursor, more: next < end })
    }

    async fn changed(&self) {
        loop {
            // Made before the comparison, so that no growth between the two is missed.
            let grown = self.grown.notified();
            if self.log.durable_end() > *self.reached.lock() {
                return;
            }
            grown.await;
        }
    }

    async fn cursor_at(&self, offset: u64) -> Cursor {
        Cursor(format!("{{\"next\":{}}}", offset.max(self.log.first_offset())))
    }

    fn numbers_records(&self) -> bool {
        true
    }

    async fn release(&self, cursor: &Cursor) -> Result<(), InputError> {
        let before = Position::of(cursor)?.next;
        let log = Arc::clone(&self.log);
        tokio::task::spawn_blocking(move || log.release(before))
            .await
            .map_err(|error| InputError::Retry(error.to_string()))?
            .map_err(InputError::Retry)
    }
}

type Read = (Vec<Chunk>, u64, u64);

fn check(log: &dyn EventLog, position: &Position) -> Result<(), InputError> {
    let (first, end, start) = (log.first_offset(), log.durable_end(), position.next);
    if start > end || (start < first && start > 0) {
        return Err(InputError::Stopped(format!(
            "the log holds events {first} to {end}, and the pipeline stands at {start}; log and state are not of one \
             time: `weir doctor` says what is missing"
        )));
    }
    match (position.log, log.identity()) {
        (Some(ours), Some(other)) if ours != other => Err(InputError::Stopped(format!(
            "the log is another one ({other:08x}) than the pipeline has read so far ({ours:08x}): its files have taken \
             the place of others"
        ))),
        _ => Ok(()),
    }
}

fn read(log: &dyn EventLog, position: &Position, bytes_max: usize) -> Result<Read, InputError> {
    check(log, position)?;
    let (first, end, start) = (log.first_offset(), log.durable_end(), position.next);
    let mut next = start.max(first);
    let mut chunks = Vec::new();
    let mut left = bytes_max.max(1);
    while next < end && left > 0 {
        let block = log.read(next, left.min(CHUNK_SIZE)).map_err(InputError::Retry)?;
        if block.values.is_empty() {
            break;
        }
        next = block.first_offset + block.values.len() as u64;
        let chunk = chunk_of(block);
        left = left.saturating_sub((chunk.bytes as usize).max(1));
        chunks.push(chunk);
    }
    Ok((chunks, next, end))
}

fn chunk_of(block: Block) -> Chunk {
    let count = block.values.len();
    let [client_addresses, user_agents, referers] = origins_of(&block);
    let arrivals: ArrayRef = Arc::new(TimestampMicrosecondArray::from(block.arrivals.clone()).with_timezone("UTC"));
    Chunk {
        partition: 0,
        bytes: block.values.iter().map(|(_, length)| u64::from(*length)).sum(),
        offsets: (block.first_offset..block.first_offset + count as u64).collect(),
        arrivals: block.arrivals,
        attributes: Attributes {
            columns: vec![
                (Attribute::Arrival, arrivals),
                (Attribute::ClientAddress, client_addresses),
                (Attribute::UserAgent, user_agents),
                (Attribute::Referer, referers),
            ],
        },
        records: Records::new(block.buffer, block.values),
        incidents: Vec::new(),
    }
}

fn origins_of(block: &Block) -> [ArrayRef; 3] {
    let count = block.values.len();
    let mut builders: [StringBuilder; 3] = std::array::from_fn(|_| StringBuilder::with_capacity(count, count * 32));
    for index in 0..count {
        let origin = block.headers.get(index).map_or(Origin::default(), |(start, length)| {
            Origin::decode(&block.buffer[*start as usize..(*start + *length) as usize])
        });
        builders[0].append_option(origin.client_address);
        builders[1].append_option(origin.user_agent);
        builders[2].append_option(origin.referer);
    }
    builders.map(|mut builder| {
        let column: StringArray = builder.finish();
        Arc::new(column) as ArrayRef
    })
}
