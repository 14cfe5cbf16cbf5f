//! One entry of a segment file: its header, checksums and compression.
//!
//! Invariants:
//! - A header that checks out tells the truth about the length of what follows.
//! - An entry checks out only in the segment it was written to: checksums start from the segment's random salt, so
//!   that bytes which a sender made up to look like an entry never pass for one.
//! - `durable_to` is a position up to which the file was synced before the entry was written.
//!
//! Layout, little endian, 56 bytes, then `stored_len` bytes of body:
//!
//! | bytes | field |
//! |---|---|
//! | 0..4 | magic `WENT` |
//! | 4..8 | crc32c of bytes 8..56, salted |
//! | 8..12 | crc32c of the body as stored, salted |
//! | 12..16 | `stored_len`: bytes of the body as stored |
//! | 16..20 | `body_len`: bytes of the body when decompressed |
//! | 20 | kind |
//! | 21 | compression of the body: 0 none, 1 LZ4 block, 2 Zstandard |
//! | 22..24 | zero |
//! | 24..32 | number: the first record's offset, or the epoch |
//! | 32..36 | count: how many numbers it takes up (records of a batch, 1 for a commit, 0 for a seal) |
//! | 36..40 | tag: the caller's kind of a frame |
//! | 40..48 | time: the highest arrival, µs since 1970 (topics) |
//! | 48..56 | `durable_to` |

use std::borrow::Cow;

/// Bytes of an entry's header.
pub(crate) const ENTRY_BYTES: usize = 56;
/// The longest body. A header that says more is not one of ours.
pub(crate) const BODY_BYTES_MAX: usize = 1 << 30;
/// What every entry starts with.
pub(crate) const ENTRY_MAGIC: [u8; 4] = *b"WENT";
/// The kind that all three journals share: no body; says that all before it was synced when it was written, and
/// closes a segment. Its number is that of the next entry to come.
pub(crate) const SEAL: u8 = 0;

/// Bodies shorter than this are not worth compressing.
const COMPRESSED_BYTES_MIN: usize = 512;
const ZSTD_LEVEL: i32 = 1;

/// How bodies are compressed, when that makes them at least an eighth smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// Not at all.
    None,
    /// LZ4: fast.
    #[default]
    Lz4,
    /// Zstandard: small.
    Zstd,
}

/// A header as read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Of the header; it covers the body's checksum.
    pub(crate) header_crc: u32,
    body_crc: u32,
    pub(crate) stored_len: u32,
    pub(crate) body_len: u32,
    pub(crate) kind: u8,
    compression: u8,
    pub(crate) number: u64,
    pub(crate) count: u32,
    pub(crate) tag: u32,
    pub(crate) durable_to: u64,
}

/// A header to be written.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Draft {
    pub(crate) kind: u8,
    pub(crate) number: u64,
    pub(crate) count: u32,
    pub(crate) tag: u32,
    pub(crate) time: i64,
    pub(crate) durable_to: u64,
}

/// A body as it is stored, ready to be written.
#[derive(Debug, Clone)]
pub(crate) struct Packed {
    stored: Vec<u8>,
    body_len: usize,
    code: u8,
}

impl Packed {
    /// Compresses a body when it is worth it.
    pub(crate) fn new(body: Vec<u8>, compression: Compression) -> Self {
        let body_len = body.len();
        let mut stored = Vec::new();
        match compress(&mut stored, &body, compression) {
            Some(code) => {
                stored.shrink_to_fit();
                Self { stored, body_len, code }
            }
            None => Self { stored: body, body_len, code: 0 },
        }
    }

    /// The header that goes before [`Packed::stored`].
    pub(crate) fn header(&self, salt: u64, draft: &Draft) -> [u8; ENTRY_BYTES] {
        header(salt, draft, &self.stored, self.body_len, self.code)
    }

    /// The bytes of the body in the file.
    pub(crate) fn stored(&self) -> &[u8] {
        &self.stored
    }

    /// Bytes of the body as it was given.
    pub(crate) fn body_len(&self) -> usize {
        self.body_len
    }
}

/// Appends an entry to `out`.
pub(crate) fn encode(out: &mut Vec<u8>, salt: u64, draft: &Draft, body: &[u8], compression: Compression) {
    let start = out.len();
    out.resize(start + ENTRY_BYTES, 0);
    let code = compress(out, body, compression).unwrap_or_else(|| {
        out.extend_from_slice(body);
        0
    });
    let (place, stored) = out[start..].split_at_mut(ENTRY_BYTES);
    place.copy_from_slice(&header(salt, draft, stored, body.len(), code));
}

