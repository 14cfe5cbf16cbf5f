//! Measures: columns of a source or model whose sums the ledger keeps, as `amount by currency`.

use std::fmt;

/// A sum that is kept of a relation's rows, one for each group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Measure {
    /// The numeric column that is summed.
    pub column: String,
    /// Columns whose values make the groups; none: one sum of all rows.
    pub by: Vec<String>,
}

impl Measure {
    /// Reads `amount` and `amount by currency, country`; None for what is neither.
    pub fn parse(text: &str) -> Option<Self> {
        let (column, by) = match text.split_once(" by ") {
            None => (text, Vec::new()),
            Some((column, by)) => (column, by.split(',').map(|name| name.trim().to_owned()).collect()),
        };
        let column = column.trim().to_owned();
        let is_name = |name: &String| !name.is_empty() && !name.contains(char::is_whitespace);
        (is_name(&column) && by.iter().all(is_name)).then_some(Self { column, by })
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.column)?;
        if self.by.is_empty() { Ok(()) } else { write!(f, " by {}", self.by.join(", ")) }
    }
}

#[cfg(test)]
mod tests {
    use super::Measure;

    #[test]
    fn a_measure_is_a_column_and_its_groups() {
        for (text, shown) in
            [("amount", "amount"), (" amount by currency", "amount by currency"), ("a by b ,c", "a by b, c")]
        {
            assert_eq!(Measure::parse(text).map(|measure| measure.to_string()).as_deref(), Some(shown), "{text}");
        }
        for text in ["", "amount by", "amount by ", "sum of amount", "amount by a b", "amount by a,,b"] {
            assert_eq!(Measure::parse(text), None, "{text}");
        }
    }
}
