//! From the rows that are wanted of a node to those that are wanted of its inputs, down to the scans.
//!
//! What is wanted of a node's inputs, for wanted rows T of the node:
//!
//! | node | of its input |
//! |---|---|
//! | projection | rows that give a row of T |
//! | filter, sort, DISTINCT | T |
//! | GROUP BY | all rows of T's groups |
//! | window | all rows of T's partitions |
//! | LIMIT | T; with OFFSET, or where a row of T is not there, all rows up to the limit |
//! | UNION ALL | the rows of T that the input has |
//! | join | each side of T; for a side that was found missing, what would have matched |
//! | EXISTS, IN | T, and one row that matches for each row of T |
//! | NOT EXISTS, NOT IN | T, and what matches it, which is nothing as long as T is there |
//! | INTERSECT ALL, EXCEPT ALL | the rows of T that the input has, on both sides |
//! | ASOF JOIN | each side of T |
//! | unnest | rows that agree with T in the columns beside |
//! | recursion | everything |
//!
//! T may hold rows that are not there: then what is found is why not. That is asked when the rows that were named gave
//! something else than all rows do (`mending`).

use super::pairs::Side;
use super::row_set::RowSet;
use super::select::{Asking, column, columns, distinct, given, joined, pick, schema_of};
use super::{LineageError, missing};
use crate::canonical::nodes::{AsOf, Special, SpecialNode, special};
use crate::delta::Relation;
use crate::operators::EngineError;
use crate::planner::{ModelPlan, PlanForm};
use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch};
use arrow::compute::filter_record_batch;
use datafusion::common::{JoinType, NullEquality};
use datafusion::logical_expr::{
    Aggregate, BinaryExpr, Distinct, Expr, FetchType, Filter, Join, Limit, LogicalPlan, Projection, SkipType,
    TableScan, Union, Unnest, Window, lit,
};
use std::collections::BTreeMap;

/// What a model's rows were made of.
#[derive(Default)]
pub(super) struct Found {
    /// Rows of the relations that it reads.
    pub rows: Vec<(Relation, RecordBatch)>,
    /// Relations that are named whole, and why.
    pub whole: BTreeMap<Relation, &'static str>,
}

/// An input with the rows that are wanted of it.
type Wanted<'p> = Vec<(&'p LogicalPlan, RecordBatch)>;

/// Traces rows of a model to the relations that it reads.
pub(super) async fn descend(
    asking: &Asking<'_>,
    model: &ModelPlan,
    wanted: RecordBatch,
    mending: bool,
) -> Result<Found, LineageError> {
    let mut descent = Descent { asking, mending, found: Found::default() };
    if model.form == PlanForm::Whole {
        for relation in &model.reads {
            let rows = asking.contents(relation).await?;
            descent.found.rows.push((relation.clone(), rows));
            descent.found.whole.insert(relation.clone(), "its query is run as a whole, and not traced");
        }
        return Ok(descent.found);
    }
    let mut open: Wanted<'_> = vec![(&model.plan, wanted)];
    while let Some((plan, rows)) = open.pop() {
        if rows.num_rows() > 0 {
            open.extend(descent.step(plan, rows).await?);
        }
    }
    Ok(descent.found)
}

struct Descent<'a> {
    asking: &'a Asking<'a>,
    mending: bool,
    found: Found,
}

