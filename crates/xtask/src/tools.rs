//! What the tests need on the machine: a PostgreSQL server, and Python with other readers of the lake.
//!
//! Nothing is installed that is there already. Python packages go where `python3` finds them, or into a virtual
//! environment of our own where the system's Python does not want to be written to.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::run::{must, succeeds};

/// Name as pip knows it, and as Python imports it. The extension, which has the queries of TPC-DS, is DuckDB's own, signed,
/// and fits one version of DuckDB.
const PYTHON_PACKAGES: [(&str, &str); 5] = [
    ("duckdb==1.5.5", "duckdb"),
    ("duckdb-extension-tpcds==1.5.5", "duckdb_extension_tpcds"),
    ("deltalake", "deltalake"),
    ("polars", "polars"),
    ("pyarrow", "pyarrow"),
];

/// What the tests have to be told.
pub struct Tools {
    /// A Python that has the packages.
    pub python: String,
}

/// Installs what is missing.
pub fn install() -> Result<Tools> {
    if !has_postgres() {
        apt(&["postgresql"])?;
    }
    Ok(Tools { python: python()? })
}

fn has_postgres() -> bool {
    let packaged = std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut versions| {
        versions.any(|version| version.is_ok_and(|version| version.path().join("bin/initdb").exists()))
    });
    packaged || succeeds("initdb", &["--version"])
}

fn apt(packages: &[&str]) -> Result<()> {
    if !succeeds("apt-get", &["--version"]) {
        bail!("missing: {}; install it (this machine has no apt-get)", packages.join(" "));
    }
    let prefix: &[&str] = if succeeds("test", &["-w", "/usr/lib"]) { &[] } else { &["sudo", "-n"] };
    let apt_get = |arguments: &[&str]| {
        let words: Vec<&str> = prefix.iter().copied().chain(["apt-get"]).chain(arguments.iter().copied()).collect();
        must(Command::new(words[0]).args(&words[1..]).env("DEBIAN_FRONTEND", "noninteractive"))
    };
    let install = |packages: &[&str]| {
        let arguments = ["install", "-y", "--no-install-recommends"];
        apt_get(&arguments.iter().chain(packages).copied().collect::<Vec<_>>())
    };
    if install(packages).is_ok() {
        return Ok(());
    }
    apt_get(&["update"])?;
    install(packages)
}

fn python() -> Result<String> {
    let imports: Vec<String> = PYTHON_PACKAGES.iter().map(|(_, module)| format!("import {module}")).collect();
    let imports = imports.join("; ");
    let fits = |python: &str| succeeds(python, &["-c", &imports]);
    let own = environment_folder().join("bin/python");
    let own = own.to_string_lossy().into_owned();
    let asked = std::env::var("WEIR_TEST_PYTHON").ok();
    let candidates = [asked.as_deref(), Some("python3"), Some(&own)];
    if let Some(python) = candidates.into_iter().flatten().find(|python| fits(python)) {
        return Ok(python.to_owned());
    }
    if !succeeds("python3", &["-c", "import ensurepip, venv"]) {
        apt(&["python3", "python3-venv", "python3-pip"])?;
    }
    must(Command::new("python3").args(["-m", "venv", "--clear"]).arg(environment_folder()))?;
    let packages = PYTHON_PACKAGES.iter().map(|(package, _)| *package);
    must(Command::new(&own).args(["-m", "pip", "install", "--quiet", "--no-input"]).args(packages))?;
    if !fits(&own) {
        bail!("{own} was made, and still cannot `{imports}`");
    }
    Ok(own)
}

fn environment_folder() -> PathBuf {
    let home = std::env::var_os("HOME").map(PathBuf::from).unwrap_or_else(|| "/tmp".into());
    home.join(".cache/weir/python")
}
