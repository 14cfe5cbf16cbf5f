//! What the planner says of sound and of mistaken models.

use crate::harness::{planner, schemas};
use weir_incremental::{PlanError, PlanErrorKind};

fn mistake(sql: &str) -> PlanError {
    planner().plan("model", sql).expect_err(sql)
}

#[test]
fn a_mistyped_column_is_told_with_place_and_suggestion() {
    let mistake = mistake("SELECT id,\n  amuont\nFROM events");
    assert_eq!(mistake.kind, PlanErrorKind::UnknownColumn);
    assert_eq!((mistake.line, mistake.column, mistake.length), (Some(2), Some(3), Some(6)));
    assert_eq!(mistake.hint.as_deref(), Some("did you mean `amount`?"));
}

#[test]
fn a_mistyped_relation_is_told_with_place_and_suggestion() {
    let mistake = mistake("SELECT rate FROM finance.rate");
    assert_eq!(mistake.kind, PlanErrorKind::UnknownRelation);
    assert_eq!((mistake.line, mistake.column), (Some(1), Some(18)));
    assert_eq!(mistake.hint.as_deref(), Some("did you mean `finance.rates`?"));
}

#[test]
fn a_mistyped_function_is_told_with_place_and_suggestion() {
    let mistake = mistake("SELECT uper(kind) AS kind FROM events");
    assert_eq!(mistake.kind, PlanErrorKind::UnknownFunction);
    assert_eq!((mistake.line, mistake.column), (Some(1), Some(8)));
    assert_eq!(mistake.hint.as_deref(), Some("did you mean `upper`?"));
}

#[test]
fn syntax_errors_have_a_place() {
    let mistake = mistake("SELECT id\nFORM events");
    assert_eq!(mistake.kind, PlanErrorKind::Syntax);
    assert_eq!(mistake.line, Some(2));
}

#[test]
fn every_column_without_a_name_is_told() {
    let mistake = mistake("SELECT kind, count(*), sum(n) FROM events GROUP BY kind");
    assert_eq!(mistake.all().count(), 2);
    assert_eq!((mistake.line, mistake.column), (Some(1), Some(14)));
}

#[test]
fn what_is_not_one_select_is_refused() {
    for sql in ["", "DROP TABLE events", "INSERT INTO events SELECT * FROM events", "SELECT 1 AS a; SELECT 2 AS a"] {
        assert_eq!(mistake(sql).kind, PlanErrorKind::Syntax, "{sql}");
    }
}

#[test]
fn names_must_be_unique() {
    assert!(mistake("SELECT e.user_id, u.user_id FROM events e, users u").message.contains("two columns are named"));
}

#[test]
fn clock_and_chance_are_refused_where_they_change_results() {
    for sql in [
        "SELECT now() AS at FROM events",
        "SELECT random() AS x FROM events",
        "SELECT uuid() AS x FROM events",
        "SELECT id FROM events WHERE at > now() OR ok",
        "SELECT id FROM events WHERE extract(hour FROM now()) = n",
    ] {
        let mistake = mistake(sql);
        assert_eq!(mistake.kind, PlanErrorKind::NonDeterministic, "{sql}: {mistake}");
        assert!(mistake.hint.is_some() && mistake.line.is_some(), "{sql}: {mistake:?}");
    }
}

#[test]
fn what_is_refused_is_told_with_its_place() {
    let mistake = mistake("SELECT kind,\n  approx_median(id) AS middle FROM events GROUP BY kind");
    assert_eq!((mistake.line, mistake.column, mistake.length), (Some(2), Some(3), Some(13)), "{mistake:?}");
}

#[test]
fn what_cannot_be_kept_is_refused_with_a_way_out() {
    for sql in [
        "SELECT approx_median(n) AS middle FROM events",
        // Recursion that is not linear, or not monotone.
        "WITH RECURSIVE r AS (SELECT id FROM events UNION SELECT a.id FROM r a JOIN r b ON a.id = b.id + 1) SELECT id FROM r",
        "WITH RECURSIVE r AS (SELECT id FROM events UNION SELECT max(id) AS id FROM r) SELECT id FROM r",
        "WITH RECURSIVE r AS (SELECT id FROM events UNION SELECT e.id FROM events e WHERE e.id NOT IN (SELECT id FROM r)) SELECT id FROM r",
        "WITH RECURSIVE r AS (SELECT id FROM events UNION SELECT e.id FROM events e LEFT JOIN r ON r.id = e.id) SELECT id FROM r",
        "WITH RECURSIVE r AS (SELECT id FROM events UNION ALL SELECT DISTINCT id + 1 AS id FROM r WHERE id < 9) SELECT id FROM r",
        "WITH RECURSIVE r AS (SELECT id FROM events UNION ALL SELECT id FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM r) AS t WHERE place < 2) SELECT id FROM r",
        // As-of joins whose conditions do not compare the sides as they should.
        "SELECT a.id FROM events a ASOF JOIN events b MATCH_CONDITION (a.at = b.at) ON a.id = b.id",
        "SELECT a.id FROM events a ASOF JOIN events b MATCH_CONDITION (a.at >= a.at) ON a.id = b.id",
        "SELECT a.id FROM events a ASOF JOIN events b MATCH_CONDITION (a.at >= b.at) ON a.id = b.id AND b.n > 1",
        "SELECT a.id FROM events a ASOF JOIN events b MATCH_CONDITION (a.at >= b.at) ON a.id > b.id",
        "SELECT a.id FROM events a ASOF JOIN events b MATCH_CONDITION (a.at >= b.at) USING (id)",
    ] {
        let mistake = mistake(sql);
        assert_eq!(mistake.kind, PlanErrorKind::Unsupported, "{sql}: {mistake}");
        assert!(mistake.hint.is_some(), "{sql}: {mistake}");
    }
}

