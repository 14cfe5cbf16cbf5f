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
}

const EXAMPLES: &str = "\
Writes weir.toml with every setting and its default. Never overwrites anything.

Examples:
  weir new pipeline
  weir new shop --example shop";

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
    "data/customers/customers.csv",
    "data/products/products.csv",
    "models/best_sellers.sql",
    "models/clean_views.sql",
    "models/funnel.sql",
    "models/orders_wide.sql",
    "models/revenue_by_minute.sql",
    "models/unpaid_orders.sql",
    "models/visitor_profile.sql",
    "models/visitor_profile.toml",
    "models/visits.sql",
    "sinks/visitor_profile.toml",
    "sources/clicks.toml",
    "sources/customers.toml",
    "sources/orders.toml",
    "sources/page_views.toml",
    "sources/payments.toml",
    "sources/products.toml",
    "tests/paid_orders.toml",
    "tests/two_visits.toml",
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
        None => START,
    };
    write(&folder, "weir.toml", &weir_project::keys::settings_template())?;
    write(&folder, ".gitignore", IGNORED)?;
    for (file, contents) in files {
        write(&folder, file, contents)?;
    }
    println!("made {}", folder.display());
    println!("next: cd {} && weir run", folder.display());
    Ok(Answer::Yes)
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
        for (name, files) in [("shop", SHOP), ("start", START)] {
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
        for (name, files) in [("shop", SHOP), ("start", START)] {
            let folder = tempfile::tempdir().expect("a temporary folder");
            write(folder.path(), "weir.toml", &weir_project::keys::settings_template()).expect("it is written");
            for (file, contents) in files {
                write(folder.path(), file, contents).expect("it is written");
            }
            let reading = weir_project::Project::read(folder.path(), None);
            let told: Vec<String> = reading.mistakes.iter().map(ToString::to_string).collect();
            assert!(told.is_empty(), "{name}: {told:#?}");
            assert!(reading.project.is_some());
        }
    }
}
