//! Access logs of web servers: Apache's common and combined formats, nginx's combined format.
//!
//! A line is `host ident user [time] "request" status bytes`, and in the combined formats ` "referer" "user agent"`
//! behind that. Quotes within quotes are escaped (`\"`, `\\`, `\x22`).

use std::borrow::Cow;
use std::sync::Arc;

use arrow::datatypes::{DataType, SchemaRef, TimeUnit};
use memchr::{memchr, memchr2, memrchr};

use crate::assemble::{AttributeColumns, assemble, schema_of};
use crate::cells::{TimeFormat, access_log_time, read_cell};
use crate::columns::ColumnBuilder;
use crate::contract::{Column, Contract, Origin, UnknownFields};
use crate::format::{Attributes, Decoded, Decoder, Format, Framer, Records, Reject};
use crate::lines::LineFramer;
use crate::types::UTC;
use crate::utf8::{Refusal, Utf8Records};

/// Names of a line's fields, in the order of [`access_log_contract`].
const FIELDS: [&str; 12] = [
    "remote_host",
    "ident",
    "remote_user",
    "time",
    "method",
    "path",
    "query",
    "protocol",
    "status",
    "bytes",
    "referer",
    "user_agent",
];

/// `format = "access_log"`.
///
/// `-` is NULL, and so are referer and user agent in the common format. `query` is what follows the `?`. A request that
/// is not `METHOD PATH PROTOCOL` stands in `path` as it is, with `method` and `protocol` NULL. There is no `_extra`: a
/// contract takes the fields it wants of the twelve, or all of them by naming none.
#[derive(Debug, Clone, Copy, Default)]
pub struct AccessLogFormat;

/// All that a line of an access log says: the contract of a source that declares no columns.
pub fn access_log_contract() -> Contract {
    let columns = FIELDS.map(|name| match name {
        "time" => Column::new(name, DataType::Timestamp(TimeUnit::Microsecond, Some(UTC.into()))).required(),
        "status" => Column::new(name, DataType::Int32),
        "bytes" => Column::new(name, DataType::Int64),
        _ => Column::new(name, DataType::Utf8),
    });
    Contract { columns: columns.into(), unknown: UnknownFields::Drop }
}

impl Format for AccessLogFormat {
    fn name(&self) -> &'static str {
        "access_log"
    }
    fn framer(&self, resume: Option<&[u8]>) -> Box<dyn Framer> {
        Box::new(LineFramer::new(resume))
    }
    fn decoder(&self, contract: &Contract) -> Arc<dyn Decoder> {
        Arc::new(AccessLogDecoder::new(contract))
    }
}

#[derive(Debug)]
struct AccessLogDecoder {
    contract: Contract,
    schema: SchemaRef,
    /// Of each column that comes from the line, in order: its place in the contract and the field.
    fields: Vec<(usize, Option<usize>)>,
}

impl AccessLogDecoder {
    fn new(contract: &Contract) -> Self {
        let mut contract = if contract.columns.is_empty() { access_log_contract() } else { contract.clone() };
        contract.unknown = UnknownFields::Drop;
        let fields = contract.columns.iter().enumerate().filter_map(|(index, column)| match &column.origin {
            Origin::Field(path) => {
                let field = FIELDS.iter().position(|name| matches!(path.as_slice(), [only] if only == name));
                Some((index, field))
            }
            Origin::Attribute(_) => None,
        });
        let fields = fields.collect();
        Self { schema: schema_of(&contract), contract, fields }
    }

    fn append(&self, line: &[u8], columns: &mut [ColumnBuilder]) -> Result<(), Refusal> {
        let line = Line::parse(line)?;
        for (builder, (index, field)) in columns.iter_mut().zip(&self.fields) {
            let column = &self.contract.columns[*index];
            match field.and_then(|field| line.fields[field].as_deref()) {
                Some(text) => read_cell(text, builder, &[TimeFormat::AccessLog])
                    .map_err(|(reason, message)| (reason, format!("{}: {message}", column.origin)))?,
                None if column.required => {
                    return Err(("missing", format!("{}: required, but not in the line", column.origin)));
                }
                None => builder.append_null(),
            }
        }
        Ok(())
    }
}

impl Decoder for AccessLogDecoder {
    fn schema(&self) -> SchemaRef {
        Arc::clone(&self.schema)
    }

