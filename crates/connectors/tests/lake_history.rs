//! Histories in the lake: what is landed is read back exactly, whatever crashes, merges and drops lie between.

mod common;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use arrow::array::{AsArray, Int64Array, RecordBatch};
use arrow::compute::concat_batches;
use arrow::datatypes::{DataType, Field, Int64Type, Schema};
use common::{Sum, add, delta, every_type, rows_schema, sum_of};
use datafusion::prelude::{SessionContext, col, lit};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_connectors::lake::{LakeHistory, LakeOptions, check_schema};
use weir_incremental::{Delta, Relation};
use weir_pipeline::history::{History, Landing};

async fn open(folder: &tempfile::TempDir) -> LakeHistory {
    open_with(folder, LakeOptions::default()).await
}

async fn open_with(folder: &tempfile::TempDir, options: LakeOptions) -> LakeHistory {
    LakeHistory::open(folder.path().to_str().unwrap(), options).await.unwrap()
}

fn landing(relation: &str, changes: Vec<(u64, Delta)>) -> Landing {
    Landing { relation: Relation::from(relation), schema: changes[0].1.schema(), changes }
}

async fn sum_between(lake: &LakeHistory, relation: &str, after: u64, up_to: u64) -> Sum {
    sum_of(lake.changes(&Relation::from(relation), after, up_to).await.unwrap().unwrap()).await
}

fn expected(deltas: &[&Delta]) -> Sum {
    let mut sum = Sum::new();
    for delta in deltas {
        add(&mut sum, &delta.rows, &delta.weights);
    }
    sum
}

#[tokio::test]
async fn every_type_comes_back_exactly_with_the_relations_own_schema() {
    let folder = tempfile::tempdir().unwrap();
    let rows = every_type();
    open(&folder).await.land(1, vec![landing("all.types", vec![(1, Delta::inserts(rows.clone()))])]).await.unwrap();

    let lake = open(&folder).await;
    let table = lake.changes(&Relation::from("all.types"), 0, 1).await.unwrap().unwrap();
    let columns = rows.num_columns();
    assert_eq!(table.schema().fields()[..columns], rows.schema().fields()[..]);
    let read = SessionContext::new().read_table(table.clone()).unwrap().collect().await.unwrap();
    let read = concat_batches(&read[0].schema(), &read).unwrap();
    assert_eq!(read.project(&(0..columns).collect::<Vec<_>>()).unwrap(), rows);
    assert_eq!(read.column(columns).as_primitive::<Int64Type>().values(), &[1, 1, 1, 1]);
    assert_eq!(read.column(columns + 1).as_primitive::<Int64Type>().values(), &[1, 1, 1, 1]);
}

#[tokio::test]
async fn changes_are_cut_by_epoch_and_a_later_schema_may_add_columns() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(&folder).await;
    let (one, two, three) =
        (delta(&[(1, "a", None, 1)]), delta(&[(1, "a", None, -1), (2, "b", Some(2), 3)]), delta(&[(3, "c", None, 1)]));
    lake.land(2, vec![landing("clicks", vec![(1, one.clone()), (2, two.clone())])]).await.unwrap();
    lake.land(5, vec![landing("clicks", vec![(4, three.clone())])]).await.unwrap();
    assert_eq!(lake.landed(), 5);
    assert_eq!(sum_between(&lake, "clicks", 0, 5).await, expected(&[&one, &two, &three]));
    assert_eq!(sum_between(&lake, "clicks", 1, 3).await, expected(&[&two]));
    assert_eq!(sum_between(&lake, "clicks", 2, 99).await, expected(&[&three]));
    assert!(lake.changes(&Relation::from("nothing"), 0, 5).await.unwrap().is_none());

    let mut fields: Vec<_> = rows_schema().fields().iter().cloned().collect();
    fields.push(Arc::new(Field::new("extra", DataType::Utf8, true)));
    let wider = Arc::new(Schema::new(fields));
    let row = RecordBatch::new_empty(wider.clone());
    let four = Landing { relation: "clicks".into(), schema: wider.clone(), changes: vec![(6, Delta::inserts(row))] };
    lake.land(6, vec![four]).await.unwrap();
    let mut columns = common::rows(&[(9, "z", None)]).columns().to_vec();
    columns.push(Arc::new(arrow::array::StringArray::from(vec!["new"])));
    let row = RecordBatch::try_new(wider.clone(), columns).unwrap();
    lake.land(7, vec![landing("clicks", vec![(7, Delta::inserts(row))])]).await.unwrap();
    let table = lake.changes(&"clicks".into(), 0, 7).await.unwrap().unwrap();
    let context = SessionContext::new();
    let found = context.read_table(table).unwrap().filter(col("extra").eq(lit("new"))).unwrap();
    assert_eq!(found.count().await.unwrap(), 1);
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap().map(Result::unwrap) {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if source.is_dir() {
            copy(&source, &target);
        } else {
            std::fs::copy(&source, &target).unwrap();
        }
    }
}

