//! What is expected of a row: expressions over its columns with their values.

use super::LineageError;
use super::select::list;
use crate::rewrite::physical_expression;
use arrow::array::{Array, ArrayRef, BooleanArray, RecordBatch};
use arrow::compute::kernels::cmp::not_distinct;
use arrow::datatypes::Schema;
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// Expressions that must have given values, ready to be tried on rows.
#[derive(Debug)]
pub struct Condition {
    parts: Vec<(Arc<dyn PhysicalExpr>, ScalarValue)>,
}

impl Condition {
    /// Over rows of `schema`, whose columns the expressions name without qualifiers.
    ///
    /// # Errors
    /// When an expression is not of such rows.
    pub fn new(wanted: &[(Expr, ScalarValue)], schema: &Schema) -> Result<Self, LineageError> {
        let schema = DFSchema::try_from(schema.clone())?;
        let part = |(e, value): &(Expr, ScalarValue)| Ok((physical_expression(e, &schema)?, value.clone()));
        Ok(Self { parts: wanted.iter().map(part).collect::<Result<_, LineageError>>()? })
    }

    /// For each row whether it has all the values; a row on which an expression fails does not.
    pub fn holds(&self, rows: &RecordBatch) -> Vec<bool> {
        match self.mask(rows) {
            Some(mask) => mask.iter().map(|met| met == Some(true)).collect(),
            None => (0..rows.num_rows())
                .map(|row| self.mask(&rows.slice(row, 1)).is_some_and(|mask| mask.is_valid(0) && mask.value(0)))
                .collect(),
        }
    }

    fn mask(&self, rows: &RecordBatch) -> Option<BooleanArray> {
        let mut all = BooleanArray::from(vec![true; rows.num_rows()]);
        for (expression, value) in &self.parts {
            let computed: ArrayRef = expression.evaluate(rows).ok()?.into_array(rows.num_rows()).ok()?;
            let value = value.cast_to(computed.data_type()).ok()?.to_scalar().ok()?;
            all = arrow::compute::and(&all, &not_distinct(&computed, &value).ok()?).ok()?;
        }
        Some(all)
    }
}

/// A condition on columns, named without qualifiers, that all of the rows meet and few others; None where none is short.
pub fn narrowing(rows: &RecordBatch) -> Option<Expr> {
    let schema = rows.schema();
    let columns = schema.fields().iter().zip(rows.columns());
    conjunction(
        columns.filter_map(|(field, values)| {
            list(Expr::Column(datafusion::common::Column::from_name(field.name())), values)
        }),
    )
}