    fn decode(&self, records: &Records, attributes: &Attributes) -> Decoded {
        let attributes = AttributeColumns::new(&self.contract, attributes, records.len());
        let text = Utf8Records::new(records);
        let types = self.fields.iter().map(|(index, _)| &self.contract.columns[*index].data_type);
        let mut columns: Vec<ColumnBuilder> = types.map(|it| ColumnBuilder::new(it, records.len())).collect();
        let mut rows = Vec::with_capacity(records.len());
        let mut rejects = Vec::new();
        for index in 0..records.len() {
            if let Some(reject) = attributes.reject(index) {
                rejects.push(reject);
                continue;
            }
            match text.get(index).and_then(|line| self.append(line, &mut columns)) {
                Ok(()) => rows.push(index as u32),
                Err((reason, message)) => {
                    columns.iter_mut().for_each(|column| column.truncate(rows.len()));
                    rejects.push(Reject { record: index as u32, reason, message });
                }
            }
        }
        let columns = columns.into_iter().map(ColumnBuilder::finish).collect();
        assemble(&self.schema, columns, &attributes, rows, rejects)
    }
}

/// The fields of one line, in the order of [`FIELDS`]; `None` is NULL.
struct Line<'a> {
    fields: [Option<Cow<'a, [u8]>>; 12],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Result<Self, Refusal> {
        let mut scan = Scan { line, at: 0 };
        let remote_host = scan.word("the remote host")?;
        let ident = scan.word("the identity")?;
        let remote_user = scan.until_bracket()?;
        let time = scan.enclosed(b']', "the time")?;
        if access_log_time(time).is_none() {
            let time = String::from_utf8_lossy(time);
            return Err(("syntax", format!("time: expected 20/May/2015:12:05:17 +0000, found {time:?}")));
        }
        scan.blank("the request")?;
        let request = scan.quoted("the request")?;
        scan.blank("the status")?;
        let status = scan.word("the status")?;
        let bytes = scan.last_word();
        let (mut referer, mut user_agent) = (None, None);
        if scan.at < line.len() {
            scan.blank("the referer")?;
            referer = not_dash(scan.quoted("the referer")?);
            scan.blank("the user agent")?;
            user_agent = not_dash(scan.quoted("the user agent")?);
            if scan.at < line.len() {
                return Err((
                    "syntax",
                    format!("expected the end of the line behind the user agent at byte {}", scan.at),
                ));
            }
        }
        let request = Request::parse(request);
        let plain = |text: &'a [u8]| not_dash(Cow::Borrowed(text));
        Ok(Self {
            fields: [
                plain(remote_host),
                plain(ident),
                plain(remote_user),
                Some(Cow::Borrowed(time)),
                request.method,
                request.path,
                request.query,
                request.protocol,
                plain(status),
                plain(bytes),
                referer,
                user_agent,
            ],
        })
    }
}

fn not_dash(text: Cow<'_, [u8]>) -> Option<Cow<'_, [u8]>> {
    if *text == *b"-" { None } else { Some(text) }
}

/// The parts of a request line.
#[derive(Default)]
struct Request<'a> {
    method: Option<Cow<'a, [u8]>>,
    path: Option<Cow<'a, [u8]>>,
    query: Option<Cow<'a, [u8]>>,
    protocol: Option<Cow<'a, [u8]>>,
}

impl<'a> Request<'a> {
    fn parse(request: Cow<'a, [u8]>) -> Self {
        let Some((method_end, protocol_start)) = request_parts(&request) else {
            return Self { path: not_dash(request), ..Self::default() };
        };
        let target = method_end + 1..protocol_start - 1;
        let query_mark = memchr(b'?', &request[target.clone()]).map(|offset| target.start + offset);
        let part = |range: std::ops::Range<usize>| match &request {
            Cow::Borrowed(request) => Cow::Borrowed(&request[range]),
            Cow::Owned(request) => Cow::Owned(request[range].to_vec()),
        };
        Self {
            method: Some(part(0..method_end)),
            path: Some(part(target.start..query_mark.unwrap_or(target.end))),
            query: query_mark.map(|mark| part(mark + 1..target.end)),
            protocol: Some(part(protocol_start..request.len())),
        }
    }
}

