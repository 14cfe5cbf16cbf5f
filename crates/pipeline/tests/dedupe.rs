//! Repeats are found whatever the cut, across restarts, and identities are let go of only when nothing can repeat them.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Int64Array, RecordBatch};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use weir_pipeline::dedupe::Dedupe;
use weir_pipeline::watermark::Watermarks;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![Field::new("id", DataType::Int64, true)]))
}

fn batch(ids: &[i64]) -> RecordBatch {
    RecordBatch::try_new(schema(), vec![Arc::new(Int64Array::from(ids.to_vec()))]).unwrap()
}

const WITHIN: i64 = 50;
const LATENESS: i64 = 20;

#[test]
fn every_cut_with_restarts_and_sweeps_gives_the_same_verdicts() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let rows: Vec<(i64, i64)> =
            (0..300).map(|i| (random.random_range(0..12), i * 2 + random.random_range(-30..10))).collect();
        let times: Vec<i64> = rows.iter().map(|r| r.1).collect();
        let late = Watermarks::default().judge(0, &times, Some(LATENESS));
        let rows: Vec<(i64, i64)> = rows.into_iter().zip(late).filter(|(_, late)| !late).map(|(r, _)| r).collect();

        let mut admitted: BTreeMap<i64, i64> = BTreeMap::new();
        let wanted: Vec<bool> = rows
            .iter()
            .map(|(id, time)| {
                let repeat = admitted.get(id).is_some_and(|first| time.abs_diff(*first) <= WITHIN as u64);
                if !repeat {
                    admitted.insert(*id, *time);
                }
                repeat
            })
            .collect();

        let new = || Dedupe::new(&schema(), vec![0], WITHIN).unwrap();
        let mut dedupe = new();
        let mut watermarks = Watermarks::default();
        let mut kept: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        let mut found = Vec::new();
        let mut rest = &rows[..];
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(random.random_range(1..=rest.len().min(40)));
            let ids: Vec<i64> = part.iter().map(|r| r.0).collect();
            let times: Vec<i64> = part.iter().map(|r| r.1).collect();
            found.extend(dedupe.apply(&batch(&ids), &times).unwrap());
            watermarks.judge(0, &times, Some(LATENESS));
            if let Some(low) = watermarks.low(Some(LATENESS)) {
                dedupe.advance(low);
            }
            dedupe.changes(&mut |key, value| match value {
                Some(value) => drop(kept.insert(key.to_vec(), value.to_vec())),
                None => drop(kept.remove(key)),
            });
            if random.random_bool(0.3) {
                dedupe = new();
                for (key, value) in &kept {
                    dedupe.restore(key, value).unwrap();
                }
            }
            rest = behind;
        }
        assert_eq!(found, wanted, "seed {seed}");
    }
}

#[test]
fn identities_are_let_go_of_behind_the_watermark() {
    let mut dedupe = Dedupe::new(&schema(), vec![0], WITHIN).unwrap();
    for round in 0..100 {
        let ids: Vec<i64> = (round * 10..round * 10 + 10).collect();
        dedupe.apply(&batch(&ids), &[round * 100; 10]).unwrap();
        dedupe.advance(round * 100 - LATENESS);
    }
    assert!(dedupe.len() <= 20, "{} identities kept", dedupe.len());
}
