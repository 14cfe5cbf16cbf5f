//! Why a row is not there: the first step, on the way from the sources, that no row with the expected values leaves.
//!
//! The walk goes down from the model as long as a step is not reached by such a row, and carries the expected values along
//! as conditions on what the step reads: through a projection by putting its expressions in place of its columns, through
//! a join to the side that has the column, and by its equalities to the other. Where rows reach a step and none leaves it,
//! the step is to blame.

mod joins;

use super::select::{Asking, column, columns, list, schema_of};
use super::{LineageError, LineageLimits, World, upstream};
use crate::canonical::nodes::{Special, SpecialNode, special};
use crate::canonical::{clock, relations_of};
use crate::delta::Relation;
use crate::planner::{ModelPlan, PlanForm};
use crate::rewrite::physical_expression;
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::utils::{conjunction, split_conjunction};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Distinct, Expr, Filter, Limit, LogicalPlan, Operator, Projection, TableScan, Union, Unnest,
    Window,
};
use futures::FutureExt;
use futures::future::BoxFuture;
use std::sync::Arc;

/// A kind of step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// WHERE, or a condition of a join on one side alone.
    Filter,
    /// A condition on a row of GROUP BY.
    Having,
    /// A condition on a window function's value, or DISTINCT ON.
    Rank,
    /// An expression that fails on the row.
    Failure,
    /// No partner on the other side of a join.
    Join,
    /// EXISTS or IN holds for none.
    Exists,
    /// NOT EXISTS or NOT IN: there is one.
    NotExists,
    /// LIMIT and OFFSET.
    Limit,
    /// The group is there, with other values.
    Aggregate,
    /// The row is there, with other values of window functions.
    Window,
    /// INTERSECT: the other side lacks it.
    Intersect,
    /// EXCEPT: the other side has it.
    Except,
    /// ASOF JOIN: nothing lies before.
    AsOf,
    /// A list has no such item.
    Unnest,
    /// A recursion does not reach it.
    Recursion,
}

/// A step that rows reach and none leaves.
#[derive(Debug)]
pub struct Lost {
    /// The model whose step it is.
    pub model: Relation,
    /// What kind of step.
    pub step: Step,
    /// What the step asks for and the rows do not have, as SQL.
    pub asks: Vec<String>,
    /// The relations on the other side of a join or set operation.
    pub other: Vec<Relation>,
    /// Some of the rows that reach the step.
    pub reaching: RecordBatch,
    /// Some of the other side's rows, where they are what keeps the row out.
    pub against: Option<RecordBatch>,
    /// Where it is the other side that lacks something: why that is.
    pub because: Vec<Fate>,
}

/// What became of the expected row on one way from the sources.
#[derive(Debug)]
pub enum Fate {
    /// A step lost it.
    Lost(Box<Lost>),
    /// No row of the source has the values.
    Absent {
        /// The model that reads the source.
        reader: Relation,
        /// The source.
        source: Relation,
        /// What was looked for: expressions over the source's columns, and their values.
        wanted: Vec<(Expr, ScalarValue)>,
    },
    /// This way never gives such a row: it has a constant in the place.
    Never {
        /// The model.
        model: Relation,
        /// The constant and the value that was expected, as SQL.
        asks: String,
    },
    /// The values cannot be followed any further.
    Untraced {
        /// The model.
        model: Relation,
        /// Why.
        why: &'static str,
    },
}

/// Rows that are shown of those that reach a step.
const SHOWN_MAX: usize = 5;

type Wanted = Vec<(Expr, ScalarValue)>;

/// Why the model `target` has no row with these values in these columns, which must be so. The first of the answers is
/// to blame; the others tell of other ways that the row could have come.
///
/// # Errors
/// When a run fails.
pub async fn absence(
    models: &[&ModelPlan],
    target: &Relation,
    wanted: &[(usize, ScalarValue)],
    world: &dyn World,
    limits: LineageLimits,
) -> Result<Vec<Fate>, LineageError> {
    let models = upstream(models, target);
    let walk = Walk { models: &models, world, limits };
    let Some(model) = models.last() else { return Ok(Vec::new()) };
    let wanted = wanted.iter().map(|(index, value)| (column(&model.plan, *index), value.clone())).collect();
    walk.model(model, wanted).await
}