/// Where the method ends and the protocol starts, if the request has both.
fn request_parts(request: &[u8]) -> Option<(usize, usize)> {
    let method_end = memchr(b' ', request)?;
    let protocol_start = memrchr(b' ', request)? + 1;
    let is_method = method_end > 0
        && request[..method_end].iter().all(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'-' | b'_'));
    let whole = protocol_start > method_end + 2 && is_method && request[protocol_start..].starts_with(b"HTTP/");
    whole.then_some((method_end, protocol_start))
}

/// A place in a line.
struct Scan<'a> {
    line: &'a [u8],
    at: usize,
}

impl<'a> Scan<'a> {
    fn rest(&self) -> &'a [u8] {
        &self.line[self.at..]
    }

    /// Up to the next blank, which is passed.
    fn word(&mut self, what: &str) -> Result<&'a [u8], Refusal> {
        let rest = self.rest();
        match memchr(b' ', rest) {
            Some(0) => Err(("syntax", format!("expected {what} at byte {}, found a blank", self.at))),
            Some(end) => {
                self.at += end + 1;
                Ok(&rest[..end])
            }
            None => Err(truncated(what)),
        }
    }

    /// Up to the next blank, which is not passed, or the end.
    fn last_word(&mut self) -> &'a [u8] {
        let rest = self.rest();
        let end = memchr(b' ', rest).unwrap_or(rest.len());
        self.at += end;
        &rest[..end]
    }

    /// The user, who may have blanks in the name: up to ` [`, which is passed.
    fn until_bracket(&mut self) -> Result<&'a [u8], Refusal> {
        let rest = self.rest();
        let end = memchr::memmem::find(rest, b" [").ok_or_else(|| truncated("the user"))?;
        self.at += end + 2;
        Ok(&rest[..end])
    }

    /// Up to `close`, which is passed.
    fn enclosed(&mut self, close: u8, what: &str) -> Result<&'a [u8], Refusal> {
        let rest = self.rest();
        let end = memchr(close, rest).ok_or_else(|| truncated(what))?;
        self.at += end + 1;
        Ok(&rest[..end])
    }

    fn blank(&mut self, before: &str) -> Result<(), Refusal> {
        match self.line.get(self.at) {
            Some(b' ') => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(("syntax", format!("expected a blank before {before} at byte {}", self.at))),
            None => Err(truncated(before)),
        }
    }

    /// What stands between two quotes, without its escapes.
    fn quoted(&mut self, what: &str) -> Result<Cow<'a, [u8]>, Refusal> {
        match self.line.get(self.at) {
            Some(b'"') => self.at += 1,
            Some(_) => return Err(("syntax", format!("expected {what} in quotes at byte {}", self.at))),
            None => return Err(truncated(what)),
        }
        let rest = self.rest();
        let (mut end, mut escaped) = (0, false);
        loop {
            end += memchr2(b'"', b'\\', rest.get(end..).unwrap_or_default()).ok_or_else(|| truncated(what))?;
            if rest[end] == b'"' {
                break;
            }
            escaped = true;
            end += 2;
        }
        self.at += end + 1;
        Ok(if escaped { unescape(&rest[..end]) } else { Cow::Borrowed(&rest[..end]) })
    }
}

#[cold]
fn truncated(what: &str) -> Refusal {
    ("truncated", format!("the line ends within {what}"))
}

/// Resolves `\"`, `\\`, `\t`, `\n`, `\r` and `\xHH`; leaves the text as it is if that is not UTF-8 then.
fn unescape(raw: &[u8]) -> Cow<'_, [u8]> {
    let mut plain = Vec::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr(b'\\', rest) {
        plain.extend_from_slice(&rest[..at]);
        let hex = |index: usize| rest.get(at + index).and_then(|digit| char::from(*digit).to_digit(16));
        let (byte, length) = match rest.get(at + 1) {
            Some(byte @ (b'"' | b'\\')) => (*byte, 2),
            Some(b't') => (b'\t', 2),
            Some(b'n') => (b'\n', 2),
            Some(b'r') => (b'\r', 2),
            Some(b'x') => match (hex(2), hex(3)) {
                (Some(high), Some(low)) => ((high << 4 | low) as u8, 4),
                _ => (b'\\', 1),
            },
            _ => (b'\\', 1),
        };
        plain.push(byte);
        rest = &rest[at + length..];
    }
    plain.extend_from_slice(rest);
    if simdutf8::basic::from_utf8(&plain).is_ok() { Cow::Owned(plain) } else { Cow::Borrowed(raw) }
}
