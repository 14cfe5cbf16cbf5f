//! Evaluation of expressions that survives failing rows: a row errs iff evaluating it alone errs.
//!
//! A batch that fails is bisected down to single rows, so that one poisoned row costs a logarithm. Both tempos use
//! this code, therefore they agree on which rows fail and with which message.

use crate::arrangement::canonical_floats;
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch, RecordBatchOptions, new_empty_array};
use arrow::compute::{concat, prep_null_mask_filter};
use arrow::datatypes::SchemaRef;
use arrow::error::ArrowError;
use datafusion::error::DataFusionError;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr_common::physical_expr::fmt_sql;
use std::sync::Arc;

/// A row that could not be evaluated.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Which row of the batch.
    pub row: usize,
    /// The expression that failed, as SQL.
    pub expression: String,
    /// What went wrong.
    pub message: String,
}

/// The outcome of [`evaluate`].
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// One column an expression, over the rows that did not fail, in their order.
    pub columns: Vec<ArrayRef>,
    /// The rows that failed, ascending.
    pub failures: Vec<Failure>,
}

impl Evaluated {
    /// For each of the `rows` of the batch, whether it was evaluated; `None` when all were.
    pub fn kept(&self, rows: usize) -> Option<BooleanArray> {
        if self.failures.is_empty() {
            return None;
        }
        let mut kept = vec![true; rows];
        for failure in &self.failures {
            kept[failure.row] = false;
        }
        Some(BooleanArray::from(kept))
    }
}

/// Evaluates `expressions` over `batch`, setting failing rows aside. The error is for failures that are not a row's:
/// it cannot happen unless an expression does not fit the batch's schema.
pub fn evaluate(expressions: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Evaluated, DataFusionError> {
    if batch.num_rows() == 0 {
        let schema = batch.schema();
        let columns = expressions
            .iter()
            .map(|e| Ok(new_empty_array(&e.data_type(&schema)?)))
            .collect::<Result<_, DataFusionError>>()?;
        return Ok(Evaluated { columns, failures: Vec::new() });
    }
    if let Ok(columns) = evaluate_all(expressions, batch) {
        return Ok(Evaluated { columns, failures: Vec::new() });
    }
    let mut parts: Vec<Vec<ArrayRef>> = Vec::new();
    let mut failures = Vec::new();
    bisect(expressions, batch, 0, &mut parts, &mut failures);
    let mut columns = Vec::with_capacity(expressions.len());
    for (index, expression) in expressions.iter().enumerate() {
        let pieces: Vec<_> = parts.iter().map(|p| p[index].as_ref()).collect();
        columns.push(match pieces.as_slice() {
            [] => new_empty_array(&expression.data_type(batch.schema_ref())?),
            pieces => concat(pieces)?,
        });
    }
    Ok(Evaluated { columns, failures })
}

/// Evaluates a condition over `batch`: for each row whether it holds (false for NULL and for rows that failed).
pub fn evaluate_filter(
    condition: &Arc<dyn PhysicalExpr>,
    batch: &RecordBatch,
) -> Result<(BooleanArray, Vec<Failure>), DataFusionError> {
    let evaluated = evaluate(std::slice::from_ref(condition), batch)?;
    let passed = as_condition(&evaluated.columns[0])?;
    let Some(kept) = evaluated.kept(batch.num_rows()) else {
        return Ok((passed, evaluated.failures));
    };
    let mut values = passed.iter();
    let mask: BooleanArray =
        kept.values().iter().map(|kept| Some(kept && values.next().flatten().unwrap_or(false))).collect();
    Ok((mask, evaluated.failures))
}

/// A batch of `columns` with `rows` rows, which also works for no columns.
pub fn batch_of(schema: SchemaRef, columns: Vec<ArrayRef>, rows: usize) -> Result<RecordBatch, ArrowError> {
    let options = RecordBatchOptions::new().with_row_count(Some(rows));
    RecordBatch::try_new_with_options(schema, columns, &options)
}

fn as_condition(column: &ArrayRef) -> Result<BooleanArray, DataFusionError> {
    let values = column
        .as_any()
        .downcast_ref::<BooleanArray>()
        .ok_or_else(|| DataFusionError::Internal(format!("a condition is {}, not BOOLEAN", column.data_type())))?;
    if values.null_count() == 0 {
        return Ok(values.clone());
    }
    Ok(prep_null_mask_filter(values))
}

fn evaluate_all(expressions: &[Arc<dyn PhysicalExpr>], batch: &RecordBatch) -> Result<Vec<ArrayRef>, DataFusionError> {
    expressions.iter().map(|expression| evaluate_one(expression, batch)).collect()
}

/// Floats are made canonical here, in both tempos, so that no later expression can tell equal floats apart.
fn evaluate_one(expression: &Arc<dyn PhysicalExpr>, batch: &RecordBatch) -> Result<ArrayRef, DataFusionError> {
    let column = expression.evaluate(batch)?.into_array(batch.num_rows())?;
    Ok(canonical_floats(&column)?)
}

/// `batch` is known to fail or has a single row; `offset` is its place in the whole.
fn bisect(
    expressions: &[Arc<dyn PhysicalExpr>],
    batch: &RecordBatch,
    offset: usize,
    parts: &mut Vec<Vec<ArrayRef>>,
    failures: &mut Vec<Failure>,
) {
    let rows = batch.num_rows();
    if rows == 1 {
        let mut columns = Vec::with_capacity(expressions.len());
        for expression in expressions {
            match evaluate_one(expression, batch) {
                Ok(column) => columns.push(column),
                Err(error) => {
                    failures.push(Failure {
                        row: offset,
                        expression: fmt_sql(expression.as_ref()).to_string(),
                        message: error.strip_backtrace(),
                    });
                    return;
                }
            }
        }
        parts.push(columns);
        return;
    }
    let middle = rows / 2;
    for (start, len) in [(0, middle), (middle, rows - middle)] {
        let half = batch.slice(start, len);
        match evaluate_all(expressions, &half) {
            Ok(columns) => parts.push(columns),
            Err(_) => bisect(expressions, &half, offset + start, parts, failures),
        }
    }
}
