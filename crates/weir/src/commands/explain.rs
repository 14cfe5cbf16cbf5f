//! `weir explain`: how a model is kept up to date, as a tree of operators with what they do and remember.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use serde::{Deserialize, Serialize};
use serde_json::json;
use weir_environment::Workers;
use weir_incremental::dataflow::OperatorDescription;
use weir_incremental::{Relation, UnboundedState};
use weir_pipeline::compile::compile;
use weir_project::mistake::did_you_mean;
use weir_project::{Model, Project, Refresh};
use weir_server::client::Client;

use super::query::ask;
use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;
use crate::output::Format;

/// Arguments of `weir explain`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The model
    model: String,
}

const EXAMPLES: &str = "\
Shows the operators that keep a model up to date, inputs below those that read them: rows in and out, time spent, rows
and bytes remembered, and what of that nothing bounds, with its growth a day at the present rate. Operators that several
models need are there once. A running pipeline is asked for its figures, with rates since the last question; otherwise they
are those of the data folder, without rates; a model that never ran is shown without figures. Of a model with
`refresh = \"full\"` the query's plan is shown, and from which epoch it was computed.

Examples:
  weir explain revenue
  weir explain revenue --format json
  weir query \"SELECT operator, models, state_bytes FROM weir.operators ORDER BY state_bytes DESC\"";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let Some(model) = project.models.iter().find(|model| *model.name == *arguments.model).cloned() else {
        let names = project.models.iter().map(|model| model.name.as_ref());
        let hint = did_you_mean(&arguments.model, names).map(|hint| format!("\nhelp: {hint}")).unwrap_or_default();
        return Err(Failure::Wrong(format!("there is no model `{}`{hint}", arguments.model)));
    };
    let format = global.format;
    block_on(|_| async move {
        let plan = Explanation::of(project, &model).await?;
        match format {
            Format::Json => println!("{}", plan.json()),
            _ => print!("{}", plan.text()),
        }
        Ok(Answer::Yes)
    })
}

/// What a pipeline tells of an operator: a row of `weir.operators`.
#[derive(Debug, Clone, Deserialize, Serialize)]
struct Figures {
    #[serde(skip_serializing)]
    id: String,
    rows_in: u64,
    rows_out: u64,
    busy_seconds: f64,
    state_rows: u64,
    state_bytes: u64,
    rates_over_seconds: Option<f64>,
    rows_in_per_second: Option<f64>,
    rows_out_per_second: Option<f64>,
    busy_share: Option<f64>,
    state_bytes_per_second: Option<f64>,
}

const FIGURES: &str = "SELECT id, rows_in, rows_out, busy_seconds, state_rows, state_bytes, rates_over_seconds, \
                       rows_in_per_second, rows_out_per_second, busy_share, state_bytes_per_second FROM weir.operators";

/// Where the figures are from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Origin {
    /// A pipeline that runs.
    Running,
    /// The data folder of one that does not.
    Stopped,
    /// There are none: it never ran.
    NeverRun,
}

/// A model's plan with what is known of its operators.
struct Explanation {
    model: Relation,
    origin: Origin,
    /// The folder's operators of this model, inputs before those that read them.
    operators: Vec<OperatorDescription>,
    /// By operator.
    figures: HashMap<String, Figures>,
    unbounded: Vec<UnboundedState>,
    /// Relations that others than operators make: `source` or `model`.
    relations: HashMap<String, &'static str>,
    /// Where it has no operators: it is recomputed as a whole.
    whole: Option<Whole>,
}

/// A model that is recomputed as a whole.
struct Whole {
    interval: Duration,
    /// The epoch whose contents it shows.
    computed_at: Option<i64>,
    /// What is run.
    plan: String,
}

async fn computed_at(project: Project, model: &Relation) -> anyhow::Result<Option<i64>> {
    let sql = format!("SELECT computed_at FROM weir.models WHERE name = '{}'", model.replace('\'', "''"));
    let batches = ask(project, &sql).await?.1;
    let rows = batches.iter().flat_map(weir_schemas::to_json_rows);
    Ok(rows.into_iter().find_map(|row| row["computed_at"].as_i64()))
}