#[tokio::test]
async fn what_a_landing_that_did_not_end_has_left_is_not_counted_beside_the_longer_one_that_follows() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two, three) =
        (delta(&[(1, "a", None, 1)]), delta(&[(1, "a", None, -1), (2, "b", None, 1)]), delta(&[(2, "b", None, -1)]));
    let lake = open(&folder).await;
    lake.land(1, vec![landing("totals", vec![(1, one.clone())])]).await.unwrap();
    // The machine goes down when the table has the landing of epoch 2, before the commit that shows it.
    let (shown, before) = (folder.path().join("weir_epochs"), folder.path().join(".before"));
    copy(&shown, &before);
    let both = vec![landing("totals", vec![(2, two.clone())]), landing("clicks", vec![(2, one.clone())])];
    lake.land(2, both).await.unwrap();
    drop(lake);
    std::fs::remove_dir_all(&shown).unwrap();
    std::fs::rename(&before, &shown).unwrap();

    let lake = open(&folder).await;
    assert_eq!(lake.landed(), 1);
    // What epochs 2 and 3 did is one change of epoch 3 for the one, and still two for the other.
    let sum = Delta::concat(&two.schema(), &[two.clone(), three.clone()]).unwrap().consolidate().unwrap();
    let clicks = vec![(2, one.clone()), (3, two.clone())];
    lake.land(3, vec![landing("totals", vec![(3, sum)]), landing("clicks", clicks)]).await.unwrap();
    for lake in [lake, open(&folder).await] {
        assert_eq!(lake.landed(), 3);
        assert_eq!(sum_between(&lake, "totals", 0, 3).await, expected(&[&one, &two, &three]));
        assert_eq!(sum_between(&lake, "clicks", 0, 3).await, expected(&[&one, &two]));
        assert_eq!(sum_between(&lake, "clicks", 2, 3).await, expected(&[&two]));
    }
}

#[tokio::test]
async fn filters_and_projections_leave_the_right_rows() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(&folder).await;
    for epoch in 1..=4_u64 {
        let rows: Vec<_> = (0..100).map(|n| (epoch as i64 * 1000 + n, "x", Some(n), 1)).collect();
        lake.land(epoch, vec![landing("t", vec![(epoch, delta(&rows))])]).await.unwrap();
    }
    let table = lake.changes(&"t".into(), 1, 3).await.unwrap().unwrap();
    let context = SessionContext::new();
    context.register_table("t", table).unwrap();
    let count = |sql: &str| {
        let sql = sql.to_owned();
        let context = context.clone();
        async move {
            let batches = context.sql(&sql).await.unwrap().collect().await.unwrap();
            batches[0].column(0).as_primitive::<Int64Type>().value(0)
        }
    };
    assert_eq!(count("SELECT count(*) FROM t").await, 200);
    assert_eq!(count("SELECT count(*) FROM t WHERE id >= 3050").await, 50);
    assert_eq!(count("SELECT sum(amount) FROM t WHERE _epoch = 2 AND amount < 3").await, 3);
    assert_eq!(count("SELECT count(*) FROM (SELECT name FROM t LIMIT 7)").await, 7);
}

