//! Splits: a relation whose rows others share among them.

use weir_incremental::Relation;

/// A relation and those that its rows go to, each row to exactly one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    /// The relation of all rows.
    pub name: Relation,
    /// Those that share them.
    pub outputs: Vec<Relation>,
}