struct Walk<'a> {
    models: &'a [&'a ModelPlan],
    world: &'a dyn World,
    limits: LineageLimits,
}

/// Whether the expression reads any column.
fn is_constant(expression: &Expr) -> bool {
    expression.column_refs().is_empty()
}

/// The expression with columns of `from` replaced by expressions at the same positions.
fn substituted(expression: &Expr, from: &DFSchema, by: &[Expr]) -> Result<Expr, LineageError> {
    let done = expression.clone().transform_up(|e| {
        Ok(match &e {
            Expr::Column(c) => match by.get(from.index_of_column(c)?) {
                Some(other) => Transformed::yes(other.clone()),
                None => Transformed::no(e),
            },
            _ => Transformed::no(e),
        })
    })?;
    Ok(done.data)
}

/// Whether all columns of an expression are among the first `width` of a schema, or behind, or none.
fn is_within(expression: &Expr, schema: &DFSchema, range: std::ops::Range<usize>) -> bool {
    let columns = expression.column_refs();
    columns.iter().all(|c| schema.index_of_column(c).is_ok_and(|index| range.contains(&index)))
}

/// An expression as a person would write it.
pub fn shown(expression: &Expr) -> String {
    let plain = expression.clone().transform_up(|e| {
        Ok(match e {
            Expr::ScalarFunction(mut call) if call.func.name() == "canonical" && call.args.len() == 1 => {
                Transformed::yes(call.args.remove(0))
            }
            Expr::Column(c) => Transformed::yes(Expr::Column(Column::new_unqualified(c.name))),
            other => Transformed::no(other),
        })
    });
    let plain = plain.map_or_else(|_| expression.clone(), |done| done.data);
    match datafusion::sql::unparser::expr_to_sql(&plain) {
        Ok(datafusion::sql::sqlparser::ast::Expr::Nested(sql)) => sql.to_string(),
        Ok(sql) => sql.to_string(),
        Err(_) => plain.human_display().to_string(),
    }
}

/// `column = value`, as a person would write it.
pub fn equality((expression, value): &(Expr, ScalarValue)) -> String {
    if value.is_null() {
        format!("{} IS NULL", shown(expression))
    } else {
        shown(&expression.clone().eq(Expr::Literal(value.clone(), None)))
    }
}

/// Where the values of a column are computed.
#[derive(PartialEq, Eq)]
enum Origin {
    Window,
    Aggregate,
    Other,
}

fn origin(plan: &LogicalPlan, index: usize) -> Origin {
    match plan {
        LogicalPlan::Projection(projection) => {
            let computed = projection.expr[index].clone().unalias();
            let schema = projection.input.schema();
            let places = computed.column_refs().into_iter().filter_map(|c| schema.index_of_column(c).ok());
            let mut origins = places.map(|place| origin(&projection.input, place));
            origins.find(|origin| *origin != Origin::Other).unwrap_or(Origin::Other)
        }
        LogicalPlan::Filter(filter) => origin(&filter.input, index),
        LogicalPlan::Sort(sort) => origin(&sort.input, index),
        LogicalPlan::Distinct(Distinct::All(input)) => origin(input, index),
        LogicalPlan::Window(window) if index >= window.input.schema().fields().len() => Origin::Window,
        LogicalPlan::Window(window) => origin(&window.input, index),
        LogicalPlan::Aggregate(aggregate) if index >= aggregate.group_expr.len() => Origin::Aggregate,
        _ => Origin::Other,
    }
}

