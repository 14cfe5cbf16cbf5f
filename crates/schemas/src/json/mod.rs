//! Newline-delimited JSON: a line is a record, a record is an object.

mod cursor;
mod decode;
pub(crate) mod problem;
mod split;
mod value;

use std::sync::Arc;

use crate::contract::Contract;
use crate::format::{Decoder, Format, Framer};
use crate::lines::LineFramer;

pub(crate) use decode::read_json_cell;
pub use split::{SplitError, split_json_events};

/// `format = "json"`.
///
/// How values are read:
/// - whole numbers fit integer columns also when written `1.0` or `1e3`; text never is a number;
/// - DECIMAL reads numbers and text, exactly: a digit too many is `out_of_range`;
/// - TIMESTAMP reads RFC 3339, `YYYY-MM-DD HH:MM:SS[.ffffff]`, `YYYY-MM-DD`, and numbers since 1970, whose unit follows
///   from their size: below 10^11 seconds, below 10^14 milliseconds, below 10^17 microseconds. Times with a zone are
///   turned into UTC, times without are UTC, what is finer than a microsecond is cut off;
/// - DATE reads `YYYY-MM-DD`; BINARY reads base64; MAP reads objects;
/// - of a key that is there twice the last one counts, though every one must fit;
/// - half a surrogate pair (`\ud800`) is no text: `json_syntax`.
#[derive(Debug, Clone, Copy, Default)]
pub struct JsonFormat;

impl Format for JsonFormat {
    fn name(&self) -> &'static str {
        "json"
    }
    fn framer(&self, resume: Option<&[u8]>) -> Box<dyn Framer> {
        Box::new(LineFramer::new(resume))
    }
    fn decoder(&self, contract: &Contract) -> Arc<dyn Decoder> {
        Arc::new(decode::JsonDecoder::new(contract))
    }
}
