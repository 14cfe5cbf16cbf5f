//! From canonical plans to operators: one node of the graph for each node of a plan, equal sub-plans once.

mod lists;
mod top_k;

pub(crate) use top_k::top_of_each;

use crate::canonical::nodes::{Special, SpecialNode, WORK, input_name, special};
use crate::canonical::{clock_bounds, is_kept_incrementally};
use crate::constant::Constant;
use crate::delta::Relation;
use crate::operators::{
    Aggregate, AggregateCall, AggregateFunction, AsOfConditions, AsOfJoin, Distinct, EngineError, Join, JoinFilter,
    JoinKind, Map, Nearest, Operator, Partitioned, Passing, Recompute, Recursion, RecursionStep, SetOperation,
    SetOperationKind, StepSource, TemporalFilter, TopK, Union, Unnest,
};
use crate::physical;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::util::display::array_value_to_string;
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{DFSchema, JoinType, NullEquality};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    BinaryExpr, Distinct as LogicalDistinct, Expr, Limit, LogicalPlan, Operator as LogicalOperator, Window,
};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use weir_environment::Workers;
use xxhash_rust::xxh3::xxh3_128;

/// Where a node's input comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    /// The delta of a relation: an input of the graph, or a model.
    Relation(Relation),
    /// The output of an earlier node.
    Node(usize),
}

/// One node to be.
pub(crate) struct Node {
    /// Fingerprint of its sub-plan.
    pub id: String,
    pub operator: Box<dyn Operator>,
    pub inputs: Vec<Source>,
    /// What it does, for people.
    pub detail: String,
}

/// Of a canonical plan or a part of one: what it computes, not where it stands.
pub(crate) fn fingerprint(plan: &LogicalPlan) -> String {
    let mut text = String::new();
    write_down(plan, &mut text);
    format!("{:032x}", xxh3_128(text.as_bytes()))
}

/// Everything that tells two plans apart. What DataFusion shows of a node leaves some of it out: rows of VALUES beyond
/// the fifth, how a join sees NULLs, the ends of long values.
fn write_down(plan: &LogicalPlan, text: &mut String) {
    text.push_str(&format!("({} |", plan.display()));
    for field in plan.schema().fields() {
        text.push_str(&format!(" {} {}", field.name(), field.data_type()));
    }
    match plan {
        LogicalPlan::Join(join) => {
            text.push_str(&format!(" | {:?} {:?} {}", join.join_type, join.null_equality, join.null_aware));
        }
        LogicalPlan::Values(values) => {
            for value in values.values.iter().flatten() {
                text.push_str(&format!(" | {value}"));
            }
        }
        LogicalPlan::Unnest(unnest) => text.push_str(&format!(" | {:?}", unnest.options)),
        LogicalPlan::Extension(_) => {
            if let Some(SpecialNode { kind: Special::Recursion(recursion), .. }) = special(plan) {
                write_down(&recursion.step, text);
            }
        }
        _ => {}
    }
    for expression in plan.expressions() {
        // The closure never fails.
        let _ = expression.apply(|e| {
            if let Expr::Literal(value, _) = e
                && let Ok(array) = value.to_array()
                && let Ok(whole) = array_value_to_string(&array, 0)
            {
                text.push_str(&format!(" | {whole}"));
            }
            Ok(TreeNodeRecursion::Continue)
        });
    }
    for input in plan.inputs() {
        write_down(input, text);
    }
    text.push(')');
}

/// Whether no delta of the plan takes a row away, when `grows` says it of relations.
pub(crate) fn is_append_only(plan: &LogicalPlan, grows: &dyn Fn(&str) -> bool) -> bool {
    let inputs = || plan.inputs().into_iter().all(|input| is_append_only(input, grows));
    match plan {
        LogicalPlan::TableScan(scan) => grows(&scan.table_name.to_string()),
        LogicalPlan::Projection(_)
        | LogicalPlan::Union(_)
        | LogicalPlan::Distinct(_)
        | LogicalPlan::Unnest(_)
        | LogicalPlan::Values(_)
        | LogicalPlan::EmptyRelation(_) => inputs(),
        LogicalPlan::Filter(filter) => match clock_bounds(&filter.predicate) {
            Some((_, upper)) => upper.is_none() && inputs(),
            None => inputs(),
        },
        LogicalPlan::Join(join) => {
            matches!(join.join_type, JoinType::Inner | JoinType::LeftSemi | JoinType::RightSemi) && inputs()
        }
        LogicalPlan::Extension(_) => {
            special(plan).is_some_and(|node| matches!(node.kind, Special::IntersectAll)) && inputs()
        }
        _ => false,
    }
}

