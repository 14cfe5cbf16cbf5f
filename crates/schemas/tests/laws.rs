//! Laws that hold for all records: decoders against a slow reference, any bytes, any cut of a stream.

mod support;

use arrow::array::{Array, AsArray};
use arrow::datatypes::DataType;
use bytes::Bytes;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value, json};
use support::{columns, frame_all, records};
use weir_schemas::{
    AccessLogFormat, Attributes, Column, Contract, CsvFormat, Format, JsonFormat, RECORD_SIZE_MAX, UnknownFields,
    split_json_events, to_json_rows,
};

const TYPES: [&str; 11] = [
    "BIGINT",
    "INT",
    "TINYINT",
    "DOUBLE",
    "BOOLEAN",
    "TEXT",
    "DATE",
    "BIGINT[]",
    "MAP<TEXT, DOUBLE>",
    "STRUCT<a BIGINT, b TEXT NOT NULL>",
    "ARRAY<STRUCT<x MAP<TEXT, BOOLEAN[]>, y TINYINT>>",
];

/// Those whose values serde_json reads back to the last bit.
const EXACT_TYPES: [&str; 4] = ["BIGINT", "TEXT", "BIGINT[]", "STRUCT<a BIGINT, b TEXT NOT NULL>"];

/// What a value is in a column, by plain recursion; `None` if it does not fit.
fn reference(value: &Value, data_type: &DataType) -> Option<Value> {
    if value.is_null() {
        return Some(Value::Null);
    }
    let integer = || match value.as_f64() {
        Some(float) if value.is_f64() => (float.fract() == 0.0 && float.abs() < 1e15).then_some(float as i64),
        _ => value.as_i64(),
    };
    match data_type {
        DataType::Int64 => integer().map(Value::from),
        DataType::Int32 => integer().and_then(|it| i32::try_from(it).ok()).map(Value::from),
        DataType::Int8 => integer().and_then(|it| i8::try_from(it).ok()).map(Value::from),
        DataType::Float64 => value.as_f64().map(Value::from),
        DataType::Boolean => value.as_bool().map(Value::from),
        DataType::Utf8 => value.as_str().map(Value::from),
        DataType::Date32 => {
            let text = value.as_str().filter(|text| text.len() == 10)?;
            chrono::NaiveDate::parse_from_str(text, "%Y-%m-%d").ok().map(|date| Value::from(date.to_string()))
        }
        DataType::List(item) => {
            let items = value.as_array()?.iter().map(|it| reference(it, item.data_type()));
            items.collect::<Option<Vec<_>>>().map(Value::from)
        }
        DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else { return None };
            let entries = value.as_object()?.iter();
            let entries = entries.map(|(key, it)| Some((key.clone(), reference(it, pair[1].data_type())?)));
            entries.collect::<Option<Map<_, _>>>().map(Value::from)
        }
        DataType::Struct(fields) => {
            let object = value.as_object()?;
            let fields = fields.iter().map(|field| {
                let value = reference(object.get(field.name()).unwrap_or(&Value::Null), field.data_type())?;
                (field.is_nullable() || !value.is_null()).then(|| (field.name().clone(), value))
            });
            fields.collect::<Option<Map<_, _>>>().map(Value::from)
        }
        other => panic!("no reference for {other}"),
    }
}

fn text(random: &mut StdRng) -> String {
    let pieces =
        ["a", "Zoë", "\"", "\\", "\n", "😀", "\u{0}", "x,y", " ", "longer than a word", "{", "]", "2024-01-31"];
    (0..random.random_range(0..4)).map(|_| pieces[random.random_range(0..pieces.len())]).collect()
}

