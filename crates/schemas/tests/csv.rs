//! CSV: the spectrum of quoting, real files, and what spoils a row.

mod support;

use arrow::array::{Array, AsArray};
use arrow::datatypes::TimestampMicrosecondType;
use bytes::Bytes;
use support::{columns, data, frame_all};
use weir_schemas::{Attributes, Column, Contract, CsvFormat, CsvOptions, Decoded, Format, Origin, UnknownFields};

fn decode(format: &CsvFormat, contract: &Contract, text: &[u8]) -> Decoded {
    let framed = frame_all(format, &Bytes::copy_from_slice(text), &[]);
    format.decoder(contract).decode(&framed, &Attributes::default())
}

fn texts(decoded: &Decoded, column: usize) -> Vec<Option<String>> {
    let column = decoded.batch.column(column);
    let text = |row| arrow::util::display::array_value_to_string(column, row).unwrap();
    (0..column.len()).map(|row| column.is_valid(row).then(|| text(row))).collect()
}

#[test]
fn the_spectrum_of_csv_reads_as_its_json_twins() {
    for name in [
        "comma_in_quotes",
        "empty",
        "empty_crlf",
        "escaped_quotes",
        "json",
        "newlines",
        "newlines_crlf",
        "quotes_and_newlines",
        "simple",
        "simple_crlf",
        "utf8",
    ] {
        let mut text = String::from_utf8(data(&format!("formats/csv/{name}.csv")).to_vec()).unwrap();
        if name.ends_with("_crlf") {
            text = text.replace("\r\n", "\n").replace('\n', "\r\n");
        }
        let twin: Vec<serde_json::Map<String, serde_json::Value>> =
            serde_json::from_slice(&data(&format!("formats/csv/{name}.json"))).unwrap();
        let names = twin[0].keys().map(|name| Column::new(name, arrow::datatypes::DataType::Utf8)).collect();
        let contract = Contract::new(names, UnknownFields::Refuse);
        let decoded = decode(&CsvFormat::default(), &contract, text.as_bytes());
        assert_eq!(decoded.rejects, [], "{name}");
        assert_eq!(decoded.batch.num_rows(), twin.len(), "{name}");
        for (index, column) in contract.columns.iter().enumerate() {
            let expected: Vec<_> = twin.iter().map(|row| row[&column.name].as_str().map(str::to_string)).collect();
            assert_eq!(texts(&decoded, index), expected, "{name}");
        }
    }
}

#[test]
fn real_invoices_read_with_their_times() {
    let mut text = String::new();
    let file = data("orders/online_retail/2010-12-01.csv.gz");
    std::io::Read::read_to_string(&mut flate2::read::MultiGzDecoder::new(file.as_ref()), &mut text).unwrap();
    let contract = Contract::new(
        columns(&[
            ("invoiceno", "TEXT"),
            ("Quantity", "INT"),
            ("InvoiceDate", "TIMESTAMP"),
            ("UnitPrice", "DECIMAL(10, 3)"),
            ("CustomerID", "DECIMAL(10, 1)"),
        ]),
        UnknownFields::Keep,
    );
    let decoded = decode(&CsvFormat::default(), &contract, text.as_bytes());
    assert_eq!(decoded.rejects, []);
    assert_eq!(decoded.batch.num_rows(), text.lines().count() - 1);
    assert_eq!(texts(&decoded, 0)[0].as_deref(), Some("536365"));
    assert_eq!(decoded.batch.column(2).as_primitive::<TimestampMicrosecondType>().value(0), 1_291_191_960_000_000);
    let extra = "{\"Country\":\"United Kingdom\",\"Description\":\"WHITE HANGING HEART T-LIGHT HOLDER\",\"StockCode\":\"85123A\"}";
    let value: serde_json::Value = serde_json::from_str(texts(&decoded, 5)[0].as_deref().unwrap()).unwrap();
    assert_eq!(value, serde_json::from_str::<serde_json::Value>(extra).unwrap());
}

