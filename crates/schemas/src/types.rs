//! The type table: which SQL types columns have, and the Arrow type each of them is.
//!
//! | SQL | also written | Arrow |
//! |---|---|---|
//! | `BOOLEAN` | `BOOL` | Boolean |
//! | `TINYINT` | `INT1` | Int8 |
//! | `SMALLINT` | `INT2` | Int16 |
//! | `INT` | `INTEGER`, `INT4` | Int32 |
//! | `BIGINT` | `INT8`, `LONG` | Int64 |
//! | `REAL` | `FLOAT4` | Float32 |
//! | `DOUBLE` | `DOUBLE PRECISION`, `FLOAT`, `FLOAT8` | Float64 |
//! | `DECIMAL(p, s)` | `NUMERIC`, `DEC`; without (p, s): (38, 10); without s: 0 | Decimal128, 1 <= p <= 38, 0 <= s <= p |
//! | `TEXT` | `VARCHAR`, `STRING`, `CHAR`; a length is read and ignored | Utf8 |
//! | `DATE` | | Date32 |
//! | `TIMESTAMP` | `DATETIME`, `TIMESTAMP WITHOUT TIME ZONE` | Timestamp(µs) |
//! | `TIMESTAMP WITH TIME ZONE` | `TIMESTAMPTZ` | Timestamp(µs, "UTC") |
//! | `BINARY` | `BYTEA`, `VARBINARY`, `BLOB`, `BYTES` | Binary |
//! | `STRUCT<a BIGINT, b TEXT NOT NULL>` | `ROW<...>`, `a: BIGINT` | Struct |
//! | `ARRAY<T>` | `T[]`, `LIST<T>` | List, its field named `item` |
//! | `MAP<TEXT, T>` | | Map, its entries named `entries`, `key`, `value` |
//!
//! Names are read in any case. Types nest up to [`TYPE_DEPTH_MAX`] deep.

use std::sync::Arc;

use arrow::datatypes::{DataType, Field, Fields, TimeUnit};

/// How deep types may nest.
pub const TYPE_DEPTH_MAX: usize = 32;

/// Time zone of `TIMESTAMP WITH TIME ZONE`: instants are kept in UTC.
pub const UTC: &str = "UTC";

/// Why a text is not a SQL type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} at character {position}{}", hint.as_ref().map(|it| format!("; {it}")).unwrap_or_default())]
pub struct TypeError {
    /// Byte within the text, counted from 0, where the mistake is.
    pub position: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead, where that can be guessed.
    pub hint: Option<String>,
}

/// Reads a SQL type (see the module's table).
///
/// Errors say where in `text` the mistake is and, for an unknown name, which one was probably meant.
pub fn parse_sql_type(text: &str) -> Result<DataType, TypeError> {
    let mut parser = Parser { text, at: 0 };
    let data_type = parser.data_type(0)?;
    parser.blanks();
    match parser.at == text.len() {
        true => Ok(data_type),
        false => Err(parser.error(parser.at, format!("unexpected {:?}", &text[parser.at..]), None)),
    }
}

/// The SQL name of an Arrow type, such that [`parse_sql_type`] reads it back.
///
/// A type that is not in the table (one that only a query made) has Arrow's own name.
pub fn sql_type_name(data_type: &DataType) -> String {
    match data_type {
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 => "TINYINT".into(),
        DataType::Int16 => "SMALLINT".into(),
        DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Float32 => "REAL".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Decimal128(precision, scale) => format!("DECIMAL({precision}, {scale})"),
        DataType::Utf8 | DataType::Utf8View | DataType::LargeUtf8 => "TEXT".into(),
        DataType::Binary | DataType::BinaryView | DataType::LargeBinary => "BINARY".into(),
        DataType::Date32 => "DATE".into(),
        DataType::Timestamp(TimeUnit::Microsecond, None) => "TIMESTAMP".into(),
        DataType::Timestamp(TimeUnit::Microsecond, Some(_)) => "TIMESTAMP WITH TIME ZONE".into(),
        DataType::Struct(fields) => {
            let fields: Vec<String> = fields.iter().map(|field| struct_field_name(field)).collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        DataType::List(item) => match item.is_nullable() {
            true => format!("ARRAY<{}>", sql_type_name(item.data_type())),
            false => format!("ARRAY<{} NOT NULL>", sql_type_name(item.data_type())),
        },
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(pair) if pair.len() == 2 => format!(
                "MAP<{}, {}{}>",
                sql_type_name(pair[0].data_type()),
                sql_type_name(pair[1].data_type()),
                if pair[1].is_nullable() { "" } else { " NOT NULL" }
            ),
            other => format!("MAP<{other}>"),
        },
        other => other.to_string(),
    }
}