/// A value that mostly fits.
fn value(random: &mut StdRng, data_type: &DataType) -> Value {
    match random.random_range(0..60) {
        0..4 => return Value::Null,
        4 => return json!("odd"),
        5 => return json!(1.5),
        6 => return json!([{"odd": []}]),
        _ => {}
    }
    match data_type {
        DataType::Int64 if random.random_bool(0.1) => json!(2.0),
        DataType::Int64 => json!(random.random::<i64>() >> random.random_range(0..64)),
        DataType::Int32 => json!(random.random::<i64>() >> random.random_range(31..64)),
        DataType::Int8 => json!(random.random_range(-130..130)),
        DataType::Float64 => match random.random_range(0..3) {
            0 => json!(f64::from_bits(random.random::<u64>() & !(1 << 62))),
            1 => json!(random.random_range(-100_000..100_000) as f64 / 1000.0),
            _ => json!(random.random_range(-1000..1000)),
        },
        DataType::Boolean => json!(random.random_bool(0.5)),
        DataType::Date32 => {
            json!(format!(
                "{:04}-{:02}-{:02}",
                random.random_range(1600..2500),
                random.random_range(1..14),
                random.random_range(1..31)
            ))
        }
        DataType::List(item) => (0..random.random_range(0..4)).map(|_| value(random, item.data_type())).collect(),
        DataType::Map(entries, _) => {
            let DataType::Struct(pair) = entries.data_type() else { panic!("no map") };
            let entries = (0..random.random_range(0..12)).map(|_| (text(random), value(random, pair[1].data_type())));
            Value::Object(entries.collect())
        }
        DataType::Struct(fields) => {
            let mut object = Map::new();
            for field in fields {
                if random.random_bool(0.95) {
                    object.insert(field.name().clone(), value(random, field.data_type()));
                }
            }
            Value::Object(object)
        }
        _ => json!(text(random)),
    }
}

fn blanks(random: &mut StdRng, out: &mut String) {
    if random.random_bool(0.1) {
        out.push_str([" ", "\t", "\r", "  "][random.random_range(0..4)]);
    }
}

/// JSON with blanks and escapes where nobody expects them, and keys in any order.
fn write(random: &mut StdRng, value: &Value, out: &mut String) {
    blanks(random, out);
    match value {
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            if random.random_bool(0.2) {
                fields.shuffle(random);
            }
            out.push('{');
            for (index, (key, value)) in fields.into_iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                write(random, &json!(key), out);
                out.push(':');
                write(random, value, out);
            }
            out.push('}');
        }
        Value::Array(items) => {
            out.push('[');
            for (index, item) in items.iter().enumerate() {
                out.push_str(if index > 0 { "," } else { "" });
                write(random, item, out);
            }
            out.push(']');
        }
        Value::String(text) if random.random_bool(0.1) => {
            let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
            out.push_str(&format!("\"{}\"", units.collect::<String>()));
        }
        other => out.push_str(&other.to_string()),
    }
    blanks(random, out);
}

struct Sample {
    contract: Contract,
    values: Vec<Value>,
    lines: Vec<String>,
}

fn sample(random: &mut StdRng) -> Sample {
    let mut contract = Contract::default();
    for index in 0..random.random_range(0..6) {
        let sql_type = TYPES[random.random_range(0..TYPES.len())];
        let mut column = columns(&[(&format!("c{index}"), sql_type)]).remove(0);
        column.required = random.random_bool(0.2);
        contract.columns.push(column);
    }
    let mut values = Vec::new();
    for _ in 0..random.random_range(1..30) {
        let mut record = Map::new();
        for column in &contract.columns {
            if random.random_bool(0.95) {
                record.insert(column.name.clone(), value(random, &column.data_type));
            }
        }
        for _ in 0..random.random_range(0..3) {
            let nested: DataType =
                columns(&[("v", EXACT_TYPES[random.random_range(0..EXACT_TYPES.len())])])[0].data_type.clone();
            record.insert(format!("unknown {}", text(random)), value(random, &nested));
        }
        values.push(Value::Object(record));
    }
    let lines = values.iter().map(|value| {
        let mut line = String::new();
        write(random, value, &mut line);
        line
    });
    let lines = lines.collect();
    Sample { contract, values, lines }
}

