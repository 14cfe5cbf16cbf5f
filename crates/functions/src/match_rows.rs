//! `match_rows(rows, mode, tolerance, within)`: which rows of two sides belong together, among rows that share a key.
//!
//! `rows` is a list of structs with a field `side` (0 is left, 1 is right) and, as wanted, `amount` and `at`; other fields are
//! handed on. The answer is a list of structs: `left` and `right` are rows (either may be NULL where a match has more rows of
//! the other side), `first` is the first left row of their match, `place` counts the match's rows from 1, and `difference`, on
//! the first of them, is what the left amounts are more than the right ones. Every row is in at most one match, and the
//! answer depends on the rows and their order in the list alone: who orders the list gets one answer, whatever came first.
//!
//! One to one: of all pairs that the tolerances allow, the closest (by amount, then time, then place in the list) is taken,
//! then the closest of what is left. The other modes match all rows of the key or none: those with one row on the side where
//! one is asked for, and with sums that agree.

use std::cmp::Ordering;
use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, Decimal128Array, Float64Array, Int64Array, ListArray, StructArray, UInt32Array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::{cast, take};
use arrow::datatypes::{
    DataType, Decimal128Type, Field, FieldRef, Fields, Float64Type, Int64Type, TimeUnit, TimestampMicrosecondType,
};
use datafusion::common::{Result, ScalarValue, exec_err, plan_err};
use datafusion::logical_expr::{
    ColumnarValue, ReturnFieldArgs, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};

/// Pairs of one key that are compared at most, one to one.
const PAIRS_MAX: usize = 1 << 20;
/// Digits of sums of decimals.
const DIGITS: u8 = 38;

/// The function.
pub(crate) fn function() -> ScalarUDF {
    MatchRows { signature: Signature::any(4, Volatility::Immutable) }.into()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct MatchRows {
    signature: Signature,
}

/// How many rows of a side make a match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    OneToOne,
    OneToMany,
    ManyToOne,
    ManyToMany,
}

impl Mode {
    fn of(name: &str) -> Result<Self> {
        Ok(match name {
            "one to one" => Self::OneToOne,
            "one to many" => Self::OneToMany,
            "many to one" => Self::ManyToOne,
            "many to many" => Self::ManyToMany,
            other => return plan_err!("match_rows() knows one or many to one or many, and not `{other}`"),
        })
    }
}

