//! The laws of conservation: what must add up before an epoch is committed. Each is a function from two countings to the
//! sum that does not hold.

use weir_incremental::Relation;
use weir_project::Split;

use crate::contents::Totals;
use crate::measure::{Flow, Sums, shown};
use crate::prepare::PreparedChunk;

/// What an epoch did to one relation.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RelationCount {
    /// Rows that came, each as often as it did.
    pub inserted: u64,
    /// Rows that went.
    pub deleted: u64,
    /// Of these, pairs of a row that went and one of the same key that came; None without a key.
    pub updated: Option<u64>,
    /// Sum of the weights.
    pub rows: i64,
    /// Checksum of the change.
    pub checksum: u128,
    /// What it did to each measure.
    pub flows: Vec<Flow>,
}

/// What a source's rows came to in one measure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SourceFlow {
    /// Of all rows that could be decoded.
    pub read: Sums,
    /// Of those that take part.
    pub admitted: Sums,
    /// Of those that came too late.
    pub late: Sums,
    /// Of repeats.
    pub duplicate: Sums,
    /// Of those that a later row had replaced before they came.
    pub superseded: Sums,
    /// Of those that were decoded and set aside all the same.
    pub quarantined: Sums,
}

impl SourceFlow {
    /// The parts that [`SourceFlow::read`] is the sum of, by the names that the ledger has for them.
    pub fn parts(&self) -> [(&'static str, &Sums); 5] {
        [
            ("admitted", &self.admitted),
            ("late", &self.late),
            ("duplicate", &self.duplicate),
            ("superseded", &self.superseded),
            ("quarantined", &self.quarantined),
        ]
    }

    /// What is read is what takes part and what was set aside.
    pub fn check(&self, measure: &str) -> Result<(), String> {
        let mut accounted = Sums::default();
        self.parts().iter().for_each(|(_, sums)| accounted.add(sums));
        let Some((group, read, _)) = self.read.difference(&accounted) else { return Ok(()) };
        let parts: Vec<String> =
            self.parts().iter().map(|(name, sums)| format!("{} {name}", sums.text(&group))).collect();
        Err(format!("measure `{measure}`, {}: {read} read are not {}", shown(&group), parts.join(" + ")))
    }
}

/// Every record and every unreadable part of a chunk is some source's, or nobody's, and no record is both. `claimed` is
/// what the sources counted; where there is one, it is all there is to count.
pub fn check_chunk(chunk: &PreparedChunk, claimed: u64) -> Result<(), String> {
    let (records, incidents) = (chunk.len() as u64, chunk.chunk.incidents.len() as u64);
    let unrouted = chunk.unrouted.len() as u64;
    if chunk.sources.len() == 1 {
        if claimed + unrouted != records + incidents {
            return Err(format!("{} records are not {claimed} claimed + {unrouted} unrouted", records + incidents));
        }
        return Ok(());
    }
    let mut seen = vec![false; chunk.len()];
    let mut claims = 0;
    for source in &chunk.sources {
        claims += (source.records.len() + source.rejects.len()) as u64;
        let records = source.records.iter().chain(source.rejects.iter().map(|reject| &reject.record));
        records.for_each(|record| seen[*record as usize] = true);
    }
    if claims + incidents != claimed {
        return Err(format!("{claims} claims + {incidents} unreadable parts are not {claimed} claimed"));
    }
    let both = chunk.unrouted.iter().filter(|record| seen[**record as usize]).count();
    let distinct = seen.iter().filter(|seen| **seen).count() as u64;
    if both > 0 || distinct + unrouted != records {
        return Err(format!("{records} records are not {distinct} claimed + {unrouted} unrouted ({both} are both)"));
    }
    Ok(())
}

/// What was set aside is what was counted as set aside.
pub fn check_aside(what: &str, kept: usize, counted: u64) -> Result<(), String> {
    if kept as u64 == counted {
        Ok(())
    } else {
        Err(format!("{kept} records kept as {what} are not {counted} counted"))
    }
}

/// What a relation held, and what came and went, is what it holds; there is nothing of less than nothing, and of no rows
/// there is neither a checksum nor a sum. `sums` are those of its measures afterwards, where no rows are left.
pub fn check_relation(before: Totals, count: &RelationCount, sums: &[Sums]) -> Result<Totals, String> {
    let RelationCount { inserted, deleted, .. } = count;
    let after = Totals { rows: before.rows + count.rows, checksum: before.checksum.wrapping_add(count.checksum) };
    let told = i128::from(before.rows) + i128::from(*inserted) - i128::from(*deleted);
    if told != i128::from(after.rows) {
        return Err(format!("{} rows + {inserted} inserted - {deleted} deleted are not {}", before.rows, after.rows));
    }
    if after.rows < 0 {
        return Err(format!("{} rows + {inserted} inserted - {deleted} deleted are less than none", before.rows));
    }
    if after.rows == 0 && after.checksum != 0 {
        let checksum = after.checksum;
        return Err(format!(
            "no rows are left, and their checksum is {checksum:032x}: other rows went than there were"
        ));
    }
    let left = sums.iter().find_map(|sums| sums.groups().next());
    if let Some((group, sum)) = left.filter(|_| after.rows == 0) {
        return Err(format!("no rows are left, and a sum of {sum} for {}", shown(group)));
    }
    Ok(after)
}

/// A stream holds what its source admitted: no more, no less, and nothing goes.
pub fn check_stream(admitted: u64, count: &RelationCount) -> Result<(), String> {
    let RelationCount { inserted, deleted, .. } = count;
    if (*inserted, *deleted) == (admitted, 0) {
        return Ok(());
    }
    Err(format!("{admitted} rows admitted are not {inserted} inserted and none deleted ({deleted} were)"))
}

/// A split's rows are in exactly one of the relations that share them. `rows` says by how many each grew.
pub fn check_split(split: &Split, rows: impl Fn(&Relation) -> i64) -> Result<(), String> {
    let whole = rows(&split.name);
    if split.outputs.iter().map(&rows).sum::<i64>() == whole {
        return Ok(());
    }
    let parts: Vec<String> = split.outputs.iter().map(|output| format!("{:+} `{output}`", rows(output))).collect();
    Err(format!("{whole:+} rows are not {}", parts.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{ArrayRef, Int64Array, RecordBatch};
    use weir_project::Measure;

    use crate::measure::MeasureSpec;

    fn sums(values: &[i64]) -> Sums {
        let column: ArrayRef = Arc::new(Int64Array::from(values.to_vec()));
        let rows = RecordBatch::try_from_iter([("amount", column)]).unwrap();
        let measure = Measure { column: "amount".into(), by: Vec::new() };
        MeasureSpec::new(&measure, &rows.schema()).unwrap().of_rows(&rows).unwrap()
    }

    #[test]
    fn a_row_too_many_or_too_few_shows_in_each_law() {
        let before = Totals { rows: 3, checksum: 30 };
        let count = |inserted, deleted, rows, checksum| RelationCount {
            inserted,
            deleted,
            rows,
            checksum,
            ..RelationCount::default()
        };
        let minus = |number: u128| 0u128.wrapping_sub(number);
        let law = |count: &RelationCount| check_relation(before, count, &[sums(&[])]);
        assert_eq!(law(&count(2, 1, 1, 5)), Ok(Totals { rows: 4, checksum: 35 }));
        assert_eq!(law(&count(0, 3, -3, minus(30))), Ok(Totals::default()));
        assert_eq!(law(&count(2, 1, 2, 5)).unwrap_err(), "3 rows + 2 inserted - 1 deleted are not 5");
        assert_eq!(law(&count(0, 4, -4, 0)).unwrap_err(), "3 rows + 0 inserted - 4 deleted are less than none");
        assert!(law(&count(0, 3, -3, minus(29))).unwrap_err().contains("other rows went than there were"));
        let left = check_relation(before, &count(0, 3, -3, minus(30)), &[sums(&[7])]).unwrap_err();
        assert_eq!(left, "no rows are left, and a sum of 7 for all");
        assert!(check_stream(2, &count(2, 0, 2, 0)).is_ok());
        assert!(check_stream(3, &count(2, 0, 2, 0)).is_err() && check_stream(2, &count(2, 1, 1, 0)).is_err());
        assert!(check_aside("late", 2, 2).is_ok() && check_aside("late", 2, 3).is_err());
    }

    #[test]
    fn an_amount_that_is_read_and_not_accounted_for_shows() {
        let mut flow = SourceFlow {
            read: sums(&[5, 7, 9]),
            admitted: sums(&[5]),
            late: sums(&[7]),
            superseded: sums(&[9]),
            ..SourceFlow::default()
        };
        assert_eq!(flow.check("amount"), Ok(()));
        flow.late = sums(&[6]);
        assert_eq!(
            flow.check("amount").unwrap_err(),
            "measure `amount`, all: 21 read are not 5 admitted + 6 late + 0 duplicate + 9 superseded + 0 quarantined"
        );
    }

    #[test]
    fn outputs_that_lack_a_row_or_have_one_twice_show() {
        let split = Split { name: "route".into(), outputs: vec!["route_card".into(), "route_rest".into()] };
        let law = |whole, card, rest| {
            check_split(&split, |relation| match relation.as_ref() {
                "route" => whole,
                "route_card" => card,
                _ => rest,
            })
        };
        assert_eq!((law(3, 2, 1), law(-1, 0, -1), law(0, 1, -1)), (Ok(()), Ok(()), Ok(())));
        assert_eq!(law(3, 1, 1).unwrap_err(), "+3 rows are not +1 `route_card`, +1 `route_rest`");
        assert!(law(3, 3, 1).is_err());
    }
}
