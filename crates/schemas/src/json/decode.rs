//! Decodes JSON records straight into columns, in one pass over their bytes.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use arrow::array::ArrayRef;
use arrow::datatypes::{DataType, SchemaRef};

use crate::assemble::{AttributeColumns, assemble, schema_of};
use crate::columns::{ColumnBuilder, Values};
use crate::contract::{Contract, Origin, UnknownFields};
use crate::format::{Attributes, Decoded, Decoder, Records, Reject};
use crate::json::cursor::Cursor;
use crate::json::problem::{Outcome, Problem, Step};
use crate::json::value::{missing, read_key, read_value};
use crate::keys::Keys;
use crate::utf8::{Refusal, Utf8Records};

/// Decodes records that are JSON objects. See [`crate::JsonFormat`] for how values are read.
#[derive(Debug)]
pub(crate) struct JsonDecoder {
    contract: Contract,
    schema: SchemaRef,
}

impl JsonDecoder {
    pub fn new(contract: &Contract) -> Self {
        Self { contract: contract.clone(), schema: schema_of(contract) }
    }
}

impl Decoder for JsonDecoder {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn decode(&self, records: &Records, attributes: &Attributes) -> Decoded {
        let attributes = AttributeColumns::new(&self.contract, attributes, records.len());
        let mut pass = Pass::new(&self.contract, records.len());
        let text = Utf8Records::new(records);
        let mut rows = Vec::with_capacity(records.len());
        let mut rejects = Vec::new();
        for index in 0..records.len() {
            let row = rows.len();
            let outcome = match attributes.reject(index) {
                Some(reject) => Err(reject),
                None => text.get(index).and_then(|record| pass.record(record, row)).map_err(|problem| Reject {
                    record: index as u32,
                    reason: problem.0,
                    message: problem.1,
                }),
            };
            match outcome {
                Ok(()) => rows.push(index as u32),
                Err(reject) => rejects.push(reject),
            }
        }
        assemble(&self.schema, pass.finish(), &attributes, rows, rejects)
    }
}

/// One run over a batch of records.
struct Pass<'a> {
    contract: &'a Contract,
    /// Those of the contract that come from fields, in order.
    columns: Vec<ColumnBuilder>,
    /// For each of them its name and whether it is required.
    required: Vec<bool>,
    plan: ObjectPlan,
    extra: Option<ColumnBuilder>,
    /// Of the present record.
    unknown: Vec<UnknownField>,
}

/// Where an unknown field stands in its record.
struct UnknownField {
    /// In its quotes.
    key: Range<usize>,
    value: Range<usize>,
}

/// What is wanted of an object.
struct ObjectPlan {
    keys: Keys,
    fields: Vec<FieldPlan>,
}

/// What is wanted of a field: values for columns, or something further down.
#[derive(Default)]
struct FieldPlan {
    name: String,
    columns: Vec<usize>,
    below: Option<ObjectPlan>,
    /// Every column that gets its value here or below.
    all: Vec<usize>,
}

impl ObjectPlan {
    /// A plan for columns by their paths.
    fn new(paths: &[(usize, &[String])]) -> Self {
        let mut names: Vec<&str> = Vec::new();
        for (_, path) in paths {
            if let Some(name) = path.first().filter(|name| !names.contains(&name.as_str())) {
                names.push(name);
            }
        }
        let fields = names.iter().map(|name| {
            let of_field = paths.iter().filter(|(_, path)| path.first().is_some_and(|it| it == name));
            let mut field = FieldPlan { name: (*name).to_string(), ..FieldPlan::default() };
            let mut deeper: Vec<(usize, &[String])> = Vec::new();
            for (column, path) in of_field {
                field.all.push(*column);
                match &path[1..] {
                    [] => field.columns.push(*column),
                    rest => deeper.push((*column, rest)),
                }
            }
            field.below = (!deeper.is_empty()).then(|| Self::new(&deeper));
            field
        });
        let fields = fields.collect();
        Self { keys: Keys::new(names.into_iter()), fields }
    }
}

