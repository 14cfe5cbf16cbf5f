//! Beacons: an HTTP listener that answers once an event is durable in the log, and the input that reads it there.
//!
//! [`BeaconServer`] takes events in (`GET /i/INPUT?...`, `POST /events/INPUT`), [`BeaconInput`] gives the pipeline what
//! is durable. Between them stands an [`EventLog`], in operation a topic of the journal.
//!
//! - An event is one log record: its JSON bytes as they came; who sent it is in the record's headers.
//! - A batch is taken in whole or refused whole; an answer of success means durable.

mod answer;
mod event;
mod input;
mod log;
mod origin;
mod server;

pub use event::{EventError, MediaType, event_of_query, events_of_body};
pub use input::{BeaconInput, Position};
pub use log::{Appended, Block, EventLog, Refused, Submission};
pub use origin::Origin;
pub use server::{BeaconServer, BeaconSettings};