#[tokio::test]
async fn nan_is_found_although_parquets_bounds_ignore_it() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(&folder).await;
    lake.land(1, vec![landing("t", vec![(1, Delta::inserts(every_type()))])]).await.unwrap();
    let table = lake.changes(&"t".into(), 0, 1).await.unwrap().unwrap();
    let found = SessionContext::new().read_table(table).unwrap().filter(col("single").gt(lit(f32::MAX))).unwrap();
    assert_eq!(found.count().await.unwrap(), 1);
}

#[tokio::test]
async fn a_landing_cut_before_its_manifest_and_repeated_counts_nothing_twice() {
    let folder = tempfile::tempdir().unwrap();
    let first = delta(&[(1, "a", None, 1)]);
    let second = delta(&[(2, "b", None, 1), (1, "a", None, -1)]);
    let lake = open(&folder).await;
    lake.land(1, vec![landing("x", vec![(1, first.clone())]), landing("y", vec![(1, first.clone())])]).await.unwrap();
    lake.land(2, vec![landing("x", vec![(2, second.clone())])]).await.unwrap();
    drop(lake);
    // The crash: everything of landing 2 is there but its manifest.
    let manifest = folder.path().join("weir_epochs/_delta_log/00000000000000000001.json");
    std::fs::remove_file(manifest).unwrap();

    let lake = open(&folder).await;
    assert_eq!(lake.landed(), 1);
    assert_eq!(sum_between(&lake, "x", 0, 9).await, expected(&[&first]));
    lake.land(
        3,
        vec![landing("x", vec![(2, second.clone()), (3, first.clone())]), landing("y", vec![(3, second.clone())])],
    )
    .await
    .unwrap();
    assert_eq!(sum_between(&lake, "x", 0, 3).await, expected(&[&first, &second, &first]));
    assert_eq!(sum_between(&lake, "y", 0, 3).await, expected(&[&first, &second]));
    // And once more after it is whole.
    lake.land(3, vec![landing("x", vec![(3, first.clone())])]).await.unwrap();
    assert_eq!(sum_between(&lake, "x", 0, 3).await, expected(&[&first, &second, &first]));
}

#[tokio::test]
async fn random_changes_landed_and_merged_sum_up_as_if_they_had_been_left_alone() {
    for seed in 0..2 {
        let folder = tempfile::tempdir().unwrap();
        let options = LakeOptions { keep_removed: Duration::ZERO, checkpoint_commits: 10, ..Default::default() };
        let mut random = StdRng::seed_from_u64(seed);
        let mut lake = open_with(&folder, options.clone()).await;
        let mut present: Vec<(i64, &str, Option<i64>)> = Vec::new();
        let (mut whole, mut by_epoch, mut horizon) = (Sum::new(), Vec::new(), 0);
        for epoch in 1..=50_u64 {
            let mut changes = Vec::new();
            for _ in 0..random.random_range(0..20) {
                if !present.is_empty() && random.random_bool(0.5) {
                    let (id, name, amount) = present.swap_remove(random.random_range(0..present.len()));
                    changes.push((id, name, amount, -1));
                } else {
                    let row = (random.random_range(0..20), ["a", "b", ""][random.random_range(0..3)], None);
                    present.push(row);
                    changes.push((row.0, row.1, row.2, 1));
                }
            }
            if changes.is_empty() {
                continue;
            }
            let change = delta(&changes);
            add(&mut whole, &change.rows, &change.weights);
            by_epoch.push((epoch, change.clone()));
            lake.land(epoch, vec![landing("shop.orders", vec![(epoch, change)])]).await.unwrap();
            if random.random_bool(0.2) {
                horizon = random.random_range(horizon..=epoch);
                lake.maintain(horizon).await.unwrap();
                assert!(lake.horizon(&"shop.orders".into()) <= horizon);
            }
            if random.random_bool(0.1) {
                drop(lake);
                lake = open_with(&folder, options.clone()).await;
            }
            if random.random_bool(0.6) {
                continue;
            }
            assert_eq!(sum_between(&lake, "shop.orders", 0, epoch).await, whole, "seed {seed}, epoch {epoch}");
            let after = random.random_range(lake.horizon(&"shop.orders".into())..=epoch);
            let later: Vec<_> = by_epoch.iter().filter(|(epoch, _)| *epoch > after).map(|(_, delta)| delta).collect();
            assert_eq!(sum_between(&lake, "shop.orders", after, epoch).await, expected(&later), "seed {seed}");
        }
        lake.maintain(60).await.unwrap();
        assert!(lake.horizon(&"shop.orders".into()) > 0, "something was merged");
        assert_eq!(sum_between(&lake, "shop.orders", 0, 60).await, whole, "seed {seed}");
    }
}