impl<'a> Pass<'a> {
    fn new(contract: &'a Contract, record_count: usize) -> Self {
        let mut columns = Vec::new();
        let mut required = Vec::new();
        let mut paths: Vec<(usize, &[String])> = Vec::new();
        for column in &contract.columns {
            if let Origin::Field(path) = &column.origin {
                paths.push((columns.len(), path));
                columns.push(ColumnBuilder::new(&column.data_type, record_count));
                required.push(column.required);
            }
        }
        let plan = ObjectPlan::new(&paths);
        let extra =
            (contract.unknown == UnknownFields::Keep).then(|| ColumnBuilder::new(&DataType::Utf8, record_count));
        Self { contract, columns, required, plan, extra, unknown: Vec::new() }
    }

    /// Appends one record, or says why not and leaves the columns as they were.
    #[inline]
    fn record(&mut self, record: &[u8], row: usize) -> Result<(), Refusal> {
        let record = record.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(record);
        self.try_record(record, row).map_err(|problem| {
            for column in self.columns.iter_mut().chain(&mut self.extra) {
                column.truncate(row);
            }
            refusal(record, *problem)
        })
    }

    #[inline]
    fn try_record(&mut self, record: &[u8], row: usize) -> Outcome {
        let mut cursor = Cursor::new(record);
        self.unknown.clear();
        if cursor.peek() != b'{' {
            cursor.skip()?;
            return Err(Problem::of_value("wrong_type", "a record is a JSON object".to_string(), 0));
        }
        let mut reader = ObjectReader {
            columns: &mut self.columns,
            row,
            unknown: self.contract.unknown,
            unknown_fields: &mut self.unknown,
        };
        reader.read(&mut cursor, &mut self.plan, true)?;
        cursor.end()?;
        for (index, column) in self.columns.iter_mut().enumerate() {
            if column.len() == row {
                column.append_null();
            }
            if self.required[index] && !column.is_valid(row) {
                let field_columns = self.contract.columns.iter().filter(|it| matches!(it.origin, Origin::Field(_)));
                let path = field_columns.map(|it| it.origin.to_string()).nth(index).unwrap_or_default();
                return Err(missing().within(Step::Field(path)));
            }
        }
        match &mut self.extra {
            Some(extra) if self.unknown.is_empty() => extra.append_null(),
            Some(extra) => append_extra(extra, record, &self.unknown)?,
            None => {}
        }
        Ok(())
    }

    fn finish(self) -> Vec<ArrayRef> {
        self.columns.into_iter().chain(self.extra).map(ColumnBuilder::finish).collect()
    }
}

/// Reads the record's object, and those below it that paths lead through.
struct ObjectReader<'a> {
    columns: &'a mut [ColumnBuilder],
    row: usize,
    unknown: UnknownFields,
    unknown_fields: &'a mut Vec<UnknownField>,
}

impl ObjectReader<'_> {
    fn read(&mut self, cursor: &mut Cursor<'_>, plan: &mut ObjectPlan, top: bool) -> Outcome {
        cursor.enter()?;
        if cursor.peek() == b'}' {
            cursor.leave();
            return Ok(());
        }
        let mut position = 0;
        loop {
            let (field, key) = read_key(cursor, &mut plan.keys, position)?;
            match field {
                Some(field) => {
                    let field = &mut plan.fields[field];
                    self.known_field(cursor, field).map_err(|it| it.within(Step::Field(field.name.clone())))?;
                }
                None => self.unknown_field(cursor, key, top)?,
            }
            position += 1;
            if !cursor.another(b'}')? {
                return Ok(());
            }
        }
    }

    #[inline]
    fn known_field(&mut self, cursor: &mut Cursor<'_>, field: &mut FieldPlan) -> Outcome {
        if let ([column], None) = (field.columns.as_slice(), &field.below) {
            let column = &mut self.columns[*column];
            if column.len() > self.row {
                column.truncate(self.row);
            }
            return read_value(cursor, column);
        }
        for column in &field.all {
            self.columns[*column].truncate(self.row);
        }
        let start = *cursor;
        for column in &field.columns {
            *cursor = start;
            read_value(cursor, &mut self.columns[*column])?;
        }
        if let Some(below) = &mut field.below {
            *cursor = start;
            match cursor.peek() {
                b'{' => self.read(cursor, below, false)?,
                b'n' => cursor.word("null")?,
                _ => {
                    let at = cursor.at;
                    cursor.skip()?;
                    return Err(Problem::of_value("wrong_type", "expected an object".to_string(), at));
                }
            }
        }
        Ok(())
    }

    #[inline]
    fn unknown_field(&mut self, cursor: &mut Cursor<'_>, key: Range<usize>, top: bool) -> Outcome {
        let value = cursor.skip()?;
        match self.unknown {
            UnknownFields::Keep if top => {
                let value = cursor.at - value.len()..cursor.at;
                self.unknown_fields.push(UnknownField { key, value });
                Ok(())
            }
            UnknownFields::Refuse if top => {
                let name = String::from_utf8_lossy(&cursor.bytes[key.start + 1..key.end - 1]).into_owned();
                let message = "the contract does not name this field, and refuses others".to_string();
                Err(Problem::of_record("unknown_field", message).within(Step::Field(name)))
            }
            _ => Ok(()),
        }
    }
}

