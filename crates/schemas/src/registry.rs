//! Formats by the names that sources call them by.

use std::sync::Arc;

use crate::access_log::AccessLogFormat;
use crate::csv::{CsvFormat, CsvOptions};
use crate::format::FormatRef;
use crate::json::JsonFormat;
use crate::types::closest;

/// Names of all formats, as written in `format = "..."`.
pub const FORMAT_NAMES: [&str; 3] = ["json", "csv", "access_log"];

/// What may be told of a format beside its name. Options of other formats are ignored.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FormatOptions {
    /// For `csv`.
    pub csv: CsvOptions,
}

/// There is no format of that name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("there is no format {name:?}; {hint}")]
pub struct UnknownFormat {
    /// The name as written.
    pub name: String,
    /// The format that was probably meant, or those there are.
    pub hint: String,
}

/// The format of that name.
pub fn format_by_name(name: &str, options: &FormatOptions) -> Result<FormatRef, UnknownFormat> {
    match name {
        "json" => Ok(Arc::new(JsonFormat)),
        "csv" => Ok(Arc::new(CsvFormat::new(options.csv.clone()))),
        "access_log" => Ok(Arc::new(AccessLogFormat)),
        _ => {
            let hint = match closest(name, FORMAT_NAMES) {
                Some(meant) => format!("did you mean {meant:?}?"),
                None => format!("there are {}", FORMAT_NAMES.join(", ")),
            };
            Err(UnknownFormat { name: name.to_string(), hint })
        }
    }
}
