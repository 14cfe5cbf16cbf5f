//! Aggregates that can be undone: counts and sums by group, in columns.

use super::super::EngineError;
use super::by_group::ByGroup;
use crate::exact::ExactSum;
use arrow::array::{ArrayRef, ArrowPrimitiveType, AsArray, BooleanArray, Float64Array, Int64Array, PrimitiveArray};
use arrow::buffer::NullBuffer;
use arrow::datatypes::{
    ArrowNativeType, ArrowNativeTypeOp, DataType, Decimal128Type, Decimal256Type, DecimalType, Float64Type, Int64Type,
    UInt64Type, i256,
};
use arrow::error::ArrowError;
use std::sync::Arc;

/// One aggregate over all groups, which are numbered densely.
pub(super) trait Accumulator: Send {
    /// Makes room for so many groups; new ones are empty.
    fn grow(&mut self, groups: usize);

    /// Adds rows: the values, how often each counts (0 also where it is NULL), and their groups.
    fn update(&mut self, values: Option<&ArrayRef>, weights: &[i64], groups: &[u32]) -> Result<(), EngineError>;

    /// The results of groups.
    fn evaluate(&self, groups: &[u32]) -> Result<ArrayRef, EngineError>;

    /// Makes a group empty, so that its number can be reused.
    fn forget(&mut self, group: u32);

    /// Appends what is kept of a group.
    fn encode(&self, group: u32, bytes: &mut Vec<u8>);

    /// Reads that back from the front of `bytes`; `None` when it is malformed.
    fn decode(&mut self, group: u32, bytes: &mut &[u8]) -> Option<()>;

    /// Promises that no weight will be negative.
    fn insert_only(&mut self) {}

    /// What is remembered beside the groups' own values.
    fn part(&mut self) -> Option<&mut dyn ByGroup> {
        None
    }

    /// Rows remembered beside the groups, and bytes of everything.
    fn sizes(&self) -> (usize, usize);

    /// Bytes of columns that have a place for every number of a group.
    fn dense_bytes(&self) -> usize {
        self.sizes().1
    }

    /// Bytes beside those columns that hold nothing.
    fn unused_bytes(&self) -> usize {
        0
    }
}

fn take_i64(bytes: &mut &[u8]) -> Option<i64> {
    let (word, rest) = bytes.split_first_chunk::<8>()?;
    *bytes = rest;
    Some(i64::from_le_bytes(*word))
}

/// Counts of what is not zero are valid results.
fn valid(counts: &[i64], groups: &[u32]) -> NullBuffer {
    groups.iter().map(|&group| counts[group as usize] != 0).collect()
}

/// `count(x)`, `count(*)`.
#[derive(Default)]
pub(super) struct Counts {
    counts: Vec<i64>,
}

impl Accumulator for Counts {
    fn grow(&mut self, groups: usize) {
        self.counts.resize(groups.max(self.counts.len()), 0);
    }

    fn update(&mut self, _values: Option<&ArrayRef>, weights: &[i64], groups: &[u32]) -> Result<(), EngineError> {
        for (&weight, &group) in weights.iter().zip(groups) {
            let count = &mut self.counts[group as usize];
            *count = count.wrapping_add(weight);
        }
        Ok(())
    }

    fn evaluate(&self, groups: &[u32]) -> Result<ArrayRef, EngineError> {
        let counts: Int64Array = groups.iter().map(|&group| self.counts[group as usize]).collect::<Vec<_>>().into();
        Ok(Arc::new(counts))
    }

    fn forget(&mut self, group: u32) {
        self.counts[group as usize] = 0;
    }

    fn encode(&self, group: u32, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.counts[group as usize].to_le_bytes());
    }

    fn decode(&mut self, group: u32, bytes: &mut &[u8]) -> Option<()> {
        self.counts[group as usize] = take_i64(bytes)?;
        Some(())
    }

    fn sizes(&self) -> (usize, usize) {
        (0, self.counts.capacity() * 8)
    }
}

/// A type that is summed in its own width, wrapping.
pub(super) trait Summed: ArrowPrimitiveType {
    fn times(value: Self::Native, weight: i64) -> Self::Native;
    fn put(value: Self::Native, bytes: &mut Vec<u8>);
    fn get(bytes: &mut &[u8]) -> Option<Self::Native>;
    /// The mean as a decimal of `output`, of a sum that has fewer digits after the point by the factor `scale`.
    fn mean(_sum: Self::Native, _count: i64, _scale: u32, _output: &DataType) -> Result<Self::Native, ArrowError> {
        Err(ArrowError::NotYetImplemented("the mean of integers is that of floats".into()))
    }
}

macro_rules! summed_integer {
    ($type:ty, $native:ty) => {
        impl Summed for $type {
            fn times(value: $native, weight: i64) -> $native {
                value.wrapping_mul(weight as $native)
            }

            fn put(value: $native, bytes: &mut Vec<u8>) {
                bytes.extend_from_slice(&value.to_le_bytes());
            }

            fn get(bytes: &mut &[u8]) -> Option<$native> {
                take_i64(bytes).map(|value| value as $native)
            }
        }
    };
}

