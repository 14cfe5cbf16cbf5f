//! `array_agg` of many groups at once: DataFusion's own makes a value of every row, and a list of every group, one by one.
//!
//! On one thread, where rows come to a group in one piece. A list is sorted here, by what the call asks for: DataFusion holds rows
//! for sorted that are so within a group, but not within each set of a ROLLUP.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, ListArray, new_empty_array};
use arrow::buffer::{NullBuffer, OffsetBuffer};
use arrow::compute::interleave;
use arrow::datatypes::{DataType, Field, FieldRef};
use arrow::row::{RowConverter, Rows, SortField};
use datafusion::common::{Result, exec_err, internal_err};
use datafusion::functions_aggregate::array_agg::array_agg_udaf;
use datafusion::logical_expr::function::{AccumulatorArgs, StateFieldsArgs};
use datafusion::logical_expr::utils::AggregateOrderSensitivity;
use datafusion::logical_expr::{
    Accumulator, AggregateUDF, AggregateUDFImpl, EmitTo, Expr, GroupsAccumulator, Signature, Volatility,
};
use std::sync::{Arc, LazyLock};

/// The call by groups where it is a list of all values; any other as it is.
pub(super) fn by_groups(call: Expr) -> Expr {
    static LISTS: LazyLock<Arc<AggregateUDF>> = LazyLock::new(|| Arc::new(Lists::new().into()));
    match call {
        Expr::AggregateFunction(mut call)
            if call.func.name() == "array_agg" && !call.params.distinct && call.params.null_treatment.is_none() =>
        {
            call.func = LISTS.clone();
            Expr::AggregateFunction(call)
        }
        Expr::Alias(mut alias) => {
            *alias.expr = by_groups(*alias.expr);
            Expr::Alias(alias)
        }
        other => other,
    }
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Lists {
    signature: Signature,
}

impl Lists {
    fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

fn item(value: &DataType) -> FieldRef {
    Arc::new(Field::new_list_field(value.clone(), true))
}

impl AggregateUDFImpl for Lists {
    fn name(&self) -> &str {
        "array_agg"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::List(item(&arguments[0])))
    }

    fn accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn Accumulator>> {
        array_agg_udaf().accumulator(arguments)
    }

    fn order_sensitivity(&self) -> AggregateOrderSensitivity {
        AggregateOrderSensitivity::SoftRequirement
    }

    fn with_beneficial_ordering(self: Arc<Self>, _is_sorted: bool) -> Result<Option<Arc<dyn AggregateUDFImpl>>> {
        Ok(Some(self))
    }

    fn groups_accumulator_supported(&self, _arguments: AccumulatorArgs) -> bool {
        true
    }

    fn create_groups_accumulator(&self, arguments: AccumulatorArgs) -> Result<Box<dyn GroupsAccumulator>> {
        let order = arguments
            .order_bys
            .iter()
            .map(|key| Ok(SortField::new_with_options(key.expr.data_type(arguments.schema)?, key.options)));
        let order = order.collect::<Result<Vec<_>>>()?;
        Ok(Box::new(GroupLists::new(arguments.expr_fields[0].data_type().clone(), order)?))
    }

    fn state_fields(&self, arguments: StateFieldsArgs) -> Result<Vec<FieldRef>> {
        let list = DataType::List(item(arguments.input_fields[0].data_type()));
        Ok(vec![Arc::new(Field::new(format!("{}[list]", arguments.name), list, true))])
    }
}

/// The lists of many groups.
struct GroupLists {
    value: DataType,
    values: Vec<ArrayRef>,
    /// How lists are sorted; None: as their values come.
    order: Option<(RowConverter, Rows)>,
    /// Of each value that is listed: its group, which array and row it is, and its place in the order's rows.
    groups: Vec<usize>,
    places: Vec<(usize, usize)>,
    ranks: Vec<usize>,
    /// How many values each group has.
    lengths: Vec<usize>,
    bytes: usize,
}

impl std::fmt::Debug for GroupLists {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("GroupLists").field("groups", &self.lengths.len()).finish_non_exhaustive()
    }
}

impl GroupLists {
    fn new(value: DataType, order: Vec<SortField>) -> Result<Self> {
        let order = match order.is_empty() {
            true => None,
            false => {
                let converter = RowConverter::new(order)?;
                let rows = converter.empty_rows(0, 0);
                Some((converter, rows))
            }
        };
        Ok(Self {
            value,
            values: Vec::new(),
            order,
            groups: Vec::new(),
            places: Vec::new(),
            ranks: Vec::new(),
            lengths: Vec::new(),
            bytes: 0,
        })
    }

    /// Keeps an array and tells which it is.
    fn keep(&mut self, values: &ArrayRef, groups_in_all: usize) -> usize {
        self.lengths.resize(groups_in_all, 0);
        self.bytes += values.get_array_memory_size();
        self.values.push(values.clone());
        self.values.len() - 1
    }

    fn push(&mut self, group: usize, place: (usize, usize), rank: usize) {
        self.groups.push(group);
        self.places.push(place);
        self.ranks.push(rank);
        self.lengths[group] += 1;
    }
}

impl GroupsAccumulator for GroupLists {
    fn update_batch(
        &mut self,
        values: &[ArrayRef],
        groups: &[usize],
        filter: Option<&BooleanArray>,
        groups_in_all: usize,
    ) -> Result<()> {
        let array = self.keep(&values[0], groups_in_all);
        let mut rank = 0;
        if let Some((converter, rows)) = &mut self.order {
            rank = rows.num_rows();
            converter.append(rows, &values[1..])?;
        }
        for (row, &group) in groups.iter().enumerate() {
            if filter.is_none_or(|filter| filter.is_valid(row) && filter.value(row)) {
                self.push(group, (array, row), rank + row);
            }
        }
        Ok(())
    }

