//! JSON records: what they decode to, and what is said of those that do not fit.

mod support;

use arrow::array::{Array, AsArray};
use arrow::datatypes::{DataType, Int64Type, TimestampMicrosecondType};
use arrow::util::pretty::pretty_format_batches;
use bytes::Bytes;
use support::{columns, frame_all, records};
use weir_schemas::{
    Attributes, Column, Contract, Decoded, Format, JsonFormat, Origin, UnknownFields, split_json_events,
};

fn decode(contract: &Contract, lines: &[&str]) -> Decoded {
    JsonFormat.decoder(contract).decode(&records(lines), &Attributes::default())
}

fn contract(of: &[(&str, &str)]) -> Contract {
    Contract::new(columns(of), UnknownFields::Drop)
}

/// The reason and message of the only record, which must be rejected.
fn reject(of: &[(&str, &str)], line: &str) -> (&'static str, String) {
    let decoded = decode(&contract(of), &[line]);
    assert_eq!(decoded.batch.num_rows(), 0, "{line} was admitted");
    (decoded.rejects[0].reason, decoded.rejects[0].message.clone())
}

/// The only value of the only column.
fn value(sql_type: &str, json: &str) -> String {
    let decoded = decode(&contract(&[("v", sql_type)]), &[&format!("{{\"v\":{json}}}")]);
    assert_eq!(decoded.rejects, [], "{json} is no {sql_type}");
    arrow::util::display::array_value_to_string(decoded.batch.column(0), 0).unwrap()
}

