//! Every key that a project's files may have: the one table that reading, printing and the documentation share.

mod matching;

pub use self::matching::{MATCHER, MATCHES, SPLIT};

/// The kind of value a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any string.
    Text,
    /// A string that may hold `${env:NAME}` and `${file:/path}`.
    Secret,
    /// A SQL expression over the relation's columns.
    Expression,
    /// A relation's name.
    Relation,
    /// The name of one of the relation's columns.
    Column,
    /// A path; a relative one starts at the project's folder.
    Path,
    /// `true` or `false`.
    Boolean,
    /// A whole number, not negative.
    Integer,
    /// A duration such as `"10 seconds"`.
    Duration,
    /// A number of bytes such as `"64 MiB"`.
    Bytes,
    /// A share such as `"1%"`.
    Share,
    /// Address and port, such as `"127.0.0.1:8315"`.
    Address,
    /// A time zone such as `"Europe/Prague"`.
    Zone,
    /// An instant, such as `2026-01-31T12:00:00Z`.
    Instant,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A list of strings.
    TextList,
    /// A list of column names.
    Columns,
    /// A table whose entries are described by a section of their own.
    Table,
}

impl Kind {
    /// A name for documentation.
    pub fn describe(&self) -> String {
        match self {
            Kind::Text => "text".into(),
            Kind::Secret => "text, may hold secrets".into(),
            Kind::Expression => "SQL expression".into(),
            Kind::Relation => "relation".into(),
            Kind::Column => "column".into(),
            Kind::Path => "path".into(),
            Kind::Boolean => "true or false".into(),
            Kind::Integer => "whole number".into(),
            Kind::Duration => "duration".into(),
            Kind::Bytes => "size in bytes".into(),
            Kind::Share => "percentage".into(),
            Kind::Address => "address:port".into(),
            Kind::Zone => "time zone".into(),
            Kind::Instant => "instant".into(),
            Kind::Choice(words) => words.join(" | "),
            Kind::TextList => "list of text".into(),
            Kind::Columns => "list of columns".into(),
            Kind::Table => "table".into(),
        }
    }
}

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As written.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// Its default as TOML; None when there is none (then it is off, or has to be given).
    pub default: Option<&'static str>,
    /// The kinds of source or sink that have it; empty when all do.
    pub only_for: &'static [&'static str],
    /// One line for people.
    pub doc: &'static str,
}

/// The keys of one table of one kind of file.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// Name of the table; empty for the top of the file. `*` stands for any name.
    pub name: &'static str,
    /// One line for people.
    pub doc: &'static str,
    /// Its keys in the order to print them.
    pub keys: &'static [Key],
}

/// One kind of file.
#[derive(Debug, Clone, Copy)]
pub struct FileKeys {
    /// Where such files are: `weir.toml`, `sources/*.toml` ...
    pub file: &'static str,
    /// One line for people.
    pub doc: &'static str,
    /// Its tables.
    pub sections: &'static [Section],
}

impl FileKeys {
    /// The section of that name.
    pub fn section(&self, name: &str) -> Option<&'static Section> {
        self.sections.iter().find(|section| section.name == name)
    }
}

const fn key(name: &'static str, kind: Kind, default: Option<&'static str>, doc: &'static str) -> Key {
    Key { name, kind, default, only_for: &[], doc }
}

const fn only(only_for: &'static [&'static str], key: Key) -> Key {
    Key { only_for, ..key }
}

/// Every kind of file with all its keys.
pub fn all() -> [&'static FileKeys; 9] {
    [&SETTINGS, &SOURCE, &MODEL, &MODEL_NOTES, &SPLIT, &MATCHER, &CHECK, &SINK, &TEST]
}

