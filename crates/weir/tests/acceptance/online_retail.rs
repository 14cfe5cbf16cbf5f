//! A shop's invoice lines, a file a day: after each day the models equal DuckDB over the days so far.

use super::support::{Project, Rows, assert_same_rows, duckdb, shared};

/// Days taken in by default; `WEIR_RETAIL_DAYS=95` takes them all.
const DAYS: usize = 6;

const REVENUE: &str = r#"
-- Revenue by day and country; cancellations take away.
-- weir: key = ["day", "country"]
SELECT date_trunc('day', invoice_date) AS day, country, count(*) AS lines, sum(quantity) AS items,
       sum(quantity * unit_price) AS revenue
FROM invoice_lines
GROUP BY date_trunc('day', invoice_date), country
"#;

const CUSTOMERS: &str = r#"
-- What each known customer is worth.
-- weir: key = ["customer_id"]
SELECT customer_id, count(DISTINCT invoice_no) AS invoices, sum(quantity * unit_price) AS revenue,
       min(invoice_date) AS first_seen, max(invoice_date) AS last_seen
FROM invoice_lines
WHERE customer_id IS NOT NULL
GROUP BY customer_id
"#;

const CANCELLATIONS: &str = r#"
-- Cancelled items by country, as negative quantities.
-- weir: key = ["country"]
SELECT country, count(DISTINCT invoice_no) AS invoices, sum(quantity) AS items
FROM invoice_lines
WHERE invoice_no LIKE 'C%'
GROUP BY country
"#;

fn project() -> Project {
    let project = Project::new();
    project.write(
        "sources/invoice_lines.toml",
        r#"
        kind   = "files"
        path   = "in/*.csv.gz"
        settle = "0 seconds"
        format = "csv"
        time   = "invoice_date"

        [columns]
        invoice_no   = { type = "TEXT", from = "InvoiceNo", required = true }
        stock_code   = { type = "TEXT", from = "StockCode" }
        description  = { type = "TEXT", from = "Description" }
        quantity     = { type = "BIGINT", from = "Quantity", required = true }
        invoice_date = { type = "TIMESTAMP", from = "InvoiceDate", required = true }
        unit_price   = { type = "DECIMAL(10, 2)", from = "UnitPrice", required = true }
        customer_id  = { type = "TEXT", from = "CustomerID", personal = true }
        country      = { type = "TEXT", from = "Country" }
        "#,
    );
    project.write("models/revenue.sql", REVENUE).write("models/customers.sql", CUSTOMERS);
    project.write("models/cancellations.sql", CANCELLATIONS);
    project
}

fn days() -> Vec<String> {
    let mut days: Vec<String> = std::fs::read_dir(shared("orders/online_retail"))
        .expect("a folder")
        .map(|day| day.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name.ends_with(".csv.gz"))
        .collect();
    days.sort();
    let count = std::env::var("WEIR_RETAIL_DAYS").map_or(DAYS, |count| count.parse().expect("a number of days"));
    days.truncate(count);
    days
}

/// DuckDB over the files of `days`.
fn theirs(days: &[String], sql: &str) -> Rows {
    let files: Vec<String> =
        days.iter().map(|day| format!("'{}'", shared(&format!("orders/online_retail/{day}")).display())).collect();
    duckdb(&format!(
        "WITH invoice_lines AS (
            SELECT InvoiceNo AS invoice_no, CAST(Quantity AS BIGINT) AS quantity, CAST(InvoiceDate AS TIMESTAMP) AS invoice_date,
                   CAST(UnitPrice AS DECIMAL(10, 2)) AS unit_price, CustomerID AS customer_id, Country AS country
            FROM read_csv([{}], all_varchar = true, header = true)
        ) {sql}",
        files.join(", ")
    ))
}

#[test]
fn after_each_day_the_models_equal_duckdb() {
    let project = project();
    let days = days();
    for count in 1..=days.len() {
        let day = &days[count - 1];
        project.copy(&shared(&format!("orders/online_retail/{day}")), &format!("in/{day}"));
        project.run_once();
        let so_far = &days[..count];

        assert_same_rows(
            &format!("revenue after {day}"),
            &project.query(
                "SELECT CAST(CAST(day AS DATE) AS VARCHAR) AS day, country, lines, items,
                        CAST(CAST(revenue AS DECIMAL(20, 2)) AS VARCHAR) AS revenue FROM revenue",
            ),
            &theirs(
                so_far,
                "SELECT CAST(CAST(invoice_date AS DATE) AS VARCHAR) AS day, country, count(*) AS lines,
                        CAST(sum(quantity) AS BIGINT) AS items,
                        CAST(CAST(sum(quantity * unit_price) AS DECIMAL(20, 2)) AS VARCHAR) AS revenue
                 FROM invoice_lines GROUP BY ALL",
            ),
        );
        assert_same_rows(
            &format!("best customers after {day}"),
            &project.query(
                "SELECT customer_id, invoices, CAST(CAST(revenue AS DECIMAL(20, 2)) AS VARCHAR) AS worth
                 FROM customers ORDER BY revenue DESC, customer_id LIMIT 20",
            ),
            &theirs(
                so_far,
                "SELECT customer_id, count(DISTINCT invoice_no) AS invoices,
                        CAST(CAST(sum(quantity * unit_price) AS DECIMAL(20, 2)) AS VARCHAR) AS worth
                 FROM invoice_lines WHERE customer_id IS NOT NULL GROUP BY customer_id
                 ORDER BY sum(quantity * unit_price) DESC, customer_id LIMIT 20",
            ),
        );
        assert_same_rows(
            &format!("cancellations after {day}"),
            &project.query("SELECT country, invoices, items FROM cancellations"),
            &theirs(
                so_far,
                "SELECT country, count(DISTINCT invoice_no) AS invoices, CAST(sum(quantity) AS BIGINT) AS items
                 FROM invoice_lines WHERE invoice_no LIKE 'C%' GROUP BY country",
            ),
        );
        project.verify();
    }
    assert_eq!(project.value("SELECT count(*) FROM weir.quarantine"), "0");
}

#[test]
fn a_file_is_not_read_twice_and_one_that_changed_is_named() {
    let project = project();
    let days = days();
    project.copy(&shared(&format!("orders/online_retail/{}", days[0])), "in/day.csv.gz");
    project.run_once();
    let lines = project.value("SELECT count(*) FROM invoice_lines");
    project.run_once();
    assert_eq!(project.value("SELECT count(*) FROM invoice_lines"), lines, "it was read twice");

    project.copy(&shared(&format!("orders/online_retail/{}", days[1])), "in/day.csv.gz");
    project.run_once();
    assert_eq!(project.value("SELECT count(*) FROM invoice_lines"), lines, "the new contents are not guessed at");
    let message = project.value("SELECT message FROM weir.quarantine WHERE reason = 'file_changed'");
    assert!(message.contains("day.csv.gz"), "the file is not named: {message}");
    project.verify();
}
