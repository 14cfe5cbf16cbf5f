//! Data contracts and the formats under them: bytes to Arrow and back.
//!
//! A [`Contract`] says which columns a record has. A [`Framer`] cuts a byte stream into [`Records`]; a
//! [`Decoder`] turns records into an Arrow batch and says of every record that does not fit why.
//! This crate does not know where bytes come from.

mod access_log;
mod assemble;
mod cells;
mod columns;
mod contract;
mod csv;
mod encode;
mod format;
mod infer;
mod json;
mod keys;
mod lines;
pub mod reasons;
mod registry;
mod types;
mod utf8;
mod values;

pub use access_log::{AccessLogFormat, access_log_contract};
pub use contract::{Attribute, Column, Contract, Origin, OriginError, UnknownFields};
pub use csv::{CsvFormat, CsvOptions};
pub use encode::{to_json_rows, write_csv_rows, write_json_rows};
pub use format::{Attributes, Decoded, Decoder, Format, FormatRef, Framer, RECORD_SIZE_MAX, Records, Reject};
pub use infer::{columns_to_toml, infer_columns};
pub use json::{JsonFormat, SplitError, split_json_events};
pub use lines::LineFramer;
pub use registry::{FORMAT_NAMES, FormatOptions, UnknownFormat, format_by_name};
pub use types::{TypeError, parse_sql_type, sql_type_name};