/// Whether the plan gives all its rows at the first step and changes nothing after.
pub(crate) fn never_changes(plan: &LogicalPlan) -> bool {
    match plan {
        LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => true,
        LogicalPlan::Projection(_) | LogicalPlan::Union(_) => plan.inputs().into_iter().all(never_changes),
        LogicalPlan::Filter(filter) => clock_bounds(&filter.predicate).is_none() && never_changes(&filter.input),
        _ => false,
    }
}

/// Whether every node of the plan has an operator: builds them and throws them away.
pub(crate) fn check(plan: &LogicalPlan) -> Result<(), EngineError> {
    GraphBuilder::new(HashMap::new(), HashSet::new(), Workers::new(1)).add(plan).map(|_| ())
}

/// Makes nodes of plans.
pub(crate) struct GraphBuilder {
    pub nodes: Vec<Node>,
    by_id: HashMap<String, Source>,
    relations: HashMap<Relation, SchemaRef>,
    grows: HashSet<Relation>,
    workers: Workers,
}

impl GraphBuilder {
    /// `relations` are those that scans may read, with all their columns; no delta of those that `grows` names takes a row
    /// away. Operators with keys deal them to `workers`.
    pub fn new(relations: HashMap<Relation, SchemaRef>, grows: HashSet<Relation>, workers: Workers) -> Self {
        Self { nodes: Vec::new(), by_id: HashMap::new(), relations, grows, workers }
    }

    /// Makes a model's output readable by later plans.
    pub fn add_relation(&mut self, relation: Relation, schema: SchemaRef) {
        self.relations.insert(relation, schema);
    }

    /// Adds the plan's nodes, and says where its output comes from.
    pub fn add(&mut self, plan: &LogicalPlan) -> Result<Source, EngineError> {
        let id = fingerprint(plan);
        if let Some(source) = self.by_id.get(&id) {
            return Ok(source.clone());
        }
        let source = self.add_new(plan, &id)?;
        self.by_id.insert(id, source.clone());
        Ok(source)
    }

    /// Whether no delta of the plan takes a row away.
    fn only_grows(&self, plan: &LogicalPlan) -> bool {
        is_append_only(plan, &|relation| self.grows.contains(relation))
    }

    fn schema(&self, source: &Source, plan: &LogicalPlan) -> SchemaRef {
        match source {
            Source::Node(node) => self.nodes[*node].operator.schema(),
            Source::Relation(relation) => {
                self.relations.get(relation).cloned().unwrap_or_else(|| plan.schema().inner().clone())
            }
        }
    }

    fn push(
        &mut self,
        id: &str,
        inputs: Vec<Source>,
        operator: Box<dyn Operator>,
        detail: String,
    ) -> Result<Source, EngineError> {
        self.nodes.push(Node { id: id.to_owned(), operator, inputs, detail });
        Ok(Source::Node(self.nodes.len() - 1))
    }

