//! Measures: exact sums of a column, by groups, of what an epoch adds to a relation and takes from it.
//!
//! Invariants:
//! 1. Sums are exact: whole numbers and decimals in 256 bits, floats without rounding. They do not depend on order or
//!    cuts, and what is taken away leaves nothing behind.
//! 2. No group has a sum of zero, so that sums of the same rows are equal however they came about.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Field, Float64Type, Int64Type, Schema, SchemaRef, i256};
use arrow::error::ArrowError;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use datafusion::logical_expr::EmitTo;
use datafusion::physical_plan::aggregates::group_values::new_group_values;
use datafusion::physical_plan::aggregates::order::GroupOrdering;
use serde_json::{Value, json};
use weir_incremental::Delta;
use weir_incremental::exact::ExactSum;
use weir_project::Measure;

/// Values of the group's columns as text; None for NULL.
pub type Group = Vec<Option<String>>;

/// A sum without rounding.
#[derive(Debug, Clone, PartialEq)]
pub enum Sum {
    /// Of whole numbers and decimals: how many units of 10^-scale.
    Units(i256, u8),
    /// Of floats.
    Float(ExactSum),
}

impl fmt::Display for Sum {
    /// Whole numbers and decimals to the last digit; floats rounded once.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Sum::Units(units, 0) => write!(f, "{units}"),
            Sum::Units(units, scale) => {
                let text = units.to_string();
                let (sign, digits) = text.strip_prefix('-').map_or(("", text.as_str()), |digits| ("-", digits));
                let digits = format!("{digits:0>width$}", width = usize::from(*scale) + 1);
                let (whole, fraction) = digits.split_at(digits.len() - usize::from(*scale));
                write!(f, "{sign}{whole}.{fraction}")
            }
            Sum::Float(sum) => write!(f, "{:?}", sum.value()),
        }
    }
}

impl Sum {
    fn is_zero(&self) -> bool {
        match self {
            Sum::Units(units, _) => *units == i256::ZERO,
            Sum::Float(sum) => sum.is_zero(),
        }
    }

    fn add(&mut self, other: &Sum, negated: bool) {
        match (self, other) {
            (Sum::Units(units, _), Sum::Units(more, _)) if negated => *units = units.wrapping_sub(*more),
            (Sum::Units(units, _), Sum::Units(more, _)) => *units = units.wrapping_add(*more),
            (Sum::Float(sum), Sum::Float(more)) if negated => sum.subtract(more),
            (Sum::Float(sum), Sum::Float(more)) => sum.merge(more),
            // Both are of one column.
            (Sum::Units(..), Sum::Float(_)) | (Sum::Float(_), Sum::Units(..)) => {}
        }
    }

    fn zero_like(other: &Sum) -> Sum {
        match other {
            Sum::Units(_, scale) => Sum::Units(i256::ZERO, *scale),
            Sum::Float(_) => Sum::Float(ExactSum::default()),
        }
    }

    /// As checkpoints have it, without a loss.
    fn save(&self) -> String {
        match self {
            Sum::Units(units, scale) => format!("{scale}:{units}"),
            Sum::Float(sum) => {
                let mut bytes = Vec::new();
                sum.encode(&mut bytes);
                let digits: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("float:{digits}")
            }
        }
    }

    fn restore(text: &str) -> Option<Self> {
        let (kind, digits) = text.split_once(':')?;
        if kind != "float" {
            return Some(Sum::Units(i256::from_string(digits)?, kind.parse().ok()?));
        }
        let bytes = (0..digits.len() / 2).map(|at| u8::from_str_radix(digits.get(2 * at..2 * at + 2)?, 16).ok());
        let bytes: Vec<u8> = bytes.collect::<Option<_>>()?;
        ExactSum::decode(&mut bytes.as_slice()).ok().map(Sum::Float)
    }
}

/// Sums by group.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Sums(BTreeMap<Group, Sum>);

/// [`Sums`] as checkpoints and commit records have them.
pub type SavedSums = Vec<(Group, String)>;

impl Sums {
    /// Adds other sums of the same measure.
    pub fn add(&mut self, other: &Sums) {
        self.combine(other, false);
    }

    /// Takes other sums of the same measure away.
    pub fn subtract(&mut self, other: &Sums) {
        self.combine(other, true);
    }

    fn combine(&mut self, other: &Sums, negated: bool) {
        for (group, sum) in &other.0 {
            let own = self.0.entry(group.clone()).or_insert_with(|| Sum::zero_like(sum));
            own.add(sum, negated);
            if own.is_zero() {
                self.0.remove(group);
            }
        }
    }

