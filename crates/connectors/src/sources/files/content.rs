//! The bytes of one file: opened in place, decompressed, and checksummed as they stand on disk.

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::Path;

use flate2::bufread::MultiGzDecoder;
use xxhash_rust::xxh3::{Xxh3, xxh3_128};

use super::cursor::Sum;

/// Bytes that are hashed as one, so that hashing can go on in the middle of a file.
pub(super) const BLOCK_SIZE: u64 = 64 * 1024;
/// The largest window that `zstd --long` may have used: 2 GiB.
const WINDOW_LOG_MAX: u32 = 31;
const RAW_BUFFER_SIZE: usize = 256 * 1024;

/// How a file is packed, by its suffix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

impl Packing {
    pub fn of(name: &str) -> Self {
        if name.ends_with(".gz") {
            Self::Gzip
        } else if name.ends_with(".zst") || name.ends_with(".zstd") {
            Self::Zstd
        } else {
            Self::Plain
        }
    }
}

/// Hash of a byte sequence by blocks: `h' = xxh3(h, xxh3(block))`, at the end `xxh3(h, xxh3(rest), length)`.
#[derive(Clone)]
struct Digest {
    chain: u128,
    block: Box<Xxh3>,
    length: u64,
    /// Chain values after whole blocks, the first of them after block `first`; only as far as they are still asked.
    chains: std::collections::VecDeque<u128>,
    first: u64,
}

impl Digest {
    /// Goes on behind `length` bytes, a whole number of blocks, whose chain is `chain`.
    fn at(length: u64, chain: u128) -> Self {
        Self { chain, block: Box::new(Xxh3::new()), length, chains: [chain].into(), first: length / BLOCK_SIZE }
    }

    fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let room = (BLOCK_SIZE - self.length % BLOCK_SIZE) as usize;
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            self.block.update(now);
            self.length += now.len() as u64;
            bytes = later;
            if self.length.is_multiple_of(BLOCK_SIZE) {
                self.chain = fold(self.chain, &[self.block.digest128()]);
                self.block.reset();
                self.chains.push_back(self.chain);
            }
        }
    }

    /// The chain of the whole blocks before `length`; forgets those before.
    fn blocks_before(&mut self, length: u64) -> u128 {
        let index = length / BLOCK_SIZE;
        while self.first < index && self.chains.len() > 1 {
            self.chains.pop_front();
            self.first += 1;
        }
        self.chains.front().copied().unwrap_or(self.chain)
    }

    fn finish(&self) -> u128 {
        fold(self.chain, &[self.block.digest128(), u128::from(self.length)])
    }
}

/// Hash of a hash and what follows it.
pub(super) fn fold(chain: u128, next: &[u128]) -> u128 {
    let mut bytes = Vec::with_capacity(16 * (1 + next.len()));
    bytes.extend_from_slice(&chain.to_le_bytes());
    for hash in next {
        bytes.extend_from_slice(&hash.to_le_bytes());
    }
    xxh3_128(&bytes)
}

/// A file's stored bytes up to the length it had when it was listed.
struct Stored {
    file: File,
    left: u64,
    digest: Digest,
}

impl Read for Stored {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let room = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let count = self.file.read(&mut buffer[..room])?;
        self.left -= count as u64;
        self.digest.update(&buffer[..count]);
        Ok(count)
    }
}

enum Unpacked {
    Plain(Stored),
    Gzip(Box<MultiGzDecoder<BufReader<Stored>>>),
    Zstd(zstd::stream::read::Decoder<'static, BufReader<Stored>>),
}

/// Why there are no more bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The content is complete.
    Complete,
    /// The packed data stop in the middle.
    Truncated,
    /// The packed data are damaged.
    Damaged,
    /// The file has become shorter since it was listed.
    Shrunk,
}

/// The uncompressed bytes of one file, from some position on.
pub(super) struct Content {
    unpacked: Unpacked,
}

