//! What acceptance tests share: projects in temporary folders, the running binary, other programs to compare with.

mod http;
mod postgres;
mod process;
mod project;
mod receiver;
mod reference;

pub use http::Connection;
pub use postgres::Postgres;
pub use process::{Running, finish};
pub use project::Project;
pub use receiver::{Mood, Receiver};
pub use reference::{deltalake, duckdb, net, polars, runs};

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::Value;

/// Rows as another program would print them: each a map of column to text, sorted, so that sets can be compared.
pub type Rows = Vec<BTreeMap<String, String>>;

/// Rows from a JSON array of objects. Numbers and strings become text; NULL is `null`.
pub fn rows(array: &Value) -> Rows {
    let array = array.as_array().unwrap_or_else(|| panic!("not an array of rows: {array}"));
    let text = |value: &Value| match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    };
    let row = |row: &Value| {
        let columns = row.as_object().unwrap_or_else(|| panic!("not a row: {row}"));
        columns.iter().map(|(name, value)| (name.clone(), text(value))).collect::<BTreeMap<_, _>>()
    };
    let mut rows: Rows = array.iter().map(row).collect();
    rows.sort();
    rows
}

/// Compares row sets and shows the first few that differ.
#[track_caller]
pub fn assert_same_rows(what: &str, ours: &Rows, theirs: &Rows) {
    let only = |left: &Rows, right: &Rows| {
        let mut rest = right.clone();
        let missing = left.iter().filter(|row| match rest.binary_search(row) {
            Ok(index) => {
                rest.remove(index);
                false
            }
            Err(_) => true,
        });
        missing.take(5).map(|row| format!("{row:?}")).collect::<Vec<_>>().join("\n  ")
    };
    assert!(
        ours == theirs,
        "{what}: {} rows of ours, {} of theirs\nonly ours:\n  {}\nonly theirs:\n  {}",
        ours.len(),
        theirs.len(),
        only(ours, theirs),
        only(theirs, ours)
    );
    assert!(!ours.is_empty(), "{what}: nothing to compare");
}

/// Real input that lies beside the checkout.
pub fn shared(path: &str) -> PathBuf {
    let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data"));
    let found = folder.join(path);
    assert!(found.exists(), "the tests need real input: {} is missing", found.display());
    found
}

/// Numbers from a seed (xorshift64*), so that a failing run can be repeated.
pub struct Seeded(u64);

impl Seeded {
    /// Numbers that `seed` determines.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16) % bound
    }
}