impl<'a> Walk<'a> {
    fn asking<'b>(&self, model: &'b ModelPlan) -> Asking<'b>
    where
        'a: 'b,
    {
        Asking { worlds: vec![self.world], reader: &model.name, limits: self.limits }
    }

    /// Some rows of a plan that have the values.
    async fn sample(
        &self,
        model: &ModelPlan,
        plan: &LogicalPlan,
        wanted: &Wanted,
    ) -> Result<RecordBatch, LineageError> {
        let condition = |(expression, value): &(Expr, ScalarValue)| -> Result<Expr, LineageError> {
            let one: ArrayRef = value.to_array()?;
            Ok(list(expression.clone(), &one).unwrap_or_else(|| {
                let value = Box::new(Expr::Literal(value.clone(), None));
                let left = Box::new(expression.clone());
                Expr::BinaryExpr(BinaryExpr { left, op: Operator::IsNotDistinctFrom, right: value })
            }))
        };
        let conditions = wanted.iter().map(condition).collect::<Result<Vec<_>, _>>()?;
        let narrowed = match conjunction(conditions) {
            Some(condition) => LogicalPlan::Filter(Filter::try_new(condition, Arc::new(plan.clone()))?),
            None => plan.clone(),
        };
        let (mut found, mut count) = (Vec::new(), 0);
        let asking = self.asking(model);
        asking
            .run(self.world, &narrowed, None, &mut |batch| {
                count += batch.num_rows();
                found.push(batch);
                Ok(count < SHOWN_MAX)
            })
            .await?;
        let rows = super::select::joined(&schema_of(plan), &found)?;
        Ok(rows.slice(0, rows.num_rows().min(SHOWN_MAX)))
    }

    fn lost(model: &ModelPlan, step: Step, reaching: RecordBatch) -> Lost {
        Lost {
            model: model.name.clone(),
            step,
            asks: Vec::new(),
            other: Vec::new(),
            reaching,
            against: None,
            because: Vec::new(),
        }
    }

    async fn model(&self, model: &'a ModelPlan, wanted: Wanted) -> Result<Vec<Fate>, LineageError> {
        if model.form == PlanForm::Whole {
            let why = "its query is run as a whole, and its steps are not known";
            return Ok(vec![Fate::Untraced { model: model.name.clone(), why }]);
        }
        self.walk(model, &model.plan, wanted).await
    }

    /// The fates of rows with the values, which no row of `plan` has.
    fn walk<'b>(
        &'b self,
        model: &'a ModelPlan,
        plan: &'a LogicalPlan,
        wanted: Wanted,
    ) -> BoxFuture<'b, Result<Vec<Fate>, LineageError>>
    where
        'a: 'b,
    {
        async move {
            match plan {
                LogicalPlan::TableScan(scan) => self.scanned(model, scan, wanted).await,
                LogicalPlan::Projection(projection) => self.projected(model, projection, wanted).await,
                LogicalPlan::Filter(filter) => self.filtered(model, filter, wanted).await,
                LogicalPlan::Sort(sort) => self.walk(model, &sort.input, wanted).await,
                LogicalPlan::Distinct(Distinct::All(input)) => self.walk(model, input, wanted).await,
                LogicalPlan::Union(union) => self.united(model, union, wanted).await,
                LogicalPlan::Aggregate(aggregate) => self.aggregated(model, plan, aggregate, wanted).await,
                LogicalPlan::Window(window) => self.windowed(model, plan, window, wanted).await,
                LogicalPlan::Limit(limit) => self.limited(model, limit, wanted).await,
                LogicalPlan::Unnest(unnest) => self.unnested(model, unnest, wanted).await,
                LogicalPlan::Join(join) => self.joined(model, join, wanted).await,
                LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => {
                    let asks = wanted.iter().map(equality).collect::<Vec<_>>().join(" AND ");
                    Ok(vec![Fate::Never { model: model.name.clone(), asks }])
                }
                other => match special(other) {
                    Some(node) => self.special(model, node, wanted).await,
                    None => {
                        let why = "a step of its query is not understood here";
                        Ok(vec![Fate::Untraced { model: model.name.clone(), why }])
                    }
                },
            }
        }
        .boxed()
    }

    async fn scanned(
        &self,
        model: &'a ModelPlan,
        scan: &'a TableScan,
        wanted: Wanted,
    ) -> Result<Vec<Fate>, LineageError> {
        let relation = Relation::from(scan.table_name.to_string());
        let from = &scan.projected_schema;
        if let Some(read) = self.models.iter().find(|m| m.name == relation) {
            let names = from.fields().iter().map(|field| read.schema.index_of(field.name()));
            let by = names.map(|index| Ok(column(&read.plan, index?))).collect::<Result<Vec<_>, LineageError>>()?;
            let moved = wanted.iter().map(|(e, v)| Ok((substituted(e, from, &by)?, v.clone())));
            return self.model(read, moved.collect::<Result<_, LineageError>>()?).await;
        }
        let by: Vec<Expr> =
            from.fields().iter().map(|field| Expr::Column(Column::new_unqualified(field.name()))).collect();
        let wanted = wanted.iter().map(|(e, v)| Ok((substituted(e, from, &by)?, v.clone())));
        let wanted = wanted.collect::<Result<_, LineageError>>()?;
        Ok(vec![Fate::Absent { reader: model.name.clone(), source: relation, wanted }])
    }

    async fn projected(
        &self,
        model: &'a ModelPlan,
        projection: &'a Projection,
        wanted: Wanted,
    ) -> Result<Vec<Fate>, LineageError> {
        let by: Vec<Expr> = projection.expr.iter().map(|e| e.clone().unalias()).collect();
        let mut below = Vec::with_capacity(wanted.len());
        for (expression, value) in wanted {
            let computed = substituted(&expression, &projection.schema, &by)?;
            if !is_constant(&computed) {
                below.push((computed, value));
            } else if !gives(&computed, &value)? {
                let asks = format!("`{}` is {}, and never {value}", shown(&expression), shown(&computed));
                return Ok(vec![Fate::Never { model: model.name.clone(), asks }]);
            }
        }
        let reaching = self.sample(model, &projection.input, &below).await?;
        if reaching.num_rows() > 0 {
            let asks = by.iter().filter(|e| !matches!(e, Expr::Column(_) | Expr::Literal(_, _))).map(shown).collect();
            return Ok(vec![Fate::Lost(Box::new(Lost { asks, ..Self::lost(model, Step::Failure, reaching) }))]);
        }
        self.walk(model, &projection.input, below).await
    }

    async fn filtered(
        &self,
        model: &'a ModelPlan,
        filter: &'a Filter,
        wanted: Wanted,
    ) -> Result<Vec<Fate>, LineageError> {
        let reaching = self.sample(model, &filter.input, &wanted).await?;
        if reaching.num_rows() == 0 {
            return self.walk(model, &filter.input, wanted).await;
        }
        let schema = filter.input.schema();
        let now = self.world.clock(&model.name);
        let (mut by_none, mut by_some) = (Vec::new(), Vec::new());
        for part in split_conjunction(&filter.predicate) {
            let met = met(&clock::at(part.clone(), now)?, schema, &reaching)?;
            if met.iter().all(|met| !met) {
                by_none.push(part);
            } else if met.iter().any(|met| !met) {
                by_some.push(part);
            }
        }
        let failing = if by_none.is_empty() { by_some } else { by_none };
        let places = failing.iter().flat_map(|part| part.column_refs()).filter_map(|c| schema.index_of_column(c).ok());
        let origins: Vec<Origin> = places.map(|place| origin(&filter.input, place)).collect();
        let step = if origins.contains(&Origin::Window) {
            Step::Rank
        } else if origins.contains(&Origin::Aggregate) {
            Step::Having
        } else {
            Step::Filter
        };
        let asks = failing.iter().map(|part| self.asked(part)).collect();
        Ok(vec![Fate::Lost(Box::new(Lost { asks, ..Self::lost(model, step, reaching) }))])
    }

    /// A condition with what a reader may not know of it.
    fn asked(&self, part: &Expr) -> String {
        match part {
            Expr::IsNotNull(_) => format!("{} (of WHERE, or since a join compares it)", shown(part)),
            part if clock::reads_clock(part) => {
                format!("the comparison with now() in its WHERE, as of the epoch's clock: {part}")
            }
            part => shown(part),
        }
    }

    async fn united(&self, model: &'a ModelPlan, union: &'a Union, wanted: Wanted) -> Result<Vec<Fate>, LineageError> {
        let mut fates = Vec::new();
        for input in &union.inputs {
            let by = columns(input);
            let moved = wanted.iter().map(|(e, v)| Ok((substituted(e, &union.schema, &by)?, v.clone())));
            fates.extend(self.walk(model, input, moved.collect::<Result<_, LineageError>>()?).await?);
        }
        // The way on which the row came furthest comes first.
        fates.sort_by_key(|fate| match fate {
            Fate::Lost(_) => 0,
            Fate::Untraced { .. } => 1,
            Fate::Absent { .. } => 2,
            Fate::Never { .. } => 3,
        });
        Ok(fates)
    }

    async fn aggregated(
        &self,
        model: &'a ModelPlan,
        plan: &'a LogicalPlan,
        aggregate: &'a Aggregate,
        wanted: Wanted,
    ) -> Result<Vec<Fate>, LineageError> {
        let count = aggregate.group_expr.len();
        let (of_groups, held): (Wanted, Wanted) =
            wanted.into_iter().partition(|(e, _)| is_within(e, &aggregate.schema, 0..count));
        if let Some(fate) = self.with_other_values(model, plan, &of_groups, &held, Step::Aggregate).await? {
            return Ok(vec![fate]);
        }
        let by: Vec<Expr> = aggregate.group_expr.iter().map(|e| e.clone().unalias()).collect();
        let moved = of_groups.iter().map(|(e, v)| Ok((substituted(e, &aggregate.schema, &by)?, v.clone())));
        self.walk(model, &aggregate.input, moved.collect::<Result<_, LineageError>>()?).await
    }

    async fn windowed(
        &self,
        model: &'a ModelPlan,
        plan: &'a LogicalPlan,
        window: &'a Window,
        wanted: Wanted,
    ) -> Result<Vec<Fate>, LineageError> {
        let width = window.input.schema().fields().len();
        let (of_input, held): (Wanted, Wanted) =
            wanted.into_iter().partition(|(e, _)| is_within(e, &window.schema, 0..width));
        if let Some(fate) = self.with_other_values(model, plan, &of_input, &held, Step::Window).await? {
            return Ok(vec![fate]);
        }
        self.walk(model, &window.input, of_input).await
    }

    /// Rows that have the values that a step passes on, but not those that it computes.
    async fn with_other_values(
        &self,
        model: &'a ModelPlan,
        plan: &'a LogicalPlan,
        passed: &Wanted,
        held: &Wanted,
        step: Step,
    ) -> Result<Option<Fate>, LineageError> {
        if held.is_empty() {
            return Ok(None);
        }
        let reaching = self.sample(model, plan, passed).await?;
        let asks = held.iter().map(equality).collect();
        let lost = Lost { asks, ..Self::lost(model, step, reaching) };
        Ok((lost.reaching.num_rows() > 0).then(|| Fate::Lost(Box::new(lost))))
    }

    async fn limited(&self, model: &'a ModelPlan, limit: &'a Limit, wanted: Wanted) -> Result<Vec<Fate>, LineageError> {
        let reaching = self.sample(model, &limit.input, &wanted).await?;
        if reaching.num_rows() == 0 {
            return self.walk(model, &limit.input, wanted).await;
        }
        let text = |word: &str, rows: &Option<Box<Expr>>| rows.as_ref().map(|rows| format!("{word} {}", shown(rows)));
        let asks = text("LIMIT", &limit.fetch).into_iter().chain(text("OFFSET", &limit.skip)).collect();
        Ok(vec![Fate::Lost(Box::new(Lost { asks, ..Self::lost(model, Step::Limit, reaching) }))])
    }

    async fn unnested(
        &self,
        model: &'a ModelPlan,
        unnest: &'a Unnest,
        wanted: Wanted,
    ) -> Result<Vec<Fate>, LineageError> {
        let opened = |index: &usize| {
            unnest.list_type_columns.iter().any(|(list, _)| list == index) || unnest.struct_type_columns.contains(index)
        };
        let by: Vec<Expr> = unnest.dependency_indices.iter().map(|input| column(&unnest.input, *input)).collect();
        let passes = |e: &Expr| {
            let places = e.column_refs().into_iter().filter_map(|c| unnest.schema.index_of_column(c).ok());
            places.into_iter().all(|place| unnest.dependency_indices.get(place).is_some_and(|input| !opened(input)))
        };
        let (passed, held): (Wanted, Wanted) = wanted.into_iter().partition(|(e, _)| passes(e));
        let moved = passed.iter().map(|(e, v)| Ok((substituted(e, &unnest.schema, &by)?, v.clone())));
        let moved: Wanted = moved.collect::<Result<_, LineageError>>()?;
        let reaching = self.sample(model, &unnest.input, &moved).await?;
        if reaching.num_rows() == 0 {
            return self.walk(model, &unnest.input, moved).await;
        }
        let asks = held.iter().map(equality).collect();
        Ok(vec![Fate::Lost(Box::new(Lost { asks, ..Self::lost(model, Step::Unnest, reaching) }))])
    }

    async fn special(
        &self,
        model: &'a ModelPlan,
        node: &'a SpecialNode,
        wanted: Wanted,
    ) -> Result<Vec<Fate>, LineageError> {
        let moved = |plan: &LogicalPlan| -> Result<Wanted, LineageError> {
            let by = columns(plan);
            wanted.iter().map(|(e, v)| Ok((substituted(e, &node.schema, &by)?, v.clone()))).collect()
        };
        match (&node.kind, node.inputs.as_slice()) {
            (Special::IntersectAll | Special::ExceptAll, [left, right]) => {
                let (of_left, of_right) = (moved(left)?, moved(right)?);
                let reaching = self.sample(model, left, &of_left).await?;
                if reaching.num_rows() == 0 {
                    return self.walk(model, left, of_left).await;
                }
                let against = self.sample(model, right, &of_right).await?;
                let other = sources_of(right)?;
                let lost = if node.kind == Special::IntersectAll {
                    let because = match against.num_rows() {
                        0 => self.walk(model, right, of_right).await?,
                        _ => Vec::new(),
                    };
                    Lost { other, because, ..Self::lost(model, Step::Intersect, reaching) }
                } else {
                    Lost { other, against: Some(against), ..Self::lost(model, Step::Except, reaching) }
                };
                Ok(vec![Fate::Lost(Box::new(lost))])
            }
            (Special::AsOf(conditions), [left, right]) => {
                let width = left.schema().fields().len();
                let of_left = wanted.iter().filter(|(e, _)| is_within(e, &node.schema, 0..width));
                let by = columns(left);
                let of_left = of_left.map(|(e, v)| Ok((substituted(e, &node.schema, &by)?, v.clone())));
                let of_left: Wanted = of_left.collect::<Result<_, LineageError>>()?;
                let reaching = self.sample(model, left, &of_left).await?;
                if reaching.num_rows() == 0 {
                    return self.walk(model, left, of_left).await;
                }
                let asks = conditions.on.iter().chain([&conditions.nearest]).map(shown).collect();
                let other = sources_of(right)?;
                let lost = Lost { asks, other, ..Self::lost(model, Step::AsOf, reaching) };
                Ok(vec![Fate::Lost(Box::new(lost))])
            }
            (Special::Recursion(_), [start, ..]) => {
                let of_start = moved(start)?;
                let asks = wanted.iter().map(equality).collect();
                let nothing = RecordBatch::new_empty(schema_of(start));
                let because = self.walk(model, start, of_start).await?;
                let lost = Lost { asks, because, ..Self::lost(model, Step::Recursion, nothing) };
                Ok(vec![Fate::Lost(Box::new(lost))])
            }
            _ => {
                let why = "a step of its query is not understood here";
                Ok(vec![Fate::Untraced { model: model.name.clone(), why }])
            }
        }
    }
}

