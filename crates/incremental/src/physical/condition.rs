//! Conditions of joins in batch: a pair on which one fails is reported and counts as no pair, as in the graph.

use super::Failures;
use crate::operators::{EngineError, tolerant};
use crate::rewrite::physical_expression;
use arrow::array::{ArrayRef, RecordBatchOptions};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::common::{DFSchema, Result};
use datafusion::logical_expr::{
    ColumnarValue, Expr, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility,
};
use datafusion::physical_expr::PhysicalExpr;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// The condition over the columns of both sides; pairs that fail go to `failures`.
pub(crate) fn tolerant_condition(
    condition: &Expr,
    both: &DFSchema,
    failures: Failures,
) -> std::result::Result<Expr, EngineError> {
    let fields = both.fields().iter().map(|f| Field::new(f.name(), f.data_type().clone(), true)).collect::<Vec<_>>();
    let function = Condition {
        expression: physical_expression(condition, both)?,
        pairs: Arc::new(Schema::new(fields)),
        failures,
        // It leaves something behind, so it must run for each pair once.
        signature: Signature::any(both.fields().len(), Volatility::Volatile),
    };
    Ok(ScalarUDF::from(function).call(both.columns().into_iter().map(Expr::Column).collect()))
}

#[derive(Debug)]
struct Condition {
    expression: Arc<dyn PhysicalExpr>,
    pairs: SchemaRef,
    failures: Failures,
    signature: Signature,
}

impl PartialEq for Condition {
    fn eq(&self, other: &Self) -> bool {
        self.failures.is(&other.failures)
    }
}

impl Eq for Condition {}

impl Hash for Condition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pairs.hash(state);
    }
}

impl ScalarUDFImpl for Condition {
    fn name(&self) -> &str {
        "tolerant"
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let rows = arguments.number_rows;
        let columns = arguments.args.iter().map(|value| value.to_array(rows)).collect::<Result<Vec<ArrayRef>>>()?;
        let options = RecordBatchOptions::new().with_row_count(Some(rows));
        let pairs = RecordBatch::try_new_with_options(self.pairs.clone(), columns, &options)?;
        let (mask, failed) = tolerant::evaluate_filter(&self.expression, &pairs)?;
        self.failures.report(&pairs, failed);
        Ok(ColumnarValue::Array(Arc::new(mask)))
    }
}
