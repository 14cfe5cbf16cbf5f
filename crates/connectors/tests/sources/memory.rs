//! A log in memory that can be full, behind or slow, and a minimal HTTP client on a real socket.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use weir_connectors::sources::beacon::{Appended, Block, EventLog, Refused, Submission};

/// What a test does to the log.
#[derive(Default)]
pub struct State {
    pub events: Vec<(i64, Bytes, Bytes)>,
    pub first: u64,
    pub refuse: Option<Refused>,
    /// Appends are kept here instead of being done.
    pub held: Option<Vec<(Submission, Appended)>>,
    wakes: Vec<Arc<dyn Fn() + Send + Sync>>,
}

/// A log in memory.
#[derive(Default)]
pub struct MemoryLog {
    pub state: Mutex<State>,
}

impl MemoryLog {
    /// Stores what was held and answers it.
    pub fn let_go(&self) {
        let held = self.state.lock().held.take().unwrap_or_default();
        for (events, done) in held {
            self.append(events, done);
        }
    }

    pub fn values(&self) -> Vec<String> {
        let state = self.state.lock();
        state.events.iter().map(|(_, _, value)| String::from_utf8(value.to_vec()).unwrap()).collect()
    }
}

impl EventLog for MemoryLog {
    fn append(&self, events: Submission, done: Appended) {
        let mut state = self.state.lock();
        if let Some(held) = &mut state.held {
            held.push((events, done));
            return;
        }
        let result: Result<Range<u64>, Refused> = match &state.refuse {
            Some(refusal) => Err(refusal.clone()),
            None => {
                let start = state.first + state.events.len() as u64;
                for index in 0..events.records.len() {
                    let value = Bytes::copy_from_slice(events.records.get(index));
                    state.events.push((events.arrival, events.headers.clone(), value));
                }
                Ok(start..state.first + state.events.len() as u64)
            }
        };
        let wakes = state.wakes.clone();
        drop(state);
        done(result);
        for wake in wakes {
            wake();
        }
    }

    fn read(&self, from: u64, bytes_max: usize) -> Result<Block, String> {
        let state = self.state.lock();
        let mut buffer = BytesMut::new();
        let mut block = Block { first_offset: from, ..Block::default() };
        for (arrival, headers, value) in state.events.iter().skip((from - state.first) as usize) {
            if !block.values.is_empty() && buffer.len() + headers.len() + value.len() > bytes_max {
                break;
            }
            block.headers.push((buffer.len() as u32, headers.len() as u32));
            buffer.put_slice(headers);
            block.values.push((buffer.len() as u32, value.len() as u32));
            buffer.put_slice(value);
            block.arrivals.push(*arrival);
        }
        block.buffer = buffer.freeze();
        Ok(block)
    }

    fn first_offset(&self) -> u64 {
        self.state.lock().first
    }

    fn durable_end(&self) -> u64 {
        let state = self.state.lock();
        state.first + state.events.len() as u64
    }

    fn release(&self, before: u64) -> Result<(), String> {
        let mut state = self.state.lock();
        let count = before.saturating_sub(state.first) as usize;
        state.events.drain(..count);
        state.first = state.first.max(before);
        Ok(())
    }

    fn on_durable(&self, wake: Arc<dyn Fn() + Send + Sync>) {
        self.state.lock().wakes.push(wake);
    }
}

/// An answer as read from the socket.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: String,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// One connection, kept open.
pub struct Connection(TcpStream);

impl Connection {
    pub async fn open(address: std::net::SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    /// Sends raw bytes.
    pub async fn write(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.unwrap();
    }

    /// Whether the other side has closed.
    pub async fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0; 1]).await, Ok(0) | Err(_))
    }

    /// Sends a request with a `Content-Length` and reads the answer.
    pub async fn send(&mut self, start: &str, headers: &str, body: &[u8]) -> Reply {
        let length =
            if start.starts_with("POST") { format!("Content-Length: {}\r\n", body.len()) } else { String::new() };
        self.write(format!("{start} HTTP/1.1\r\nHost: beacon\r\n{length}{headers}\r\n").as_bytes()).await;
        self.write(body).await;
        self.reply().await
    }

    /// Reads one answer.
    pub async fn reply(&mut self) -> Reply {
        let answer = tokio::time::timeout(Duration::from_secs(20), self.read()).await;
        answer.expect("an answer within 20 s")
    }

    async fn read(&mut self) -> Reply {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            assert_eq!(self.0.read(&mut byte).await.unwrap(), 1, "the connection was closed before an answer came");
            head.push(byte[0]);
        }
        let headers = String::from_utf8(head).unwrap();
        let status = headers.split(' ').nth(1).unwrap().parse().unwrap();
        let mut reply = Reply { status, headers, body: Vec::new() };
        let length: usize = reply.header("content-length").map_or(0, |length| length.parse().unwrap());
        reply.body = vec![0; length];
        self.0.read_exact(&mut reply.body).await.unwrap();
        reply
    }
}