impl Explanation {
    /// The plan is the folder's, so that a changed model is shown as it will run; operators that run already have the same
    /// ids.
    async fn of(project: Project, model: &Model) -> anyhow::Result<Self> {
        let spec = compile(&project)?;
        let mut operators = spec.dataflow(&Workers::new(1))?.describe();
        operators.retain(|operator| operator.models.contains(&model.name));
        let unbounded = spec.unbounded().into_iter().map(|(_, state)| state).collect();
        let sources = spec.sources.iter().map(|s| (s.name.to_string(), "source"));
        let models = spec.models.iter().map(|m| (m.plan.name.to_string(), "model"));
        let relations = sources.chain(models).collect();

        let origin = if Client::attach(&project.dir).await?.is_some() {
            Origin::Running
        } else if project.dir.join(".weir").join("accepted.json").exists() {
            Origin::Stopped
        } else {
            Origin::NeverRun
        };
        let whole = match model.refresh {
            Refresh::Incremental => None,
            Refresh::Full { interval } => {
                let mut whole =
                    Whole { interval, computed_at: None, plan: model.plan.plan.display_indent().to_string() };
                if origin != Origin::NeverRun {
                    whole.computed_at = computed_at(project.clone(), &model.name).await?;
                }
                Some(whole)
            }
        };
        let mut figures = HashMap::new();
        if whole.is_none() && origin != Origin::NeverRun {
            for batch in ask(project, FIGURES).await?.1 {
                for row in weir_schemas::to_json_rows(&batch) {
                    let row: Figures = serde_json::from_value(row).context("weir.operators is not understood")?;
                    figures.insert(row.id.clone(), row);
                }
            }
        }
        Ok(Self { model: model.name.clone(), origin, operators, figures, unbounded, relations, whole })
    }

    /// Operators whose output is the model: no operator of the model reads them. None where the model is a relation as it
    /// is.
    fn roots(&self) -> impl Iterator<Item = &OperatorDescription> {
        let read: HashSet<&String> = self.operators.iter().flat_map(|operator| &operator.inputs).collect();
        self.operators.iter().filter(move |operator| !read.contains(&operator.id))
    }

    /// State of the operator that nothing bounds.
    fn unbounded(&self, operator: &OperatorDescription) -> Option<&UnboundedState> {
        self.unbounded.iter().find(|state| state.is_of(operator))
    }

    fn json(&self) -> serde_json::Value {
        let operators: Vec<serde_json::Value> = self
            .operators
            .iter()
            .map(|operator| {
                let figures = self.figures.get(&operator.id);
                json!({
                    "id": operator.id,
                    "operator": operator.operator,
                    "detail": operator.detail,
                    "inputs": operator.inputs,
                    "models": operator.models,
                    "figures": figures,
                    "bytes_per_row": figures.and_then(bytes_per_row),
                    "growth_bytes_per_day": figures.and_then(growth_a_day),
                    "unbounded": self.unbounded(operator).map(|state| json!({"kept": state.kept, "hint": state.hint})),
                })
            })
            .collect();
        if let Some(whole) = &self.whole {
            let plan: Vec<&str> = whole.plan.lines().collect();
            let interval = whole.interval.as_secs_f64();
            return json!({
                "model": self.model,
                "refresh": "full",
                "interval_seconds": interval,
                "computed_at": whole.computed_at,
                "plan": plan,
            });
        }
        let roots: Vec<&str> = self.roots().map(|operator| operator.id.as_str()).collect();
        json!({"model": self.model, "refresh": "incremental", "figures": self.origin, "output": roots, "operators": operators})
    }

    fn text(&self) -> String {
        let mut text = format!("model {}\n", self.model);
        if let Some(whole) = &self.whole {
            let interval = lasting(whole.interval.as_secs_f64());
            let shows = match whole.computed_at {
                Some(epoch) => format!("computed from epoch {epoch}"),
                None => "not computed yet".to_owned(),
            };
            let _ = write!(text, "recomputed as a whole, at most every {interval}; {shows}\n\n{}\n", whole.plan);
            return text;
        }
        let over = self.figures.values().find_map(|figures| figures.rates_over_seconds);
        text.push_str(&match (self.origin, over) {
            (Origin::Running, Some(seconds)) => format!("running; rates over the last {}\n", lasting(seconds)),
            (Origin::Running, None) => "running for too short a time for rates\n".to_owned(),
            (Origin::Stopped, _) => "not running: what is remembered in the data folder, without rates\n".to_owned(),
            (Origin::NeverRun, _) => "it never ran: the plan alone\n".to_owned(),
        });
        text.push('\n');
        let mut shown = HashSet::new();
        for root in self.roots() {
            self.draw(root, "", "", &mut shown, &mut text);
        }
        text
    }

