//! Sources through their contract: records in, chunks out, from every cursor.

#[path = "sources/beacon.rs"]
mod beacon;
#[path = "sources/files.rs"]
mod files;
#[path = "sources/memory.rs"]
mod memory;
