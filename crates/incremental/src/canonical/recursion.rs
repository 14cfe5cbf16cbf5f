//! WITH RECURSIVE: the recursive term as one step over rows that know which iteration they came from.
//!
//! Only linear and monotone terms have that form: each row of the last iteration is treated apart from the others, by
//! projections, filters and joins with relations that stay as they are, and more rows never give less. Then all iterations
//! share one set of operators, and a change of a relation reaches every iteration at once.

use super::columns::{column, named, project, rebind_to, unique_names};
use super::nodes::{Recursion, Special, SpecialNode, WORK, input_name};
use super::{Result, canonicalise, clock_bounds, unsupported};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, JoinType};
use datafusion::logical_expr::{
    Distinct, Expr, Filter, Join, LogicalPlan, LogicalPlanBuilder, RecursiveQuery, TableSource, Union, cast,
};
use std::sync::Arc;

/// Name of the column that counts iterations.
const DEPTH: &str = "__depth";

/// The rows of the last iteration, as the recursive term reads them.
#[derive(Debug)]
pub(crate) struct WorkTable(pub SchemaRef);

impl TableSource for WorkTable {
    fn schema(&self) -> SchemaRef {
        self.0.clone()
    }
}

/// A relation that only the step knows.
#[derive(Debug)]
struct StepInput(SchemaRef);

impl TableSource for StepInput {
    fn schema(&self) -> SchemaRef {
        self.0.clone()
    }
}

/// The recursion over canonical plans.
pub(super) fn recursive(query: &RecursiveQuery) -> Result<LogicalPlan> {
    let names = unique_names(query.schema.fields().iter().map(|field| field.name().as_str()));
    let types: Vec<DataType> = query.schema.fields().iter().map(|field| field.data_type().clone()).collect();
    let start = conforming(canonicalise(&query.static_term)?, &names, &types, false)?;
    let term = canonicalise(&query.recursive_term)?;
    let mut lift = Lift { name: &query.name, distinct: query.is_distinct, inputs: Vec::new() };
    if !lift.reads_work(&term) {
        return without_recursion(query, start, conforming(term, &names, &types, false)?);
    }
    let step = conforming(lift.lifted(&term)?, &names, &types, true)?;
    let fields = names.iter().zip(types).map(|(name, data_type)| Field::new(name, data_type, true)).collect();
    let schema = DFSchema::from_unqualified_fields(fields, Default::default())?;
    let kind = Recursion { name: query.name.clone(), step: Arc::new(step), distinct: query.is_distinct };
    let inputs = std::iter::once(start).chain(lift.inputs).collect();
    let node = SpecialNode { kind: Special::Recursion(kind), inputs, schema: Arc::new(schema) };
    let plan = node.into_plan();
    let columns = (0..query.schema.fields().len()).map(|index| column(&plan, index)).collect();
    Ok(project(plan, named(columns, &query.schema))?)
}

/// Refuses plans in which something still reads rows of a last iteration: DataFusion does not see that a term which
/// reads itself in a subquery is recursive.
pub(crate) fn refuse_stray_reads(plan: &LogicalPlan) -> Result<()> {
    let mut stray = None;
    // The closure never fails.
    let _ = plan.apply(|node| match node {
        LogicalPlan::TableScan(scan) if scan.source.as_ref().is::<WorkTable>() => {
            stray = Some(scan.table_name.to_string());
            Ok(TreeNodeRecursion::Stop)
        }
        _ => Ok(TreeNodeRecursion::Continue),
    });
    match stray {
        None => Ok(()),
        Some(name) => unsupported(
            format!("the recursive term of `{name}` cannot be kept up to date: it reads itself in a subquery"),
            "read it in FROM, joined with relations that do not depend on it",
        ),
    }
}