/// `weir.toml`.
pub static SETTINGS: FileKeys = FileKeys {
    file: "weir.toml",
    doc: "Where things live. Every entry has a default that needs no other program.",
    sections: &[
        Section {
            name: "log",
            doc: "The durable log that everything comes in through.",
            keys: &[
                key("path", Kind::Path, Some("\".weir/log\""), "Folder of the log."),
                key(
                    "segment_bytes",
                    Kind::Bytes,
                    Some("\"64 MiB\""),
                    "Size at which a segment file is closed and a new one begun.",
                ),
                key(
                    "queue_bytes_max",
                    Kind::Bytes,
                    Some("\"64 MiB\""),
                    "Bytes that may wait to be written; beyond it senders are told to come back.",
                ),
                key(
                    "disk_reserve",
                    Kind::Bytes,
                    Some("\"1 GiB\""),
                    "Free disk space that is never used up; below it intake is refused.",
                ),
                key(
                    "mirror",
                    Kind::Text,
                    None,
                    "A folder on another disk, or `s3://BUCKET/PREFIX`, that gets a copy of log, journal, ledger, lake and checkpoints as they are written: `weir restore` goes on from it when the disk is lost.",
                ),
                key(
                    "mirror_mode",
                    Kind::Choice(&["sync", "async"]),
                    Some("\"sync\""),
                    "sync: a sender is answered when disk and mirror have its records. async: when the disk has them.",
                ),
                key(
                    "mirror_lag_max",
                    Kind::Duration,
                    Some("\"10 seconds\""),
                    "In mode async: how far the mirror may be behind, and so how much a lost disk takes with it. Beyond it intake waits.",
                ),
                key(
                    "mirror_lag_bytes_max",
                    Kind::Bytes,
                    Some("\"64 MiB\""),
                    "In mode async: as mirror_lag_max, in bytes of log and journal; they are held in memory.",
                ),
            ],
        },
        Section {
            name: "epoch",
            doc: "How the stream is cut into units of progress.",
            keys: &[
                key(
                    "interval_min",
                    Kind::Duration,
                    Some("\"50 milliseconds\""),
                    "Shortest time from one epoch to the next.",
                ),
                key("rows_max", Kind::Integer, Some("500_000"), "Records that one epoch takes in at most."),
                key("bytes_max", Kind::Bytes, Some("\"128 MiB\""), "Bytes that one epoch takes in at most."),
                key(
                    "threads",
                    Kind::Integer,
                    None,
                    "Threads that compute an epoch. Default: as many as the process may use cores.",
                ),
                key(
                    "idle_after",
                    Kind::Duration,
                    Some("\"1 minute\""),
                    "A partition without records for so long no longer holds back its source's watermark.",
                ),
            ],
        },
        Section {
            name: "lake",
            doc: "History and contents of relations, as Delta Lake tables.",
            keys: &[
                key("path", Kind::Path, Some("\".weir/lake\""), "Folder of the tables."),
                key("landing_interval", Kind::Duration, Some("\"10 seconds\""), "How often new history is committed."),
                key(
                    "landing_bytes_max",
                    Kind::Bytes,
                    Some("\"128 MiB\""),
                    "History waiting in memory that is committed at once.",
                ),
                key("compaction_interval", Kind::Duration, Some("\"10 minutes\""), "How often small files are merged."),
            ],
        },
        Section {
            name: "state",
            doc: "What models keep between epochs.",
            keys: &[
                key("path", Kind::Path, Some("\".weir/state\""), "Folder of the checkpoints."),
                key(
                    "memory_max",
                    Kind::Bytes,
                    Some("\"4 GiB\""),
                    "Memory that state may take; what is of least use stays on disk alone, in the checkpoints. Rows that wait for a time are always in memory, and all rows of a key or partition come into it together.",
                ),
                key(
                    "checkpoint_interval",
                    Kind::Duration,
                    Some("\"1 minute\""),
                    "How often state is saved. A restart runs the epochs since again.",
                ),
            ],
        },
        Section {
            name: "server",
            doc: "Listeners.",
            keys: &[
                key(
                    "listen",
                    Kind::Address,
                    Some("\"127.0.0.1:8315\""),
                    "Queries, lookups, status and metrics over HTTP.",
                ),
                key(
                    "beacon_listen",
                    Kind::Address,
                    Some("\"127.0.0.1:8314\""),
                    "Where beacons send events; answers nothing else.",
                ),
                key("beacon_body_max", Kind::Bytes, Some("\"1 MiB\""), "Largest body a beacon may send."),
            ],
        },
        Section {
            name: "query",
            doc: "Limits of queries.",
            keys: &[
                key("memory_max", Kind::Bytes, Some("\"1 GiB\""), "Memory for all queries together."),
                key("time_max", Kind::Duration, Some("\"1 minute\""), "Longest run of one query."),
                key("rows_max", Kind::Integer, Some("1_000_000"), "Most rows that one query may return."),
                key("concurrency", Kind::Integer, Some("8"), "Queries at one time; others wait."),
            ],
        },
        Section {
            name: "ledger",
            doc: "Heads of the ledger, signed and handed out, so that nobody can rewrite history in silence.",
            keys: &[
                key(
                    "sign",
                    Kind::Secret,
                    None,
                    "The private key that signs heads: `${file:/path/key.pem}`, as `weir ledger sign-key` makes one. Heads are kept in `.weir/heads.jsonl`.",
                ),
                key(
                    "interval",
                    Kind::Duration,
                    Some("\"1 hour\""),
                    "Time from one head to the next; there is one at each end of a run as well.",
                ),
                key("publish_file", Kind::Path, None, "A file that each head is appended to, as a line of JSON."),
                key(
                    "publish_webhook",
                    Kind::Secret,
                    None,
                    "An HTTP address that each head is posted to. May hold secrets.",
                ),
                key(
                    "publish_command",
                    Kind::TextList,
                    None,
                    "A program with its arguments that is run for each head, with the JSON on its standard input.",
                ),
            ],
        },
        Section {
            name: "checks",
            doc: "Who is told when a violation opens, is put up with, closes.",
            keys: &[
                key(
                    "webhook",
                    Kind::Secret,
                    None,
                    "An HTTP address that each event is posted to as JSON. May hold secrets: `${env:NAME}`.",
                ),
                key(
                    "command",
                    Kind::TextList,
                    None,
                    "A program with its arguments that is run for each event, with the JSON on its standard input.",
                ),
                key(
                    "remind",
                    Kind::Duration,
                    None,
                    "How often a violation that is still open is told of again. Default: never.",
                ),
            ],
        },
        Section {
            name: "schedule",
            doc: "Calendar.",
            keys: &[key("zone", Kind::Zone, Some("\"UTC\""), "Time zone of days and schedules.")],
        },
    ],
};

