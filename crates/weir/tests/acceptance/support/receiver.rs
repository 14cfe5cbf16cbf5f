//! A small HTTP server that takes messages, refuses them, or dies in the middle of one.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::Value;

/// What the server does with a message that it has read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    /// Takes it.
    Take,
    /// Answers that it failed.
    Refuse,
    /// Breaks the connection without an answer.
    Die,
}

/// The server; it is gone when dropped.
pub struct Receiver {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    mood: Mutex<Mood>,
    /// Every message that was read whole, with what became of it, in the order in which they came.
    messages: Mutex<Vec<(Value, Mood)>>,
    closed: AtomicBool,
}

impl Receiver {
    /// Listens on a free port.
    pub fn start() -> Self {
        Self::listen(SocketAddr::from(([127, 0, 0, 1], 0)))
    }

    /// Listens where another did.
    pub fn listen(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).expect("the port is free");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(Shared {
            mood: Mutex::new(Mood::Take),
            messages: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let serving = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if serving.closed.load(Ordering::SeqCst) {
                    return;
                }
                // A connection that breaks off is the client's affair.
                stream.and_then(|stream| serving.serve(stream)).ok();
            }
        });
        Self { address, shared }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it does from now on.
    pub fn set(&self, mood: Mood) {
        *self.shared.mood.lock().expect("nobody panics with it") = mood;
    }

    /// Messages that it has read, taken or not.
    pub fn read(&self) -> Vec<(Value, Mood)> {
        self.shared.messages.lock().expect("nobody panics with it").clone()
    }

    /// Messages that it has taken.
    pub fn taken(&self) -> Vec<Value> {
        self.read().into_iter().filter(|(_, mood)| *mood == Mood::Take).map(|(message, _)| message).collect()
    }
}

impl Shared {
    fn serve(&self, stream: TcpStream) -> std::io::Result<()> {
        let mut stream = BufReader::new(stream);
        let (mut length, mut line) = (0, String::new());
        loop {
            line.clear();
            if stream.read_line(&mut line)? <= 2 {
                break;
            }
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let mood = *self.mood.lock().expect("nobody panics with it");
        let message = serde_json::from_slice(&body).unwrap_or_default();
        self.messages.lock().expect("nobody panics with it").push((message, mood));
        let answer = match mood {
            Mood::Take => "HTTP/1.1 204 No Content\r\n\r\n",
            Mood::Refuse => "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n",
            Mood::Die => return Ok(()),
        };
        stream.get_mut().write_all(answer.as_bytes())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // Wakes the thread, which lets go of the port.
        TcpStream::connect(self.address).ok();
    }
}
