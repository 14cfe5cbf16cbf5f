//! Puts decoded columns, attributes and rejects together into what a decoder yields. Shared by all formats.

use std::sync::Arc;

use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions, UInt32Array, new_null_array};
use arrow::compute::{cast, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};

use crate::contract::{Attribute, Column, Contract, Origin, UnknownFields};
use crate::format::{Attributes, Decoded, Reject};

/// Name of the column that keeps fields which the contract does not name.
pub(crate) const EXTRA_COLUMN: &str = "_extra";

/// A contract's columns as a schema, `_extra` behind them where unknown fields are kept.
pub(crate) fn schema_of(contract: &Contract) -> SchemaRef {
    let mut fields: Vec<Field> = contract
        .columns
        .iter()
        .map(|column| Field::new(&column.name, column.data_type.clone(), !column.required))
        .collect();
    if contract.unknown == UnknownFields::Keep {
        fields.push(Field::new(EXTRA_COLUMN, DataType::Utf8, true));
    }
    Arc::new(Schema::new(fields))
}

/// The columns of a contract that come from attributes.
pub(crate) struct AttributeColumns<'a> {
    /// By place in the contract.
    columns: Vec<(usize, &'a Column, ArrayRef)>,
}

impl<'a> AttributeColumns<'a> {
    pub fn new(contract: &'a Contract, attributes: &Attributes, record_count: usize) -> Self {
        let mut columns = Vec::new();
        for (index, column) in contract.columns.iter().enumerate() {
            if let Origin::Attribute(attribute) = column.origin {
                columns.push((index, column, attribute_values(attribute, column, attributes, record_count)));
            }
        }
        Self { columns }
    }

    /// Why `record` is rejected for what is not known of it.
    pub fn reject(&self, record: usize) -> Option<Reject> {
        let (_, column, _) =
            self.columns.iter().find(|(_, column, values)| column.required && values.is_null(record))?;
        let message = format!("{} is required, but {} is not known of this record", column.name, column.origin);
        Some(Reject { record: record as u32, reason: "missing", message })
    }

    fn take(&self, index: usize, rows: &UInt32Array, record_count: usize) -> Option<ArrayRef> {
        let (_, column, values) = self.columns.iter().find(|(at, ..)| *at == index)?;
        if rows.len() == record_count {
            return Some(Arc::clone(values));
        }
        Some(take(values, rows, None).unwrap_or_else(|_| new_null_array(&column.data_type, rows.len())))
    }
}

fn attribute_values(attribute: Attribute, column: &Column, attributes: &Attributes, record_count: usize) -> ArrayRef {
    attributes
        .columns
        .iter()
        .find(|(known, values)| *known == attribute && values.len() == record_count)
        .and_then(|(_, values)| cast(values, &column.data_type).ok())
        .unwrap_or_else(|| new_null_array(&column.data_type, record_count))
}

/// The batch of `columns`, which are those of the contract that come from the record (in order), then `_extra` if kept.
pub(crate) fn assemble(
    schema: &SchemaRef,
    columns: Vec<ArrayRef>,
    attributes: &AttributeColumns<'_>,
    rows: Vec<u32>,
    rejects: Vec<Reject>,
) -> Decoded {
    let record_count = rows.len() + rejects.len();
    let indices = UInt32Array::from(rows.clone());
    let mut decoded = columns.into_iter();
    let arrays: Vec<ArrayRef> = (0..schema.fields().len())
        .filter_map(|index| attributes.take(index, &indices, record_count).or_else(|| decoded.next()))
        .collect();
    let options = RecordBatchOptions::new().with_row_count(Some(rows.len()));
    let batch = RecordBatch::try_new_with_options(Arc::clone(schema), arrays, &options)
        // Decoders append one value of the declared type a row to every column, and no NULL where it is required.
        .expect("decoded columns fit the contract");
    Decoded { batch, rows, rejects }
}
