//! What files a project's folder has, and what each of them is for.

use std::path::{Path, PathBuf};

use crate::check::CHECKS_SCHEMA;
use crate::mistake::{FileText, Mistake, did_you_mean, nearest};

/// A file that defines something, with the name it defines.
#[derive(Clone)]
pub(crate) struct NamedFile {
    /// `finance.daily` for `models/finance/daily.sql`.
    pub name: String,
    pub text: FileText,
    /// Whether the text is not the file's own, but made of it.
    pub made: bool,
}

/// The files of a project by what they are for, each list sorted by path.
#[derive(Default)]
pub(crate) struct Folder {
    /// `weir.toml`, then the profile's.
    pub settings: Vec<FileText>,
    pub sources: Vec<NamedFile>,
    pub models: Vec<NamedFile>,
    pub model_notes: Vec<NamedFile>,
    pub splits: Vec<NamedFile>,
    pub matchers: Vec<NamedFile>,
    /// Named `checks.NAME`.
    pub checks: Vec<NamedFile>,
    pub sinks: Vec<NamedFile>,
    pub tests: Vec<NamedFile>,
    /// Top-level names that mean nothing; folders that a source reads from are taken off later.
    pub strangers: Vec<(String, bool)>,
}

/// Folders of a project whose files Weir reads.
pub const FOLDERS: &[&str] = &["sources", "models", "splits", "matchers", "checks", "sinks", "tests", "schemas"];
/// Agreed, but not there yet.
const FOLDERS_LATER: &[&str] = &["endpoints", "learners"];
/// What projects have besides; nothing is said of these.
const WELCOME: &[&str] = &["docs", "data", "Makefile", "justfile", "Dockerfile", "LICENSE", "README", "CHANGELOG"];
/// Words that SQL would not take as the name of a relation without quotes.
const RESERVED: &[&str] = &[
    "all",
    "as",
    "by",
    "case",
    "cross",
    "distinct",
    "except",
    "from",
    "full",
    "group",
    "having",
    "in",
    "inner",
    "intersect",
    "join",
    "left",
    "limit",
    "not",
    "null",
    "on",
    "or",
    "order",
    "outer",
    "right",
    "select",
    "table",
    "union",
    "where",
    "with",
];

impl Folder {
    /// Lists and reads the files of `dir`.
    pub fn read(dir: &Path, profile: Option<&str>, mistakes: &mut Vec<Mistake>) -> Option<Self> {
        if !dir.is_dir() {
            mistakes.push(Mistake::of_file(dir, "unreadable", "there is no such folder"));
            return None;
        }
        let mut folder = Folder::default();
        if !dir.join("weir.toml").is_file() {
            mistakes.push(
                Mistake::of_file("weir.toml", "no_settings", "this folder is not a project: it has no weir.toml")
                    .hint("`weir new NAME` makes a project; an empty weir.toml will do"),
            );
            return None;
        }
        folder.settings.extend(read_text(dir, Path::new("weir.toml"), mistakes));
        if let Some(profile) = profile {
            folder.read_profile(dir, profile, mistakes);
        }
        for (name, is_folder) in list(dir, Path::new(""), mistakes) {
            folder.place(dir, name, is_folder, mistakes);
        }
        Some(folder)
    }

    fn read_profile(&mut self, dir: &Path, profile: &str, mistakes: &mut Vec<Mistake>) {
        let file = format!("weir.{profile}.toml");
        if dir.join(&file).is_file() {
            self.settings.extend(read_text(dir, Path::new(&file), mistakes));
            return;
        }
        let names = list(dir, Path::new(""), &mut Vec::new());
        let profiles: Vec<&str> = names
            .iter()
            .filter_map(|(name, _)| name.strip_prefix("weir.")?.strip_suffix(".toml"))
            .filter(|name| !name.is_empty())
            .collect();
        let hint = did_you_mean(profile, profiles.iter().copied()).unwrap_or_else(|| match profiles.is_empty() {
            true => "there are no profiles".into(),
            false => format!("there are: {}", profiles.join(", ")),
        });
        let message = format!("there is no profile \"{profile}\"");
        mistakes.push(Mistake::of_file(file, "unknown_profile", message).hint(hint));
    }

