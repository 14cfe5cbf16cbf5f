//! Data contracts and the formats under them: bytes to Arrow and back.
//!
//! A [`Contract`] says which columns a record has. A [`Framer`] cuts a byte stream into [`Records`]; a
//! [`Decoder`] turns records into an Arrow batch and says of every record that does not fit why.
//! This crate does not know where bytes come from.

use std::fmt;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, SchemaRef};
use bytes::Bytes;

/// What to do with fields of a record that the contract does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownFields {
    /// Keep them as a JSON object (text) in the column `_extra`, NULL when there are none.
    #[default]
    Keep,
    /// Ignore them.
    Drop,
    /// The record is rejected.
    Refuse,
}

/// Where a column's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A field of the record by path: `user.id` is `["user", "id"]`.
    Field(Vec<String>),
    /// Something the source knows of the record and its bytes do not say (`from = "@client_address"`).
    Attribute(Attribute),
}

/// What a source may know of a record beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// When it was received: TIMESTAMP, UTC.
    Arrival,
    /// Address of the client that sent it: TEXT.
    ClientAddress,
    /// The `User-Agent` header: TEXT.
    UserAgent,
    /// The `Referer` header: TEXT.
    Referer,
    /// Name of the file, relative to the source's folder: TEXT.
    File,
}

/// One column of a contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Name in SQL.
    pub name: String,
    /// Arrow type, one of those of the type table (`types` module).
    pub data_type: DataType,
    /// NULL or missing is a breach.
    pub required: bool,
    /// Where the value is found.
    pub origin: Origin,
    /// Personal data, for those who ask.
    pub personal: bool,
}

/// The columns of a source and what happens to other fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Contract {
    /// In declared order.
    pub columns: Vec<Column>,
    /// Fields beside the columns.
    pub unknown: UnknownFields,
}

/// Raw records in one buffer: what a source read, before decoding.
#[derive(Debug, Clone, Default)]
pub struct Records {
    /// The bytes that the ranges point into.
    pub buffer: Bytes,
    /// Start and length in bytes of each record within `buffer`, terminators not included.
    pub ranges: Vec<(u32, u32)>,
}

impl Records {
    /// The bytes of record `index`.
    pub fn get(&self, index: usize) -> &[u8] {
        let (start, length) = self.ranges[index];
        &self.buffer[start as usize..(start + length) as usize]
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
    /// The contract's columns in order, then `_extra` (Utf8) where unknown fields are kept.
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
