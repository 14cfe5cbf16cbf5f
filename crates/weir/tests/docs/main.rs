//! The pages of docs/ as the code says them: compared with what is there, or written with `cargo xtask docs`.

mod commands;
mod keys;
mod reasons;
mod relations;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// Pages by path below docs/.
type Pages = BTreeMap<PathBuf, String>;

/// The first line of every page that the code writes.
const MARK: &str = "<!-- Written by `cargo xtask docs` from the code; change it there. -->\n\n";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// All pages that the code writes.
fn pages() -> Pages {
    let mut pages = Pages::new();
    commands::pages(&mut pages);
    keys::pages(&mut pages);
    reasons::pages(&mut pages);
    relations::pages(&mut pages);
    for text in pages.values_mut() {
        text.insert_str(0, MARK);
    }
    pages
}

/// Pages in docs/ that were written by the code.
fn written(folder: &Path, pages: &mut Pages) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            written(&path, pages);
        } else if let Ok(text) = std::fs::read_to_string(&path)
            && text.starts_with(MARK)
        {
            let below = path.strip_prefix(docs()).expect("it was found there").to_path_buf();
            pages.insert(below, text);
        }
    }
}

#[test]
fn the_pages_say_what_the_code_says() {
    let pages = pages();
    let mut there = Pages::new();
    written(&docs(), &mut there);
    if std::env::var_os("WEIR_UPDATE_DOCS").is_some() {
        for gone in there.keys().filter(|path| !pages.contains_key(*path)) {
            std::fs::remove_file(docs().join(gone)).expect("a page that is no more");
        }
        for (path, text) in &pages {
            let path = docs().join(path);
            std::fs::create_dir_all(path.parent().expect("it is below docs/")).expect("a folder");
            std::fs::write(path, text).expect("a page");
        }
        return;
    }
    let differ: Vec<String> = pages
        .keys()
        .chain(there.keys())
        .filter(|path| pages.get(*path) != there.get(*path))
        .map(|path| path.display().to_string())
        .collect();
    assert!(differ.is_empty(), "run `cargo xtask docs`; these pages are not what the code says: {differ:?}");
}

#[test]
fn the_index_names_every_page() {
    let index = std::fs::read_to_string(docs().join("README.md")).expect("docs/README.md");
    let missing: Vec<String> = pages()
        .into_keys()
        .map(|path| path.display().to_string())
        .filter(|path| !index.contains(&format!("({path})")))
        .collect();
    assert!(missing.is_empty(), "docs/README.md does not link: {missing:?}");
}
