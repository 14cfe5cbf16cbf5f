//! Plans that only batch runs: they are planned, give what SQL says, and depend on nothing but contents and clock.

use arrow::array::{ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, UInt64Array};
use arrow::compute::{concat_batches, take_record_batch};
use arrow::datatypes::{Field, Schema};
use arrow::util::display::array_value_to_string;
use datafusion::datasource::MemTable;
use std::sync::Arc;
use weir_incremental::{BatchLimits, PlanErrorKind, PlanForm, Planner, Relation, RelationTraits, batch};

const DAY: i64 = 86_400_000_000;

/// Sales: item, place, price.
fn sales() -> RecordBatch {
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("item", Arc::new(Int64Array::from(vec![Some(1), Some(2), Some(3), Some(4), Some(5), None]))),
        ("place", Arc::new(StringArray::from(vec![Some("x"), Some("x"), Some("y"), Some("y"), None, Some("x")]))),
        ("price", Arc::new(Float64Array::from(vec![1e16, 1.0, -1e16, 0.1, 0.2, 0.3]))),
    ];
    let fields: Vec<Field> = columns.iter().map(|(n, c)| Field::new(*n, c.data_type().clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns.into_iter().map(|(_, c)| c).collect()).unwrap()
}

fn planner() -> Planner {
    let mut planner = Planner::new(&|_| Ok(())).unwrap();
    let traits = RelationTraits { append_only: true, ..RelationTraits::default() };
    planner.add_relation("sales".into(), sales().schema(), traits);
    planner
}

/// The rows of a query over the sales in some order, as sorted text.
async fn rows_over(sql: &str, sales: RecordBatch, now: i64) -> Vec<String> {
    let plan = planner().plan_whole("model", sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let table = Arc::new(MemTable::try_new(sales.schema(), vec![vec![sales]]).unwrap());
    let lookup = |name: &Relation| (name.as_ref() == "sales").then(|| table.clone() as _);
    let output = batch::run(&plan, &lookup, now, BatchLimits::default()).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    let rows = concat_batches(&plan.schema, &output.rows).unwrap();
    let text = |row: usize| {
        let cells = rows.columns().iter().map(|column| array_value_to_string(column, row).unwrap());
        cells.collect::<Vec<_>>().join("|")
    };
    let mut rows: Vec<String> = (0..rows.num_rows()).map(text).collect();
    rows.sort();
    rows
}

#[tokio::test]
async fn what_deltas_cannot_keep_gives_what_sql_says() {
    for (sql, expected) in [
        (
            "SELECT place, count(DISTINCT item) AS c FROM sales GROUP BY place HAVING max(now()) IS NOT NULL",
            vec!["x|2", "y|2", "|1"],
        ),
        (
            "WITH RECURSIVE n AS (SELECT CAST(1 AS BIGINT) AS x UNION ALL SELECT x + 1 FROM n WHERE x < 4) \
             SELECT s.place, count(DISTINCT n.x) AS c FROM n JOIN sales s ON s.item = n.x GROUP BY s.place \
             HAVING max(now()) IS NOT NULL",
            vec!["x|2", "y|2"],
        ),
        ("SELECT count(DISTINCT place) AS places FROM sales HAVING max(now()) IS NOT NULL", vec!["2"]),
        ("SELECT now() AS at, item FROM sales WHERE item = 1", vec!["1970-01-02T00:00:00|1"]),
        ("SELECT item FROM sales WHERE extract(day FROM now()) = item", vec!["2"]),
    ] {
        let mut expected: Vec<String> = expected.into_iter().map(str::to_owned).collect();
        expected.sort();
        assert_eq!(rows_over(sql, sales(), DAY).await, expected, "{sql}");
        let plan = planner().plan_whole("model", sql).unwrap();
        assert_eq!((plan.form, plan.append_only), (PlanForm::Whole, false), "{sql}");
        assert_eq!(plan.uses_now, sql.contains("now()"), "{sql}");
        let reads: Vec<&str> = plan.reads.iter().map(AsRef::as_ref).collect();
        assert_eq!(reads, ["sales"], "{sql}: work tables are not relations");
    }
}

#[tokio::test]
async fn the_order_in_which_rows_are_stored_does_not_matter() {
    let order = |indices: Vec<u64>| take_record_batch(&sales(), &UInt64Array::from(indices)).unwrap();
    for sql in [
        // The approximation makes it a plan for batch; its sums are plain ones, which depend on the order of addition.
        "SELECT place, sum(price) AS total, approx_median(item) AS c FROM sales GROUP BY place",
        "SELECT place, array_agg(item) AS items, first_value(price) AS first, approx_median(price) AS m \
         FROM sales GROUP BY place",
        "SELECT item FROM (SELECT place, min(item) AS item, approx_median(price) AS c FROM sales GROUP BY place) AS r \
         WHERE c > 0 ORDER BY place IS NULL LIMIT 2",
    ] {
        let forward = rows_over(sql, order(vec![0, 1, 2, 3, 4, 5]), 0).await;
        for other in [vec![5, 4, 3, 2, 1, 0], vec![2, 0, 5, 1, 4, 3], vec![3, 4, 0, 2, 1, 5]] {
            assert_eq!(rows_over(sql, order(other.clone()), 0).await, forward, "{sql}: {other:?}");
        }
    }
}

#[test]
fn a_plan_that_deltas_can_keep_stays_canonical() {
    let plan = planner().plan_whole("model", "SELECT place, sum(price) AS total FROM sales GROUP BY place").unwrap();
    assert_eq!((plan.form, plan.append_only), (PlanForm::Canonical, false));
    // Its rows may go when it is computed again, though its input only grows.
    let grows = planner().plan_whole("model", "SELECT item FROM sales").unwrap();
    assert!(!grows.append_only);
}

#[test]
fn the_way_out_is_named_only_where_it_works() {
    let hint = |sql: &str| planner().plan("model", sql).expect_err(sql).hint.unwrap_or_default();
    for sql in ["SELECT approx_median(item) AS m FROM sales", "SELECT now() AS at, item FROM sales"] {
        assert!(hint(sql).contains("refresh = \"full\""), "{sql}: {}", hint(sql));
    }
    for sql in [
        "SELECT random() AS x FROM sales",
        "SELECT approx_median(item) AS c FROM (SELECT item FROM sales EXCEPT ALL SELECT item FROM sales) AS s",
    ] {
        assert!(!hint(sql).contains("refresh"), "{sql}: {}", hint(sql));
        assert!(planner().plan_whole("model", sql).is_err(), "{sql}");
    }
    let mistake = planner().plan_whole("model", "SELECT itm FROM sales GROUP BY place").unwrap_err();
    assert_eq!(mistake.kind, PlanErrorKind::UnknownColumn);
}