#[test]
fn nothing_is_null_and_quoted_nothing_is_text() {
    let options = CsvOptions { delimiter: b';', null: vec!["NULL".into()], ..CsvOptions::default() };
    let contract = Contract::new(columns(&[("a", "TEXT"), ("b", "BIGINT")]), UnknownFields::Drop);
    let decoded =
        decode(&CsvFormat::new(options), &contract, b"\xEF\xBB\xBFa;B\n;\n\"\";\"\"\nNULL;NULL\n\"NULL\"; 007 \n");
    assert_eq!(decoded.rejects, []);
    assert_eq!(texts(&decoded, 0), [None, Some(String::new()), None, Some("NULL".into())]);
    assert_eq!(texts(&decoded, 1), [None, None, None, Some("7".into())]);
}

#[test]
fn times_are_read_as_told() {
    let options = CsvOptions {
        time_formats: vec!["%d.%m.%Y %H:%M".into()],
        column_time_formats: [("d".to_string(), vec!["%m/%d/%y".to_string()])].into(),
        header: Some(vec!["t".into(), "d".into(), "u".into()]),
        ..CsvOptions::default()
    };
    let contract =
        Contract::new(columns(&[("t", "TIMESTAMP"), ("d", "DATE"), ("u", "TIMESTAMPTZ")]), UnknownFields::Drop);
    let decoded = decode(
        &CsvFormat::new(options),
        &contract,
        b"31.12.2010 08:26,12/31/10,1291191960\n2010-12-31,2010-12-31,2010-12-31T00:00Z\n",
    );
    assert_eq!(decoded.rejects, []);
    assert_eq!(texts(&decoded, 0), [Some("2010-12-31T08:26:00".into()), Some("2010-12-31T00:00:00".into())]);
    assert_eq!(texts(&decoded, 1), [Some("2010-12-31".into()), Some("2010-12-31".into())]);
    assert_eq!(texts(&decoded, 2)[1], Some("2010-12-31T00:00:00Z".into()));
}

#[test]
fn a_spoilt_row_spoils_no_other() {
    let contract = Contract::new(columns(&[("a", "BIGINT"), ("b", "TEXT")]), UnknownFields::Drop);
    let long = format!("a,b\n1,\"lost\n2,x\n{}3,y\n", "4,z\n".repeat(400_000));
    for (text, rows, reasons) in [
        ("a,b\n1,x\n2\n3,y,z\n4,w\n", 2, vec!["field_count", "field_count"]),
        ("a,b\n1,\"x\" y\n2,z\n", 1, vec!["csv_syntax"]),
        ("a,b\n1,\"lost\n2,x\n3,y\n", 2, vec!["csv_syntax"]),
        ("a,b\n1,\"lost\n2,\"x\"\n3,y\n", 2, vec!["csv_syntax"]),
        ("a,b\nx,1\n99999999999999999999,1\n5,\"in \"\"quotes\"\"\"\n", 1, vec!["wrong_type", "out_of_range"]),
        (&long, 400_002, vec!["csv_syntax"]),
    ] {
        let decoded = decode(&CsvFormat::default(), &contract, text.as_bytes());
        let found: Vec<_> = decoded.rejects.iter().map(|it| it.reason).collect();
        assert_eq!((decoded.batch.num_rows(), found), (rows, reasons), "{}", &text[..text.len().min(60)]);
    }
}

#[test]
fn nested_columns_are_json_in_their_cell() {
    let mut contract =
        Contract::new(columns(&[("place", "STRUCT<x DOUBLE>"), ("tags", "TEXT[]")]), UnknownFields::Drop);
    contract.columns[0].origin = Origin::parse("geo.place").unwrap();
    let decoded =
        decode(&CsvFormat::default(), &contract, b"geo.place,tags\n\"{\"\"x\"\": 1.5}\",\"[\"\"a\"\"]\"\n{},[1]\n");
    assert_eq!(texts(&decoded, 0), [Some("{x: 1.5}".into())]);
    assert_eq!(texts(&decoded, 1), [Some("[a]".into())]);
    assert_eq!(decoded.rejects[0].reason, "wrong_type");
}