    /// Groups with their sums, none of which is zero.
    pub fn groups(&self) -> impl Iterator<Item = (&Group, &Sum)> {
        self.0.iter()
    }

    /// Whether no group has a sum.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether their text is rounded: sums of floats.
    pub fn is_rounded(&self) -> bool {
        self.0.values().any(|sum| matches!(sum, Sum::Float(_)))
    }

    /// A group's sum as text.
    pub fn text(&self, group: &Group) -> String {
        self.0.get(group).map_or_else(|| "0".to_owned(), ToString::to_string)
    }

    /// The first group whose sums differ, with both.
    pub fn difference(&self, other: &Sums) -> Option<(Group, String, String)> {
        let group = self.0.keys().chain(other.0.keys()).find(|group| self.0.get(*group) != other.0.get(*group))?;
        Some((group.clone(), self.text(group), other.text(group)))
    }

    /// As checkpoints have them.
    pub fn save(&self) -> SavedSums {
        self.0.iter().map(|(group, sum)| (group.clone(), sum.save())).collect()
    }

    /// Back from a checkpoint; None when it cannot be read.
    pub fn restore(saved: &SavedSums) -> Option<Self> {
        saved.iter().map(|(group, sum)| Some((group.clone(), Sum::restore(sum)?))).collect::<Option<_>>().map(Self)
    }
}

/// A group as people read it: `EUR`, `EUR, CZ`, or `all` where there are none.
pub fn shown(group: &[Option<String>]) -> String {
    if group.is_empty() {
        return "all".into();
    }
    group.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect::<Vec<_>>().join(", ")
}

/// What a change adds to a measure and takes from it, both positive for positive values.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Flow {
    /// Of rows that come.
    pub come: Sums,
    /// Of rows that go.
    pub gone: Sums,
}

impl Flow {
    /// Adds another.
    pub fn add(&mut self, other: &Flow) {
        self.come.add(&other.come);
        self.gone.add(&other.gone);
    }

    /// All sums after it.
    pub fn after(&self, before: &Sums) -> Sums {
        let mut after = before.clone();
        after.add(&self.come);
        after.subtract(&self.gone);
        after
    }

    /// The sum of one group after it.
    fn total(&self, before: &Sums, group: &Group) -> String {
        let parts = [(before, false), (&self.come, false), (&self.gone, true)];
        let mut sum: Option<Sum> = None;
        for (part, negated) in parts.into_iter().filter_map(|(sums, negated)| Some((sums.0.get(group)?, negated))) {
            sum.get_or_insert_with(|| Sum::zero_like(part)).add(part, negated);
        }
        sum.filter(|sum| !sum.is_zero()).map_or_else(|| "0".to_owned(), |sum| sum.to_string())
    }

    /// The ledger's words for it, one entry a group that it touches; `before` are the totals, where they are known.
    pub fn entry(&self, before: Option<&Sums>) -> Value {
        let mut groups: Vec<&Group> = self.come.0.keys().chain(self.gone.0.keys()).collect();
        groups.sort();
        groups.dedup();
        let of = |group: &Group| {
            let mut entry = json!({"group": group, "in": self.come.text(group), "out": self.gone.text(group)});
            if self.come.is_rounded() || self.gone.is_rounded() {
                entry["rounded"] = json!(true);
            }
            if let Some(before) = before {
                entry["total"] = json!(self.total(before, group));
            }
            entry
        };
        groups.into_iter().map(of).collect()
    }
}

/// A measure over a relation's columns, by index.
#[derive(Debug, Clone)]
pub struct MeasureSpec {
    /// As it is declared.
    pub name: Arc<str>,
    column: usize,
    by: Vec<usize>,
}

impl MeasureSpec {
    /// Finds the columns.
    pub fn new(measure: &Measure, schema: &SchemaRef) -> Result<Self, ArrowError> {
        Ok(Self {
            name: measure.to_string().into(),
            column: schema.index_of(&measure.column)?,
            by: measure.by.iter().map(|name| schema.index_of(name)).collect::<Result<_, _>>()?,
        })
    }

    /// Sums of rows, each once.
    pub fn of_rows(&self, rows: &RecordBatch) -> Result<Sums, ArrowError> {
        Ok(self.flow(rows, None)?.come)
    }

