//! Columns by position: rebinding of expressions, and projections that compute what nodes above refer to.

use super::floats::{canonical_floats, holds_floats};
use arrow::datatypes::DataType;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DataFusionError, Result};
use datafusion::logical_expr::{BinaryExpr, Expr, ExprSchemable, LogicalPlan, Operator, Projection};
use std::ops::Range;
use std::sync::Arc;

/// The expression over `to`, whose columns are at the same positions as those of `from`, without aliases.
pub(super) fn rebind(expression: &Expr, from: &DFSchema, to: &DFSchema) -> Result<Expr> {
    let columns: Vec<Column> = to.fields().iter().map(|f| Column::new_unqualified(f.name())).collect();
    rebind_to(expression, from, &columns)
}

/// The expression with the columns of `from` replaced by those at the same positions of `columns`.
pub(super) fn rebind_to(expression: &Expr, from: &DFSchema, columns: &[Column]) -> Result<Expr> {
    let plain = expression.clone().unalias_nested().data;
    let bound = plain.transform_up(|e| {
        Ok(match e {
            Expr::Column(column) => {
                let index = from.index_of_column(&column)?;
                let Some(column) = columns.get(index) else {
                    return Err(DataFusionError::Internal(format!("no column in place of {column}")));
                };
                Transformed::yes(Expr::Column(column.clone()))
            }
            other => Transformed::no(other),
        })
    })?;
    Ok(bound.data)
}

/// Column `index` of the plan's output.
pub(super) fn column(plan: &LogicalPlan, index: usize) -> Expr {
    let (qualifier, field) = plan.schema().qualified_field(index);
    Expr::Column(Column::new(qualifier.cloned(), field.name()))
}

/// Names made unique by numbering those that occurred before.
pub(super) fn unique_names<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut unique: Vec<String> = Vec::new();
    for name in names {
        let mut candidate = name.to_owned();
        let mut number = 2;
        while unique.contains(&candidate) {
            candidate = format!("{name}_{number}");
            number += 1;
        }
        unique.push(candidate);
    }
    unique
}

/// Expressions with the names of a schema.
pub(super) fn named(expressions: Vec<Expr>, schema: &DFSchema) -> Vec<(Expr, String)> {
    expressions.into_iter().zip(schema.fields()).map(|(e, f)| (e, f.name().clone())).collect()
}

/// The columns in a range.
pub(super) fn pick(plan: LogicalPlan, range: Range<usize>) -> Result<LogicalPlan> {
    let columns = range.map(|index| (column(&plan, index), plan.schema().field(index).name().clone())).collect();
    project(plan, columns)
}

/// A projection; names are made unique, computed floats canonical, and what changes nothing is left out.
pub(crate) fn project(input: LogicalPlan, columns: Vec<(Expr, String)>) -> Result<LogicalPlan> {
    let names = unique_names(columns.iter().map(|(_, name)| name.as_str()));
    let mut expressions = Vec::with_capacity(columns.len());
    for (expression, _) in columns {
        let plain = matches!(&expression, Expr::Column(_)) || is_canonical_call(&expression);
        let floats = !plain && holds_floats(&expression.get_type(input.schema())?);
        expressions.push(if floats { canonical_floats(expression) } else { expression });
    }
    let same = expressions.len() == input.schema().fields().len()
        && expressions.iter().zip(&names).enumerate().all(|(index, (expression, name))| {
            let (qualifier, field) = input.schema().qualified_field(index);
            qualifier.is_none()
                && field.name() == name
                && matches!(expression, Expr::Column(c) if c.relation.is_none() && c.name == *name)
        });
    if same {
        return Ok(input);
    }
    let (input, expressions) = merged(input, expressions)?;
    let aliased = expressions
        .into_iter()
        .zip(names)
        .map(|(expression, name)| match expression {
            Expr::Column(c) if c.relation.is_none() && c.name == name => Expr::Column(c),
            other => other.alias(name),
        })
        .collect();
    Ok(LogicalPlan::Projection(Projection::try_new(aliased, Arc::new(input))?))
}

/// A projection of columns of a projection is one projection, unless it computes something twice.
fn merged(input: LogicalPlan, expressions: Vec<Expr>) -> Result<(LogicalPlan, Vec<Expr>)> {
    let LogicalPlan::Projection(inner) = &input else {
        return Ok((input, expressions));
    };
    let mut used = vec![0; inner.expr.len()];
    let mut substituted = Vec::with_capacity(expressions.len());
    for expression in &expressions {
        let Expr::Column(c) = expression else {
            return Ok((input, expressions));
        };
        let index = inner.schema.index_of_column(c)?;
        used[index] += 1;
        substituted.push(inner.expr[index].clone().unalias());
    }
    let twice =
        used.iter().zip(&inner.expr).any(|(used, e)| *used > 1 && !matches!(e.clone().unalias(), Expr::Column(_)));
    // A column that is not used may still tell of rows that fail.
    let dropped = used.iter().zip(&inner.expr).any(|(used, e)| *used == 0 && !cannot_fail(e, inner.input.schema()));
    if twice || dropped {
        return Ok((input, expressions));
    }
    Ok((inner.input.as_ref().clone(), substituted))
}

/// The columns of a leaf, without qualifiers, floats canonical.
pub(crate) fn scan_columns(leaf: &LogicalPlan) -> Result<LogicalPlan> {
    let columns = (0..leaf.schema().fields().len())
        .map(|index| {
            let value = column(leaf, index);
            let field = leaf.schema().field(index);
            let value = if holds_floats(field.data_type()) { canonical_floats(value) } else { value };
            (value, field.name().clone())
        })
        .collect();
    project(leaf.clone(), columns)
}

