//! The law of splits: each row is in exactly one of the relations that share them.

use weir_project::Split;

use super::PipelineError;
use crate::EpochNumber;
use crate::change::Change;

/// Refuses an epoch after which a split has more or fewer rows than its outputs together.
pub(super) fn check(epoch: EpochNumber, splits: &[Split], changes: &[Change]) -> Result<(), PipelineError> {
    let rows = |relation: &str| -> i64 {
        changes.iter().filter(|change| &*change.relation == relation).map(|change| change.rows).sum()
    };
    for split in splits {
        let whole = rows(&split.name);
        let parts: Vec<(&str, i64)> = split.outputs.iter().map(|output| (&**output, rows(output))).collect();
        if whole != parts.iter().map(|(_, rows)| rows).sum::<i64>() {
            let parts: Vec<String> = parts.iter().map(|(output, rows)| format!("{rows:+} `{output}`")).collect();
            let detail = format!("split `{}`: {whole:+} rows are not {}", split.name, parts.join(", "));
            return Err(PipelineError::Conservation { epoch, detail });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    use arrow::array::{Int64Array, RecordBatch};
    use weir_incremental::Delta;

    fn change(relation: &str, rows: i64) -> Change {
        let columns = [("a", Arc::new(Int64Array::from_iter_values(0..rows)) as _)];
        Change::new(relation.into(), Delta::inserts(RecordBatch::try_from_iter(columns).unwrap())).unwrap()
    }

    #[test]
    fn an_epoch_whose_outputs_lack_a_row_or_have_one_twice_is_refused() {
        let splits = [Split { name: "route".into(), outputs: vec!["route_card".into(), "route_rest".into()] }];
        let judge = |card, rest| {
            let changes =
                [change("route", 3), change("other", 9), change("route_card", card), change("route_rest", rest)];
            check(7, &splits, &changes).map_err(|error| error.to_string())
        };
        assert_eq!(judge(2, 1), Ok(()));
        assert_eq!(judge(3, 0), Ok(()));
        let message = judge(1, 1).unwrap_err();
        assert!(message.contains("+3 rows are not +1 `route_card`, +1 `route_rest`"), "{message}");
        assert!(judge(3, 1).is_err());
        assert_eq!(check(7, &splits, &[]).map_err(|error| error.to_string()), Ok(()));
    }
}
