//! Drafts a contract from samples: which columns there are, and the narrowest type that holds all that was seen.

use std::fmt::Write;

use arrow::datatypes::{DataType, Field, TimeUnit};
use indexmap::IndexMap;
use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};

use crate::contract::{Column, Origin};
use crate::csv::{CsvOptions, csv_cells};
use crate::format::Records;
use crate::registry::FormatOptions;
use crate::types::{UTC, list_of, sql_type_name};
use crate::values::{parse_date, parse_number, parse_timestamp};

/// What was seen of a value. Grows with each sample; a type that holds everything seen follows from it.
#[derive(Debug, Clone, Default, PartialEq)]
struct Seen {
    /// How often a value (also NULL) was there.
    count: usize,
    nulls: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Default, PartialEq)]
enum Kind {
    /// Only NULL so far.
    #[default]
    Nothing,
    Boolean,
    Int,
    BigInt,
    Double,
    Date,
    Timestamp,
    Instant,
    Text,
    Object(IndexMap<String, Seen>),
    List(Box<Seen>),
    /// Things that no one type holds.
    Mixed,
}

/// Drafts the columns of records of a format, in the order in which they are first seen.
///
/// Types widen as samples ask for it: INT, BIGINT, DOUBLE, TEXT; ISO 8601 dates and times are DATE, TIMESTAMP and (with a
/// zone) TIMESTAMP WITH TIME ZONE; objects are STRUCT, arrays ARRAY. A column that is there and not NULL in every record is
/// required. What was never anything but NULL is TEXT. A field that is text in one record and an object in another gets
/// no column: it would stay in `_extra`. Records that cannot be read are passed over.
///
/// `json` and `csv` are drafted; an access log has its columns already. Other formats give none.
pub fn infer_columns(format_name: &str, samples: &Records, options: &FormatOptions) -> Vec<Column> {
    match format_name {
        "json" => columns_of(&seen_in_json(samples)),
        "csv" => columns_of(&seen_in_csv(samples, &options.csv)),
        "access_log" => crate::access_log::access_log_contract().columns,
        _ => Vec::new(),
    }
}

/// The columns as they stand in a source's TOML, from `[columns]` on.
pub fn columns_to_toml(columns: &[Column]) -> String {
    let mut text = "[columns]\n".to_string();
    for column in columns {
        let data_type = toml_text(&sql_type_name(&column.data_type));
        let from_own_name = column.origin == Origin::Field(vec![column.name.clone()]);
        let mut rest = String::new();
        if column.required {
            rest.push_str(", required = true");
        }
        if !from_own_name {
            let _ = write!(rest, ", from = {}", toml_text(&column.origin.to_string()));
        }
        if column.personal {
            rest.push_str(", personal = true");
        }
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let name = match !column.name.is_empty() && column.name.chars().all(plain) {
            true => column.name.clone(),
            false => toml_text(&column.name),
        };
        let _ = match rest.is_empty() {
            true => writeln!(text, "{name} = {data_type}"),
            false => writeln!(text, "{name} = {{ type = {data_type}{rest} }}"),
        };
    }
    text
}

fn toml_text(text: &str) -> String {
    toml::Value::String(text.to_string()).to_string()
}

fn seen_in_json(samples: &Records) -> Seen {
    let mut all = Seen::default();
    for index in 0..samples.len() {
        if let Ok(seen @ Seen { kind: Kind::Object(_), .. }) = serde_json::from_slice::<Seen>(samples.get(index)) {
            all.add(seen);
        }
    }
    all
}

fn seen_in_csv(samples: &Records, options: &CsvOptions) -> Seen {
    let mut all = Seen::default();
    for cells in csv_cells(samples, options) {
        let fields = cells.into_iter().map(|(name, text)| {
            let kind = text.map_or(Kind::Nothing, |text| kind_of_cell(&text));
            (name, Seen::once(kind))
        });
        all.add(Seen::once(Kind::Object(fields.collect())));
    }
    if let Kind::Object(fields) = &mut all.kind {
        // Unlike in JSON, every cell is text at first.
        fields.values_mut().filter(|it| it.kind == Kind::Mixed).for_each(|it| it.kind = Kind::Text);
    }
    all
}

fn columns_of(seen: &Seen) -> Vec<Column> {
    let Kind::Object(fields) = &seen.kind else { return Vec::new() };
    let columns = fields.iter().filter_map(|(name, field)| {
        let column = Column::new(name.as_str(), field.data_type()?);
        Some(if field.always_in(seen) { column.required() } else { column })
    });
    columns.collect()
}

