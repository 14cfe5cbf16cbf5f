//! `hop(at, slide, size)`: the starts of all windows of fixed size that an instant falls in, a new one at every slide.

use crate::tumble::micros;
use arrow::array::{Array, ArrayRef, AsArray, ListArray, TimestampMicrosecondArray};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::cast;
use arrow::datatypes::{
    DataType, Field, FieldRef, IntervalMonthDayNano, IntervalMonthDayNanoType, IntervalUnit, TimeUnit,
    TimestampMicrosecondType,
};
use datafusion::common::{Result, exec_err};
use datafusion::logical_expr::{
    ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, TypeSignature, Volatility,
};
use std::sync::Arc;

/// An instant falls in at most so many windows.
const WINDOWS_MAX: i128 = 10_000;

/// The function.
pub(crate) fn function() -> ScalarUDF {
    Hop::new().into()
}

/// Windows start at 1970-01-01T00:00:00Z plus multiples of the slide; `unnest(hop(..))` gives a row for each.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Hop {
    signature: Signature,
}

fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

fn item() -> FieldRef {
    Arc::new(Field::new_list_field(instant(), true))
}

impl Hop {
    fn new() -> Self {
        let width = DataType::Interval(IntervalUnit::MonthDayNano);
        let arguments = TypeSignature::Exact(vec![instant(), width.clone(), width]);
        Self { signature: Signature::new(arguments, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Hop {
    fn name(&self) -> &str {
        "hop"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(item()))
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let instants = cast(&arguments.args[0].to_array(rows)?, &instant())?;
        let instants = instants.as_primitive::<TimestampMicrosecondType>();
        let slides = arguments.args[1].to_array(rows)?;
        let slides = slides.as_primitive::<IntervalMonthDayNanoType>();
        let sizes = arguments.args[2].to_array(rows)?;
        let sizes = sizes.as_primitive::<IntervalMonthDayNanoType>();
        let (mut all, mut lengths, mut valid) = (Vec::new(), Vec::with_capacity(rows), Vec::with_capacity(rows));
        for row in 0..rows {
            let known = instants.is_valid(row) && slides.is_valid(row) && sizes.is_valid(row);
            let before = all.len();
            if known {
                starts(instants.value(row), slides.value(row), sizes.value(row), &mut all)?;
            }
            lengths.push(all.len() - before);
            valid.push(known);
        }
        let values: ArrayRef = Arc::new(TimestampMicrosecondArray::from(all));
        let offsets = OffsetBuffer::from_lengths(lengths);
        let lists = ListArray::try_new(item(), offsets, values, Some(NullBuffer::from(valid)))?;
        Ok(ColumnarValue::Array(Arc::new(lists)))
    }
}

/// Adds the starts of the windows of `instant`, ascending.
fn starts(instant: i64, slide: IntervalMonthDayNano, size: IntervalMonthDayNano, all: &mut Vec<i64>) -> Result<()> {
    let (slide, size) = (micros("hop", slide)?, micros("hop", size)?);
    if size / slide >= WINDOWS_MAX {
        return exec_err!("hop() puts an instant into at most {WINDOWS_MAX} windows; take a larger slide");
    }
    let instant = i128::from(instant);
    let last = instant - instant.rem_euclid(slide);
    let oldest = instant - size;
    // The first multiple of the slide whose window has not ended.
    let mut start = oldest - oldest.rem_euclid(slide) + slide;
    while start <= last {
        match i64::try_from(start) {
            Ok(start) => all.push(start),
            Err(_) => return exec_err!("a window of {instant} begins before time does"),
        }
        start += slide;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::starts;
    use arrow::datatypes::IntervalMonthDayNano;

    fn of(instant: i64, slide: i64, size: i64) -> Vec<i64> {
        let width = |micros: i64| IntervalMonthDayNano::new(0, 0, micros * 1000);
        let mut all = Vec::new();
        starts(instant, width(slide), width(size), &mut all).unwrap();
        all
    }

    #[test]
    fn an_instant_is_in_each_window_that_covers_it_and_in_no_other() {
        for (slide, size) in [(5, 20), (5, 5), (7, 20), (10, 3), (1, 1)] {
            for instant in -60..60 {
                let covering = |start: &i64| start % slide == 0 && *start <= instant && instant < start + size;
                let expected: Vec<i64> = (-100..100).filter(covering).collect();
                assert_eq!(of(instant, slide, size), expected, "{instant} of {slide}, {size}");
            }
        }
    }

    #[test]
    fn windows_without_number_or_length_are_refused() {
        let width = |months: i32, micros: i64| IntervalMonthDayNano::new(months, 0, micros * 1000);
        let mut all = Vec::new();
        assert!(starts(0, width(1, 0), width(0, 5), &mut all).unwrap_err().to_string().contains("date_trunc"));
        assert!(starts(0, width(0, 0), width(0, 5), &mut all).is_err());
        assert!(starts(0, width(0, 1), width(0, 1_000_000_000), &mut all).unwrap_err().to_string().contains("slide"));
        assert!(all.is_empty());
    }
}