    /// An operator whose keys, columns of each of its inputs, are dealt to the workers.
    fn by_key<O: Operator + 'static>(
        &self,
        keys: Vec<(SchemaRef, Vec<usize>)>,
        make: impl Fn() -> Result<O, EngineError>,
    ) -> Result<Box<dyn Operator>, EngineError> {
        if self.workers.threads() == 1 || keys.iter().any(|(_, columns)| columns.is_empty()) {
            return Ok(Box::new(make()?));
        }
        Ok(Box::new(Partitioned::new(&self.workers, keys, || Ok(Box::new(make()?)))?))
    }

    fn add_new(&mut self, plan: &LogicalPlan, id: &str) -> Result<Source, EngineError> {
        let detail = plan.display().to_string();
        match plan {
            LogicalPlan::TableScan(scan) => {
                let source = Source::Relation(Relation::from(scan.table_name.to_string()));
                let Some(projection) = &scan.projection else {
                    return Ok(source);
                };
                let schema = match &source {
                    Source::Relation(relation) => self.relations.get(relation).cloned(),
                    Source::Node(_) => None,
                };
                let schema = schema.unwrap_or_else(|| scan.source.schema());
                let columns = projection
                    .iter()
                    .map(|index| {
                        let name = schema.field(*index).name();
                        let column = datafusion::physical_expr::expressions::Column::new(name, *index);
                        (Arc::new(column) as Arc<dyn PhysicalExpr>, name.clone())
                    })
                    .collect();
                let map = Map::new(schema, None, columns)?;
                self.push(id, vec![source], Box::new(map), detail)
            }
            LogicalPlan::Projection(projection) => {
                let (base, condition) = match projection.input.as_ref() {
                    LogicalPlan::Filter(filter) if clock_bounds(&filter.predicate).is_none() => {
                        (&filter.input, Some(&filter.predicate))
                    }
                    _ => (&projection.input, None),
                };
                let source = match condition {
                    Some(condition) => self.add_below(base, condition, Some(&projection.expr))?,
                    None => self.add(base)?,
                };
                let schema = self.schema(&source, base);
                let condition = condition.map(|c| physical_expression(c, base.schema())).transpose()?;
                let mut columns = Vec::with_capacity(projection.expr.len());
                for (expression, field) in projection.expr.iter().zip(projection.schema.fields()) {
                    let expression = physical_expression(&expression.clone().unalias(), base.schema())?;
                    columns.push((expression, field.name().clone()));
                }
                let map = Map::new(schema, condition, columns)?;
                self.push(id, vec![source], Box::new(map), detail)
            }
            LogicalPlan::Filter(filter) => {
                let Some((lower, upper)) = clock_bounds(&filter.predicate) else {
                    let source = self.add_below(&filter.input, &filter.predicate, None)?;
                    let schema = self.schema(&source, &filter.input);
                    let condition = physical_expression(&filter.predicate, filter.input.schema())?;
                    return self.push(id, vec![source], Box::new(Map::filter(schema, condition)?), detail);
                };
                let source = self.add(&filter.input)?;
                let schema = self.schema(&source, &filter.input);
                let index = |bound: Option<datafusion::common::Column>| {
                    bound.map(|column| filter.input.schema().index_of_column(&column)).transpose()
                };
                let operator = TemporalFilter::new(schema, index(lower)?, index(upper)?)?;
                self.push(id, vec![source], Box::new(operator), detail)
            }
            LogicalPlan::Union(union) => {
                let sources =
                    union.inputs.iter().map(|input| self.add(input)).collect::<Result<Vec<_>, EngineError>>()?;
                let schema = nullable(union.schema.inner());
                self.push(id, sources, Box::new(Union::new(schema)), detail)
            }
            LogicalPlan::Distinct(LogicalDistinct::All(input)) => {
                let source = self.add(input)?;
                let schema = self.schema(&source, input);
                let all = (0..schema.fields().len()).collect();
                let operator = self.by_key(vec![(schema.clone(), all)], || Distinct::new(schema.clone()))?;
                self.push(id, vec![source], operator, detail)
            }
            LogicalPlan::Aggregate(aggregate) => self.aggregate(aggregate, id, detail),
            LogicalPlan::Window(window) => {
                let input = sorted_input(&window.input)?;
                let source = self.add(input)?;
                let schema = self.schema(&source, input);
                let keys = common_partition(window, input.schema())?;
                let template = window.clone();
                let output = appended(&schema, window.schema.inner());
                let compute = recomputing(output.clone(), move |rows| {
                    LogicalPlan::Window(Window { input: Arc::new(resorted(&template.input, rows)), ..template.clone() })
                });
                let operator = self.by_key(vec![(schema.clone(), keys.clone())], || {
                    Recompute::new(schema.clone(), keys.clone(), output.clone(), compute.clone())
                })?;
                self.push(id, vec![source], operator, detail)
            }
            LogicalPlan::Limit(limit) => {
                let input = sorted_input(&limit.input)?;
                let source = self.add(input)?;
                let schema = self.schema(&source, input);
                if let Some((order, skip, fetch)) = top_k::limit_places(limit)? {
                    let mut operator = TopK::new(schema, Vec::new(), order, skip, fetch)?;
                    let grows = self.only_grows(input);
                    if grows {
                        operator = operator.insert_only();
                    }
                    return self.push(&state_id(id, grows), vec![source], Box::new(operator), detail);
                }
                let template = limit.clone();
                let compute = recomputing(schema.clone(), move |rows| {
                    LogicalPlan::Limit(Limit { input: Arc::new(resorted(&template.input, rows)), ..template.clone() })
                });
                let operator = Recompute::new(schema.clone(), Vec::new(), schema, compute)?;
                self.push(id, vec![source], Box::new(operator), detail)
            }
            LogicalPlan::Join(join) => self.join(join, id, detail),
            LogicalPlan::Unnest(unnest) => {
                let source = self.add(&unnest.input)?;
                let schema = self.schema(&source, &unnest.input);
                let lists = unnest.list_type_columns.iter().map(|(index, list)| (*index, list.depth)).collect();
                let output = nullable(unnest.schema.inner());
                let structs = unnest.struct_type_columns.clone();
                let operator = Unnest::new(schema, output, lists, structs, unnest.options.clone())?;
                self.push(id, vec![source], Box::new(operator), detail)
            }
            LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => {
                let rows = physical::run_local(plan.clone())?;
                let schema = nullable(plan.schema().inner());
                let rows = physical::conform(&rows, &schema)?;
                self.push(id, Vec::new(), Box::new(Constant::new(rows)), detail)
            }
            other => {
                let Some(node) = special(other) else {
                    return Err(EngineError::Internal(format!("no operator for {}", other.display())));
                };
                let sources = node.inputs.iter().map(|input| self.add(input)).collect::<Result<Vec<_>, _>>()?;
                let schemas = sources.iter().zip(&node.inputs).map(|(source, input)| self.schema(source, input));
                let operator = special_operator(node, schemas.collect())?;
                self.nodes.push(Node { id: id.to_owned(), operator, inputs: sources, detail });
                Ok(Source::Node(self.nodes.len() - 1))
            }
        }
    }

    fn aggregate(
        &mut self,
        aggregate: &datafusion::logical_expr::Aggregate,
        id: &str,
        detail: String,
    ) -> Result<Source, EngineError> {
        let calls: Vec<_> = aggregate.aggr_expr.iter().map(|e| e.clone().unalias()).collect();
        let from = aggregate.input.schema();
        let kept =
            calls.iter().all(|c| matches!(c, Expr::AggregateFunction(call) if is_kept_incrementally(call, from)));
        let input = if kept { aggregate.input.as_ref() } else { sorted_input(&aggregate.input)? };
        let source = self.add(input)?;
        let schema = self.schema(&source, input);
        let index = |e: &Expr| match e {
            Expr::Column(column) => Ok(input.schema().index_of_column(column)?),
            other => Err(EngineError::Internal(format!("{other} is not a column"))),
        };
        let groups = aggregate.group_expr.iter().map(index).collect::<Result<Vec<_>, _>>()?;
        let mut fields: Vec<Field> = groups.iter().map(|i| as_nullable(schema.field(*i))).collect();
        let all = aggregate.schema.inner();
        fields.extend(all.fields().iter().skip(groups.len()).map(|f| as_nullable(f)));
        let output = Arc::new(Schema::new(fields));
        if !kept {
            let mut template = aggregate.clone();
            let none = groups.is_empty();
            if !none {
                template.aggr_expr = template.aggr_expr.into_iter().map(lists::by_groups).collect();
            }
            let compute = recomputing(output.clone(), move |rows| {
                let mut aggregate = template.clone();
                aggregate.input = Arc::new(resorted(&template.input, rows));
                LogicalPlan::Aggregate(aggregate)
            });
            let operator = self.by_key(vec![(schema.clone(), groups.clone())], || {
                let operator = Recompute::new(schema.clone(), groups.clone(), output.clone(), compute.clone())?;
                Ok(if none { operator.with_output_of_nothing() } else { operator })
            })?;
            return self.push(id, vec![source], operator, detail);
        }
        let mut made = Vec::with_capacity(calls.len());
        for (position, call) in calls.iter().enumerate() {
            let Expr::AggregateFunction(call) = call else {
                return Err(EngineError::Internal(format!("{call} is not an aggregate")));
            };
            let (argument, constant) = match call.params.args.as_slice() {
                [] => (None, true),
                [Expr::Literal(value, _)] if !value.is_null() && call.func.name() == "count" => (None, true),
                [argument] => (Some(index(argument)?), false),
                _ => return Err(EngineError::Internal(format!("{} of several columns", call.func.name()))),
            };
            let function = match call.func.name() {
                "count" if constant && !call.params.distinct => AggregateFunction::CountStar,
                "count" => AggregateFunction::Count,
                "sum" => AggregateFunction::Sum,
                "avg" => AggregateFunction::Avg,
                "min" => AggregateFunction::Min,
                "max" => AggregateFunction::Max,
                "bool_and" => AggregateFunction::BoolAnd,
                "bool_or" => AggregateFunction::BoolOr,
                other => return Err(EngineError::Internal(format!("no aggregate {other}"))),
            };
            made.push(AggregateCall {
                function,
                argument,
                distinct: call.params.distinct,
                filter: call.params.filter.as_deref().map(index).transpose()?,
                output: output.field(groups.len() + position).data_type().clone(),
            });
        }
        let grows = self.only_grows(input);
        let operator = self.by_key(vec![(schema.clone(), groups.clone())], || {
            let operator = Aggregate::new(schema.clone(), groups.clone(), made.clone(), output.clone())?;
            Ok(if grows { operator.insert_only() } else { operator })
        })?;
        self.push(&state_id(id, grows), vec![source], operator, detail)
    }

    /// Adds what stands below a filter, `above` which only these expressions are computed. Where the filter takes the first
    /// rows of each partition, those alone are kept in order, and not the whole partition numbered.
    fn add_below(
        &mut self,
        plan: &LogicalPlan,
        predicate: &Expr,
        above: Option<&[Expr]>,
    ) -> Result<Source, EngineError> {
        let Some(top) = top_k::top_of_each(plan, predicate, above)? else {
            return self.add(plan);
        };
        let source = self.add(top.input)?;
        let schema = self.schema(&source, top.input);
        let grows = self.only_grows(top.input);
        let operator = self.by_key(vec![(schema.clone(), top.partition.clone())], || {
            let operator = TopK::new(schema.clone(), top.partition.clone(), top.order.clone(), 0, Some(top.fetch))?;
            let operator =
                if top.places_matter { operator.numbered(&top.number) } else { operator.marked(&top.number) };
            Ok(if grows { operator.insert_only() } else { operator })
        })?;
        let kind = if top.places_matter { "places" } else { "rows" };
        let id = format!("{}:{kind}:{}", fingerprint(top.window), top.fetch);
        let id = state_id(&id, grows);
        let numbered = match self.by_id.get(&id) {
            Some(known) => known.clone(),
            None => {
                let detail = format!("first {} of each: {}", top.fetch, top.window.display());
                let known = self.push(&id, vec![source], operator, detail)?;
                self.by_id.insert(id.clone(), known.clone());
                known
            }
        };
        let LogicalPlan::Projection(projection) = plan else {
            return Ok(numbered);
        };
        let id = format!("{id}:{}", fingerprint(plan));
        if let Some(known) = self.by_id.get(&id) {
            return Ok(known.clone());
        }
        let schema = self.schema(&numbered, top.window);
        let mut columns = Vec::with_capacity(projection.expr.len());
        for (expression, field) in projection.expr.iter().zip(projection.schema.fields()) {
            let expression = physical_expression(&expression.clone().unalias(), projection.input.schema())?;
            columns.push((expression, field.name().clone()));
        }
        let map = Box::new(Map::new(schema, None, columns)?);
        let known = self.push(&id, vec![numbered], map, plan.display().to_string())?;
        self.by_id.insert(id, known.clone());
        Ok(known)
    }

    fn join(&mut self, join: &datafusion::logical_expr::Join, id: &str, detail: String) -> Result<Source, EngineError> {
        let left = self.add(&join.left)?;
        let right = self.add(&join.right)?;
        let (left_schema, right_schema) = (self.schema(&left, &join.left), self.schema(&right, &join.right));
        let kind = match join.join_type {
            JoinType::Inner => JoinKind::Inner,
            JoinType::Left => JoinKind::Left,
            JoinType::Right => JoinKind::Right,
            JoinType::Full => JoinKind::Full,
            JoinType::LeftSemi => JoinKind::LeftSemi,
            JoinType::RightSemi => JoinKind::RightSemi,
            JoinType::LeftAnti => JoinKind::LeftAnti,
            JoinType::RightAnti => JoinKind::RightAnti,
            JoinType::LeftMark => JoinKind::LeftMark,
            JoinType::RightMark => JoinKind::RightMark,
        };
        let mut on = Vec::with_capacity(join.on.len());
        for (one, other) in &join.on {
            match (one, other) {
                (Expr::Column(one), Expr::Column(other)) => {
                    on.push((join.left.schema().index_of_column(one)?, join.right.schema().index_of_column(other)?));
                }
                _ => return Err(EngineError::Internal("a join key is not a column".into())),
            }
        }
        let both = join.left.schema().join(join.right.schema())?;
        let filter = match &join.filter {
            Some(filter) => Some(JoinFilter { expression: physical_expression(filter, &both)? }),
            None => None,
        };
        let mut fields: Vec<Field> = Vec::new();
        if !matches!(kind, JoinKind::RightSemi | JoinKind::RightAnti | JoinKind::RightMark) {
            fields.extend(left_schema.fields().iter().map(|f| as_nullable(f)));
        }
        if matches!(kind, JoinKind::Inner | JoinKind::Left | JoinKind::Right | JoinKind::Full)
            || matches!(kind, JoinKind::RightSemi | JoinKind::RightAnti | JoinKind::RightMark)
        {
            fields.extend(right_schema.fields().iter().map(|f| as_nullable(f)));
        }
        if matches!(kind, JoinKind::LeftMark | JoinKind::RightMark) {
            fields.push(Field::new("mark", DataType::Boolean, true));
        }
        let output = Arc::new(Schema::new(fields));
        let null_equal = join.null_equality == NullEquality::NullEqualsNull;
        let passing = match kind {
            JoinKind::Inner if never_changes(&join.right) => Some(Passing::Left),
            JoinKind::Inner if never_changes(&join.left) => Some(Passing::Right),
            _ => None,
        };
        let (left_keys, right_keys) = on.iter().copied().unzip();
        let keys = vec![(left_schema.clone(), left_keys), (right_schema.clone(), right_keys)];
        let operator = self.by_key(keys, || {
            let (left, right) = (left_schema.clone(), right_schema.clone());
            let join = Join::new(kind, left, right, on.clone(), filter.clone(), null_equal, output.clone())?;
            Ok(join.passing(passing))
        })?;
        let id = if passing.is_some() { format!("{id}:passing") } else { id.to_owned() };
        self.push(&id, vec![left, right], operator, detail)
    }
}

