//! Joins the pipeline's contracts with the connectors: inputs for sources, destinations for sinks.

use std::collections::BTreeMap;
use std::sync::Arc;

use anyhow::Context;
use weir_connectors::lake::LakeOptions;
use weir_connectors::messengers::{FileMessenger, ProgramMessenger, WebhookMessenger};
use weir_connectors::sinks::lake::LakeSink;
use weir_connectors::sinks::postgres::PostgresSink;
use weir_connectors::sources::beacon::BeaconInput;
use weir_connectors::sources::files::{FilesInput, FilesSettings};
use weir_environment::Environment;
use weir_incremental::planner::Planner;
use weir_journal::{Topic, TopicOptions};
use weir_pipeline::feed::FeedSpec;
use weir_pipeline::frames::InputPosition;
use weir_pipeline::input::InputRef;
use weir_pipeline::notify::{DeliveryFailures, Messenger, Notifier};
use weir_pipeline::prepare::SourceReader;
use weir_pipeline::sink::{Feed, Sink as Destination};
use weir_pipeline::spec::PipelineSpec;
use weir_project::{MESSENGERS, OnError, Project, SinkKind, SourceKind};

use crate::heads::{HEADS_FILE, Publisher, signing_key};
use crate::host::Host;
use crate::lineage::Lineage;

/// Open inputs with the readers of their sources, and the topics that the beacon writes.
pub struct Inputs {
    /// For the loop.
    pub inputs: BTreeMap<String, (InputRef, Vec<Arc<SourceReader>>)>,
    /// For the beacon's listener.
    pub topics: BTreeMap<String, Arc<Topic>>,
}

/// Options of the embedded log, from the settings.
pub fn topic_options(project: &Project) -> TopicOptions {
    let log = &project.settings.log;
    TopicOptions {
        segment_bytes: log.segment_bytes,
        queue_bytes_max: usize::try_from(log.queue_bytes_max).unwrap_or(usize::MAX),
        disk_reserve_bytes: log.disk_reserve,
        ..TopicOptions::default()
    }
}

/// Opens every input of the project; `positions` are where the pipeline stands in them.
pub fn open_inputs(
    environment: &Environment,
    project: &Project,
    spec: &PipelineSpec,
    positions: &BTreeMap<String, InputPosition>,
) -> anyhow::Result<Inputs> {
    let mut inputs = BTreeMap::new();
    let mut topics = BTreeMap::new();
    for (name, indices) in spec.inputs() {
        let readers = indices.iter().map(|i| spec.sources[*i].reader.clone()).collect();
        // Every input in the spec comes from a source of the project.
        let Some(source) = project.sources.iter().find(|s| s.input == name) else { continue };
        let input: InputRef = match &source.kind {
            SourceKind::Beacon => {
                let folder = project.settings.log.path.join(&name);
                environment.storage.create_dir_all(&folder)?;
                let topic = Topic::open(environment, &folder, topic_options(project))
                    .with_context(|| format!("topic `{name}` of the log"))?;
                topics.insert(name.clone(), topic.clone());
                let input = BeaconInput::new(topic);
                if let Some(position) = positions.get(&name) {
                    // Before anything is appended to it: offsets that were read once must not be given out again.
                    let checked = input.check(&position.cursor);
                    checked.map_err(|e| anyhow::anyhow!("topic `{name}` of the log in {}: {e}", folder.display()))?;
                }
                Arc::new(input)
            }
            SourceKind::Files(files) => {
                let folder = spec.folder.join("files");
                environment.storage.create_dir_all(&folder)?;
                let settings = FilesSettings {
                    root: project.dir.clone(),
                    pattern: files.path.to_string_lossy().into_owned(),
                    format: source.decoding.clone(),
                    settle: files.settle,
                    catalogue: folder.join(format!("{name}.catalogue")),
                    storage: environment.storage.clone(),
                    clock: environment.clock.clone(),
                };
                let opened = FilesInput::open(settings);
                Arc::new(opened.map_err(|e| anyhow::anyhow!("source `{}`: {e}", source.name))?)
            }
        };
        inputs.insert(name, (input, readers));
    }
    Ok(Inputs { inputs, topics })
}

