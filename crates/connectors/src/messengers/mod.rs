//! What carries messages out: an HTTP address, a program, a file. One file each.

mod file;
mod program;
mod webhook;

pub use file::FileMessenger;
pub use program::ProgramMessenger;
pub use webhook::WebhookMessenger;
