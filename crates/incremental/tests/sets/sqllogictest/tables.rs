//! The tables that a file of sqllogictest makes, as relations of a project could hold them.

use crate::history::{Chance, Table, pick};
use crate::keep::provider;
use crate::tpch::in_lake_types;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{ScalarValue, TableReference};
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::sql::parser::{DFParser, Statement};
use std::collections::BTreeSet;

/// More rows of one table than these are left out.
const ROWS_MAX: usize = 200;

/// A session in which the statements of a file were run.
pub struct Database {
    context: SessionContext,
    /// Options that change what SQL means, and are set: models do not have them.
    options: BTreeSet<String>,
}

impl Database {
    /// Nothing was run.
    pub fn new() -> Self {
        let mut config = SessionConfig::new().with_target_partitions(1);
        config.options_mut().sql_parser.map_string_types_to_utf8view = false;
        Self { context: SessionContext::new_with_config(config), options: BTreeSet::new() }
    }

    /// Whether SQL means here what it means in a model.
    pub fn is_plain(&self) -> bool {
        self.options.is_empty()
    }

    /// Runs a statement that makes, fills or drops tables, or sets what SQL means. One that fails has done nothing.
    pub async fn run(&mut self, sql: &str) {
        let words: Vec<String> =
            sql.to_lowercase().split(|c: char| c.is_whitespace() || c == '=').map(str::to_owned).collect();
        let word = |index: usize| words.get(index).map_or("", String::as_str);
        let meaning = ["datafusion.sql_parser.", "datafusion.catalog.", "datafusion.execution.time_zone"];
        let option = if word(1) == "variable" { word(2) } else { word(1) };
        match (word(0), word(1)) {
            ("set", _) if meaning.iter().any(|prefix| option.starts_with(prefix)) => {
                self.options.insert(option.to_owned());
            }
            ("reset", _) => {
                self.options.remove(option);
            }
            ("create", "external" | "unbounded") => self.create_external(sql).await,
            ("create" | "insert" | "drop" | "delete" | "update" | "truncate", _) => {
                if let Ok(frame) = self.context.sql(sql).await {
                    let _ = frame.collect().await;
                }
            }
            _ => {}
        }
    }

    /// The file of an external table is not at hand: rows are drawn for the columns it declares.
    async fn create_external(&self, sql: &str) {
        let Ok(Some(Statement::CreateExternalTable(table))) = DFParser::parse_sql(sql).map(|mut all| all.pop_front())
        else {
            return;
        };
        let columns: Vec<String> = table.columns.iter().map(|c| format!("{} {}", c.name, c.data_type)).collect();
        let name = TableReference::from(table.name.to_string());
        if columns.is_empty() || self.context.table_exist(name.clone()).unwrap_or(true) {
            return;
        }
        let Ok(frame) = self.context.sql(&format!("CREATE TABLE {} ({})", table.name, columns.join(", "))).await else {
            return;
        };
        let _ = frame.collect().await;
        if let Ok(empty) = self.context.table(name.clone()).await
            && let Some(rows) = drawn(empty.schema().inner())
        {
            let _ = self.context.deregister_table(name.clone());
            let _ = self.context.register_table(name, provider(rows));
        }
    }

    /// What the table holds now; None when there is no such table, or no relation could hold it.
    pub async fn table(&self, name: &TableReference) -> Option<Table> {
        let TableReference::Bare { table } = name else { return None };
        let frame = self.context.table(name.clone()).await.ok()?;
        let schema = frame.schema().inner().clone();
        let batches = frame.collect().await.ok()?;
        let rows = concat_batches(batches.first().map_or(&schema, |batch| batch.schema_ref()), &batches).ok()?;
        let rows = in_lake_types(&rows.slice(0, rows.num_rows().min(ROWS_MAX)))?;
        Some(Table::new(table, rows))
    }
}

/// A hundred rows; None for columns of which none are drawn.
fn drawn(schema: &SchemaRef) -> Option<RecordBatch> {
    let mut chance = Chance::new(schema.fields().len() as u64);
    // The first column has few values, to group by; wide ones have each value once, to order by.
    let columns = schema.fields().iter().enumerate().map(|(column, field)| {
        let values =
            (1..=100).map(|row| value(field.data_type(), column == 0, row * (37 + column as i64) % 101, &mut chance));
        ScalarValue::iter_to_array(values.collect::<Option<Vec<_>>>()?).ok()
    });
    RecordBatch::try_new(schema.clone(), columns.collect::<Option<Vec<_>>>()?).ok()
}

fn value(data_type: &DataType, few: bool, unique: i64, chance: &mut Chance) -> Option<ScalarValue> {
    let small = match data_type {
        _ if few => chance.below(9) as i64 - 2,
        DataType::Int8 | DataType::UInt8 => chance.below(9) as i64 - 2,
        DataType::Int16 | DataType::UInt16 | DataType::Decimal128(_, _) => unique - 30,
        _ => (unique - 30) * 1013,
    };
    let mut text = || match few {
        true => ["a", "b", "c", "d", "e"][chance.below(5) as usize].to_owned(),
        false => format!("{unique}x"),
    };
    Some(match data_type {
        DataType::Boolean => ScalarValue::Boolean(Some(small % 2 == 0)),
        DataType::Utf8 => ScalarValue::Utf8(Some(text())),
        DataType::Utf8View => ScalarValue::Utf8View(Some(text())),
        DataType::Float32 => ScalarValue::Float32(Some(small as f32 / 8.0)),
        DataType::Float64 => ScalarValue::Float64(Some(small as f64 / 8.0)),
        number if number.is_integer() && !number.is_signed_integer() => {
            let least = match number {
                DataType::UInt8 => 2,
                DataType::UInt16 => 30,
                _ => 30 * 1013,
            };
            ScalarValue::UInt64(Some((small + least).unsigned_abs())).cast_to(number).ok()?
        }
        other => ScalarValue::Int64(Some(small * if other.is_temporal() { 7 } else { 1 })).cast_to(other).ok()?,
    })
}

/// The rows of the tables in another order.
pub fn shuffled(tables: &[Table], seed: u64) -> Vec<Table> {
    let mut chance = Chance::new(seed);
    let shuffle = |table: &Table| {
        let mut places: Vec<u32> = (0..table.rows.num_rows() as u32).collect();
        for place in (1..places.len()).rev() {
            places.swap(place, chance.below(place as u64 + 1) as usize);
        }
        Table { rows: pick(&table.rows, &places), ..table.clone() }
    };
    tables.iter().map(shuffle).collect()
}
