//! Every format: framing and decoding of any bytes, cut anywhere.

use bytes::Bytes;
use weir_schemas::{
    Attributes, Column, Contract, FORMAT_NAMES, FormatOptions, FormatRef, Records, UnknownFields, format_by_name,
    infer_columns, parse_sql_type, to_json_rows,
};

/// Types that the decoders have code of their own for.
const COLUMNS: [(&str, &str); 10] = [
    ("id", "BIGINT"),
    ("small", "TINYINT"),
    ("amount", "DECIMAL(10, 2)"),
    ("ratio", "DOUBLE"),
    ("name", "TEXT"),
    ("at", "TIMESTAMP"),
    ("day", "DATE"),
    ("yes", "BOOLEAN"),
    ("list", "ARRAY<STRUCT<x MAP<TEXT, BOOLEAN[]>, y TINYINT>>"),
    ("raw", "BYTEA"),
];

fn contract(unknown: UnknownFields) -> Contract {
    let columns = COLUMNS.iter().filter_map(|(name, text)| Some(Column::new(*name, parse_sql_type(text).ok()?)));
    Contract::new(columns.collect(), unknown)
}

/// A stream of each format that is as it should be.
pub fn valid(format: &str) -> &'static [u8] {
    match format {
        "csv" => {
            b"id,small,amount,ratio,name,at,day,yes\n1,2,3.45,1e-3,\"a, \"\"b\"\"\nc\",2024-01-31T10:00:00Z,2024-02-29,true\n\
              2,,,,,,,\n-9223372036854775808,127,-99999999.99,NaN,\xc3\xa9,1969-12-31 23:59:59.999999,0001-01-01,false\n"
        }
        "access_log" => {
            b"203.0.113.9 - frank [10/Oct/2000:13:55:36 -0700] \"GET /a?b=c HTTP/1.0\" 200 2326 \"http://e.x/\" \"Mozilla/4.08\"\n\
              ::1 - - [29/Feb/2024:00:00:00 +0000] \"-\" 408 - \"-\" \"-\"\n"
        }
        _ => {
            b"{\"id\":1,\"small\":-3,\"amount\":\"3.45\",\"ratio\":1.5e3,\"name\":\"Zo\\u00eb \\ud83d\\ude00\",\"at\":\"2024-01-31T10:00:00Z\",\
              \"day\":\"2024-02-29\",\"yes\":true,\"list\":[{\"x\":{\"k\":[true,null]},\"y\":1}],\"raw\":\"AAEC\",\"other\":{\"deep\":[[]]}}\n\
              {\"id\":2,\"at\":1700000000000000}\n{}\n"
        }
    }
}

/// Frames and decodes these bytes in each format of that name, whole and cut in pieces of `piece` bytes.
///
/// # Panics
/// When a record is neither a row nor a reject, or both; when a stream that comes in pieces has other records; when a
/// format has an unknown name.
pub fn read(name: &str, bytes: &[u8], piece: usize) {
    let Ok(format) = format_by_name(name, &FormatOptions::default()) else { panic!("no format {name}") };
    let stream = Bytes::copy_from_slice(bytes);
    let whole = framed(&format, &stream, stream.len().max(1));
    let pieces = framed(&format, &stream, piece.max(1));
    let texts = |records: &Records| (0..records.len()).map(|at| records.get(at).to_vec()).collect::<Vec<_>>();
    assert_eq!(texts(&whole), texts(&pieces), "{name}: cut in pieces it has other records");
    for unknown in [UnknownFields::Drop, UnknownFields::Keep, UnknownFields::Refuse] {
        let decoder = format.decoder(&contract(unknown));
        let decoded = decoder.decode(&whole, &Attributes::default());
        assert_eq!(decoded.batch.num_rows(), decoded.rows.len(), "{name}: rows and their records");
        assert_eq!(decoded.batch.schema(), decoder.schema(), "{name}: the schema it promised");
        let mut answers = vec![0_u8; whole.len()];
        let rejected = decoded.rejects.iter().map(|reject| reject.record);
        decoded.rows.iter().copied().chain(rejected).for_each(|record| answers[record as usize] += 1);
        assert!(answers.iter().all(|times| *times == 1), "{name}: a record was not answered for once: {answers:?}");
        // What was admitted can be shown.
        assert_eq!(to_json_rows(&decoded.batch).len(), decoded.rows.len());
    }
    // Drafting a contract from it ends too.
    let _ = infer_columns(name, &whole, &FormatOptions::default());
}

/// All formats.
pub fn names() -> [&'static str; 3] {
    FORMAT_NAMES
}

/// The records of a stream that comes in pieces of so many bytes, each time with a framer that resumes.
fn framed(format: &FormatRef, stream: &Bytes, piece: usize) -> Records {
    let mut framer = format.framer(None);
    let (mut buffer, mut ranges) = (Vec::new(), Vec::new());
    let (mut consumed, mut end) = (0, 0);
    loop {
        end = (end + piece).min(stream.len());
        let last = end == stream.len();
        let (records, used) = framer.frame(&stream.slice(consumed..end), last);
        assert!(used <= end - consumed, "no more is used up than there is");
        for at in 0..records.len() {
            ranges.push((buffer.len() as u32, records.get(at).len() as u32));
            buffer.extend_from_slice(records.get(at));
        }
        consumed += used;
        if last {
            assert_eq!(consumed, stream.len(), "all of the stream is used up");
            return Records { preamble: records.preamble, ..Records::new(buffer.into(), ranges) };
        }
        framer = format.framer(Some(&framer.resume_token()));
    }
}
