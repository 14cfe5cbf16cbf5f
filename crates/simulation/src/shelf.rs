//! Closed files that others put into a folder, read in place: an input whose cursor is a file and a line.

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use weir_environment::Storage;
use weir_pipeline::input::{Chunk, Cursor, Input, InputError, Polled};
use weir_schemas::Records;

use crate::project::SHELF_FOLDER;

/// Where a reader of the folder stands.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// Number of the file that is read next, by name.
    pub file: usize,
    /// Line of it.
    pub line: usize,
}

impl Place {
    /// Reads a cursor; none when it is not one.
    pub fn of(cursor: &Cursor) -> Option<Self> {
        if cursor.0.is_empty() { Some(Self::default()) } else { serde_json::from_str(&cursor.0).ok() }
    }
}

/// What names of files end with.
const SUFFIX: &str = ".jsonl";

/// Name of a file.
pub fn file_name(number: usize) -> String {
    format!("{number:08}{SUFFIX}")
}

/// The folder, as an input of one partition; an offset is file times a million plus line.
#[derive(Debug)]
pub struct Shelf {
    storage: Arc<dyn Storage>,
}

impl Shelf {
    /// Reads the folder through a storage.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }
}

fn retry(error: std::io::Error) -> InputError {
    InputError::Retry(error.to_string())
}

#[async_trait]
impl Input for Shelf {
    async fn poll(&self, cursor: &Cursor, bytes_max: usize) -> Result<Polled, InputError> {
        let place = Place::of(cursor).ok_or_else(|| InputError::Stopped(format!("no cursor: {}", cursor.0)))?;
        let folder = Path::new(SHELF_FOLDER);
        let mut files = self.storage.list(folder).map_err(retry)?;
        files.retain(|file| file.name.ends_with(SUFFIX));
        let Some(file) = files.get(place.file) else {
            return Ok(Polled { cursor: cursor.clone(), ..Polled::default() });
        };
        let bytes = Bytes::from(self.storage.read(&folder.join(&file.name)).map_err(retry)?);
        if bytes.len() as u64 != file.len {
            return Err(InputError::Retry(format!("{} is {} of {} bytes", file.name, bytes.len(), file.len)));
        }
        let (mut ranges, mut offsets, mut taken) = (Vec::new(), Vec::new(), 0);
        let mut start = 0;
        let mut next = Place { file: place.file + 1, line: 0 };
        for (number, line) in bytes.split_inclusive(|byte| *byte == b'\n').enumerate() {
            if number >= place.line {
                if taken >= bytes_max {
                    next = Place { file: place.file, line: number };
                    break;
                }
                ranges.push((start as u32, line.len() as u32 - 1));
                offsets.push((place.file * 1_000_000 + number) as u64);
                taken += line.len();
            }
            start += line.len();
        }
        let arrivals = vec![0; ranges.len()];
        let records = Records::new(bytes, ranges);
        let chunk = Chunk { records, offsets, arrivals, bytes: taken as u64, ..Chunk::default() };
        let more = next.line > 0 || next.file < files.len();
        let cursor = Cursor(serde_json::to_string(&next).map_err(|error| InputError::Stopped(error.to_string()))?);
        Ok(Polled { chunks: vec![chunk], cursor, more })
    }

    async fn changed(&self) {}

    async fn release(&self, _cursor: &Cursor) -> Result<(), InputError> {
        Ok(())
    }
}
