//! The rules hold for the project, and each finds what it is there for.

use std::path::Path;

use super::*;
use crate::workspace::{Dependency, Package};

fn rules_found(path: &str, text: &str) -> Vec<&'static str> {
    let mut findings = Vec::new();
    rules::file(&SourceFile::new(Path::new(path), text.to_owned()), &mut findings);
    findings.into_iter().map(|finding| finding.rule).collect()
}

const ROLE: &str = "//! Does this and that.\n";

#[test]
fn every_house_rule_holds() {
    assert!(run(false).expect("the rules can be checked"), "see the findings above, or run `cargo xtask tidy`");
}

#[test]
fn a_file_says_its_role_first() {
    assert_eq!(rules_found("crates/server/src/a.rs", "use std::io;\n"), ["role"]);
    assert!(rules_found("crates/server/src/a.rs", ROLE).is_empty());
}

#[test]
fn long_files_are_found_and_tests_do_not_count() {
    let long = format!("{ROLE}{}", "fn a() {}\n".repeat(701));
    assert_eq!(rules_found("crates/server/src/a.rs", &long), ["size"]);
    assert!(rules_found("crates/server/src/a/tests.rs", &long).is_empty());
}

#[test]
fn an_unwrap_needs_its_proof() {
    let unproved = format!("{ROLE}fn a() {{\n\n\n    b().unwrap();\n}}\n");
    let proved =
        format!("{ROLE}fn a() {{\n    // There is one, since it was put there above.\n    b().unwrap();\n}}\n");
    let in_test = format!("{ROLE}#[cfg(test)]\nmod tests {{\n    fn a() {{\n\n\n        b().unwrap();\n    }}\n}}\n");
    assert_eq!(rules_found("crates/server/src/a.rs", &unproved), ["unwrap"]);
    assert!(rules_found("crates/server/src/a.rs", &proved).is_empty());
    assert!(rules_found("crates/server/src/a.rs", &in_test).is_empty());
}

#[test]
fn a_clock_below_the_pipeline_is_found() {
    let text = format!("{ROLE}fn a() {{ SystemTime::now(); }}\n");
    assert_eq!(rules_found("crates/journal/src/a.rs", &text), ["effects"]);
    assert!(rules_found("crates/connectors/src/a.rs", &text).is_empty());
    let reads = format!("{ROLE}use std::fs;\n");
    assert_eq!(rules_found("crates/schemas/src/a.rs", &reads), ["effects"]);
    assert!(rules_found("crates/project/src/a.rs", &reads).is_empty());
}

#[test]
fn tests_that_sleep_or_are_ignored_are_found() {
    let ignored = ["#[", "ignore]"].concat();
    let text = format!("{ROLE}{ignored}\nfn a() {{ std::thread::sleep(x); }}\n");
    assert_eq!(rules_found("crates/server/tests/a.rs", &text), ["ignored", "sleep"]);
}

#[test]
fn a_reason_without_documentation_is_found() {
    let mut findings = Vec::new();
    let text = format!("{ROLE}fn a() {{ Err((\"odd\", m)) }}\nfn b() {{ of_record(\"known\", m) }}\n");
    let file = SourceFile::new(Path::new("crates/schemas/src/a.rs"), text);
    rules::reasons(&file, "record(\"known\", \"...\")", &mut findings);
    assert_eq!(findings.len(), 1);
    assert!(findings[0].message.contains("`odd`"), "{findings:?}");
}

#[test]
fn an_edge_upwards_or_sideways_is_found() {
    let package = |name: &str, to: &str, kind: Option<&str>| Package {
        name: name.into(),
        manifest_path: "Cargo.toml".into(),
        dependencies: vec![Dependency { name: to.into(), kind: kind.map(Into::into) }],
    };
    let found = |package| rules::tiers(&[package], Path::new("")).len();
    assert_eq!(found(package("weir-journal", "weir-schemas", None)), 1, "crates of one tier do not know each other");
    assert_eq!(found(package("weir-journal", "weir-pipeline", Some("dev"))), 1, "not for tests either");
    assert_eq!(found(package("weir-pipeline", "weir-simulation", Some("dev"))), 0, "tests may use what is for tests");
    assert_eq!(found(package("weir-pipeline", "weir-simulation", None)), 1);
    assert_eq!(found(package("weir-server", "weir-pipeline", None)), 0);
    assert_eq!(found(package("weir-unknown", "weir-pipeline", None)), 1, "every crate has a tier");
}

#[test]
fn a_page_that_names_what_is_gone_is_found() {
    let mut findings = Vec::new();
    let text =
        "See `crates/xtask`, `crates/nowhere/src/lib.rs`, `weir-journal` and `weir-nothing`.\n```\n`crates/no`\n```\n";
    rules::names_that_exist(Path::new("A.md"), text, &["weir-journal"], &workspace::root(), &mut findings);
    let messages: Vec<&str> = findings.iter().map(|finding| finding.message.as_str()).collect();
    assert_eq!(
        messages,
        ["names `crates/nowhere/src/lib.rs`, which is not there", "names `weir-nothing`, which is not there"]
    );
}

#[test]
fn allowed_counts_may_only_shrink() {
    let finding = |line| Finding { path: "a.rs".into(), line, rule: "unwrap", message: String::new() };
    let allowed = parse_allowed("# why\nunwrap a.rs 2\n").unwrap();
    assert!(beyond(&allowed, vec![finding(1), finding(2)]).is_empty());
    assert_eq!(beyond(&allowed, vec![finding(1), finding(2), finding(3)]).len(), 3, "one more shows them all");
    assert_eq!(beyond(&allowed, vec![finding(1)])[0].rule, "allowed", "one less has to be written down");
    assert_eq!(print_allowed(&lower(&allowed, &[finding(1)])).lines().last(), Some("unwrap a.rs 1"));
}
