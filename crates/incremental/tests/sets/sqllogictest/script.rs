//! The files of sqllogictest: statements to run, queries to answer. What is expected in them is not read.

use std::path::Path;

/// One record of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// To be run.
    Statement(String),
    /// To be answered; with the line it stands on.
    Query(usize, String),
}

/// The records of a file and of those that it includes, without those that must fail and those for other databases.
pub fn records(path: &Path) -> Vec<Record> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut records = Vec::new();
    let mut lines = text.lines().enumerate().peekable();
    let mut for_others = false;
    while let Some((index, line)) = lines.next() {
        let mut words = line.split_whitespace();
        match (words.next(), words.next()) {
            (Some("include"), Some(pattern)) => {
                let folder = path.parent().expect("a file stands in a folder");
                records.extend(self::records(&folder.join(pattern)));
            }
            (Some("onlyif"), Some(engine)) => for_others |= engine != "DataFusion" && engine != "datafusion",
            (Some("skipif"), Some(engine)) => for_others |= engine == "DataFusion" || engine == "datafusion",
            (Some(kind @ ("statement" | "query")), Some(expected)) => {
                let mut sql = String::new();
                while let Some((_, line)) =
                    lines.next_if(|(_, line)| !line.trim().is_empty() && !line.starts_with("----"))
                {
                    sql.push_str(line);
                    sql.push('\n');
                }
                while lines.next_if(|(_, line)| !line.trim().is_empty()).is_some() {}
                if expected != "error" && !std::mem::take(&mut for_others) {
                    records.push(match kind {
                        "statement" => Record::Statement(sql),
                        _ => Record::Query(index + 1, sql),
                    });
                }
            }
            _ => {}
        }
    }
    records
}

#[test]
fn records_are_read_without_what_is_expected() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("some.slt");
    let text = "# a comment\n\nstatement ok\nCREATE TABLE t\n(a INT)\n\nquery I rowsort\nSELECT a\nFROM t\n----\n1\n2\n\nquery error no\nSELECT b\n\n\
                onlyif postgres\nquery I\nSELECT 1\n----\n1\n\nquery I\nSELECT 2\n----\n2\n";
    std::fs::write(&path, text).expect("a file");
    let expected = [
        Record::Statement("CREATE TABLE t\n(a INT)\n".into()),
        Record::Query(7, "SELECT a\nFROM t\n".into()),
        Record::Query(23, "SELECT 2\n".into()),
    ];
    assert_eq!(records(&path), expected);
}
