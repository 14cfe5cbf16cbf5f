//! Access logs: real ones, and lines with every oddity.

mod support;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int32Type, Int64Type};
use support::{columns, data, frame_all, records};
use weir_schemas::{AccessLogFormat, Attributes, Contract, Decoded, Format, UnknownFields};

fn decode_file(path: &str) -> Decoded {
    let framed = frame_all(&AccessLogFormat, &data(path), &[]);
    AccessLogFormat.decoder(&Contract::default()).decode(&framed, &Attributes::default())
}

fn decode(lines: &[&str]) -> Decoded {
    AccessLogFormat.decoder(&Contract::default()).decode(&records(lines), &Attributes::default())
}

/// The row as text, NULL as `~`.
fn row(decoded: &Decoded, row: usize) -> Vec<String> {
    let text = |column: &arrow::array::ArrayRef| match column.is_null(row) {
        true => "~".to_string(),
        false => arrow::util::display::array_value_to_string(column, row).unwrap(),
    };
    decoded.batch.columns().iter().map(text).collect()
}

#[test]
fn a_real_combined_log_has_one_broken_line() {
    let decoded = decode_file("access_logs/semicomplete_2015_combined.log");
    assert_eq!(decoded.batch.num_rows(), 9_999);
    assert_eq!(decoded.rejects.len(), 1);
    assert_eq!((decoded.rejects[0].record, decoded.rejects[0].reason), (8_898, "truncated"));
    let status = decoded.batch.column_by_name("status").unwrap().as_primitive::<Int32Type>();
    let count = |wanted| status.iter().filter(|status| *status == Some(wanted)).count();
    assert_eq!((count(200), count(404)), (9_125, 213));
    let bytes = decoded.batch.column_by_name("bytes").unwrap().as_primitive::<Int64Type>();
    assert_eq!(bytes.iter().flatten().sum::<i64>(), 2_747_282_505);
}

#[test]
fn a_real_common_log_decodes_wholly() {
    let decoded = decode_file("access_logs/twiki_2004_common.log");
    assert_eq!((decoded.batch.num_rows(), decoded.rejects.len()), (1_406, 0));
    assert_eq!(decoded.batch.column_by_name("user_agent").unwrap().null_count(), 1_406);
    assert_eq!(row(&decoded, 0)[3], "2004-03-08T00:05:49Z");
}

#[test]
fn escapes_dashes_and_odd_requests_are_read() {
    let decoded = decode(&[
        r#"1.2.3.4 - jane doe [07/Mar/2004:16:05:49 -0800] "GET /a?b=c?d HTTP/1.1" 200 - "http://x/\"q\"" "U \\ \x41""#,
        r#"::1 - - [07/Mar/2004:16:05:49 +0000] "-" 408 0 "-" "-""#,
        r#"h i u [07/Mar/2004:16:05:49 +0000] "\x16\x03\x01" 400 226"#,
        r#"h - - [07/Mar/2004:16:05:49 +0000] "GET /a b HTTP/1.0" 200 1"#,
        r#"h - - [07/Mar/2004:16:05:49 +0000] "GET /" 200 1"#,
        r#"h - - [07/Mar/2004:16:05:49 +0000] "" 400 1"#,
        r#"h - - [07/Mar/2004:16:05:49 +0000] "\xff\xfe" 400 1"#,
    ]);
    assert_eq!(decoded.rejects, []);
    let time = "2004-03-07T16:05:49Z";
    assert_eq!(
        row(&decoded, 0),
        [
            "1.2.3.4",
            "~",
            "jane doe",
            "2004-03-08T00:05:49Z",
            "GET",
            "/a",
            "b=c?d",
            "HTTP/1.1",
            "200",
            "~",
            "http://x/\"q\"",
            "U \\ A"
        ]
    );
    assert_eq!(row(&decoded, 1), ["::1", "~", "~", time, "~", "~", "~", "~", "408", "0", "~", "~"]);
    assert_eq!(row(&decoded, 2), ["h", "i", "u", time, "~", "\u{16}\u{3}\u{1}", "~", "~", "400", "226", "~", "~"]);
    assert_eq!(row(&decoded, 3)[4..8], ["GET", "/a b", "~", "HTTP/1.0"]);
    assert_eq!(row(&decoded, 4)[4..8], ["~", "GET /", "~", "~"]);
    assert_eq!(row(&decoded, 5)[4..8], ["~", "", "~", "~"]);
    assert_eq!(row(&decoded, 6)[5], r"\xff\xfe");
}

#[test]
fn broken_lines_are_rejected_with_a_reason() {
    for (line, reason) in [
        ("", "truncated"),
        ("h", "truncated"),
        ("h - - [07/Mar/2004:16:05:49 +0000", "truncated"),
        ("h - - [07/Mar/2004:16:05:49 +0000] \"GET / HTTP", "truncated"),
        ("h - - [07/Mar/2004:16:05:49 +0000] \"GET / HTTP/1.0\\", "truncated"),
        ("h - - [07/Mar/2004:16:05:49 +0000] \"GET / HTTP/1.0\"", "truncated"),
        ("h - - [07/Mar/2004:16:05:49 +0000] \"GET / HTTP/1.0\" 200", "truncated"),
        ("h - - [99/Mar/2004:16:05:49 +0000] \"GET / HTTP/1.0\" 200 1", "syntax"),
        ("h - - [07/Mar/2004:16:05:49 +0000] GET / 200 1", "syntax"),
        ("h - - [07/Mar/2004:16:05:49 +0000] \"GET / HTTP/1.0\" 200 1 \"-\" \"-\" more", "syntax"),
        ("h - - [07/Mar/2004:16:05:49 +0000] \"GET / HTTP/1.0\" abc 1", "wrong_type"),
    ] {
        assert_eq!(decode(&[line]).rejects.first().map(|it| it.reason), Some(reason), "{line}");
    }
}

#[test]
fn a_contract_takes_the_fields_it_wants() {
    let contract =
        Contract::new(columns(&[("status", "TEXT"), ("bytes", "INT"), ("time", "TIMESTAMP")]), UnknownFields::Keep);
    let decoder = AccessLogFormat.decoder(&contract);
    let line = r#"h - - [07/Mar/2004:16:05:49 -0100] "GET / HTTP/1.0" 200 17"#;
    let decoded = decoder.decode(&records(&[line]), &Attributes::default());
    assert_eq!(row(&decoded, 0), ["200", "17", "2004-03-07T17:05:49"]);
    assert_eq!(*decoder.schema().field(0).data_type(), DataType::Utf8);
}
