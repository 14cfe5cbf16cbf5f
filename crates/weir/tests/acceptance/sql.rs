//! Windows of time, sessions, as-of joins and recursion through the front door: input in two pieces, answers by hand.

use super::support::Project;

const CLICKS: &str = r#"
kind      = "files"
path      = "clicks/*"
settle    = "0 seconds"
time      = "at"
lateness  = "3650 days"

[columns]
visitor = "TEXT"
at      = "TIMESTAMP"
page    = "BIGINT"
to      = "BIGINT"
"#;

const MODELS: &[(&str, &str)] = &[
    ("tumbling", "SELECT tumble(at, INTERVAL '1 hour') AS start, count(*) AS clicks FROM clicks GROUP BY 1"),
    (
        "hopping",
        "SELECT start, count(*) AS clicks FROM (SELECT unnest(hop(at, INTERVAL '30 minutes', INTERVAL '1 hour')) AS start FROM clicks) AS windows GROUP BY start",
    ),
    (
        "sessions",
        "SELECT visitor, session, min(at) AS first, count(*) AS clicks FROM (SELECT visitor, at, sum(starts) OVER (PARTITION BY visitor ORDER BY at) AS session FROM (SELECT visitor, at, CASE WHEN at - lag(at) OVER (PARTITION BY visitor ORDER BY at) <= INTERVAL '30 minutes' THEN 0 ELSE 1 END AS starts FROM clicks) AS gaps) AS numbered GROUP BY visitor, session",
    ),
    (
        "earlier",
        "SELECT a.visitor, a.at, b.page AS page_before FROM clicks a ASOF LEFT JOIN clicks b MATCH_CONDITION (a.at > b.at) ON a.visitor = b.visitor",
    ),
    (
        "reached",
        r#"WITH RECURSIVE reach AS (SELECT page FROM clicks WHERE visitor = 'ann' UNION SELECT c."to" AS page FROM reach r JOIN clicks c ON c.page = r.page) SELECT page FROM reach"#,
    ),
    ("rolled", "SELECT visitor, count(*) AS clicks FROM clicks GROUP BY ROLLUP (visitor)"),
];

fn click(visitor: &str, time: &str, page: i64, to: i64) -> String {
    format!("{{\"visitor\":\"{visitor}\",\"at\":\"2026-01-05T{time}:00Z\",\"page\":{page},\"to\":{to}}}\n")
}

#[test]
fn windows_sessions_as_of_joins_and_recursion_follow_their_input() {
    let project = Project::new();
    project.write("sources/clicks.toml", CLICKS);
    for (name, sql) in MODELS {
        project.write(&format!("models/{name}.sql"), format!("{sql}\n"));
    }
    let first = [click("ann", "10:00", 1, 2), click("ann", "11:40", 2, 1), click("bob", "10:10", 7, 8)];
    project.write("clicks/1.json", first.concat());
    project.run_once();
    assert_eq!(project.value("SELECT clicks FROM hopping WHERE start = TIMESTAMP '2026-01-05T09:30:00'"), "2");
    assert_eq!(project.value("SELECT count(*) FROM sessions WHERE visitor = 'ann'"), "2");
    assert_eq!(project.value("SELECT page_before FROM earlier WHERE visitor = 'ann' AND page_before IS NOT NULL"), "1");
    assert_eq!(project.value("SELECT sum(page) FROM reached"), "3");

    // What comes now lies between: it closes a gap, is the newer page before, and leads on.
    let second = [click("ann", "10:20", 2, 7), click("ann", "10:50", 3, 9), click("ann", "11:15", 3, 9)];
    project.write("clicks/2.json", second.concat());
    project.run_once();
    assert_eq!(project.value("SELECT clicks FROM tumbling WHERE start = TIMESTAMP '2026-01-05T10:00:00'"), "4");
    assert_eq!(project.value("SELECT clicks FROM hopping WHERE start = TIMESTAMP '2026-01-05T10:30:00'"), "2");
    assert_eq!(project.value("SELECT clicks FROM sessions WHERE visitor = 'ann'"), "5");
    let before = "SELECT page_before FROM earlier WHERE visitor = 'ann' AND at = TIMESTAMP '2026-01-05T11:40:00'";
    assert_eq!(project.value(before), "3");
    assert_eq!(project.value("SELECT sum(page) FROM reached"), "30", "1, 2, 3, 7, 8 and 9");
    assert_eq!(project.value("SELECT clicks FROM rolled WHERE visitor IS NULL"), "6");
    project.verify();
}
