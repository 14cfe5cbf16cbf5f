//! A lake that is mirrored: in which order its files are shipped, and when.
//!
//! Data files and commits never change once they have their name. A table's data is shipped before the commits that name
//! it, and these in their order; the table of landings, whose commit makes a landing visible, after all others. So the
//! mirror shows some landing wholly, and what it has of a later one is what a landing that did not end leaves.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::catalog::TableProvider;
use weir_environment::mirror::Place;
use weir_incremental::Relation;
use weir_pipeline::EpochNumber;
use weir_pipeline::history::{History, HistoryError, Landing};

use super::EPOCHS_TABLE;
use super::log_sums::CHECKPOINT_SUM;

/// Folder of a table's commits.
const LOG_FOLDER: &str = "/_delta_log/";

/// The place of a lake's file, by its name in the lake's folder.
pub fn shipping_order(name: &str) -> Option<Place> {
    let base = name.rsplit('/').next().unwrap_or(name);
    // Puts under way are staged under `NAME#NUMBER`, commits under `.NAME.tmp`; checksums of checkpoints begin with a point.
    let sum = base.ends_with(CHECKPOINT_SUM);
    if base.contains('#') || (base.starts_with('.') && !sum) {
        return None;
    }
    let landings = name.starts_with(EPOCHS_TABLE);
    let (table, step) = match name.split_once(LOG_FOLDER) {
        None => (name.rsplit_once('/').map_or("", |(table, _)| table), 0),
        Some((table, "_last_checkpoint")) => (table, 3),
        Some((table, file)) if file.contains(".checkpoint") => (table, 2),
        Some((table, _)) => (table, 1),
    };
    let text = format!("{table}\0{step}{base}");
    Some(Place { rank: u8::from(landings), text, changes: step == 3 || sum })
}

/// Histories that tell when something of them is to be shipped.
pub struct ShippedHistory {
    history: Arc<dyn History>,
    changed: Box<dyn Fn() + Send + Sync>,
}

impl fmt::Debug for ShippedHistory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("ShippedHistory").finish_non_exhaustive()
    }
}

impl ShippedHistory {
    /// `changed` is called after each change of `history`, before anybody relies on it.
    pub fn new(history: Arc<dyn History>, changed: Box<dyn Fn() + Send + Sync>) -> Self {
        Self { history, changed }
    }
}

#[async_trait]
impl History for ShippedHistory {
    fn landed(&self) -> EpochNumber {
        self.history.landed()
    }

    async fn land(&self, epoch: EpochNumber, landings: Vec<Landing>) -> Result<(), HistoryError> {
        self.history.land(epoch, landings).await?;
        (self.changed)();
        Ok(())
    }

    async fn changes(
        &self,
        relation: &Relation,
        after: EpochNumber,
        up_to: EpochNumber,
    ) -> Result<Option<Arc<dyn TableProvider>>, HistoryError> {
        self.history.changes(relation, after, up_to).await
    }

    fn horizon(&self, relation: &Relation) -> EpochNumber {
        self.history.horizon(relation)
    }

    async fn maintain(&self, horizon: EpochNumber) -> Result<(), HistoryError> {
        self.history.maintain(horizon).await?;
        (self.changed)();
        Ok(())
    }

    async fn drop_relation(&self, relation: &Relation) -> Result<(), HistoryError> {
        self.history.drop_relation(relation).await?;
        (self.changed)();
        Ok(())
    }

    async fn bytes(&self) -> Result<Vec<(Relation, u64)>, HistoryError> {
        self.history.bytes().await
    }
}

#[cfg(test)]
mod tests {
    use super::shipping_order;

    #[test]
    fn data_comes_before_its_commits_and_the_table_of_landings_last() {
        let names = [
            "weir_epochs/_delta_log/00000000000000000000.json",
            "weir_epochs/e1-1-r2-n0-x.parquet",
            "main/zebras/_delta_log/00000000000000000001.json",
            "main/zebras/_delta_log/00000000000000000000.json",
            "main/zebras/_delta_log/_last_checkpoint",
            "main/zebras/_delta_log/00000000000000000001.checkpoint.parquet",
            "main/zebras/e1-1-r2-n0-x.parquet",
            "main/apes/_delta_log/00000000000000000000.json",
            "main/apes/e1-1-r2-n0-x.parquet",
            "main/zebras/_delta_log/.00000000000000000001.checkpoint.sum",
        ];
        let mut placed: Vec<_> = names.iter().map(|name| (shipping_order(name).unwrap(), *name)).collect();
        placed.sort();
        let order: Vec<&str> = placed.iter().map(|(_, name)| *name).collect();
        assert_eq!(
            order,
            [names[8], names[7], names[6], names[3], names[2], names[9], names[5], names[4], names[1], names[0]]
        );
        assert_eq!(shipping_order("main/apes/e1-1-r2-n0-x.parquet#3"), None);
        assert_eq!(shipping_order("main/apes/_delta_log/.5f.tmp"), None);
    }
}
