//! One aggregate of a GROUP BY: which rows count, and how often.

use super::super::EngineError;
use super::accumulators::{Accumulator, Booleans, Counts, ExactSums, Sums};
use super::by_group::{ByGroup, Elsewhere};
use super::extremes::Extremes;
use super::seen::Seen;
use crate::delta::Delta;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Decimal128Type, Decimal256Type, Int64Type, Schema, UInt64Type};
use std::borrow::Cow;

/// What is computed of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AggregateFunction {
    /// Number of rows.
    CountStar,
    /// Number of non-NULL values.
    Count,
    /// Sum: integers wrap, decimals are exact, floats are exact and rounded once.
    Sum,
    /// Mean of floats (rounded once from the exact sum) or decimals.
    Avg,
    /// Least value.
    Min,
    /// Greatest value.
    Max,
    /// Whether all are true.
    BoolAnd,
    /// Whether any is true.
    BoolOr,
}

/// One aggregate of a GROUP BY.
#[derive(Debug, Clone)]
pub struct AggregateCall {
    /// What is computed.
    pub function: AggregateFunction,
    /// The input column; none for `count(*)`.
    pub argument: Option<usize>,
    /// Whether equal values count once.
    pub distinct: bool,
    /// A boolean column: only rows where it is true count.
    pub filter: Option<usize>,
    /// Type of the result, by DataFusion's rules.
    pub output: DataType,
}

impl AggregateCall {
    /// Whether [`super::Aggregate`] can compute the call over rows of `input`; others need a recomputation by group.
    pub fn is_supported(&self, input: &Schema) -> bool {
        self.accumulator(input).is_some()
    }

    fn accumulator(&self, input: &Schema) -> Option<Box<dyn Accumulator>> {
        use AggregateFunction::*;
        let argument = self.argument.map(|column| input.field(column).data_type());
        let output = &self.output;
        if self.function == CountStar {
            return Some(Box::new(Counts::default()));
        }
        Some(match (self.function, argument?) {
            (Count, _) => Box::new(Counts::default()),
            (Sum, from) if from.is_integer() && *output == DataType::Int64 => Box::new(Sums::<Int64Type>::sum(output)),
            (Sum, from) if from.is_integer() && *output == DataType::UInt64 => {
                Box::new(Sums::<UInt64Type>::sum(output))
            }
            (Sum, DataType::Decimal128(_, scale)) if matches!(output, DataType::Decimal128(_, s) if s == scale) => {
                Box::new(Sums::<Decimal128Type>::sum(output))
            }
            (Sum, DataType::Decimal256(_, scale)) if matches!(output, DataType::Decimal256(_, s) if s == scale) => {
                Box::new(Sums::<Decimal256Type>::sum(output))
            }
            (Avg, DataType::Decimal128(_, from)) if matches!(output, DataType::Decimal128(_, to) if to >= from) => {
                Box::new(Sums::<Decimal128Type>::mean(output, *from))
            }
            (Avg, DataType::Decimal256(_, from)) if matches!(output, DataType::Decimal256(_, to) if to >= from) => {
                Box::new(Sums::<Decimal256Type>::mean(output, *from))
            }
            (Sum | Avg, from) if (from.is_floating() || from.is_integer()) && *output == DataType::Float64 => {
                Box::new(ExactSums::new(self.function == Avg))
            }
            (Min | Max, from) if from == output => Box::new(Extremes::new(from, self.function == Max).ok()?),
            (BoolAnd | BoolOr, DataType::Boolean) => Box::new(Booleans::new(self.function == BoolAnd)),
            _ => return None,
        })
    }
}

/// A call with what it remembers.
pub(super) struct Call {
    function: AggregateFunction,
    argument: Option<usize>,
    filter: Option<usize>,
    /// The type in which the argument is added up, where it is another.
    cast: Option<DataType>,
    /// For DISTINCT: the values of each group.
    seen: Option<Seen>,
    pub accumulator: Box<dyn Accumulator>,
}

impl Call {
    pub fn new(input: &Schema, call: AggregateCall) -> Result<Self, EngineError> {
        use AggregateFunction::*;
        let accumulator = call.accumulator(input).ok_or_else(|| {
            EngineError::Internal(format!("{:?} into {} is not incremental", call.function, call.output))
        })?;
        let from = call.argument.map(|column| input.field(column).data_type().clone());
        let cast = match (call.function, &from) {
            (Sum | Avg, Some(from)) if from.is_integer() || from.is_floating() => {
                Some(call.output.clone()).filter(|to| to != from)
            }
            _ => None,
        };
        // The least and the greatest of all values are those of the different ones.
        let dedupes = call.distinct && !matches!(call.function, Min | Max | BoolAnd | BoolOr);
        let seen = match (dedupes, from) {
            (true, Some(from)) => Some(Seen::new(from)?),
            _ => None,
        };
        let (function, argument, filter) = (call.function, call.argument, call.filter);
        Ok(Self { function, argument, filter, cast, seen, accumulator })
    }

    /// Adds a delta, whose rows are `of_row`'s groups'. `elsewhere`: for the values that [`Call::seen`] may have on disk.
    pub fn update(
        &mut self,
        input: &Delta,
        of_row: &[u32],
        elsewhere: Option<&Elsewhere<'_>>,
    ) -> Result<(), EngineError> {
        let mut weights = Cow::Borrowed(&input.weights.values()[..]);
        if let Some(filter) = self.filter {
            let filter = input.rows.column(filter).as_boolean();
            for (row, weight) in weights.to_mut().iter_mut().enumerate() {
                if filter.is_null(row) || !filter.value(row) {
                    *weight = 0;
                }
            }
        }
        let Some(argument) = self.argument.filter(|_| self.function != AggregateFunction::CountStar) else {
            return self.accumulator.update(None, &weights, of_row);
        };
        let mut argument: ArrayRef = input.rows.column(argument).clone();
        if let Some(nulls) = argument.logical_nulls().filter(|nulls| nulls.null_count() > 0) {
            for (row, weight) in weights.to_mut().iter_mut().enumerate() {
                if nulls.is_null(row) {
                    *weight = 0;
                }
            }
        }
        if let Some(seen) = &mut self.seen {
            seen.add(&argument, weights.to_mut(), of_row, elsewhere)?;
        }
        if let Some(to) = &self.cast {
            argument = cast(&argument, to)?;
        }
        self.accumulator.update(Some(&argument), &weights, of_row)
    }

    /// What is remembered beside the groups' own values.
    pub fn parts(&mut self) -> Vec<&mut dyn ByGroup> {
        let seen = self.seen.as_mut().map(|seen| seen as &mut dyn ByGroup);
        seen.into_iter().chain(self.accumulator.part()).collect()
    }

    /// Rows and bytes.
    pub fn sizes(&self) -> (usize, usize) {
        let (rows, bytes) = self.accumulator.sizes();
        match &self.seen {
            Some(seen) => (rows + seen.rows(), bytes + seen.bytes()),
            None => (rows, bytes),
        }
    }

    /// Bytes of columns that have a place for every number of a group.
    pub fn dense_bytes(&self) -> usize {
        self.accumulator.dense_bytes()
    }

    /// Bytes beside those columns that hold nothing.
    pub fn unused_bytes(&self) -> usize {
        self.accumulator.unused_bytes() + self.seen.as_ref().map_or(0, Seen::unused_bytes)
    }
}
