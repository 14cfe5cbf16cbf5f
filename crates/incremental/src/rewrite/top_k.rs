//! Plans of which only the first rows in some order matter: LIMIT, and filters on a row number.

use crate::operators::EngineError;
use arrow::compute::SortOptions;
use arrow::datatypes::DataType;
use datafusion::common::{Column, DFSchema, ScalarValue};
use datafusion::logical_expr::expr::Sort as SortKey;
use datafusion::logical_expr::utils::split_conjunction;
use datafusion::logical_expr::{BinaryExpr, Expr, Limit, LogicalPlan, Operator, Window, WindowFunctionDefinition};

/// Columns with how each is sorted.
type Order = Vec<(usize, SortOptions)>;

/// The first rows of each partition of `input`.
pub(crate) struct TopOfEach<'a> {
    /// The window that numbers the rows.
    pub window: &'a LogicalPlan,
    /// What stands below the window's sort.
    pub input: &'a LogicalPlan,
    pub partition: Vec<usize>,
    pub order: Order,
    pub fetch: usize,
    /// Name of the window's column.
    pub number: String,
    /// Whether anybody sees at which place a row is.
    pub places_matter: bool,
}

/// The order and the places of a LIMIT; none when its columns cannot be kept in order as bytes.
pub(super) fn limit_places(limit: &Limit) -> Result<Option<(Order, usize, Option<usize>)>, EngineError> {
    let Some(order) = whole_order(&limit.input)? else {
        return Ok(None);
    };
    let number = |bound: &Option<Box<Expr>>| match bound.as_deref() {
        None => Some(None),
        Some(Expr::Literal(value, _)) => match value {
            ScalarValue::Int64(None) => Some(None),
            ScalarValue::Int64(Some(number)) => usize::try_from(*number).ok().map(Some),
            _ => None,
        },
        Some(_) => None,
    };
    Ok(match (number(&limit.skip), number(&limit.fetch)) {
        (Some(skip), Some(fetch)) => Some((order, skip.unwrap_or(0), fetch)),
        _ => None,
    })
}

/// The plan below a filter when it numbers the rows of partitions and the filter takes the first of each. `above`: all
/// that is computed of what passes the filter; none when everything is.
pub(crate) fn top_of_each<'a>(
    plan: &'a LogicalPlan,
    predicate: &Expr,
    above: Option<&[Expr]>,
) -> Result<Option<TopOfEach<'a>>, EngineError> {
    let (window_plan, projection) = match plan {
        LogicalPlan::Projection(projection) => (projection.input.as_ref(), Some(projection)),
        other => (other, None),
    };
    let LogicalPlan::Window(window) = window_plan else {
        return Ok(None);
    };
    let LogicalPlan::Sort(sort) = window.input.as_ref() else {
        return Ok(None);
    };
    let (Some(partition), Some(order)) = (numbered_partition(window)?, whole_order(&window.input)?) else {
        return Ok(None);
    };
    // The window's column as the filter sees it.
    let width = window.input.schema().fields().len();
    let number = window.schema.field(width).name().clone();
    let visible = match projection {
        None => Column::new_unqualified(&number),
        Some(projection) => {
            let own = Column::new_unqualified(&number);
            let mut uses =
                projection.expr.iter().zip(projection.schema.fields()).filter(|(e, _)| e.column_refs().contains(&own));
            match (uses.next(), uses.next()) {
                (Some((expression, field)), None) if expression.clone().unalias() == Expr::Column(own.clone()) => {
                    Column::new_unqualified(field.name())
                }
                _ => return Ok(None),
            }
        }
    };
    let mut fetch: Option<usize> = None;
    let mut places_matter = above.is_none_or(|all| all.iter().any(|e| e.column_refs().contains(&visible)));
    for condition in split_conjunction(predicate) {
        if !condition.column_refs().contains(&visible) {
            continue;
        }
        match last_place(condition, &visible) {
            Some((last, alone)) => {
                fetch = Some(fetch.map_or(last, |other| other.min(last)));
                places_matter |= alone;
            }
            None => places_matter = true,
        }
    }
    let Some(fetch) = fetch else {
        return Ok(None);
    };
    let places_matter = places_matter && fetch > 1;
    Ok(Some(TopOfEach { window: window_plan, input: &sort.input, partition, order, fetch, number, places_matter }))
}

/// The partition of a window whose only function is `row_number()`.
fn numbered_partition(window: &Window) -> Result<Option<Vec<usize>>, EngineError> {
    let [call] = window.window_expr.as_slice() else {
        return Ok(None);
    };
    let Expr::WindowFunction(call) = call.clone().unalias() else {
        return Ok(None);
    };
    let WindowFunctionDefinition::WindowUDF(function) = &call.fun else {
        return Ok(None);
    };
    if function.name() != "row_number" || call.params.filter.is_some() {
        return Ok(None);
    }
    let mut partition = Vec::with_capacity(call.params.partition_by.len());
    for key in &call.params.partition_by {
        let Expr::Column(column) = key else {
            return Ok(None);
        };
        partition.push(window.input.schema().index_of_column(column)?);
    }
    Ok(Some(partition))
}

/// The sort of a canonical plan, over columns; none when some column cannot be sorted and so does not settle ties.
fn whole_order(sort: &LogicalPlan) -> Result<Option<Order>, EngineError> {
    let LogicalPlan::Sort(sort) = sort else {
        return Ok(None);
    };
    let schema: &DFSchema = sort.input.schema();
    if schema.fields().iter().any(|field| holds_maps(field.data_type())) {
        return Ok(None);
    }
    let mut order = Vec::with_capacity(sort.expr.len());
    for SortKey { expr, asc, nulls_first } in &sort.expr {
        let Expr::Column(column) = expr else {
            return Ok(None);
        };
        order.push((schema.index_of_column(column)?, SortOptions { descending: !asc, nulls_first: *nulls_first }));
    }
    Ok(Some(order))
}

fn holds_maps(data_type: &DataType) -> bool {
    match data_type {
        DataType::Map(_, _) => true,
        DataType::List(field) | DataType::LargeList(field) | DataType::FixedSizeList(field, _) => {
            holds_maps(field.data_type())
        }
        DataType::Struct(fields) => fields.iter().any(|field| holds_maps(field.data_type())),
        _ => false,
    }
}

/// The last place that a condition such as `place <= 10` lets through, and whether it lets none other through; none when it
/// is another kind of condition.
fn last_place(condition: &Expr, place: &Column) -> Option<(usize, bool)> {
    let Expr::BinaryExpr(BinaryExpr { left, op, right }) = condition else {
        return None;
    };
    let (op, value) = match (left.as_ref(), right.as_ref()) {
        (Expr::Column(column), Expr::Literal(value, _)) if column == place => (*op, value),
        (Expr::Literal(value, _), Expr::Column(column)) if column == place => (op.swap()?, value),
        _ => return None,
    };
    let number = match value {
        ScalarValue::UInt64(Some(number)) => usize::try_from(*number).ok()?,
        ScalarValue::Int64(Some(number)) => usize::try_from(*number).ok()?,
        _ => return None,
    };
    match op {
        Operator::LtEq => Some((number, false)),
        Operator::Lt => Some((number.checked_sub(1)?, false)),
        Operator::Eq => Some((number, true)),
        _ => None,
    }
}
