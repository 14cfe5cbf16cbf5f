//! `weir.toml` and its overlay `weir.PROFILE.toml`, as typed settings.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fields::{Fields, Layer};
use crate::keys;
use crate::mistake::Mistake;
use crate::secret::Template;

/// All settings, each with its default filled in. Paths are joined to the project's folder.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `[log]`.
    pub log: LogSettings,
    /// `[epoch]`.
    pub epoch: EpochSettings,
    /// `[lake]`.
    pub lake: LakeSettings,
    /// `[state]`.
    pub state: StateSettings,
    /// `[server]`.
    pub server: ServerSettings,
    /// `[query]`.
    pub query: QuerySettings,
    /// `[ledger]`.
    pub ledger: LedgerSettings,
    /// `[checks]`.
    pub checks: CheckSettings,
    /// `[schedule]`.
    pub schedule: ScheduleSettings,
}

/// The durable log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogSettings {
    /// Folder of the log.
    pub path: PathBuf,
    /// Size at which a segment is closed, bytes.
    pub segment_bytes: u64,
    /// Bytes that may wait to be written before senders are refused.
    pub queue_bytes_max: u64,
    /// Free disk space that is never used up, bytes.
    pub disk_reserve: u64,
    /// The second copy of all that is kept, where there is one.
    pub mirror: Option<MirrorSettings>,
}

/// The second copy.
#[derive(Debug, Clone, PartialEq)]
pub struct MirrorSettings {
    /// Where it is.
    pub place: MirrorPlace,
    /// Whether senders are answered only when it has their records.
    pub is_sync: bool,
    /// How far it may be behind otherwise.
    pub lag_max: Duration,
    /// The same in bytes.
    pub lag_bytes_max: u64,
}

/// Where a copy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirrorPlace {
    /// A folder.
    Folder(PathBuf),
    /// A URL `s3://BUCKET/PREFIX`.
    Objects(String),
}

impl MirrorPlace {
    /// Reads a path, a relative one from `dir` on, or a URL. The error says what is accepted.
    pub fn parse(text: &str, dir: &Path) -> Result<Self, String> {
        match text.split_once("://") {
            Some(("s3", rest)) if !rest.trim_matches('/').is_empty() => Ok(Self::Objects(text.to_owned())),
            Some(("file", path)) => Ok(Self::Folder(PathBuf::from(path))),
            Some(_) => Err(format!("`{text}` is not a place for copies, write a folder or s3://BUCKET/PREFIX")),
            None if text.is_empty() => Err("a folder has a name".to_owned()),
            None => Ok(Self::Folder(dir.join(text))),
        }
    }
}

/// How the stream is cut.
#[derive(Debug, Clone, PartialEq)]
pub struct EpochSettings {
    /// Shortest time from one epoch to the next.
    pub interval_min: Duration,
    /// Records of one epoch at most.
    pub rows_max: u64,
    /// Bytes of one epoch at most.
    pub bytes_max: u64,
    /// Threads that compute an epoch, where not all cores shall.
    pub threads: Option<u64>,
    /// A partition without records for so long is idle: it no longer holds back the watermark.
    pub idle_after: Duration,
}

/// The lake.
#[derive(Debug, Clone, PartialEq)]
pub struct LakeSettings {
    /// Folder of the tables.
    pub path: PathBuf,
    /// How often history is committed.
    pub landing_interval: Duration,
    /// Bytes waiting in memory that are committed at once.
    pub landing_bytes_max: u64,
    /// How often small files are merged.
    pub compaction_interval: Duration,
}

/// State of models.
#[derive(Debug, Clone, PartialEq)]
pub struct StateSettings {
    /// Folder of the checkpoints.
    pub path: PathBuf,
    /// Memory that state may take, bytes.
    pub memory_max: u64,
    /// How often state is saved.
    pub checkpoint_interval: Duration,
}

/// Listeners.
#[derive(Debug, Clone, PartialEq)]
pub struct ServerSettings {
    /// Queries, lookups, status and metrics.
    pub listen: SocketAddr,
    /// Beacons.
    pub beacon_listen: SocketAddr,
    /// Largest body a beacon may send, bytes.
    pub beacon_body_max: u64,
}

/// Limits of queries.
#[derive(Debug, Clone, PartialEq)]
pub struct QuerySettings {
    /// Memory for all queries together, bytes.
    pub memory_max: u64,
    /// Longest run of one query.
    pub time_max: Duration,
    /// Most rows that one query may return.
    pub rows_max: u64,
    /// Queries at one time.
    pub concurrency: u64,
}

/// Heads of the ledger that are signed and handed out.
#[derive(Debug, Clone, PartialEq)]
pub struct LedgerSettings {
    /// The private key, PKCS#8 in PEM; None: heads are not signed.
    pub sign: Option<Template>,
    /// Time from one head to the next.
    pub interval: Duration,
    /// A file that heads are appended to.
    pub publish_file: Option<PathBuf>,
    /// An HTTP address that heads are posted to, may name secrets.
    pub publish_webhook: Option<Template>,
    /// A program that is run for each head; empty when there is none.
    pub publish_command: Vec<String>,
}

/// Who is told of violations.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckSettings {
    /// An HTTP address that events are posted to, may name secrets.
    pub webhook: Option<Template>,
    /// A program that is run for each event; empty when there is none.
    pub command: Vec<String>,
    /// How often a violation that is still open is told of again.
    pub remind: Option<Duration>,
}

