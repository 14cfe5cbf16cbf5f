//! Reading the files of a table that were live at one moment, as a DataFusion table.

use std::fmt;
use std::sync::Arc;

use arrow::datatypes::SchemaRef;
use async_trait::async_trait;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{Result, Statistics, ToDFSchema, stats::Precision};
use datafusion::datasource::listing::PartitionedFile;
use datafusion::datasource::physical_plan::parquet::CachedParquetFileReaderFactory;
use datafusion::datasource::physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource};
use datafusion::datasource::source::DataSourceExec;
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType, col, lit};
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::filter::FilterExec;
use datafusion::physical_plan::projection::ProjectionExec;
use deltalake::logstore::LogStoreRef;
use deltalake::logstore::object_store::ObjectStore;

use super::file::DataFile;

/// The rows of `files` with `after < _epoch <= up_to`. The files stay on disk as long as this or a plan made of it
/// lives, whatever happens to the table.
pub(crate) struct LakeScan {
    pub log_store: LogStoreRef,
    /// The table's files, checked as they are read.
    pub store: Arc<dyn ObjectStore>,
    pub schema: SchemaRef,
    pub files: Vec<Arc<DataFile>>,
    /// None for tables without epochs.
    pub epochs: Option<(u64, u64)>,
}

impl fmt::Debug for LakeScan {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("LakeScan")
            .field("table", &self.log_store.root_url().as_str())
            .field("files", &self.files.len())
            .field("epochs", &self.epochs)
            .finish()
    }
}

impl LakeScan {
    /// The condition on `_epoch`, where some file has rows beyond it.
    fn epoch_filter(&self) -> Option<Expr> {
        let (after, up_to) = self.epochs?;
        let first = self.files.iter().map(|file| file.epochs().0).min()?;
        let last = self.files.iter().map(|file| file.epochs().1).max()?;
        let bound = |epoch: u64| lit(i64::try_from(epoch).unwrap_or(i64::MAX));
        let mut conditions = Vec::new();
        if first <= after {
            conditions.push(col("_epoch").gt(bound(after)));
        }
        if last > up_to {
            conditions.push(col("_epoch").lt_eq(bound(up_to)));
        }
        conjunction(conditions)
    }

    fn statistics(&self, exact: bool) -> Statistics {
        let mut statistics = Statistics::new_unknown(&self.schema);
        let rows = self.files.iter().map(|file| file.rows).sum::<u64>() as usize;
        let known = self.files.iter().all(|file| file.rows > 0);
        statistics.num_rows = match (known, exact) {
            (true, true) => Precision::Exact(rows),
            (true, false) => Precision::Inexact(rows),
            (false, _) => Precision::Absent,
        };
        statistics
    }

    /// The files in about `groups` groups of like size, in order.
    fn groups(&self, groups: usize) -> Vec<FileGroup> {
        let total: u64 = self.files.iter().map(|file| file.size).sum();
        let share = total / groups.max(1) as u64 + 1;
        let (mut found, mut open, mut bytes) = (Vec::new(), Vec::new(), 0);
        for file in &self.files {
            open.push(PartitionedFile::new(file.path.clone(), file.size).with_extension(file.clone()));
            bytes += file.size;
            if bytes >= share {
                found.push(FileGroup::new(std::mem::take(&mut open)));
                bytes = 0;
            }
        }
        if !open.is_empty() {
            found.push(FileGroup::new(open));
        }
        found
    }
}

#[async_trait]
impl TableProvider for LakeScan {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let wanted: Vec<usize> = projection.cloned().unwrap_or_else(|| (0..self.schema.fields().len()).collect());
        if self.files.is_empty() {
            return Ok(Arc::new(EmptyExec::new(Arc::new(self.schema.project(&wanted)?))));
        }
        let url = self.log_store.object_store_url();
        state.runtime_env().register_object_store(url.as_ref(), self.store.clone());

        let table = self.schema.clone().to_dfschema()?;
        let epoch_filter = self.epoch_filter();
        let pruning = filters.iter().cloned().chain(epoch_filter.clone());
        // Files never change, so their footers may be kept from one query to the next.
        let footers = state.runtime_env().cache_manager.get_file_metadata_cache();
        let store = self.store.clone();
        let mut options = state.config_options().execution.parquet.clone();
        options.schema_force_view_types = false;
        let mut source = ParquetSource::new(self.schema.clone()).with_table_parquet_options(
            datafusion::common::config::TableParquetOptions { global: options, ..Default::default() },
        );
        source = source.with_parquet_file_reader_factory(Arc::new(CachedParquetFileReaderFactory::new(store, footers)));
        if let Some(predicate) = conjunction(pruning) {
            source = source.with_predicate(state.create_physical_expr(predicate, &table)?);
        }

        // The filter needs `_epoch`, whether or not it is asked for.
        let mut read = wanted.clone();
        let epoch_column = self.schema.index_of("_epoch").ok();
        if let (Some(_), Some(epoch)) = (&epoch_filter, epoch_column)
            && !read.contains(&epoch)
        {
            read.push(epoch);
        }
        let exact = epoch_filter.is_none();
        let config = FileScanConfigBuilder::new(url, Arc::new(source))
            .with_file_groups(self.groups(state.config().target_partitions()))
            .with_statistics(self.statistics(exact))
            .with_limit(if exact { limit } else { None })
            .with_projection_indices(Some(read.clone()))?
            .build();
        let mut plan: Arc<dyn ExecutionPlan> = DataSourceExec::from_data_source(config);
        if let Some(filter) = epoch_filter {
            let read_schema = Arc::new(self.schema.project(&read)?).to_dfschema()?;
            plan = Arc::new(FilterExec::try_new(state.create_physical_expr(filter, &read_schema)?, plan)?);
        }
        if read.len() > wanted.len() {
            let columns = wanted.iter().enumerate().map(|(at, index)| {
                let name = self.schema.field(*index).name();
                (Arc::new(Column::new(name, at)) as Arc<dyn PhysicalExpr>, name.clone())
            });
            plan = Arc::new(ProjectionExec::try_new(columns.collect::<Vec<_>>(), plan)?);
        }
        Ok(plan)
    }
}