fn is_canonical_call(expression: &Expr) -> bool {
    matches!(expression, Expr::ScalarFunction(call) if call.func.name() == "canonical")
}

/// A projection being made: columns of the input that are passed on, and computed ones.
pub(super) struct Below {
    schema: Arc<DFSchema>,
    columns: Vec<(Expr, String)>,
}

impl Below {
    /// Passes every column on.
    pub fn all(input: &LogicalPlan) -> Self {
        let columns =
            (0..input.schema().fields().len()).map(|i| (column(input, i), input.schema().field(i).name().clone()));
        Self { schema: input.schema().clone(), columns: columns.collect() }
    }

    /// Passes on what is placed.
    pub fn none(input: &LogicalPlan) -> Self {
        Self { schema: input.schema().clone(), columns: Vec::new() }
    }

    /// Type of a literal, or of a column that was placed.
    pub fn type_of(&self, expression: &Expr) -> Result<DataType> {
        if let Expr::Column(column) = expression
            && let Some((placed, _)) = self.columns.iter().find(|(_, name)| *name == column.name)
        {
            return placed.get_type(&self.schema);
        }
        expression.get_type(&self.schema)
    }

    /// Makes the expression a column of the projection, and gives the column.
    pub fn place(&mut self, expression: Expr) -> Result<Expr> {
        let index = self.place_index(expression)?;
        Ok(Expr::Column(Column::new_unqualified(&self.columns[index].1)))
    }

    /// Makes the expression a column of the projection, and gives its position.
    pub fn place_index(&mut self, expression: Expr) -> Result<usize> {
        if let Some(index) = self.columns.iter().position(|(placed, _)| *placed == expression) {
            return Ok(index);
        }
        let wanted = match &expression {
            Expr::Column(column) => column.name.clone(),
            other => format!("{}", other.schema_name()),
        };
        let taken = self.columns.iter().map(|(_, name)| name.as_str()).chain([wanted.as_str()]);
        // The new name is the last.
        let name = unique_names(taken).pop().unwrap_or(wanted);
        self.columns.push((expression, name));
        Ok(self.columns.len() - 1)
    }

    /// The projection.
    pub fn build(self, input: LogicalPlan) -> Result<LogicalPlan> {
        project(input, self.columns)
    }

    /// The projection, with names that do not occur in `other`.
    pub fn build_apart(self, input: LogicalPlan, other: &DFSchema) -> Result<LogicalPlan> {
        let count = other.fields().len();
        let others = other.fields().iter().map(|f| f.name().as_str());
        let names = unique_names(others.chain(self.columns.iter().map(|(_, name)| name.as_str())));
        let columns = self.columns.into_iter().zip(names.into_iter().skip(count)).map(|((e, _), name)| (e, name));
        project(input, columns.collect())
    }
}

/// Whether the expression has a value for every row: comparisons, logic, arithmetic that wraps, casts that widen.
pub(crate) fn cannot_fail(expression: &Expr, schema: &DFSchema) -> bool {
    let wraps = |e: &Expr| {
        e.get_type(schema)
            .is_ok_and(|data_type| data_type.is_integer() || data_type.is_floating() || data_type.is_null())
    };
    let mut safe = true;
    let _ = expression.apply(|e| {
        safe &= match e {
            Expr::Column(_)
            | Expr::Literal(_, _)
            | Expr::Alias(_)
            | Expr::Not(_)
            | Expr::IsNull(_)
            | Expr::IsNotNull(_)
            | Expr::IsTrue(_)
            | Expr::IsFalse(_)
            | Expr::IsUnknown(_)
            | Expr::IsNotTrue(_)
            | Expr::IsNotFalse(_)
            | Expr::IsNotUnknown(_)
            | Expr::Between(_)
            | Expr::InList(_)
            | Expr::Case(_)
            | Expr::TryCast(_) => true,
            Expr::Like(like) => matches!(like.pattern.as_ref(), Expr::Literal(_, _)) && like.escape_char.is_none(),
            Expr::Cast(cast) => cast.expr.get_type(schema).is_ok_and(|from| widens(&from, cast.field.data_type())),
            Expr::BinaryExpr(BinaryExpr { op, left, right }) => match op {
                Operator::Plus | Operator::Minus | Operator::Multiply => wraps(left) && wraps(right),
                op => matches!(
                    op,
                    Operator::Eq
                        | Operator::NotEq
                        | Operator::Lt
                        | Operator::LtEq
                        | Operator::Gt
                        | Operator::GtEq
                        | Operator::IsDistinctFrom
                        | Operator::IsNotDistinctFrom
                        | Operator::And
                        | Operator::Or
                ),
            },
            Expr::ScalarFunction(call) => {
                matches!(call.func.name(), "canonical" | "coalesce" | "lower" | "upper" | "nullif" | "character_length")
            }
            _ => false,
        };
        Ok(datafusion::common::tree_node::TreeNodeRecursion::Continue)
    });
    safe
}

/// Whether every value of a type is one of another.
fn widens(from: &DataType, to: &DataType) -> bool {
    use DataType::{Date32, Float32, Float64, Int8, Int16, Int32, Int64, Null, UInt8, UInt16, UInt32, Utf8};
    match to {
        _ if from == to => true,
        Float64 => from.is_integer() || matches!(from, Float32 | Null),
        Int64 => matches!(from, Int8 | Int16 | Int32 | UInt8 | UInt16 | UInt32 | Null),
        Int32 => matches!(from, Int8 | Int16 | UInt8 | UInt16 | Null),
        Utf8 => matches!(from, Int8 | Int16 | Int32 | Int64 | DataType::Boolean | Date32 | Null),
        _ => matches!(from, Null),
    }
}