/// Opens every sink of the project. Connects to nothing yet.
pub async fn open_sinks(
    environment: &Environment,
    project: &Project,
    spec: &PipelineSpec,
    generations: &BTreeMap<String, u64>,
    lineage: &Lineage,
) -> anyhow::Result<Vec<FeedSpec>> {
    let mut feeds = Vec::new();
    for sink in &project.sinks {
        let file = sink.file.display();
        let Some(schema) = spec.schema(&sink.from) else {
            anyhow::bail!("{file}: there is no relation `{}`", sink.from);
        };
        let info = spec.relations().into_iter().find(|r| r.name == sink.from);
        let model = project.models.iter().find(|m| m.name == sink.from);
        let fingerprint = model.map_or_else(String::new, |m| m.plan.fingerprint.clone());
        let generation = generations.get(sink.from.as_ref()).copied().unwrap_or_default();
        let filter = sink.where_sql.as_deref().unwrap_or_default();
        let (version, earlier) = lineage.versions(&format!("{fingerprint}.{generation}.{filter}"));
        let feed = Feed {
            relation: sink.from.clone(),
            schema: schema.clone(),
            key: info.as_ref().map(|i| i.key.clone()).unwrap_or_default(),
            append_only: info.as_ref().is_some_and(|i| i.append_only),
            version,
            earlier,
        };
        let predicate = match &sink.where_sql {
            None => None,
            Some(sql) => {
                let planner = Planner::new(&weir_functions::register)?;
                Some(planner.expression(&schema, sql).map_err(|e| anyhow::anyhow!("{file}: {e}"))?)
            }
        };
        let destination: Box<dyn Destination> = match &sink.kind {
            SinkKind::Postgres(options) => {
                let url = options.url.resolve().map_err(|e| anyhow::anyhow!("{file}: {e}"))?;
                let table = format!("{}.{}", options.schema, options.table);
                let opened = PostgresSink::new(&sink.name, url.expose(), &table, feed);
                Box::new(opened.map_err(|e| anyhow::anyhow!("{file}: {e}"))?)
            }
            SinkKind::Lake(options) => {
                let folder = project.settings.lake.path.join("published").join(options.table.replace('.', "/"));
                environment.storage.create_dir_all(&folder)?;
                let opened = LakeSink::open(&folder.to_string_lossy(), feed, LakeOptions::default()).await;
                Box::new(opened.map_err(|e| anyhow::anyhow!("{file}: {e}"))?)
            }
        };
        let hold = sink.on_error.or_else(|| model.map(|m| m.on_error));
        feeds.push(FeedSpec {
            name: sink.name.clone(),
            relation: sink.from.clone(),
            predicate,
            where_sql: sink.where_sql.clone(),
            hold_on_error: matches!(hold, Some(OnError::Hold)),
            held_by: spec
                .checks()
                .filter(|(_, check)| check.holds(&sink.name))
                .map(|(name, check)| (name.clone(), check.clone()))
                .collect(),
            reload_ahead: false,
            sink: destination,
        });
    }
    Ok(feeds)
}

/// Who is told of violations, in the order of [`MESSENGERS`].
pub fn notifiers(host: &Host, failures: &DeliveryFailures) -> anyhow::Result<Vec<Notifier>> {
    let settings = &host.project.settings.checks;
    let mut messengers: Vec<(&str, Arc<dyn Messenger>)> = Vec::new();
    if let Some(webhook) = &settings.webhook {
        let url = webhook.resolve().map_err(|error| anyhow::anyhow!("[checks] webhook: {error}"))?;
        let webhook =
            WebhookMessenger::new(url.expose()).map_err(|error| anyhow::anyhow!("[checks] webhook: {error}"))?;
        messengers.push((MESSENGERS[0], Arc::new(webhook)));
    }
    if !settings.command.is_empty() {
        let program = ProgramMessenger::new(settings.command.clone(), host.project.dir.clone());
        messengers.push((MESSENGERS[1], Arc::new(program)));
    }
    let project = project_name(host)?;
    let notifier = |(name, messenger): (&str, Arc<dyn Messenger>)| Notifier {
        name: name.to_owned(),
        messenger,
        checks: host.spec.checks().map(|(check, of)| (check.to_string(), of.severity.name())).collect(),
        silent: {
            let silent = host.spec.checks().filter(|(_, check)| !check.notify.iter().any(|wanted| wanted == name));
            silent.map(|(check, _)| check.to_string()).collect()
        },
        remind: settings.remind,
        project: project.clone(),
        folder: host.spec.folder.join("notify"),
        environment: host.environment.clone(),
        contents: host.core.contents().clone(),
        ledger: host.core.ledger().clone(),
        failures: failures.clone(),
    };
    Ok(messengers.into_iter().map(notifier).collect())
}

fn project_name(host: &Host) -> anyhow::Result<String> {
    let folder = std::path::absolute(&host.project.dir)?;
    Ok(folder.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default())
}

/// Who signs and hands out heads of the ledger; None when nobody asked for it.
pub fn publisher(host: &Host, failures: &DeliveryFailures) -> anyhow::Result<Option<Publisher>> {
    let settings = &host.project.settings.ledger;
    let mut messengers: Vec<(String, Arc<dyn Messenger>)> = Vec::new();
    if let Some(path) = &settings.publish_file {
        messengers.push(("publish_file".into(), Arc::new(FileMessenger::new(path.clone()))));
    }
    if let Some(webhook) = &settings.publish_webhook {
        let failed = |error: String| anyhow::anyhow!("[ledger] publish_webhook: {error}");
        let url = webhook.resolve().map_err(|error| failed(error.to_string()))?;
        messengers.push(("publish_webhook".into(), Arc::new(WebhookMessenger::new(url.expose()).map_err(failed)?)));
    }
    if !settings.publish_command.is_empty() {
        let program = ProgramMessenger::new(settings.publish_command.clone(), host.project.dir.clone());
        messengers.push(("publish_command".into(), Arc::new(program)));
    }
    let key = settings.sign.as_ref().map(signing_key).transpose()?;
    if key.is_none() && messengers.is_empty() {
        return Ok(None);
    }
    Ok(Some(Publisher {
        project: project_name(host)?,
        key,
        interval: settings.interval,
        messengers,
        file: host.spec.folder.join(HEADS_FILE),
        ledger: host.core.ledger().clone(),
        environment: host.environment.clone(),
        failures: failures.clone(),
    }))
}
