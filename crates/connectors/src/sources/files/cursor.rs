//! The cursor of a files input: one entry of the catalogue and a position within that file.
//!
//! It stays small however many files there are: what was read before is named by the catalogue, whose content
//! the cursor seals with a hash.

use serde::{Deserialize, Serialize};
use weir_pipeline::input::{Cursor, InputError};

/// A point in the one sequence of all files' bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// Index in the catalogue of the file that is read next, or being read.
    pub entry: u64,
    /// Offset, within the partition, of that entry's first byte.
    pub base: u64,
    /// Bytes of that file's uncompressed content that are used up.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub at: u64,
    /// Hash over names and contents of all entries before.
    pub chain: Sum,
    /// Hash of the whole blocks before `at`; plain files only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blocks: Option<Sum>,
    /// What the framer needs to go on, as hexadecimal digits.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub resume: String,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Position {
    /// Reads a cursor; the default cursor is the beginning.
    pub fn parse(cursor: &Cursor) -> Result<Self, InputError> {
        if cursor.0.is_empty() {
            return Ok(Self::default());
        }
        serde_json::from_str(&cursor.0)
            .map_err(|error| InputError::Stopped(format!("the stored cursor `{}` cannot be read: {error}", cursor.0)))
    }

    /// The cursor that [`Position::parse`] reads back.
    pub fn cursor(&self) -> Cursor {
        // Numbers and strings always serialise.
        Cursor(serde_json::to_string(self).unwrap_or_default())
    }

    /// What was given to [`to_hex`] as the resume token; none at a file's start.
    pub fn resume_token(&self) -> Option<Vec<u8>> {
        (self.at > 0).then(|| {
            let digits = self.resume.as_bytes();
            digits.chunks_exact(2).map(|pair| (digit(pair[0]) << 4) | digit(pair[1])).collect()
        })
    }
}

fn digit(character: u8) -> u8 {
    (character as char).to_digit(16).unwrap_or(0) as u8
}

/// Bytes as hexadecimal digits.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A 128-bit xxh3 hash, written as 32 hexadecimal digits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Sum(pub u128);

impl Serialize for Sum {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", self.0))
    }
}

impl<'de> Deserialize<'de> for Sum {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        u128::from_str_radix(&digits, 16).map(Sum).map_err(serde::de::Error::custom)
    }
}
