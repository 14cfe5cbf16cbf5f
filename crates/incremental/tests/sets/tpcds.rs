//! TPC-DS: its 99 queries, with the texts that DuckDB has of them, over a sample of the data.

use crate::answers;
use crate::coverage::{Part, says};
use crate::history::{Course, Table};
use crate::set::{Query, prove, queries};
use crate::tpch::collect;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use datafusion::prelude::SessionContext;
use std::path::Path;
use tpcdsgen::config::{Session, SessionBuilder};
use tpcdsgen_arrow::*;

#[test]
fn every_query_of_tpc_ds_is_kept() {
    let (scale, epochs) = if crate::long() { (0.01, 5) } else { (0.001, 3) };
    let course = Course { seed: 3 + crate::seed(), epochs, whole: false };
    let verdicts = prove(&tables(scale), &texts(), course);
    assert_eq!(verdicts.len(), 99);
    let about = "The 99 queries of TPC-DS, as DuckDB's extension `tpcds` has them, over a sample of data of the crate `tpcdsgen`, against \
                 DuckDB.";
    says("TPC-DS", Part::of(about, &verdicts));
}

/// The folder that `WEIR_TPCDS_QUERIES` names, or what DuckDB's extension knows.
fn texts() -> Vec<Query> {
    match std::env::var("WEIR_TPCDS_QUERIES") {
        Ok(folder) => queries(Path::new(&folder)),
        Err(_) => answers::tpcds_queries(),
    }
}

/// All tables; of the large ones whose size does not follow the scale, the rows that others refer to.
fn tables(scale: f64) -> Vec<Table> {
    let session = SessionBuilder::new().with_scale_factor(scale).build().expect("a scale");
    macro_rules! tables {
        ($($name:literal $arrow:ident),+ $(,)?) => {
            vec![$(Table::new($name, collect($arrow::new(Session::clone(&session))))),+]
        };
    }
    let mut tables = tables![
        "call_center" CallCenterArrow,
        "catalog_page" CatalogPageArrow,
        "catalog_returns" CatalogReturnsArrow,
        "catalog_sales" CatalogSalesArrow,
        "customer" CustomerArrow,
        "customer_address" CustomerAddressArrow,
        "date_dim" DateDimArrow,
        "household_demographics" HouseholdDemographicsArrow,
        "income_band" IncomeBandArrow,
        "item" ItemArrow,
        "promotion" PromotionArrow,
        "reason" ReasonArrow,
        "ship_mode" ShipModeArrow,
        "store" StoreArrow,
        "store_returns" StoreReturnsArrow,
        "store_sales" StoreSalesArrow,
        "time_dim" TimeDimArrow,
        "warehouse" WarehouseArrow,
        "web_page" WebPageArrow,
        "web_returns" WebReturnsArrow,
        "web_sales" WebSalesArrow,
        "web_site" WebSiteArrow,
    ];
    // The first rows are enough: the dates of sales are among them, and the demographics repeat themselves.
    let first = |batches: &mut dyn Iterator<Item = Result<RecordBatch, arrow::error::ArrowError>>, count: usize| {
        collect(&mut batches.take(count))
    };
    tables.push(Table::new("customer_demographics", first(&mut CustomerDemographicsArrow::new(session.clone()), 10)));
    tables.push(Table::new("inventory", first(&mut InventoryArrow::new(session), 5)));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let context = answers::datafusion(&tables);
    for (name, sql) in SAMPLES {
        let rows = runtime.block_on(sample(&context, sql));
        let table = tables.iter_mut().find(|table| *table.name == *name).expect("one of the tables");
        table.rows = rows;
    }
    tables
}

/// What is kept of tables that are large at every scale.
const SAMPLES: [(&str, &str); 5] = [
    ("date_dim", "SELECT * FROM date_dim WHERE d_year BETWEEN 1998 AND 2003"),
    (
        "time_dim",
        "SELECT * FROM time_dim WHERE t_time % 20 = 0 OR t_time_sk IN (SELECT ss_sold_time_sk FROM store_sales)",
    ),
    ("customer_demographics", "SELECT * FROM customer_demographics WHERE cd_demo_sk % 10 = 1"),
    ("household_demographics", "SELECT * FROM household_demographics WHERE hd_demo_sk % 3 = 0"),
    ("inventory", "SELECT * FROM inventory WHERE inv_item_sk % 4 = 1"),
];

async fn sample(context: &SessionContext, sql: &str) -> RecordBatch {
    let batches = context.sql(sql).await.expect("a query").collect().await.expect("rows");
    concat_batches(&batches.first().expect("some rows").schema(), &batches).expect("one schema")
}
