//! As-of joins: each left row with the nearest right row in time.

use super::clock::reads_clock;
use super::columns::{Below, column, named, project, rebind};
use super::nodes::{AsOf, Special, SpecialNode};
use super::{Result, canonicalise, refuse, unsupported};
use crate::errors::PlanErrorKind;
use arrow::datatypes::DataType;
use datafusion::common::{DFSchema, JoinType, Result as DataFusionResult, ScalarValue};
use datafusion::logical_expr::utils::split_conjunction_owned;
use datafusion::logical_expr::{
    BinaryExpr, ColumnarValue, Expr, Join, LogicalPlan, Operator, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl,
    Signature, Volatility, binary_expr, lit,
};
use std::sync::{Arc, LazyLock};

/// Name of the function by which [`crate::statement`] marks the condition of MATCH_CONDITION in a plain join.
pub(crate) const MARKER: &str = "__match_condition";

/// The function of that name, which only lives until [`from_join`].
pub(crate) fn marker() -> Arc<ScalarUDF> {
    static FUNCTION: LazyLock<Arc<ScalarUDF>> = LazyLock::new(|| Arc::new(Marker::new().into()));
    FUNCTION.clone()
}

#[derive(Debug, PartialEq, Eq, Hash)]
struct Marker {
    signature: Signature,
}

impl Marker {
    fn new() -> Self {
        Self { signature: Signature::any(1, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for Marker {
    fn name(&self) -> &str {
        MARKER
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, _arguments: &[DataType]) -> DataFusionResult<DataType> {
        Ok(DataType::Boolean)
    }

    fn invoke_with_args(&self, _arguments: ScalarFunctionArgs) -> DataFusionResult<ColumnarValue> {
        Ok(ColumnarValue::Scalar(ScalarValue::Boolean(None)))
    }
}

/// The as-of join that a marked join stands for.
pub(super) fn from_join(join: &Join) -> DataFusionResult<Option<LogicalPlan>> {
    let Some(filter) = &join.filter else {
        return Ok(None);
    };
    let mut nearest = None;
    let mut on: Vec<Expr> = join.on.iter().map(|(l, r)| l.clone().eq(r.clone())).collect();
    for part in split_conjunction_owned(filter.clone()) {
        match part {
            Expr::ScalarFunction(mut call) if call.func.name() == MARKER => nearest = call.args.pop(),
            other => on.push(other),
        }
    }
    let Some(nearest) = nearest else {
        return Ok(None);
    };
    on.retain(|condition| *condition != lit(true));
    let kind = Special::AsOf(AsOf { on, nearest, outer: join.join_type == JoinType::Left });
    let inputs = vec![join.left.as_ref().clone(), join.right.as_ref().clone()];
    Ok(Some(SpecialNode { kind, inputs, schema: join.schema.clone() }.into_plan()))
}

/// An as-of join on columns.
pub(super) fn canonical(
    node: &SpecialNode,
    conditions: &AsOf,
    left: &LogicalPlan,
    right: &LogicalPlan,
) -> Result<LogicalPlan> {
    let sides = Sides { from_left: left.schema(), from_right: right.schema() };
    let left = canonicalise(left)?;
    let right = canonicalise(right)?;
    let (left_width, right_width) = (left.schema().fields().len(), right.schema().fields().len());
    let mut below_left = Below::all(&left);
    let mut below_right = Below::all(&right);
    let mut place = |comparison: &Expr| -> Result<(usize, Operator, usize)> {
        if reads_clock(comparison) {
            return refuse(
                PlanErrorKind::NonDeterministic,
                "now() can only be compared in WHERE, not in the condition of this join",
                "filter the relation in a subquery before joining it",
            );
        }
        let Some((one, operator, other)) = sides.compared(comparison, left.schema(), right.schema()) else {
            return unsupported(
                format!("`{comparison}` does not compare the two sides of ASOF JOIN with each other"),
                "ON takes equalities `a.x = b.y` joined by AND, MATCH_CONDITION one of >=, >, <=, <; filter a side in a subquery",
            );
        };
        Ok((below_left.place_index(one)?, operator, below_right.place_index(other)?))
    };
    let mut on = Vec::with_capacity(conditions.on.len());
    for condition in conditions.on.iter().cloned().flat_map(split_conjunction_owned) {
        match place(&condition)? {
            (one, Operator::Eq, other) => on.push((one, other)),
            _ => {
                return unsupported(
                    format!("`{condition}` in ON of ASOF JOIN is not an equality"),
                    "ON takes equalities only; the one comparison of times goes into MATCH_CONDITION",
                );
            }
        }
    }
    let (earlier, operator, later) = place(&conditions.nearest)?;
    if !matches!(operator, Operator::Gt | Operator::GtEq | Operator::Lt | Operator::LtEq) {
        return unsupported(
            format!("MATCH_CONDITION (`{}`) does not say which row is nearest", conditions.nearest),
            "compare the times of both sides by >=, >, <= or <, the left side first: `a.at >= b.at`",
        );
    }
    let left = below_left.build(left)?;
    let right = below_right.build_apart(right, left.schema())?;
    let compare =
        |one: usize, operator: Operator, other: usize| binary_expr(column(&left, one), operator, column(&right, other));
    let on = on.into_iter().map(|(one, other)| compare(one, Operator::Eq, other)).collect();
    let nearest = compare(earlier, operator, later);
    let fields = left.schema().fields().iter().chain(right.schema().fields());
    let fields = fields.map(|field| field.as_ref().clone().with_nullable(true)).collect();
    let schema = Arc::new(DFSchema::from_unqualified_fields(fields, Default::default())?);
    let all_left = left.schema().fields().len();
    let kind = Special::AsOf(AsOf { on, nearest, outer: conditions.outer });
    let plan = SpecialNode { kind, inputs: vec![left, right], schema }.into_plan();
    let kept = (0..left_width).chain(all_left..all_left + right_width);
    let columns = kept.map(|index| column(&plan, index)).collect();
    Ok(project(plan, named(columns, &node.schema))?)
}

struct Sides<'a> {
    from_left: &'a DFSchema,
    from_right: &'a DFSchema,
}

impl Sides<'_> {
    /// A comparison with the left side first.
    fn compared(&self, comparison: &Expr, left: &DFSchema, right: &DFSchema) -> Option<(Expr, Operator, Expr)> {
        let Expr::BinaryExpr(BinaryExpr { left: one, op, right: other }) = comparison.clone().unalias_nested().data
        else {
            return None;
        };
        let both = |one: &Expr, other: &Expr| {
            Some((rebind(one, self.from_left, left).ok()?, rebind(other, self.from_right, right).ok()?))
        };
        if let Some((one, other)) = both(&one, &other) {
            return Some((one, op, other));
        }
        let (one, other) = both(&other, &one)?;
        Some((one, op.swap()?, other))
    }
}
