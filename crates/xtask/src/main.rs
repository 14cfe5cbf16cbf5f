//! `cargo xtask`: checks and chores of the project, each one command.

mod bench;
mod docs;
mod picture;
mod run;
mod simulate;
mod source;
mod test;
mod tidy;
mod tools;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask COMMAND

  test [--fast]            installs what the tests need, then house rules, unit tests, acceptance tests
  tidy [--update]          the house rules alone (--update lowers the counts of tidy.toml to what is there)
  docs [--check]           writes docs/ from the code, or says what in it is out of date
  picture                  runs the demo and draws it into docs/demo.svg
  kill [--count N] [--seed N]
                           kills a run at random moments and looks for anything missing or there twice
  simulate [--seeds N] [--from S] [--hours H] [--replay SEED] [--bug NAME] [--threads N] [--keep-going]
                           whole pipelines under injected faults, one seed after the other, from a release build
  bench [NAME ...]         the figures of bench/README.md as ratios, from a release build
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match arguments.as_slice() {
        ["test"] => test::run(test::Extent::All),
        ["test", "--fast"] => test::run(test::Extent::WithoutAcceptance),
        ["tidy"] => tidy::run(false),
        ["tidy", "--update"] => tidy::run(true),
        ["docs"] => docs::run(docs::Mode::Write),
        ["docs", "--check"] => docs::run(docs::Mode::Check),
        ["picture"] => picture::run(),
        ["kill", options @ ..] => test::kill(options),
        ["simulate", options @ ..] => simulate::run(options),
        ["bench", names @ ..] => bench::run(names),
        [] | ["help" | "--help" | "-h"] => {
            print!("{USAGE}");
            Ok(true)
        }
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(3)
        }
    }
}
