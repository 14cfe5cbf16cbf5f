//! A page for every kind of file of a project, with every key that it may have, from the table that reads them.

use std::path::PathBuf;

use weir_project::keys::{self, FileKeys, Key};

use super::Pages;

/// Adds keys/FILE.md for every kind of file.
pub fn pages(pages: &mut Pages) {
    for file in keys::all() {
        pages.insert(PathBuf::from(format!("keys/{}.md", name(file.file))), page(file));
    }
}

/// `sources/*.toml` is on the page `sources`, `models/**/*.sql` on `models`, `models/**/*.toml` on `models-toml`.
fn name(file: &str) -> String {
    match file.split_once('/') {
        None => file.replace('.', "-"),
        Some((folder, _)) if folder == "models" && file.ends_with(".toml") => "models-toml".to_owned(),
        Some((folder, _)) => folder.to_owned(),
    }
}

fn page(file: &FileKeys) -> String {
    let mut text = format!("# `{}`\n\n{}\n", file.file, file.doc);
    for section in file.sections {
        if !section.name.is_empty() {
            text.push_str(&format!("\n## `[{}]`\n", section.name));
        }
        text.push_str(&format!("\n{}\n", section.doc));
        for key in section.keys {
            text.push_str(&entry(section.name, key));
        }
    }
    text
}

fn entry(section: &str, key: &Key) -> String {
    let full = if section.is_empty() { key.name.to_owned() } else { format!("{section}.{}", key.name) };
    assert!(!key.doc.is_empty(), "the key {full} says nothing");
    let mut text = format!("\n### `{full}`\n\n{}\n\n- Takes: {}\n", key.doc, key.kind.describe());
    if let Some(default) = key.default {
        text.push_str(&format!("- Default: `{default}`\n"));
    }
    if !key.only_for.is_empty() {
        let kinds: Vec<String> = key.only_for.iter().map(|kind| format!("`{kind}`")).collect();
        text.push_str(&format!("- Only for kind {}\n", kinds.join(", ")));
    }
    text
}
