//! `tumble(at, width)`: the start of the window of fixed width that an instant falls in.

use arrow::array::{Array, ArrayRef, AsArray, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit, TimestampMicrosecondType,
};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use std::sync::Arc;

const DAY_MICROS: i128 = 86_400_000_000;

/// The function.
pub(crate) fn function() -> ScalarUDF {
    Tumble::new().into()
}

/// Windows stand next to each other and start at 1970-01-01T00:00:00Z plus multiples of their width.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Tumble {
    signature: Signature,
}

impl Tumble {
    fn new() -> Self {
        let instant = DataType::Timestamp(TimeUnit::Microsecond, None);
        let width = DataType::Interval(IntervalUnit::MonthDayNano);
        Self { signature: Signature::new(TypeSignature::Exact(vec![instant, width]), Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Tumble {
    fn name(&self) -> &str {
        "tumble"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Timestamp(TimeUnit::Microsecond, None))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let instants = cast(&arguments.args[0].to_array(rows)?, &self.return_type(&[])?)?;
        let instants = instants.as_primitive::<TimestampMicrosecondType>();
        let widths = arguments.args[1].to_array(rows)?;
        let widths = widths.as_primitive::<IntervalMonthDayNanoType>();
        let mut starts: Vec<Option<i64>> = Vec::with_capacity(rows);
        for row in 0..rows {
            starts.push(match instants.is_valid(row) && widths.is_valid(row) {
                true => Some(start(instants.value(row), widths.value(row))?),
                false => None,
            });
        }
        let starts: ArrayRef = Arc::new(TimestampMicrosecondArray::from(starts));
        Ok(ColumnarValue::Array(starts))
    }
}

fn start(instant: i64, width: IntervalMonthDayNano) -> Result<i64> {
    let start = i128::from(instant) - i128::from(instant).rem_euclid(micros("tumble", width)?);
    match i64::try_from(start) {
        Ok(start) => Ok(start),
        Err(_) => exec_err!("the window of {instant} begins before time does"),
    }
}

/// The microseconds of a width that `function` takes, which are more than none.
pub(crate) fn micros(function: &str, width: IntervalMonthDayNano) -> Result<i128> {
    if width.months != 0 {
        return exec_err!("{function}() takes a width of days or less; for months and years use date_trunc()");
    }
    let width = i128::from(width.days) * DAY_MICROS + i128::from(width.nanoseconds / 1000);
    if width <= 0 {
        return exec_err!("{function}() takes a width above zero");
    }
    Ok(width)
}

#[cfg(test)]
mod tests {
    use super::start;
    use arrow::datatypes::IntervalMonthDayNano;

    fn width(months: i32, days: i32, seconds: i64) -> IntervalMonthDayNano {
        IntervalMonthDayNano::new(months, days, seconds * 1_000_000_000)
    }

    #[test]
    fn windows_touch_and_do_not_overlap_also_before_1970() {
        let ten = width(0, 0, 10);
        for (instant, expected) in [(0, 0), (9_999_999, 0), (10_000_000, 10_000_000), (-1, -10_000_000)] {
            assert_eq!(start(instant, ten).unwrap(), expected);
        }
    }

    #[test]
    fn widths_without_a_fixed_length_are_refused() {
        assert!(start(0, width(1, 0, 0)).unwrap_err().to_string().contains("date_trunc"));
        assert!(start(0, width(0, 0, 0)).is_err());
        assert!(start(0, width(0, -1, 0)).is_err());
    }
}
