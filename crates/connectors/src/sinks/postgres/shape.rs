//! The target table: its SQL, and whether one that is there already fits.

use tokio_postgres::Transaction;
use weir_pipeline::sink::{Feed, SinkError};

use super::copy::column_type;
use super::failed;

/// Comment on the tables that Weir made, which it may therefore replace when the relation's shape changes.
pub(super) const MADE_BY_WEIR: &str = "Kept by Weir";

/// Names and SQL of one target.
pub(super) struct Shape {
    schema: String,
    table: String,
    /// (name, quoted name, type).
    columns: Vec<(String, String, String)>,
    key: Vec<String>,
}

/// What is in the target's place.
pub(super) enum Found {
    /// Nothing.
    Missing,
    /// A table that fits.
    Fits,
    /// A table that does not, with the differences; and whether Weir made it.
    Differs(Vec<String>, bool),
}

impl Shape {
    pub fn new(schema: &str, table: &str, feed: &Feed) -> Result<Self, SinkError> {
        let mut columns = Vec::new();
        for field in feed.schema.fields() {
            let data_type = column_type(field.data_type()).ok_or_else(|| {
                SinkError::Refused(format!(
                    "column `{}` of {} has the type {}, which has no counterpart in PostgreSQL",
                    field.name(),
                    feed.relation,
                    field.data_type()
                ))
            })?;
            columns.push((field.name().clone(), quote(field.name()), data_type));
        }
        let key = feed.key.iter().map(|name| quote(name)).collect();
        Ok(Self { schema: schema.to_owned(), table: table.to_owned(), columns, key })
    }