    /// Draws an operator and what is below it; `first` stands before its first line, `rest` before the others.
    fn draw<'a>(
        &'a self,
        operator: &'a OperatorDescription,
        first: &str,
        rest: &str,
        shown: &mut HashSet<&'a str>,
        text: &mut String,
    ) {
        let again = !shown.insert(&operator.id);
        let above = if again { " (as above)" } else { "" };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{first}{}  {}{above}", operator.operator, operator.detail);
        if again {
            return;
        }
        let stem = if operator.inputs.is_empty() { "   " } else { "│  " };
        for line in self.facts(operator) {
            let _ = writeln!(text, "{rest}{stem}{line}");
        }
        for (index, input) in operator.inputs.iter().enumerate() {
            let last = index + 1 == operator.inputs.len();
            let (branch, below) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
            match self.operators.iter().find(|operator| operator.id == *input) {
                Some(input) => {
                    self.draw(input, &format!("{rest}{branch}"), &format!("{rest}{below}"), shown, text);
                }
                None => {
                    let what = self.relations.get(input).copied().unwrap_or("relation");
                    let _ = writeln!(text, "{rest}{branch}{what} {input}");
                }
            }
        }
    }

    /// Lines about an operator.
    fn facts(&self, operator: &OperatorDescription) -> Vec<String> {
        let mut facts = Vec::new();
        let others: Vec<&str> = operator.models.iter().filter(|m| **m != self.model).map(AsRef::as_ref).collect();
        if !others.is_empty() {
            facts.push(format!("shared with {}", others.join(", ")));
        }
        let figures = self.figures.get(&operator.id);
        if figures.is_none() && self.origin != Origin::NeverRun {
            facts.push("not there yet".to_owned());
        }
        if let Some(figures) = figures {
            if self.origin == Origin::Running {
                facts.push(pace(figures));
            }
            if figures.state_rows > 0 {
                let (rows, bytes) = (counted(figures.state_rows as f64), sized(figures.state_bytes as f64));
                facts.push(format!("remembers {rows} rows, {bytes}"));
            }
        }
        if let Some(state) = self.unbounded(operator) {
            let mut warning = format!("warning: nothing bounds this: {}", state.kept);
            if let Some(bytes) = figures.and_then(bytes_per_row) {
                let _ = write!(warning, ", {} a row now", sized(bytes));
            }
            if let Some(bytes) = figures.and_then(growth_a_day) {
                let _ = write!(warning, ", {} a day at this rate", sized(bytes));
            }
            facts.push(warning);
            facts.push(format!("hint: {}", state.hint));
        }
        facts
    }
}

/// Bytes of memory for each row remembered.
fn bytes_per_row(figures: &Figures) -> Option<f64> {
    (figures.state_rows > 0).then(|| figures.state_bytes as f64 / figures.state_rows as f64)
}

/// Bytes that state grows by in a day, if it goes on as over the time of the rates.
fn growth_a_day(figures: &Figures) -> Option<f64> {
    figures.state_bytes_per_second.map(|bytes| bytes * 86_400.0)
}

/// Rows in and out, and time.
fn pace(figures: &Figures) -> String {
    let mut pace = format!("rows in {}, out {}", counted(figures.rows_in as f64), counted(figures.rows_out as f64));
    if let (Some(rows_in), Some(rows_out), Some(busy)) =
        (figures.rows_in_per_second, figures.rows_out_per_second, figures.busy_share)
    {
        let _ = write!(
            pace,
            "; a second {} in, {} out; busy {:.1}% of the time, {} in all",
            counted(rows_in),
            counted(rows_out),
            busy * 100.0,
            lasting(figures.busy_seconds)
        );
    }
    pace
}

/// `1,234,567`; one decimal where the number is small and not whole.
fn counted(number: f64) -> String {
    if number.abs() < 10.0 && number.fract() != 0.0 {
        return format!("{number:.1}");
    }
    let digits = format!("{:.0}", number.abs());
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    if number < 0.0 && digits != "0" { format!("-{grouped}") } else { grouped }
}

/// `12.3 MiB`.
fn sized(bytes: f64) -> String {
    let units = ["bytes", "KiB", "MiB", "GiB", "TiB"];
    let (mut value, mut unit) = (bytes, 0);
    while value.abs() >= 1024.0 && unit + 1 < units.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{} {}", counted(value.round()), units[unit])
    } else {
        format!("{value:.1} {}", units[unit])
    }
}

/// `42 µs`, `350 ms`, `12 s`, `3 min`, `2.5 h`.
fn lasting(seconds: f64) -> String {
    match seconds {
        s if s < 0.001 => format!("{:.0} µs", s * 1_000_000.0),
        s if s < 1.0 => format!("{:.0} ms", s * 1000.0),
        s if s < 120.0 => format!("{s:.0} s"),
        s if s < 7200.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_for_people() {
        assert_eq!(counted(0.0), "0");
        assert_eq!(counted(0.25), "0.2");
        assert_eq!(counted(999.6), "1,000");
        assert_eq!(counted(1_234_567.0), "1,234,567");
        assert_eq!(counted(-4321.0), "-4,321");
        assert_eq!(sized(1023.0), "1,023 bytes");
        assert_eq!(sized(1536.0), "1.5 KiB");
        assert_eq!(sized(-3.0 * 1024.0 * 1024.0), "-3.0 MiB");
        assert_eq!(lasting(0.000_042), "42 µs");
        assert_eq!(lasting(0.35), "350 ms");
        assert_eq!(lasting(119.0), "119 s");
        assert_eq!(lasting(9000.0), "2.5 h");
    }
}
