//! Rows of a sub-plan that have given values: what tracing asks at every node.
//!
//! The values become conditions that a plain push-down moves towards the scans, so that a question about one key does not
//! compute every other. The conditions may let too much through (they are made column by column, for the types that SQL
//! compares as bytes do); what comes out is held against the values exactly.

use super::row_set::{RowSet, encoded};
use super::{LineageError, LineageLimits, World, missing};
use crate::batch;
use crate::canonical;
use crate::delta::Relation;
use crate::physical;
use crate::planner::{self, RelationSource};
use arrow::array::{Array, ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::compute::{cast, concat_batches, filter_record_batch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::catalog::TableProvider;
use datafusion::common::{Column, ScalarValue, TableReference};
use datafusion::datasource::MemTable;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, Filter, LogicalPlan, LogicalPlanBuilder, Projection};
use futures::TryStreamExt;
use hashbrown::HashSet;
use std::sync::Arc;

/// Values in one condition at most; beyond it the column sets none.
const LIST_MAX: usize = 2000;

/// Name of rows that are given to a plan.
const GIVEN: &str = "__given";

/// Where rows are looked for.
pub(super) struct Asking<'a> {
    /// Each is looked into; a row is found when one of them has it.
    pub worlds: Vec<&'a dyn World>,
    /// The model whose plan is traced.
    pub reader: &'a Relation,
    pub limits: LineageLimits,
}

/// Column `index` of the plan's output.
pub(super) fn column(plan: &LogicalPlan, index: usize) -> Expr {
    Expr::Column(Column::from(plan.schema().qualified_field(index)))
}

/// All columns of the plan's output.
pub(super) fn columns(plan: &LogicalPlan) -> Vec<Expr> {
    (0..plan.schema().fields().len()).map(|index| column(plan, index)).collect()
}

/// The plan's columns, all nullable, as on every edge of the graph.
pub(super) fn schema_of(plan: &LogicalPlan) -> SchemaRef {
    let fields = plan.schema().fields().iter();
    let fields: Vec<Field> = fields.map(|f| Field::new(f.name(), f.data_type().clone(), true)).collect();
    Arc::new(Schema::new(fields))
}

/// The batch with these columns of it.
pub(super) fn pick(batch: &RecordBatch, columns: std::ops::Range<usize>) -> Result<RecordBatch, LineageError> {
    let schema = Arc::new(batch.schema().project(&columns.clone().collect::<Vec<_>>())?);
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    Ok(RecordBatch::try_new_with_options(schema, batch.columns()[columns].to_vec(), &options)?)
}

/// Each different row once.
pub(super) fn distinct(batch: &RecordBatch) -> Result<RecordBatch, LineageError> {
    let mut set = RowSet::new(batch.schema());
    set.add(batch)?;
    set.distinct()
}

/// All batches as one with the columns of `schema`.
pub(super) fn joined(schema: &SchemaRef, batches: &[RecordBatch]) -> Result<RecordBatch, LineageError> {
    let batches = batches.iter().map(|b| physical::conform(b, schema)).collect::<Result<Vec<_>, _>>()?;
    Ok(concat_batches(schema, &batches)?)
}

/// A plan of rows that [`Asking::run`] is given.
pub(super) fn given(like: &LogicalPlan) -> Result<LogicalPlan, LineageError> {
    scan_of(&Relation::from(GIVEN), schema_of(like))
}

/// A scan of all columns of a relation, without qualifiers.
pub(super) fn scan_of(relation: &Relation, schema: SchemaRef) -> Result<LogicalPlan, LineageError> {
    // As the canonical plan names it: relations in folders have a schema.
    let name = match relation.split_once('.') {
        Some((schema, table)) => TableReference::partial(schema, table),
        None => TableReference::bare(relation.as_ref()),
    };
    let scan = LogicalPlanBuilder::scan(name, Arc::new(RelationSource::new(schema)), None)?.build()?;
    Ok(canonical::unqualified(&scan)?)
}