impl Seen {
    fn once(kind: Kind) -> Self {
        Self { count: 1, nulls: usize::from(kind == Kind::Nothing), kind }
    }

    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.nulls += other.nulls;
        let own = std::mem::take(&mut self.kind);
        self.kind = own.widened(other.kind);
    }

    /// Whether it was there, and not NULL, whenever `parent` was an object.
    fn always_in(&self, parent: &Self) -> bool {
        self.nulls == 0 && self.count == parent.count - parent.nulls
    }

    /// `None` where no type holds all that was seen.
    fn data_type(&self) -> Option<DataType> {
        let timestamp = |zone: Option<&str>| DataType::Timestamp(TimeUnit::Microsecond, zone.map(Into::into));
        Some(match &self.kind {
            Kind::Nothing | Kind::Text => DataType::Utf8,
            Kind::Boolean => DataType::Boolean,
            Kind::Int => DataType::Int32,
            Kind::BigInt => DataType::Int64,
            Kind::Double => DataType::Float64,
            Kind::Date => DataType::Date32,
            Kind::Timestamp => timestamp(None),
            Kind::Instant => timestamp(Some(UTC)),
            Kind::List(item) => list_of(item.data_type()?, true),
            Kind::Object(fields) => {
                let fields = fields.iter().filter_map(|(name, field)| Some(Field::new(name, field.data_type()?, true)));
                DataType::Struct(fields.collect())
            }
            Kind::Mixed => return None,
        })
    }
}

impl Kind {
    fn widened(self, other: Self) -> Self {
        use Kind::{BigInt, Date, Double, Instant, Int, List, Mixed, Nothing, Object, Text, Timestamp};
        match (self, other) {
            (Nothing, kind) | (kind, Nothing) => kind,
            (Object(mut fields), Object(others)) => {
                for (name, other) in others {
                    fields.entry(name).or_default().add(other);
                }
                Object(fields)
            }
            (List(mut item), List(other)) => {
                item.add(*other);
                List(item)
            }
            (own, other) if own == other => own,
            (Int | BigInt, Int | BigInt) => BigInt,
            (Int | BigInt | Double, Int | BigInt | Double) => Double,
            (Date | Timestamp, Date | Timestamp) => Timestamp,
            (Date | Timestamp | Instant, Date | Timestamp | Instant) => Instant,
            (Date | Timestamp | Instant | Text, Date | Timestamp | Instant | Text) => Text,
            _ => Mixed,
        }
    }
}

fn kind_of_text(text: &str) -> Kind {
    match text.as_bytes() {
        bytes if parse_date(bytes).is_some() => Kind::Date,
        bytes if parse_timestamp(bytes).is_some() => {
            let zoned = bytes[10..].iter().any(|byte| matches!(byte, b'Z' | b'z' | b'+' | b'-' | b'U'));
            if zoned { Kind::Instant } else { Kind::Timestamp }
        }
        _ => Kind::Text,
    }
}

fn kind_of_integer(value: i64) -> Kind {
    if i32::try_from(value).is_ok() { Kind::Int } else { Kind::BigInt }
}

fn kind_of_cell(text: &str) -> Kind {
    let trimmed = text.trim();
    // A number with zeros in front is a code.
    let unsigned = trimmed.trim_start_matches('-');
    let is_code = unsigned.len() > 1 && unsigned.starts_with('0') && !unsigned.starts_with("0.");
    match parse_number(trimmed.as_bytes()) {
        Some(number) if !is_code => match number.to_i64() {
            Ok(value) if !trimmed.contains(['.', 'e', 'E']) => kind_of_integer(value),
            _ => Kind::Double,
        },
        Some(_) => Kind::Text,
        None if trimmed.eq_ignore_ascii_case("true") || trimmed.eq_ignore_ascii_case("false") => Kind::Boolean,
        None => kind_of_text(trimmed),
    }
}

/// Reads any JSON value into what is seen of it.
impl<'de> Deserialize<'de> for Seen {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SeenVisitor)
    }
}

struct SeenVisitor;

impl<'de> Visitor<'de> for SeenVisitor {
    type Value = Seen;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a JSON value")
    }
    fn visit_unit<E>(self) -> Result<Seen, E> {
        Ok(Seen::once(Kind::Nothing))
    }
    fn visit_bool<E>(self, _: bool) -> Result<Seen, E> {
        Ok(Seen::once(Kind::Boolean))
    }
    fn visit_i64<E>(self, value: i64) -> Result<Seen, E> {
        Ok(Seen::once(kind_of_integer(value)))
    }
    fn visit_u64<E>(self, value: u64) -> Result<Seen, E> {
        Ok(Seen::once(i64::try_from(value).map_or(Kind::Double, kind_of_integer)))
    }
    fn visit_f64<E>(self, _: f64) -> Result<Seen, E> {
        Ok(Seen::once(Kind::Double))
    }
    fn visit_str<E>(self, text: &str) -> Result<Seen, E> {
        Ok(Seen::once(kind_of_text(text)))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Seen, A::Error> {
        let mut item = Seen::default();
        while let Some(seen) = items.next_element::<Seen>()? {
            item.add(seen);
        }
        Ok(Seen::once(Kind::List(Box::new(item))))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Seen, A::Error> {
        let mut fields = IndexMap::new();
        while let Some((name, seen)) = entries.next_entry::<String, Seen>()? {
            fields.insert(name, seen);
        }
        Ok(Seen::once(Kind::Object(fields)))
    }
}
