//! Types, origins, formats by name, drafts from samples, and rows back to text.

mod support;

use std::sync::Arc;

use arrow::array::{ArrayRef, Decimal128Array, Float64Array, Int64Array, RecordBatch, StringArray};
use arrow::datatypes::{DataType, TimeUnit};
use bytes::Bytes;
use support::{columns, data, frame_all, records};
use weir_schemas::{
    Attribute, Attributes, Contract, CsvFormat, CsvOptions, Format, FormatOptions, JsonFormat, Origin, UnknownFields,
    columns_to_toml, format_by_name, infer_columns, parse_sql_type, sql_type_name, to_json_rows, write_csv_rows,
    write_json_rows,
};

#[test]
fn every_type_is_read_back_from_its_name() {
    for name in [
        "BOOLEAN",
        "TINYINT",
        "SMALLINT",
        "INT",
        "BIGINT",
        "REAL",
        "DOUBLE",
        "DECIMAL(38, 0)",
        "DECIMAL(10, 2)",
        "TEXT",
        "DATE",
        "TIMESTAMP",
        "TIMESTAMP WITH TIME ZONE",
        "BINARY",
        "STRUCT<a BIGINT, \"b c\" TEXT NOT NULL>",
        "STRUCT<>",
        "ARRAY<ARRAY<DOUBLE>>",
        "ARRAY<INT NOT NULL>",
        "MAP<TEXT, STRUCT<x ARRAY<DATE>>>",
    ] {
        assert_eq!(sql_type_name(&parse_sql_type(name).unwrap()), name);
    }
    for (other, name) in [
        ("integer", "INT"),
        (" varchar(20) ", "TEXT"),
        ("numeric(5)", "DECIMAL(5, 0)"),
        ("double precision", "DOUBLE"),
        ("timestamptz", "TIMESTAMP WITH TIME ZONE"),
        ("bytea", "BINARY"),
        ("list<int>[]", "ARRAY<ARRAY<INT>>"),
        ("struct<a: bigint>", "STRUCT<a BIGINT>"),
        ("timestamp without time zone", "TIMESTAMP"),
    ] {
        assert_eq!(sql_type_name(&parse_sql_type(other).unwrap()), name, "{other}");
    }
    assert_eq!(parse_sql_type("TIMESTAMPTZ").unwrap(), DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into())));
}

#[test]
fn a_wrong_type_is_shown_with_its_place_and_a_guess() {
    let error = |text: &str| parse_sql_type(text).unwrap_err().to_string();
    assert_eq!(error("BIGNIT"), "unknown type BIGNIT at character 0; did you mean BIGINT?");
    assert_eq!(error("STRUCT<a BIGINT, b TXET>"), "unknown type TXET at character 19; did you mean TEXT?");
    assert_eq!(error("MAP<INT, TEXT>"), "the keys of a MAP are TEXT at character 4; write MAP<TEXT, ...>");
    assert!(error("DECIMAL(40, 2)").contains("1 to 38"));
    assert!(error("BIGINT x").contains("unexpected"));
    assert!(error("ARRAY<INT").contains("found the end"));
    assert!(error("STRUCT<a INT, a INT>").contains("twice"));
    assert!(error("").contains("expected a type"));
    assert!(error(&"ARRAY<".repeat(100_000)).contains("deeper"));
    assert!(error(&format!("INT{}", "[]".repeat(100))).contains("deeper"));
}

#[test]
fn origins_are_paths_or_attributes() {
    assert_eq!(Origin::parse("user.id").unwrap(), Origin::Field(vec!["user".into(), "id".into()]));
    assert_eq!(Origin::parse("@client_address").unwrap(), Origin::Attribute(Attribute::ClientAddress));
    for text in ["user.id", "@arrival", "@user_agent", "@referer", "@file", "a.\"b.c\".\"d\"\"e\""] {
        assert_eq!(Origin::parse(text).unwrap().to_string(), text);
    }
    assert!(Origin::parse("@arival").unwrap_err().to_string().contains("did you mean @arrival?"));
    for text in ["", "a.", ".a", "a..b", "\"a", "\"a\"b"] {
        assert!(Origin::parse(text).is_err(), "{text}");
    }
}

#[test]
fn an_unknown_format_gets_a_hint() {
    assert_eq!(format_by_name("json", &FormatOptions::default()).unwrap().name(), "json");
    let error = |name: &str| format_by_name(name, &FormatOptions::default()).unwrap_err().to_string();
    assert_eq!(error("jsno"), "there is no format \"jsno\"; did you mean \"json\"?");
    assert!(error("xyz").contains("json, csv, access_log"));
}

#[test]
fn a_draft_from_json_widens_types_and_sees_what_is_always_there() {
    let samples = records(&[
        r#"{"id":1,"n":1,"x":1,"at":"2024-01-01T00:00:00Z","day":"2024-01-01","user":{"id":3000000000},"tags":["a"],"m":1}"#,
        r#"{"id":2,"n":5000000000,"x":1.5,"at":"2024-01-01T00:00:00+01:00","day":null,"user":{"id":1,"ok":true},"tags":[],"m":"x"}"#,
        "not json",
    ]);
    let drafted = infer_columns("json", &samples, &FormatOptions::default());
    let expected = r#"[columns]
id = { type = "INT", required = true }
n = { type = "BIGINT", required = true }
x = { type = "DOUBLE", required = true }
at = { type = "TIMESTAMP WITH TIME ZONE", required = true }
day = "DATE"
user = { type = "STRUCT<id BIGINT, ok BOOLEAN>", required = true }
tags = { type = "ARRAY<TEXT>", required = true }
"#;
    assert_eq!(columns_to_toml(&drafted), expected);
    assert!(toml::from_str::<toml::Table>(expected).is_ok());
    let decoded =
        JsonFormat.decoder(&Contract::new(drafted, UnknownFields::Keep)).decode(&samples, &Attributes::default());
    assert_eq!((decoded.rows, decoded.rejects.len()), (vec![0, 1], 1));
}

