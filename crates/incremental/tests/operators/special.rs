//! As-of joins and recursion against references that know nothing of state.

use crate::support::{Contents, K, Row, T, Value, X, check, count_up, expanded, schema};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use weir_incremental::operators::{
    AsOfConditions, AsOfJoin, Join, JoinKind, Map, Nearest, Operator, Recursion, RecursionStep, StepContext, StepSource,
};
use weir_incremental::{Delta, EngineError, State};

fn column(name: &str, index: usize) -> Arc<dyn PhysicalExpr> {
    Arc::new(Column::new(name, index))
}

fn doubled() -> SchemaRef {
    let fields = schema().fields().iter().chain(schema().fields()).cloned().collect::<Vec<_>>();
    Arc::new(Schema::new(fields))
}

/// The right row that each left row is paired with: of all that fit, the nearest in time, then the last by columns.
fn nearest_of<'a>(left: &Row, rights: impl Iterator<Item = &'a Row>, nearest: Nearest, keyed: bool) -> Option<&'a Row> {
    let (Value::Int(at), true) = (&left[T], !keyed || left[K] != Value::Null) else {
        return None;
    };
    let distance = |right: &Row| match right[T] {
        Value::Int(other) => {
            let fits = match nearest {
                Nearest::AtOrBefore => *at >= other,
                Nearest::Before => *at > other,
                Nearest::AtOrAfter => *at <= other,
                Nearest::After => *at < other,
            };
            fits.then(|| (at - other).abs())
        }
        _ => None,
    };
    let same = |right: &&Row| !keyed || right[K] == left[K];
    let fitting = rights.filter(same).filter_map(|right| distance(right).map(|d| (right, d)));
    // Ties fall by the columns after key and time, in their order.
    let rest = |row: &Row| {
        (0..row.len()).filter(|i| *i != T && (*i != K || !keyed)).map(|i| row[i].clone()).collect::<Vec<_>>()
    };
    fitting.min_by(|(a, x), (b, y)| x.cmp(y).then_with(|| rest(b).cmp(&rest(a)))).map(|(right, _)| right)
}

#[test]
fn an_as_of_join_finds_the_nearest_row_of_each_key() {
    for nearest in [Nearest::AtOrBefore, Nearest::Before, Nearest::AtOrAfter, Nearest::After] {
        for (outer, keyed) in [(false, true), (true, true), (true, false)] {
            let reference = |inputs: &[Contents], _| {
                let pair = |left: &Row| {
                    let right = nearest_of(left, inputs[1].keys(), nearest, keyed).cloned();
                    let right = right.or_else(|| outer.then(|| vec![Value::Null; left.len()]))?;
                    Some([left.clone(), right].concat())
                };
                count_up(expanded(&inputs[0]).filter_map(pair))
            };
            let make = || -> Box<dyn Operator> {
                let on = if keyed { vec![(K, K)] } else { Vec::new() };
                let conditions = AsOfConditions { on, times: (T, T), nearest, outer };
                Box::new(AsOfJoin::new(schema(), schema(), conditions, doubled()).unwrap())
            };
            check(make, 2, reference, 0);
        }
    }
}

/// Start rows `k`; edges from `k` to `x`: which numbers are reached, or by how many paths of at most so many edges.
struct Reach {
    maps: [Map; 2],
    recursion: Recursion,
}

