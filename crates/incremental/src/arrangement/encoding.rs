//! Rows as bytes: equal rows have equal bytes, and bytes order as rows do (NULLs first).
//!
//! A thin layer over `arrow_row`, which encodes column by column, so that the bytes of a row are the bytes of its
//! first columns followed by those of its last. No encoding of a value is a prefix of another of the same type.

use super::canonical::{canonical_floats, has_floats};
use arrow::array::ArrayRef;
use arrow::compute::{SortOptions, cast};
use arrow::datatypes::DataType;
use arrow::error::ArrowError;
use arrow_row::{RowConverter, RowParser, Rows, SortField};

/// Turns columns of fixed types into rows of bytes and back.
pub struct RowEncoding {
    converter: RowConverter,
    parser: RowParser,
    types: Vec<DataType>,
    floats: bool,
}

/// Encoded rows.
#[derive(Default)]
pub struct EncodedRows {
    rows: Option<Rows>,
    len: usize,
}

impl EncodedRows {
    /// Number of rows.
    pub fn len(&self) -> usize {
        self.len
    }

    /// The bytes of a row.
    pub fn get(&self, row: usize) -> &[u8] {
        self.rows.as_ref().map_or(&[], |rows| rows.row(row).data())
    }
}

impl RowEncoding {
    /// An encoding of rows of these column types.
    pub fn new(types: Vec<DataType>) -> Result<Self, ArrowError> {
        Self::ordered(types.into_iter().map(|data_type| (data_type, SortOptions::default())).collect())
    }

    /// An encoding whose bytes order as these columns do with these options.
    pub fn ordered(columns: Vec<(DataType, SortOptions)>) -> Result<Self, ArrowError> {
        let fields = columns.iter().map(|(t, options)| SortField::new_with_options(t.clone(), *options)).collect();
        let types: Vec<DataType> = columns.into_iter().map(|(data_type, _)| data_type).collect();
        let converter = RowConverter::new(fields)?;
        let parser = converter.parser();
        let floats = types.iter().any(has_floats);
        Ok(Self { converter, parser, types, floats })
    }

    /// Encodes `len` rows.
    pub fn encode(&self, columns: &[ArrayRef], len: usize) -> Result<EncodedRows, ArrowError> {
        if self.types.is_empty() {
            return Ok(EncodedRows { rows: None, len });
        }
        let rows = if self.floats {
            let columns = columns.iter().map(canonical_floats).collect::<Result<Vec<_>, _>>()?;
            self.converter.convert_columns(&columns)?
        } else {
            self.converter.convert_columns(columns)?
        };
        Ok(EncodedRows { rows: Some(rows), len })
    }

    /// The columns of encoded rows.
    pub fn decode<'a>(&'a self, rows: impl IntoIterator<Item = &'a [u8]>) -> Result<Vec<ArrayRef>, ArrowError> {
        if self.types.is_empty() {
            return Ok(Vec::new());
        }
        let columns = self.converter.convert_rows(rows.into_iter().map(|bytes| self.parser.parse(bytes)))?;
        // A dictionary comes back as its values.
        let typed = columns.into_iter().zip(&self.types);
        typed.map(|(column, to)| if column.data_type() == to { Ok(column) } else { cast(&column, to) }).collect()
    }
}
