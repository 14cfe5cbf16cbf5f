//! What the tests of several formats share.
#![allow(dead_code)] // each test file uses a part of it

use bytes::Bytes;
use weir_schemas::{Column, Format, Records, parse_sql_type};

/// Columns by name and SQL type.
pub fn columns(of: &[(&str, &str)]) -> Vec<Column> {
    of.iter().map(|(name, sql_type)| Column::new(*name, parse_sql_type(sql_type).unwrap())).collect()
}

/// One record a line.
pub fn records(lines: &[&str]) -> Records {
    let mut buffer = Vec::new();
    let mut ranges = Vec::new();
    for line in lines {
        ranges.push((buffer.len() as u32, line.len() as u32));
        buffer.extend_from_slice(line.as_bytes());
        buffer.push(b'\n');
    }
    Records::new(buffer.into(), ranges)
}

/// All records of `stream`, which arrives cut at these places, with a new framer at each third cut.
pub fn frame_all(format: &dyn Format, stream: &Bytes, cuts: &[usize]) -> Records {
    let mut framer = format.framer(None);
    let mut buffer = Vec::new();
    let mut ranges = Vec::new();
    let mut preamble = Bytes::new();
    let mut consumed = 0;
    for (index, end) in cuts.iter().chain([&stream.len()]).enumerate() {
        let last = index == cuts.len();
        let (records, used) = framer.frame(&stream.slice(consumed..*end), last);
        for at in 0..records.len() {
            ranges.push((buffer.len() as u32, records.get(at).len() as u32));
            buffer.extend_from_slice(records.get(at));
        }
        preamble = records.preamble;
        consumed += used;
        if index % 3 == 2 {
            framer = format.framer(Some(&framer.resume_token()));
        }
    }
    assert_eq!(consumed, stream.len(), "all of the stream is used up");
    Records { preamble, ..Records::new(buffer.into(), ranges) }
}

/// A file of the real data beside the checkout.
pub fn data(path: &str) -> Bytes {
    let path = format!("{}/../../../shared/data/{path}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read(&path).unwrap_or_else(|error| panic!("the test data {path} is missing: {error}")).into()
}
