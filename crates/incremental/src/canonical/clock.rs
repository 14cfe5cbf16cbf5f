//! The clock in plans: `now()` as a parameter, and the instants at which a comparison with it changes.
//!
//! A condition `x > f(now)`, where `f` never decreases, holds exactly while `now` is before the least instant `t`
//! with `f(t) >= x`. Such bounds are computed once a row; then the row comes and goes by comparing two columns with
//! the clock, in both tempos.

use arrow::array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, TimestampMicrosecondArray};
use arrow::compute::cast;
use arrow::compute::kernels::cmp::{gt, gt_eq};
use arrow::datatypes::{DataType, Field, FieldRef, Schema, TimeUnit, TimestampMicrosecondType};
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{Column, DFSchema, Result, ScalarValue};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::Placeholder;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature,
    Volatility,
};
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use std::hash::{Hash, Hasher};
use std::sync::Arc;

/// Name of the parameter that stands for the epoch's clock.
const CLOCK: &str = "$now";
const DAY: i64 = 86_400_000_000;

/// The type of every instant: microseconds without a zone.
pub(crate) fn instant() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, None)
}

/// The clock as an expression.
pub(crate) fn clock() -> Expr {
    let field: FieldRef = Arc::new(Field::new(CLOCK, instant(), false));
    Expr::Placeholder(Placeholder { id: CLOCK.into(), field: Some(field) })
}

/// Whether the expression reads the clock.
pub(crate) fn reads_clock(expression: &Expr) -> bool {
    // The closure never fails.
    expression.exists(|e| Ok(matches!(e, Expr::Placeholder(p) if p.id == CLOCK))).unwrap_or(false)
}

/// Puts the clock in place of `now()` and its kin, everywhere in the plan, subqueries included.
pub(crate) fn bind_functions(plan: LogicalPlan) -> Result<LogicalPlan> {
    let bound = plan.transform_up_with_subqueries(|plan| {
        let names = datafusion::logical_expr::expr_rewriter::NamePreserver::new(&plan);
        plan.map_expressions(|expression| {
            let name = names.save(&expression);
            let bound = expression.transform_up(|e| {
                Ok(match &e {
                    Expr::ScalarFunction(call) if call.args.is_empty() => match call.func.name() {
                        "now" => Transformed::yes(clock()),
                        "current_date" | "today" => Transformed::yes(cast_to(clock(), DataType::Date32)),
                        _ => Transformed::no(e),
                    },
                    _ => Transformed::no(e),
                })
            })?;
            Ok(bound.update_data(|e| name.restore(e)))
        })?
        .map_data(|plan| if plan.expressions().iter().any(reads_clock) { plan.recompute_schema() } else { Ok(plan) })
    })?;
    Ok(bound.data)
}

/// Puts a reading of the clock in the clock's place.
pub(crate) fn at(expression: Expr, now: i64) -> Result<Expr> {
    let literal = Expr::Literal(ScalarValue::TimestampMicrosecond(Some(now), None), None);
    let bound = expression.transform_up(|e| {
        Ok(if matches!(&e, Expr::Placeholder(p) if p.id == CLOCK) {
            Transformed::yes(literal.clone())
        } else {
            Transformed::no(e)
        })
    })?;
    Ok(bound.data)
}

/// The instants between which a condition holds: from `lower` on, before `upper`.
#[derive(Debug, Default)]
pub(crate) struct Bounds {
    pub lower: Option<Expr>,
    pub upper: Option<Expr>,
}

/// The bounds that a comparison with the clock sets; None when it is not of a form that has them.
pub(crate) fn bounds_of(condition: &Expr) -> Result<Option<Bounds>> {
    if let Expr::Between(between) = condition
        && !between.negated
        && !reads_clock(&between.expr)
    {
        let low = binary(&between.expr, Operator::GtEq, &between.low);
        let high = binary(&between.expr, Operator::LtEq, &between.high);
        let (low, high) = (bounds_or_nothing(&low)?, bounds_or_nothing(&high)?);
        return Ok(low.zip(high).and_then(|(low, high)| match (low, high) {
            (Bounds { lower: None, upper }, Bounds { lower, upper: None }) => Some(Bounds { lower, upper }),
            _ => None,
        }));
    }
    bounds_or_nothing(condition)
}

