//! Least and greatest of floats by one total order, in which NaN is above infinity: both tempos use them.
//!
//! DataFusion compares floats in part, so that its answer over a NaN depends on the order of its input.

use arrow::array::{ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Float64Type};
use datafusion::common::{Result, ScalarValue};
use datafusion::logical_expr::function::AccumulatorArgs;
use datafusion::logical_expr::{Accumulator, AggregateUDF, AggregateUDFImpl, Signature, Volatility};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// The total form of DataFusion's aggregate `name` over floats, where there is one.
pub(crate) fn total_form(name: &str) -> Option<Arc<AggregateUDF>> {
    static LEAST: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Arc::new(Extreme::new("min").into()));
    static GREATEST: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Arc::new(Extreme::new("max").into()));
    match name {
        "min" => Some(LEAST.clone()),
        "max" => Some(GREATEST.clone()),
        _ => None,
    }
}

/// `min` or `max` of floats.
#[derive(Debug, PartialEq, Eq, Hash)]
struct Extreme {
    name: &'static str,
    signature: Signature,
}

impl Extreme {
    fn new(name: &'static str) -> Self {
        Self { name, signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for Extreme {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(arguments[0].clone())
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let output = arguments.return_type().clone();
        Ok(Box::new(Seen { greatest: self.name == "max", output, key: None }))
    }

    fn create_sliding_accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let output = arguments.return_type().clone();
        Ok(Box::new(Sliding { greatest: self.name == "max", output, keys: BTreeMap::new() }))
    }
}

/// Integers that are ordered as the numbers are; of a canonical float, so NaN is the highest.
fn key_of(number: f64) -> i64 {
    let bits = number.to_bits() as i64;
    bits ^ (((bits >> 63) as u64) >> 1) as i64
}

fn number_of(key: i64) -> f64 {
    f64::from_bits((key ^ (((key >> 63) as u64) >> 1) as i64) as u64)
}

fn keys_of(values: &[ArrayRef]) -> Result<Vec<i64>> {
    let numbers = cast(&values[0], &DataType::Float64)?;
    Ok(numbers.as_primitive::<Float64Type>().iter().flatten().map(key_of).collect())
}

fn result(key: Option<i64>, output: &DataType) -> Result<ScalarValue> {
    ScalarValue::Float64(key.map(number_of)).cast_to(output)
}

#[derive(Debug)]
struct Seen {
    greatest: bool,
    output: DataType,
    key: Option<i64>,
}

impl Accumulator for Seen {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let keys = keys_of(values)?.into_iter().chain(self.key);
        self.key = if self.greatest { keys.max() } else { keys.min() };
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        result(self.key, &self.output)
    }

    fn size(&self) -> usize {
        size_of_val(self)
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

/// Over a moving frame: all values, each with its count.
#[derive(Debug)]
struct Sliding {
    greatest: bool,
    output: DataType,
    keys: BTreeMap<i64, u64>,
}

impl Accumulator for Sliding {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for key in keys_of(values)? {
            *self.keys.entry(key).or_default() += 1;
        }
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        for key in keys_of(values)? {
            if let Some(count) = self.keys.get_mut(&key) {
                *count -= 1;
                if *count == 0 {
                    self.keys.remove(&key);
                }
            }
        }
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let key = if self.greatest { self.keys.keys().next_back() } else { self.keys.keys().next() };
        result(key.copied(), &self.output)
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.keys.len() * 24
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        Ok(vec![self.evaluate()?])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        self.update_batch(states)
    }
}

#[cfg(test)]
mod tests {
    use super::{key_of, number_of};

    #[test]
    fn keys_are_ordered_as_numbers_with_nan_on_top() {
        let numbers = [f64::NEG_INFINITY, -1e16, -1.0, -5e-324, 0.0, 5e-324, 0.1, 1e16, f64::INFINITY, f64::NAN];
        for pair in numbers.windows(2) {
            assert!(key_of(pair[0]) < key_of(pair[1]), "{pair:?}");
        }
        for number in numbers {
            assert_eq!(number_of(key_of(number)).to_bits(), number.to_bits());
        }
    }
}