#[test]
fn every_type_reads_its_values() {
    assert_eq!(value("BIGINT", "-9223372036854775808"), "-9223372036854775808");
    assert_eq!(value("BIGINT", "9223372036854775807"), "9223372036854775807");
    assert_eq!(value("BIGINT", "1.0"), "1");
    assert_eq!(value("BIGINT", "12e2"), "1200");
    assert_eq!(value("INT", "-5"), "-5");
    assert_eq!(value("SMALLINT", "32767"), "32767");
    assert_eq!(value("TINYINT", "-128"), "-128");
    assert_eq!(value("DOUBLE", "0.1"), "0.1");
    assert_eq!(value("DOUBLE", "-0"), "-0.0");
    assert_eq!(value("DOUBLE", "123456789012345678901234567890"), "1.2345678901234568e29");
    assert_eq!(value("REAL", "1.5"), "1.5");
    assert_eq!(value("DECIMAL(10, 2)", "12345678.90"), "12345678.90");
    assert_eq!(value("DECIMAL(10, 2)", "\"0.10\""), "0.10");
    assert_eq!(
        value("DECIMAL(38, 0)", "12345678901234567890123456789012345678"),
        "12345678901234567890123456789012345678"
    );
    assert_eq!(value("DECIMAL(10, 2)", "1.5000"), "1.50");
    assert_eq!(value("BOOLEAN", "true"), "true");
    assert_eq!(value("TEXT", r#""a\"b\\c\/\n\u00e9\ud83d\ude00""#), "a\"b\\c/\né😀");
    assert_eq!(value("DATE", "\"2024-02-29\""), "2024-02-29");
    assert_eq!(value("TIMESTAMP", "\"2024-02-29T12:00:00Z\""), "2024-02-29T12:00:00");
    assert_eq!(value("TIMESTAMP", "\"2024-02-29 12:00:00.123456789\""), "2024-02-29T12:00:00.123456");
    assert_eq!(value("TIMESTAMP", "\"2024-02-29T12:00:00+02:00\""), "2024-02-29T10:00:00");
    assert_eq!(value("TIMESTAMP", "1700000000"), "2023-11-14T22:13:20");
    assert_eq!(value("TIMESTAMP", "1700000000123"), "2023-11-14T22:13:20.123");
    assert_eq!(value("TIMESTAMP", "1700000000123456"), "2023-11-14T22:13:20.123456");
    assert_eq!(value("TIMESTAMP", "1700000000.25"), "2023-11-14T22:13:20.250");
    assert_eq!(value("TIMESTAMP", "-1"), "1969-12-31T23:59:59");
    assert_eq!(value("TIMESTAMPTZ", "\"2024-02-29T12:00:00-01:30\""), "2024-02-29T13:30:00Z");
    assert_eq!(value("BINARY", "\"AQID\""), "010203");
    assert_eq!(value("STRUCT<a BIGINT, b TEXT>", r#"{"b":"x","z":[1,{}],"a":1}"#), "{a: 1, b: x}");
    assert_eq!(value("BIGINT[]", "[1, null,3]"), "[1, , 3]");
    assert_eq!(value("MAP<TEXT, BIGINT>", r#"{"a":1,"b":2,"a":3}"#), "{b: 2, a: 3}");
    assert_eq!(
        value("ARRAY<STRUCT<m MAP<TEXT, BOOLEAN[]>>>", r#"[{"m":{"k":[true]}},{}]"#),
        "[{m: {k: [true]}}, {m: }]"
    );
}

#[test]
fn what_does_not_fit_is_said_with_path_and_text() {
    let (reason, message) = reject(&[("v", "BIGINT")], r#"{"v":"abc"}"#);
    assert_eq!((reason, message.as_str()), ("wrong_type", "v: expected BIGINT, found \"abc\" at byte 5"));
    let (reason, message) = reject(&[("v", "STRUCT<a ARRAY<TINYINT>>")], r#"{"v":{"a":[1,2,300]}}"#);
    assert_eq!((reason, message.as_str()), ("out_of_range", "v.a[2]: does not fit TINYINT, found 300 at byte 15"));
    assert_eq!(reject(&[("v", "BIGINT")], r#"{"v":1.5}"#).0, "wrong_type");
    assert_eq!(reject(&[("v", "BIGINT")], r#"{"v":9223372036854775808}"#).0, "out_of_range");
    assert_eq!(reject(&[("v", "BIGINT")], r#"{"v":1e99}"#).0, "out_of_range");
    assert_eq!(reject(&[("v", "DOUBLE")], r#"{"v":1e400}"#).0, "out_of_range");
    assert_eq!(reject(&[("v", "DECIMAL(5, 2)")], r#"{"v":1.234}"#).0, "out_of_range");
    assert_eq!(reject(&[("v", "DECIMAL(5, 2)")], r#"{"v":1000}"#).0, "out_of_range");
    assert_eq!(reject(&[("v", "DATE")], r#"{"v":"2023-02-29"}"#).0, "wrong_type");
    assert_eq!(reject(&[("v", "TIMESTAMP")], r#"{"v":"yesterday"}"#).0, "wrong_type");
    assert_eq!(reject(&[("v", "TIMESTAMP")], r#"{"v":1e30}"#).0, "out_of_range");
    assert_eq!(reject(&[("v", "TEXT")], r#"{"v":{"a":1}}"#).0, "wrong_type");
    assert_eq!(reject(&[("v", "TEXT")], "[1]").0, "wrong_type");
    assert_eq!(reject(&[("v", "STRUCT<a BIGINT NOT NULL>")], r#"{"v":{}}"#).0, "missing");
}

#[test]
fn a_broken_record_is_a_syntax_error_wherever_it_is_broken() {
    for line in [
        "",
        "{",
        "}",
        "nul",
        "{\"v\":}",
        "{\"v\":1,}",
        "{\"v\":1",
        "{\"v\":01}",
        "{\"v\":1.}",
        "{\"v\":1e}",
        "{\"v\":-}",
        "{\"v\" 1}",
        "{v:1}",
        "{\"v\":1} x",
        "{\"v\":1}{}",
        "{\"other\":[1,2}",
        "{\"other\":{\"a\":tru}}",
        "{\"other\":\"\u{1}\"}",
        "{\"other\":\"\\x\"}",
        "{\"other\":\"\\ud800\"}",
        "{\"other\":\"abc}",
        "{\"v\":\"no\",",
        "{\"v\":1 \"w\":2}",
        "[1,2",
        "{\"\\u12\":1}",
    ] {
        assert_eq!(reject(&[("v", "BIGINT")], line).0, "json_syntax", "{line}");
    }
}

#[test]
fn deep_nesting_is_refused_and_does_no_harm() {
    for depth in [129, 10_000, 1_000_000] {
        let line = format!("{{\"other\":{}", "[".repeat(depth));
        assert_eq!(reject(&[("v", "BIGINT")], &line).0, "too_deep");
        assert_eq!(reject(&[("v", "BIGINT[]")], &format!("{{\"v\":{}", "[".repeat(depth))).0, "too_deep");
        assert!(split_json_events(&Bytes::from(line)).unwrap_err().message.contains("nest deeper"));
    }
    let deepest = format!("{{\"other\":{}{}}}", "[".repeat(127), "]".repeat(127));
    assert_eq!(decode(&contract(&[("v", "BIGINT")]), &[&deepest]).batch.num_rows(), 1);
}

#[test]
fn paths_reach_into_objects_and_required_columns_must_be_there() {
    let mut of = contract(&[("id", "BIGINT"), ("whole", "STRUCT<id BIGINT, name TEXT>"), ("city", "TEXT")]);
    of.columns[0] = of.columns[0].clone().from_origin(Origin::parse("user.id").unwrap()).required();
    of.columns[1].origin = Origin::parse("user").unwrap();
    of.columns[2].origin = Origin::parse("user.address.city").unwrap();
    let lines = [
        r#"{"user":{"id":7,"name":"x","address":{"city":"Bonn"}}}"#,
        r#"{"user":{"address":null,"id":8}}"#,
        r#"{"user":{"name":"no id"}}"#,
        r#"{"user":{"id":1,"address":{"city":"A"}},"user":{"id":2}}"#,
        r#"{"user":5}"#,
        r#"{}"#,
    ];
    let decoded = decode(&of, &lines);
    let expected = "\
+----+---------------------+------+
| id | whole               | city |
+----+---------------------+------+
| 7  | {id: 7, name: x}    | Bonn |
| 8  | {id: 8, name: }     |      |
| 2  | {id: 2, name: }     |      |
+----+---------------------+------+";
    let squeeze = |text: &str| text.replace([' ', '-'], "");
    assert_eq!(squeeze(&pretty_format_batches(&[decoded.batch]).unwrap().to_string()), squeeze(expected));
    assert_eq!(decoded.rows, [0, 1, 3]);
    let reasons: Vec<_> = decoded.rejects.iter().map(|it| (it.record, it.reason)).collect();
    assert_eq!(reasons, [(2, "missing"), (4, "wrong_type"), (5, "missing")]);
    assert_eq!(decoded.rejects[0].message, "user.id: required, but missing or null");
}

#[test]
fn unknown_fields_are_kept_dropped_or_refused() {
    let line = r#"{"x" : {"a": "b  c\" d"},"v":1, "y":[1, 2],"x":null,"e\u0041":""}"#;
    let mut of = contract(&[("v", "BIGINT")]);
    of.unknown = UnknownFields::Keep;
    let decoded = decode(&of, &[line, r#"{"v":2}"#, r#"{"z":{"a": "b  c\" d"},"v":1}"#]);
    let extra = decoded.batch.column_by_name("_extra").unwrap().as_string::<i32>();
    assert_eq!(extra.value(0), r#"{"y":[1,2],"x":null,"e\u0041":""}"#);
    assert!(extra.is_null(1));
    assert_eq!(extra.value(2), r#"{"z":{"a":"b  c\" d"}}"#);
    of.unknown = UnknownFields::Refuse;
    assert_eq!(decode(&of, &[line]).rejects[0].reason, "unknown_field");
    of.unknown = UnknownFields::Drop;
    assert_eq!(decode(&of, &[line]).batch.num_columns(), 1);
}

#[test]
fn bytes_that_are_no_text_spoil_only_their_record() {
    let buffer = Bytes::from_static(b"{\"v\":1}\n{\"v\":2,\"w\":\"\xff\"}\n{\"v\":3}");
    let of = contract(&[("v", "BIGINT")]);
    let framed = frame_all(&JsonFormat, &buffer, &[]);
    let decoded = JsonFormat.decoder(&of).decode(&framed, &Attributes::default());
    assert_eq!(decoded.batch.column(0).as_primitive::<Int64Type>().values(), &[1, 3]);
    assert_eq!(decoded.rejects[0].reason, "invalid_utf8");
}

#[test]
fn attributes_become_columns_of_the_rows_that_are_admitted() {
    let mut of = contract(&[("v", "BIGINT")]);
    of.columns
        .insert(0, Column::new("at", DataType::Timestamp(arrow::datatypes::TimeUnit::Microsecond, Some("UTC".into()))));
    of.columns[0].origin = Origin::parse("@arrival").unwrap();
    of.columns
        .push(Column::new("client", DataType::Utf8).required().from_origin(Origin::parse("@client_address").unwrap()));
    let arrivals = arrow::array::TimestampMicrosecondArray::from(vec![10, 20, 30]);
    let clients = arrow::array::StringArray::from(vec![Some("a"), None, Some("c")]);
    let attributes = Attributes {
        columns: vec![
            (weir_schemas::Attribute::Arrival, std::sync::Arc::new(arrivals)),
            (weir_schemas::Attribute::ClientAddress, std::sync::Arc::new(clients)),
        ],
    };
    let lines = records(&[r#"{"v":"bad"}"#, r#"{"v":2}"#, r#"{"v":3}"#]);
    let decoded = JsonFormat.decoder(&of).decode(&lines, &attributes);
    assert_eq!(decoded.rows, [2]);
    assert_eq!(decoded.batch.column(0).as_primitive::<TimestampMicrosecondType>().value(0), 30);
    assert_eq!(decoded.batch.column(2).as_string::<i32>().value(0), "c");
    assert_eq!(decoded.rejects[1].reason, "missing");
}

#[test]
fn a_body_splits_into_events() {
    let split = |body: &'static str| {
        let split = split_json_events(&Bytes::from_static(body.as_bytes()));
        split.map(|events| {
            (0..events.len()).map(|at| String::from_utf8(events.get(at).to_vec()).unwrap()).collect::<Vec<_>>()
        })
    };
    assert_eq!(split(r#" {"a":[1,{"b":"]}"}]} "#).unwrap(), [r#"{"a":[1,{"b":"]}"}]}"#]);
    assert_eq!(split("[{\"a\":1} ,\n{}]").unwrap(), ["{\"a\":1}", "{}"]);
    assert_eq!(split("{\"a\":1}\n{\"b\":2}\r\n\n").unwrap(), ["{\"a\":1}", "{\"b\":2}"]);
    assert_eq!(split("[]").unwrap(), [""; 0]);
    assert_eq!(split(" \n").unwrap(), [""; 0]);
    for (body, position) in
        [("[{},1]", 4), ("5", 0), ("{} x", 3), ("[{}", 3), ("[{},]", 4), ("[{}] {}", 5), ("{\"a\":}", 5), ("{\0", 1)]
    {
        assert_eq!(split(body).unwrap_err().position, position, "{body}");
    }
}