/// The operator of a node of ours over inputs with these schemas. Batch runs it too.
pub(crate) fn special_operator(node: &SpecialNode, inputs: Vec<SchemaRef>) -> Result<Box<dyn Operator>, EngineError> {
    let output = nullable(node.schema.inner());
    Ok(match &node.kind {
        Special::IntersectAll => Box::new(SetOperation::new(SetOperationKind::Intersect { all: true }, output)?),
        Special::ExceptAll => Box::new(SetOperation::new(SetOperationKind::Except { all: true }, output)?),
        Special::AsOf(conditions) => {
            let pair = |comparison: &Expr| match comparison {
                Expr::BinaryExpr(BinaryExpr { left, op, right }) => match (left.as_ref(), right.as_ref()) {
                    (Expr::Column(left), Expr::Column(right)) => {
                        let left = node.inputs[0].schema().index_of_column(left)?;
                        Ok((left, *op, node.inputs[1].schema().index_of_column(right)?))
                    }
                    _ => Err(EngineError::Internal(format!("{comparison} is not of columns"))),
                },
                other => Err(EngineError::Internal(format!("{other} is not a comparison"))),
            };
            let on = conditions.on.iter().map(|equal| pair(equal).map(|(left, _, right)| (left, right)));
            let on = on.collect::<Result<Vec<_>, _>>()?;
            let (left, operator, right) = pair(&conditions.nearest)?;
            let nearest = match operator {
                LogicalOperator::GtEq => Nearest::AtOrBefore,
                LogicalOperator::Gt => Nearest::Before,
                LogicalOperator::LtEq => Nearest::AtOrAfter,
                LogicalOperator::Lt => Nearest::After,
                other => return Err(EngineError::Internal(format!("{other} orders nothing"))),
            };
            let conditions = AsOfConditions { on, times: (left, right), nearest, outer: conditions.outer };
            Box::new(AsOfJoin::new(inputs[0].clone(), inputs[1].clone(), conditions, output)?)
        }
        Special::Recursion(recursion) => {
            let mut builder = GraphBuilder::new(HashMap::new(), HashSet::new(), Workers::new(1));
            let last = builder.add(&recursion.step)?;
            let source = |source: &Source| match source {
                Source::Node(index) => Ok(StepSource::Operator(*index)),
                Source::Relation(name) if name.as_ref() == WORK => Ok(StepSource::Work),
                Source::Relation(name) => (1..inputs.len())
                    .find(|index| input_name(*index) == name.as_ref())
                    .map(StepSource::Input)
                    .ok_or_else(|| EngineError::Internal(format!("a step reads `{name}`, which it does not have"))),
            };
            let last_is_output = last == Source::Node(builder.nodes.len().wrapping_sub(1));
            let mut operators = Vec::with_capacity(builder.nodes.len());
            for made in builder.nodes {
                let sources = made.inputs.iter().map(source).collect::<Result<Vec<_>, _>>()?;
                operators.push((made.operator, sources));
            }
            if !last_is_output {
                // The step gives the rows of the last iteration back as they are.
                let fields = node.schema.fields().iter().map(|f| as_nullable(f));
                let fields = fields.chain([Field::new("__depth", DataType::Int64, true)]).collect::<Vec<_>>();
                operators.push((Box::new(Union::new(Arc::new(Schema::new(fields)))), vec![source(&last)?]));
            }
            let step = RecursionStep { operators };
            Box::new(Recursion::new(recursion.name.clone(), recursion.distinct, output, inputs, step)?)
        }
    })
}

