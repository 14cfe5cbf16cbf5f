//! Finds what storage did to a data folder after it was synced: reads every byte of every store, holds the stores against
//! each other, names each damage with what it means and what can be done, and repairs what another store can restore.
//!
//! 1. [`stores`] reads; nothing is changed by that, whatever is found.
//! 2. [`findings`] judges: each damage gets a [`Cure`], which is a repair whose outcome is certain, or the reason why there is
//!    none. It never guesses.
//! 3. [`repair`] does the repairs. What it replaces is moved aside, never removed.

mod findings;
mod repair;
mod stores;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::Serialize;
use weir_environment::Environment;
use weir_pipeline::compile::compile;
use weir_project::Project;

pub use repair::{Repair, carry_out};

/// What an examination found.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Whether nothing is damaged.
    pub whole: bool,
    /// Each store with what of it is whole.
    pub stores: Vec<StoreReport>,
    /// Every damage.
    pub damages: Vec<Finding>,
    /// What could not be asked, and what is worth knowing.
    pub notes: Vec<String>,
}

/// One store.
#[derive(Debug, Clone, Serialize)]
pub struct StoreReport {
    /// Its name.
    pub store: String,
    /// Whether all of it is what was written.
    pub whole: bool,
    /// What of it is.
    pub holds: String,
}

/// One damage.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The store.
    pub store: String,
    /// The file, or the folder when it is about all of it.
    pub file: PathBuf,
    /// Where in the file it begins, in bytes.
    pub byte: Option<u64>,
    /// Which records, epochs or rows are touched.
    pub records: Option<String>,
    /// What does not fit.
    pub what: String,
    /// What that means.
    pub means: String,
    /// What can be done.
    pub cure: Cure,
}

/// What can be done about a damage.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cure {
    /// `--repair` restores it.
    Repair(Repair),
    /// Nothing in this folder can restore it; why, and what to do.
    None(String),
}

impl Report {
    /// The repairs that the damages call for, in the order in which they are made.
    pub fn repairs(&self) -> Vec<Repair> {
        let repairs: BTreeSet<Repair> = self
            .damages
            .iter()
            .filter_map(|finding| match &finding.cure {
                Cure::Repair(repair) => Some(repair.clone()),
                Cure::None(_) => None,
            })
            .collect();
        let anew = repairs.contains(&Repair::Anew);
        // All of the lake and the checkpoint are made anew by that one.
        repairs.into_iter().filter(|repair| !anew || !repair.is_part_of_anew()).collect()
    }
}

/// Examines the data folder of a project, which nobody else has open. Sinks are asked how far they are when
/// `ask_sinks` says so.
///
/// # Errors
/// When a file cannot be read at all (permissions, a failing disk).
pub async fn examine(environment: &Environment, project: &Project, ask_sinks: bool) -> anyhow::Result<Report> {
    let data = data_folder(project);
    let spec = compile(project)?;
    let stores = stores::Stores::read(environment, project, &data).await?;
    let mut report = findings::judge(&stores, project, &spec, &data);
    if ask_sinks && stores.last_epoch() > 0 {
        findings::ask_sinks(environment, project, &spec, &data, stores.last_epoch(), &mut report).await;
    }
    report.whole = report.damages.is_empty();
    Ok(report)
}

/// Where a project's data is.
pub fn data_folder(project: &Project) -> PathBuf {
    project.dir.join(".weir")
}

/// A path as people read it: relative to the project where it is in it.
pub fn shown(project: &Path, path: &Path) -> String {
    path.strip_prefix(project).unwrap_or(path).display().to_string()
}