/// `LIST` of items of `item` type, as every decoder makes them.
pub(crate) fn list_of(item: DataType, nullable: bool) -> DataType {
    DataType::List(Arc::new(Field::new("item", item, nullable)))
}

/// `MAP` from text to `value`, as every decoder makes them.
pub(crate) fn map_of(value: DataType, nullable: bool) -> DataType {
    let pair = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, nullable)]);
    DataType::Map(Arc::new(Field::new("entries", DataType::Struct(pair), false)), false)
}

/// The one of `names` that `word` was probably meant to be.
pub(crate) fn closest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word = word.to_lowercase();
    names
        .into_iter()
        .map(|name| (strsim::jaro_winkler(&word, &name.to_lowercase()), name))
        .filter(|(likeness, _)| *likeness > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| name)
}

fn struct_field_name(field: &Field) -> String {
    let plain = field.name().chars().all(|c| c.is_alphanumeric() || c == '_')
        && field.name().chars().next().is_some_and(|c| !c.is_ascii_digit());
    let name = match plain {
        true => field.name().clone(),
        false => format!("\"{}\"", field.name().replace('"', "\"\"")),
    };
    let not_null = if field.is_nullable() { "" } else { " NOT NULL" };
    format!("{name} {}{not_null}", sql_type_name(field.data_type()))
}

