//! Aggregates by group and without groups.

use crate::support::{B, Contents, F, K, Row, S, Value, X, check, count_up, expanded, float, float_of, schema};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weir_incremental::operators::{Aggregate, AggregateCall, AggregateFunction as Function};

fn calls() -> Vec<AggregateCall> {
    let call = |function, argument: usize, distinct, filter: bool, output| AggregateCall {
        function,
        argument: Some(argument),
        distinct,
        filter: filter.then_some(B),
        output,
    };
    let mut calls = vec![AggregateCall {
        function: Function::CountStar,
        argument: None,
        distinct: false,
        filter: None,
        output: DataType::Int64,
    }];
    for filter in [false, true] {
        for distinct in [false, true] {
            calls.extend([
                call(Function::Count, S, distinct, filter, DataType::Int64),
                call(Function::Sum, X, distinct, filter, DataType::Int64),
                call(Function::Sum, F, distinct, filter, DataType::Float64),
                call(Function::Avg, F, distinct, filter, DataType::Float64),
                call(Function::Avg, X, distinct, filter, DataType::Float64),
                call(Function::Min, F, distinct, filter, DataType::Float64),
                call(Function::Max, F, distinct, filter, DataType::Float64),
                call(Function::Min, S, distinct, filter, DataType::Utf8),
                call(Function::Max, X, distinct, filter, DataType::Int64),
                call(Function::BoolAnd, B, distinct, filter, DataType::Boolean),
                call(Function::BoolOr, B, distinct, filter, DataType::Boolean),
            ]);
        }
    }
    calls
}

fn output(groups: &[usize]) -> SchemaRef {
    let mut fields: Vec<_> = groups.iter().map(|&group| schema().field(group).clone()).collect();
    for (number, call) in calls().iter().enumerate() {
        fields.push(Field::new(format!("call_{number}"), call.output.clone(), true));
    }
    Arc::new(Schema::new(fields))
}

/// All finite floats of the tests are multiples of a half, so sums of doubled values are exact.
fn sum_of_floats(values: &[&Value]) -> Option<f64> {
    let mut doubled = 0_i128;
    for value in values {
        let Value::Float(bits) = value else { panic!("a float") };
        let value = float_of(*bits);
        if value.is_nan() {
            return None;
        }
        doubled += (value * 2.0) as i128;
    }
    Some(doubled as f64 / 2.0)
}

fn result(call: &AggregateCall, rows: &[&Row]) -> Value {
    let rows: Vec<&&Row> =
        rows.iter().filter(|row| call.filter.is_none_or(|filter| row[filter] == Value::Bool(true))).collect();
    let Some(argument) = call.argument else {
        return Value::Int(rows.len() as i64);
    };
    let mut values: Vec<&Value> = rows.iter().map(|row| &row[argument]).filter(|v| **v != Value::Null).collect();
    if call.distinct {
        values = values.into_iter().collect::<BTreeSet<_>>().into_iter().collect();
    }
    if call.function == Function::Count {
        return Value::Int(values.len() as i64);
    }
    if values.is_empty() {
        return Value::Null;
    }
    let ints = || values.iter().map(|value| if let Value::Int(value) = value { *value } else { panic!("an integer") });
    match (call.function, argument) {
        (Function::Sum, X) => Value::Int(ints().sum()),
        (Function::Avg, X) => float(ints().sum::<i64>() as f64 / values.len() as f64),
        (Function::Sum, _) => float(sum_of_floats(&values).unwrap_or(f64::NAN)),
        (Function::Avg, _) => float(sum_of_floats(&values).unwrap_or(f64::NAN) / values.len() as f64),
        (Function::Min | Function::BoolAnd, _) => (*values.iter().min().unwrap()).clone(),
        (Function::Max | Function::BoolOr, _) => (*values.iter().max().unwrap()).clone(),
        (Function::CountStar | Function::Count, _) => unreachable!("done above"),
    }
}

fn brute(groups: &[usize], input: &Contents) -> Contents {
    let mut by_group: BTreeMap<Row, Vec<&Row>> = BTreeMap::new();
    if groups.is_empty() {
        by_group.insert(Vec::new(), Vec::new());
    }
    for row in expanded(input) {
        by_group.entry(groups.iter().map(|&group| row[group].clone()).collect()).or_default().push(row);
    }
    count_up(by_group.into_iter().map(|(mut key, rows)| {
        key.extend(calls().iter().map(|call| result(call, &rows)));
        key
    }))
}

fn check_groups(groups: &[usize]) {
    check(
        || Box::new(Aggregate::new(schema(), groups.to_vec(), calls(), output(groups)).unwrap()),
        1,
        |inputs, _| brute(groups, &inputs[0]),
        usize::from(groups.is_empty()),
    );
}

#[test]
fn aggregates_by_one_column_agree_with_recomputation() {
    check_groups(&[K]);
}

#[test]
fn aggregates_by_floats_and_texts_agree_with_recomputation() {
    check_groups(&[F, S]);
}

#[test]
fn aggregates_without_groups_always_give_one_row() {
    check_groups(&[]);
}

#[test]
fn what_cannot_be_taken_back_is_not_supported() {
    let call = |argument, output| AggregateCall {
        function: Function::Sum,
        argument: Some(argument),
        distinct: false,
        filter: None,
        output,
    };
    assert!(call(X, DataType::Int64).is_supported(&schema()));
    assert!(!call(S, DataType::Utf8).is_supported(&schema()));
    assert!(Aggregate::new(schema(), vec![], vec![call(S, DataType::Utf8)], schema()).is_err());
}