#[test]
fn a_draft_from_real_webhooks_decodes_all_of_them() {
    let mut text = String::new();
    let file = data("webhooks/github_webhooks.json.gz");
    std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(file.as_ref()), &mut text).unwrap();
    let all: serde_json::Value = serde_json::from_str(&text).unwrap();
    let mut lines = Vec::new();
    for kind in all.as_array().unwrap() {
        lines.extend(kind["examples"].as_array().unwrap().iter().map(ToString::to_string));
    }
    assert!(lines.len() > 100);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let samples = records(&lines);
    let drafted = infer_columns("json", &samples, &FormatOptions::default());
    let contract = Contract::new(drafted, UnknownFields::Keep);
    let decoded = JsonFormat.decoder(&contract).decode(&samples, &Attributes::default());
    assert_eq!(decoded.rejects, []);
    assert_eq!(decoded.rows.len(), lines.len());
    let toml: toml::Table = columns_to_toml(&contract.columns).parse().unwrap();
    for (column, (name, declared)) in contract.columns.iter().zip(toml["columns"].as_table().unwrap()) {
        let _ = (column, name);
        let sql_type = declared.get("type").unwrap_or(declared).as_str().unwrap();
        assert!(parse_sql_type(sql_type).is_ok(), "{sql_type}");
    }
}

#[test]
fn a_draft_from_csv_sees_numbers_codes_and_times() {
    let stream = Bytes::from_static(
        b"id,zip,price,at,flag,note\n1,08123,1.50,2024-01-01 10:00:00,true,\n2,10000,2,2024-01-02 10:00:00,FALSE,x\n",
    );
    let options = FormatOptions { csv: CsvOptions::default() };
    let samples = frame_all(&CsvFormat::default(), &stream, &[]);
    let found: Vec<_> = infer_columns("csv", &samples, &options)
        .iter()
        .map(|it| (it.name.clone(), sql_type_name(&it.data_type), it.required))
        .collect();
    let expected = [
        ("id", "INT", true),
        ("zip", "TEXT", true),
        ("price", "DOUBLE", true),
        ("at", "TIMESTAMP", true),
        ("flag", "BOOLEAN", true),
        ("note", "TEXT", false),
    ];
    assert_eq!(found, expected.map(|(name, sql_type, required)| (name.to_string(), sql_type.to_string(), required)));
}

#[test]
fn json_rows_are_read_back_as_they_were() {
    let contract = Contract::new(
        columns(&[
            ("a", "BIGINT"),
            ("b", "DECIMAL(38, 3)"),
            ("c", "TIMESTAMPTZ"),
            ("d", "TIMESTAMP"),
            ("e", "DATE"),
            ("f", "BINARY"),
            ("g", "STRUCT<x ARRAY<DOUBLE>, y MAP<TEXT, BOOLEAN>>"),
            ("h", "TEXT"),
        ]),
        UnknownFields::Drop,
    );
    let lines = [
        r#"{"a":-9223372036854775808,"b":12345678901234567890123456789012345.678,"c":"2024-02-29T12:00:00.5Z","d":"0001-01-01T00:00:00","e":"9999-12-31","f":"AQI=","g":{"x":[0.1,null],"y":{"k":true}},"h":"\"\n\u0001ü"}"#,
        r#"{"a":null}"#,
    ];
    let decoder = JsonFormat.decoder(&contract);
    let first = decoder.decode(&records(&lines), &Attributes::default());
    assert_eq!(first.rejects, []);
    let mut text = Vec::new();
    write_json_rows(&first.batch, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    assert!(
        text.starts_with(
            r#"{"a":-9223372036854775808,"b":12345678901234567890123456789012345.678,"c":"2024-02-29T12:00:00.500Z","#
        ),
        "{text}"
    );
    let again = decoder.decode(&frame_all(&JsonFormat, &text.into(), &[]), &Attributes::default());
    assert_eq!(again.batch, first.batch);
    let values = to_json_rows(&first.batch);
    assert_eq!(values[0]["b"], "12345678901234567890123456789012345.678");
    assert_eq!(values[0]["a"], i64::MIN);
}

#[test]
fn csv_rows_are_read_back_as_they_were() {
    let batch = RecordBatch::try_from_iter([
        ("t", Arc::new(StringArray::from(vec![Some("a,\"b\"\nc"), Some(""), None, Some("plain")])) as ArrayRef),
        ("n", Arc::new(Int64Array::from(vec![Some(i64::MAX), None, Some(0), Some(-1)]))),
        (
            "d",
            Arc::new(
                Decimal128Array::from(vec![Some(12345), None, Some(-1), Some(0)])
                    .with_precision_and_scale(9, 2)
                    .unwrap(),
            ),
        ),
        ("f", Arc::new(Float64Array::from(vec![Some(0.1), Some(1e300), None, Some(-0.0)]))),
    ])
    .unwrap();
    let mut text = Vec::new();
    write_csv_rows(&batch, true, &mut text).unwrap();
    let contract = Contract::new(
        columns(&[("t", "TEXT"), ("n", "BIGINT"), ("d", "DECIMAL(9, 2)"), ("f", "DOUBLE")]),
        UnknownFields::Drop,
    );
    let csv = CsvFormat::default();
    let framed = frame_all(&csv, &text.into(), &[]);
    let decoded = csv.decoder(&contract).decode(&framed, &Attributes::default());
    assert_eq!(decoded.rejects, []);
    assert_eq!(decoded.batch.columns(), batch.columns());
}
