//! Joins of all kinds, with and without keys, filters and NULL keys that are equal.

use crate::support::{B, Contents, K, Row, S, Value, X, check, count_up, expanded, schema};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::logical_expr::Operator as Comparison;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::{BinaryExpr, Column};
use std::sync::Arc;
use weir_incremental::operators::{Join, JoinFilter, JoinKind};

fn output(kind: JoinKind) -> SchemaRef {
    let side = schema();
    let mut fields: Vec<_> = side.fields().iter().cloned().collect();
    match kind {
        JoinKind::Inner | JoinKind::Left | JoinKind::Right | JoinKind::Full => {
            fields.extend(side.fields().iter().cloned());
        }
        JoinKind::LeftMark | JoinKind::RightMark => {
            fields.push(Arc::new(Field::new("mark", DataType::Boolean, false)));
        }
        _ => {}
    }
    Arc::new(Schema::new(fields))
}

/// left.x < right.x
fn filter() -> JoinFilter {
    let left = Arc::new(Column::new("x", X)) as Arc<dyn PhysicalExpr>;
    let right = Arc::new(Column::new("x", schema().fields().len() + X));
    JoinFilter { expression: Arc::new(BinaryExpr::new(left, Comparison::Lt, right)) }
}

fn brute(kind: JoinKind, keys: &[(usize, usize)], filtered: bool, null_equal: bool, inputs: &[Contents]) -> Contents {
    let is_pair = |left: &Row, right: &Row| {
        let equal = |&(l, r): &(usize, usize)| left[l] == right[r] && (null_equal || left[l] != Value::Null);
        let ordered = match (&left[X], &right[X]) {
            (Value::Int(left), Value::Int(right)) => left < right,
            _ => false,
        };
        keys.iter().all(equal) && (!filtered || ordered)
    };
    let (left, right): (Vec<&Row>, Vec<&Row>) = (expanded(&inputs[0]).collect(), expanded(&inputs[1]).collect());
    let nulls = vec![Value::Null; schema().fields().len()];
    let mut rows: Vec<Row> = Vec::new();
    let pairs = matches!(kind, JoinKind::Inner | JoinKind::Left | JoinKind::Right | JoinKind::Full);
    for l in left.iter().filter(|_| pairs) {
        rows.extend(right.iter().filter(|r| is_pair(l, r)).map(|r| [l.as_slice(), r.as_slice()].concat()));
    }
    for l in &left {
        let matched = right.iter().any(|r| is_pair(l, r));
        match kind {
            JoinKind::Left | JoinKind::Full if !matched => rows.push([l.as_slice(), &nulls].concat()),
            JoinKind::LeftSemi if matched => rows.push(l.to_vec()),
            JoinKind::LeftAnti if !matched => rows.push(l.to_vec()),
            JoinKind::LeftMark => rows.push([l.as_slice(), &[Value::Bool(matched)]].concat()),
            _ => {}
        }
    }
    for r in &right {
        let matched = left.iter().any(|l| is_pair(l, r));
        match kind {
            JoinKind::Right | JoinKind::Full if !matched => rows.push([&nulls, r.as_slice()].concat()),
            JoinKind::RightSemi if matched => rows.push(r.to_vec()),
            JoinKind::RightAnti if !matched => rows.push(r.to_vec()),
            JoinKind::RightMark => rows.push([r.as_slice(), &[Value::Bool(matched)]].concat()),
            _ => {}
        }
    }
    count_up(rows)
}

const KINDS: [JoinKind; 10] = [
    JoinKind::Inner,
    JoinKind::Left,
    JoinKind::Right,
    JoinKind::Full,
    JoinKind::LeftSemi,
    JoinKind::RightSemi,
    JoinKind::LeftAnti,
    JoinKind::RightAnti,
    JoinKind::LeftMark,
    JoinKind::RightMark,
];

fn check_all(keys: &[(usize, usize)], filtered: bool, null_equal: bool) {
    for kind in KINDS {
        check(
            || {
                let filter = filtered.then(filter);
                let join = Join::new(kind, schema(), schema(), keys.to_vec(), filter, null_equal, output(kind));
                Box::new(join.unwrap())
            },
            2,
            |inputs, _| brute(kind, keys, filtered, null_equal, inputs),
            0,
        );
    }
}

#[test]
fn joins_by_one_key_agree_with_nested_loops() {
    check_all(&[(K, K)], false, false);
}

#[test]
fn joins_by_two_keys_that_may_be_null_agree_with_nested_loops() {
    check_all(&[(S, S), (K, X)], false, true);
}

#[test]
fn joins_with_a_filter_agree_with_nested_loops() {
    check_all(&[(B, B)], true, false);
}

#[test]
fn joins_without_keys_agree_with_nested_loops() {
    check_all(&[], true, false);
}