    /// Sums of many batches of rows, each row once.
    pub fn of_batches(&self, batches: &[RecordBatch]) -> Result<Sums, ArrowError> {
        let mut sums = Sums::default();
        for batch in batches {
            sums.add(&self.of_rows(batch)?);
        }
        Ok(sums)
    }

    /// What a change adds and takes away.
    pub fn of_change(&self, change: &Delta) -> Result<Flow, ArrowError> {
        let weights = change.weights.values();
        let once = weights.iter().all(|weight| *weight == 1);
        self.flow(&change.rows, (!once).then_some(weights))
    }

    /// One pass over the column, with the groups' numbers at hand; every row once where there are no weights.
    fn flow(&self, rows: &RecordBatch, weights: Option<&[i64]>) -> Result<Flow, ArrowError> {
        if rows.num_rows() == 0 {
            return Ok(Flow::default());
        }
        let (ids, groups) = self.grouped(rows)?;
        let column = rows.column(self.column);
        let nulls = column.nulls().filter(|nulls| nulls.null_count() > 0);
        let valid = |row: usize| nulls.is_none_or(|nulls| nulls.is_valid(row));
        let weight = |row: usize| weights.map_or(1, |weights| weights[row]);
        let [come, gone] = match column.data_type() {
            DataType::Float32 | DataType::Float64 => {
                let values = cast(column, &DataType::Float64)?;
                let values = values.as_primitive::<Float64Type>();
                let mut sums = [vec![ExactSum::default(); groups.len()], vec![ExactSum::default(); groups.len()]];
                for (row, id) in ids.iter().enumerate().filter(|(row, _)| valid(*row)) {
                    let weight = weight(row);
                    sums[usize::from(weight < 0)][*id].add(values.value(row), weight.saturating_abs());
                }
                sums.map(|sums| sums.into_iter().map(Sum::Float).collect::<Vec<_>>())
            }
            data_type => {
                let (values, scale) = units(column, data_type)?;
                let mut sums = [vec![Units::default(); groups.len()], vec![Units::default(); groups.len()]];
                for (row, id) in ids.iter().enumerate().filter(|(row, _)| valid(*row)) {
                    let weight = weight(row);
                    sums[usize::from(weight < 0)][*id].add(values.value(row), weight.saturating_abs());
                }
                sums.map(|sums| sums.into_iter().map(|sum| Sum::Units(sum.total(), scale)).collect())
            }
        };
        let by_group = |sums: Vec<Sum>| {
            let named = groups.iter().cloned().zip(sums);
            Sums(named.filter(|(_, sum)| !sum.is_zero()).collect())
        };
        Ok(Flow { come: by_group(come), gone: by_group(gone) })
    }

    /// The number of each row's group, and the groups.
    fn grouped(&self, rows: &RecordBatch) -> Result<(Vec<usize>, Vec<Group>), ArrowError> {
        if self.by.is_empty() {
            return Ok((vec![0; rows.num_rows()], vec![Group::new()]));
        }
        let external = |error: datafusion::error::DataFusionError| ArrowError::ExternalError(Box::new(error));
        let columns: Vec<ArrayRef> = self.by.iter().map(|column| rows.column(*column).clone()).collect();
        let fields = columns.iter().enumerate().map(|(i, c)| Field::new(i.to_string(), c.data_type().clone(), true));
        let schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let mut values = new_group_values(schema, &GroupOrdering::None).map_err(external)?;
        let mut ids = Vec::with_capacity(rows.num_rows());
        values.intern(&columns, &mut ids).map_err(external)?;
        let count = values.len();
        let mut groups = vec![Group::new(); count];
        for column in values.emit(EmitTo::All).map_err(external)? {
            let options = FormatOptions::default();
            let text = ArrayFormatter::try_new(&column, &options)?;
            for (row, group) in groups.iter_mut().enumerate() {
                group.push(column.is_valid(row).then(|| text.value(row).to_string()));
            }
        }
        Ok((ids, groups))
    }
}

/// Whole numbers and decimals as what they count, and in how many digits after the point.
fn units(column: &ArrayRef, data_type: &DataType) -> Result<(Numbers, u8), ArrowError> {
    match data_type {
        DataType::Decimal128(_, scale) => {
            Ok((Numbers::Decimal(column.as_primitive::<Decimal128Type>().clone()), u8::try_from(*scale).unwrap_or(0)))
        }
        _ => Ok((Numbers::Whole(cast(column, &DataType::Int64)?.as_primitive::<Int64Type>().clone()), 0)),
    }
}