#[test]
fn equal_meaning_has_an_equal_fingerprint() {
    let planner = planner();
    let plan = |sql: &str| planner.plan("model", sql).unwrap().fingerprint;
    let one = plan("SELECT kind, count(*) AS count FROM events WHERE n > 1 GROUP BY kind");
    assert_eq!(
        one,
        plan("-- the same\nselect e.kind, count(*) as count\nfrom events as e where e.n > 1 group by e.kind")
    );
    assert_ne!(one, plan("SELECT kind, count(*) AS count FROM events WHERE n > 2 GROUP BY kind"));
}

#[test]
fn what_differs_only_in_the_sixth_row_or_in_how_it_sees_nulls_has_another_fingerprint() {
    let planner = planner();
    let plan = |sql: &str| planner.plan("model", sql).unwrap().fingerprint;
    let values =
        |last: &str| plan(&format!("SELECT column1 AS x FROM (VALUES (1), (2), (3), (4), (5), ({last})) AS v"));
    assert_ne!(values("6"), values("7"));
    let join = |condition: &str| plan(&format!("SELECT e.id FROM events e JOIN users u ON {condition}"));
    assert_ne!(join("e.kind = u.name"), join("e.kind IS NOT DISTINCT FROM u.name"));
    let bytes = |last: &str| plan(&format!("SELECT x'00112233445566778899aabb{last}' AS bytes, id FROM events"));
    assert_ne!(bytes("01"), bytes("02"));
}

#[test]
fn model_columns_are_of_lake_types() {
    let model = planner()
        .plan("model", "SELECT row_number() OVER (ORDER BY id) AS number, now() > at AS past, arrow_cast(at, 'Timestamp(Nanosecond, None)') AS at FROM events")
        .map(|m| m.schema);
    // The comparison with the clock outside of WHERE is what is refused.
    assert!(model.is_err());
    let model = planner()
        .plan("model", "SELECT row_number() OVER (ORDER BY id) AS number, arrow_cast(at, 'Timestamp(Nanosecond, None)') AS at FROM events")
        .unwrap();
    let types: Vec<String> = model.schema.fields().iter().map(|f| f.data_type().to_string()).collect();
    assert_eq!(types, ["Int64", "Timestamp(µs)"]);
}

#[test]
fn expressions_of_sources_are_planned_and_the_clock_is_refused_in_them() {
    let planner = planner();
    let (_, schema) = schemas().remove(0);
    assert!(planner.expression(&schema, "kind = 'click' AND n > 0").is_ok());
    assert_eq!(planner.expression(&schema, "now()").unwrap_err().kind, PlanErrorKind::NonDeterministic);
    let mistake = planner.expression(&schema, "knd = 'click'").unwrap_err();
    assert_eq!(mistake.hint.as_deref(), Some("did you mean `kind`?"));
}

#[tokio::test]
async fn query_sessions_answer_and_refuse() {
    use datafusion::datasource::MemTable;
    let (relation, schema) = schemas().remove(2);
    let table = std::sync::Arc::new(MemTable::try_new(schema, vec![vec![]]).unwrap());
    let session = planner().query_session(&[(relation, table)], 7, Default::default()).unwrap();
    let rows =
        session.sql("SELECT count(*) AS c, now() AS at FROM finance.rates").await.unwrap().collect().await.unwrap();
    assert_eq!(rows[0].num_rows(), 1);
    let fine = [
        "SHOW TABLES",
        "EXPLAIN SELECT * FROM finance.rates",
        "SELECT day FROM finance.rates EXCEPT SELECT day FROM finance.rates",
        "SELECT r.day FROM finance.rates r LEFT SEMI JOIN finance.rates s ON r.day = s.day",
    ];
    for sql in fine {
        session.sql(sql).await.unwrap().collect().await.unwrap();
    }
    for sql in [
        "CREATE TABLE x AS SELECT 1",
        "INSERT INTO finance.rates SELECT * FROM finance.rates",
        "COPY finance.rates TO 'x.csv'",
        "SET datafusion.execution.batch_size = 1",
        // DataFusion counts these as it should not.
        "SELECT day FROM finance.rates EXCEPT ALL SELECT day FROM finance.rates",
        "SELECT 1 AS x WHERE 1 IN (SELECT 1 INTERSECT ALL SELECT 1)",
    ] {
        assert!(session.sql(sql).await.is_err(), "{sql}");
    }
}