fn sources_of(plan: &LogicalPlan) -> Result<Vec<Relation>, LineageError> {
    Ok(relations_of(plan)?.into_iter().map(|relation| Relation::from(relation.to_string())).collect())
}

/// Whether a constant expression has this value.
fn gives(constant: &Expr, value: &ScalarValue) -> Result<bool, LineageError> {
    let schema = DFSchema::empty();
    let options = arrow::array::RecordBatchOptions::new().with_row_count(Some(1));
    let one = RecordBatch::try_new_with_options(schema.inner().clone(), Vec::new(), &options)?;
    let computed = physical_expression(constant, &schema)?.evaluate(&one)?.into_array(1)?;
    let computed = ScalarValue::try_from_array(&computed, 0)?;
    let same_type = computed.cast_to(&value.data_type());
    Ok(same_type.is_ok_and(|computed| computed == *value || (computed.is_null() && value.is_null())))
}

/// For each row whether the condition holds; where it fails it does not.
fn met(condition: &Expr, schema: &DFSchema, rows: &RecordBatch) -> Result<Vec<bool>, LineageError> {
    let physical = physical_expression(condition, schema)?;
    let one = |row: usize| {
        let value = physical.evaluate(&rows.slice(row, 1)).and_then(|v| v.into_array(1)).ok()?;
        let mask = value.as_boolean_opt()?;
        Some(mask.is_valid(0) && mask.value(0))
    };
    Ok((0..rows.num_rows()).map(|row| one(row).unwrap_or(false)).collect())
}