#[test]
fn decoded_json_is_what_the_slow_reference_says() {
    let mut admitted = 0;
    let mut rejected = 0;
    for seed in 0..1500 {
        let sample = sample(&mut StdRng::seed_from_u64(seed));
        let lines: Vec<&str> = sample.lines.iter().map(String::as_str).collect();
        let decoded = JsonFormat.decoder(&sample.contract).decode(&records(&lines), &Attributes::default());
        let mut found = to_json_rows(&decoded.batch).into_iter();
        let mut rejects = decoded.rejects.iter().peekable();
        for (index, value) in sample.values.iter().enumerate() {
            let mut object = value.as_object().unwrap().clone();
            let columns = sample.contract.columns.iter().map(|column| {
                let value = reference(&object.remove(&column.name).unwrap_or(Value::Null), &column.data_type)?;
                (!column.required || !value.is_null()).then(|| (column.name.clone(), value))
            });
            let expected: Vec<Option<(String, Value)>> = columns.collect();
            match expected.into_iter().collect::<Option<Map<_, _>>>() {
                Some(expected) => {
                    let extra = if object.is_empty() { Value::Null } else { Value::Object(object) };
                    let mut row = found.next().unwrap_or_else(|| panic!("seed {seed}: {} is no row", lines[index]));
                    let kept = row.as_object_mut().unwrap().remove("_extra").unwrap();
                    let kept = kept.as_str().map_or(Value::Null, |text| serde_json::from_str(text).unwrap());
                    assert_eq!(row, Value::Object(expected), "seed {seed}: {}", lines[index]);
                    assert_eq!(kept, extra, "seed {seed}: {}", lines[index]);
                    admitted += 1;
                }
                None => {
                    let reject = rejects.next().unwrap_or_else(|| panic!("seed {seed}: {} is a row", lines[index]));
                    assert_eq!(reject.record, index as u32, "seed {seed}");
                    assert!(["wrong_type", "out_of_range", "missing"].contains(&reject.reason), "{reject:?}");
                    rejected += 1;
                }
            }
        }
        assert!(found.next().is_none() && rejects.next().is_none());
    }
    assert!(admitted > 3_000 && rejected > 3_000, "{admitted} admitted, {rejected} rejected: both are tried");
}

#[test]
fn a_record_is_a_syntax_error_exactly_where_it_is_no_json() {
    let mut broken = 0;
    for seed in 0..600 {
        let mut random = StdRng::seed_from_u64(seed);
        let sample = sample(&mut random);
        for line in &sample.lines {
            let mut bytes = line.clone().into_bytes();
            for _ in 0..random.random_range(0..3) {
                let at = random.random_range(0..bytes.len());
                match random.random_range(0..4) {
                    0 => bytes[at] = b"{}[]\",:\\0-.eu\x01\xc3"[random.random_range(0..15)],
                    1 => drop(bytes.remove(at)),
                    2 => bytes.insert(at, b"{}[]\",:\\0-.eu\x01\xc3"[random.random_range(0..15)]),
                    _ => bytes.truncate(at + 1),
                }
                if bytes.is_empty() {
                    bytes.push(b' ');
                }
            }
            let read = serde_json::from_slice::<Value>(&bytes);
            if read.as_ref().is_err_and(|error| error.to_string().starts_with("number out of range")) {
                continue; // JSON has such numbers, the reference does not
            }
            let is_json = read.is_ok();
            let one = weir_schemas::Records::new(bytes.clone().into(), vec![(0, bytes.len() as u32)]);
            let decoded = JsonFormat.decoder(&sample.contract).decode(&one, &Attributes::default());
            let reason = decoded.rejects.first().map(|it| it.reason);
            let syntax = matches!(reason, Some("json_syntax" | "invalid_utf8"));
            assert_eq!(syntax, !is_json, "seed {seed}: {:?} {:?}", String::from_utf8_lossy(&bytes), decoded.rejects);
            if is_json && bytes.trim_ascii().starts_with(b"{") {
                assert_eq!(split_json_events(&bytes.into()).unwrap().len(), 1);
            }
            broken += usize::from(syntax);
        }
    }
    assert!(broken > 1000, "only {broken} were broken");
}