impl Content {
    /// Opens `path`, of which `length` stored bytes count, at the uncompressed position `at`. For a plain file,
    /// `blocks` is the chain of whole blocks before `at`, as [`Content::blocks_before`] gave it.
    pub fn open(path: &Path, packing: Packing, length: u64, at: u64, blocks: Option<Sum>) -> io::Result<Self> {
        let mut file = File::open(path)?;
        let mut start = 0;
        let mut chain = 0;
        if let (Packing::Plain, Some(sum)) = (packing, blocks) {
            start = at / BLOCK_SIZE * BLOCK_SIZE;
            chain = sum.0;
            file.seek(SeekFrom::Start(start))?;
        }
        let stored = Stored { file, left: length.saturating_sub(start), digest: Digest::at(start, chain) };
        let unpacked = match packing {
            Packing::Plain => Unpacked::Plain(stored),
            Packing::Gzip => {
                let buffered = BufReader::with_capacity(RAW_BUFFER_SIZE, stored);
                Unpacked::Gzip(Box::new(MultiGzDecoder::new(buffered)))
            }
            Packing::Zstd => {
                let buffered = BufReader::with_capacity(RAW_BUFFER_SIZE, stored);
                let mut decoder = zstd::stream::read::Decoder::with_buffer(buffered)?;
                decoder.window_log_max(WINDOW_LOG_MAX)?;
                Unpacked::Zstd(decoder)
            }
        };
        let mut content = Self { unpacked };
        let mut skipped = Vec::new();
        let mut behind = at - start;
        while behind > 0 {
            skipped.clear();
            let part = behind.min(1 << 20) as usize;
            if content.read(&mut skipped, part)?.is_some() {
                break;
            }
            behind -= skipped.len() as u64;
        }
        Ok(content)
    }

    /// Appends up to `count` bytes to `buffer`. An end is told as soon as it is met, with the bytes before it.
    pub fn read(&mut self, buffer: &mut Vec<u8>, count: usize) -> io::Result<Option<End>> {
        let start = buffer.len();
        let read = match &mut self.unpacked {
            Unpacked::Plain(stored) => stored.take(count as u64).read_to_end(buffer),
            Unpacked::Gzip(decoder) => decoder.as_mut().take(count as u64).read_to_end(buffer),
            Unpacked::Zstd(decoder) => decoder.take(count as u64).read_to_end(buffer),
        };
        match read {
            Ok(_) if buffer.len() - start == count => Ok(None),
            Ok(_) if self.stored().left == 0 || self.is_packed() => Ok(Some(End::Complete)),
            Ok(_) => Ok(Some(End::Shrunk)),
            // What the machine could not read has a number of the machine's; the rest is the decoder's.
            Err(error) if error.raw_os_error().is_some() || !self.is_packed() => Err(error),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(Some(End::Truncated)),
            Err(_) => Ok(Some(End::Damaged)),
        }
    }

    /// Hash of the whole blocks of stored bytes before `at`; none for packed files.
    pub fn blocks_before(&mut self, at: u64) -> Option<Sum> {
        match &mut self.unpacked {
            Unpacked::Plain(stored) => Some(Sum(stored.digest.blocks_before(at))),
            _ => None,
        }
    }

    /// Hash of all stored bytes; reads what is left of them.
    pub fn sum(mut self) -> io::Result<Sum> {
        let stored = self.stored_mut();
        io::copy(stored, &mut io::sink())?;
        Ok(Sum(stored.digest.finish()))
    }

    fn is_packed(&self) -> bool {
        !matches!(self.unpacked, Unpacked::Plain(_))
    }

    fn stored(&self) -> &Stored {
        match &self.unpacked {
            Unpacked::Plain(stored) => stored,
            Unpacked::Gzip(decoder) => decoder.get_ref().get_ref(),
            Unpacked::Zstd(decoder) => decoder.get_ref().get_ref(),
        }
    }

    fn stored_mut(&mut self) -> &mut Stored {
        match &mut self.unpacked {
            Unpacked::Plain(stored) => stored,
            Unpacked::Gzip(decoder) => decoder.get_mut().get_mut(),
            Unpacked::Zstd(decoder) => decoder.get_mut().get_mut(),
        }
    }
}

/// Hash of the first `length` stored bytes of a file, as [`Content::sum`] gives it.
pub(super) fn sum_of(path: &Path, length: u64) -> io::Result<Sum> {
    Content::open(path, Packing::Plain, length, 0, None)?.sum()
}

/// Hash of the whole blocks before `at`, as [`Content::blocks_before`] gives it.
pub(super) fn blocks_of(path: &Path, at: u64) -> io::Result<Sum> {
    let mut content = Content::open(path, Packing::Plain, at, 0, None)?;
    io::copy(content.stored_mut(), &mut io::sink())?;
    let reached = content.stored().digest.length;
    Ok(if reached < at { Sum(0) } else { content.blocks_before(at).unwrap_or_default() })
}