impl ScalarUDFImpl for MatchRows {
    fn name(&self) -> &str {
        "match_rows"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        plan_err!("match_rows() has a type by its fields")
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs) -> Result<FieldRef> {
        if arguments.scalar_arguments.iter().skip(1).any(Option::is_none) {
            return plan_err!("match_rows() takes its mode, tolerance and time as constants, the same for all rows");
        }
        let fields = row_fields(arguments.arg_fields[0].data_type())?;
        let item = Field::new_list_field(DataType::Struct(found_fields(&fields)?), true);
        Ok(Arc::new(Field::new(self.name(), DataType::List(Arc::new(item)), true)))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let lists = arguments.args[0].to_array(arguments.number_rows)?;
        let fields = row_fields(lists.data_type())?;
        let lists = lists.as_list::<i32>();
        let Some(Some(mode)) = scalar(&arguments.args[1])?.map(|mode| mode.try_as_str().flatten().map(Mode::of)) else {
            return plan_err!("match_rows() takes its mode as text");
        };
        let rows = Rows::new(lists.values(), scalar(&arguments.args[2])?, scalar(&arguments.args[3])?)?;
        let mode = mode?;
        let mut found = Found::default();
        let mut lengths = Vec::with_capacity(lists.len());
        for list in 0..lists.len() {
            let before = found.first.len();
            if lists.is_valid(list) {
                let range = lists.value_offsets()[list] as u32..lists.value_offsets()[list + 1] as u32;
                rows.match_key(mode, range, &mut found)?;
            }
            lengths.push(found.first.len() - before);
        }
        let made = found_fields(&fields)?;
        let columns = rows.columns(lists.values(), found, &made)?;
        let values = StructArray::try_new(made, columns, None)?;
        let item = Arc::new(Field::new_list_field(values.data_type().clone(), true));
        let lists = ListArray::try_new(item, OffsetBuffer::from_lengths(lengths), Arc::new(values), None)?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}

/// An argument that is the same for all rows; None when it is NULL.
fn scalar(argument: &ColumnarValue) -> Result<Option<ScalarValue>> {
    match argument {
        ColumnarValue::Scalar(value) if value.is_null() => Ok(None),
        ColumnarValue::Scalar(value) => Ok(Some(value.clone())),
        // A constant that was spread over the rows.
        ColumnarValue::Array(values) if values.is_empty() => Ok(None),
        ColumnarValue::Array(values) => {
            Ok(Some(ScalarValue::try_from_array(values, 0)?).filter(|value| !value.is_null()))
        }
    }
}

fn row_fields(lists: &DataType) -> Result<Fields> {
    match lists {
        DataType::List(item) => match item.data_type() {
            DataType::Struct(fields) if fields.find("side").is_some() => Ok(fields.clone()),
            _ => plan_err!("match_rows() takes a list of structs with a field `side`"),
        },
        _ => plan_err!("match_rows() takes a list of rows first"),
    }
}

/// Fields of what is found, for rows of these fields.
fn found_fields(row: &Fields) -> Result<Fields> {
    let item = DataType::Struct(row.clone());
    let sum = match row.find("amount").map(|(_, field)| field.data_type()) {
        None => DataType::Int64,
        Some(DataType::Decimal128(_, scale)) => DataType::Decimal128(DIGITS, *scale),
        Some(kind) if kind.is_floating() => DataType::Float64,
        Some(kind) if kind.is_integer() => DataType::Int64,
        Some(other) => return plan_err!("match_rows() cannot compare amounts of type {other}"),
    };
    Ok(vec![
        Field::new("first", item.clone(), true),
        Field::new("left", item.clone(), true),
        Field::new("right", item, true),
        Field::new("place", DataType::Int64, true),
        Field::new("difference", sum, true),
    ]
    .into())
}

/// What rows are compared by. Exact numbers are whole ones at their scale.
enum Amounts {
    Unknown,
    Whole { values: Vec<Option<i128>>, tolerance: i128 },
    Float { values: Vec<Option<f64>>, tolerance: f64 },
}

/// The matches of all lists so far: places of rows, and differences at the amounts' scale.
#[derive(Default)]
struct Found {
    first: Vec<u32>,
    left: Vec<Option<u32>>,
    right: Vec<Option<u32>>,
    place: Vec<i64>,
    whole: Vec<Option<i128>>,
    float: Vec<Option<f64>>,
}

impl Found {
    /// A row of the match that begins with the left row `first`; the difference stands on the first.
    fn push(&mut self, first: u32, place: usize, left: Option<u32>, right: Option<u32>, difference: Distance) {
        let difference = (place == 0).then_some(difference);
        self.first.push(first);
        self.left.push(left);
        self.right.push(right);
        self.place.push(place as i64 + 1);
        self.whole.push(match difference {
            Some(Distance::Whole(whole)) => Some(whole),
            _ => None,
        });
        self.float.push(match difference {
            Some(Distance::Float(float)) => Some(float),
            _ => None,
        });
    }
}

/// Left less right.
#[derive(Debug, Clone, Copy)]
enum Distance {
    None,
    Whole(i128),
    Float(f64),
}

impl Distance {
    fn size(self) -> Self {
        match self {
            Self::None => self,
            Self::Whole(whole) => Self::Whole(whole.abs()),
            Self::Float(float) => Self::Float(float.abs()),
        }
    }

    fn order(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => a.cmp(b),
            (Self::Float(a), Self::Float(b)) => a.total_cmp(b),
            _ => Ordering::Equal,
        }
    }
}

