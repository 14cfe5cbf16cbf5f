//! The user's folder: settings, sources, sinks, models.

use std::io;
use std::path::Path;

use weir_project::Project;

/// Files of a folder that is valid.
pub const FILES: [(&str, &str); 5] = [
    (
        "weir.toml",
        "[log]\nsegment_bytes = \"64 MiB\"\n[server]\nlisten = \"127.0.0.1:8080\"\n[state]\ncheckpoint_interval = \"30 seconds\"\n",
    ),
    (
        "sources/clicks.toml",
        "kind = \"beacon\"\ntime = \"sent_at\"\nlateness = \"10 minutes\"\ndedupe = { by = [\"id\"], within = \"7 days\" }\n\
         [columns]\nid = { type = \"BIGINT\", required = true, from = \"click.id\" }\nvisitor = \"TEXT\"\nsent_at = \"TIMESTAMP\"\n",
    ),
    (
        "sources/orders.toml",
        "kind = \"files\"\npath = \"in/*.csv\"\nformat = \"csv\"\nkey = [\"id\"]\nversion = \"version\"\n[columns]\nid = \"BIGINT\"\n\
         version = \"BIGINT\"\nvisitor = \"TEXT\"\namount = \"DECIMAL(10, 2)\"\n",
    ),
    (
        "models/visits.sql",
        "-- How often they came.\n-- weir: key = [\"visitor\"]\nSELECT c.visitor, count(*) AS clicks, max(o.amount) AS amount\n\
         FROM clicks c LEFT JOIN orders o ON c.visitor = o.visitor GROUP BY c.visitor\n",
    ),
    (
        "sinks/visits.toml",
        "kind = \"postgres\"\nfrom = \"visits\"\nurl = \"postgres://u:${env:HOME}@localhost/db\"\ntable = \"visits\"\nwhere = \"clicks > 1\"\n",
    ),
];

/// Writes the folder.
///
/// # Errors
/// When the disk fails.
pub fn write(folder: &Path) -> io::Result<()> {
    for (name, text) in FILES {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(folder))?;
        std::fs::write(path, text)?;
    }
    Ok(())
}

/// Reads the folder with one of its files replaced, and puts the file back.
///
/// # Errors
/// When the disk fails.
///
/// # Panics
/// When a folder with a mistake is taken for a project, or one without is not; when a mistake has no place or no words.
pub fn read(folder: &Path, file: usize, bytes: &[u8]) -> io::Result<()> {
    let (name, valid) = FILES[file % FILES.len()];
    let path = folder.join(name);
    std::fs::write(&path, bytes)?;
    let reading = Project::read(folder, None);
    let errors = reading.mistakes.iter().filter(|mistake| mistake.is_error()).count();
    assert_eq!(reading.project.is_some(), errors == 0, "{name}: {:?}", reading.mistakes);
    for mistake in &reading.mistakes {
        assert!(!mistake.message.is_empty() && !mistake.code.is_empty(), "{mistake:?}");
    }
    std::fs::write(&path, valid)
}
