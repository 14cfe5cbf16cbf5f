//! Decodes CSV rows into columns, matched by the header's names.

use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef};

use crate::assemble::{AttributeColumns, assemble, schema_of};
use crate::cells::{TimeFormat, read_cell};
use crate::columns::{ColumnBuilder, Values};
use crate::contract::{Column, Contract, Origin, UnknownFields};
use crate::csv::CsvOptions;
use crate::csv::row::{Field, split_row};
use crate::format::{Attributes, Decoded, Decoder, Records, Reject};
use crate::utf8::{Refusal, Utf8Records};

#[derive(Debug)]
pub(crate) struct CsvDecoder {
    contract: Contract,
    schema: SchemaRef,
    options: Arc<CsvOptions>,
    /// Of the columns that come from fields, in order.
    columns: Vec<CellColumn>,
}

#[derive(Debug)]
struct CellColumn {
    column: Column,
    /// Name of the field in the header.
    field: String,
    times: Vec<TimeFormat>,
}

/// Which field of a row goes where, by the header of its file.
struct Layout {
    names: Vec<String>,
    /// For each column the field it comes from.
    sources: Vec<Option<usize>>,
    /// Fields that no column comes from.
    unknown: Vec<usize>,
}

impl CsvDecoder {
    pub fn new(contract: &Contract, options: Arc<CsvOptions>) -> Self {
        let columns = contract.columns.iter().filter_map(|column| match &column.origin {
            Origin::Field(path) => {
                let of_column = options.column_time_formats.get(&column.name).into_iter().flatten();
                let times = of_column.chain(&options.time_formats).cloned().map(TimeFormat::Pattern).collect();
                Some(CellColumn { column: column.clone(), field: path.join("."), times })
            }
            Origin::Attribute(_) => None,
        });
        let columns = columns.collect();
        Self { contract: contract.clone(), schema: schema_of(contract), options, columns }
    }

    fn layout(&self, header: &[u8]) -> Result<Layout, Refusal> {
        let names = match &self.options.header {
            Some(names) => names.clone(),
            None if header.is_empty() => {
                return Err(("no_header", "the header line that names the fields is not known".to_string()));
            }
            None => {
                let mut fields = Vec::new();
                split_row(header, self.options.delimiter, &mut fields)
                    .map_err(|(reason, message)| (reason, format!("in the header line: {message}")))?;
                let text = |field: &Field| String::from_utf8_lossy(&field.text(header)).trim().to_string();
                fields.iter().map(text).collect()
            }
        };
        let find = |wanted: &str| {
            let exact = names.iter().position(|name| name == wanted);
            exact.or_else(|| names.iter().position(|name| name.to_lowercase() == wanted.to_lowercase()))
        };
        let sources: Vec<Option<usize>> = self.columns.iter().map(|it| find(&it.field)).collect();
        let unknown: Vec<usize> = (0..names.len()).filter(|index| !sources.contains(&Some(*index))).collect();
        if let (UnknownFields::Refuse, Some(first)) = (self.contract.unknown, unknown.first()) {
            let message = format!("the contract does not name the field {:?}, and refuses others", names[*first]);
            return Err(("unknown_field", message));
        }
        Ok(Layout { names, sources, unknown })
    }

    fn append(
        &self,
        row: &[u8],
        layout: &Layout,
        fields: &mut Vec<Field>,
        builders: &mut [ColumnBuilder],
    ) -> Result<(), Refusal> {
        split_row(row, self.options.delimiter, fields)?;
        if fields.len() != layout.names.len() {
            let message = format!("the header has {} fields, this row {}", layout.names.len(), fields.len());
            return Err(("field_count", message));
        }
        for ((wanted, source), builder) in self.columns.iter().zip(&layout.sources).zip(builders.iter_mut()) {
            let field = source.map(|index| &fields[index]).filter(|field| !self.is_null(row, field, &wanted.column));
            match field {
                Some(field) => read_cell(&field.text(row), builder, &wanted.times)
                    .map_err(|(reason, message)| (reason, format!("{}: {message}", wanted.field)))?,
                None if wanted.column.required => {
                    let why = if source.is_some() { "empty" } else { "not in the header" };
                    return Err(("missing", format!("{}: required, but {why}", wanted.field)));
                }
                None => builder.append_null(),
            }
        }
        if let Some(extra) = builders.get_mut(self.columns.len()) {
            self.append_extra(row, layout, fields, extra)?;
        }
        Ok(())
    }