/// The rows of all lists.
struct Rows {
    is_right: Vec<bool>,
    amounts: Amounts,
    /// µs, where rows have times.
    times: Option<Vec<Option<i64>>>,
    /// How far apart times may be, µs.
    within: Option<i64>,
}

impl Rows {
    fn new(values: &ArrayRef, tolerance: Option<ScalarValue>, within: Option<ScalarValue>) -> Result<Self> {
        let rows = values.as_struct();
        let Some(sides) = rows.column_by_name("side") else { return plan_err!("rows have no side") };
        let sides = cast(sides, &DataType::Int64)?;
        let is_right = sides.as_primitive::<Int64Type>().iter().map(|side| side == Some(1)).collect();
        let times = match rows.column_by_name("at") {
            None => None,
            Some(at) => {
                let at = cast(at, &DataType::Timestamp(TimeUnit::Microsecond, None))?;
                Some(at.as_primitive::<TimestampMicrosecondType>().iter().collect())
            }
        };
        let within = match within {
            None => None,
            Some(within) => match within.cast_to(&DataType::Int64)? {
                ScalarValue::Int64(Some(micros)) if micros < 0 => {
                    return plan_err!("a time of {micros} µs is no bound");
                }
                ScalarValue::Int64(micros) => micros,
                _ => None,
            },
        };
        let amounts = match rows.column_by_name("amount") {
            None => Amounts::Unknown,
            Some(amount) => Amounts::new(amount, tolerance)?,
        };
        Ok(Self { is_right, amounts, times, within })
    }

    fn match_key(&self, mode: Mode, range: std::ops::Range<u32>, found: &mut Found) -> Result<()> {
        let (rights, lefts): (Vec<u32>, Vec<u32>) = range.partition(|&row| self.is_right[row as usize]);
        match mode {
            _ if lefts.is_empty() || rights.is_empty() => Ok(()),
            Mode::OneToOne => self.pair(&lefts, &rights, found),
            Mode::OneToMany if lefts.len() > 1 => Ok(()),
            Mode::ManyToOne if rights.len() > 1 => Ok(()),
            _ => self.group(&lefts, &rights, found),
        }
    }

    /// Closest first.
    fn pair(&self, lefts: &[u32], rights: &[u32], found: &mut Found) -> Result<()> {
        let mut pairs: Vec<(Distance, i64, u32, u32)> = Vec::new();
        for &left in lefts {
            for &right in rights {
                if let (Some(distance), Some(apart)) = (self.amounts.distance(left, right), self.apart(left, right)) {
                    pairs.push((distance, apart, left, right));
                    if pairs.len() > PAIRS_MAX {
                        return exec_err!(
                            "{} and {} rows share a key: too many to compare; give the way another key",
                            lefts.len(),
                            rights.len()
                        );
                    }
                }
            }
        }
        pairs.sort_by(|a, b| {
            let amounts = a.0.size().order(&b.0.size());
            amounts.then_with(|| (a.1, a.2, a.3).cmp(&(b.1, b.2, b.3)))
        });
        let mut taken = std::collections::HashSet::new();
        for (distance, _, left, right) in pairs {
            if !taken.contains(&left) && !taken.contains(&right) {
                taken.insert(left);
                taken.insert(right);
                found.push(left, 0, Some(left), Some(right), distance);
            }
        }
        Ok(())
    }

    /// All of them, when their sums agree.
    fn group(&self, lefts: &[u32], rights: &[u32], found: &mut Found) -> Result<()> {
        let Some(difference) = self.amounts.difference(lefts, rights)? else { return Ok(()) };
        if !self.close(lefts, rights) {
            return Ok(());
        }
        for place in 0..lefts.len().max(rights.len()) {
            found.push(lefts[0], place, lefts.get(place).copied(), rights.get(place).copied(), difference);
        }
        Ok(())
    }

