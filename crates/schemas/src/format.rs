//! What every format offers: a framer for byte streams and a decoder for the records in them.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use bytes::Bytes;

use crate::contract::{Attribute, Contract};

/// Longest record in bytes that is decoded; a longer one is rejected as `too_large`, whatever it holds.
pub const RECORD_SIZE_MAX: usize = 16 << 20;

/// Raw records in one buffer: what a source read, before decoding.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// The bytes that the ranges point into.
    pub buffer: Bytes,
    /// Start and length in bytes of each record within `buffer`, terminators not included.
    pub ranges: Vec<(u32, u32)>,
    /// What their framer knows that each of them needs to be understood, such as the header line of a CSV file;
    /// empty for formats whose records explain themselves.
    pub preamble: Bytes,
}

impl Records {
    /// Records that explain themselves. Ranges are start and length in bytes within `buffer`.
    pub fn new(buffer: Bytes, ranges: Vec<(u32, u32)>) -> Self {
        Self { buffer, ranges, preamble: Bytes::new() }
    }

    /// The bytes of record `index`.
    pub fn get(&self, index: usize) -> &[u8] {
        let (start, length) = self.ranges[index];
        &self.buffer[start as usize..start as usize + length as usize]
    }
    /// How many records.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
}

/// Attributes of records, a value a record; absent ones read as NULL.
#[derive(Debug, Clone, Default)]
pub struct Attributes {
    /// Columns of length `records.len()`, typed as [`Attribute`] says.
    pub columns: Vec<(Attribute, arrow::array::ArrayRef)>,
}

/// Why a record was not admitted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reject {
    /// Index of the record in the decoded [`Records`].
    pub record: u32,
    /// Short stable code for grouping: `json_syntax`, `wrong_type`, `missing`, `invalid_utf8`, `too_deep` ...
    pub reason: &'static str,
    /// One sentence: field path, what was expected, what was found, at which byte.
    pub message: String,
}

/// What decoding yields.
#[derive(Debug, Clone)]
pub struct Decoded {
    /// Rows of the records that fit, in order; schema as [`Decoder::schema`] gives it.
    pub batch: RecordBatch,
    /// For each row, the index of its record.
    pub rows: Vec<u32>,
    /// The others.
    pub rejects: Vec<Reject>,
}

/// Bytes of one format to rows of one contract. Cheap to share between threads.
pub trait Decoder: Send + Sync + fmt::Debug {
    /// The contract's columns in order, then `_extra` (Utf8) where unknown fields are kept and the format can have any.
    fn schema(&self) -> SchemaRef;
    /// Decodes every record; never fails as a whole, never panics on any bytes.
    fn decode(&self, records: &Records, attributes: &Attributes) -> Decoded;
}

/// Cuts a byte stream into records. One framer reads one stream (file) from its start or from a resume point.
pub trait Framer: Send {
    /// Frames `input`, which continues the stream where the last call's consumed bytes ended.
    ///
    /// Returns the records found and how many bytes of `input` are used up; the caller passes the rest
    /// again, with more behind it. With `last` the stream ends here: an unterminated record is a record too.
    /// No more than 4 GiB are looked at in one call.
    fn frame(&mut self, input: &Bytes, last: bool) -> (Records, usize);
    /// What a later framer needs to go on at this point in the stream (a CSV header, say); opaque.
    fn resume_token(&self) -> Vec<u8>;
}

/// A format that sources can name.
pub type FormatRef = Arc<dyn Format>;

/// How bytes of one kind are framed and decoded.
pub trait Format: Send + Sync + fmt::Debug {
    /// As written in `format = "..."`.
    fn name(&self) -> &'static str;
    /// A framer for a new stream, or for one that goes on from [`Framer::resume_token`].
    fn framer(&self, resume: Option<&[u8]>) -> Box<dyn Framer>;
    /// A decoder for records of this format under `contract`.
    fn decoder(&self, contract: &Contract) -> Arc<dyn Decoder>;
}
