//! Cuts CSV into rows: at line ends, but not at those within quotes.
//!
//! A quoted field is at most [`QUOTED_SIZE_MAX`] long and followed by a delimiter or a line end. A row with one that is
//! not ends at its first line end instead, for its decoder to reject, so that a lost quote costs one line and not the file.

use bytes::Bytes;
use memchr::{memchr, memchr2};

use crate::format::{Framer, RECORD_SIZE_MAX, Records};

/// Longest quoted field in bytes.
pub(crate) const QUOTED_SIZE_MAX: usize = 1 << 20;

/// Bytes of an overlong row that are handed out.
const CLIPPED_SIZE: usize = RECORD_SIZE_MAX + 1;

const BOM: &[u8] = b"\xEF\xBB\xBF";

/// Frames rows, keeping the header line for them.
pub(crate) struct CsvFramer {
    delimiter: u8,
    stage: Stage,
    /// The header line, once it was seen.
    header: Bytes,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// At the very start, where a byte order mark may be.
    Start { wants_header: bool },
    /// At the start of the header line.
    Header,
    /// At the start of a row.
    Rows,
    /// Within the rest of an overlong row.
    Skipping,
}

/// What stands at a place in the input.
enum Row {
    /// A row up to `end`; the next one starts at `next`.
    Whole { end: usize, next: usize },
    /// More input is needed to tell.
    Unfinished,
}

impl CsvFramer {
    pub fn new(delimiter: u8, wants_header: bool, resume: Option<&[u8]>) -> Self {
        let (stage, header) = match resume {
            Some([b'h', ..]) => (Stage::Header, Bytes::new()),
            Some([b'r', header @ ..]) => (Stage::Rows, Bytes::copy_from_slice(header)),
            Some([b's', header @ ..]) => (Stage::Skipping, Bytes::copy_from_slice(header)),
            _ => (Stage::Start { wants_header }, Bytes::new()),
        };
        Self { delimiter, stage, header }
    }

    fn row(&self, input: &[u8], start: usize, last: bool) -> Row {
        let mut at = start;
        loop {
            let Some(offset) = memchr2(b'"', b'\n', &input[at..]) else {
                return unfinished(input, last);
            };
            let found = at + offset;
            if input[found] == b'\n' {
                return Row::Whole { end: found, next: found + 1 };
            }
            if found > start && input[found - 1] != self.delimiter {
                at = found + 1;
                continue;
            }
            match closing_quote(input, found) {
                Some(close) => match &input[close + 1..] {
                    [] | b"\r" if last => return Row::Whole { end: input.len(), next: input.len() },
                    [] | b"\r" => return Row::Unfinished,
                    [b'\n', ..] | [b'\r', b'\n', ..] => at = close + 1,
                    [byte, ..] if *byte == self.delimiter => at = close + 1,
                    _ => return first_line(input, start, last),
                },
                None if last || input.len() - found > QUOTED_SIZE_MAX + 2 => return first_line(input, start, last),
                None => return Row::Unfinished,
            }
        }
    }
}

/// The quote that ends the field whose opening quote is at `open`, if the field is not too long.
pub(crate) fn closing_quote(input: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    let end = input.len().min(open + QUOTED_SIZE_MAX + 2);
    loop {
        at += memchr(b'"', input.get(at..end)?)?;
        if input.get(at + 1) != Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}

fn first_line(input: &[u8], start: usize, last: bool) -> Row {
    match memchr(b'\n', &input[start..]) {
        Some(offset) => Row::Whole { end: start + offset, next: start + offset + 1 },
        None => unfinished(input, last),
    }
}

fn unfinished(input: &[u8], last: bool) -> Row {
    if last { Row::Whole { end: input.len(), next: input.len() } } else { Row::Unfinished }
}

impl Framer for CsvFramer {
    fn frame(&mut self, input: &Bytes, last: bool) -> (Records, usize) {
        let bounded = input.len() > u32::MAX as usize;
        let input = if bounded { input.slice(..u32::MAX as usize) } else { input.clone() };
        let last = last && !bounded;
        let mut start = 0;
        if let Stage::Start { wants_header } = self.stage {
            if input.len() < BOM.len() && BOM.starts_with(&input) && !last {
                return (Records::default(), 0);
            }
            if input.starts_with(BOM) {
                start = BOM.len();
            }
            self.stage = if wants_header { Stage::Header } else { Stage::Rows };
        }
        let mut ranges = Vec::new();
        while start < input.len() {
            if self.stage == Stage::Skipping {
                match memchr(b'\n', &input[start..]) {
                    Some(offset) => {
                        start += offset + 1;
                        self.stage = Stage::Rows;
                    }
                    None => start = input.len(),
                }
                continue;
            }
            let (end, next) = match self.row(&input, start, last) {
                Row::Whole { end, next } => (end, next),
                Row::Unfinished if input.len() - start > CLIPPED_SIZE => (input.len(), input.len()),
                Row::Unfinished => break,
            };
            if end - start > CLIPPED_SIZE {
                ranges.push((start as u32, CLIPPED_SIZE as u32));
                start += CLIPPED_SIZE;
                self.stage = Stage::Skipping;
                continue;
            }
            let end = if end > start && input[end - 1] == b'\r' { end - 1 } else { end };
            if end > start {
                if self.stage == Stage::Header {
                    self.header = Bytes::copy_from_slice(&input[start..end]);
                    self.stage = Stage::Rows;
                } else {
                    ranges.push((start as u32, (end - start) as u32));
                }
            }
            start = next;
        }
        let records = Records { buffer: input, ranges, preamble: self.header.clone() };
        (records, start)
    }

    fn resume_token(&self) -> Vec<u8> {
        let stage = match self.stage {
            Stage::Start { .. } => return Vec::new(),
            Stage::Header => b'h',
            Stage::Rows => b'r',
            Stage::Skipping => b's',
        };
        [&[stage], self.header.as_ref()].concat()
    }
}
