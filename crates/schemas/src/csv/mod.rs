//! CSV as RFC 4180 has it: a header line, quotes, line ends within quotes.

mod decode;
mod framer;
mod row;

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::contract::Contract;
use crate::format::{Decoder, Format, Framer};

pub(crate) use decode::csv_cells;

/// How a CSV file differs from the standard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CsvOptions {
    /// Between two fields; an ASCII character that is neither a quote nor a line end.
    pub delimiter: u8,
    /// Names of the fields, for files without a header line: their first line is a record then.
    pub header: Option<Vec<String>>,
    /// Texts that mean NULL where they stand unquoted. A field with nothing in it always does.
    pub null: Vec<String>,
    /// How dates and times are written beside ISO 8601, in chrono's notation; tried in this order.
    pub time_formats: Vec<String>,
    /// The same for single columns, by their name in the contract; tried before `time_formats`.
    pub column_time_formats: BTreeMap<String, Vec<String>>,
}

impl Default for CsvOptions {
    fn default() -> Self {
        Self {
            delimiter: b',',
            header: None,
            null: Vec::new(),
            time_formats: Vec::new(),
            column_time_formats: BTreeMap::new(),
        }
    }
}

/// `format = "csv"`.
///
/// A column is matched with the header by its path (`user.id` is the field of that very name), first exactly, then in any
/// case. A field with nothing in it is NULL; `""` is the empty text, or NULL in a column that is no text. Numbers may have
/// zeros in front; times are as in [`crate::JsonFormat`] or as the options say. What the contract does not name goes to
/// `_extra` as `{"name":"text"}`, if kept.
///
/// A quote that does not end, or ends in the middle of a field, spoils its own line (`csv_syntax`); the next line is read
/// as if nothing had been.
#[derive(Debug, Clone, Default)]
pub struct CsvFormat {
    options: Arc<CsvOptions>,
}

impl CsvFormat {
    /// CSV as `options` say.
    pub fn new(options: CsvOptions) -> Self {
        Self { options: Arc::new(options) }
    }
}

impl Format for CsvFormat {
    fn name(&self) -> &'static str {
        "csv"
    }
    fn framer(&self, resume: Option<&[u8]>) -> Box<dyn Framer> {
        Box::new(framer::CsvFramer::new(self.options.delimiter, self.options.header.is_none(), resume))
    }
    fn decoder(&self, contract: &Contract) -> Arc<dyn Decoder> {
        Arc::new(decode::CsvDecoder::new(contract, Arc::clone(&self.options)))
    }
}
