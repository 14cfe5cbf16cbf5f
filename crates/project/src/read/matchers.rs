//! `matchers/*.toml`: which rows of two relations belong together, as the models that tell.

use std::time::Duration;

use crate::document::{self, Value};
use crate::fields::{Fields, Layer, Spanned, wrong_type};
use crate::keys;
use crate::mistake::{FileText, Mistake};

use super::folder::NamedFile;

/// The ages of breaks, in days: from, and to where there is an end.
const AGES: [(&str, u32, Option<u32>); 4] = [
    ("under 1 day", 0, Some(1)),
    ("1 to 7 days", 1, Some(7)),
    ("7 to 30 days", 7, Some(30)),
    ("over 30 days", 30, None),
];

/// One side of a matcher.
struct Side {
    /// `left` or `right`.
    name: &'static str,
    relation: String,
    id: Vec<String>,
    amount: Option<String>,
    time: Option<String>,
}

struct Way {
    name: String,
    /// An expression of each side.
    keys: Vec<(String, String)>,
    mode: String,
    tolerance: String,
    within: Option<Duration>,
}

struct Matcher {
    name: String,
    left: Side,
    right: Side,
    ways: Vec<Way>,
    break_after: Option<Duration>,
}

/// The models that matchers stand for. `key_of` knows the declared keys of relations.
pub(crate) fn read_matchers(
    files: &[NamedFile],
    key_of: &dyn Fn(&str) -> Vec<String>,
    mistakes: &mut Vec<Mistake>,
) -> Vec<NamedFile> {
    let mut models = Vec::new();
    for file in files {
        let before = mistakes.len();
        let matcher = read(file, key_of, mistakes);
        if let Some(matcher) = matcher.filter(|_| mistakes.len() == before) {
            models.extend(matcher.models().into_iter().map(|(name, sql)| NamedFile {
                name,
                text: FileText::new(file.text.file(), sql),
                made: true,
            }));
        }
    }
    models
}

fn read(file: &NamedFile, key_of: &dyn Fn(&str) -> Vec<String>, mistakes: &mut Vec<Mistake>) -> Option<Matcher> {
    let text = &file.text;
    let table = document::parse(text, mistakes);
    let fields = Fields::new(&keys::MATCHER, "", vec![Layer { text, table: &table }]);
    fields.check_names(None, mistakes);
    let left = side(&fields, text, "left", key_of, mistakes);
    let right = side(&fields, text, "right", key_of, mistakes);
    let (left, right) = (left?, right?);
    let pair = |what: &str, one: &Option<String>, other: &Option<String>| match (one, other) {
        (Some(_), None) => Some(format!("right_{what}")),
        (None, Some(_)) => Some(format!("left_{what}")),
        _ => None,
    };
    let lacking =
        [pair("amount", &left.amount, &right.amount), pair("time", &left.time, &right.time)].into_iter().flatten();
    for lacking in lacking {
        let message = format!("the matcher does not say `{lacking}`");
        mistakes.push(Mistake::of_file(text.file(), "missing_key", message).hint("both sides have it, or neither"));
    }
    let break_after = fields.duration("break_after", mistakes);
    if break_after.is_some() && left.time.is_none() {
        let message = "`break_after` counts from a row's time, which the matcher does not say";
        mistakes.push(
            Mistake::of_file(text.file(), "missing_key", message).hint("add left_time and right_time, or leave it out"),
        );
    }
    let ways = ways(text, &table, &left, mistakes);
    Some(Matcher { name: file.name.clone(), left, right, ways, break_after })
}

fn side(
    fields: &Fields<'_>,
    text: &FileText,
    name: &'static str,
    key_of: &dyn Fn(&str) -> Vec<String>,
    mistakes: &mut Vec<Mistake>,
) -> Option<Side> {
    let Some(relation) = fields.given_text(name, mistakes) else {
        if !fields.has(name) {
            let message = format!("the matcher does not say `{name}`");
            mistakes.push(
                Mistake::of_file(text.file(), "missing_key", message).hint(format!("add {name} = \"a_relation\"")),
            );
        }
        return None;
    };
    let mut id: Vec<String> =
        fields.text_list(&format!("{name}_id"), mistakes).into_iter().map(|column| column.value).collect();
    if id.is_empty() {
        id = key_of(&relation.value);
    }
    if id.is_empty() {
        let message = format!("`{}` has no key to tell its rows apart by", relation.value);
        mistakes.push(
            Mistake::at(text, relation.span.clone(), "needs_key", message)
                .hint(format!("declare the relation's key, or add {name}_id = [\"...\"]")),
        );
        return None;
    }
    let given = |what: &str, mistakes: &mut Vec<Mistake>| {
        fields.given_text(&format!("{name}_{what}"), mistakes).map(|text| text.value)
    };
    let (amount, time) = (given("amount", mistakes), given("time", mistakes));
    Some(Side { name, relation: relation.value, id, amount, time })
}