/// The expression as the operators evaluate it.
pub(crate) fn physical_expression(expression: &Expr, input: &DFSchema) -> Result<Arc<dyn PhysicalExpr>, EngineError> {
    Ok(create_physical_expr(expression, input, &ExecutionProps::new(), &PhysicalPlanningContext::default())?)
}

/// Names state that is kept in another form when rows only come.
fn state_id(id: &str, grows: bool) -> String {
    if grows { format!("{id}+") } else { id.to_owned() }
}

/// What stands below the sort that canonical plans have under ordered constructs.
fn sorted_input(plan: &LogicalPlan) -> Result<&LogicalPlan, EngineError> {
    match plan {
        LogicalPlan::Sort(sort) => Ok(&sort.input),
        other => Err(EngineError::Internal(format!("{} is not a sort", other.display()))),
    }
}

/// The sort over `rows` instead of its input.
fn resorted(sort: &LogicalPlan, rows: LogicalPlan) -> LogicalPlan {
    match sort {
        LogicalPlan::Sort(sort) => physical::sorted(rows, sort.expr.clone()),
        _ => rows,
    }
}

/// The batch operator's own code over the rows of touched keys.
fn recomputing(
    output: SchemaRef,
    plan_over: impl Fn(LogicalPlan) -> LogicalPlan + Send + Sync + 'static,
) -> Arc<dyn Fn(&RecordBatch) -> Result<RecordBatch, EngineError> + Send + Sync> {
    Arc::new(move |rows: &RecordBatch| {
        let result = physical::run_local(plan_over(physical::rows(rows)?))?;
        physical::conform(&result, &output)
    })
}

