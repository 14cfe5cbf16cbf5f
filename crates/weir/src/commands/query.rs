//! `weir query`: asks the live relations, whether or not `weir run` is up.

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::StreamExt;
use weir_project::Project;
use weir_server::Encoding;
use weir_server::client::Client;
use weir_server::{Backend, QueryLimits};

use clap::Args;

use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;
use crate::offline;
use crate::output::{Format, write_batches};

/// Arguments of `weir query`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// One SELECT, SHOW or EXPLAIN
    sql: String,
}

const EXAMPLES: &str = "\
Asks the running pipeline, or recovers the data folder and asks that. One epoch for everything the query touches.

Examples:
  weir query \"SELECT * FROM revenue ORDER BY minute DESC LIMIT 10\"
  weir query \"SHOW TABLES\"
  weir query \"SELECT reason, count(*) FROM weir.quarantine GROUP BY reason\"
  weir query --format csv \"SELECT * FROM visitor_profile\" > profiles.csv";

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let (sql, format) = (arguments.sql.clone(), global.format);
    block_on(|_| async move {
        query(project, &sql, format).await?;
        Ok(Answer::Yes)
    })
}

/// Asks and prints.
pub async fn query(project: Project, sql: &str, format: Format) -> anyhow::Result<()> {
    let (schema, batches) = ask(project, sql).await?;
    write_batches(&schema, &batches, format, &mut std::io::stdout().lock())
}

/// Asks the running pipeline, or the recovered data folder.
pub async fn ask(project: Project, sql: &str) -> anyhow::Result<(SchemaRef, Vec<RecordBatch>)> {
    if let Some(client) = Client::attach(&project.dir).await? {
        let answer = client.query(sql, Encoding::Arrow).await?.bytes().await?;
        let reader = arrow::ipc::reader::StreamReader::try_new(std::io::Cursor::new(answer), None)?;
        let schema = reader.schema();
        return Ok((schema, reader.collect::<Result<Vec<_>, _>>()?));
    }
    let settings = project.settings.query.clone();
    let (service, _host) = offline::open(project).await?;
    let limits = QueryLimits {
        time_max: settings.time_max,
        memory_max: usize::try_from(settings.memory_max).unwrap_or(usize::MAX),
        rows_max: settings.rows_max,
    };
    let mut answer = service.query(sql, &limits).await?;
    let mut batches = Vec::new();
    while let Some(batch) = answer.batches.next().await {
        batches.push(batch?);
    }
    Ok((answer.schema, batches))
}