    /// Whether each of the left rows is as close in time to each of the right ones as it must be.
    fn close(&self, lefts: &[u32], rights: &[u32]) -> bool {
        let (Some(times), Some(within)) = (&self.times, self.within) else { return true };
        let span = |rows: &[u32]| {
            let times: Option<Vec<i64>> = rows.iter().map(|&row| times[row as usize]).collect();
            times.and_then(|times| Some((*times.iter().min()?, *times.iter().max()?)))
        };
        let (Some(left), Some(right)) = (span(lefts), span(rights)) else { return false };
        left.1.saturating_sub(right.0).max(right.1.saturating_sub(left.0)) <= within
    }

    /// How far apart two rows are in time, µs; None when it is further than they may be.
    fn apart(&self, left: u32, right: u32) -> Option<i64> {
        let Some(times) = &self.times else { return Some(0) };
        match (times[left as usize], times[right as usize], self.within) {
            (Some(left), Some(right), within) => {
                let apart = i64::try_from(left.abs_diff(right)).unwrap_or(i64::MAX);
                within.is_none_or(|within| apart <= within).then_some(apart)
            }
            (_, _, None) => Some(i64::MAX),
            _ => None,
        }
    }

    fn columns(&self, values: &ArrayRef, found: Found, made: &Fields) -> Result<Vec<ArrayRef>> {
        let difference: ArrayRef = match &self.amounts {
            Amounts::Unknown => Arc::new(Int64Array::from(vec![None; found.first.len()])),
            Amounts::Float { .. } => Arc::new(Float64Array::from(found.float)),
            Amounts::Whole { .. } => match made[4].data_type() {
                DataType::Decimal128(digits, scale) => {
                    Arc::new(Decimal128Array::from(found.whole).with_precision_and_scale(*digits, *scale)?)
                }
                _ => {
                    let narrow = |whole: Option<i128>| match whole.map(i64::try_from) {
                        None => Ok(None),
                        Some(Ok(whole)) => Ok(Some(whole)),
                        Some(Err(_)) => exec_err!("the difference of two sums does not fit a BIGINT"),
                    };
                    let whole: Result<Vec<Option<i64>>> = found.whole.into_iter().map(narrow).collect();
                    Arc::new(Int64Array::from(whole?))
                }
            },
        };
        Ok(vec![
            take(values, &UInt32Array::from(found.first), None)?,
            take(values, &UInt32Array::from(found.left), None)?,
            take(values, &UInt32Array::from(found.right), None)?,
            Arc::new(Int64Array::from(found.place)),
            difference,
        ])
    }
}

impl Amounts {
    fn new(amounts: &ArrayRef, tolerance: Option<ScalarValue>) -> Result<Self> {
        let amounts = Self::within(amounts, tolerance)?;
        match &amounts {
            Self::Whole { tolerance, .. } if *tolerance < 0 => plan_err!("a tolerance is not less than nothing"),
            Self::Float { tolerance, .. } if *tolerance < 0.0 || tolerance.is_nan() => {
                plan_err!("a tolerance is not less than nothing")
            }
            _ => Ok(amounts),
        }
    }