    fn place(&mut self, dir: &Path, name: String, is_folder: bool, mistakes: &mut Vec<Mistake>) {
        let at = Path::new(&name);
        match (name.as_str(), is_folder) {
            ("sources", true) => self.sources = named_files(dir, at, "toml", &[], mistakes),
            ("sinks", true) => self.sinks = named_files(dir, at, "toml", &[], mistakes),
            ("tests", true) => {
                for file in files_below(dir, at, mistakes) {
                    if expect_extension(&file, &["toml"], mistakes)
                        && let Some(text) = read_text(dir, &file, mistakes)
                    {
                        self.tests.push(NamedFile { name: stem(&file), text, made: false });
                    }
                }
            }
            ("models", true) => {
                self.models = named_files(dir, at, "sql", &["toml"], mistakes);
                self.model_notes = named_files(dir, at, "toml", &["sql"], &mut Vec::new());
            }
            ("splits", true) => self.splits = named_files(dir, at, "sql", &[], mistakes),
            ("matchers", true) => self.matchers = named_files(dir, at, "toml", &[], mistakes),
            (CHECKS_SCHEMA, true) => {
                for file in named_files(dir, at, "sql", &[], mistakes) {
                    if file.name.contains('.') {
                        let message = "checks have no folders of their own";
                        let hint = format!("move it to {CHECKS_SCHEMA}/");
                        mistakes.push(Mistake::of_file(file.text.file(), "bad_name", message).hint(hint));
                        continue;
                    }
                    let name = format!("{CHECKS_SCHEMA}.{}", file.name);
                    self.checks.push(NamedFile { name, ..file });
                }
            }
            ("schemas", true) => {
                for file in files_below(dir, at, mistakes) {
                    let message = "schema files are not supported yet";
                    mistakes.push(
                        Mistake::of_file(file, "unsupported", message).hint("write [columns] in the source's file"),
                    );
                }
            }
            (later, true) if FOLDERS_LATER.contains(&later) => {
                for file in files_below(dir, at, mistakes) {
                    mistakes.push(
                        Mistake::of_file(file, "unsupported", format!("{later}/ is not supported yet"))
                            .hint("move the file out of the project until it is"),
                    );
                }
            }
            (known, false) if known == "weir.toml" || known.starts_with("weir.") && known.ends_with(".toml") => {}
            (hidden, _) if hidden.starts_with('.') => {}
            (other, _) if WELCOME.iter().any(|welcome| other.split('.').next() == Some(welcome)) => {}
            (other, false) if other.ends_with(".md") => {}
            _ => self.strangers.push((name, is_folder)),
        }
    }

    /// Warnings for what is at the top and means nothing. `read_from` are folders that sources read.
    pub fn report_strangers(&self, read_from: &[PathBuf], mistakes: &mut Vec<Mistake>) {
        for (name, is_folder) in &self.strangers {
            if read_from.iter().any(|path| path.starts_with(name)) {
                continue;
            }
            let (shown, what) = if *is_folder { (format!("{name}/"), "folder") } else { (name.clone(), "file") };
            let hint = nearest(name, FOLDERS.iter().copied().chain(FOLDERS_LATER.iter().copied()).chain(["weir.toml"]))
                .map(|near| format!("did you mean `{near}`?"))
                .or_else(|| name.ends_with(".sql").then(|| "models live in models/".to_string()));
            mistakes.push(
                Mistake::of_file(shown, "unknown_file", format!("this {what} means nothing to Weir"))
                    .hint_maybe(hint)
                    .warning(),
            );
        }
    }
}

/// All files with the extension below `folder`, named as relations; others are mistakes unless `beside`.
fn named_files(
    dir: &Path,
    folder: &Path,
    extension: &str,
    beside: &[&str],
    mistakes: &mut Vec<Mistake>,
) -> Vec<NamedFile> {
    let mut files = Vec::new();
    for file in files_below(dir, folder, mistakes) {
        if beside.iter().any(|beside| file.extension().is_some_and(|found| found == *beside)) {
            continue;
        }
        if !expect_extension(&file, &[extension], mistakes) {
            continue;
        }
        let inside = file.strip_prefix(folder).unwrap_or(&file).with_extension("");
        let parts: Vec<String> = inside.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if let Some(wrong) = check_name(&parts) {
            mistakes.push(Mistake::of_file(&file, "bad_name", wrong.0).hint(wrong.1));
            continue;
        }
        if let Some(text) = read_text(dir, &file, mistakes) {
            files.push(NamedFile { name: parts.join("."), text, made: false });
        }
    }
    files
}