#[tokio::test]
async fn a_reader_goes_on_while_its_files_are_merged_and_removed() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open_with(&folder, LakeOptions { keep_removed: Duration::ZERO, ..Default::default() }).await;
    let mut all = Vec::new();
    for epoch in 1..=10 {
        let change = delta(&[(epoch as i64, "a", None, 1), (epoch as i64 - 1, "a", None, -1)]);
        lake.land(epoch, vec![landing("t", vec![(epoch, change.clone())])]).await.unwrap();
        all.push(change);
    }
    let before = lake.changes(&"t".into(), 0, 10).await.unwrap().unwrap();
    let files = || std::fs::read_dir(folder.path().join("main/t")).unwrap().count();
    let many = files();
    lake.maintain(10).await.unwrap();
    lake.drop_relation(&"t".into()).await.unwrap();
    lake.maintain(10).await.unwrap();
    assert!(lake.changes(&"t".into(), 0, 10).await.unwrap().is_none());
    let wanted = expected(&all.iter().collect::<Vec<_>>());
    assert_eq!(sum_of(before.clone()).await, wanted);
    drop(before);
    lake.maintain(10).await.unwrap();
    assert!(files() < many, "nobody reads the old files any more: they go");

    let again = Delta::new(common::rows(&[(7, "new", None)]), Int64Array::from(vec![1]));
    lake.land(11, vec![landing("t", vec![(11, again.clone())])]).await.unwrap();
    assert_eq!(sum_between(&lake, "t", 0, 11).await, expected(&[&again]));
    let lake = open(&folder).await;
    assert_eq!(sum_between(&lake, "t", 0, 11).await, expected(&[&again]));
}

#[tokio::test]
async fn a_column_that_changes_its_type_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let lake = open(&folder).await;
    lake.land(1, vec![landing("t", vec![(1, delta(&[(1, "a", None, 1)]))])]).await.unwrap();
    let other = RecordBatch::try_from_iter(vec![("id", Arc::new(arrow::array::StringArray::from(vec!["1"])) as _)]);
    let error = lake.land(2, vec![landing("t", vec![(2, Delta::inserts(other.unwrap()))])]).await.unwrap_err();
    assert!(error.0.contains("`id` is Int64 in the lake and Utf8 now"), "{error}");
    assert_eq!(lake.landed(), 1);
}

#[tokio::test]
async fn any_name_of_a_relation_or_column_will_do() {
    let parent = tempfile::tempdir().unwrap();
    let folder = parent.path().join("a bü#");
    let relation = Relation::from("Größe.my table/x.y");
    let names = ["count(*)", "a b", "x.y", "ö", "a,b;{}", "A", ""];
    let column = || Arc::new(Int64Array::from(vec![1])) as arrow::array::ArrayRef;
    let row = RecordBatch::try_from_iter(names.map(|name| (name, column()))).unwrap();
    let options = LakeOptions { checkpoint_commits: 1, ..Default::default() };
    let lake = LakeHistory::open(folder.to_str().unwrap(), options.clone()).await.unwrap();
    for epoch in 1..=3 {
        lake.land(epoch, vec![landing(&relation, vec![(epoch, Delta::inserts(row.clone()))])]).await.unwrap();
        lake.maintain(epoch).await.unwrap();
    }
    drop(lake);
    let lake = LakeHistory::open(folder.to_str().unwrap(), options).await.unwrap();
    let change = Delta::new(row, vec![3].into());
    assert_eq!(sum_between(&lake, &relation, 0, 3).await, expected(&[&change]));
    assert_eq!(lake.bytes().await.unwrap()[0].0, relation);

    // Delta does not tell upper case from lower.
    let row = RecordBatch::try_from_iter([("a", column()), ("A", column())]).unwrap();
    assert!(check_schema(&row.schema()).is_err());
    assert!(check_schema(&every_type().schema()).is_ok());
    let error = lake.land(4, vec![landing("t", vec![(4, Delta::inserts(row))])]).await.unwrap_err();
    assert!(error.0.contains("case-insensitive"), "{error}");
    assert!(lake.changes(&"t".into(), 0, 9).await.unwrap().is_none());
}