    fn within(amounts: &ArrayRef, tolerance: Option<ScalarValue>) -> Result<Self> {
        Ok(match amounts.data_type() {
            DataType::Decimal128(_, scale) => {
                let tolerance = match tolerance {
                    None => 0,
                    Some(tolerance) => match tolerance.cast_to(&DataType::Decimal128(DIGITS, *scale))? {
                        ScalarValue::Decimal128(Some(tolerance), ..) => tolerance,
                        other => return plan_err!("`{other}` is no tolerance"),
                    },
                };
                Self::Whole { values: amounts.as_primitive::<Decimal128Type>().iter().collect(), tolerance }
            }
            kind if kind.is_floating() => {
                let amounts = cast(amounts, &DataType::Float64)?;
                let tolerance = match tolerance.map(|t| t.cast_to(&DataType::Float64)).transpose()? {
                    Some(ScalarValue::Float64(Some(tolerance))) => tolerance,
                    _ => 0.0,
                };
                Self::Float { values: amounts.as_primitive::<Float64Type>().iter().collect(), tolerance }
            }
            _ => {
                let amounts = cast(amounts, &DataType::Int64)?;
                let tolerance = match tolerance.map(|t| t.cast_to(&DataType::Int64)).transpose()? {
                    Some(ScalarValue::Int64(Some(tolerance))) => i128::from(tolerance),
                    _ => 0,
                };
                let values = amounts.as_primitive::<Int64Type>().iter().map(|value| value.map(i128::from)).collect();
                Self::Whole { values, tolerance }
            }
        })
    }

    /// Left less right; None when it is more than it may be, or either is unknown.
    fn distance(&self, left: u32, right: u32) -> Option<Distance> {
        match self {
            Self::Unknown => Some(Distance::None),
            Self::Whole { values, tolerance } => {
                let distance = values[left as usize]?.checked_sub(values[right as usize]?)?;
                (distance.abs() <= *tolerance).then_some(Distance::Whole(distance))
            }
            Self::Float { values, tolerance } => {
                let distance = values[left as usize]? - values[right as usize]?;
                (distance.abs() <= *tolerance).then_some(Distance::Float(distance))
            }
        }
    }