/// Whether these folder and file names can name a relation; otherwise message and hint.
fn check_name(parts: &[String]) -> Option<(String, String)> {
    if parts.len() > 2 {
        let message = "relations are at most one folder deep: the folder is the SQL schema".to_string();
        return Some((message, format!("move it to {}/", parts[..1].join("/"))));
    }
    for part in parts {
        if !is_identifier(part) {
            let mended: String =
                part.to_lowercase().chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
            let mended = if mended.starts_with(|c: char| c.is_ascii_digit()) { format!("_{mended}") } else { mended };
            let message = format!("`{part}` cannot be the name of a relation");
            return Some((message, format!("use small letters, digits and `_`: `{mended}`")));
        }
        if RESERVED.contains(&part.as_str()) {
            let message = format!("`{part}` cannot be the name of a relation: it is a word of SQL");
            return Some((message, format!("call it `{part}s`, say")));
        }
    }
    None
}

/// Whether SQL takes the name without quotes and without changing it.
pub(crate) fn is_identifier(name: &str) -> bool {
    let mut characters = name.chars();
    characters.next().is_some_and(|c| c.is_ascii_lowercase() || c == '_')
        && characters.all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

fn expect_extension(file: &Path, extensions: &[&str], mistakes: &mut Vec<Mistake>) -> bool {
    let found = file.extension().map(|extension| extension.to_string_lossy().into_owned()).unwrap_or_default();
    if extensions.contains(&found.as_str()) {
        return true;
    }
    // Editors and people leave these behind.
    if !matches!(found.as_str(), "md" | "swp" | "orig" | "bak") && !file.to_string_lossy().ends_with('~') {
        let place = file.parent().unwrap_or(file).display().to_string();
        let message = format!("{place}/ holds .{} files; this one is not read", extensions.join(" and ."));
        mistakes.push(Mistake::of_file(file, "unknown_file", message).warning());
    }
    false
}

fn stem(file: &Path) -> String {
    file.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default()
}

fn read_text(dir: &Path, file: &Path, mistakes: &mut Vec<Mistake>) -> Option<FileText> {
    match std::fs::read(dir.join(file)) {
        Ok(bytes) => match String::from_utf8(bytes) {
            Ok(text) => Some(FileText::new(file, text)),
            Err(error) => {
                let at = error.utf8_error().valid_up_to();
                let text = FileText::new(file, String::from_utf8_lossy(error.as_bytes()));
                mistakes.push(Mistake::at(&text, at..at + 1, "unreadable", "this is not UTF-8 text"));
                None
            }
        },
        Err(error) => {
            mistakes.push(Mistake::of_file(file, "unreadable", format!("cannot be read: {error}")));
            None
        }
    }
}

/// Names in a folder with whether they are folders, sorted.
fn list(dir: &Path, folder: &Path, mistakes: &mut Vec<Mistake>) -> Vec<(String, bool)> {
    let mut names = Vec::new();
    match std::fs::read_dir(dir.join(folder)) {
        Ok(entries) => {
            for entry in entries.flatten() {
                // Following links: a linked folder is a folder.
                let is_folder = entry.path().is_dir();
                names.push((entry.file_name().to_string_lossy().into_owned(), is_folder));
            }
        }
        Err(error) => mistakes.push(Mistake::of_file(folder, "unreadable", format!("cannot be read: {error}"))),
    }
    names.sort();
    names
}

/// All files below a folder, by path relative to `dir`, sorted; hidden ones left out.
fn files_below(dir: &Path, folder: &Path, mistakes: &mut Vec<Mistake>) -> Vec<PathBuf> {
    let mut files = Vec::new();
    // Deeper than this is a mistake of its own, or a circle of links.
    if folder.components().count() > 6 {
        return files;
    }
    for (name, is_folder) in list(dir, folder, mistakes) {
        let path = folder.join(&name);
        match is_folder {
            _ if name.starts_with('.') => {}
            true => files.extend(files_below(dir, &path, mistakes)),
            false => files.push(path),
        }
    }
    files
}