fn header(salt: u64, draft: &Draft, stored: &[u8], body_len: usize, code: u8) -> [u8; ENTRY_BYTES] {
    let mut header = [0; ENTRY_BYTES];
    header[0..4].copy_from_slice(&ENTRY_MAGIC);
    header[8..12].copy_from_slice(&salted(salt, stored).to_le_bytes());
    header[12..16].copy_from_slice(&(stored.len() as u32).to_le_bytes());
    header[16..20].copy_from_slice(&(body_len as u32).to_le_bytes());
    header[20] = draft.kind;
    header[21] = code;
    header[24..32].copy_from_slice(&draft.number.to_le_bytes());
    header[32..36].copy_from_slice(&draft.count.to_le_bytes());
    header[36..40].copy_from_slice(&draft.tag.to_le_bytes());
    header[40..48].copy_from_slice(&draft.time.to_le_bytes());
    header[48..56].copy_from_slice(&draft.durable_to.to_le_bytes());
    let crc = salted(salt, &header[8..]);
    header[4..8].copy_from_slice(&crc.to_le_bytes());
    header
}

/// Reads the header at the start of `bytes`; None when there is none.
pub(crate) fn parse(bytes: &[u8], salt: u64) -> Option<Entry> {
    let header = bytes.get(..ENTRY_BYTES)?;
    if header[0..4] != ENTRY_MAGIC || u32_at(header, 4) != salted(salt, &header[8..]) {
        return None;
    }
    let entry = Entry {
        header_crc: u32_at(header, 4),
        body_crc: u32_at(header, 8),
        stored_len: u32_at(header, 12),
        body_len: u32_at(header, 16),
        kind: header[20],
        compression: header[21],
        number: u64_at(header, 24),
        count: u32_at(header, 32),
        tag: u32_at(header, 36),
        durable_to: u64_at(header, 48),
    };
    (entry.stored_len.max(entry.body_len) as usize <= BODY_BYTES_MAX).then_some(entry)
}

impl Entry {
    /// Bytes of header and body in the file.
    pub(crate) fn len(&self) -> u64 {
        ENTRY_BYTES as u64 + u64::from(self.stored_len)
    }

    /// Whether the stored body is what was written.
    pub(crate) fn checks(&self, salt: u64, stored: &[u8]) -> bool {
        stored.len() == self.stored_len as usize && salted(salt, stored) == self.body_crc
    }

    /// Whether the body can be read in place.
    pub(crate) fn is_plain(&self) -> bool {
        self.compression == 0
    }

    /// The body, decompressed; an error says what does not fit.
    pub(crate) fn open<'a>(&self, stored: &'a [u8]) -> Result<Cow<'a, [u8]>, String> {
        let len = self.body_len as usize;
        let body = match self.compression {
            0 => Cow::Borrowed(stored),
            1 => {
                let mut body = vec![0; len];
                let filled =
                    lz4_flex::block::decompress_into(stored, &mut body).map_err(|e| format!("bad LZ4 block: {e}"))?;
                body.truncate(filled);
                Cow::Owned(body)
            }
            2 => Cow::Owned(zstd::bulk::decompress(stored, len).map_err(|e| format!("bad Zstandard frame: {e}"))?),
            other => return Err(format!("unknown compression {other}")),
        };
        if body.len() == len { Ok(body) } else { Err(format!("{} bytes where {len} were written", body.len())) }
    }
}

/// Appends the body to `out`, compressed, when it is worth it; returns the code of the compression.
fn compress(out: &mut Vec<u8>, body: &[u8], compression: Compression) -> Option<u8> {
    let start = out.len();
    let enough = body.len() - body.len() / 8;
    if body.len() < COMPRESSED_BYTES_MIN {
        return None;
    }
    match compression {
        Compression::None => None,
        Compression::Lz4 => {
            let end = start + lz4_flex::block::get_maximum_output_size(body.len());
            if start == 0 {
                // Zeroed by the machine as far as it is written to.
                *out = vec![0; end];
            } else {
                out.resize(end, 0);
            }
            let compressed = lz4_flex::block::compress_into(body, &mut out[start..]).ok().filter(|len| *len <= enough);
            out.truncate(start + compressed.unwrap_or(0));
            compressed.map(|_| 1)
        }
        Compression::Zstd => {
            let compressed = zstd::bulk::compress(body, ZSTD_LEVEL).ok().filter(|bytes| bytes.len() <= enough)?;
            out.extend_from_slice(&compressed);
            Some(2)
        }
    }
}

/// crc32c that starts from the salt.
pub(crate) fn salted(salt: u64, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append((salt ^ (salt >> 32)) as u32, bytes)
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}