fn ways(text: &FileText, table: &document::Table, left: &Side, mistakes: &mut Vec<Mistake>) -> Vec<Way> {
    let Some(entry) = table.get("ways") else {
        mistakes.push(
            Mistake::of_file(text.file(), "missing_key", "the matcher does not say how to match")
                .hint("add [[ways]] with keys = [\"reference = payment_id\"], say"),
        );
        return Vec::new();
    };
    let Value::List(nodes) = &entry.node.value else {
        mistakes.push(wrong_type(text, &entry.node, "ways", "a list of tables", &entry.node.value));
        return Vec::new();
    };
    let mut ways: Vec<Way> = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        let Value::Table(way) = &node.value else {
            mistakes.push(wrong_type(text, node, "ways", "a table", &node.value));
            continue;
        };
        let fields = Fields::new(&keys::MATCHER, "ways", vec![Layer { text, table: way }]);
        fields.check_names(None, mistakes);
        let name = fields.given_text("name", mistakes).map_or_else(|| (index + 1).to_string(), |name| name.value);
        let keys = fields.text_list("keys", mistakes);
        let Some(first) = keys.first() else {
            mistakes.push(
                Mistake::at(text, node.span.clone(), "missing_key", format!("the way \"{name}\" has no keys")).hint(
                    "rows are compared with those that share a key: add keys = [\"reference = payment_id\"], say",
                ),
            );
            continue;
        };
        if ways.iter().any(|way| way.name == name) {
            let message = format!("there are two ways \"{name}\"");
            mistakes.push(Mistake::at(text, first.span.clone(), "duplicate_name", message));
        }
        let within = fields.duration("within", mistakes);
        if within.is_some() && left.time.is_none() {
            let message = "`within` compares times, which the matcher does not say";
            mistakes.push(
                Mistake::at(text, first.span.clone(), "missing_key", message).hint("add left_time and right_time"),
            );
        }
        let tolerance = fields.given_text("tolerance", mistakes);
        if let Some(given) = &tolerance
            && !given.value.parse::<f64>().is_ok_and(|tolerance| tolerance.is_finite() && tolerance >= 0.0)
        {
            let message = format!("\"{}\" is no tolerance", given.value);
            mistakes.push(
                Mistake::at(text, given.span.clone(), "bad_value", message).hint("write an amount, such as \"0.01\""),
            );
        }
        if let (Some(given), None) = (&tolerance, &left.amount) {
            let message = "`tolerance` compares amounts, which the matcher does not say";
            mistakes.push(
                Mistake::at(text, given.span.clone(), "missing_key", message).hint("add left_amount and right_amount"),
            );
        }
        ways.push(Way {
            name,
            keys: keys.into_iter().map(both_sides).collect(),
            mode: fields.choice("match", &[], mistakes).unwrap_or_default(),
            tolerance: tolerance.map_or_else(|| "0".into(), |tolerance| tolerance.value),
            within,
        });
    }
    ways
}

/// `left = right`, or the same of both.
fn both_sides(key: Spanned<String>) -> (String, String) {
    match key.value.split_once('=') {
        Some((left, right)) => (left.trim().to_owned(), right.trim().to_owned()),
        None => (key.value.trim().to_owned(), key.value.trim().to_owned()),
    }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Texts of columns as one.
fn joined(columns: impl Iterator<Item = String>) -> String {
    let parts: Vec<String> = columns.map(|column| format!("CAST({column} AS VARCHAR)")).collect();
    parts.join(" || '/' || ")
}

fn interval(duration: Duration) -> String {
    format!("INTERVAL '{} milliseconds'", duration.as_millis())
}

impl Side {
    /// Names of its identity within lists of rows.
    fn fields(&self) -> impl Iterator<Item = String> {
        let letter = &self.name[..1];
        (1..=self.id.len()).map(move |place| format!("{letter}{place}"))
    }

    /// Columns of its identity in the relation of matches.
    fn columns(&self) -> impl Iterator<Item = String> {
        self.id.iter().map(move |column| format!("{}_{column}", self.name))
    }

    fn key<'a>(&self, (left, right): &'a (String, String)) -> &'a str {
        if self.name == "left" { left } else { right }
    }

    /// A condition on its rows, under the name `s`: that none of `relation` has matched it.
    fn unmatched_in(&self, relation: &str) -> String {
        let same: Vec<String> =
            self.id.iter().zip(self.columns()).map(|(id, column)| format!("m.{column} = s.{id}")).collect();
        format!("NOT EXISTS (SELECT 1 FROM {relation} AS m WHERE {})", same.join(" AND "))
    }
}

