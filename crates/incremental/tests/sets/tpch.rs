//! TPC-H: all 22 queries of the specification with its validation parameters, while orders come and go with their lines.

use crate::coverage::{Part, says};
use crate::history::{Course, Table};
use crate::set::{prove, queries};
use arrow::array::RecordBatch;
use arrow::compute::{cast, concat_batches};
use arrow::datatypes::{Field, Schema};
use arrow::error::ArrowError;
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tpchgen::distribution::Distributions;
use tpchgen::generators::{
    CustomerGenerator, LineItemGenerator, NationGenerator, OrderGenerator, PartGenerator, PartSuppGenerator,
    RegionGenerator, SupplierGenerator,
};
use tpchgen::text::TextPool;
use tpchgen_arrow::{
    CustomerArrow, LineItemArrow, NationArrow, OrderArrow, PartArrow, PartSuppArrow, RegionArrow, SupplierArrow,
};
use weir_incremental::types::lake_type;

#[test]
fn every_query_of_tpc_h_is_kept() {
    let (scale, epochs) = if crate::long() { (0.02, 8) } else { (0.004, 5) };
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sets/queries/tpch");
    let course = Course { seed: 1 + crate::seed(), epochs, whole: false };
    let verdicts = prove(&tables(scale), &queries(&folder), course);
    assert!(verdicts.iter().filter(|verdict| matches!(verdict.result, Ok(rows) if rows > 0)).count() > 12);
    let about = "The 22 queries of the TPC-H specification over data of the crate `tpchgen`, against DuckDB. Orders come and go \
                 with their lines, as in the specification's refresh functions; all other tables change as well.";
    says("TPC-H", Part::of(about, &verdicts));
}

/// Less text than the specification asks for, from which comments are cut: it takes a second to make.
static TEXT: LazyLock<TextPool> = LazyLock::new(|| TextPool::new(2 << 20, Distributions::static_default()));

fn tables(scale: f64) -> Vec<Table> {
    let words = Distributions::static_default();
    macro_rules! table {
        ($name:literal, $arrow:ident, $generator:ident $(, $scale:expr)?) => {{
            let generator = $generator::new_with_distributions_and_text_pool($($scale, 1, 1,)? words, &TEXT);
            Table::new($name, collect($arrow::new(generator)))
        }};
    }
    vec![
        table!("region", RegionArrow, RegionGenerator),
        table!("nation", NationArrow, NationGenerator),
        table!("part", PartArrow, PartGenerator, scale),
        table!("supplier", SupplierArrow, SupplierGenerator, scale),
        Table::new("partsupp", collect(PartSuppArrow::new(PartSuppGenerator::new_with_text_pool(scale, 1, 1, &TEXT)))),
        table!("customer", CustomerArrow, CustomerGenerator, scale),
        table!("orders", OrderArrow, OrderGenerator, scale).together("o_orderkey"),
        table!("lineitem", LineItemArrow, LineItemGenerator, scale).together("l_orderkey"),
    ]
}

/// All batches as one, in the types that relations have.
pub fn collect(batches: impl Iterator<Item = Result<RecordBatch, ArrowError>>) -> RecordBatch {
    let batches: Vec<RecordBatch> = batches.map(|batch| batch.expect("generated rows")).collect();
    let rows = concat_batches(&batches.first().expect("a table has rows").schema(), &batches).expect("one schema");
    in_lake_types(&rows).expect("types of the lake")
}

/// The rows in the types that relations have; None when there is none for a column.
pub fn in_lake_types(rows: &RecordBatch) -> Option<RecordBatch> {
    let types = rows.schema().fields().iter().map(|f| lake_type(f.data_type())).collect::<Option<Vec<_>>>()?;
    let columns = rows.columns().iter().zip(&types).map(|(column, to)| cast(column, to));
    let columns = columns.collect::<Result<Vec<_>, _>>().ok()?;
    let fields: Vec<Field> =
        rows.schema().fields().iter().zip(&types).map(|(f, to)| Field::new(f.name(), to.clone(), true)).collect();
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).ok()
}
