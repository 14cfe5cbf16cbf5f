//! `weir graph`: what feeds what.

use clap::{Args, ValueEnum};

use super::{Answer, Failure, read_project};
use crate::cli::Global;

/// Arguments of `weir graph`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The form of the picture
    #[arg(long = "as", value_enum, default_value_t = Form::Text)]
    form: Form,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Form {
    /// A line an edge
    Text,
    /// For Graphviz
    Dot,
    /// A picture
    Svg,
}

const EXAMPLES: &str = "\
Examples:
  weir graph
  weir graph --as svg > lineage.svg
  weir graph --as dot | dot -Tpng > lineage.png";

/// Runs the command.
pub fn run(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let graph = read_project(global)?.graph();
    print!(
        "{}",
        match arguments.form {
            Form::Text => graph.text(),
            Form::Dot => graph.dot(),
            Form::Svg => graph.svg(),
        }
    );
    Ok(Answer::Yes)
}
