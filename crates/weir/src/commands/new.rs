//! `weir new`: a project that runs.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Args, ValueEnum};

use super::{Answer, Failure};
use crate::cli::Global;

/// Arguments of `weir new`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Folder to make
    name: PathBuf,
    /// Start from an example
    #[arg(long, value_enum)]
    example: Option<Example>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Example {
    /// A web shop: clicks, orders and payments to visits, funnel and revenue
    Shop,
    /// Payments: double-entry postings, balances, and reconciliation with processors and bank
    Payments,
}

const EXAMPLES: &str = "\
Writes weir.toml with every setting and its default. Never overwrites anything.

Examples:
  weir new pipeline
  weir new shop --example shop
  weir new pay --example payments";

type Files = &'static [(&'static str, &'static str)];

macro_rules! files {
    ($folder:literal: $($file:literal),+ $(,)?) => {
        &[$(($file, include_str!(concat!("../../example/", $folder, "/", $file)))),+]
    };
}

/// A first source and model.
const START: Files =
    files!("start": "README.md", "sources/events.toml", "models/events_per_minute.sql", "tests/two_minutes.toml");

/// The web shop.
const SHOP: Files = files!("shop":
    "README.md",
    "checks/negative_revenue.sql",
    "data/customers.csv",
    "data/products.json",
    "models/active_visitors.sql",
    "models/funnel.sql",
    "models/order_lines.sql",
    "models/revenue_by_minute.sql",
    "models/sessions.sql",
    "models/views.sql",
    "models/visitor_profile.sql",
    "sinks/visitor_profile.toml",
    "sources/clicks.toml",
    "sources/customers.toml",
    "sources/orders.toml",
    "sources/page_views.toml",
    "sources/payments.toml",
    "sources/products.toml",
    "tests/a_paid_order_counts_for_its_visitor.toml",
    "tests/half_an_hour_away_starts_a_new_session.toml",
    "weir.toml",
);

/// Payments.
const PAYMENTS: Files = files!("payments":
    "README.md",
    "checks/books_balance.sql",
    "checks/disputes_of_nothing.sql",
    "checks/refunded_too_much.sql",
    "checks/unbalanced_events.sql",
    "checks/unexplained.sql",
    "matchers/ledger_to_bank.toml",
    "matchers/ledger_to_processor.toml",
    "matchers/processor_to_bank.toml",
    "models/balances.sql",
    "models/day_end.sql",
    "models/expected_days.sql",
    "models/expected_lines.sql",
    "models/explained.sql",
    "models/findings.sql",
    "models/payouts.sql",
    "models/postings.sql",
    "models/settlements.sql",
    "sinks/balances.toml",
    "sources/bank_lines.toml",
    "sources/captures.toml",
    "sources/chargebacks.toml",
    "sources/payments.toml",
    "sources/processor_lines.toml",
    "sources/refunds.toml",
    "splits/exposure.sql",
    "weir.toml",
);

const IGNORED: &str = "# All that Weir itself keeps.\n/.weir/\n";

/// Runs the command.
pub fn run(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let folder = global.dir.join(&arguments.name);
    if folder.exists() && std::fs::read_dir(&folder).map_or(true, |mut entries| entries.next().is_some()) {
        return Err(Failure::Wrong(format!("{} is there already, and not empty", folder.display())));
    }
    let files = match arguments.example {
        Some(Example::Shop) => SHOP,
        Some(Example::Payments) => PAYMENTS,
        None => START,
    };
    write_project(&folder, files)?;
    println!("made {}", folder.display());
    println!("next: cd {} && weir run", folder.display());
    Ok(Answer::Yes)
}

/// Writes the example shop into a folder.
pub fn write_shop(folder: &Path) -> anyhow::Result<()> {
    write_project(folder, SHOP)
}

/// An example's own weir.toml takes the place of the full one.
fn write_project(folder: &Path, files: Files) -> anyhow::Result<()> {
    write(folder, "weir.toml", &weir_project::keys::settings_template())?;
    write(folder, ".gitignore", IGNORED)?;
    files.iter().try_for_each(|(file, contents)| write(folder, file, contents))
}

fn write(folder: &Path, file: &str, contents: &str) -> anyhow::Result<()> {
    let path = folder.join(file);
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    std::fs::write(&path, contents).with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(folder: &Path, below: &Path, files: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder.join(below)).expect("a folder of the example").flatten() {
            let path = below.join(entry.file_name());
            match entry.path().is_dir() {
                true => listed(folder, &path, files),
                false => files.push(path.display().to_string()),
            }
        }
    }

    #[test]
    fn every_file_of_an_example_is_in_the_binary() {
        for (name, files) in [("payments", PAYMENTS), ("shop", SHOP), ("start", START)] {
            let mut there = Vec::new();
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("example").join(name);
            listed(&folder, Path::new(""), &mut there);
            there.sort();
            let mut embedded: Vec<&str> = files.iter().map(|(file, _)| *file).collect();
            embedded.sort_unstable();
            assert_eq!(there, embedded, "{name}");
        }
    }

    #[test]
    fn every_example_is_a_project_without_mistakes() {
        for (name, files) in [("payments", PAYMENTS), ("shop", SHOP), ("start", START)] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            write_project(folder.path(), files).expect("it is written");
            let reading = weir_project::Project::read(folder.path(), None);
            let told: Vec<String> = reading.mistakes.iter().map(ToString::to_string).collect();
            assert!(told.is_empty(), "{name}: {told:#?}");
            assert!(reading.project.is_some());
        }
    }
}