enum Numbers {
    Whole(arrow::array::Int64Array),
    Decimal(arrow::array::Decimal128Array),
}

impl Numbers {
    fn value(&self, row: usize) -> i128 {
        match self {
            Numbers::Whole(values) => i128::from(values.value(row)),
            Numbers::Decimal(values) => values.value(row),
        }
    }
}

/// A sum in 128 bits, and what does not fit it.
#[derive(Clone, Copy, Default)]
struct Units {
    near: i128,
    far: i256,
}

impl Units {
    fn add(&mut self, value: i128, times: i64) {
        match value.checked_mul(i128::from(times)).and_then(|added| self.near.checked_add(added)) {
            Some(sum) => self.near = sum,
            None => {
                let added = i256::from_i128(value).wrapping_mul(i256::from_i128(i128::from(times)));
                self.far = self.far.wrapping_add(added);
            }
        }
    }

    fn total(self) -> i256 {
        self.far.wrapping_add(i256::from_i128(self.near))
    }
}

/// A measure's sums over the contents of a relation; unknown where it was declared after the rows came, until they are counted.
#[derive(Debug, Clone, PartialEq)]
pub struct Total {
    /// The measure, as it is declared.
    pub name: Arc<str>,
    /// The sums.
    pub sums: Option<Sums>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Decimal128Array, Float64Array, Int64Array, StringArray};

    fn rows() -> RecordBatch {
        let decimals = Decimal128Array::from(vec![Some(1250), Some(-5), None, Some(i128::MAX), Some(i128::MAX)]);
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("amount", Arc::new(decimals.with_precision_and_scale(38, 2).unwrap())),
            ("score", Arc::new(Float64Array::from(vec![1e16, 1.0, 2.0, -1e16, 0.5]))),
            ("count", Arc::new(Int64Array::from(vec![1, i64::MAX, 3, 4, i64::MAX]))),
            ("currency", Arc::new(StringArray::from(vec![Some("EUR"), Some("EUR"), Some("CZK"), None, None]))),
        ];
        RecordBatch::try_from_iter(columns).unwrap()
    }

    fn spec(text: &str) -> MeasureSpec {
        MeasureSpec::new(&Measure::parse(text).unwrap(), &rows().schema()).unwrap()
    }

    fn told(sums: &Sums) -> Vec<(String, String)> {
        sums.groups().map(|(group, sum)| (shown(group), sum.to_string())).collect()
    }

    #[test]
    fn sums_are_exact_beyond_every_width() {
        let sums = spec("amount by currency").of_rows(&rows()).unwrap();
        // Twice the largest 128-bit number, to the last digit.
        let far = "3402823669209384634633746074317682114.54".to_owned();
        assert_eq!(told(&sums), [("NULL".into(), far), ("EUR".into(), "12.45".into())]);
        assert_eq!(told(&spec("score").of_rows(&rows()).unwrap()), [("all".into(), "3.5".into())]);
        assert_eq!(told(&spec("count").of_rows(&rows()).unwrap()), [("all".into(), "18446744073709551622".into())]);
    }

    #[test]
    fn what_comes_and_goes_is_told_apart_and_leaves_nothing() {
        for text in ["amount by currency", "score by currency, count", "count"] {
            let spec = spec(text);
            let change = Delta::new(rows(), Int64Array::from(vec![1, -2, 3, -4, i64::MAX]));
            let flow = spec.of_change(&change).unwrap();
            let back = spec.of_change(&change.negate()).unwrap();
            assert_eq!((&flow.come, &flow.gone), (&back.gone, &back.come), "{text}");
            let mut total = flow.come.clone();
            total.subtract(&flow.gone);
            assert_eq!(Sums::restore(&total.save()).as_ref(), Some(&total), "{text}");
            total.add(&back.come);
            total.subtract(&back.gone);
            assert!(total.is_empty(), "{text}: {total:?}");
        }
    }

    #[test]
    fn any_cut_of_the_rows_gives_the_same_sums() {
        let rows = rows();
        for text in ["amount by currency", "score", "count by currency, score"] {
            let Some(measure) = Measure::parse(text) else { panic!("{text}") };
            let spec = MeasureSpec::new(&measure, &rows.schema()).unwrap();
            let parts: Vec<RecordBatch> = (0..rows.num_rows()).rev().map(|row| rows.slice(row, 1)).collect();
            assert_eq!(spec.of_batches(&parts).unwrap(), spec.of_rows(&rows).unwrap(), "{text}");
        }
    }
}
