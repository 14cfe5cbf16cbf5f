//! Walks over JSON text once, checking the syntax of RFC 8259 on the way. Never recurses, never allocates.

use crate::json::problem::{Outcome, Problem};
use crate::values::{Number, parse_exponent};

/// How deep arrays and objects may nest.
pub(crate) const DEPTH_MAX: u32 = 128;

/// A place in JSON text. The text is known to be UTF-8.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cursor<'a> {
    pub bytes: &'a [u8],
    pub at: usize,
    pub depth: u32,
}

/// What stands between the quotes of a string.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Text<'a> {
    pub raw: &'a [u8],
    /// There are escapes in it; they are known to be well-formed.
    pub escaped: bool,
}

impl Text<'_> {
    /// Appends the text without its escapes, as UTF-8.
    #[inline]
    pub fn write(self, out: &mut Vec<u8>) {
        match self.escaped {
            false => out.extend_from_slice(self.raw),
            true => unescape(self.raw, out),
        }
    }
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    /// The next byte that is not white space, left where it is; 0 at the end.
    #[inline]
    pub fn peek(&mut self) -> u8 {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                Some(&byte) => return byte,
                None => return 0,
            }
        }
    }

    pub fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at.min(self.bytes.len())..]
    }

    /// Nothing but white space may follow.
    pub fn end(&mut self) -> Outcome {
        match self.peek() {
            0 if self.at == self.bytes.len() => Ok(()),
            _ => Err(self.unexpected("nothing more")),
        }
    }

    /// Enters an array or object whose bracket is next.
    #[inline]
    pub fn enter(&mut self) -> Outcome {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            let message = format!("arrays and objects nest deeper than {DEPTH_MAX} at byte {}", self.at);
            return Err(Problem::of_record("too_deep", message));
        }
        self.at += 1;
        Ok(())
    }

    /// Leaves the array or object whose closing bracket is next.
    #[inline]
    pub fn leave(&mut self) {
        self.depth -= 1;
        self.at += 1;
    }

    /// After a key: the colon.
    #[inline]
    pub fn colon(&mut self) -> Outcome {
        if self.bytes.get(self.at) == Some(&b':') || self.peek() == b':' {
            self.at += 1;
            return Ok(());
        }
        Err(self.unexpected("a colon"))
    }

    /// After an item of an array or object that ends with `close`: `true` if another one follows.
    #[inline]
    pub fn another(&mut self, close: u8) -> Outcome<bool> {
        match self.peek() {
            b',' => {
                self.at += 1;
                Ok(true)
            }
            byte if byte == close => {
                self.leave();
                Ok(false)
            }
            _ => Err(self.unexpected(if close == b'}' { "a comma or }" } else { "a comma or ]" })),
        }
    }

    /// The word `null`, `true` or `false`, whose first letter is next.
    #[inline]
    pub fn word(&mut self, word: &'static str) -> Outcome {
        if !self.rest().starts_with(word.as_bytes()) {
            return Err(self.unexpected(word));
        }
        self.at += word.len();
        Ok(())
    }

    /// A string.
    #[inline]
    pub fn string(&mut self) -> Outcome<Text<'a>> {
        if self.peek() != b'"' {
            return Err(self.unexpected("a string"));
        }
        let start = self.at + 1;
        let mut at = start;
        let mut escaped = false;
        loop {
            at += plain_length(&self.bytes[at..]);
            match self.bytes.get(at) {
                Some(b'"') => {
                    self.at = at + 1;
                    return Ok(Text { raw: &self.bytes[start..at], escaped });
                }
                Some(b'\\') => {
                    escaped = true;
                    at = self.escape(at)?;
                }
                Some(byte) => {
                    let message = format!("the control character {byte:#04x} in a string at byte {at}");
                    return Err(Problem::of_record("json_syntax", message));
                }
                None => {
                    let message = format!("the string at byte {} does not end", self.at);
                    return Err(Problem::of_record("json_syntax", message));
                }
            }
        }
    }

    /// Checks the escape at `at`; gives where it ends.
    fn escape(&self, at: usize) -> Outcome<usize> {
        let bad = || Problem::of_record("json_syntax", format!("no such escape in a string at byte {at}"));
        match self.bytes.get(at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
            Some(b'u') => match hex4(&self.bytes[at + 2..]).ok_or_else(bad)? {
                0xD800..0xDC00 => match self.bytes[at + 6..].strip_prefix(b"\\u").and_then(hex4) {
                    Some(0xDC00..0xE000) => Ok(at + 12),
                    _ => Err(Problem::of_record("json_syntax", format!("half a surrogate pair at byte {at}"))),
                },
                0xDC00..0xE000 => Err(Problem::of_record("json_syntax", format!("half a surrogate pair at byte {at}"))),
                _ => Ok(at + 6),
            },
            _ => Err(bad()),
        }
    }

    /// A number.
    #[inline]
    pub fn number(&mut self) -> Outcome<Number<'a>> {
        let bytes = self.bytes;
        let start = self.at;
        let digit_at = |at: usize| bytes.get(at).copied().filter(u8::is_ascii_digit);
        let mut number = Number { raw: &[], negative: false, mantissa: 0, exponent: 0, exact: true };
        let mut at = start;
        if bytes.get(at) == Some(&b'-') {
            number.negative = true;
            at += 1;
        }
        let digits_start = at;
        while let Some(digit) = digit_at(at) {
            number.push_digit(digit);
            at += 1;
        }
        if at == digits_start || (at > digits_start + 1 && bytes[digits_start] == b'0') {
            return Err(self.unexpected("a value"));
        }
        if bytes.get(at) == Some(&b'.') {
            at += 1;
            let fraction_start = at;
            while let Some(digit) = digit_at(at) {
                number.push_digit(digit);
                at += 1;
            }
            if at == fraction_start {
                self.at = at;
                return Err(self.unexpected("a digit"));
            }
            number.exponent = -((at - fraction_start) as i32);
        }
        if let Some(b'e' | b'E') = bytes.get(at) {
            let exponent_start = at + 1;
            at = exponent_start + usize::from(matches!(bytes.get(exponent_start), Some(b'+' | b'-')));
            let exponent_digits = at;
            while digit_at(at).is_some() {
                at += 1;
            }
            if at == exponent_digits {
                self.at = at;
                return Err(self.unexpected("a digit"));
            }
            number.exponent += parse_exponent(&bytes[exponent_start..at]);
        }
        self.at = at;
        number.raw = &bytes[start..at];
        Ok(number)
    }

    /// Passes over a value of any kind; gives its text.
    pub fn skip(&mut self) -> Outcome<&'a [u8]> {
        self.peek();
        let start = self.at;
        let depth_outside = self.depth;
        // One bit a level, the innermost lowest: 1 is an object. There are as many as levels are allowed.
        let mut objects: u128 = 0;
        loop {
            match self.peek() {
                b'"' => drop(self.string()?),
                b'{' => {
                    self.enter()?;
                    if self.peek() != b'}' {
                        objects = objects << 1 | 1;
                        self.string()?;
                        self.colon()?;
                        continue;
                    }
                    self.leave();
                }
                b'[' => {
                    self.enter()?;
                    if self.peek() != b']' {
                        objects <<= 1;
                        continue;
                    }
                    self.leave();
                }
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                _ => drop(self.number()?),
            }
            loop {
                if self.depth == depth_outside {
                    return Ok(&self.bytes[start..self.at]);
                }
                let in_object = objects & 1 == 1;
                if self.another(if in_object { b'}' } else { b']' })? {
                    if in_object {
                        self.string()?;
                        self.colon()?;
                    }
                    break;
                }
                objects >>= 1;
            }
        }
    }

    /// Something else stands here than JSON wants.
    #[cold]
    pub fn unexpected(&mut self, expected: &str) -> Box<Problem> {
        self.peek();
        let found = match self.bytes.get(self.at) {
            None => "the end".to_string(),
            Some(_) => {
                let tail = &self.bytes[self.at..self.bytes.len().min(self.at + 4)];
                let first = String::from_utf8_lossy(tail).chars().next().unwrap_or('?');
                format!("{first:?}")
            }
        };
        Problem::of_record("json_syntax", format!("expected {expected}, found {found} at byte {}", self.at))
    }
}