    fn is_null(&self, row: &[u8], field: &Field, column: &Column) -> bool {
        if field.quoted {
            return field.text.is_empty() && column.data_type != DataType::Utf8;
        }
        let text = &row[field.text.clone()];
        text.is_empty() || self.options.null.iter().any(|null| null.as_bytes() == text)
    }

    fn append_extra(
        &self,
        row: &[u8],
        layout: &Layout,
        fields: &[Field],
        extra: &mut ColumnBuilder,
    ) -> Result<(), Refusal> {
        let mut object = serde_json::Map::new();
        for index in &layout.unknown {
            let field = &fields[*index];
            if field.quoted || !field.text.is_empty() {
                let text = String::from_utf8_lossy(&field.text(row)).into_owned();
                object.insert(layout.names[*index].clone(), text.into());
            }
        }
        match &mut extra.values {
            Values::Text(values) if !object.is_empty() => {
                if !values.push(serde_json::Value::Object(object).to_string().as_bytes()) {
                    return Err(("too_large", "the batch has no room for more in _extra".to_string()));
                }
                extra.nulls.append_non_null();
            }
            _ => extra.append_null(),
        }
        Ok(())
    }
}

impl Decoder for CsvDecoder {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn decode(&self, records: &Records, attributes: &Attributes) -> Decoded {
        let attributes = AttributeColumns::new(&self.contract, attributes, records.len());
        let layout = self.layout(&records.preamble);
        let text = Utf8Records::new(records);
        let keep = self.contract.unknown == UnknownFields::Keep;
        let types = self.columns.iter().map(|it| &it.column.data_type).chain(keep.then_some(&DataType::Utf8));
        let mut builders: Vec<ColumnBuilder> = types.map(|it| ColumnBuilder::new(it, records.len())).collect();
        let mut fields = Vec::new();
        let mut rows = Vec::with_capacity(records.len());
        let mut rejects = Vec::new();
        for index in 0..records.len() {
            if let Some(reject) = attributes.reject(index) {
                rejects.push(reject);
                continue;
            }
            let layout = layout.as_ref().map_err(Clone::clone);
            let outcome = text
                .get(index)
                .and_then(|row| layout.and_then(|layout| self.append(row, layout, &mut fields, &mut builders)));
            match outcome {
                Ok(()) => rows.push(index as u32),
                Err((reason, message)) => {
                    builders.iter_mut().for_each(|builder| builder.truncate(rows.len()));
                    rejects.push(Reject { record: index as u32, reason, message });
                }
            }
        }
        let columns = builders.into_iter().map(ColumnBuilder::finish).collect();
        assemble(&self.schema, columns, &attributes, rows, rejects)
    }
}

/// The rows as (name, text) of each field, NULL as `None`; rows that cannot be read are left out.
pub(crate) fn csv_cells(records: &Records, options: &CsvOptions) -> Vec<Vec<(String, Option<String>)>> {
    let decoder = CsvDecoder::new(&Contract::default(), Arc::new(options.clone()));
    let Ok(layout) = decoder.layout(&records.preamble) else { return Vec::new() };
    let mut rows = Vec::new();
    let mut fields = Vec::new();
    for index in 0..records.len() {
        let row = records.get(index);
        if split_row(row, options.delimiter, &mut fields).is_err() || fields.len() != layout.names.len() {
            continue;
        }
        let cells = layout.names.iter().zip(&fields).map(|(name, field)| {
            let text = String::from_utf8_lossy(&field.text(row)).into_owned();
            let null = text.is_empty() || (!field.quoted && options.null.contains(&text));
            (name.clone(), (!null).then_some(text))
        });
        rows.push(cells.collect());
    }
    rows
}
