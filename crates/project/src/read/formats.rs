//! Stand-in for the contract of access logs.

use arrow::datatypes::{DataType, TimeUnit};
use weir_schemas::{Column, Contract, UnknownFields};

/// The twelve columns of an access log.
pub(crate) fn access_log_contract() -> Contract {
    let text = |name: &str| Column::new(name, DataType::Utf8);
    Contract::new(
        vec![
            text("client_address"),
            text("identity"),
            text("user_name"),
            Column::new("time", DataType::Timestamp(TimeUnit::Microsecond, None)),
            text("request"),
            text("method"),
            text("path"),
            text("protocol"),
            Column::new("status", DataType::Int32),
            Column::new("bytes", DataType::Int64),
            text("referer"),
            text("user_agent"),
        ],
        UnknownFields::Drop,
    )
}