/// How many bytes at the start of `text` are neither a quote, a backslash nor a control character.
#[inline]
fn plain_length(text: &[u8]) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGHS: u64 = 0x8080_8080_8080_8080;
    let mut at = 0;
    // Eight bytes at a time; the lowest set bit of each mask is exact.
    while let Some(chunk) = text[at..].first_chunk::<8>() {
        let word = u64::from_le_bytes(*chunk);
        let quotes = word ^ (ONES * u64::from(b'"'));
        let slashes = word ^ (ONES * u64::from(b'\\'));
        let stops = (quotes.wrapping_sub(ONES) & !quotes)
            | (slashes.wrapping_sub(ONES) & !slashes)
            | (word.wrapping_sub(ONES * 0x20) & !word);
        let stops = stops & HIGHS;
        if stops != 0 {
            return at + (stops.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    at + text[at..].iter().take_while(|&&byte| byte >= b' ' && byte != b'"' && byte != b'\\').count()
}

fn hex4(text: &[u8]) -> Option<u32> {
    text.first_chunk::<4>()?.iter().try_fold(0, |value, &byte| Some(value << 4 | char::from(byte).to_digit(16)?))
}

/// Appends `raw`, whose escapes are known to be well-formed.
fn unescape(mut raw: &[u8], out: &mut Vec<u8>) {
    while let Some(at) = memchr::memchr(b'\\', raw) {
        out.extend_from_slice(&raw[..at]);
        let (plain, length) = match raw.get(at + 1) {
            Some(b'b') => ('\u{8}', 2),
            Some(b'f') => ('\u{c}', 2),
            Some(b'n') => ('\n', 2),
            Some(b'r') => ('\r', 2),
            Some(b't') => ('\t', 2),
            Some(b'u') => match hex4(&raw[at + 2..]).unwrap_or(0xFFFD) {
                high @ 0xD800..0xDC00 => {
                    let low = raw.get(at + 8..).and_then(hex4).unwrap_or(0);
                    let code = 0x10000 + ((high - 0xD800) << 10) + (low & 0x3FF);
                    (char::from_u32(code).unwrap_or('\u{FFFD}'), 12)
                }
                code => (char::from_u32(code).unwrap_or('\u{FFFD}'), 6),
            },
            Some(&other) => (char::from(other), 2),
            None => return,
        };
        out.extend_from_slice(plain.encode_utf8(&mut [0; 4]).as_bytes());
        raw = raw.get(at + length..).unwrap_or_default();
    }
    out.extend_from_slice(raw);
}