/// Calendar.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleSettings {
    /// Time zone of days and schedules, an IANA name.
    pub zone: String,
}

impl Settings {
    /// The defaults for a project in `dir`.
    pub fn defaults(dir: &Path) -> Self {
        Self::read(dir, &[], &mut Vec::new())
    }

    /// Reads the layers, the later overriding the earlier, entry by entry.
    pub(crate) fn read(dir: &Path, layers: &[Layer<'_>], mistakes: &mut Vec<Mistake>) -> Self {
        Fields::new(&keys::SETTINGS, "", layers.to_vec()).check_sections(mistakes);
        let section = |name: &'static str, mistakes: &mut Vec<Mistake>| {
            let fields = Fields::of_section(&keys::SETTINGS, name, layers, mistakes);
            fields.check_names(None, mistakes);
            fields
        };
        let log = section("log", mistakes);
        let log = LogSettings {
            path: dir.join(log.text("path", mistakes).unwrap_or_default()),
            segment_bytes: log.bytes("segment_bytes", mistakes),
            queue_bytes_max: log.bytes("queue_bytes_max", mistakes),
            disk_reserve: log.bytes("disk_reserve", mistakes),
            mirror: mirror(&log, dir, mistakes),
        };
        let epoch = section("epoch", mistakes);
        let epoch = EpochSettings {
            interval_min: epoch.duration("interval_min", mistakes).unwrap_or_default(),
            rows_max: epoch.positive("rows_max", mistakes),
            bytes_max: epoch.bytes("bytes_max", mistakes),
            threads: epoch.positive_if_given("threads", mistakes),
            idle_after: epoch.duration("idle_after", mistakes).unwrap_or_default(),
        };
        let lake = section("lake", mistakes);
        let lake = LakeSettings {
            path: dir.join(lake.text("path", mistakes).unwrap_or_default()),
            landing_interval: lake.duration("landing_interval", mistakes).unwrap_or_default(),
            landing_bytes_max: lake.bytes("landing_bytes_max", mistakes),
            compaction_interval: lake.duration("compaction_interval", mistakes).unwrap_or_default(),
        };
        let state = section("state", mistakes);
        let state = StateSettings {
            path: dir.join(state.text("path", mistakes).unwrap_or_default()),
            memory_max: state.bytes("memory_max", mistakes),
            checkpoint_interval: state.duration("checkpoint_interval", mistakes).unwrap_or_default(),
        };
        let server = section("server", mistakes);
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = ServerSettings {
            listen: server.address("listen", mistakes).unwrap_or(nowhere),
            beacon_listen: server.address("beacon_listen", mistakes).unwrap_or(nowhere),
            beacon_body_max: server.bytes("beacon_body_max", mistakes),
        };
        let query = section("query", mistakes);
        let query = QuerySettings {
            memory_max: query.bytes("memory_max", mistakes),
            time_max: query.duration("time_max", mistakes).unwrap_or_default(),
            rows_max: query.positive("rows_max", mistakes),
            concurrency: query.positive("concurrency", mistakes),
        };
        let ledger = section("ledger", mistakes);
        let ledger = LedgerSettings {
            sign: ledger.secret("sign", mistakes),
            interval: ledger.duration("interval", mistakes).unwrap_or_default(),
            publish_file: ledger.given_text("publish_file", mistakes).map(|path| dir.join(path.value)),
            publish_webhook: ledger.http_address("publish_webhook", mistakes),
            publish_command: ledger.text_list("publish_command", mistakes).into_iter().map(|word| word.value).collect(),
        };
        let checks = section("checks", mistakes);
        let checks = CheckSettings {
            webhook: checks.http_address("webhook", mistakes),
            command: checks.text_list("command", mistakes).into_iter().map(|word| word.value).collect(),
            remind: checks.duration("remind", mistakes),
        };
        let schedule = section("schedule", mistakes);
        let schedule = ScheduleSettings { zone: schedule.text("zone", mistakes).unwrap_or_default() };
        Settings { log, epoch, lake, state, server, query, ledger, checks, schedule }
    }
}

fn mirror(log: &Fields<'_>, dir: &Path, mistakes: &mut Vec<Mistake>) -> Option<MirrorSettings> {
    let mode = log.choice("mirror_mode", &[], mistakes);
    let lag_max = log.duration("mirror_lag_max", mistakes).unwrap_or_default();
    let lag_bytes_max = log.bytes("mirror_lag_bytes_max", mistakes);
    let given = log.given_text("mirror", mistakes)?;
    let (text, _) = log.entry("mirror")?;
    let wrong = |message: String| Mistake::at(text, given.span.clone(), "bad_value", message);
    let place = match MirrorPlace::parse(&given.value, dir) {
        Ok(MirrorPlace::Folder(folder)) if folder.starts_with(dir.join(".weir")) => {
            let message = "the mirror would be lost with the data folder that it is in".to_owned();
            mistakes.push(wrong(message).hint("name a folder on another disk"));
            return None;
        }
        Ok(place) => place,
        Err(message) => {
            mistakes.push(wrong(message));
            return None;
        }
    };
    Some(MirrorSettings { place, is_sync: mode.as_deref() != Some("async"), lag_max, lag_bytes_max })
}