#[test]
fn no_bytes_make_a_decoder_panic_and_every_record_is_accounted_for() {
    let csv = CsvFormat::default();
    let contract = Contract::new(
        TYPES
            .iter()
            .enumerate()
            .map(|(index, it)| {
                Column::new(
                    ["a", "b", "c"][index % 3].repeat(1 + index / 3),
                    columns(&[("v", it)])[0].data_type.clone(),
                )
            })
            .collect(),
        UnknownFields::Keep,
    );
    let formats: [&dyn Format; 3] = [&JsonFormat, &csv, &AccessLogFormat];
    let tokens: [&[u8]; 24] = [
        b"\n",
        b"\r\n",
        b"\"",
        b"\"\"",
        b",",
        b"a",
        b"{\"a\":",
        b"}",
        b"[",
        b"1",
        b"-",
        b" ",
        b" [",
        b"07/Mar/2004:16:05:49 +0000]",
        b"\"GET / HTTP/1.0\"",
        b"\\",
        b"\xff",
        b"\xC3\xA4",
        b"a,b,c\n",
        b"null",
        b"2024-01-01T00:00:00",
        b"\\x",
        b"e9",
        b"\0",
    ];
    for seed in 0..4000 {
        let mut random = StdRng::seed_from_u64(seed);
        let count = random.random_range(0..40);
        let stream: Vec<u8> = (0..count).flat_map(|_| tokens[random.random_range(0..tokens.len())]).copied().collect();
        let stream = Bytes::from(stream);
        let mut cuts: Vec<usize> =
            (0..random.random_range(0..6)).map(|_| random.random_range(0..=stream.len())).collect();
        cuts.sort_unstable();
        for format in formats {
            let whole = frame_all(format, &stream, &[]);
            let cut = frame_all(format, &stream, &cuts);
            let texts = |of: &weir_schemas::Records| (0..of.len()).map(|at| of.get(at).to_vec()).collect::<Vec<_>>();
            assert_eq!(texts(&whole), texts(&cut), "seed {seed}: {} cut at {cuts:?}: {stream:?}", format.name());
            assert_eq!(whole.preamble, cut.preamble);
            let decoded = format.decoder(&contract).decode(&whole, &Attributes::default());
            let mut seen: Vec<u32> =
                decoded.rows.iter().copied().chain(decoded.rejects.iter().map(|it| it.record)).collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..whole.len() as u32).collect::<Vec<_>>(), "seed {seed}: {}", format.name());
            assert_eq!(decoded.batch.num_rows(), decoded.rows.len());
        }
        let _ = split_json_events(&stream);
    }
}

#[test]
fn an_overlong_line_is_one_record_however_it_is_cut() {
    let mut stream = b"{\"v\":1}\n{\"v\":\"".to_vec();
    stream.resize(RECORD_SIZE_MAX * 2, b'x');
    stream.extend_from_slice(b"\"}\n{\"v\":2}");
    let stream = Bytes::from(stream);
    let contract = Contract::new(columns(&[("v", "BIGINT")]), UnknownFields::Drop);
    let every_mebibyte: Vec<usize> = (1..stream.len() >> 20).map(|it| it << 20).collect();
    for cuts in [Vec::new(), every_mebibyte] {
        let framed = frame_all(&JsonFormat, &stream, &cuts);
        assert_eq!(framed.len(), 3);
        assert_eq!(framed.get(1).len(), RECORD_SIZE_MAX + 1);
        let decoded = JsonFormat.decoder(&contract).decode(&framed, &Attributes::default());
        assert_eq!(decoded.rows, [0, 2]);
        assert_eq!(decoded.rejects[0].reason, "too_large");
        assert_eq!(decoded.batch.column(0).as_primitive::<arrow::datatypes::Int64Type>().values(), &[1, 2]);
        assert_eq!(decoded.batch.column(0).null_count(), 0);
    }
}
