//! A real access log of 10,000 lines, one of them cut off: every line is a row or in quarantine, and DuckDB agrees.

use super::support::{Project, assert_same_rows, duckdb, shared};

const LOG: &str = "access_logs/semicomplete_2015_combined.log";

fn project() -> Project {
    let project = Project::new();
    project.write(
        "sources/requests.toml",
        r#"
        kind   = "files"
        path   = "logs/*.log"
        settle = "0 seconds"
        format = "access_log"
        time   = "time"
        "#,
    );
    project.write(
        "models/by_hour.sql",
        r#"
        -- Requests and bytes by hour and status.
        -- weir: key = ["day", "hour", "status"]
        SELECT CAST(date_part('day', time) AS BIGINT) AS day, CAST(date_part('hour', time) AS BIGINT) AS hour,
               CAST(status AS BIGINT) AS status, count(*) AS requests, sum(coalesce(bytes, 0)) AS bytes
        FROM requests
        GROUP BY CAST(date_part('day', time) AS BIGINT), CAST(date_part('hour', time) AS BIGINT), CAST(status AS BIGINT)
        "#,
    );
    project.copy(&shared(LOG), "logs/access.log");
    project
}

/// DuckDB's reading of the same file, with a pattern of its own.
fn duckdb_lines() -> String {
    format!(
        r#"WITH fields AS (
            SELECT regexp_extract(line, '^(\S+) (\S+) (\S+) \[([^\]]+)\] "([^"]*)" (\d{{3}}) (\d+|-) "((?:[^"\\]|\\.)*)" "((?:[^"\\]|\\.)*)"$',
                ['host', 'ident', 'login', 'time', 'request', 'status', 'bytes', 'referer', 'agent']) AS field
            FROM read_csv('{}', columns = {{'line': 'VARCHAR'}}, delim = E'\x01', quote = '', escape = '', header = false)
        ), requests AS (
            SELECT strptime(split_part(field.time, ' ', 1), '%d/%b/%Y:%H:%M:%S') AS time, CAST(field.status AS BIGINT) AS status,
                   coalesce(TRY_CAST(field.bytes AS BIGINT), 0) AS bytes
            FROM fields WHERE field.status <> ''
        )"#,
        shared(LOG).display()
    )
}

#[test]
fn every_line_is_a_row_or_in_quarantine() {
    let project = project();
    project.run_once();

    assert_eq!(project.value("SELECT count(*) FROM requests"), "9999");
    assert_eq!(project.value("SELECT count(*) FROM requests WHERE status = 200"), "9125");
    assert_eq!(project.value("SELECT count(*) FROM requests WHERE status = 404"), "213");
    assert_eq!(project.value("SELECT CAST(sum(bytes) AS BIGINT) FROM requests"), "2747282505");
    assert_eq!(project.value("SELECT count(*) FROM weir.quarantine WHERE source = 'requests'"), "1");
    let raw = project.value("SELECT CAST(raw AS VARCHAR) FROM weir.quarantine");
    assert!(raw.contains("/scripts/grok-py-test/configlib.py"), "the line that is cut off in its user agent: {raw}");
    project.verify();
}

#[test]
fn hourly_counts_equal_those_of_duckdb() {
    let project = project();
    project.run_once();

    let ours = project.query("SELECT day, hour, status, requests, CAST(bytes AS BIGINT) AS bytes FROM by_hour");
    let theirs = duckdb(&format!(
        "{} SELECT CAST(day(time) AS BIGINT) AS day, CAST(hour(time) AS BIGINT) AS hour, status, count(*) AS requests,
                   CAST(sum(bytes) AS BIGINT) AS bytes
            FROM requests GROUP BY ALL",
        duckdb_lines()
    ));
    assert_same_rows("requests by hour", &ours, &theirs);
}

#[test]
fn the_way_the_stream_is_cut_makes_no_difference() {
    let whole = project();
    whole.run_once();
    let cut = project();
    cut.weir_ok(&["run", "--once", "--epoch-rows", "777"]);

    let sql = "SELECT * FROM by_hour";
    assert_same_rows("small epochs", &cut.query(sql), &whole.query(sql));
    assert!(cut.value("SELECT count(*) FROM weir.epochs").parse::<u64>().is_ok_and(|count| count >= 10));
    cut.verify();
}
