//! Lineage: a model, run over only the rows that are named, must give the row; what is not there must be blamed on the
//! step that lost it.

mod absences;
mod rows;

use crate::harness::{batch_of, schemas, table};
use crate::history::History;
use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use std::collections::HashMap;
use std::sync::Arc;
use weir_incremental::lineage::World;
use weir_incremental::{BatchLimits, Delta, ModelPlan, Planner, Relation, RelationTraits, batch};

/// Contents of relations, by name.
pub struct Contents {
    tables: HashMap<Relation, Arc<dyn TableProvider>>,
    now: i64,
}

impl World for Contents {
    fn table(&self, _reader: &Relation, relation: &Relation) -> Option<Arc<dyn TableProvider>> {
        self.tables.get(relation).cloned()
    }

    fn clock(&self, _reader: &Relation) -> i64 {
        self.now
    }
}

impl Contents {
    /// What a history's relations hold in the middle of it, or at its end where nothing ever goes.
    pub fn of(history: &History) -> Self {
        let last = history.epochs.len() - 1;
        let epoch = if history.grows { last } else { last / 2 };
        let mut tables: HashMap<Relation, Arc<dyn TableProvider>> = schemas()
            .into_iter()
            .map(|(relation, schema)| (relation, table(&schema, vec![batch_of(&schema, &[])])))
            .collect();
        for (relation, rows) in history.contents(epoch) {
            tables.insert(relation, table(&rows.schema(), vec![rows]));
        }
        Self { tables, now: history.epochs[epoch].1 }
    }

    /// Given rows.
    pub fn given(rows: Vec<(Relation, RecordBatch)>, now: i64) -> Self {
        let tables = rows.into_iter().map(|(name, rows)| (name, table(&rows.schema(), vec![rows])));
        Self { tables: tables.collect(), now }
    }

    /// Runs models in order, and keeps what each gives. None: one of them fails.
    pub fn run(&mut self, models: &[&ModelPlan]) -> Result<(), String> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        for model in models {
            let lookup = |relation: &Relation| self.tables.get(relation).cloned();
            let output = runtime
                .block_on(batch::run(model, &lookup, self.now, BatchLimits::default()))
                .map_err(|error| error.to_string())?;
            self.tables.insert(model.name.clone(), table(&model.schema, output.rows));
        }
        Ok(())
    }

    /// The rows of a relation, each different one once, with the number of times that it is there.
    pub fn rows(&self, relation: &Relation) -> Delta {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let table = self.tables.get(relation).expect("a relation").clone();
        let schema = table.schema();
        let context = datafusion::prelude::SessionContext::new();
        let batches = runtime.block_on(async { context.read_table(table)?.collect().await }).expect("rows in memory");
        let parts: Vec<Delta> = batches.into_iter().map(Delta::inserts).collect();
        let parts: Vec<Delta> = parts.iter().map(|p| p.with_schema(schema.clone()).expect("its columns")).collect();
        Delta::concat(&schema, &parts).map(|delta| delta.consolidate().expect("rows")).expect("rows")
    }
}

/// Plans models in order over the harness's relations.
pub fn planned(queries: &[(&str, &str)]) -> Result<Vec<ModelPlan>, String> {
    let mut planner = Planner::new(&|_| Ok(())).expect("DataFusion's defaults");
    for (relation, schema) in schemas() {
        planner.add_relation(relation, schema, RelationTraits::default());
    }
    let mut models = Vec::new();
    for (name, sql) in queries {
        let model = planner.plan(name, sql).map_err(|error| error.to_string())?;
        planner.add_relation(model.name.clone(), model.schema.clone(), RelationTraits::default());
        models.push(model);
    }
    Ok(models)
}
