//! Cuts a byte stream at line ends, for every format whose record is a line.
//!
//! A line may be of any length, memory may not: of a line longer than [`RECORD_SIZE_MAX`] the framer hands out
//! the first `RECORD_SIZE_MAX + 1` bytes, which a decoder rejects as too large, and lets go of the rest as it
//! comes by. So a line is one record, however the stream is cut.

use bytes::Bytes;
use memchr::{memchr, memchr_iter};

use crate::format::{Framer, RECORD_SIZE_MAX, Records};

/// Bytes of an overlong line that are handed out.
const CLIPPED_SIZE: usize = RECORD_SIZE_MAX + 1;

/// Resume token of a framer that stands within an overlong line.
const TOKEN_SKIPPING: &[u8] = b"skipping";

/// Frames lines: ended by `\n` or `\r\n`; lines of nothing but blanks are no records.
#[derive(Debug, Clone, Default)]
pub struct LineFramer {
    /// Bytes at the start of the next input that are known to hold no line end.
    searched: usize,
    /// The rest of an overlong line is passing by.
    skipping: bool,
}

impl LineFramer {
    /// A framer at the start of a stream, or where [`Framer::resume_token`] was taken.
    pub fn new(resume: Option<&[u8]>) -> Self {
        Self { searched: 0, skipping: resume == Some(TOKEN_SKIPPING) }
    }
}

impl Framer for LineFramer {
    fn frame(&mut self, input: &Bytes, last: bool) -> (Records, usize) {
        let bounded = input.len() > u32::MAX as usize;
        let input = if bounded { input.slice(..u32::MAX as usize) } else { input.clone() };
        let last = last && !bounded;

        let mut start = 0;
        if self.skipping {
            match memchr(b'\n', &input) {
                Some(end) => {
                    start = end + 1;
                    self.skipping = false;
                }
                None => {
                    self.skipping = !last;
                    return (Records::default(), input.len());
                }
            }
        }

        let mut ranges = Vec::with_capacity(input.len() / 256);
        let unsearched = self.searched.clamp(start, input.len().max(start));
        for offset in memchr_iter(b'\n', &input[unsearched..]) {
            let end = unsearched + offset;
            push_line(&mut ranges, &input, start, end);
            start = end + 1;
        }
        let tail = input.len() - start;
        if last {
            push_line(&mut ranges, &input, start, input.len());
            start = input.len();
        } else if tail > CLIPPED_SIZE {
            push_line(&mut ranges, &input, start, input.len());
            self.skipping = true;
            start = input.len();
        }
        self.searched = input.len() - start;
        (Records::new(input, ranges), start)
    }

    fn resume_token(&self) -> Vec<u8> {
        if self.skipping { TOKEN_SKIPPING.to_vec() } else { Vec::new() }
    }
}

fn push_line(ranges: &mut Vec<(u32, u32)>, input: &[u8], start: usize, end: usize) {
    let end = if end > start && input[end - 1] == b'\r' { end - 1 } else { end };
    let end = end.min(start + CLIPPED_SIZE);
    let line = &input[start..end];
    let blank = match line.first() {
        None => true,
        Some(b' ' | b'\t' | b'\r') => line.iter().all(u8::is_ascii_whitespace),
        Some(_) => false,
    };
    if !blank {
        // Both fit: the caller bounds `input` to 4 GiB.
        ranges.push((start as u32, (end - start) as u32));
    }
}