/// Appends the unknown fields as one JSON object: keys and values as they were written, blanks between tokens left out.
fn append_extra(extra: &mut ColumnBuilder, record: &[u8], fields: &[UnknownField]) -> Outcome {
    let Values::Text(values) = &mut extra.values else { return Ok(()) };
    let mut repeated = vec![false; fields.len()];
    if fields.len() > 1 {
        let mut seen = HashSet::with_capacity(fields.len());
        for (index, field) in fields.iter().enumerate().rev() {
            repeated[index] = !seen.insert(&record[field.key.clone()]);
        }
    }
    let mut separator = b'{';
    for (field, repeated) in fields.iter().zip(repeated) {
        if !repeated {
            values.bytes.push(separator);
            values.bytes.extend_from_slice(&record[field.key.clone()]);
            values.bytes.push(b':');
            write_compact(&record[field.value.clone()], &mut values.bytes);
            separator = b',';
        }
    }
    values.bytes.push(b'}');
    if !values.close() {
        return Err(Problem::of_record("too_large", "the batch has no room for more in _extra".to_string()));
    }
    extra.nulls.append_non_null();
    Ok(())
}

/// Appends JSON text without the blanks between its tokens.
fn write_compact(value: &[u8], out: &mut Vec<u8>) {
    if !matches!(value.first(), Some(b'{' | b'[')) {
        out.extend_from_slice(value);
        return;
    }
    let (mut in_string, mut escape) = (false, false);
    for &byte in value {
        if in_string {
            in_string = escape || byte != b'"';
            escape = !escape && byte == b'\\';
        } else {
            if matches!(byte, b' ' | b'\n' | b'\t' | b'\r') {
                continue;
            }
            in_string = byte == b'"';
        }
        out.push(byte);
    }
}

/// Appends a value written as JSON text in a cell of another format.
pub(crate) fn read_json_cell(text: &[u8], column: &mut ColumnBuilder) -> Result<(), Refusal> {
    let mut cursor = Cursor::new(text);
    read_value(&mut cursor, column).and_then(|()| cursor.end()).map_err(|problem| refusal(text, *problem))
}

/// What to tell of a record. A record that is no JSON is told so, even if something was wrong with a value before.
#[cold]
fn refusal(record: &[u8], problem: Problem) -> Refusal {
    if !problem.is_about_values() {
        return (problem.reason, problem.sentence(None));
    }
    let mut cursor = Cursor::new(record);
    if let Err(syntax) = cursor.skip().and_then(|_| cursor.end()) {
        return (syntax.reason, syntax.sentence(None));
    }
    let found = problem.value_at.and_then(|at| {
        let mut cursor = Cursor { bytes: record, at, depth: 0 };
        cursor.skip().ok().map(|value| String::from_utf8_lossy(value).into_owned())
    });
    (problem.reason, problem.sentence(found.as_deref()))
}