/// The optimiser found that the recursive term does not depend on the last iteration after all.
fn without_recursion(query: &RecursiveQuery, start: LogicalPlan, term: LogicalPlan) -> Result<LogicalPlan> {
    if !query.is_distinct {
        return match term {
            LogicalPlan::EmptyRelation(_) => Ok(start),
            _ => unsupported(
                format!("the recursive term of `{}` gives the same rows at each iteration, without end", query.name),
                format!("let it read `{}`, with a condition that ends it", query.name),
            ),
        };
    }
    let union = Union::try_new_with_loose_types(vec![Arc::new(start), Arc::new(term)])?;
    Ok(LogicalPlan::Distinct(Distinct::All(Arc::new(LogicalPlan::Union(union)))))
}

/// The first columns with these names and types, and the count of iterations where there is one.
fn conforming(plan: LogicalPlan, names: &[String], types: &[DataType], lifted: bool) -> Result<LogicalPlan> {
    let others: Vec<usize> =
        (0..plan.schema().fields().len()).filter(|index| plan.schema().field(*index).name() != DEPTH).collect();
    let mut columns = Vec::with_capacity(names.len() + 1);
    for ((index, name), data_type) in others.into_iter().zip(names).zip(types) {
        let value = column(&plan, index);
        let same = plan.schema().field(index).data_type() == data_type;
        columns.push((if same { value } else { cast(value, data_type.clone()) }, name.clone()));
    }
    if lifted {
        columns.push((depth(), DEPTH.into()));
    }
    Ok(project(plan, columns)?)
}

fn depth() -> Expr {
    Expr::Column(Column::new_unqualified(DEPTH))
}

/// Turns a recursive term into a step.
struct Lift<'a> {
    name: &'a str,
    distinct: bool,
    inputs: Vec<LogicalPlan>,
}