    fn merge_batch(&mut self, states: &[ArrayRef], groups: &[usize], groups_in_all: usize) -> Result<()> {
        let lists = states[0].as_list::<i32>();
        let array = self.keep(lists.values(), groups_in_all);
        // They are sorted.
        self.order = None;
        for (list, &group) in groups.iter().enumerate() {
            if self.lengths[group] > 0 {
                return internal_err!("a list came in two pieces");
            }
            if lists.is_valid(list) {
                let (from, to) = (lists.value_offsets()[list] as usize, lists.value_offsets()[list + 1] as usize);
                (from..to).for_each(|row| self.push(group, (array, row), 0));
            }
        }
        Ok(())
    }

    fn evaluate(&mut self, emit: EmitTo) -> Result<ArrayRef> {
        let lengths = emit.take_needed(&mut self.lengths);
        let listed: usize = lengths.iter().sum();
        if i32::try_from(listed).is_err() {
            return exec_err!("lists of {listed} values together are too long");
        }
        // Where the next value of each group goes.
        let mut next = Vec::with_capacity(lengths.len());
        lengths.iter().fold(0, |start, length| {
            next.push(start);
            start + length
        });
        let mut entries = vec![0; listed];
        let mut later = Vec::new();
        for (entry, &group) in self.groups.iter().enumerate() {
            match next.get_mut(group) {
                Some(next) => {
                    entries[*next] = entry;
                    *next += 1;
                }
                None => later.push(entry),
            }
        }
        if let Some((_, rows)) = &self.order {
            let row = |entry: &usize| rows.row(self.ranks[*entry]);
            let mut rest = entries.as_mut_slice();
            for length in &lengths {
                let (list, after) = rest.split_at_mut(*length);
                if !list.is_sorted_by_key(row) {
                    list.sort_by(|a, b| row(a).cmp(&row(b)));
                }
                rest = after;
            }
        }
        let places: Vec<(usize, usize)> = entries.iter().map(|&entry| self.places[entry]).collect();
        let values = match listed {
            0 => new_empty_array(&self.value),
            _ => {
                let arrays: Vec<&dyn Array> = self.values.iter().map(AsRef::as_ref).collect();
                interleave(&arrays, &places)?
            }
        };
        self.groups = later.iter().map(|&entry| self.groups[entry] - lengths.len()).collect();
        self.places = later.iter().map(|&entry| self.places[entry]).collect();
        self.ranks = later.iter().map(|&entry| self.ranks[entry]).collect();
        if later.is_empty() {
            self.values.clear();
            self.bytes = 0;
            if let Some((converter, rows)) = &mut self.order {
                *rows = converter.empty_rows(0, 0);
            }
        }
        // A list of nothing is NULL.
        let known = NullBuffer::from_iter(lengths.iter().map(|length| *length > 0));
        let offsets = OffsetBuffer::from_lengths(lengths);
        Ok(Arc::new(ListArray::try_new(item(&self.value), offsets, values, Some(known))?))
    }

    fn state(&mut self, emit: EmitTo) -> Result<Vec<ArrayRef>> {
        Ok(vec![self.evaluate(emit)?])
    }

    fn convert_to_state(&self, values: &[ArrayRef], filter: Option<&BooleanArray>) -> Result<Vec<ArrayRef>> {
        // A list of one value has an order.
        let mut each = Self::new(self.value.clone(), Vec::new())?;
        let rows = values[0].len();
        each.update_batch(&values[..1], &(0..rows).collect::<Vec<_>>(), filter, rows)?;
        each.state(EmitTo::All)
    }

    fn size(&self) -> usize {
        let place = 2 * size_of::<usize>() + size_of::<(usize, usize)>();
        let order = self.order.as_ref().map_or(0, |(converter, rows)| converter.size() + rows.size());
        self.bytes + order + self.places.capacity() * place + self.lengths.capacity() * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::Int64Array;
    use arrow::datatypes::Int64Type;

    #[test]
    fn lists_have_values_in_the_order_they_came_and_nothing_is_null() {
        let mut lists = GroupLists::new(DataType::Int64, Vec::new()).unwrap();
        let numbers = |numbers: &[i64]| -> ArrayRef { Arc::new(Int64Array::from(numbers.to_vec())) };
        let filter = BooleanArray::from(vec![true, true, false, true]);
        lists.update_batch(&[numbers(&[5, 3, 9, 4])], &[1, 0, 2, 1], Some(&filter), 3).unwrap();
        lists.update_batch(&[numbers(&[7, 8])], &[3, 1], None, 4).unwrap();
        let listed = |lists: ArrayRef| -> Vec<Option<Vec<i64>>> {
            let numbers = |list: ArrayRef| list.as_primitive::<Int64Type>().values().to_vec();
            lists.as_list::<i32>().iter().map(|list| list.map(numbers)).collect()
        };
        assert_eq!(listed(lists.evaluate(EmitTo::First(2)).unwrap()), [Some(vec![3]), Some(vec![5, 4, 8])]);
        let state = lists.state(EmitTo::All).unwrap();
        let mut merged = GroupLists::new(DataType::Int64, Vec::new()).unwrap();
        merged.merge_batch(&state, &[1, 0], 2).unwrap();
        assert_eq!(listed(merged.evaluate(EmitTo::All).unwrap()), [Some(vec![7]), None]);
    }
}
