//! Queries as trees: each node is a derived table whose columns have names of their own in the whole query.

use std::fmt::Write;

/// Types that the generator tells apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// BIGINT and INT.
    Int,
    /// TEXT.
    Text,
    /// DOUBLE.
    Float,
    /// DECIMAL.
    Decimal,
    /// TIMESTAMP.
    Instant,
    /// DATE.
    Date,
    /// BOOLEAN.
    Bool,
    /// A list of TEXT.
    Texts,
    /// What nothing but the output is made of.
    Other,
}

/// A column: its name and type.
pub type Column = (String, Type);

/// A query.
#[derive(Debug, Clone)]
pub enum Query {
    /// Columns of a relation under new names.
    Table { relation: &'static str, columns: Vec<(&'static str, Column)> },
    /// Rows for which all conditions hold.
    Filter { input: Box<Query>, conditions: Vec<String> },
    /// Expressions over the input.
    Project { input: Box<Query>, columns: Vec<(String, Column)> },
    /// SELECT DISTINCT.
    Distinct(Box<Query>),
    /// A join; `kind` is the words before ON, such as `LEFT JOIN`.
    Join { kind: &'static str, left: Box<Query>, right: Box<Query>, on: Vec<String> },
    /// ASOF JOIN.
    AsOf { outer: bool, left: Box<Query>, right: Box<Query>, nearest: String, on: Vec<String> },
    /// EXISTS, IN and their negations: `test` is written before the subquery.
    Semi { input: Box<Query>, test: String, subquery: Box<Query>, selected: String, conditions: Vec<String> },
    /// GROUP BY.
    Aggregate { input: Box<Query>, groups: Vec<(String, Column)>, sets: &'static str, calls: Vec<(String, Column)> },
    /// The input's columns and window functions.
    Window { input: Box<Query>, calls: Vec<(String, Column)> },
    /// A set operation; the columns are those of the left.
    Set { operation: &'static str, left: Box<Query>, right: Box<Query> },
    /// ORDER BY and LIMIT.
    Limit { input: Box<Query>, order: Vec<String>, rows: u64, skip: u64 },
    /// A row for each item of a list.
    Unnest { input: Box<Query>, list: String, item: Column },
    /// What is reached from the numbers of `start` by edges from one number to another.
    Reach { start: Box<Query>, from: String, edges: Box<Query>, source: String, target: String, node: Column },
}

impl Query {
    /// The columns of the output.
    pub fn columns(&self) -> Vec<Column> {
        let plain = |columns: &[(String, Column)]| columns.iter().map(|(_, c)| c.clone()).collect::<Vec<_>>();
        match self {
            Self::Table { columns, .. } => columns.iter().map(|(_, c)| c.clone()).collect(),
            Self::Project { columns, .. } => plain(columns),
            Self::Filter { input, .. }
            | Self::Distinct(input)
            | Self::Limit { input, .. }
            | Self::Semi { input, .. } => input.columns(),
            Self::Join { left, right, .. } | Self::AsOf { left, right, .. } => {
                left.columns().into_iter().chain(right.columns()).collect()
            }
            Self::Aggregate { groups, calls, .. } => plain(groups).into_iter().chain(plain(calls)).collect(),
            Self::Window { input, calls } => input.columns().into_iter().chain(plain(calls)).collect(),
            Self::Set { left, .. } => left.columns(),
            Self::Unnest { input, item, .. } => input.columns().into_iter().chain([item.clone()]).collect(),
            Self::Reach { node, .. } => vec![node.clone()],
        }
    }

    /// The text.
    pub fn sql(&self) -> String {
        let list = |columns: &[(String, Column)]| {
            columns.iter().map(|(e, (name, _))| format!("{e} AS {name}")).collect::<Vec<_>>().join(", ")
        };
        let names = |query: &Query| query.columns().into_iter().map(|(name, _)| name).collect::<Vec<_>>().join(", ");
        match self {
            Self::Table { relation, columns } => {
                let columns: Vec<String> = columns.iter().map(|(own, (name, _))| format!("{own} AS {name}")).collect();
                format!("SELECT {} FROM {relation}", columns.join(", "))
            }
            Self::Filter { input, conditions } => {
                format!("SELECT {} FROM ({}) AS t{}", names(input), input.sql(), clause(" WHERE ", conditions))
            }
            Self::Project { input, columns } => format!("SELECT {} FROM ({}) AS t", list(columns), input.sql()),
            Self::Distinct(input) => format!("SELECT DISTINCT {} FROM ({}) AS t", names(input), input.sql()),
            Self::Join { kind, left, right, on } => {
                let on = if kind.starts_with("CROSS") { String::new() } else { clause(" ON ", on) };
                format!("SELECT {} FROM ({}) AS l {kind} ({}) AS r{on}", names(self), left.sql(), right.sql())
            }
            Self::AsOf { outer, left, right, nearest, on } => format!(
                "SELECT {} FROM ({}) AS l ASOF {}JOIN ({}) AS r MATCH_CONDITION ({nearest}){}",
                names(self),
                left.sql(),
                if *outer { "LEFT " } else { "" },
                right.sql(),
                if on.is_empty() { String::new() } else { clause(" ON ", on) },
            ),
            Self::Semi { input, test, subquery, selected, conditions } => format!(
                "SELECT {} FROM ({}) AS t WHERE {test} (SELECT {selected} FROM ({}) AS s{})",
                names(input),
                input.sql(),
                subquery.sql(),
                if conditions.is_empty() { String::new() } else { clause(" WHERE ", conditions) },
            ),
            Self::Aggregate { input, groups, sets, calls } => {
                let mut text = String::from("SELECT ");
                text.push_str(
                    &[list(groups), list(calls)].into_iter().filter(|p| !p.is_empty()).collect::<Vec<_>>().join(", "),
                );
                let _ = write!(text, " FROM ({}) AS t", input.sql());
                if !groups.is_empty() {
                    let keys: Vec<&str> = groups.iter().map(|(e, _)| e.as_str()).collect();
                    let keys = keys.join(", ");
                    let _ = if sets.is_empty() {
                        write!(text, " GROUP BY {keys}")
                    } else {
                        write!(text, " GROUP BY {sets} ({keys})")
                    };
                }
                text
            }
            Self::Window { input, calls } => {
                format!("SELECT {}, {} FROM ({}) AS t", names(input), list(calls), input.sql())
            }
            Self::Set { operation, left, right } => {
                format!("SELECT * FROM (({}) {operation} ({})) AS t", left.sql(), right.sql())
            }
            Self::Limit { input, order, rows, skip } => format!(
                "SELECT {} FROM ({}) AS t{} LIMIT {rows} OFFSET {skip}",
                names(input),
                input.sql(),
                if order.is_empty() { String::new() } else { format!(" ORDER BY {}", order.join(", ")) },
            ),
            Self::Unnest { input, list, item } => {
                format!("SELECT {}, unnest({list}) AS {} FROM ({}) AS t", names(input), item.0, input.sql())
            }
            Self::Reach { start, from, edges, source, target, node } => {
                let name = &node.0;
                format!(
                    "WITH RECURSIVE reach AS (SELECT {from} AS {name} FROM ({}) AS s UNION SELECT e.{target} AS {name} FROM reach JOIN ({}) AS e ON e.{source} = reach.{name}) SELECT {name} FROM reach",
                    start.sql(),
                    edges.sql(),
                )
            }
        }
    }

    /// The queries right below.
    pub fn inputs(&self) -> Vec<Query> {
        self.clone().inputs_mut().into_iter().map(|input| input.clone()).collect()
    }

    /// The same, to change.
    pub fn inputs_mut(&mut self) -> Vec<&mut Query> {
        match self {
            Self::Table { .. } => Vec::new(),
            Self::Filter { input, .. }
            | Self::Project { input, .. }
            | Self::Distinct(input)
            | Self::Aggregate { input, .. }
            | Self::Window { input, .. }
            | Self::Limit { input, .. }
            | Self::Unnest { input, .. } => vec![input],
            Self::Join { left, right, .. } | Self::AsOf { left, right, .. } | Self::Set { left, right, .. } => {
                vec![left, right]
            }
            Self::Semi { input, subquery, .. } => vec![input, subquery],
            Self::Reach { start, edges, .. } => vec![start, edges],
        }
    }
}

fn clause(word: &str, conditions: &[String]) -> String {
    let all = if conditions.is_empty() { "true".to_owned() } else { conditions.join(" AND ") };
    format!("{word}{all}")
}
