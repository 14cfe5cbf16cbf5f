//! Rows to bytes: JSON, CSV or an Arrow IPC stream, batch by batch.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{EncoderOptions, make_encoder};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::backend::Failure;

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// `{"epoch": 7, "columns": [{"name", "type"}], "rows": [{...}]}`; a failure in the middle adds `"error"`.
    Json,
    /// RFC 4180 with a header line; nested values as JSON text. A failure in the middle breaks the answer off.
    Csv,
    /// The Arrow IPC streaming format. A failure in the middle breaks the answer off.
    Arrow,
}

impl Encoding {
    /// Of the media types in an `Accept` header, the first that is known; JSON when anything will do.
    pub(crate) fn accepted(accept: &str) -> Option<Self> {
        accept.split(',').find_map(|part| {
            let essence = part.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
            match essence.as_str() {
                "" | "*/*" | "application/*" | "application/json" => Some(Self::Json),
                "text/csv" | "text/*" => Some(Self::Csv),
                "application/vnd.apache.arrow.stream" => Some(Self::Arrow),
                _ => None,
            }
        })
    }

    /// The `Content-Type`.
    pub(crate) fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

/// Writes one answer.
pub(crate) enum RowWriter {
    Json { epoch: u64, schema: SchemaRef, rows: u64 },
    Csv { schema: SchemaRef, begun: bool },
    Arrow(Box<StreamWriter<Vec<u8>>>),
}

impl RowWriter {
    pub fn new(encoding: Encoding, epoch: u64, schema: SchemaRef) -> Result<Self, ArrowError> {
        Ok(match encoding {
            Encoding::Json => Self::Json { epoch, schema, rows: 0 },
            Encoding::Csv => Self::Csv { schema, begun: false },
            Encoding::Arrow => Self::Arrow(Box::new(StreamWriter::try_new(Vec::new(), &schema)?)),
        })
    }

    /// What comes before the first row.
    pub fn start(&mut self) -> Result<Bytes, ArrowError> {
        match self {
            Self::Json { epoch, schema, .. } => {
                let columns: Vec<serde_json::Value> = schema
                    .fields()
                    .iter()
                    .map(|field| serde_json::json!({ "name": field.name(), "type": field.data_type().to_string() }))
                    .collect();
                let columns = serde_json::Value::from(columns);
                Ok(format!("{{\"epoch\":{epoch},\"columns\":{columns},\"rows\":[").into())
            }
            Self::Csv { schema, .. } => {
                let empty = RecordBatch::new_empty(Arc::clone(schema));
                self.batch(&empty)
            }
            Self::Arrow(writer) => Ok(std::mem::take(writer.get_mut()).into()),
        }
    }

    /// The bytes of a batch.
    pub fn batch(&mut self, batch: &RecordBatch) -> Result<Bytes, ArrowError> {
        match self {
            Self::Json { rows, .. } => {
                let mut bytes = Vec::with_capacity(batch.num_rows() * batch.num_columns() * 16);
                json_rows(batch, *rows == 0, &mut bytes)?;
                *rows += batch.num_rows() as u64;
                Ok(bytes.into())
            }
            Self::Csv { begun, .. } => {
                let mut bytes = Vec::with_capacity(batch.num_rows() * batch.num_columns() * 16);
                let mut writer = arrow::csv::WriterBuilder::new().with_header(!*begun).build(&mut bytes);
                writer.write(&with_nested_as_text(batch)?)?;
                drop(writer);
                *begun = true;
                Ok(bytes.into())
            }
            Self::Arrow(writer) => {
                writer.write(batch)?;
                Ok(std::mem::take(writer.get_mut()).into())
            }
        }
    }

    /// What comes behind the last row; none when a failure cannot be told but by breaking off.
    pub fn end(&mut self, failure: Option<&Failure>) -> Result<Option<Bytes>, ArrowError> {
        match (self, failure) {
            (Self::Json { .. }, None) => Ok(Some(Bytes::from_static(b"]}"))),
            (Self::Json { .. }, Some(failure)) => {
                let error = serde_json::json!(failure);
                Ok(Some(format!("],\"error\":{error}}}").into()))
            }
            (_, Some(_)) => Ok(None),
            (Self::Csv { .. }, None) => Ok(Some(Bytes::new())),
            (Self::Arrow(writer), None) => {
                writer.finish()?;
                Ok(Some(std::mem::take(writer.get_mut()).into()))
            }
        }
    }
}

/// Appends the rows of `batch` as JSON objects with commas between; NULL is written as `null`.
pub(crate) fn json_rows(batch: &RecordBatch, mut first: bool, bytes: &mut Vec<u8>) -> Result<(), ArrowError> {
    let options = EncoderOptions::default().with_explicit_nulls(true);
    let schema = batch.schema();
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (field, array) in schema.fields().iter().zip(batch.columns()) {
        let mut name = Vec::with_capacity(field.name().len() + 3);
        // A string always serialises.
        let _ = serde_json::to_writer(&mut name, field.name());
        name.push(b':');
        columns.push((name, make_encoder(field, array, &options)?));
    }
    for row in 0..batch.num_rows() {
        if !first {
            bytes.push(b',');
        }
        first = false;
        bytes.push(b'{');
        for (index, (name, encoder)) in columns.iter_mut().enumerate() {
            if index > 0 {
                bytes.push(b',');
            }
            bytes.extend_from_slice(name);
            if encoder.is_null(row) {
                bytes.extend_from_slice(b"null");
            } else {
                encoder.encode(row, bytes);
            }
        }
        bytes.push(b'}');
    }
    Ok(())
}

fn with_nested_as_text(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let schema = batch.schema();
    if !schema.fields().iter().any(|field| field.data_type().is_nested()) {
        return Ok(batch.clone());
    }
    let mut fields = Vec::new();
    let mut columns: Vec<ArrayRef> = Vec::new();
    for (field, array) in schema.fields().iter().zip(batch.columns()) {
        if !field.data_type().is_nested() {
            fields.push(Arc::clone(field));
            columns.push(Arc::clone(array));
            continue;
        }
        let options = EncoderOptions::default().with_explicit_nulls(true);
        let mut encoder = make_encoder(field, array, &options)?;
        let mut text = StringBuilder::new();
        let mut bytes = Vec::new();
        for row in 0..array.len() {
            if encoder.is_null(row) {
                text.append_null();
                continue;
            }
            bytes.clear();
            encoder.encode(row, &mut bytes);
            text.append_value(String::from_utf8_lossy(&bytes));
        }
        fields.push(Arc::new(Field::new(field.name(), DataType::Utf8, true)));
        columns.push(Arc::new(text.finish()));
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}
