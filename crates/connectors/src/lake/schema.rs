//! Arrow schemas as Delta schemas, and back exactly.
//!
//! Delta's schema has fewer types than Arrow's, so the exact Arrow schema is kept beside it, as an Arrow IPC message
//! in the table property `weir.schema`.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, TimeUnit};
use arrow::error::ArrowError;
use arrow::ipc::convert::try_schema_from_ipc_buffer;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use deltalake::kernel::StructType;
use parquet::arrow::encode_arrow_schema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::LakeError;

/// The Delta schema (its JSON form) of an Arrow schema. All columns are nullable, so that other engines need no
/// invariants to append.
pub(crate) fn delta_schema(schema: &Schema) -> Result<Value, LakeError> {
    let fields = schema.fields().iter().map(|field| delta_field(field, field.name())).collect::<Result<Vec<_>, _>>()?;
    let schema = json!({ "type": "struct", "fields": fields });
    // What Delta's own reader would not take (names that differ only in case, say) must never be in a log.
    StructType::deserialize(&schema).map_err(|error| {
        let problem = error.to_string();
        LakeError::Schema(format!("not a schema for a lake table: {}", problem.lines().next().unwrap_or_default()))
    })?;
    Ok(schema)
}

fn delta_field(field: &Field, path: &str) -> Result<Value, LakeError> {
    Ok(json!({
        "name": field.name(),
        "type": delta_type(field.data_type(), path)?,
        "nullable": true,
        "metadata": {},
    }))
}

fn delta_type(data_type: &DataType, path: &str) -> Result<Value, LakeError> {
    Ok(match data_type {
        DataType::Boolean => json!("boolean"),
        DataType::Int8 => json!("byte"),
        DataType::Int16 => json!("short"),
        DataType::Int32 => json!("integer"),
        DataType::Int64 => json!("long"),
        DataType::Float32 => json!("float"),
        DataType::Float64 => json!("double"),
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => json!("string"),
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView | DataType::FixedSizeBinary(_) => {
            json!("binary")
        }
        DataType::Date32 => json!("date"),
        DataType::Timestamp(TimeUnit::Microsecond, None) => json!("timestamp_ntz"),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => json!("timestamp"),
        DataType::Decimal128(precision, scale) if *scale >= 0 && *scale as u8 <= *precision => {
            json!(format!("decimal({precision},{scale})"))
        }
        DataType::List(item) | DataType::LargeList(item) => json!({
            "type": "array",
            "elementType": delta_type(item.data_type(), &format!("{path}[]"))?,
            "containsNull": true,
        }),
        DataType::Struct(fields) => {
            let fields = fields
                .iter()
                .map(|field| delta_field(field, &format!("{path}.{}", field.name())))
                .collect::<Result<Vec<_>, _>>()?;
            json!({ "type": "struct", "fields": fields })
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => json!({
                "type": "map",
                "keyType": delta_type(pair[0].data_type(), &format!("{path}.key"))?,
                "valueType": delta_type(pair[1].data_type(), &format!("{path}.value"))?,
                "valueContainsNull": true,
            }),
            _ => return Err(unsupported(path, data_type)),
        },
        _ => return Err(unsupported(path, data_type)),
    })
}

fn unsupported(path: &str, data_type: &DataType) -> LakeError {
    LakeError::Schema(format!("column `{path}` has the type {data_type}, which a lake table cannot hold"))
}

/// Whether the schema has a timestamp without zone anywhere, which Delta wants announced as a table feature.
pub(crate) fn has_timestamp_ntz(schema: &Schema) -> bool {
    fn within(data_type: &DataType) -> bool {
        match data_type {
            DataType::Timestamp(_, None) => true,
            DataType::List(item) | DataType::LargeList(item) | DataType::Map(item, _) => within(item.data_type()),
            DataType::Struct(fields) => fields.iter().any(|field| within(field.data_type())),
            _ => false,
        }
    }
    schema.fields().iter().any(|field| within(field.data_type()))
}

/// An Arrow schema as text.
pub(crate) fn encode_schema(schema: &Schema) -> String {
    encode_arrow_schema(schema)
}

/// What [`encode_schema`] wrote.
pub(crate) fn decode_schema(text: &str) -> Result<SchemaRef, LakeError> {
    let bytes =
        STANDARD.decode(text).map_err(|error| LakeError::Schema(format!("table property weir.schema: {error}")))?;
    let schema = try_schema_from_ipc_buffer(&bytes)
        .map_err(|error| LakeError::Schema(format!("table property weir.schema: {error}")))?;
    Ok(Arc::new(schema))
}

/// Whether rows of `new` may go into a table of `old`: columns may be added, none may go or change its type.
pub(crate) fn check_evolution(old: &Schema, new: &Schema) -> Result<(), LakeError> {
    for field in old.fields() {
        match new.column_with_name(field.name()) {
            Some((_, found)) if found.data_type() == field.data_type() => {}
            Some((_, found)) => {
                return Err(LakeError::Schema(format!(
                    "column `{}` is {} in the lake and {} now; drop the relation or rebuild it",
                    field.name(),
                    field.data_type(),
                    found.data_type()
                )));
            }
            None => {
                return Err(LakeError::Schema(format!(
                    "column `{}` is in the lake and not in the relation any more; drop the relation or rebuild it",
                    field.name()
                )));
            }
        }
    }
    Ok(())
}

/// The batch with exactly the columns and types of `schema`, by name; missing columns are NULL.
pub(crate) fn conform(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, ArrowError> {
    if batch.schema_ref() == schema {
        return Ok(batch.clone());
    }
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => {
                cast_with_options(column, field.data_type(), &CastOptions { safe: false, ..Default::default() })
            }
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect::<Result<Vec<ArrayRef>, _>>()?;
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    RecordBatch::try_new_with_options(schema.clone(), columns, &options)
}