const NAMES: [&str; 35] = [
    "BOOLEAN",
    "BOOL",
    "TINYINT",
    "INT1",
    "SMALLINT",
    "INT2",
    "INT",
    "INTEGER",
    "INT4",
    "BIGINT",
    "INT8",
    "LONG",
    "REAL",
    "FLOAT4",
    "DOUBLE",
    "FLOAT",
    "FLOAT8",
    "DECIMAL",
    "NUMERIC",
    "DEC",
    "TEXT",
    "VARCHAR",
    "STRING",
    "CHAR",
    "DATE",
    "TIMESTAMP",
    "DATETIME",
    "TIMESTAMPTZ",
    "BINARY",
    "BYTEA",
    "VARBINARY",
    "STRUCT",
    "ARRAY",
    "LIST",
    "MAP",
];

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl Parser<'_> {
    fn data_type(&mut self, depth: usize) -> Result<DataType, TypeError> {
        self.blanks();
        let start = self.at;
        if depth > TYPE_DEPTH_MAX {
            let message = format!("types nest deeper than {TYPE_DEPTH_MAX}");
            return Err(self.error(start, message, None));
        }
        let name = self.word().to_uppercase();
        let mut data_type = match name.as_str() {
            "BOOLEAN" | "BOOL" => DataType::Boolean,
            "TINYINT" | "INT1" => DataType::Int8,
            "SMALLINT" | "INT2" => DataType::Int16,
            "INT" | "INTEGER" | "INT4" => DataType::Int32,
            "BIGINT" | "INT8" | "LONG" => DataType::Int64,
            "REAL" | "FLOAT4" => DataType::Float32,
            "DOUBLE" => {
                self.keywords(&["PRECISION"]);
                DataType::Float64
            }
            "FLOAT" | "FLOAT8" => DataType::Float64,
            "DECIMAL" | "NUMERIC" | "DEC" => self.decimal()?,
            "TEXT" | "VARCHAR" | "STRING" | "CHAR" => {
                self.numbers()?;
                DataType::Utf8
            }
            "DATE" => DataType::Date32,
            "DATETIME" => DataType::Timestamp(TimeUnit::Microsecond, None),
            "TIMESTAMPTZ" => DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into())),
            "TIMESTAMP" if self.keywords(&["WITH", "TIME", "ZONE"]) => {
                DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))
            }
            "TIMESTAMP" => {
                self.keywords(&["WITHOUT", "TIME", "ZONE"]);
                DataType::Timestamp(TimeUnit::Microsecond, None)
            }
            "BINARY" | "BYTEA" | "VARBINARY" | "BLOB" | "BYTES" => DataType::Binary,
            "STRUCT" | "ROW" => self.fields(depth)?,
            "ARRAY" | "LIST" => {
                self.expect('<')?;
                let item = self.data_type(depth + 1)?;
                let nullable = !self.keywords(&["NOT", "NULL"]);
                self.expect('>')?;
                list_of(item, nullable)
            }
            "MAP" => {
                self.expect('<')?;
                self.blanks();
                let key_start = self.at;
                if self.data_type(depth + 1)? != DataType::Utf8 {
                    let hint = Some("write MAP<TEXT, ...>".to_string());
                    return Err(self.error(key_start, "the keys of a MAP are TEXT".to_string(), hint));
                }
                self.expect(',')?;
                let value = self.data_type(depth + 1)?;
                let nullable = !self.keywords(&["NOT", "NULL"]);
                self.expect('>')?;
                map_of(value, nullable)
            }
            "" => return Err(self.error(start, "expected a type".to_string(), None)),
            unknown => {
                let hint = closest(unknown, NAMES).map(|it| format!("did you mean {it}?"));
                return Err(self.error(start, format!("unknown type {unknown}"), hint));
            }
        };
        let mut lists = 0;
        while self.accept('[') {
            self.expect(']')?;
            lists += 1;
            if depth + lists > TYPE_DEPTH_MAX {
                let message = format!("types nest deeper than {TYPE_DEPTH_MAX}");
                return Err(self.error(start, message, None));
            }
            data_type = list_of(data_type, true);
        }
        Ok(data_type)
    }

    fn decimal(&mut self) -> Result<DataType, TypeError> {
        let start = self.at;
        let (precision, scale) = match self.numbers()?.as_slice() {
            [] => (38, 10),
            [precision] => (*precision, 0),
            [precision, scale] => (*precision, *scale),
            _ => return Err(self.error(start, "DECIMAL takes (precision, scale)".to_string(), None)),
        };
        if !(1..=38).contains(&precision) || scale > precision {
            let message = format!("DECIMAL({precision}, {scale}) cannot be");
            let hint = "the precision is 1 to 38, the scale 0 up to the precision".to_string();
            return Err(self.error(start, message, Some(hint)));
        }
        // Both are at most 38.
        Ok(DataType::Decimal128(precision as u8, scale as i8))
    }

    fn fields(&mut self, depth: usize) -> Result<DataType, TypeError> {
        self.expect('<')?;
        let mut fields: Vec<Field> = Vec::new();
        while !self.accept('>') {
            if !fields.is_empty() {
                self.expect(',')?;
            }
            self.blanks();
            let start = self.at;
            let name = self.field_name()?;
            if fields.iter().any(|field| *field.name() == name) {
                return Err(self.error(start, format!("the field {name} is there twice"), None));
            }
            self.accept(':');
            let data_type = self.data_type(depth + 1)?;
            let nullable = !self.keywords(&["NOT", "NULL"]);
            fields.push(Field::new(name, data_type, nullable));
        }
        Ok(DataType::Struct(fields.into()))
    }

    fn field_name(&mut self) -> Result<String, TypeError> {
        let start = self.at;
        if !self.accept('"') {
            let name = self.word().to_string();
            return match name.is_empty() {
                true => Err(self.error(start, "expected a field name".to_string(), None)),
                false => Ok(name),
            };
        }
        let mut name = String::new();
        let mut rest = self.text[self.at..].char_indices();
        while let Some((offset, c)) = rest.next() {
            match c {
                '"' if rest.as_str().starts_with('"') => {
                    rest.next();
                    name.push('"');
                }
                '"' => {
                    self.at += offset + 1;
                    return Ok(name);
                }
                c => name.push(c),
            }
        }
        Err(self.error(start, "a quote does not end".to_string(), None))
    }

    /// `(1, 2)` or nothing.
    fn numbers(&mut self) -> Result<Vec<u32>, TypeError> {
        let mut numbers = Vec::new();
        if self.accept('(') {
            loop {
                self.blanks();
                let start = self.at;
                let number = self.word().parse();
                numbers.push(number.map_err(|_| self.error(start, "expected a number".to_string(), None))?);
                if self.accept(')') {
                    break;
                }
                self.expect(',')?;
            }
        }
        Ok(numbers)
    }

    fn word(&mut self) -> &str {
        self.blanks();
        let rest = &self.text[self.at..];
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// Takes these words if all of them are next.
    fn keywords(&mut self, words: &[&str]) -> bool {
        let start = self.at;
        let taken = words.iter().all(|word| self.word().eq_ignore_ascii_case(word));
        if !taken {
            self.at = start;
        }
        taken
    }

    fn accept(&mut self, c: char) -> bool {
        self.blanks();
        let found = self.text[self.at..].starts_with(c);
        self.at += if found { c.len_utf8() } else { 0 };
        found
    }

    fn expect(&mut self, c: char) -> Result<(), TypeError> {
        match self.accept(c) {
            true => Ok(()),
            false => {
                let found = self.text[self.at..].chars().next();
                let found = found.map_or("the end".to_string(), |found| format!("{found:?}"));
                Err(self.error(self.at, format!("expected {c:?}, found {found}"), None))
            }
        }
    }

    fn blanks(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.len() - rest.trim_start().len();
    }

    fn error(&self, position: usize, message: String, hint: Option<String>) -> TypeError {
        TypeError { position, message, hint }
    }
}
