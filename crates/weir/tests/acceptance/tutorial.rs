//! The README's tutorial, followed word for word: each command is run, and must print what the page says.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::support::{Project, finish};

/// A step of the tutorial.
#[derive(Debug, PartialEq)]
enum Step {
    /// Write this text to this file: a block whose first line is a comment with the file's name.
    Write { path: String, text: String },
    /// Run this in a shell, and see this.
    Run { command: String, output: String },
}

/// Blocks between the tutorial's heading and the next: `sql`, `toml` and `json` are files, `console` is commands after `$`.
fn steps(page: &str) -> Vec<Step> {
    let tutorial = page.split("\n## ").find(|part| part.to_lowercase().contains("ten minutes")).expect("a tutorial");
    let mut steps = Vec::new();
    for block in tutorial.split("\n```").skip(1).step_by(2) {
        let (language, text) = block.split_once('\n').expect("a block has lines");
        match language {
            "console" => steps.extend(commands(text)),
            "sql" | "toml" | "json" => {
                let (first, _) = text.split_once('\n').expect("a file has lines");
                let path = first.trim_start_matches(['#', '-', '/', ' ']).to_owned();
                steps.push(Step::Write { path, text: format!("{text}\n") });
            }
            other => panic!("the tutorial has a block of {other:?}; a reader would not know what to do with it"),
        }
    }
    steps
}

fn commands(text: &str) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for line in text.lines() {
        match (line.strip_prefix("$ "), steps.last_mut()) {
            (Some(command), _) => steps.push(Step::Run { command: command.to_owned(), output: String::new() }),
            (None, Some(Step::Run { output, .. })) => {
                output.push_str(line);
                output.push('\n');
            }
            _ => panic!("output before any command: {line}"),
        }
    }
    steps
}

/// Whether lines are equal but for what may differ from run to run: `...` on the page stands for the rest of a line.
fn matches(expected: &str, actual: &str) -> bool {
    let (expected, actual): (Vec<&str>, Vec<&str>) = (expected.lines().collect(), actual.lines().collect());
    expected.len() == actual.len()
        && expected.iter().zip(&actual).all(|(expected, actual)| match expected.split_once("...") {
            Some((start, _)) => actual.starts_with(start),
            None => expected.trim_end() == actual.trim_end(),
        })
}

/// What a command printed, with the page's own line wherever that line matches.
fn printed(expected: &str, actual: &str) -> String {
    let mut expected = expected.lines();
    let lines = actual.lines().map(|line| match expected.next() {
        Some(said) if matches(said, line) => said.to_owned(),
        _ => line.trim_end().to_owned(),
    });
    lines.map(|line| line + "\n").collect()
}

/// Follows the page; the page as it should be.
fn follow(page: &str) -> String {
    let scratch = Project::new();
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_weir"));
    let path = std::env::var("PATH").unwrap_or_default();
    let path = format!("{}:{path}", binary.parent().unwrap_or(Path::new("/")).display());
    let mut folder = scratch.path().to_path_buf();
    let mut followed = page.to_owned();
    for step in steps(page) {
        match step {
            Step::Write { path, text } => {
                let path = folder.join(path);
                std::fs::create_dir_all(path.parent().expect("a file in the folder")).expect("a folder");
                std::fs::write(path, text).expect("a file");
            }
            Step::Run { command, .. } if command.starts_with("cd ") => folder.push(&command[3..]),
            Step::Run { command, output } => {
                let mut shell = Command::new("sh");
                shell.args(["-c", &command]).current_dir(&folder).env("PATH", &path).env("NO_COLOR", "1");
                let finished = finish(&mut shell, None);
                assert!(finished.code == Some(0), "`{command}`: {finished:#?}");
                let said = format!("$ {command}\n{output}");
                followed = followed.replacen(&said, &format!("$ {command}\n{}", printed(&output, &finished.stdout)), 1);
            }
        }
    }
    followed
}

#[test]
fn the_tutorial_does_what_it_says() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../README.md");
    let page = std::fs::read_to_string(path).expect("the README");
    assert!(steps(&page).len() >= 6, "the tutorial is not there");
    let followed = follow(&page);
    if std::env::var_os("WEIR_UPDATE_DOCS").is_some() {
        std::fs::write(path, followed).expect("the README");
        return;
    }
    for (said, printed) in page.lines().zip(followed.lines()) {
        assert_eq!(said, printed, "the tutorial says one thing and the binary another; see `cargo xtask docs`");
    }
    assert_eq!(page.len(), followed.len());
}

#[test]
fn steps_are_read_from_the_page() {
    let page = "# W\n\n## In ten minutes\n\ntext\n\n```sql\n-- models/a.sql\nSELECT 1\n```\n\n```console\n$ weir b\nc\nd\n$ e\n```\n\n## Next\n";
    let expected = [
        Step::Write { path: "models/a.sql".into(), text: "-- models/a.sql\nSELECT 1\n".into() },
        Step::Run { command: "weir b".into(), output: "c\nd\n".into() },
        Step::Run { command: "e".into(), output: String::new() },
    ];
    assert_eq!(steps(page), expected);
    assert!(matches("1 row in ...\n", "1 row in 3 ms\n"));
    assert!(!matches("1 row\n", "2 rows\n"));
    assert_eq!(printed("1 row in ...\nold\n", "1 row in 3 ms\nnew\nmore"), "1 row in ...\nnew\nmore\n");
}
