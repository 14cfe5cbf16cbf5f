//! `weir ledger`: what each epoch did, and the head of the chain to hold against it later.

use std::collections::BTreeMap;
use std::path::PathBuf;

use arrow::array::AsArray;
use chrono::{NaiveDate, NaiveDateTime, NaiveTime};
use clap::{Args, Subcommand};
use weir_project::Project;
use weir_server::client::Client;
use weir_server::{Backend, Control};

use super::query::ask;
use super::{Answer, Failure, block_on, read_project};
use crate::cli::Global;
use crate::heads::{HEADS_FILE, Head, PublicKey, SigningKey, misfits, read_heads, write_key};
use crate::offline;
use crate::output::write_batches;
use crate::report::count;

/// Arguments of `weir ledger`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// Epochs from this one on. Default: the last twenty
    #[arg(long)]
    from: Option<u64>,
    /// Epochs up to this one
    #[arg(long)]
    to: Option<u64>,
    /// Epochs from this time on (UTC): 2026-01-31, or 2026-01-31T12:00:00
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: Option<NaiveDateTime>,
    /// Epochs before this time (UTC)
    #[arg(long, value_name = "TIME", value_parser = instant)]
    until: Option<NaiveDateTime>,
    /// Only what happened to this relation
    #[arg(long)]
    relation: Option<String>,
    /// The sums of measures, group by group, in place of counts
    #[arg(long)]
    measures: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints the last epoch and its hash, which covers all before it: publish it where nobody can change it
    Head,
    /// Whether what was published once still is part of the chain; 1 when it is not
    Check {
        /// The epoch
        epoch: u64,
        /// The hash that was published
        hash: String,
    },
    /// Makes a private key that signs heads, for `[ledger] sign`, and prints the public key
    SignKey {
        /// The file to write; it must not be there
        file: PathBuf,
    },
    /// Replays the ledger, and holds heads that were handed out against it; 1 when one does not fit
    Verify {
        /// Who must have signed them: in hexadecimal, or a PEM file
        #[arg(long, value_name = "KEY")]
        public_key: Option<String>,
        /// The heads, one JSON a line. Default: those in .weir, which whoever can change the ledger can change too
        #[arg(long, value_name = "FILE")]
        heads: Option<PathBuf>,
    },
}

const EXAMPLES: &str = "\
Each entry's hash covers the entry before, so that a published head fixes all history up to it: `weir verify` computes the
chain again, `weir ledger check` holds it against what was published.

Examples:
  weir ledger --relation orders --since 2026-01-31
  weir ledger --measures --relation orders
  weir ledger --from 1000 --to 2000 --format csv > ledger.csv
  weir ledger head
  weir ledger check 4711 5f2c...
  weir ledger sign-key /etc/weir/key.pem
  weir ledger verify --public-key 3f9a... --heads their-copy.jsonl";

/// A time as people write it.
fn instant(text: &str) -> Result<NaiveDateTime, String> {
    let text = text.trim_end_matches('Z').replace(' ', "T");
    let day = || text.parse::<NaiveDate>().map(|day| day.and_time(NaiveTime::MIN));
    text.parse().or_else(|_| day()).map_err(|_| "write 2026-01-31 or 2026-01-31T12:00:00".to_owned())
}

/// Epochs shown unless told otherwise.
const EPOCHS: u64 = 20;

