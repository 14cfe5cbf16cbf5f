//! Sum and average of floats as aggregate functions that do not depend on order: both tempos use them.

use crate::exact::ExactSum;
use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanArray, Float64Array, Int64Array};
use arrow::datatypes::{DataType, Field, FieldRef, Float64Type, Int64Type};
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, GroupsAccumulator, Signature, Volatility,
};
use hashbrown::HashSet;
use std::sync::{Arc, LazyLock};

/// The exact form of DataFusion's aggregate `name` over doubles, where there is one.
pub(crate) fn exact_form(name: &str) -> Option<Arc<AggregateUDF>> {
    static SUM: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Arc::new(ExactAggregate::new("sum").into()));
    static AVERAGE: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Arc::new(ExactAggregate::new("avg").into()));
    match name {
        "sum" => Some(SUM.clone()),
        "avg" => Some(AVERAGE.clone()),
        _ => None,
    }
}

/// `sum` or `avg` of doubles; the average is the rounded sum divided by the count.
#[derive(Debug, PartialEq, Eq, Hash)]
struct ExactAggregate {
    name: &'static str,
    signature: Signature,
}

impl ExactAggregate {
    fn new(name: &'static str) -> Self {
        Self { name, signature: Signature::exact(vec![DataType::Float64], Volatility::Immutable) }
    }
}

impl AggregateUDFImpl for ExactAggregate {
    fn name(&self) -> &str {
        self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Float64)
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        let average = self.name == "avg";
        Ok(if arguments.is_distinct {
            Box::new(DistinctSum { values: HashSet::new(), average })
        } else {
            Box::new(Sum { sum: ExactSum::default(), count: 0, average })
        })
    }

    fn groups_accumulator_supported(&self, arguments: AccumulatorArgs) -> bool {
        !arguments.is_distinct
    }

    fn create_groups_accumulator(&self, _arguments: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        Ok(Box::new(GroupSums { sums: Vec::new(), counts: Vec::new(), heap_bytes: 0, average: self.name == "avg" }))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let name = arguments.name;
        Ok(vec![
            Arc::new(Field::new(format!("{name}[exact]"), DataType::Binary, true)),
            Arc::new(Field::new(format!("{name}[count]"), DataType::Int64, true)),
        ])
    }
}

fn value(sum: &ExactSum, count: i64, average: bool) -> Option<f64> {
    match (count, average) {
        (0, _) => None,
        (_, false) => Some(sum.value()),
        (_, true) => Some(sum.value() / count as f64),
    }
}

fn result(sum: &ExactSum, count: i64, average: bool) -> ScalarValue {
    ScalarValue::Float64(value(sum, count, average))
}

#[derive(Debug)]
struct Sum {
    sum: ExactSum,
    count: i64,
    average: bool,
}

impl Sum {
    fn add_all(&mut self, values: &[ArrayRef], weight: i64) {
        let numbers = values[0].as_primitive::<Float64Type>();
        for number in numbers.iter().flatten() {
            self.sum.add(number, weight);
            self.count += weight;
        }
    }
}