summed_integer!(Int64Type, i64);
summed_integer!(UInt64Type, u64);

/// DataFusion's rule: scale up, divide, cut off; fails when the result does not fit.
fn decimal_mean<T: DecimalType>(
    sum: T::Native,
    count: T::Native,
    scale: u32,
    output: &DataType,
) -> Result<T::Native, ArrowError> {
    let ten = T::Native::usize_as(10);
    let mean = sum.mul_checked(ten.pow_checked(scale)?)?.div_checked(count)?;
    let (DataType::Decimal128(precision, scale) | DataType::Decimal256(precision, scale)) = output else {
        return Err(ArrowError::InvalidArgumentError(format!("the mean of decimals is no {output}")));
    };
    T::validate_decimal_precision(mean, *precision, *scale)?;
    Ok(mean)
}

impl Summed for Decimal128Type {
    fn times(value: i128, weight: i64) -> i128 {
        value.wrapping_mul(i128::from(weight))
    }

    fn put(value: i128, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn get(bytes: &mut &[u8]) -> Option<i128> {
        let (value, rest) = bytes.split_first_chunk::<16>()?;
        *bytes = rest;
        Some(i128::from_le_bytes(*value))
    }

    fn mean(sum: i128, count: i64, scale: u32, output: &DataType) -> Result<i128, ArrowError> {
        decimal_mean::<Self>(sum, i128::from(count), scale, output)
    }
}

impl Summed for Decimal256Type {
    fn times(value: i256, weight: i64) -> i256 {
        value.wrapping_mul(i256::from(weight))
    }

    fn put(value: i256, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&value.to_le_bytes());
    }

    fn get(bytes: &mut &[u8]) -> Option<i256> {
        let (value, rest) = bytes.split_first_chunk::<32>()?;
        *bytes = rest;
        Some(i256::from_le_bytes(*value))
    }

    fn mean(sum: i256, count: i64, scale: u32, output: &DataType) -> Result<i256, ArrowError> {
        decimal_mean::<Self>(sum, i256::from(count), scale, output)
    }
}

/// `sum` and `avg` of integers and decimals.
pub(super) struct Sums<T: Summed> {
    counts: Vec<i64>,
    sums: Vec<T::Native>,
    output: DataType,
    /// For a mean: digits that it has more after the point than the values.
    mean: Option<u32>,
}

impl<T: Summed> Sums<T> {
    pub fn sum(output: &DataType) -> Self {
        Self { counts: Vec::new(), sums: Vec::new(), output: output.clone(), mean: None }
    }

    pub fn mean(output: &DataType, scale: i8) -> Self {
        let to = match output {
            DataType::Decimal128(_, to) | DataType::Decimal256(_, to) => *to,
            _ => scale,
        };
        let digits = u32::from((to - scale).max(0).unsigned_abs());
        Self { counts: Vec::new(), sums: Vec::new(), output: output.clone(), mean: Some(digits) }
    }
}

impl<T: Summed> Accumulator for Sums<T> {
    fn grow(&mut self, groups: usize) {
        self.counts.resize(groups.max(self.counts.len()), 0);
        self.sums.resize(groups.max(self.sums.len()), T::Native::ZERO);
    }

    fn update(&mut self, values: Option<&ArrayRef>, weights: &[i64], groups: &[u32]) -> Result<(), EngineError> {
        let Some(values) = values else {
            return Err(EngineError::Internal("a sum without an argument".into()));
        };
        let values = values.as_primitive::<T>().values();
        for ((&value, &weight), &group) in values.iter().zip(weights).zip(groups) {
            if weight == 0 {
                continue;
            }
            let count = &mut self.counts[group as usize];
            *count = count.wrapping_add(weight);
            let sum = &mut self.sums[group as usize];
            *sum = sum.add_wrapping(T::times(value, weight));
        }
        Ok(())
    }

    fn evaluate(&self, groups: &[u32]) -> Result<ArrayRef, EngineError> {
        let nulls = valid(&self.counts, groups);
        let mut values = Vec::with_capacity(groups.len());
        for &group in groups {
            let (sum, count) = (self.sums[group as usize], self.counts[group as usize]);
            values.push(match self.mean {
                Some(scale) if count != 0 => T::mean(sum, count, scale, &self.output)?,
                _ => sum,
            });
        }
        let array = PrimitiveArray::<T>::new(values.into(), Some(nulls)).with_data_type(self.output.clone());
        Ok(Arc::new(array))
    }

    fn forget(&mut self, group: u32) {
        self.counts[group as usize] = 0;
        self.sums[group as usize] = T::Native::ZERO;
    }

