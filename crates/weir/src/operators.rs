//! The operators of models as rows: what `weir.operators` answers and `weir explain` draws.

use std::sync::Arc;

use arrow::array::{ArrayRef, Float64Array, Int64Array, StringArray};
use weir_incremental::UnboundedState;
use weir_pipeline::activity::{OperatorActivity, OperatorRates};

/// Columns of `weir.operators`: one row an operator, inputs before those that read them. `seconds` is what rates are
/// told over.
pub fn columns(
    operators: &[OperatorActivity],
    seconds: f64,
    unbounded: &[UnboundedState],
) -> Vec<(&'static str, ArrayRef)> {
    let text = |of: &dyn Fn(&OperatorActivity) -> Option<String>| -> ArrayRef {
        Arc::new(operators.iter().map(of).collect::<StringArray>())
    };
    let count = |of: &dyn Fn(&OperatorActivity) -> u64| -> ArrayRef {
        let value = |operator: &OperatorActivity| i64::try_from(of(operator)).unwrap_or(i64::MAX);
        Arc::new(operators.iter().map(value).collect::<Int64Array>())
    };
    let rate = |of: &dyn Fn(&OperatorRates) -> f64| -> ArrayRef {
        Arc::new(operators.iter().map(|o| o.rates.as_ref().map(of)).collect::<Float64Array>())
    };
    let kept =
        |o: &OperatorActivity| unbounded.iter().find(|state| state.is_of(&o.operator)).map(|state| state.kept.clone());
    let total = operators.iter().map(|o| o.operator.elapsed.as_secs_f64()).collect::<Float64Array>();
    let over = Float64Array::from_iter(operators.iter().map(|o| o.rates.map(|_| seconds)));
    vec![
        ("id", text(&|o| Some(o.operator.id.clone()))),
        ("operator", text(&|o| Some(o.operator.operator.to_owned()))),
        ("detail", text(&|o| Some(o.operator.detail.clone()))),
        ("inputs", text(&|o| Some(o.operator.inputs.join(", ")))),
        ("models", text(&|o| Some(o.operator.models.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", ")))),
        ("rows_in", count(&|o| o.operator.rows_in)),
        ("rows_out", count(&|o| o.operator.rows_out)),
        ("busy_seconds", Arc::new(total)),
        ("state_rows", count(&|o| o.operator.state_rows as u64)),
        ("state_bytes", count(&|o| o.operator.state_bytes as u64)),
        ("rates_over_seconds", Arc::new(over)),
        ("rows_in_per_second", rate(&|r| r.rows_in)),
        ("rows_out_per_second", rate(&|r| r.rows_out)),
        ("busy_share", rate(&|r| r.busy)),
        ("state_rows_per_second", rate(&|r| r.state_rows)),
        ("state_bytes_per_second", rate(&|r| r.state_bytes)),
        ("unbounded", text(&kept)),
    ]
}