/// Formats that `format = "..."` may name.
pub const FORMATS: &[&str] = &["json", "csv", "access_log"];
/// Formats that are agreed and not there yet.
pub const FORMATS_LATER: &[&str] = &["avro", "protobuf", "thrift", "bson", "parquet"];
/// Kinds of source that exist now.
pub const SOURCE_KINDS: &[&str] = &["beacon", "files"];
/// Kinds of source that are agreed and not there yet.
pub const SOURCE_KINDS_LATER: &[&str] = &["tail", "kafka", "mysql", "postgres", "api"];
/// Kinds of sink that exist now.
pub const SINK_KINDS: &[&str] = &["postgres", "lake"];
/// Kinds of sink that are agreed and not there yet.
pub const SINK_KINDS_LATER: &[&str] = &["mysql", "redis", "cassandra", "kafka", "warehouse", "files", "http"];

/// Rules in a line each, beside a source or model.
const CHECKS: Key = key(
    "checks",
    Kind::TextList,
    None,
    "Rules that its rows must keep, a line each: `not null a, b`, `unique a`, `accepted values a in (x, y)`, \
                     `references a in relation.b`, `freshness at within 1 hour`, `row count between 1 and 100`, \
                     `sum a equals relation.b`. Each is a check of severity `error`.",
);

