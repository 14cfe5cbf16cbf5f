//! A page for every command, from the help that the binary prints.

use std::path::PathBuf;
use std::process::Command;

use super::Pages;

/// Adds commands/NAME.md for every command and sub-command.
pub fn pages(pages: &mut Pages) {
    for command in subcommands(&[]) {
        let mut text = page(&[&command]);
        for inner in subcommands(&[&command]) {
            text.push('\n');
            text.push_str(&page(&[&command, &inner]));
        }
        pages.insert(PathBuf::from(format!("commands/{command}.md")), text);
    }
}

fn page(command: &[&str]) -> String {
    let marks = "#".repeat(command.len());
    let help = help(command);
    assert!(command.len() > 1 || help.contains("Examples"), "the help of {command:?} has no examples");
    format!("{marks} weir {}\n\n```text\n{}\n```\n", command.join(" "), help.trim_end())
}

fn help(command: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(command)
        .arg("--help")
        .env("NO_COLOR", "1")
        .env("COLUMNS", "100")
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "weir {command:?} --help: {output:?}");
    let help = String::from_utf8(output.stdout).expect("help is text");
    help.lines().map(str::trim_end).collect::<Vec<_>>().join("\n")
}

/// The names under `Commands:` in a command's help.
fn subcommands(command: &[&str]) -> Vec<String> {
    let help = help(command);
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next()).map(str::to_owned);
    names.filter(|name| name != "help").collect()
}
