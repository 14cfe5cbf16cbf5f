//! Keys of splits and matchers.

use super::{CHECKS, FileKeys, Kind, Section, key};

/// Settings in comments of `splits/**/*.sql`.
pub static SPLIT: FileKeys = FileKeys {
    file: "splits/**/*.sql",
    doc: "One SELECT a file with a column `output`. `splits/route.sql` is the relation `route`, and beside it one for each \
          value of `output`: `route_card` has the rows with `card`. Each row is in exactly one of them; an epoch where it \
          is not is refused.",
    sections: &[Section {
        name: "",
        doc: "Settings of a split.",
        keys: &[
            key(
                "outputs",
                Kind::TextList,
                None,
                "The values of `output`, where they cannot be read off the SELECT: rows with any other value, or none, are \
                 in `NAME_rest`, and a check tells of them.",
            ),
            key("key", Kind::Columns, None, "Columns that identify a row, in the split and in each of its relations."),
            CHECKS,
            key("description", Kind::Text, None, "For people."),
            key("owner", Kind::Text, None, "For people."),
            key("tags", Kind::TextList, None, "For people."),
        ],
    }],
};

/// How many rows of each side make a match.
pub const MATCHES: &[&str] = &["one to one", "one to many", "many to one", "many to many"];

/// `matchers/*.toml`.
pub static MATCHER: FileKeys = FileKeys {
    file: "matchers/*.toml",
    doc: "One file a matcher: which rows of two relations belong together. `matchers/bank.toml` makes the relations \
          `bank_matched`, `bank_unmatched_left`, `bank_unmatched_right`, `bank_differences` and, with `break_after`, `bank_breaks`.",
    sections: &[
        Section {
            name: "",
            doc: "The two sides.",
            keys: &[
                key("left", Kind::Relation, None, "One relation."),
                key("right", Kind::Relation, None, "The other."),
                key("left_id", Kind::Columns, None, "Columns that identify its rows. Default: the relation's key."),
                key("right_id", Kind::Columns, None, "The same for the other side."),
                key("left_amount", Kind::Expression, None, "What is compared. Default: keys alone make a match."),
                key("right_amount", Kind::Expression, None, "The same for the other side."),
                key("left_time", Kind::Expression, None, "When a row was: for `within` and `break_after`."),
                key("right_time", Kind::Expression, None, "The same for the other side."),
                key(
                    "break_after",
                    Kind::Duration,
                    None,
                    "A row that has no match so long after its time is a break. Default: there are no breaks.",
                ),
                key("ways", Kind::Table, None, "The ways to match, in the order they are tried: `[[ways]]`."),
                key("description", Kind::Text, None, "For people."),
                key("owner", Kind::Text, None, "For people."),
                key("tags", Kind::TextList, None, "For people."),
            ],
        },
        Section {
            name: "ways",
            doc: "One way to match rows that no way before has matched.",
            keys: &[
                key("name", Kind::Text, None, "Its name in the relations. Default: its number."),
                key(
                    "keys",
                    Kind::TextList,
                    None,
                    "What rows must share: a column of both, or `left = right` with an expression for each side.",
                ),
                key(
                    "match",
                    Kind::Choice(MATCHES),
                    Some("\"one to one\""),
                    "How many rows of each side make a match. One to one takes the closest pair first; the others match all \
                     rows of a key, when their sums agree.",
                ),
                key("tolerance", Kind::Text, Some("\"0\""), "How far amounts may be apart, such as `\"0.01\"`."),
                key("within", Kind::Duration, None, "How far times may be apart. Default: any time."),
            ],
        },
    ],
};