/// Runs the command.
pub fn execute(global: &Global, arguments: &Arguments) -> Result<Answer, Failure> {
    let project = read_project(global)?;
    let format = global.format;
    match &arguments.command {
        Some(Command::Head) => block_on(|_| async move {
            match hash(project, None).await? {
                Some((epoch, hash)) => println!("{epoch} {hash}"),
                None => return Err(Failure::Wrong("the ledger is empty: nothing has run yet".into())),
            }
            Ok(Answer::Yes)
        }),
        Some(Command::Check { epoch, hash: published }) => block_on(|_| async move {
            let (found, answer) = match hash(project, Some(*epoch)).await? {
                Some((_, hash)) if hash == *published => (format!("epoch {epoch} is as published"), Answer::Yes),
                Some((_, hash)) => (format!("epoch {epoch} is NOT as published: its hash is {hash}"), Answer::No),
                None => (format!("there is NO epoch {epoch} in the ledger"), Answer::No),
            };
            println!("{found}");
            Ok(answer)
        }),
        Some(Command::SignKey { file }) => {
            let pem = SigningKey::new_pem()?;
            write_key(file, &pem)?;
            println!("{}", SigningKey::parse(&pem)?.public());
            Ok(Answer::Yes)
        }
        Some(Command::Verify { public_key, heads }) => {
            let key = public_key.as_deref().map(PublicKey::parse).transpose();
            let key = key.map_err(|error| Failure::Wrong(format!("{error:#}")))?;
            let file = heads.clone().unwrap_or_else(|| project.dir.join(".weir").join(HEADS_FILE));
            let heads = read_heads(&file).map_err(|error| Failure::Wrong(format!("{error:#}")))?;
            block_on(|_| async move { Ok(verify(project, &heads, key.as_ref()).await?) })
        }
        None => {
            let mut conditions = Vec::new();
            conditions.extend(arguments.from.map(|from| format!("epoch >= {from}")));
            conditions.extend(arguments.to.map(|to| format!("epoch <= {to}")));
            let micros = |instant: NaiveDateTime| instant.and_utc().timestamp_micros();
            conditions.extend(arguments.since.map(|since| format!("CAST(clock AS BIGINT) >= {}", micros(since))));
            conditions.extend(arguments.until.map(|until| format!("CAST(clock AS BIGINT) < {}", micros(until))));
            if conditions.is_empty() {
                conditions.push(format!("epoch > (SELECT max(epoch) FROM weir.epochs) - {EPOCHS}"));
            }
            conditions
                .extend(arguments.relation.as_ref().map(|name| format!("relation = '{}'", name.replace('\'', "''"))));
            let (from, order) = match arguments.measures {
                true => ("weir.ledger_measures", "epoch, relation, measure, group_key"),
                false => ("weir.ledger", "epoch, relation"),
            };
            let sql = format!("SELECT * FROM {from} WHERE {} ORDER BY {order}", conditions.join(" AND "));
            block_on(|_| async move {
                let (schema, batches) = ask(project, &sql).await?;
                write_batches(&schema, &batches, format, &mut std::io::stdout().lock())?;
                Ok(Answer::Yes)
            })
        }
    }
}

/// An epoch, the last one unless it is named, and its hash.
async fn hash(project: Project, epoch: Option<u64>) -> anyhow::Result<Option<(i64, String)>> {
    let which = epoch.map_or_else(String::new, |epoch| format!(" WHERE epoch = {epoch}"));
    let sql = format!("SELECT epoch, hash FROM weir.epochs{which} ORDER BY epoch DESC LIMIT 1");
    let (_, batches) = ask(project, &sql).await?;
    Ok(batches.iter().find(|batch| batch.num_rows() > 0).map(|batch| {
        let epoch = batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().value(0);
        (epoch, batch.column(1).as_string::<i32>().value(0).to_owned())
    }))
}

/// Replays the ledger and holds heads against it.
async fn verify(project: Project, heads: &[Head], key: Option<&PublicKey>) -> anyhow::Result<Answer> {
    let replayed = match Client::attach(&project.dir).await? {
        Some(client) => client.control(&Control::CheckLedger).await?,
        None => offline::open(project.clone()).await?.0.control(Control::CheckLedger).await?,
    };
    if let Some(misfit) = replayed["misfit"].as_str() {
        println!("the ledger does NOT hold: {misfit}");
        return Ok(Answer::No);
    }
    let wanted: Vec<String> = heads.iter().map(|head| head.epoch.to_string()).collect();
    let sql = format!("SELECT epoch, hash FROM weir.epochs WHERE epoch IN ({})", wanted.join(", "));
    let (_, batches) = ask(project, &sql).await?;
    let mut hashes: BTreeMap<u64, String> = BTreeMap::new();
    for batch in &batches {
        let epochs = batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values();
        let found = batch.column(1).as_string::<i32>().iter();
        hashes
            .extend(epochs.iter().zip(found).map(|(epoch, hash)| (*epoch as u64, hash.unwrap_or_default().to_owned())));
    }
    let misfits = misfits(heads, key, |epoch| hashes.get(&epoch).cloned());
    if misfits.is_empty() {
        let signed = if key.is_some() { ", each signed by the key" } else { ", whoever signed them" };
        println!("the ledger holds, and {} with it{signed}", count(heads.len(), "head"));
        return Ok(Answer::Yes);
    }
    misfits.iter().for_each(|misfit| println!("{misfit}"));
    Ok(Answer::No)
}