impl Reach {
    fn new(distinct: bool) -> Self {
        let node = Arc::new(Schema::new(vec![Field::new("node", DataType::Int64, true)]));
        let depth = Field::new("__depth", DataType::Int64, true);
        let work = Arc::new(Schema::new(vec![Field::new("node", DataType::Int64, true), depth.clone()]));
        let starts = Map::new(schema(), None, vec![(column("k", K), "node".into())]).unwrap();
        let edges =
            Map::new(schema(), None, vec![(column("k", K), "from".into()), (column("x", X), "to".into())]).unwrap();
        let pairs: Vec<Field> =
            ["node", "__depth", "from", "to"].map(|n| Field::new(n, DataType::Int64, true)).to_vec();
        let pairs = Arc::new(Schema::new(pairs));
        let join = Join::new(JoinKind::Inner, work, edges.schema(), vec![(0, 0)], None, false, pairs.clone()).unwrap();
        // Without UNION cycles go on for ever: only edges that lead up are taken.
        let upward: Arc<dyn PhysicalExpr> = Arc::new(datafusion::physical_expr::expressions::BinaryExpr::new(
            column("from", 2),
            datafusion::logical_expr::Operator::Lt,
            column("to", 3),
        ));
        let columns = vec![(column("to", 3), "node".to_owned()), (column("__depth", 1), "__depth".to_owned())];
        let map = Map::new(pairs, (!distinct).then_some(upward), columns).unwrap();
        let step = RecursionStep {
            operators: vec![
                (Box::new(join), vec![StepSource::Work, StepSource::Input(1)]),
                (Box::new(map), vec![StepSource::Operator(0)]),
            ],
        };
        let inputs = vec![node.clone(), edges.schema()];
        let recursion = Recursion::new("reach".into(), distinct, node, inputs, step).unwrap();
        Self { maps: [starts, edges], recursion }
    }
}

impl Operator for Reach {
    fn name(&self) -> &'static str {
        "reach"
    }

    fn schema(&self) -> SchemaRef {
        self.recursion.schema()
    }

    fn step(&mut self, inputs: &[&Delta], context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let starts = self.maps[0].step(&[inputs[0]], context)?;
        let edges = self.maps[1].step(&[inputs[1]], context)?;
        self.recursion.step(&[&starts, &edges], context)
    }

    fn state(&mut self) -> Option<&mut dyn State> {
        self.recursion.state()
    }
}

fn starts_and_edges(inputs: &[Contents]) -> (Contents, BTreeMap<Value, Vec<(Value, i64)>>) {
    let mut starts = Contents::new();
    for (row, weight) in &inputs[0] {
        *starts.entry(vec![row[K].clone()]).or_default() += weight;
    }
    let mut edges: BTreeMap<Value, Vec<(Value, i64)>> = BTreeMap::new();
    for (row, weight) in inputs[1].iter().filter(|(row, _)| row[K] != Value::Null) {
        edges.entry(row[K].clone()).or_default().push((row[X].clone(), *weight));
    }
    (starts, edges)
}

#[test]
fn reachability_is_right_while_edges_of_cycles_come_and_go() {
    let reference = |inputs: &[Contents], _| {
        let (starts, edges) = starts_and_edges(inputs);
        let mut seen: BTreeSet<Value> = BTreeSet::new();
        let mut pending: Vec<Value> = starts.into_keys().map(|row| row[0].clone()).collect();
        while let Some(node) = pending.pop() {
            if seen.insert(node.clone()) {
                pending.extend(edges.get(&node).into_iter().flatten().map(|(to, _)| to.clone()));
            }
        }
        seen.into_iter().map(|node| (vec![node], 1)).collect()
    };
    check(|| Box::new(Reach::new(true)), 2, reference, 0);
}

#[test]
fn paths_are_counted_with_their_copies() {
    let reference = |inputs: &[Contents], _| {
        let (starts, edges) = starts_and_edges(inputs);
        let mut all = Contents::new();
        let mut last = starts;
        while !last.is_empty() {
            let mut next = Contents::new();
            for (row, weight) in last {
                *all.entry(row.clone()).or_default() += weight;
                for (to, times) in edges.get(&row[0]).into_iter().flatten() {
                    if *to > row[0] {
                        *next.entry(vec![to.clone()]).or_default() += weight * times;
                    }
                }
            }
            last = next;
        }
        all
    };
    check(|| Box::new(Reach::new(false)), 2, reference, 0);
}
