//! Reads a table back as rows of the relation's types, so that its checksum can be compared.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, RecordBatch, StringBuilder};
use arrow::compute::cast;
use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use futures::StreamExt;
use tokio_postgres::Transaction;
use weir_incremental::Delta;
use weir_pipeline::sink::SinkError;

use super::shape::{Shape, quote};
use super::{broken, failed};

/// Rows that are decoded at once.
const BATCH_ROWS: usize = 8192;

/// Rows and checksum of the table; None where a column has a type that PostgreSQL does not keep as it came.
pub(super) async fn held(
    transaction: &Transaction<'_>,
    shape: &Shape,
    schema: &SchemaRef,
) -> Result<Option<(i64, u128)>, SinkError> {
    let mut selected = Vec::new();
    for field in schema.fields() {
        let column = quote(field.name());
        // JSON comes back in another order and spelling.
        if field.data_type().is_nested() {
            return Ok(None);
        }
        selected.push(match field.data_type() {
            DataType::Binary => format!("encode({column}, 'hex')"),
            DataType::Timestamp(_, Some(_)) => format!("({column} AT TIME ZONE 'UTC')::text"),
            _ => format!("{column}::text"),
        });
    }
    let forms = "SET LOCAL datestyle TO 'ISO'; SET LOCAL extra_float_digits TO 1";
    transaction.batch_execute(forms).await.map_err(failed)?;
    let select = format!("SELECT {} FROM {}", selected.join(", "), shape.target());
    let none: [&str; 0] = [];
    let rows = transaction.query_raw(select.as_str(), none).await.map_err(failed)?;
    let mut rows = std::pin::pin!(rows.ready_chunks(BATCH_ROWS));
    let (mut count, mut checksum) = (0, 0u128);
    while let Some(chunk) = rows.next().await {
        let mut texts: Vec<StringBuilder> = schema.fields().iter().map(|_| StringBuilder::new()).collect();
        for row in chunk {
            let row = row.map_err(failed)?;
            for (index, text) in texts.iter_mut().enumerate() {
                text.append_option(row.try_get::<_, Option<&str>>(index).map_err(failed)?);
            }
            count += 1;
        }
        let columns = texts.iter_mut().zip(schema.fields());
        let columns = columns.map(|(text, field)| column(Arc::new(text.finish()), field.data_type()));
        let batch = RecordBatch::try_new(schema.clone(), columns.collect::<Result<_, _>>()?).map_err(broken)?;
        let delta = Delta::inserts(batch).checksum().map_err(|error| SinkError::Refused(error.to_string()))?;
        checksum = checksum.wrapping_add(delta);
    }
    Ok(Some((count, checksum)))
}

/// Values of a type from their text.
fn column(text: ArrayRef, data_type: &DataType) -> Result<ArrayRef, SinkError> {
    let nulls = text.null_count();
    let read = match data_type {
        DataType::Utf8 => return Ok(text),
        DataType::Binary => {
            let bytes = text.as_string::<i32>().iter().map(|value| value.map(from_hex));
            return Ok(Arc::new(bytes.collect::<BinaryArray>()));
        }
        DataType::Timestamp(_, Some(_)) => cast(&text, &DataType::Timestamp(TimeUnit::Microsecond, None))
            .and_then(|plain| cast(&plain, &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))))
            .and_then(|instant| cast(&instant, data_type)),
        _ => cast(&text, data_type),
    };
    let values = read.map_err(broken)?;
    // A cast makes NULL of what it cannot read, which is no value to compare.
    if values.null_count() != nulls {
        return Err(SinkError::Refused(format!("a value cannot be read as {data_type}")));
    }
    Ok(values)
}

fn from_hex(digits: &str) -> Vec<u8> {
    let byte = |at: usize| digits.get(at..at + 2).and_then(|digits| u8::from_str_radix(digits, 16).ok());
    (0..digits.len()).step_by(2).filter_map(byte).collect()
}