/// Sums beside a source or model.
const MEASURE: Key = key(
    "measure",
    Kind::TextList,
    None,
    "Sums that the ledger keeps of its rows, epoch by epoch and exactly: `amount`, or `amount by currency` for one a \
     group. For columns of few groups; they stay in the ledger.",
);

/// `sources/*.toml`.
pub static SOURCE: FileKeys = FileKeys {
    file: "sources/*.toml",
    doc: "One file a source. The file's name is the relation's name.",
    sections: &[
        Section {
            name: "",
            doc: "What the source is, what its bytes mean, and what time and identity mean for it.",
            keys: &[
                key("kind", Kind::Choice(SOURCE_KINDS), None, "What delivers the records."),
                key(
                    "input",
                    Kind::Text,
                    None,
                    "Name of the input; several sources may read one. A beacon's path. Default: the source's name.",
                ),
                only(
                    &["files"],
                    key(
                        "path",
                        Kind::Text,
                        None,
                        "The files, as a pattern: `data/orders/*.csv.gz`. A relative one starts at the project's folder.",
                    ),
                ),
                only(
                    &["files"],
                    key(
                        "settle",
                        Kind::Duration,
                        Some("\"2 seconds\""),
                        "A file is read once it has not changed for so long.",
                    ),
                ),
                only(
                    &["files"],
                    key(
                        "compression",
                        Kind::Choice(&["auto", "none", "gzip", "zstd"]),
                        Some("\"auto\""),
                        "How files are compressed; auto goes by the file's name.",
                    ),
                ),
                key(
                    "where",
                    Kind::Expression,
                    None,
                    "Which of the input's records are this relation. What no source claims is counted as unrouted.",
                ),
                key("format", Kind::Choice(FORMATS), Some("\"json\""), "What the bytes mean."),
                key("schema", Kind::Text, None, "A contract in schemas/, in place of [columns]."),
                key(
                    "unknown_fields",
                    Kind::Choice(&["keep", "drop", "refuse"]),
                    Some("\"keep\""),
                    "Fields beside the columns: kept as JSON in `_extra`, dropped, or the record is refused.",
                ),
                key("time", Kind::Column, None, "The column with the event's time. Default: arrival."),
                key(
                    "lateness",
                    Kind::Duration,
                    None,
                    "How far behind the newest record one may be. Default: nothing is late.",
                ),
                key(
                    "ahead_max",
                    Kind::Duration,
                    None,
                    "A time further past its arrival is a broken clock and is quarantined. Default: any time is taken.",
                ),
                key("retain", Kind::Duration, None, "How long raw records and history are kept. Default: for ever."),
                key(
                    "key",
                    Kind::Columns,
                    None,
                    "Makes the relation a table: a later row replaces an earlier one of the same key.",
                ),
                key("version", Kind::Column, None, "With key: which row is later. Default: arrival."),
                key("deleted", Kind::Column, None, "With key: a row where this column is true removes the key."),
                key(
                    "dedupe",
                    Kind::Table,
                    None,
                    "Repeats are dropped and counted: `{ by = [\"id\"], within = \"7 days\" }`.",
                ),
                key(
                    "quarantine_max",
                    Kind::Share,
                    None,
                    "Stops the source beyond this share of broken records. Default: never.",
                ),
                CHECKS,
                MEASURE,
                key("columns", Kind::Table, None, "The contract: `name = \"SQL type\"`, or a table as below."),
                key(
                    "enrich",
                    Kind::Table,
                    None,
                    "Columns computed once, as the row comes in: `name = \"SQL expression\"`.",
                ),
                key("csv", Kind::Table, None, "Details of `format = \"csv\"`."),
                key("description", Kind::Text, None, "For people."),
                key("owner", Kind::Text, None, "For people."),
                key("tags", Kind::TextList, None, "For people."),
            ],
        },
        Section {
            name: "columns.*",
            doc: "The long form of a column.",
            keys: &[
                key("type", Kind::Text, None, "SQL type."),
                key("required", Kind::Boolean, Some("false"), "A record without it is quarantined."),
                key(
                    "from",
                    Kind::Text,
                    None,
                    "Where the value is: a path such as `user.id`, or `@arrival`, `@client_address`, `@user_agent`, `@referer`, `@file`. Default: the column's name.",
                ),
                key("personal", Kind::Boolean, Some("false"), "Personal data."),
                key("description", Kind::Text, None, "For people."),
            ],
        },
        Section {
            name: "dedupe",
            doc: "What a repeat is.",
            keys: &[
                key("by", Kind::Columns, None, "Columns that identify an event."),
                key("within", Kind::Duration, None, "How long an event is remembered, by event time."),
            ],
        },
        Section {
            name: "csv",
            doc: "Details of CSV.",
            keys: &[
                key("delimiter", Kind::Text, Some("\",\""), "Between fields; one character."),
                key("header", Kind::TextList, None, "Names of the fields, when the first line is not a header."),
                key(
                    "null",
                    Kind::TextList,
                    None,
                    "Texts that stand for NULL where they are not quoted. An empty field always does.",
                ),
                key(
                    "time_formats",
                    Kind::TextList,
                    None,
                    "How dates and times are written beside ISO 8601, such as `%d/%m/%Y %H:%M`.",
                ),
            ],
        },
    ],
};

