//! INTERSECT ALL and EXCEPT ALL: rows count as often as they occur.

use super::columns::{column, project};
use super::nodes::{Special, SpecialNode};
use super::{Result, canonicalise};
use datafusion::common::{DFSchema, JoinType, NullEquality, Result as DataFusionResult, plan_err};
use datafusion::logical_expr::type_coercion::binary::type_union_resolution;
use datafusion::logical_expr::{Expr, ExprSchemable, Join, LogicalPlan, Projection, cast};
use std::sync::Arc;

/// The set operation that a join of DataFusion's planner stands for.
///
/// It plans INTERSECT and EXCEPT as semi and anti joins of all columns that see NULLs as equal, which no join that is
/// written as one is at this stage. Without ALL the left side is distinct first, and then the join is right.
pub(super) fn from_join(join: &Join) -> DataFusionResult<Option<LogicalPlan>> {
    let kind = match join.join_type {
        JoinType::LeftSemi => Special::IntersectAll,
        JoinType::LeftAnti => Special::ExceptAll,
        _ => return Ok(None),
    };
    let counts = join.null_equality == NullEquality::NullEqualsNull
        && join.filter.is_none()
        && !matches!(join.left.as_ref(), LogicalPlan::Distinct(_));
    if !counts {
        return Ok(None);
    }
    let (left, right) = (join.left.schema(), join.right.schema());
    let mut types = Vec::with_capacity(left.fields().len());
    for (one, other) in left.fields().iter().zip(right.fields()) {
        let Some(common) = type_union_resolution(&[one.data_type().clone(), other.data_type().clone()]) else {
            return plan_err!(
                "column `{}` is {} on one side and {} on the other",
                one.name(),
                one.data_type(),
                other.data_type()
            );
        };
        types.push(common);
    }
    let cast_all = |side: &Arc<LogicalPlan>| -> DataFusionResult<LogicalPlan> {
        let fits = |(field, wanted): (&Arc<arrow::datatypes::Field>, _)| field.data_type() == wanted;
        if side.schema().fields().iter().zip(&types).all(fits) {
            return Ok(side.as_ref().clone());
        }
        let columns = side.schema().iter().zip(&types).map(|((qualifier, field), wanted)| {
            let value = Expr::Column((qualifier, field).into());
            let cast = if value.get_type(side.schema())? == *wanted { value } else { cast(value, wanted.clone()) };
            Ok(cast.alias_qualified(qualifier.cloned(), field.name()))
        });
        let columns = columns.collect::<DataFusionResult<Vec<_>>>()?;
        Ok(LogicalPlan::Projection(Projection::try_new(columns, side.clone())?))
    };
    let inputs = vec![cast_all(&join.left)?, cast_all(&join.right)?];
    let schema = inputs[0].schema().clone();
    // DataFusion looks for the columns of a subquery in a node of its own.
    let columns = schema.columns().into_iter().map(Expr::Column).collect();
    let plan = SpecialNode { kind, inputs, schema }.into_plan();
    Ok(Some(LogicalPlan::Projection(Projection::try_new(columns, Arc::new(plan))?)))
}

/// Both sides with the names of the left.
pub(super) fn canonical(node: &SpecialNode, left: &LogicalPlan, right: &LogicalPlan) -> Result<LogicalPlan> {
    let left = canonicalise(left)?;
    let right = canonicalise(right)?;
    let names = left.schema().fields().iter().enumerate();
    let columns = names.map(|(index, field)| (column(&right, index), field.name().clone())).collect();
    let right = project(right, columns)?;
    let fields = left.schema().fields().iter().map(|field| field.as_ref().clone().with_nullable(true));
    let schema = DFSchema::from_unqualified_fields(fields.collect(), Default::default())?;
    let plan = SpecialNode { kind: node.kind.clone(), inputs: vec![left, right], schema: Arc::new(schema) }.into_plan();
    let columns = (0..node.schema.fields().len()).map(|index| column(&plan, index)).collect();
    Ok(project(plan, super::columns::named(columns, &node.schema))?)
}