#[tokio::test]
async fn what_a_crash_left_behind_is_cleared_and_what_others_put_there_is_not() {
    let folder = tempfile::tempdir().unwrap();
    let change = delta(&[(1, "a", None, 1)]);
    open(&folder).await.land(1, vec![landing("t", vec![(1, change.clone())])]).await.unwrap();
    let table = folder.path().join("main/t");
    let (left, guest) = (table.join("e2-2-r1-n0-0.parquet"), table.join("mine.parquet"));
    let draft = table.join("_delta_log/.0.tmp");
    for file in [&left, &guest, &draft] {
        std::fs::write(file, "").unwrap();
        std::fs::File::open(file).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
    }
    let lake = open_with(&folder, LakeOptions { keep_removed: Duration::ZERO, ..Default::default() }).await;
    lake.maintain(1).await.unwrap();
    assert!(!left.exists() && !draft.exists());
    assert!(guest.exists());
    assert_eq!(sum_between(&lake, "t", 0, 1).await, expected(&[&change]));
}

#[tokio::test]
async fn a_landing_cut_anywhere_is_completed_by_the_next_one() {
    for seed in 0..8 {
        let folder = tempfile::tempdir().unwrap();
        let mut random = StdRng::seed_from_u64(seed);
        let relations = ["a", "b", "s.c"];
        let mut all: Vec<Vec<(u64, Delta)>> = vec![Vec::new(); relations.len()];
        let mut lake = open(&folder).await;
        for epoch in 1..=12_u64 {
            for changes in &mut all {
                if random.random_bool(0.7) {
                    changes.push((epoch, delta(&[(random.random_range(0..3), "r", None, random.random_range(1..3))])));
                }
            }
            if random.random_bool(0.3) {
                continue; // Two epochs in one landing.
            }
            let landed = lake.landed();
            let outstanding = || {
                let parts = relations.iter().zip(&all).map(|(relation, changes)| {
                    let changes = changes.iter().filter(|(epoch, _)| *epoch > landed).cloned().collect();
                    Landing { relation: Relation::from(*relation), schema: rows_schema(), changes }
                });
                parts.collect::<Vec<_>>()
            };
            let before = commits(folder.path());
            lake.land(epoch, outstanding()).await.unwrap();
            if random.random_bool(0.5) {
                // A crash: the manifest is missing, and the commits of any of the tables.
                drop(lake);
                for commit in commits(folder.path()).difference(&before) {
                    if commit.to_string_lossy().contains("weir_epochs") || random.random_bool(0.5) {
                        std::fs::remove_file(commit).unwrap();
                    }
                }
                lake = open(&folder).await;
                assert_eq!(lake.landed(), landed, "seed {seed}");
                if random.random_bool(0.5) {
                    lake.land(epoch, outstanding()).await.unwrap();
                }
            }
            for (relation, changes) in relations.iter().zip(&all) {
                let visible = changes.iter().filter(|(epoch, _)| *epoch <= lake.landed());
                let visible: Vec<&Delta> = visible.map(|(_, delta)| delta).collect();
                if let Some(table) = lake.changes(&Relation::from(*relation), 0, epoch).await.unwrap() {
                    assert_eq!(sum_of(table).await, expected(&visible), "seed {seed}, {relation} at {epoch}");
                } else {
                    assert!(visible.is_empty(), "seed {seed}, {relation} at {epoch}");
                }
            }
        }
    }
}

/// Every commit file of every table.
fn commits(folder: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        if entry.path().is_dir() {
            found.extend(commits(&entry.path()));
        } else if entry.path().extension().is_some_and(|extension| extension == "json") {
            found.insert(entry.path());
        }
    }
    found
}