    /// The target, quoted, with its schema.
    pub fn target(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.table))
    }

    /// The table that a reload fills.
    pub fn beside(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&format!("{}__weir_new", self.table)))
    }

    /// The table of cursors.
    pub fn cursors(&self) -> String {
        format!("{}.weir_sinks", quote(&self.schema))
    }

    /// `"a", "b"`, each with a prefix.
    pub fn names(&self, prefix: &str) -> String {
        join(self.columns.iter().map(|(_, name, _)| format!("{prefix}{name}")), ", ")
    }

    /// The key's columns, each with a prefix.
    pub fn keys(&self, prefix: &str) -> String {
        join(self.key.iter().map(|name| format!("{prefix}{name}")), ", ")
    }

    /// Whether rows have a key.
    pub fn keyed(&self) -> bool {
        !self.key.is_empty()
    }

    /// `"a" bigint, "b" text`.
    pub fn definitions(&self) -> String {
        join(self.columns.iter().map(|(_, name, data_type)| format!("{name} {data_type}")), ", ")
    }

    /// Makes the target.
    pub fn create(&self) -> String {
        let key = if self.keyed() { format!(", PRIMARY KEY ({})", self.keys("")) } else { String::new() };
        let target = self.target();
        format!("CREATE TABLE {target} ({}{key}); COMMENT ON TABLE {target} IS '{MADE_BY_WEIR}'", self.definitions())
    }

    /// Puts the table beside in the target's place.
    pub fn swap(&self) -> String {
        let (target, beside) = (self.target(), self.beside());
        let key = if self.keyed() {
            let (old, new) = (format!("{}__weir_new_pkey", self.table), format!("{}_pkey", self.table));
            format!("; ALTER TABLE {target} RENAME CONSTRAINT {} TO {}", quote(&old), quote(&new))
        } else {
            String::new()
        };
        format!(
            "DROP TABLE IF EXISTS {target}; ALTER TABLE {beside} RENAME TO {}{key}; \
             COMMENT ON TABLE {target} IS '{MADE_BY_WEIR}'",
            quote(&self.table)
        )
    }

    /// The primary key of the table beside, named so that [`Shape::swap`] can rename it.
    pub fn key_beside(&self) -> String {
        let name = quote(&format!("{}__weir_new_pkey", self.table));
        format!("ALTER TABLE {} ADD CONSTRAINT {name} PRIMARY KEY ({})", self.beside(), self.keys(""))
    }

    /// Makes the target equal to the table beside, touching only rows that differ where there is a key.
    pub fn level(&self) -> String {
        let (target, beside) = (self.target(), self.beside());
        if !self.keyed() {
            return format!(
                "DELETE FROM {target}; INSERT INTO {target} ({names}) SELECT {names} FROM {beside}; DROP TABLE {beside}",
                names = self.names("")
            );
        }
        format!(
            "DELETE FROM {target} t WHERE NOT EXISTS (SELECT 1 FROM {beside} n WHERE {}); {}; DROP TABLE {beside}",
            self.same_key("t", "n"),
            self.upsert(&beside)
        )
    }

    /// Inserts rows of `from`, or updates those whose key is there and whose other columns differ.
    pub fn upsert(&self, from: &str) -> String {
        let others: Vec<&String> =
            self.columns.iter().map(|(_, name, _)| name).filter(|name| !self.key.contains(name)).collect();
        let conflict = if others.is_empty() {
            "DO NOTHING".to_owned()
        } else {
            format!(
                "DO UPDATE SET {} WHERE ({}) IS DISTINCT FROM ({})",
                join(others.iter().map(|name| format!("{name} = EXCLUDED.{name}")), ", "),
                join(others.iter().map(|name| format!("t.{name}")), ", "),
                join(others.iter().map(|name| format!("EXCLUDED.{name}")), ", "),
            )
        };
        format!(
            "INSERT INTO {} AS t ({names}) SELECT {names} FROM {from} ON CONFLICT ({}) {conflict}",
            self.target(),
            self.keys(""),
            names = self.names("")
        )
    }

    /// `a.k = b.k AND ...`.
    pub fn same_key(&self, left: &str, right: &str) -> String {
        join(self.key.iter().map(|name| format!("{left}.{name} = {right}.{name}")), " AND ")
    }

    /// Deletes from the target as many rows equal to each row of `gone` as its `weir_count` says. Rows are compared
    /// as text, which tells NULL from nothing and can be hashed.
    pub fn delete_equal(&self, gone: &str) -> String {
        format!(
            "DELETE FROM {target} WHERE ctid IN (SELECT place FROM (SELECT t.ctid AS place, g.weir_count AS wanted, \
             row_number() OVER (PARTITION BY g.ctid) AS number FROM {target} t JOIN {gone} g \
             ON ROW({})::text = ROW({})::text) AS found WHERE number <= wanted)",
            self.names("t."),
            self.names("g."),
            target = self.target(),
        )
    }

    /// Looks at what is in the target's place.
    pub async fn look(&self, transaction: &Transaction<'_>) -> Result<Found, SinkError> {
        let target = self.target();
        let found = transaction
            .query_opt(
                "SELECT c.oid, c.relkind::text, coalesce(obj_description(c.oid, 'pg_class'), '') \
                 FROM pg_class c WHERE c.oid = to_regclass($1)",
                &[&target],
            )
            .await
            .map_err(failed)?;
        let Some(found) = found else { return Ok(Found::Missing) };
        let oid: u32 = found.get(0);
        let kind: String = found.get(1);
        let by_weir = found.get::<_, String>(2).starts_with(MADE_BY_WEIR);
        if kind != "r" && kind != "p" {
            return Ok(Found::Differs(vec![format!("{target} is not a table")], false));
        }
        let rows = transaction
            .query(
                "SELECT attname::text, format_type(atttypid, atttypmod), attnotnull AND NOT atthasdef \
                 AND attidentity = '' FROM pg_attribute \
                 WHERE attrelid = $1 AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
                &[&oid],
            )
            .await
            .map_err(failed)?;
        let mut differences = Vec::new();
        for (name, _, wanted) in &self.columns {
            match rows.iter().find(|row| row.get::<_, &str>(0) == name) {
                Some(row) => {
                    let there: &str = row.get(1);
                    if !fits(wanted, there) {
                        differences.push(format!("column `{name}` is {there}, wanted is {wanted}"));
                    }
                }
                None => differences.push(format!("column `{name}` {wanted} is missing")),
            }
        }
        for row in &rows {
            let (name, needed): (&str, bool) = (row.get(0), row.get(2));
            if needed && !self.columns.iter().any(|(column, ..)| column == name) {
                differences.push(format!("column `{name}` must not be NULL and is not in the relation"));
            }
        }
        if self.keyed() {
            let unique = transaction
                .query(
                    "SELECT array(SELECT quote_ident(attname) FROM pg_attribute \
                     WHERE attrelid = indrelid AND attnum = ANY(indkey)) FROM pg_index \
                     WHERE indrelid = $1 AND indisunique AND indpred IS NULL AND indexprs IS NULL AND indimmediate",
                    &[&oid],
                )
                .await
                .map_err(failed)?;
            let mut wanted: Vec<String> = self.key.iter().map(|name| name.trim_matches('"').to_owned()).collect();
            wanted.sort();
            let there = unique.iter().any(|row| {
                let columns: Vec<String> = row.get(0);
                let mut columns: Vec<String> = columns.iter().map(|name| name.trim_matches('"').to_owned()).collect();
                columns.sort();
                columns == wanted
            });
            if !there {
                differences.push(format!("there is no PRIMARY KEY or unique index on ({})", self.keys("")));
            }
        }
        Ok(if differences.is_empty() { Found::Fits } else { Found::Differs(differences, by_weir) })
    }
}

/// Whether values of type `wanted` go into a column of type `there` unchanged.
fn fits(wanted: &str, there: &str) -> bool {
    wanted == there
        || match wanted {
            "text" => there == "character varying",
            "smallint" => there == "integer" || there == "bigint",
            "integer" => there == "bigint",
            "real" => there == "double precision",
            _ => wanted.starts_with("numeric") && there == "numeric",
        }
}

/// An SQL identifier in quotes.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn join(parts: impl Iterator<Item = String>, separator: &str) -> String {
    parts.collect::<Vec<_>>().join(separator)
}
