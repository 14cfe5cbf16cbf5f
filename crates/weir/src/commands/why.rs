//! `weir why`: the records that made a row, step by step; or at which step an expected row fell out.

mod tell;

use weir_pipeline::why::{Answer as Why, Question};
use weir_project::Project;
use weir_server::client::Client;

use clap::Args;

use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;
use crate::offline;
use crate::output::Format;

/// Arguments of `weir why`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The model, or a source
    model: String,
    /// The row: `column=value` pairs, or the values of the model's key in order
    #[arg(value_name = "KEY")]
    key: Vec<String>,
    /// Ask why there is no such row
    #[arg(long)]
    not: bool,
    /// The row, as a condition in SQL
    #[arg(long = "where", value_name = "SQL")]
    condition: Option<String>,
    /// Records shown of each source at most
    #[arg(long, default_value_t = 10)]
    limit: usize,
}

const EXAMPLES: &str = "\
Shows the row, the rows of each model between with its SQL, and the source records at the end: topic or file, offset,
arrival, epoch and raw bytes, as far as they are still kept. The models are run over only these records to see whether they
give the row. With --not: the first step that no row with the values left, from what never arrived to what a condition,
a join or a limit of a model kept out. docs/why.md says what neither can tell.

Exit code 1 when there is no such row (with --not: when there is).

Examples:
  weir why visitor_profile v-17
  weir why sessions visitor_id=v-17 session=2
  weir why revenue_by_minute --where \"revenue < 0\" --limit 50
  weir why --not order_lines 1007
  weir why --not visitor_profile visitor_id=v-99 --format json";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let key = arguments.key.iter().map(|part| match part.split_once('=') {
        Some((name, value)) => (Some(name.trim().to_owned()), value.to_owned()),
        None => (None, part.clone()),
    });
    let question = Question {
        model: arguments.model.clone(),
        key: key.collect(),
        condition: arguments.condition.clone(),
        not: arguments.not,
        limit: arguments.limit,
    };
    let format = global.format;
    block_on(|_| async move {
        let answer = ask(project, &question).await?;
        match format {
            Format::Json => println!("{}", serde_json::to_string(&answer).map_err(anyhow::Error::from)?),
            _ => print!("{}", tell::text(&answer, question.not)),
        }
        let is_there = matches!(answer, Why::Present(_));
        Ok(if is_there != question.not { Answer::Yes } else { Answer::No })
    })
}

/// Asks the running pipeline, or the recovered data folder.
async fn ask(project: Project, question: &Question) -> anyhow::Result<Why> {
    if let Some(client) = Client::attach(&project.dir).await? {
        let answer = client.why(&serde_json::to_value(question)?).await?;
        return Ok(serde_json::from_value(answer)?);
    }
    let memory_max = usize::try_from(project.settings.query.memory_max).unwrap_or(usize::MAX);
    let (service, _host) = offline::open_with_inputs(project).await?;
    Ok(service.answer_why(question, memory_max).await?)
}