impl Lift<'_> {
    fn reads_work(&self, plan: &LogicalPlan) -> bool {
        let mut found = false;
        // The closure never fails.
        let _ = plan.apply(|node| {
            found |= self.is_work(node);
            Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
        });
        found
    }

    fn is_work(&self, plan: &LogicalPlan) -> bool {
        match plan {
            LogicalPlan::TableScan(scan) => {
                scan.source.as_ref().is::<WorkTable>() && scan.table_name.table() == self.name
            }
            _ => false,
        }
    }

    /// A plan that reads the last iteration, with the count of iterations beside its columns, whose names stay.
    fn lifted(&mut self, plan: &LogicalPlan) -> Result<LogicalPlan> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                let mut fields: Vec<Field> = scan.source.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
                fields.push(Field::new(DEPTH, DataType::Int64, true));
                let projection = scan.projection.clone().unwrap_or_else(|| (0..fields.len() - 1).collect());
                let work = scan_of(WORK, fields)?;
                let last = work.schema().fields().len() - 1;
                let columns = projection.into_iter().chain([last]);
                let columns = columns.map(|index| (column(&work, index), work.schema().field(index).name().clone()));
                let columns = columns.collect();
                Ok(project(work, columns)?)
            }
            LogicalPlan::Projection(projection) => {
                let input = self.lifted(&projection.input)?;
                let known = same_names(projection.input.schema());
                let mut columns = Vec::with_capacity(projection.expr.len() + 1);
                for (expression, field) in projection.expr.iter().zip(projection.schema.fields()) {
                    columns.push((rebind_to(expression, projection.input.schema(), &known)?, field.name().clone()));
                }
                columns.push((depth(), DEPTH.into()));
                Ok(project(input, columns)?)
            }
            LogicalPlan::Filter(filter) if clock_bounds(&filter.predicate).is_none() => {
                let input = self.lifted(&filter.input)?;
                let known = same_names(filter.input.schema());
                let predicate = rebind_to(&filter.predicate, filter.input.schema(), &known)?;
                Ok(LogicalPlan::Filter(Filter::try_new(predicate, Arc::new(input))?))
            }
            LogicalPlan::Distinct(Distinct::All(input)) if self.distinct => self.lifted(input),
            LogicalPlan::Union(union) => {
                let names: Vec<String> = union.schema.fields().iter().map(|f| f.name().clone()).collect();
                let types: Vec<DataType> = union.schema.fields().iter().map(|f| f.data_type().clone()).collect();
                let mut inputs = Vec::with_capacity(union.inputs.len());
                for input in &union.inputs {
                    if !self.reads_work(input) {
                        return self
                            .refuse("a part of its UNION does not read it", "move that part before the first UNION");
                    }
                    inputs.push(Arc::new(conforming(self.lifted(input)?, &names, &types, true)?));
                }
                Ok(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?))
            }
            LogicalPlan::Join(join) => self.lifted_join(join),
            LogicalPlan::Filter(_) => {
                self.refuse("it compares with now()", "filter by now() before the recursion, or after it")
            }
            LogicalPlan::Aggregate(_) => {
                self.refuse("it aggregates what the last iteration gave", "aggregate after the recursion")
            }
            LogicalPlan::Window(_) | LogicalPlan::Limit(_) => {
                self.refuse("it orders what the last iteration gave", "number or cut rows after the recursion")
            }
            LogicalPlan::Distinct(_) => self.refuse("it is DISTINCT", "write UNION instead of UNION ALL"),
            other => self.refuse(
                &format!("it reads itself through {}", other.display()),
                "read it in FROM, joined with relations that do not depend on it",
            ),
        }
    }

    fn lifted_join(&mut self, join: &Join) -> Result<LogicalPlan> {
        let work_left = self.reads_work(&join.left);
        if work_left && self.reads_work(&join.right) {
            return self.refuse(
                "it joins itself with itself, which is not linear",
                "join the rows of the last iteration with a relation instead: every path is a path and one edge more",
            );
        }
        use JoinType::{Inner, Left, LeftAnti, LeftMark, LeftSemi, Right, RightAnti, RightMark, RightSemi};
        let fits = match join.join_type {
            Inner => true,
            Left | LeftSemi | LeftAnti | LeftMark => work_left,
            Right | RightSemi | RightAnti | RightMark => !work_left,
            JoinType::Full => false,
        };
        if !fits {
            return self.refuse(
                "it is on a side of an outer, semi or anti join where more rows can give less or count double",
                "read it in FROM and join others to it; EXISTS and IN can be written as a join",
            );
        }
        let (left, right) = if work_left {
            (self.lifted(&join.left)?, self.input(&join.right)?)
        } else {
            (self.input(&join.left)?, self.lifted(&join.right)?)
        };
        let mut plan = join.clone();
        plan.schema =
            Arc::new(datafusion::logical_expr::build_join_schema(left.schema(), right.schema(), &join.join_type)?);
        (plan.left, plan.right) = (Arc::new(left), Arc::new(right));
        Ok(LogicalPlan::Join(plan))
    }

    /// A plan that does not read the last iteration, as a relation of the step.
    fn input(&mut self, plan: &LogicalPlan) -> Result<LogicalPlan> {
        self.inputs.push(plan.clone());
        let fields = plan.schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
        let scan = scan_of(&input_name(self.inputs.len()), fields)?;
        let columns = (0..plan.schema().fields().len()).map(|index| column(&scan, index)).collect();
        Ok(project(scan, named(columns, plan.schema()))?)
    }

    fn refuse<T>(&self, reason: &str, hint: &str) -> Result<T> {
        unsupported(format!("the recursive term of `{}` cannot be kept up to date: {reason}", self.name), hint)
    }
}

fn scan_of(name: &str, fields: Vec<Field>) -> datafusion::common::Result<LogicalPlan> {
    let source = Arc::new(StepInput(Arc::new(Schema::new(fields))));
    LogicalPlanBuilder::scan(name, source, None)?.build()
}

/// The columns of a schema by their names alone, which are unique in canonical plans.
fn same_names(schema: &DFSchema) -> Vec<Column> {
    schema.fields().iter().map(|field| Column::new_unqualified(field.name())).collect()
}