/// Settings in comments of `models/**/*.sql`.
pub static MODEL: FileKeys = FileKeys {
    file: "models/**/*.sql",
    doc: "One SELECT a file. Settings stand in comments: `-- weir: key = [\"visitor_id\"]`.",
    sections: &[Section {
        name: "",
        doc: "Settings of a model.",
        keys: &[
            key(
                "key",
                Kind::Columns,
                None,
                "Columns that identify a row; needed for lookups by key and by keyed destinations.",
            ),
            key(
                "refresh",
                Kind::Choice(&["incremental", "full"]),
                Some("\"incremental\""),
                "How the model is kept up to date: `incremental` by what changed, every epoch; `full` by running the whole \
                 query again beside the epochs when what it reads has changed, which takes any query whose result depends \
                 on nothing but its inputs.",
            ),
            key(
                "refresh_interval",
                Kind::Duration,
                Some("\"1 minute\""),
                "Shortest time from one recomputation to the next, with `refresh = \"full\"`.",
            ),
            key(
                "on_error",
                Kind::Choice(&["hold", "continue"]),
                Some("\"continue\""),
                "What sinks do while rows of the model fail: hold the last good epoch, or go on without those rows.",
            ),
            CHECKS,
            MEASURE,
            key("description", Kind::Text, None, "For people."),
            key("owner", Kind::Text, None, "For people."),
            key("tags", Kind::TextList, None, "For people."),
        ],
    }],
};

/// `models/**/*.toml`.
pub static MODEL_NOTES: FileKeys = FileKeys {
    file: "models/**/*.toml",
    doc: "What teams add to the model of the same name.",
    sections: &[
        Section {
            name: "",
            doc: "Facts for people.",
            keys: &[
                key("description", Kind::Text, None, "What a row is."),
                key("owner", Kind::Text, None, "Who to ask."),
                key("tags", Kind::TextList, None, "Words to find it by."),
                MEASURE,
                key("columns", Kind::Table, None, "Columns: `name = \"description\"`, or a table as below."),
            ],
        },
        Section {
            name: "columns.*",
            doc: "The long form of a column.",
            keys: &[
                key("description", Kind::Text, None, "What it means."),
                key("personal", Kind::Boolean, Some("false"), "Personal data."),
            ],
        },
    ],
};

