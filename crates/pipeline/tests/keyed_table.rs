//! A keyed source against its definition: the maximum of (version, arrival, partition, offset) wins, in any order and cut.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{AsArray, BooleanArray, Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Int64Type, Schema, SchemaRef};
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use weir_environment::Environment;
use weir_incremental::Delta;
use weir_incremental::checkpoint::{CheckpointStore, StateChanges};
use weir_pipeline::keyed::{KeyedTable, Positions};

#[derive(Debug, Clone, PartialEq, Eq)]
struct Record {
    key: i64,
    version: Option<i64>,
    value: i64,
    deleted: bool,
    arrival: i64,
    partition: u32,
    offset: u64,
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Int64, true),
        Field::new("version", DataType::Int64, true),
        Field::new("value", DataType::Int64, true),
        Field::new("deleted", DataType::Boolean, true),
    ]))
}

fn batch(records: &[Record]) -> (RecordBatch, Positions) {
    let columns: Vec<arrow::array::ArrayRef> = vec![
        Arc::new(records.iter().map(|r| r.key).collect::<Int64Array>()),
        Arc::new(records.iter().map(|r| r.version).collect::<Int64Array>()),
        Arc::new(records.iter().map(|r| r.value).collect::<Int64Array>()),
        Arc::new(records.iter().map(|r| Some(r.deleted)).collect::<BooleanArray>()),
    ];
    let positions = Positions {
        partitions: records.iter().map(|r| r.partition).collect(),
        offsets: records.iter().map(|r| r.offset).collect(),
        arrivals: records.iter().map(|r| r.arrival).collect(),
        times: records.iter().map(|r| r.arrival).collect(),
    };
    (RecordBatch::try_new(schema(), columns).unwrap(), positions)
}

fn table() -> KeyedTable {
    KeyedTable::new(schema(), vec![0], Some(1), Some(3)).unwrap()
}

fn random_records(random: &mut StdRng, count: usize) -> Vec<Record> {
    (0..count)
        .map(|offset| Record {
            key: random.random_range(0..6),
            version: random.random_bool(0.8).then(|| random.random_range(0..4)),
            value: random.random_range(0..3),
            deleted: random.random_bool(0.2),
            arrival: random.random_range(0..10),
            partition: random.random_range(0..2),
            offset: offset as u64,
        })
        .collect()
}

/// Key to value of the rows that should be there.
fn expected(records: &[Record]) -> BTreeMap<i64, i64> {
    let mut last: BTreeMap<i64, &Record> = BTreeMap::new();
    for record in records {
        let order = |r: &Record| (r.version, r.arrival, r.partition, r.offset);
        let present = last.entry(record.key).or_insert(record);
        if order(record) >= order(present) {
            *present = record;
        }
    }
    last.into_iter().filter(|(_, r)| !r.deleted).map(|(k, r)| (k, r.value)).collect()
}

fn sum(deltas: &[Delta]) -> BTreeMap<i64, i64> {
    let total = Delta::concat(&schema(), deltas).unwrap().consolidate().unwrap();
    assert!(total.weights.values().iter().all(|w| *w == 1), "a key has one row");
    let keys = total.rows.column(0).as_primitive::<Int64Type>();
    let values = total.rows.column(2).as_primitive::<Int64Type>();
    (0..total.len()).map(|i| (keys.value(i), values.value(i))).collect()
}

#[test]
fn any_order_and_any_cut_give_the_same_table() {
    for seed in 0..300 {
        let mut random = StdRng::seed_from_u64(seed);
        let mut records = random_records(&mut random, 40);
        let wanted = expected(&records);
        for _ in 0..3 {
            records.shuffle(&mut random);
            let mut table = table();
            let mut deltas = Vec::new();
            let mut rest = &records[..];
            while !rest.is_empty() {
                let (part, behind) = rest.split_at(random.random_range(1..=rest.len()));
                let (rows, positions) = batch(part);
                deltas.push(table.apply(&rows, &positions).unwrap().delta);
                rest = behind;
            }
            assert_eq!(sum(&deltas), wanted, "seed {seed}");
        }
    }
}

#[test]
fn an_update_within_one_batch_is_one_change() {
    let record =
        |value, offset| Record { key: 1, version: None, value, deleted: false, arrival: 0, partition: 0, offset };
    let mut table = table();
    let (rows, positions) = batch(&[record(1, 0), record(2, 1), record(3, 2)]);
    let applied = table.apply(&rows, &positions).unwrap();
    assert_eq!(applied.delta.len(), 1);
    assert_eq!(applied.superseded, Vec::<u32>::new());
    assert_eq!(sum(&[applied.delta]), BTreeMap::from([(1, 3)]));
}

#[test]
fn a_removal_keeps_older_rows_away_for_good() {
    let mut table = table();
    let record = |version, deleted, offset| Record {
        key: 1,
        version: Some(version),
        value: 7,
        deleted,
        arrival: 0,
        partition: 0,
        offset,
    };
    let mut deltas = Vec::new();
    for records in [[record(5, true, 0)], [record(4, false, 1)]] {
        let (rows, positions) = batch(&records);
        deltas.push(table.apply(&rows, &positions).unwrap().delta);
    }
    assert_eq!(sum(&deltas), BTreeMap::new());
    let (rows, positions) = batch(&[record(6, false, 2)]);
    deltas.push(table.apply(&rows, &positions).unwrap().delta);
    assert_eq!(sum(&deltas), BTreeMap::from([(1, 7)]));
}

#[test]
fn a_restored_table_goes_on_as_if_nothing_had_happened() {
    for seed in 0..50 {
        let mut random = StdRng::seed_from_u64(seed);
        let records = random_records(&mut random, 60);
        let mut table = table();
        let (environment, _simulator) = Environment::simulated(seed);
        let store = CheckpointStore::open(&environment, Path::new("/checkpoints")).unwrap();
        table.state().attach(&store.reader().state("table"), true).unwrap();
        let mut deltas = Vec::new();
        for part in records.chunks(7) {
            let (rows, positions) = batch(part);
            deltas.push(table.apply(&rows, &positions).unwrap().delta);
            let mut changes = StateChanges::default();
            table.state().changes(&mut |key, value| changes.put_key("table", key, value));
            store.write(1, &mut changes, b"").unwrap();
            if random.random_bool(0.3) {
                table = self::table();
                table.state().attach(&store.reader().state("table"), false).unwrap();
            } else if random.random_bool(0.5) {
                table.state().durable();
                table.state().evict(usize::MAX);
            }
        }
        assert_eq!(sum(&deltas), expected(&records), "seed {seed}");
    }
}
