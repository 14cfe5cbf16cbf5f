//! Filter and projection: linear, without state.

use super::{EngineError, Operator, RowError, StepContext, tolerant};
use crate::delta::Delta;
use arrow::array::BooleanArray;
use arrow::datatypes::{Field, Schema, SchemaRef};
use datafusion::physical_expr::PhysicalExpr;
use std::sync::Arc;

/// Keeps the rows for which `filter` holds and computes the projection of them.
///
/// A row for which an expression fails becomes a [`RowError`] and leaves the output. The filter comes first, so that
/// it can guard the projection.
pub struct Map {
    filter: Option<Arc<dyn PhysicalExpr>>,
    expressions: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
}

impl Map {
    /// A map over rows of `input`; each of `projection` is an expression and the name of its output column.
    pub fn new(
        input: SchemaRef,
        filter: Option<Arc<dyn PhysicalExpr>>,
        projection: Vec<(Arc<dyn PhysicalExpr>, String)>,
    ) -> Result<Self, EngineError> {
        let mut fields = Vec::with_capacity(projection.len());
        let mut expressions = Vec::with_capacity(projection.len());
        for (expression, name) in projection {
            let data_type = expression.data_type(&input)?;
            fields.push(Field::new(name, data_type, expression.nullable(&input)?));
            expressions.push(expression);
        }
        Ok(Self { filter, expressions, schema: Arc::new(Schema::new(fields)) })
    }

    /// Only filters.
    pub fn filter(input: SchemaRef, filter: Arc<dyn PhysicalExpr>) -> Result<Self, EngineError> {
        let columns = input.fields().iter().enumerate().map(|(index, field)| {
            let column = datafusion::physical_expr::expressions::Column::new(field.name(), index);
            (Arc::new(column) as Arc<dyn PhysicalExpr>, field.name().clone())
        });
        let mut map = Self::new(input.clone(), Some(filter), columns.collect())?;
        map.schema = input;
        Ok(map)
    }

    /// The same with another output schema, which must have the same column types (names, nullability and metadata
    /// may differ).
    pub fn with_schema(mut self, schema: SchemaRef) -> Self {
        self.schema = schema;
        self
    }
}

impl Operator for Map {
    fn name(&self) -> &'static str {
        "map"
    }

    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn step(&mut self, inputs: &[&Delta], context: &mut StepContext<'_>) -> Result<Delta, EngineError> {
        let mut input = inputs[0].clone();
        if input.is_empty() {
            return Ok(Delta::empty(self.schema.clone()));
        }
        if let Some(filter) = &self.filter {
            let (mask, failures) = tolerant::evaluate_filter(filter, &input.rows)?;
            report(&input, failures, context);
            if !all_true(&mask) {
                input = input.filter(&mask)?;
            }
        }
        let evaluated = tolerant::evaluate(&self.expressions, &input.rows)?;
        let kept = evaluated.kept(input.len());
        report(&input, evaluated.failures, context);
        let weights = match &kept {
            None => input.weights.clone(),
            Some(kept) => input.filter(kept)?.weights,
        };
        let rows = tolerant::batch_of(self.schema.clone(), evaluated.columns, weights.len())?;
        Ok(Delta::new(rows, weights))
    }
}

fn all_true(mask: &BooleanArray) -> bool {
    mask.true_count() == mask.len()
}

/// Turns failures over rows of `input` into row errors.
pub(super) fn report(input: &Delta, failures: Vec<tolerant::Failure>, context: &mut StepContext<'_>) {
    context.errors.extend(failures.into_iter().map(|failure| RowError {
        expression: failure.expression,
        message: failure.message,
        row: input.rows.slice(failure.row, 1),
        weight: input.weights.value(failure.row),
    }));
}