fn bounds_or_nothing(condition: &Expr) -> Result<Option<Bounds>> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else {
        return Ok(None);
    };
    let (value, op, function) = match (reads_clock(left), reads_clock(right)) {
        (false, true) => (left, *op, right),
        (true, false) => match op.swap() {
            Some(op) => (right, op, left),
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    if !never_decreases(function) {
        return Ok(None);
    }
    let least = |strictly| least_instant(value, function, strictly).map(Some);
    Ok(match op {
        Operator::Gt => Some(Bounds { lower: None, upper: least(false)? }),
        Operator::GtEq => Some(Bounds { lower: None, upper: least(true)? }),
        Operator::Lt => Some(Bounds { lower: least(true)?, upper: None }),
        Operator::LtEq => Some(Bounds { lower: least(false)?, upper: None }),
        Operator::Eq => Some(Bounds { lower: least(false)?, upper: least(true)? }),
        _ => None,
    })
}

/// Whether a function of the clock alone is of a form that never decreases.
fn never_decreases(function: &Expr) -> bool {
    match function {
        Expr::Placeholder(_) => true,
        Expr::Cast(cast) => {
            matches!(cast.field.data_type(), DataType::Timestamp(_, _) | DataType::Date32)
                && never_decreases(&cast.expr)
        }
        Expr::BinaryExpr(BinaryExpr { left, op: Operator::Plus | Operator::Minus, right }) => {
            matches!(right.as_ref(), Expr::Literal(_, _)) && never_decreases(left)
        }
        Expr::ScalarFunction(call) if call.func.name() == "date_trunc" => {
            matches!(call.args.as_slice(), [Expr::Literal(_, _), function] if never_decreases(function))
        }
        _ => false,
    }
}

/// The least `t` with `function(t) >= value` (or `>`, strictly); NULL for NULL.
fn least_instant(value: &Expr, function: &Expr, strictly: bool) -> Result<Expr> {
    let input = DFSchema::try_from(Schema::new(vec![Field::new("now", instant(), false)]))?;
    let with_column = function
        .clone()
        .transform_up(|e| {
            Ok(match e {
                Expr::Placeholder(_) => Transformed::yes(Expr::Column(Column::new_unqualified("now"))),
                _ => Transformed::no(e),
            })
        })?
        .data;
    let physical =
        create_physical_expr(&with_column, &input, &ExecutionProps::new(), &PhysicalPlanningContext::default())?;
    let text = format!("{function}");
    let name = if strictly { "first_instant_above" } else { "first_instant_at" };
    let udf = ScalarUDF::from(LeastInstant {
        name: format!("{name}[{text}]"),
        strictly,
        uneven: is_uneven(function),
        function: physical,
        signature: Signature::any(1, Volatility::Immutable),
    });
    Ok(udf.call(vec![value.clone()]))
}

/// Whether the distance between the function and the clock varies: months, instants cut to days.
fn is_uneven(function: &Expr) -> bool {
    let mut found = false;
    // The closure never fails.
    let _ = function.apply(|e| {
        found |= match e {
            Expr::Literal(ScalarValue::IntervalYearMonth(Some(months)), _) => *months != 0,
            Expr::Literal(ScalarValue::IntervalMonthDayNano(Some(interval)), _) => {
                interval.months != 0 || interval.nanoseconds % 1000 != 0
            }
            Expr::Literal(ScalarValue::IntervalDayTime(_) | ScalarValue::Utf8(_), _) => false,
            Expr::Cast(_) | Expr::ScalarFunction(_) => true,
            _ => false,
        };
        Ok(TreeNodeRecursion::Continue)
    });
    found
}

/// The function that computes a bound.
#[derive(Debug)]
struct LeastInstant {
    name: String,
    strictly: bool,
    /// The distance between clock and value is not fixed.
    uneven: bool,
    function: Arc<dyn PhysicalExpr>,
    signature: Signature,
}

impl PartialEq for LeastInstant {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for LeastInstant {}

impl Hash for LeastInstant {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl LeastInstant {
    /// `function` at each of the instants.
    fn at(&self, instants: &[i64]) -> Result<ArrayRef> {
        let schema = Arc::new(Schema::new(vec![Field::new("now", instant(), false)]));
        let column: ArrayRef = Arc::new(TimestampMicrosecondArray::from(instants.to_vec()));
        let batch = RecordBatch::try_new(schema, vec![column])?;
        self.function.evaluate(&batch)?.into_array(instants.len())
    }

    /// For each instant whether the function has reached the value by then.
    fn reached(&self, instants: &[i64], values: &ArrayRef) -> Result<BooleanArray> {
        let at = self.at(instants)?;
        let at = if at.data_type() == values.data_type() { at } else { cast(&at, values.data_type())? };
        Ok(if self.strictly { gt(&at, values)? } else { gt_eq(&at, values)? })
    }
}

impl ScalarUDFImpl for LeastInstant {
    fn name(&self) -> &str {
        &self.name
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> Result<DataType> {
        Ok(instant())
    }

    fn invoke_with_args(&self, arguments: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let values = arguments.args[0].to_array(arguments.number_rows)?;
        let near = cast(&values, &instant())?;
        let near = near.as_primitive::<TimestampMicrosecondType>();
        // How far the function is from the clock at one instant; the distance varies by less than `slack`.
        let distance = cast(&self.at(&[0])?, &instant())?;
        let distance = distance.as_primitive::<TimestampMicrosecondType>().value(0);
        let slack = if self.uneven { 800 * DAY } else { 2 };
        let guess = |value: i64| value.saturating_sub(distance);
        // Below a NULL any number may stand, also one that is no instant.
        let near: Vec<i64> = near.iter().map(|value| guess(value.unwrap_or(0))).collect();
        let mut low: Vec<i64> = near.iter().map(|value| value.saturating_sub(slack)).collect();
        let mut high: Vec<i64> = near.iter().map(|value| value.saturating_add(slack)).collect();
        // Invariant: not reached at `low`, reached at `high`.
        while low.iter().zip(&high).any(|(low, high)| high - low > 1) {
            let middle: Vec<i64> = low.iter().zip(&high).map(|(low, high)| low + (high - low) / 2).collect();
            let reached = self.reached(&middle, &values)?;
            for (row, middle) in middle.into_iter().enumerate() {
                let side = if reached.value(row) { &mut high } else { &mut low };
                side[row] = middle;
            }
        }
        let instants = TimestampMicrosecondArray::new(high.into(), values.logical_nulls());
        Ok(ColumnarValue::Array(Arc::new(instants)))
    }
}

fn binary(left: &Expr, op: Operator, right: &Expr) -> Expr {
    Expr::BinaryExpr(BinaryExpr { left: Box::new(left.clone()), op, right: Box::new(right.clone()) })
}

fn cast_to(expression: Expr, data_type: DataType) -> Expr {
    datafusion::logical_expr::cast(expression, data_type)
}