impl Accumulator for Sum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add_all(values, 1);
        Ok(())
    }

    fn retract_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        self.add_all(values, -1);
        Ok(())
    }

    fn supports_retract_batch(&self) -> bool {
        true
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        Ok(result(&self.sum, self.count, self.average))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.sum.heap_bytes()
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let mut bytes = Vec::new();
        self.sum.encode(&mut bytes);
        Ok(vec![ScalarValue::Binary(Some(bytes)), ScalarValue::Int64(Some(self.count))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        let (sums, counts) = (states[0].as_binary::<i32>(), states[1].as_primitive::<Int64Type>());
        for row in 0..sums.len() {
            if sums.is_valid(row) {
                let sum = ExactSum::decode(&mut sums.value(row)).map_err(corrupt)?;
                self.sum.merge(&sum);
                self.count += counts.value(row);
            }
        }
        Ok(())
    }
}

/// The sums of many groups at once.
#[derive(Debug)]
struct GroupSums {
    sums: Vec<ExactSum>,
    counts: Vec<i64>,
    /// What sums hold beside themselves.
    heap_bytes: usize,
    average: bool,
}

impl GroupSums {
    /// Changes the sums of the groups of rows that pass the filter.
    fn change(
        &mut self,
        groups: &[usize],
        filter: Option<&BooleanArray>,
        groups_in_all: usize,
        mut change: impl FnMut(&mut ExactSum, &mut i64, usize) -> Result<()>,
    ) -> Result<()> {
        self.sums.resize(groups_in_all, ExactSum::default());
        self.counts.resize(groups_in_all, 0);
        for (row, &group) in groups.iter().enumerate() {
            if filter.is_some_and(|filter| !filter.is_valid(row) || !filter.value(row)) {
                continue;
            }
            let sum = &mut self.sums[group];
            let before = sum.heap_bytes();
            change(sum, &mut self.counts[group], row)?;
            self.heap_bytes = (self.heap_bytes + sum.heap_bytes()).saturating_sub(before);
        }
        Ok(())
    }

    fn take(&mut self, emit: EmitTo) -> (Vec<ExactSum>, Vec<i64>) {
        let taken = (emit.take_needed(&mut self.sums), emit.take_needed(&mut self.counts));
        self.heap_bytes = self.sums.iter().map(ExactSum::heap_bytes).sum();
        taken
    }
}

impl GroupsAccumulator for GroupSums {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        groups_in_all: usize,
    ) -> Result<()> {
        let numbers = values[0].as_primitive::<Float64Type>();
        self.change(groups, filter, groups_in_all, |sum, count, row| {
            if numbers.is_valid(row) {
                sum.add(numbers.value(row), 1);
                *count += 1;
            }
            Ok(())
        })
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], groups_in_all: usize) -> Result<()> {
        let (sums, counts) = (states[0].as_binary::<i32>(), states[1].as_primitive::<Int64Type>());
        self.change(groups, None, groups_in_all, |sum, count, row| {
            if sums.is_valid(row) {
                sum.merge(&ExactSum::decode(&mut sums.value(row)).map_err(corrupt)?);
                *count += counts.value(row);
            }
            Ok(())
        })
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let average = self.average;
        let (sums, counts) = self.take(emit);
        let values = sums.iter().zip(counts).map(|(sum, count)| value(sum, count, average));
        Ok(Arc::new(values.collect::<Float64Array>()))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        let (sums, counts) = self.take(emit);
        Ok(encoded(&sums, counts))
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        let mut each = Self { sums: Vec::new(), counts: Vec::new(), heap_bytes: 0, average: self.average };
        let rows = values[0].len();
        each.update_batch(values, &(0..rows).collect::<Vec<_>>(), filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        self.sums.capacity() * size_of::<ExactSum>() + self.counts.capacity() * size_of::<i64>() + self.heap_bytes
    }
}

fn encoded(sums: &[ExactSum], counts: Vec<i64>) -> Vec<ArrayRef> {
    let mut encoded = BinaryBuilder::with_capacity(sums.len(), sums.len() * 24);
    let mut bytes = Vec::new();
    for sum in sums {
        bytes.clear();
        sum.encode(&mut bytes);
        encoded.append_value(&bytes);
    }
    vec![Arc::new(encoded.finish()), Arc::new(Int64Array::from(counts))]
}

/// Each value once, by its bits.
#[derive(Debug)]
struct DistinctSum {
    values: HashSet<u64>,
    average: bool,
}

impl Accumulator for DistinctSum {
    fn update_batch(&mut self, values: &[ArrayRef]) -> Result<()> {
        let numbers = values[0].as_primitive::<Float64Type>();
        self.values.extend(numbers.iter().flatten().map(f64::to_bits));
        Ok(())
    }

    fn evaluate(&mut self) -> Result<ScalarValue> {
        let mut sum = ExactSum::default();
        for bits in &self.values {
            sum.add(f64::from_bits(*bits), 1);
        }
        Ok(result(&sum, self.values.len() as i64, self.average))
    }

    fn size(&self) -> usize {
        size_of_val(self) + self.values.capacity() * 9
    }

    fn state(&mut self) -> Result<Vec<ScalarValue>> {
        let bytes = self.values.iter().flat_map(|bits| bits.to_le_bytes()).collect();
        Ok(vec![ScalarValue::Binary(Some(bytes)), ScalarValue::Int64(Some(self.values.len() as i64))])
    }

    fn merge_batch(&mut self, states: &[ArrayRef]) -> Result<()> {
        for bytes in states[0].as_binary::<i32>().iter().flatten() {
            let (words, rest) = bytes.as_chunks::<8>();
            if !rest.is_empty() {
                return Err(corrupt(crate::exact::CorruptSum));
            }
            self.values.extend(words.iter().map(|word| u64::from_le_bytes(*word)));
        }
        Ok(())
    }
}

fn corrupt(error: crate::exact::CorruptSum) -> DataFusionError {
    DataFusionError::External(Box::new(error))
}