    fn encode(&self, group: u32, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.counts[group as usize].to_le_bytes());
        T::put(self.sums[group as usize], bytes);
    }

    fn decode(&mut self, group: u32, bytes: &mut &[u8]) -> Option<()> {
        self.counts[group as usize] = take_i64(bytes)?;
        self.sums[group as usize] = T::get(bytes)?;
        Some(())
    }

    fn sizes(&self) -> (usize, usize) {
        (0, self.counts.capacity() * 8 + self.sums.capacity() * size_of::<T::Native>())
    }
}

/// `sum` and `avg` of floats.
pub(super) struct ExactSums {
    counts: Vec<i64>,
    sums: Vec<ExactSum>,
    mean: bool,
}

impl ExactSums {
    pub fn new(mean: bool) -> Self {
        Self { counts: Vec::new(), sums: Vec::new(), mean }
    }
}

impl Accumulator for ExactSums {
    fn grow(&mut self, groups: usize) {
        self.counts.resize(groups.max(self.counts.len()), 0);
        self.sums.resize_with(groups.max(self.sums.len()), ExactSum::default);
    }

    fn update(&mut self, values: Option<&ArrayRef>, weights: &[i64], groups: &[u32]) -> Result<(), EngineError> {
        let Some(values) = values else {
            return Err(EngineError::Internal("a sum without an argument".into()));
        };
        let values = values.as_primitive::<Float64Type>().values();
        for ((&value, &weight), &group) in values.iter().zip(weights).zip(groups) {
            if weight != 0 {
                let count = &mut self.counts[group as usize];
                *count = count.wrapping_add(weight);
                self.sums[group as usize].add(value, weight);
            }
        }
        Ok(())
    }

    fn evaluate(&self, groups: &[u32]) -> Result<ArrayRef, EngineError> {
        let value = |&group: &u32| {
            let (sum, count) = (self.sums[group as usize].value(), self.counts[group as usize]);
            if self.mean && count != 0 { sum / count as f64 } else { sum }
        };
        let values: Vec<f64> = groups.iter().map(value).collect();
        Ok(Arc::new(Float64Array::new(values.into(), Some(valid(&self.counts, groups)))))
    }

    fn forget(&mut self, group: u32) {
        self.counts[group as usize] = 0;
        self.sums[group as usize] = ExactSum::default();
    }

    fn encode(&self, group: u32, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.counts[group as usize].to_le_bytes());
        self.sums[group as usize].encode(bytes);
    }

    fn decode(&mut self, group: u32, bytes: &mut &[u8]) -> Option<()> {
        self.counts[group as usize] = take_i64(bytes)?;
        self.sums[group as usize] = ExactSum::decode(bytes).ok()?;
        Some(())
    }

    fn sizes(&self) -> (usize, usize) {
        (0, self.counts.capacity() * 8 + self.sums.capacity() * size_of::<ExactSum>())
    }
}

/// `bool_and` and `bool_or`.
pub(super) struct Booleans {
    trues: Vec<i64>,
    falses: Vec<i64>,
    and: bool,
}

impl Booleans {
    pub fn new(and: bool) -> Self {
        Self { trues: Vec::new(), falses: Vec::new(), and }
    }
}

impl Accumulator for Booleans {
    fn grow(&mut self, groups: usize) {
        self.trues.resize(groups.max(self.trues.len()), 0);
        self.falses.resize(groups.max(self.falses.len()), 0);
    }

    fn update(&mut self, values: Option<&ArrayRef>, weights: &[i64], groups: &[u32]) -> Result<(), EngineError> {
        let Some(values) = values else {
            return Err(EngineError::Internal("a boolean aggregate without an argument".into()));
        };
        let values = values.as_boolean();
        for (row, (&weight, &group)) in weights.iter().zip(groups).enumerate() {
            if weight != 0 {
                let counts = if values.value(row) { &mut self.trues } else { &mut self.falses };
                counts[group as usize] = counts[group as usize].wrapping_add(weight);
            }
        }
        Ok(())
    }

    fn evaluate(&self, groups: &[u32]) -> Result<ArrayRef, EngineError> {
        let result = |&group: &u32| {
            let (trues, falses) = (self.trues[group as usize], self.falses[group as usize]);
            let value = if self.and { falses == 0 } else { trues != 0 };
            (trues != 0 || falses != 0).then_some(value)
        };
        Ok(Arc::new(groups.iter().map(result).collect::<BooleanArray>()))
    }

    fn forget(&mut self, group: u32) {
        self.trues[group as usize] = 0;
        self.falses[group as usize] = 0;
    }

    fn encode(&self, group: u32, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&self.trues[group as usize].to_le_bytes());
        bytes.extend_from_slice(&self.falses[group as usize].to_le_bytes());
    }

    fn decode(&mut self, group: u32, bytes: &mut &[u8]) -> Option<()> {
        self.trues[group as usize] = take_i64(bytes)?;
        self.falses[group as usize] = take_i64(bytes)?;
        Some(())
    }

    fn sizes(&self) -> (usize, usize) {
        (0, (self.trues.capacity() + self.falses.capacity()) * 8)
    }
}