impl Descent<'_> {
    async fn step<'p>(&mut self, plan: &'p LogicalPlan, wanted: RecordBatch) -> Result<Wanted<'p>, LineageError> {
        match plan {
            LogicalPlan::TableScan(scan) => {
                self.scanned(scan, &wanted).await?;
                Ok(Vec::new())
            }
            LogicalPlan::Values(_) | LogicalPlan::EmptyRelation(_) => Ok(Vec::new()),
            LogicalPlan::Filter(Filter { input, .. }) | LogicalPlan::Distinct(Distinct::All(input)) => {
                Ok(vec![(input, wanted)])
            }
            LogicalPlan::Sort(sort) => Ok(vec![(&sort.input, wanted)]),
            LogicalPlan::Projection(projection) => self.projected(projection, &wanted).await,
            LogicalPlan::Union(union) => self.united(union, &wanted).await,
            LogicalPlan::Aggregate(aggregate) => self.aggregated(aggregate, &wanted).await,
            LogicalPlan::Window(window) => self.windowed(window, &wanted).await,
            LogicalPlan::Limit(limit) => self.limited(limit, wanted).await,
            LogicalPlan::Unnest(unnest) => self.unnested(unnest, &wanted).await,
            LogicalPlan::Join(join) => self.joined(join, &wanted).await,
            other => match special(other) {
                Some(node) => self.special(node, wanted).await,
                None => Err(EngineError::Internal(format!("no lineage of {}", other.display())).into()),
            },
        }
    }

    async fn scanned(&mut self, scan: &TableScan, wanted: &RecordBatch) -> Result<(), LineageError> {
        let relation = Relation::from(scan.table_name.to_string());
        let all = self.asking.scan(&relation)?;
        let names = scan.projected_schema.fields().iter();
        let on = names
            .map(|field| {
                Ok(column(
                    &all,
                    all.schema().index_of_column_by_name(None, field.name()).ok_or_else(|| missing(&relation))?,
                ))
            })
            .collect::<Result<Vec<_>, LineageError>>()?;
        let rows = self.asking.select(&all, &on, wanted.columns()).await?;
        self.found.rows.push((relation, rows));
        Ok(())
    }

    async fn projected<'p>(
        &self,
        projection: &'p Projection,
        wanted: &RecordBatch,
    ) -> Result<Wanted<'p>, LineageError> {
        let on: Vec<Expr> = projection.expr.iter().map(|e| e.clone().unalias()).collect();
        let rows = self.asking.select(&projection.input, &on, wanted.columns()).await?;
        Ok(vec![(&projection.input, distinct(&rows)?)])
    }

    async fn united<'p>(&self, union: &'p Union, wanted: &RecordBatch) -> Result<Wanted<'p>, LineageError> {
        let mut all = Vec::with_capacity(union.inputs.len());
        for input in &union.inputs {
            all.push((input.as_ref(), self.there(input, wanted).await?));
        }
        Ok(all)
    }

    /// The rows that a plan has, each once.
    async fn there(&self, plan: &LogicalPlan, wanted: &RecordBatch) -> Result<RecordBatch, LineageError> {
        distinct(&self.asking.select(plan, &columns(plan), wanted.columns()).await?)
    }

    async fn aggregated<'p>(&self, aggregate: &'p Aggregate, wanted: &RecordBatch) -> Result<Wanted<'p>, LineageError> {
        let groups: Vec<Expr> = aggregate.group_expr.iter().map(|e| e.clone().unalias()).collect();
        let rows = self.asking.select(&aggregate.input, &groups, &wanted.columns()[..groups.len()]).await?;
        Ok(vec![(&aggregate.input, distinct(&rows)?)])
    }

    async fn windowed<'p>(&self, window: &'p Window, wanted: &RecordBatch) -> Result<Wanted<'p>, LineageError> {
        // Rows of all partitions that a row of T is in: by the columns that every function's partitions share.
        let mut shared: Option<Vec<Expr>> = None;
        for call in &window.window_expr {
            let Expr::WindowFunction(call) = call.clone().unalias() else { continue };
            let by = call.params.partition_by;
            shared = Some(match shared {
                None => by,
                Some(before) => before.into_iter().filter(|e| by.contains(e)).collect(),
            });
        }
        let on = shared.unwrap_or_default();
        let schema = window.input.schema();
        let places = on.iter().filter_map(|e| schema.index_of_column(e.try_as_col()?).ok());
        let values: Vec<ArrayRef> = places.map(|place| wanted.column(place).clone()).collect();
        if values.len() < on.len() {
            return Err(EngineError::Internal("a window whose partitions are no columns".into()).into());
        }
        let rows = self.asking.select(&window.input, &on, &values).await?;
        Ok(vec![(&window.input, distinct(&rows)?)])
    }

    async fn limited<'p>(&self, limit: &'p Limit, wanted: RecordBatch) -> Result<Wanted<'p>, LineageError> {
        let (SkipType::Literal(skip), FetchType::Literal(fetch)) = (limit.get_skip_type()?, limit.get_fetch_type()?)
        else {
            return Err(EngineError::Internal("a limit that is no number".into()).into());
        };
        if skip == 0 && !self.mending {
            return Ok(vec![(&limit.input, wanted)]);
        }
        let until = fetch.map_or(skip, |fetch| skip + fetch);
        let first = Limit { skip: None, fetch: Some(Box::new(lit(until as i64))), input: limit.input.clone() };
        let mut rows = self.asking.all(&LogicalPlan::Limit(first), None).await?;
        rows = joined(&schema_of(&limit.input), &[wanted, rows])?;
        Ok(vec![(&limit.input, distinct(&rows)?)])
    }

    async fn unnested<'p>(&self, unnest: &'p Unnest, wanted: &RecordBatch) -> Result<Wanted<'p>, LineageError> {
        let opened = |index: usize| {
            unnest.list_type_columns.iter().any(|(list, _)| *list == index)
                || unnest.struct_type_columns.contains(&index)
        };
        let (mut on, mut values) = (Vec::new(), Vec::new());
        for (output, input) in unnest.dependency_indices.iter().enumerate() {
            if !opened(*input) {
                on.push(column(&unnest.input, *input));
                values.push(wanted.column(output).clone());
            }
        }
        let rows = self.asking.select(&unnest.input, &on, &values).await?;
        Ok(vec![(&unnest.input, distinct(&rows)?)])
    }

    async fn joined<'p>(&self, join: &'p Join, wanted: &RecordBatch) -> Result<Wanted<'p>, LineageError> {
        let left_width = join.left.schema().fields().len();
        let (left, right): (&LogicalPlan, &LogicalPlan) = (&join.left, &join.right);
        let all = 0..wanted.num_columns();
        match join.join_type {
            JoinType::Inner | JoinType::Left | JoinType::Right | JoinType::Full => {
                let of_left = distinct(&pick(wanted, 0..left_width)?)?;
                let of_right = distinct(&pick(wanted, left_width..all.end)?)?;
                let left_may_miss = matches!(join.join_type, JoinType::Right | JoinType::Full);
                let right_may_miss = matches!(join.join_type, JoinType::Left | JoinType::Full);
                let mut open = vec![
                    (left, self.side(join, left, of_left.clone(), left_may_miss).await?),
                    (right, self.side(join, right, of_right.clone(), right_may_miss).await?),
                ];
                if self.mending && right_may_miss {
                    open.push((right, self.asking.matches(join, Side::Left, &of_left).await?.1));
                }
                if self.mending && left_may_miss {
                    open.push((left, self.asking.matches(join, Side::Right, &of_right).await?.0));
                }
                Ok(open)
            }
            JoinType::LeftSemi => {
                Ok(vec![(left, wanted.clone()), (right, self.witnesses(join, Side::Left, wanted).await?)])
            }
            JoinType::RightSemi => {
                Ok(vec![(right, wanted.clone()), (left, self.witnesses(join, Side::Right, wanted).await?)])
            }
            JoinType::LeftAnti => {
                Ok(vec![(left, wanted.clone()), (right, self.blocking(join, Side::Left, wanted).await?)])
            }
            JoinType::RightAnti => {
                Ok(vec![(right, wanted.clone()), (left, self.blocking(join, Side::Right, wanted).await?)])
            }
            JoinType::LeftMark | JoinType::RightMark => {
                let (side, own, other) = if join.join_type == JoinType::LeftMark {
                    (Side::Left, left, right)
                } else {
                    (Side::Right, right, left)
                };
                // The mark is the last column: whether anything matches.
                let marks = wanted.column(all.end - 1).as_boolean().clone();
                let rows = pick(wanted, 0..all.end - 1)?;
                let marked: BooleanArray = marks.iter().map(|mark| Some(mark == Some(true))).collect();
                let with = filter_record_batch(&rows, &marked)?;
                let without = filter_record_batch(&rows, &arrow::compute::not(&marked)?)?;
                Ok(vec![
                    (own, distinct(&rows)?),
                    (other, self.witnesses(join, side, &with).await?),
                    (other, self.blocking(join, side, &without).await?),
                ])
            }
        }
    }

    /// One side's part of joined rows; NULLs may stand for no row where the side may be missing.
    async fn side(
        &self,
        join: &Join,
        plan: &LogicalPlan,
        part: RecordBatch,
        may_miss: bool,
    ) -> Result<RecordBatch, LineageError> {
        if !may_miss {
            return Ok(part);
        }
        let missing = |row: usize| part.columns().iter().all(|column| column.is_null(row));
        let is_row: BooleanArray = (0..part.num_rows()).map(|row| Some(!missing(row))).collect();
        let sure = filter_record_batch(&part, &is_row)?;
        let keys_match_null = join.on.is_empty() || join.null_equality == NullEquality::NullEqualsNull;
        if sure.num_rows() == part.num_rows() || !keys_match_null {
            return Ok(sure);
        }
        self.there(plan, &part).await
    }

    /// For each row one that matches, or all of them where one has proved not to do.
    async fn witnesses(&self, join: &Join, from: Side, rows: &RecordBatch) -> Result<RecordBatch, LineageError> {
        let (left, right) = self.asking.matches(join, from, rows).await?;
        let (own, other) = if from == Side::Left { (left, right) } else { (right, left) };
        if self.mending {
            return distinct(&other);
        }
        let mut met = RowSet::new(own.schema());
        let mut chosen = Vec::with_capacity(own.num_rows());
        for row in 0..own.num_rows() {
            let before = met.len();
            met.add(&own.slice(row, 1))?;
            chosen.push(Some(met.len() > before));
        }
        distinct(&filter_record_batch(&other, &BooleanArray::from(chosen))?)
    }

    /// What keeps rows out of an anti join. As long as all that is wanted is there, there is nothing.
    async fn blocking(&self, join: &Join, from: Side, rows: &RecordBatch) -> Result<RecordBatch, LineageError> {
        let other = if from == Side::Left { &join.right } else { &join.left };
        if !self.mending {
            return Ok(RecordBatch::new_empty(schema_of(other)));
        }
        let (left, right) = self.asking.matches(join, from, rows).await?;
        distinct(if from == Side::Left { &right } else { &left })
    }

    async fn special<'p>(&mut self, node: &'p SpecialNode, wanted: RecordBatch) -> Result<Wanted<'p>, LineageError> {
        match (&node.kind, node.inputs.as_slice()) {
            (Special::IntersectAll | Special::ExceptAll, [left, right]) => {
                let of_right = self.there(right, &wanted).await?;
                Ok(vec![(left, wanted), (right, of_right)])
            }
            (Special::AsOf(conditions), [left, right]) => self.as_of(node, conditions, left, right, &wanted).await,
            (Special::Recursion(_), inputs) => {
                let mut open = Vec::with_capacity(inputs.len());
                for input in inputs {
                    for relation in crate::canonical::relations_of(input)? {
                        let relation = Relation::from(relation.to_string());
                        self.found.whole.insert(relation, "a recursion is not traced: all of its input is named");
                    }
                    open.push((input, distinct(&self.asking.all(input, None).await?)?));
                }
                Ok(open)
            }
            _ => Err(EngineError::Internal(format!("no lineage of {node:?}")).into()),
        }
    }

    async fn as_of<'p>(
        &self,
        node: &'p SpecialNode,
        conditions: &AsOf,
        left: &'p LogicalPlan,
        right: &'p LogicalPlan,
        wanted: &RecordBatch,
    ) -> Result<Wanted<'p>, LineageError> {
        let left_width = left.schema().fields().len();
        let of_left = distinct(&pick(wanted, 0..left_width)?)?;
        let mut of_right = pick(wanted, left_width..wanted.num_columns())?;
        let missing = |row: usize| of_right.columns().iter().all(|column| column.is_null(row));
        let is_row: BooleanArray = (0..of_right.num_rows()).map(|row| Some(!missing(row))).collect();
        of_right = filter_record_batch(&of_right, &is_row)?;
        if self.mending {
            // What the left rows are matched with in each of the worlds.
            let pair = |e: &Expr| match e {
                Expr::BinaryExpr(BinaryExpr { left, right, .. }) => {
                    Some((left.as_ref().clone(), right.as_ref().clone()))
                }
                _ => None,
            };
            let on: Vec<(Expr, Expr)> = conditions.on.iter().filter_map(pair).collect();
            let narrowed =
                self.asking.narrowed(right, NullEquality::NullEqualsNothing, &on, Side::Left, left, &of_left)?;
            let inputs = vec![given(left)?, narrowed];
            let plan = SpecialNode { kind: node.kind.clone(), inputs, schema: node.schema.clone() }.into_plan();
            let matched = self.asking.all(&plan, Some(&of_left)).await?;
            let matched = pick(&matched, left_width..matched.num_columns())?;
            of_right = joined(&schema_of(right), &[of_right, self.there(right, &matched).await?])?;
        }
        Ok(vec![(left, of_left), (right, distinct(&of_right)?)])
    }
}