/// `checks/*.sql`.
pub static CHECK: FileKeys = FileKeys {
    file: "checks/*.sql",
    doc: "One SELECT a file that must return no rows, watched in every epoch. Settings stand in comments: \
          `-- weir: severity = \"block\"`. Its rows are the relation `checks.NAME`, its life is in `weir.checks`.",
    sections: &[Section {
        name: "",
        doc: "Settings of a check.",
        keys: &[
            key(
                "severity",
                Kind::Choice(&["warn", "error", "block"]),
                Some("\"error\""),
                "What a violation does: it is told; `weir checks` answers no as well; or sinks wait as well, at the epoch before.",
            ),
            key("tolerance", Kind::Integer, Some("0"), "Rows that are put up with."),
            key(
                "grace",
                Kind::Duration,
                Some("\"0 seconds\""),
                "For so long more rows are put up with: time for what may come late.",
            ),
            key("message", Kind::Text, None, "What is said of a violation: `order {id} was paid twice`."),
            key(
                "notify",
                Kind::TextList,
                None,
                "Who is told of violations: `webhook`, `command` of [checks] in weir.toml, or nobody: `[]`. Default: both.",
            ),
            key("holds", Kind::TextList, None, "The sinks that wait, with `severity = \"block\"`. Default: all."),
            key("description", Kind::Text, None, "For people."),
            key("owner", Kind::Text, None, "For people."),
            key("tags", Kind::TextList, None, "For people."),
        ],
    }],
};

/// `sinks/*.toml`.
pub static SINK: FileKeys = FileKeys {
    file: "sinks/*.toml",
    doc: "One file a destination: which relation goes where.",
    sections: &[Section {
        name: "",
        doc: "The destination.",
        keys: &[
            key("kind", Kind::Choice(SINK_KINDS), None, "What takes the rows."),
            key("from", Kind::Relation, None, "The model or source."),
            key("where", Kind::Expression, None, "Which of its rows. Default: all."),
            only(
                &["postgres"],
                key("url", Kind::Secret, None, "Connection: `postgres://user:${env:PASSWORD}@host/database`."),
            ),
            only(&["postgres"], key("schema", Kind::Text, Some("\"public\""), "Schema of the table.")),
            only(&["postgres"], key("table", Kind::Text, None, "The table. Default: the relation's name.")),
            only(
                &["lake"],
                key("name", Kind::Text, None, "Name of the table in the lake. Default: the relation's name."),
            ),
            key(
                "on_error",
                Kind::Choice(&["hold", "continue"]),
                None,
                "While rows of the model fail: hold the last good epoch, or go on. Default: as the model says.",
            ),
            key("description", Kind::Text, None, "For people."),
            key("owner", Kind::Text, None, "For people."),
            key("tags", Kind::TextList, None, "For people."),
        ],
    }],
};

/// `tests/*.toml`.
pub static TEST: FileKeys = FileKeys {
    file: "tests/**/*.toml",
    doc: "One case a file: given these source rows, expect these model rows.",
    sections: &[Section {
        name: "",
        doc: "The case. Rows are tables, or one text with a line a row and `|` between cells.",
        keys: &[
            key("name", Kind::Text, None, "What the case shows. Default: the file's name."),
            key("now", Kind::Instant, None, "The clock. Default: the newest time in the given rows."),
            key("given", Kind::Table, None, "Rows by source: `[[given.orders]]`, or `given.orders = \"\"\"...\"\"\"`."),
            key("expect", Kind::Table, None, "Rows by model; columns that are not named are not compared."),
        ],
    }],
};

/// The whole of `weir.toml` with every default, each with its line of documentation, all commented out.
pub fn settings_template() -> String {
    let mut text = String::from(
        "# Settings of the project. Every entry is optional; what stands here commented out is its default.\n\
         # `weir.NAME.toml` beside this file says what differs under `--profile NAME`.\n",
    );
    for section in SETTINGS.sections {
        text.push_str(&format!("\n# {}\n[{}]\n", section.doc, section.name));
        let width = section.keys.iter().map(|key| key.name.len() + key.default.unwrap_or("").len()).max().unwrap_or(0);
        for key in section.keys {
            let default = key.default.unwrap_or("\"\"");
            let pad = width.saturating_sub(key.name.len() + default.len());
            text.push_str(&format!("# {} = {default}{:pad$}  # {}\n", key.name, "", key.doc));
        }
    }
    text
}
