//! Sessions for ad-hoc queries: SELECT, SHOW and EXPLAIN over relations at hand, within limits.

use crate::batch::BatchLimits;
use crate::canonical::nodes::special;
use crate::canonical::{self, clock};
use crate::delta::Relation;
use crate::planner::{Planner, session_config};
use datafusion::catalog::{MemorySchemaProvider, TableProvider};
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{DataFusionError, TableReference};
use datafusion::dataframe::DataFrame;
use datafusion::execution::SessionStateBuilder;
use datafusion::execution::context::SQLOptions;
use datafusion::logical_expr::{LogicalPlan, Statement};
use datafusion::prelude::SessionContext;
use std::sync::Arc;

/// Answers queries over the relations it was given. Nothing it is asked can change anything.
pub struct QuerySession {
    context: SessionContext,
    now: i64,
}

impl Planner {
    /// A session over `tables`, in which `now()` is the instant `now` (microseconds UTC), with this planner's functions.
    pub fn query_session(
        &self,
        tables: &[(Relation, Arc<dyn TableProvider>)],
        now: i64,
        limits: BatchLimits,
    ) -> Result<QuerySession, DataFusionError> {
        let config = session_config().with_target_partitions(2);
        let state = SessionStateBuilder::new_from_existing(self.state().clone())
            .with_config(config)
            .with_runtime_env(limits.runtime()?)
            .with_catalog_list(Arc::new(datafusion::catalog::MemoryCatalogProviderList::new()))
            .build();
        let context = SessionContext::new_with_state(state);
        let catalog = Arc::new(datafusion::catalog::MemoryCatalogProvider::new());
        context.register_catalog("datafusion", catalog.clone());
        use datafusion::catalog::CatalogProvider;
        catalog.register_schema("public", Arc::new(MemorySchemaProvider::new()))?;
        for (relation, table) in tables {
            let reference = TableReference::from(relation.split('.').map(quoted).collect::<Vec<_>>().join("."));
            if let Some(schema) = reference.schema()
                && catalog.schema(schema).is_none()
            {
                catalog.register_schema(schema, Arc::new(MemorySchemaProvider::new()))?;
            }
            context.register_table(reference, table.clone())?;
        }
        Ok(QuerySession { context, now })
    }
}

fn quoted(part: &str) -> String {
    format!("\"{}\"", part.replace('"', "\"\""))
}

impl QuerySession {
    /// Plans one statement. DDL, DML, COPY and SET are refused.
    pub async fn sql(&self, sql: &str) -> Result<DataFrame, DataFusionError> {
        let state = self.context.state();
        let plan = state.create_logical_plan(sql).await?;
        let options = SQLOptions::new().with_allow_ddl(false).with_allow_dml(false).with_allow_statements(false);
        options.verify_plan(&plan)?;
        if matches!(plan, LogicalPlan::Statement(Statement::SetVariable(_)) | LogicalPlan::Copy(_)) {
            return Err(DataFusionError::Plan("only SELECT, SHOW and EXPLAIN are answered here".into()));
        }
        if counts_rows(&plan)? {
            let message = "INTERSECT ALL and EXCEPT ALL are answered in models only; count rows with GROUP BY instead";
            return Err(DataFusionError::NotImplemented(message.into()));
        }
        let plan = clock::bind_functions(plan)?;
        let now = self.now;
        let plan = plan.transform_up_with_subqueries(|node| {
            let names = datafusion::logical_expr::expr_rewriter::NamePreserver::new(&node);
            node.map_expressions(|e| {
                let name = names.save(&e);
                let reads = clock::reads_clock(&e);
                let bound = clock::at(e, now)?;
                let transformed = datafusion::common::tree_node::Transformed::new_transformed(bound, reads);
                Ok(transformed.update_data(|e| name.restore(e)))
            })
        })?;
        Ok(DataFrame::new(state, plan.data))
    }

    /// The context beneath, for servers that need one.
    pub fn context(&self) -> &SessionContext {
        &self.context
    }
}

/// Whether the plan has a set operation that DataFusion would not do as the standard says.
fn counts_rows(plan: &LogicalPlan) -> Result<bool, DataFusionError> {
    let mut found = false;
    canonical::with_special_nodes(plan.clone())?.apply_with_subqueries(|node| {
        found |= special(node).is_some();
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}