impl Matcher {
    fn models(&self) -> Vec<(String, String)> {
        let name = &self.name;
        let mut models = Vec::new();
        let matched = format!("{name}_matched");
        let way_name = |place: usize| match self.ways.len() {
            1 => matched.clone(),
            _ => format!("{name}_way_{}", place + 1),
        };
        let mut before: Vec<String> = Vec::new();
        for (place, way) in self.ways.iter().enumerate() {
            models.push((way_name(place), self.way(way, &before)));
            before.push(way_name(place));
        }
        let key = "-- weir: key = [\"match\", \"place\"]";
        if self.ways.len() > 1 {
            let all: Vec<String> = before.iter().map(|way| format!("SELECT * FROM {way}")).collect();
            models.push((matched.clone(), format!("{key}\n{}\n", all.join("\nUNION ALL\n"))));
        }
        for side in [&self.left, &self.right] {
            let id: Vec<String> = side.id.iter().map(|column| format!("{column:?}")).collect();
            let sql = format!(
                "-- weir: key = [{}]\nSELECT s.* FROM {} AS s\nWHERE {}\n",
                id.join(", "),
                side.relation,
                side.unmatched_in(&matched)
            );
            models.push((format!("{name}_unmatched_{}", side.name), sql));
        }
        models.push((format!("{name}_differences"), self.differences()));
        if let Some(after) = self.break_after {
            models.extend(self.breaks(after));
        }
        models
    }

    /// The matches of one way, among rows that the ways before left.
    fn way(&self, way: &Way, before: &[String]) -> String {
        let rows: Vec<String> = [&self.left, &self.right].map(|side| self.rows_of(side, way, before)).into();
        let keys: Vec<String> = (1..=way.keys.len()).map(|place| format!("k{place}")).collect();
        let mut fields = vec!["side".to_owned()];
        fields.extend(self.left.time.is_some().then(|| "at".to_owned()));
        fields.extend(self.left.fields());
        fields.extend(self.right.fields());
        let order = fields.join(", ");
        fields.extend(self.left.amount.is_some().then(|| "amount".to_owned()));
        let fields: Vec<String> = fields.iter().map(|field| format!("'{field}', {field}")).collect();
        let within = way.within.map_or_else(|| "NULL".to_owned(), |within| within.as_micros().to_string());
        let first = joined(self.left.fields().map(|field| format!("m['first']['{field}']")));
        let mut columns = vec![
            format!("{first} AS match"),
            "m['place'] AS place".to_owned(),
            format!("{} AS way", quoted(&way.name)),
        ];
        for side in [&self.left, &self.right] {
            for (field, column) in side.fields().zip(side.columns()) {
                columns.push(format!("m['{}']['{field}'] AS {column}", side.name));
            }
        }
        let both = |field: &str| ["left", "right"].map(|side| format!("m['{side}']['{field}'] AS {side}_{field}"));
        if self.left.amount.is_some() {
            columns.extend(both("amount"));
            columns.push("m['difference'] AS difference".to_owned());
        }
        if self.left.time.is_some() {
            columns.extend(both("at"));
        }
        format!(
            "-- weir: key = [\"match\", \"place\"]\n\
             SELECT {columns}\n\
             FROM (\n  SELECT unnest(match_rows(rows, {mode}, {tolerance}, {within})) AS m\n  FROM (\n    \
             SELECT {keys}, array_agg(named_struct({fields}) ORDER BY {order}) AS rows\n    \
             FROM (\n{rows}\n    ) AS both_sides\n    GROUP BY {keys}\n  ) AS by_key\n) AS matches\n",
            columns = columns.join(", "),
            mode = quoted(&way.mode),
            tolerance = quoted(&way.tolerance),
            keys = keys.join(", "),
            fields = fields.join(", "),
            rows = rows.join("\n      UNION ALL\n"),
        )
    }

