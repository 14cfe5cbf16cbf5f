//! The server: SQL over HTTP, lookups by key, status, and control by the command line.
//!
//! It knows nothing of how answers come about: a [`Backend`] gives them. [`Server`] listens, [`client`] is the
//! other end, for commands that attach to a running pipeline.

mod access;
mod backend;
pub mod client;
mod encode;
mod key;
mod query;
mod routes;
mod server;

pub use access::Access;
pub use backend::{
    Backend, Batches, Control, Failure, FailureKind, KeyColumn, Lookup, Place, QueryAnswer, QueryLimits,
};
pub use encode::Encoding;
pub use server::{Attachment, Server, ServerSettings};
