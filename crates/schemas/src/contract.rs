//! What a source promises of its records: columns, where their values come from, what happens to other fields.

use std::fmt;
use std::str::FromStr;

use arrow::datatypes::{DataType, TimeUnit};

/// What to do with fields of a record that the contract does not name.
///
/// This is about the fields at the top of a record: of `{"user": {"id": 1, "name": "x"}}` the field `user` is
/// known as soon as a column comes from `user` or from anything below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownFields {
    /// Keep them as a JSON object (text) in the column `_extra`, NULL when there are none.
    #[default]
    Keep,
    /// Ignore them.
    Drop,
    /// The record is rejected.
    Refuse,
}

/// Where a column's value comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A field of the record by path: `user.id` is `["user", "id"]`.
    Field(Vec<String>),
    /// Something the source knows of the record and its bytes do not say (`from = "@client_address"`).
    Attribute(Attribute),
}

impl Origin {
    /// Reads what stands in `from`: a path of field names (`user.id`), or `@` and an [`Attribute`]'s name.
    ///
    /// A field whose own name has a dot in it is written in double quotes: `geo."lat.deg"`.
    pub fn parse(text: &str) -> Result<Self, OriginError> {
        match text.strip_prefix('@') {
            Some(name) => {
                Attribute::from_name(name).map(Self::Attribute).ok_or_else(|| OriginError::UnknownAttribute {
                    name: name.to_string(),
                    hint: crate::types::closest(name, Attribute::ALL.iter().map(|it| it.name())),
                })
            }
            None => parse_path(text).map(Self::Field),
        }
    }
}

impl FromStr for Origin {
    type Err = OriginError;
    fn from_str(text: &str) -> Result<Self, OriginError> {
        Self::parse(text)
    }
}

/// As [`Origin::parse`] reads it.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Attribute(attribute) => write!(f, "@{}", attribute.name()),
            Self::Field(path) => {
                for (index, name) in path.iter().enumerate() {
                    let dot = if index == 0 { "" } else { "." };
                    if name.is_empty() || name.contains(['.', '"']) || name.starts_with('@') {
                        write!(f, "{dot}\"{}\"", name.replace('"', "\"\""))?;
                    } else {
                        write!(f, "{dot}{name}")?;
                    }
                }
                Ok(())
            }
        }
    }
}

/// Why a `from` is not an [`Origin`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// After `@` stands no name of an attribute.
    #[error("there is no attribute @{name}{}", hint.map(|it| format!("; did you mean @{it}?")).unwrap_or_default())]
    UnknownAttribute {
        /// What stands after `@`.
        name: String,
        /// The attribute that was probably meant.
        hint: Option<&'static str>,
    },
    /// A path has a step without a name, or a quote that does not end.
    #[error("{path:?} is not a path of field names: {what} at character {position}")]
    BadPath {
        /// The path as written.
        path: String,
        /// What is wrong.
        what: &'static str,
        /// Counted from 0.
        position: usize,
    },
}

fn parse_path(text: &str) -> Result<Vec<String>, OriginError> {
    let bad = |what, position| OriginError::BadPath { path: text.to_string(), what, position };
    let mut path = Vec::new();
    let mut rest = text.char_indices().peekable();
    loop {
        let mut name = String::new();
        let start = rest.peek().map_or(text.len(), |(at, _)| *at);
        if rest.next_if(|(_, c)| *c == '"').is_some() {
            loop {
                match rest.next() {
                    Some((_, '"')) if rest.next_if(|(_, c)| *c == '"').is_some() => name.push('"'),
                    Some((_, '"')) => break,
                    Some((_, c)) => name.push(c),
                    None => return Err(bad("a quote does not end", start)),
                }
            }
        } else {
            while let Some((_, c)) = rest.next_if(|(_, c)| *c != '.') {
                name.push(c);
            }
            if name.is_empty() {
                return Err(bad("a name is missing", start));
            }
        }
        path.push(name);
        match rest.next() {
            None => return Ok(path),
            Some((_, '.')) => {}
            Some((at, _)) => return Err(bad("expected a dot", at)),
        }
    }
}

/// What a source may know of a record beside its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attribute {
    /// When it was received: TIMESTAMP, UTC.
    Arrival,
    /// Address of the client that sent it: TEXT.
    ClientAddress,
    /// The `User-Agent` header: TEXT.
    UserAgent,
    /// The `Referer` header: TEXT.
    Referer,
    /// Name of the file, relative to the source's folder: TEXT.
    File,
}

impl Attribute {
    /// Every attribute there is.
    pub const ALL: [Self; 5] = [Self::Arrival, Self::ClientAddress, Self::UserAgent, Self::Referer, Self::File];

    /// As written behind the `@`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arrival => "arrival",
            Self::ClientAddress => "client_address",
            Self::UserAgent => "user_agent",
            Self::Referer => "referer",
            Self::File => "file",
        }
    }

    /// The attribute of that name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.name() == name)
    }

    /// Type of the attribute's values: TIMESTAMP for the arrival, TEXT for the others.
    pub fn data_type(self) -> DataType {
        match self {
            Self::Arrival => DataType::Timestamp(TimeUnit::Microsecond, None),
            _ => DataType::Utf8,
        }
    }
}

/// One column of a contract.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// Name in SQL.
    pub name: String,
    /// Arrow type, one of those of the type table ([`crate::parse_sql_type`]).
    pub data_type: DataType,
    /// NULL or missing is a breach.
    pub required: bool,
    /// Where the value is found.
    pub origin: Origin,
    /// Personal data, for those who ask.
    pub personal: bool,
}

impl Column {
    /// A column that may be NULL and comes from the record's field of the same name.
    pub fn new(name: impl Into<String>, data_type: DataType) -> Self {
        let name = name.into();
        let origin = Origin::Field(vec![name.clone()]);
        Self { name, data_type, required: false, origin, personal: false }
    }

    /// The same column, but NULL or missing is a breach.
    pub fn required(self) -> Self {
        Self { required: true, ..self }
    }

    /// The same column with its value from elsewhere.
    pub fn from_origin(self, origin: Origin) -> Self {
        Self { origin, ..self }
    }

    /// The same column, marked as personal data.
    pub fn personal(self) -> Self {
        Self { personal: true, ..self }
    }
}

/// The columns of a source and what happens to other fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Contract {
    /// In declared order.
    pub columns: Vec<Column>,
    /// Fields beside the columns.
    pub unknown: UnknownFields,
}

impl Contract {
    /// These columns; other fields are treated as `unknown` says.
    pub fn new(columns: Vec<Column>, unknown: UnknownFields) -> Self {
        Self { columns, unknown }
    }
}