    /// The left sum less the right one; None when it is more than it may be, or an amount is unknown.
    fn difference(&self, lefts: &[u32], rights: &[u32]) -> Result<Option<Distance>> {
        match self {
            Self::Unknown => Ok(Some(Distance::None)),
            Self::Whole { values, tolerance } => {
                let sum = |rows: &[u32]| -> Result<Option<i128>> {
                    let mut sum = 0i128;
                    for &row in rows {
                        let Some(value) = values[row as usize] else { return Ok(None) };
                        let Some(next) = sum.checked_add(value) else {
                            return exec_err!("a sum of amounts is too large");
                        };
                        sum = next;
                    }
                    Ok(Some(sum))
                };
                let (Some(left), Some(right)) = (sum(lefts)?, sum(rights)?) else { return Ok(None) };
                let Some(difference) = left.checked_sub(right) else {
                    return exec_err!("the difference of two sums is too large");
                };
                let agrees = difference.abs() <= *tolerance;
                Ok(agrees.then_some(Distance::Whole(difference)))
            }
            Self::Float { values, tolerance } => {
                let sum = |rows: &[u32]| rows.iter().map(|&row| values[row as usize]).sum::<Option<f64>>();
                let difference = sum(lefts).zip(sum(rights)).map(|(left, right)| left - right);
                Ok(difference.filter(|difference| difference.abs() <= *tolerance).map(Distance::Float))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `(is right, amount, time)` of one key; found pairs as places in the list.
    fn matched(
        mode: Mode,
        rows: &[(bool, i128, i64)],
        tolerance: i128,
        within: Option<i64>,
    ) -> Vec<(Option<u32>, Option<u32>)> {
        let rows = Rows {
            is_right: rows.iter().map(|row| row.0).collect(),
            amounts: Amounts::Whole { values: rows.iter().map(|row| Some(row.1)).collect(), tolerance },
            times: Some(rows.iter().map(|row| Some(row.2)).collect()),
            within,
        };
        let mut found = Found::default();
        rows.match_key(mode, 0..rows.is_right.len() as u32, &mut found).unwrap();
        let mut pairs: Vec<_> = found.left.into_iter().zip(found.right).collect();
        pairs.sort_unstable();
        pairs
    }

    #[test]
    fn the_closest_pair_is_taken_first_and_each_row_once() {
        let rows = [(false, 100, 0), (false, 101, 0), (true, 101, 5), (true, 103, 0)];
        assert_eq!(matched(Mode::OneToOne, &rows, 0, None), [(Some(1), Some(2))]);
        assert_eq!(matched(Mode::OneToOne, &rows, 3, None), [(Some(0), Some(3)), (Some(1), Some(2))]);
        assert_eq!(matched(Mode::OneToOne, &rows, 3, Some(4)), [(Some(1), Some(3))]);
        assert_eq!(matched(Mode::OneToOne, &rows[..2], 9, None), []);
    }

    #[test]
    fn groups_match_wholly_or_not_at_all() {
        let split = [(false, 100, 0), (true, 60, 1), (true, 40, 2)];
        let whole = [(None, Some(2)), (Some(0), Some(1))];
        assert_eq!(matched(Mode::OneToMany, &split, 0, None), whole);
        assert_eq!(matched(Mode::ManyToMany, &split, 0, None), whole);
        assert_eq!(matched(Mode::ManyToOne, &split, 0, None), []);
        assert_eq!(matched(Mode::OneToMany, &split, 0, Some(1)), []);
        assert_eq!(matched(Mode::OneToMany, &split[..2], 0, None), []);
        assert_eq!(matched(Mode::OneToMany, &split[..2], 40, None), [(Some(0), Some(1))]);
    }

    /// Pairs by their definition, over every pair again and again.
    fn by_definition(
        rows: &[(bool, i128, i64)],
        tolerance: i128,
        within: Option<i64>,
    ) -> Vec<(Option<u32>, Option<u32>)> {
        let mut free: Vec<u32> = (0..rows.len() as u32).collect();
        let mut pairs = Vec::new();
        loop {
            let mut best: Option<(i128, u64, u32, u32)> = None;
            for &left in free.iter().filter(|&&row| !rows[row as usize].0) {
                for &right in free.iter().filter(|&&row| rows[row as usize].0) {
                    let (l, r) = (rows[left as usize], rows[right as usize]);
                    let pair = ((l.1 - r.1).abs(), l.2.abs_diff(r.2), left, right);
                    let allowed = pair.0 <= tolerance && within.is_none_or(|within| pair.1 <= within as u64);
                    if allowed && best.is_none_or(|best| pair < best) {
                        best = Some(pair);
                    }
                }
            }
            let Some((_, _, left, right)) = best else { break };
            free.retain(|&row| row != left && row != right);
            pairs.push((Some(left), Some(right)));
        }
        pairs.sort_unstable();
        pairs
    }

    #[test]
    fn random_keys_are_paired_as_defined() {
        let mut state = 7u64;
        let mut next = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..2000 {
            let count = next(9);
            let rows: Vec<_> = (0..count).map(|_| (next(2) == 1, i128::from(next(6)), next(5) as i64)).collect();
            let (tolerance, within) = (i128::from(next(3)), Some(next(4) as i64).filter(|within| *within < 3));
            assert_eq!(
                matched(Mode::OneToOne, &rows, tolerance, within),
                by_definition(&rows, tolerance, within),
                "{rows:?} within {tolerance}, {within:?}"
            );
            let (rights, lefts): (Vec<_>, Vec<_>) = rows.iter().copied().partition(|row| row.0);
            let sum = |side: &[(bool, i128, i64)]| side.iter().map(|row| row.1).sum::<i128>();
            let apart = |l: &(bool, i128, i64), r: &(bool, i128, i64)| l.2.abs_diff(r.2) as i64;
            let all_close = lefts.iter().all(|l| rights.iter().all(|r| within.is_none_or(|most| apart(l, r) <= most)));
            let agree = (sum(&lefts) - sum(&rights)).abs() <= tolerance && !lefts.is_empty() && !rights.is_empty();
            let found = matched(Mode::ManyToMany, &rows, tolerance, within);
            let expected = if agree && all_close { lefts.len().max(rights.len()) } else { 0 };
            assert_eq!(found.len(), expected, "{rows:?} within {tolerance}, {within:?}");
        }
    }
}
