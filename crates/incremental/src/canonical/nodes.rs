//! Nodes of plans that DataFusion does not have: set operations that count, as-of joins, recursion.
//!
//! They stand in analysed plans as well as in canonical ones. There is one way to run each, the operator, in both
//! tempos: batch gives it all rows at once.

use datafusion::common::{DFSchemaRef, DataFusionError, Result};
use datafusion::logical_expr::{Expr, Extension, LogicalPlan, UserDefinedLogicalNodeCore};
use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

/// A node of ours.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct SpecialNode {
    pub kind: Special,
    pub inputs: Vec<LogicalPlan>,
    pub schema: DFSchemaRef,
}

/// What a node of ours does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Special {
    /// INTERSECT ALL of two inputs.
    IntersectAll,
    /// EXCEPT ALL of two inputs.
    ExceptAll,
    /// Each left row with the nearest right row.
    AsOf(AsOf),
    /// The rows of the first input, and what follows from them over the further inputs.
    Recursion(Recursion),
}

/// The conditions of an as-of join.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct AsOf {
    /// Equalities; in a canonical plan of a column of the left and one of the right.
    pub on: Vec<Expr>,
    /// `left >= right`, or one of `>`, `<=`, `<`; in a canonical plan of columns.
    pub nearest: Expr,
    /// Whether left rows without a match stay, beside NULLs.
    pub outer: bool,
}

/// The recursive term of a recursion.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Recursion {
    /// The name that the query gives it.
    pub name: String,
    /// What one iteration does: a plan over [`WORK`] and the further inputs ([`input_name`]), with a last column that
    /// says which iteration a row came from.
    pub step: Arc<LogicalPlan>,
    /// UNION rather than UNION ALL.
    pub distinct: bool,
}

/// Name of the rows that an iteration starts from.
pub(crate) const WORK: &str = "__work";

/// Name that the step gives to input `index`, counted from 1: input 0 is what the recursion starts from.
pub(crate) fn input_name(index: usize) -> String {
    format!("__input_{index}")
}

impl SpecialNode {
    /// The node as a plan.
    pub fn into_plan(self) -> LogicalPlan {
        LogicalPlan::Extension(Extension { node: Arc::new(self) })
    }
}

/// The plan's root as a node of ours.
pub(crate) fn special(plan: &LogicalPlan) -> Option<&SpecialNode> {
    match plan {
        LogicalPlan::Extension(extension) => extension.node.as_any().downcast_ref(),
        _ => None,
    }
}

impl PartialOrd for SpecialNode {
    fn partial_cmp(&self, _other: &Self) -> Option<Ordering> {
        None
    }
}

impl UserDefinedLogicalNodeCore for SpecialNode {
    fn name(&self) -> &str {
        match self.kind {
            Special::IntersectAll => "IntersectAll",
            Special::ExceptAll => "ExceptAll",
            Special::AsOf(_) => "AsOfJoin",
            Special::Recursion(_) => "Recursion",
        }
    }

    fn inputs(&self) -> Vec<&LogicalPlan> {
        self.inputs.iter().collect()
    }

    fn schema(&self) -> &DFSchemaRef {
        &self.schema
    }

    fn expressions(&self) -> Vec<Expr> {
        match &self.kind {
            Special::AsOf(AsOf { on, nearest, .. }) => on.iter().chain([nearest]).cloned().collect(),
            _ => Vec::new(),
        }
    }

    fn fmt_for_explain(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(UserDefinedLogicalNodeCore::name(self))?;
        match &self.kind {
            Special::AsOf(AsOf { on, nearest, outer }) => {
                write!(f, ": {}{nearest}", if *outer { "LEFT " } else { "" })?;
                on.iter().try_for_each(|equal| write!(f, ", {equal}"))
            }
            Special::Recursion(Recursion { name, distinct, .. }) => {
                write!(f, ": {name}, {}", if *distinct { "UNION" } else { "UNION ALL" })
            }
            _ => Ok(()),
        }
    }

    fn with_exprs_and_inputs(&self, mut expressions: Vec<Expr>, inputs: Vec<LogicalPlan>) -> Result<Self> {
        let mut kind = self.kind.clone();
        if let Special::AsOf(asof) = &mut kind {
            let nearest = expressions.pop();
            asof.nearest = nearest.ok_or_else(|| DataFusionError::Internal("an as-of join without order".into()))?;
            asof.on = expressions;
        }
        Ok(Self { kind, inputs, schema: self.schema.clone() })
    }
}