    /// The rows of a side that a way compares.
    fn rows_of(&self, side: &Side, way: &Way, before: &[String]) -> String {
        let mut columns: Vec<String> =
            way.keys.iter().enumerate().map(|(place, key)| format!("{} AS k{}", side.key(key), place + 1)).collect();
        columns.push(format!("{} AS side", u8::from(side.name == "right")));
        for other in [&self.left, &self.right] {
            for (field, id) in other.fields().zip(&other.id) {
                let value = if other.name == side.name { format!("s.{id}") } else { "NULL".to_owned() };
                columns.push(format!("{value} AS {field}"));
            }
        }
        columns.extend(side.amount.as_ref().map(|amount| format!("{amount} AS amount")));
        columns.extend(side.time.as_ref().map(|time| format!("CAST({time} AS TIMESTAMP) AS at")));
        let known =
            way.keys.iter().map(|key| side.key(key).to_owned()).chain(side.id.iter().map(|id| format!("s.{id}")));
        let mut conditions: Vec<String> = known.map(|value| format!("{value} IS NOT NULL")).collect();
        conditions.extend(before.iter().map(|way| side.unmatched_in(way)));
        format!(
            "      SELECT {}\n      FROM {} AS s WHERE {}",
            columns.join(", "),
            side.relation,
            conditions.join(" AND ")
        )
    }

    /// Keys that both sides have, of rows that did not match all the same.
    fn differences(&self) -> String {
        let has_amount = self.left.amount.is_some();
        let ways: Vec<String> = self
            .ways
            .iter()
            .map(|way| {
                let side = |side: &Side| {
                    let keys: Vec<String> = way
                        .keys
                        .iter()
                        .enumerate()
                        .map(|(place, key)| format!("{} AS k{}", side.key(key), place + 1))
                        .collect();
                    let groups: Vec<String> = (1..=way.keys.len()).map(|place| format!("k{place}")).collect();
                    let groups = groups.join(", ");
                    let (amount, total) = match &side.amount {
                        Some(amount) => (format!(", {amount} AS amount"), ", sum(amount) AS amount"),
                        None => (String::new(), ""),
                    };
                    format!(
                        "(SELECT {groups}, count(*) AS rows{total} FROM (SELECT {}{amount} FROM {}_unmatched_{}) AS u GROUP BY {groups})",
                        keys.join(", "),
                        self.name,
                        side.name
                    )
                };
                let same: Vec<String> =
                    (1..=way.keys.len()).map(|place| format!("l.k{place} = r.k{place}")).collect();
                let keys = joined((1..=way.keys.len()).map(|place| format!("l.k{place}")));
                let amounts = match has_amount {
                    true => ", l.amount AS left_amount, r.amount AS right_amount, l.amount - r.amount AS difference",
                    false => "",
                };
                format!(
                    "SELECT {} AS way, {keys} AS keys, l.rows AS left_rows, r.rows AS right_rows{amounts}\n\
                     FROM {} AS l\nJOIN {} AS r ON {}",
                    quoted(&way.name),
                    side(&self.left),
                    side(&self.right),
                    same.join(" AND ")
                )
            })
            .collect();
        format!("-- weir: key = [\"way\", \"keys\"]\n{}\n", ways.join("\nUNION ALL\n"))
    }

    /// Rows that have waited too long, and the same by age.
    fn breaks(&self, after: Duration) -> [(String, String); 2] {
        let name = &self.name;
        let sides: Vec<String> = [&self.left, &self.right]
            .map(|side| {
                let id = joined(side.id.iter().cloned());
                let amount = side.amount.as_ref().map(|amount| format!("{amount} AS amount, ")).unwrap_or_default();
                let at = format!("CAST({} AS TIMESTAMP)", side.time.as_deref().unwrap_or_default());
                let after = interval(after);
                format!(
                    "SELECT '{0}' AS side, {id} AS id, {amount}{at} AS at, {at} + {after} AS broke_at\n\
                     FROM {name}_unmatched_{0} WHERE now() >= {at} + {after}",
                    side.name
                )
            })
            .into();
        let key = "-- weir: key = [\"side\", \"id\"]";
        // Apart from their ages, so that what is no break yet waits once.
        let broken = format!("{key}\n{}\n", sides.join("\nUNION ALL\n"));
        let ages: Vec<String> = AGES
            .iter()
            .map(|(age, from, to)| {
                let end = to.map(|to| format!(" AND now() < broke_at + INTERVAL '{to} days'")).unwrap_or_default();
                format!(
                    "SELECT *, '{age}' AS age FROM {name}_broken\n\
                     WHERE now() >= broke_at + INTERVAL '{from} days'{end}"
                )
            })
            .collect();
        let breaks = format!("{key}\n{}\n", ages.join("\nUNION ALL\n"));
        [(format!("{name}_broken"), broken), (format!("{name}_breaks"), breaks)]
    }
}