/// The columns that every function of the window partitions by.
fn common_partition(window: &Window, input: &DFSchema) -> Result<Vec<usize>, EngineError> {
    let mut common: Option<Vec<usize>> = None;
    for call in &window.window_expr {
        let Expr::WindowFunction(call) = call.clone().unalias() else {
            return Err(EngineError::Internal(format!("{call} is not a window function")));
        };
        let mut keys = Vec::new();
        for key in &call.params.partition_by {
            if let Expr::Column(column) = key {
                keys.push(input.index_of_column(column)?);
            }
        }
        common = Some(match common {
            None => keys,
            Some(common) => common.into_iter().filter(|key| keys.contains(key)).collect(),
        });
    }
    let mut common = common.unwrap_or_default();
    common.dedup();
    Ok(common)
}

/// The input's columns, then those that the plan's schema has beyond them.
fn appended(input: &SchemaRef, all: &SchemaRef) -> SchemaRef {
    let own = input.fields().iter();
    let more = all.fields().iter().skip(input.fields().len());
    Arc::new(Schema::new(own.chain(more).map(|f| as_nullable(f)).collect::<Vec<_>>()))
}

fn nullable(schema: &SchemaRef) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(|f| as_nullable(f)).collect::<Vec<_>>()))
}

fn as_nullable(field: &Field) -> Field {
    Field::new(field.name(), field.data_type().clone(), true)
}
