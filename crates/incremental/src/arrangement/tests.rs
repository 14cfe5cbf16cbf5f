//! Arrangements against an ordinary map.

use super::*;
use crate::delta::Delta;
use arrow::array::{Int64Array, StringArray};
use arrow::datatypes::Field;
use std::collections::BTreeMap;
use std::sync::Arc;

fn schema() -> Schema {
    Schema::new(vec![Field::new("value", DataType::Utf8, true), Field::new("key", DataType::Int64, true)])
}

struct Draw(u64);

impl Draw {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) % bound
    }
}

fn batch(rows: &[(String, i64)]) -> RecordBatch {
    let values: StringArray = rows.iter().map(|(value, _)| Some(value.as_str())).collect();
    let keys: Int64Array = rows.iter().map(|(_, key)| Some(*key)).collect();
    RecordBatch::try_new(Arc::new(schema()), vec![Arc::new(values), Arc::new(keys)]).unwrap()
}

#[test]
fn an_arrangement_holds_what_was_added_and_nothing_when_all_is_taken_away() {
    for seed in 0..8 {
        let mut draw = Draw(seed);
        let keys = [3, 50, 4000][seed as usize % 3];
        let mut arrangement = Arrangement::new(&schema(), &[1]).unwrap();
        let mut expected: BTreeMap<(i64, String), i64> = BTreeMap::new();
        let mut deltas = Vec::new();
        for _ in 0..20 {
            let rows: Vec<(String, i64)> = (0..200)
                .map(|_| {
                    let size = if draw.below(50) == 0 { 3000 } else { 20 };
                    let text = "x".repeat(draw.below(size) as usize);
                    (format!("{text}{}", draw.below(9)), draw.below(keys) as i64)
                })
                .collect();
            let weights: Vec<i64> = rows.iter().map(|_| draw.below(4) as i64 - 1).collect();
            for ((value, key), weight) in rows.iter().zip(&weights) {
                *expected.entry((*key, value.clone())).or_default() += weight;
            }
            deltas.push(Delta::new(batch(&rows), Int64Array::from(weights)));
        }
        for delta in &deltas {
            let encoded = arrangement.encode(&delta.rows).unwrap();
            arrangement.apply(&encoded, delta.weights.values()).unwrap();
        }
        expected.retain(|_, weight| *weight != 0);
        assert_eq!(arrangement.rows(), expected.len());
        let mut found = BTreeMap::new();
        for key in 0..keys as i64 {
            let probe = arrangement.encode(&batch(&[(String::new(), key)])).unwrap();
            let head = arrangement.probe(probe.hashes[0], probe.keys.get(0));
            let records: Vec<u32> = arrangement.stored().records(head).collect();
            let total: i64 = records.iter().map(|&r| arrangement.stored().row_weight(r)).sum();
            assert_eq!(arrangement.stored().total(head), total);
            let columns = arrangement.decode(&records).unwrap();
            let values = columns[0].as_any().downcast_ref::<StringArray>().unwrap();
            for (&record, value) in records.iter().zip(values) {
                let row = (key, value.unwrap().to_owned());
                found.insert(row, arrangement.stored().row_weight(record));
            }
        }
        assert_eq!(found, expected);
        for delta in &deltas {
            let encoded = arrangement.encode(&delta.rows).unwrap();
            arrangement.apply(&encoded, delta.negate().weights.values()).unwrap();
        }
        assert_eq!(arrangement.rows(), 0);
        assert_eq!(arrangement.stored().bytes(), 0);
        assert_eq!(arrangement.table.index.len(), 0);
    }
}

#[test]
fn space_of_removed_rows_is_reused() {
    let mut arrangement = Arrangement::new(&schema(), &[1]).unwrap();
    let mut peak = 0;
    for round in 0..50_i64 {
        let rows: Vec<(String, i64)> = (0..500).map(|row| ("y".repeat(100), round * 500 + row)).collect();
        let encoded = arrangement.encode(&batch(&rows)).unwrap();
        arrangement.apply(&encoded, &vec![1; 500]).unwrap();
        if round > 0 {
            let old: Vec<(String, i64)> = rows.iter().map(|(value, key)| (value.clone(), key - 500)).collect();
            let encoded = arrangement.encode(&batch(&old)).unwrap();
            arrangement.apply(&encoded, &vec![-1; 500]).unwrap();
        }
        peak = peak.max(arrangement.stored().bytes());
    }
    assert_eq!(arrangement.rows(), 500);
    // Without reuse it would be 25 times the 1000 rows that are there at most.
    assert!(peak < 1000 * 250, "{peak}");
}

#[test]
fn compacting_keeps_every_row() {
    let mut arrangement = Arrangement::new(&schema(), &[1]).unwrap();
    let rows: Vec<(String, i64)> = (0..9000).map(|row| (format!("{row}{}", "z".repeat(200)), row % 700)).collect();
    let encoded = arrangement.encode(&batch(&rows)).unwrap();
    arrangement.apply(&encoded, &vec![1; 9000]).unwrap();
    let before = arrangement.bytes();
    let weights: Vec<i64> = (0..9000).map(|row| if row % 10 == 0 { 0 } else { -1 }).collect();
    arrangement.apply(&encoded, &weights).unwrap();
    assert_eq!(arrangement.rows(), 900);
    assert!(arrangement.bytes() < before / 2);
    for row in 0..9000 {
        assert_eq!(arrangement.weight(&encoded, row), i64::from(row % 10 == 0));
    }
}
