//! Rows as text, so that contents can be compared and shown: each row with how often it occurs.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use arrow::array::{Array, AsArray, RecordBatch};
use arrow::datatypes::{DataType, Int64Type, TimeUnit, TimestampMicrosecondType};

/// Each row, its values joined by `|`, with how often it occurs; none occurs zero times.
pub type Rows = BTreeMap<String, i64>;

/// A value that is not there.
pub const NULL: &str = "-";

/// Adds to how often a row occurs.
pub fn add(rows: &mut Rows, row: String, times: i64) {
    match rows.entry(row) {
        Entry::Vacant(entry) => drop((times != 0).then(|| entry.insert(times))),
        Entry::Occupied(mut entry) => {
            *entry.get_mut() += times;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

/// Adds the rows of a batch, each as often as `times` says for it.
pub fn add_batch(rows: &mut Rows, batch: &RecordBatch, columns: &[usize], times: impl Fn(usize) -> i64) {
    for row in 0..batch.num_rows() {
        add(rows, text_of(batch, columns, row), times(row));
    }
}

/// One row as text.
pub fn text_of(batch: &RecordBatch, columns: &[usize], row: usize) -> String {
    let values: Vec<String> = columns.iter().map(|column| value(batch.column(*column).as_ref(), row)).collect();
    values.join("|")
}

fn value(column: &dyn Array, row: usize) -> String {
    if column.is_null(row) {
        return NULL.to_owned();
    }
    match column.data_type() {
        DataType::Int64 => column.as_primitive::<Int64Type>().value(row).to_string(),
        DataType::Timestamp(TimeUnit::Microsecond, _) => {
            column.as_primitive::<TimestampMicrosecondType>().value(row).to_string()
        }
        DataType::Boolean => column.as_boolean().value(row).to_string(),
        DataType::Utf8 => column.as_string::<i32>().value(row).to_owned(),
        DataType::Utf8View => column.as_string_view().value(row).to_owned(),
        DataType::Binary => String::from_utf8_lossy(column.as_binary::<i32>().value(row)).into_owned(),
        DataType::BinaryView => String::from_utf8_lossy(column.as_binary_view().value(row)).into_owned(),
        other => format!("a value of type {other}"),
    }
}

/// The first rows that only one side has, or that it has more often.
pub fn difference(found: &Rows, expected: &Rows) -> Option<String> {
    if found == expected {
        return None;
    }
    let side = |these: &Rows, those: &Rows| {
        let more = these.iter().filter(|(row, times)| **times > those.get(*row).copied().unwrap_or(0));
        let shown: Vec<String> = more.map(|(row, times)| format!("{row} x{times}")).collect();
        format!("{} ({})", shown.len(), shown[..shown.len().min(5)].join(", "))
    };
    Some(format!("too many: {}; missing: {}", side(found, expected), side(expected, found)))
}