impl Asking<'_> {
    /// The plan's rows in one world, batch by batch; `stop` ends it. `rows` are what [`given`] stands for.
    pub async fn run(
        &self,
        world: &dyn World,
        plan: &LogicalPlan,
        rows: Option<&RecordBatch>,
        each: &mut (dyn FnMut(RecordBatch) -> Result<bool, LineageError> + Send),
    ) -> Result<(), LineageError> {
        let given = match rows {
            Some(rows) => Some(Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows.clone()]])?)),
            None => None,
        };
        let tables = |relation: &Relation| match &given {
            Some(table) if relation.as_ref() == GIVEN => Some(table.clone() as Arc<dyn TableProvider>),
            _ => world.table(self.reader, relation),
        };
        let schema = schema_of(plan);
        let pushed = planner::push_down_filters(plan.clone());
        let mut stream = batch::stream(&pushed, &tables, world.clock(self.reader), self.limits.batch).await?;
        while let Some(batch) = stream.try_next().await? {
            if batch.num_rows() > 0 && !each(physical::conform(&batch, &schema)?)? {
                break;
            }
        }
        Ok(())
    }

    /// All rows of a plan, in all worlds; not each once.
    pub async fn all(&self, plan: &LogicalPlan, rows: Option<&RecordBatch>) -> Result<RecordBatch, LineageError> {
        let mut found = Vec::new();
        let mut count = 0;
        for world in &self.worlds {
            self.run(*world, plan, rows, &mut |batch| {
                count += batch.num_rows();
                self.bounded(count)?;
                found.push(batch);
                Ok(true)
            })
            .await?;
        }
        joined(&schema_of(plan), &found)
    }

    fn bounded(&self, count: usize) -> Result<(), LineageError> {
        let rows_max = self.limits.rows_max;
        if count > rows_max { Err(LineageError::TooMany { relation: self.reader.clone(), rows_max }) } else { Ok(()) }
    }

    /// Rows of `plan` for which the expressions `on`, together, have one of the combinations in `values`. Each world's rows
    /// as often as they are there, but none that an earlier world had.
    pub async fn select(
        &self,
        plan: &LogicalPlan,
        on: &[Expr],
        values: &[ArrayRef],
    ) -> Result<RecordBatch, LineageError> {
        let schema = schema_of(plan);
        let Some(rows) = values.first().map(|column| column.len()) else {
            return self.all(plan, None).await;
        };
        if rows == 0 {
            return Ok(RecordBatch::new_empty(schema));
        }
        let width = schema.fields().len();
        let (extended, places) = extended(plan, on)?;
        let mut typed = Vec::with_capacity(values.len());
        for (place, value) in places.iter().zip(values) {
            let wanted = extended.schema().field(*place).data_type();
            typed.push(if value.data_type() == wanted { value.clone() } else { cast(value, wanted)? });
        }
        let wanted = encoded(&typed, rows)?;
        let wanted: HashSet<&[u8]> = (0..rows).map(|row| wanted.get(row)).collect();
        let lists = places.iter().zip(&typed);
        let conditions =
            lists.filter_map(|(place, values)| list(column(&extended, *place), values)).collect::<Vec<_>>();
        let narrowed = match conjunction(conditions) {
            Some(condition) => LogicalPlan::Filter(Filter::try_new(condition, Arc::new(extended))?),
            None => extended,
        };
        let (mut found, mut count) = (Vec::new(), 0);
        let mut earlier: Option<RowSet> = None;
        for world in &self.worlds {
            let mut of_world = Vec::new();
            self.run(*world, &narrowed, None, &mut |batch| {
                let on: Vec<ArrayRef> = places.iter().map(|place| batch.column(*place).clone()).collect();
                let bytes = encoded(&on, batch.num_rows())?;
                let mask = (0..batch.num_rows()).map(|row| Some(wanted.contains(bytes.get(row)))).collect();
                let mut rows = pick(&filter_record_batch(&batch, &mask)?, 0..width)?;
                if let Some(earlier) = &earlier {
                    let there = earlier.mask(rows.columns(), rows.num_rows())?;
                    rows = filter_record_batch(&rows, &arrow::compute::not(&there)?)?;
                }
                count += rows.num_rows();
                self.bounded(count)?;
                of_world.push(rows);
                Ok(true)
            })
            .await?;
            if self.worlds.len() > 1 {
                let set = earlier.get_or_insert_with(|| RowSet::new(schema.clone()));
                of_world.iter().try_for_each(|rows| set.add(&physical::conform(rows, &schema)?))?;
            }
            found.extend(of_world);
        }
        joined(&schema, &found)
    }

    /// The rows of a relation that `reader` reads, all columns.
    pub async fn contents(&self, relation: &Relation) -> Result<RecordBatch, LineageError> {
        self.all(&self.scan(relation)?, None).await
    }

    /// Those of them that are in `wanted`, as often as they are there.
    pub async fn contents_with(&self, relation: &Relation, wanted: &RecordBatch) -> Result<RecordBatch, LineageError> {
        let scan = self.scan(relation)?;
        self.select(&scan, &columns(&scan), wanted.columns()).await
    }

    /// A scan of all columns of a relation.
    pub fn scan(&self, relation: &Relation) -> Result<LogicalPlan, LineageError> {
        let table = self.worlds.iter().find_map(|world| world.table(self.reader, relation));
        scan_of(relation, table.ok_or_else(|| missing(relation))?.schema())
    }
}

/// The plan with the expressions beside its columns, and where they are. Columns are where they were.
fn extended(plan: &LogicalPlan, on: &[Expr]) -> Result<(LogicalPlan, Vec<usize>), LineageError> {
    let mut all = columns(plan);
    let mut places = Vec::with_capacity(on.len());
    for expression in on {
        places.push(match expression {
            Expr::Column(column) => plan.schema().index_of_column(column)?,
            other => {
                all.push(other.clone().alias(format!("__why_{}", all.len())));
                all.len() - 1
            }
        });
    }
    if all.len() == plan.schema().fields().len() {
        return Ok((plan.clone(), places));
    }
    Ok((LogicalPlan::Projection(Projection::try_new(all, Arc::new(plan.clone()))?), places))
}

/// That an expression has one of the values; None where the condition would be long, or SQL sees values as equal that are
/// not the same.
pub(super) fn list(expression: Expr, values: &ArrayRef) -> Option<Expr> {
    let plain = values.data_type().is_integer()
        || matches!(
            values.data_type(),
            DataType::Utf8
                | DataType::LargeUtf8
                | DataType::Boolean
                | DataType::Date32
                | DataType::Timestamp(_, _)
                | DataType::Decimal128(_, _)
        );
    if !plain {
        return None;
    }
    let (mut seen, mut items, mut nulls) = (HashSet::new(), Vec::new(), false);
    for row in 0..values.len() {
        if values.is_null(row) {
            nulls = true;
            continue;
        }
        let value = ScalarValue::try_from_array(values, row).ok()?;
        if seen.insert(value.clone()) {
            items.push(Expr::Literal(value, None));
            if items.len() > LIST_MAX {
                return None;
            }
        }
    }
    let null = nulls.then(|| expression.clone().is_null());
    let one_of = match items.len() {
        0 => None,
        1 => items.pop().map(|item| expression.eq(item)),
        _ => Some(expression.in_list(items, false)),
    };
    match (one_of, null) {
        (Some(one_of), Some(null)) => Some(one_of.or(null)),
        (one_of, null) => one_of.or(null),
    }
}
