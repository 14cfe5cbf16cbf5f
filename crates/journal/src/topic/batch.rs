//! Records, batches of them as they are encoded, and blocks of them as they are read.

use bytes::Bytes;

use crate::entry::u32_at;

/// A length that says "none" (key) or "as before" (headers).
const ABSENT: u32 = u32::MAX;
/// Bytes before a record's key: arrival and three lengths.
const RECORD_HEAD_BYTES: usize = 20;

/// One record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Record {
    /// When it arrived, µs since 1970 UTC.
    pub arrival: i64,
    /// Its key.
    pub key: Option<Bytes>,
    /// What is known beside its value, opaque.
    pub headers: Bytes,
    /// Its value.
    pub value: Bytes,
}

/// Encodes records into one buffer, ready to be appended.
#[derive(Debug, Default)]
pub struct BatchBuilder {
    body: Vec<u8>,
    count: u32,
    arrival_max: Option<i64>,
    /// Where the last headers are in `body`.
    headers: (usize, usize),
}

/// Encoded records.
#[derive(Debug, Default)]
pub struct EncodedBatch {
    pub(super) body: Vec<u8>,
    pub(super) count: u32,
    pub(super) arrival_max: i64,
}

impl BatchBuilder {
    /// With room for `bytes` bytes.
    pub fn with_capacity(bytes: usize) -> Self {
        Self { body: Vec::with_capacity(bytes), ..Self::default() }
    }

    /// Adds a record. Headers equal to those of the record before cost nothing.
    pub fn push(&mut self, arrival: i64, key: Option<&[u8]>, headers: &[u8], value: &[u8]) {
        let (start, end) = self.headers;
        let repeated = self.count > 0 && self.body[start..end] == *headers;
        // A length that does not fit makes the batch larger than is accepted, so it is never written.
        let len = |part: &[u8]| u32::try_from(part.len()).unwrap_or(ABSENT - 1).to_le_bytes();
        let key_len = key.map_or(ABSENT.to_le_bytes(), len);
        let headers_len = if repeated { ABSENT.to_le_bytes() } else { len(headers) };
        let added = RECORD_HEAD_BYTES + key.map_or(0, <[u8]>::len) + headers.len() + value.len();
        self.body.reserve(added);
        self.body.extend_from_slice(&arrival.to_le_bytes());
        self.body.extend_from_slice(&key_len);
        self.body.extend_from_slice(&headers_len);
        self.body.extend_from_slice(&len(value));
        self.body.extend_from_slice(key.unwrap_or_default());
        if !repeated {
            let start = self.body.len();
            self.body.extend_from_slice(headers);
            self.headers = (start, self.body.len());
        }
        self.body.extend_from_slice(value);
        self.count += 1;
        self.arrival_max = self.arrival_max.max(Some(arrival));
    }

    /// How many records there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes so far.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }

    /// The batch.
    pub fn finish(self) -> EncodedBatch {
        EncodedBatch { body: self.body, count: self.count, arrival_max: self.arrival_max.unwrap_or(i64::MIN) }
    }
}

impl EncodedBatch {
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the records as encoded.
    pub fn bytes(&self) -> usize {
        self.body.len()
    }
}

impl From<&[Record]> for EncodedBatch {
    fn from(records: &[Record]) -> Self {
        let bytes = records.iter().map(|r| RECORD_HEAD_BYTES + r.headers.len() + r.value.len()).sum();
        let mut builder = BatchBuilder::with_capacity(bytes);
        for record in records {
            builder.push(record.arrival, record.key.as_deref(), &record.headers, &record.value);
        }
        builder.finish()
    }
}

/// Consecutive records, as ranges (start, length) into one buffer. All the vectors have one element a record.
#[derive(Debug, Clone, Default)]
pub struct Block {
    /// The bytes that the ranges are of.
    pub buffer: Bytes,
    /// Offset of the first record; the others follow without a gap.
    pub first_offset: u64,
    /// Values.
    pub values: Vec<(u32, u32)>,
    /// Headers; records that were sent together share a range.
    pub headers: Vec<(u32, u32)>,
    /// Keys.
    pub keys: Vec<Option<(u32, u32)>>,
    /// Arrivals, µs since 1970 UTC.
    pub arrivals: Vec<i64>,
}

impl Block {
    /// How many records there are.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The offset to read from next.
    pub fn next_offset(&self) -> u64 {
        self.first_offset + self.values.len() as u64
    }

    /// The value of a record.
    pub fn value(&self, index: usize) -> &[u8] {
        self.slice(self.values[index])
    }

    /// The headers of a record.
    pub fn header(&self, index: usize) -> &[u8] {
        self.slice(self.headers[index])
    }

    /// The key of a record.
    pub fn key(&self, index: usize) -> Option<&[u8]> {
        self.keys[index].map(|range| self.slice(range))
    }

    /// A record with parts that share the buffer.
    pub fn record(&self, index: usize) -> Record {
        let part = |(start, len): (u32, u32)| self.buffer.slice(start as usize..start as usize + len as usize);
        Record {
            arrival: self.arrivals[index],
            key: self.keys[index].map(part),
            headers: part(self.headers[index]),
            value: part(self.values[index]),
        }
    }

    fn slice(&self, (start, len): (u32, u32)) -> &[u8] {
        &self.buffer[start as usize..start as usize + len as usize]
    }

    /// Adds the `count` records encoded in `buffer[start..end]`, but the first `skip`. None when they are not whole.
    pub(crate) fn decode(&mut self, buffer: &[u8], start: usize, end: usize, count: u32, skip: u64) -> Option<()> {
        let body = buffer.get(..end)?;
        let mut at = start;
        let mut headers = None;
        let kept = u64::from(count).saturating_sub(skip) as usize;
        // No more than can be there, whatever the header says.
        let kept = kept.min((end - start) / RECORD_HEAD_BYTES);
        self.values.reserve(kept);
        self.headers.reserve(kept);
        self.keys.reserve(kept);
        self.arrivals.reserve(kept);
        let take = |at: &mut usize, len: u32| {
            let range = (*at as u32, len);
            *at = at.checked_add(len as usize).filter(|&next| next <= end)?;
            Some(range)
        };
        for index in 0..u64::from(count) {
            let head = body.get(at..at + RECORD_HEAD_BYTES)?;
            let arrival = i64::from(u32_at(head, 0)) | i64::from(u32_at(head, 4)) << 32;
            let (key_len, headers_len, value_len) = (u32_at(head, 8), u32_at(head, 12), u32_at(head, 16));
            at += RECORD_HEAD_BYTES;
            let key = if key_len == ABSENT { None } else { Some(take(&mut at, key_len)?) };
            if headers_len != ABSENT {
                headers = Some(take(&mut at, headers_len)?);
            }
            let value = take(&mut at, value_len)?;
            if index >= skip {
                self.arrivals.push(arrival);
                self.keys.push(key);
                self.headers.push(headers?);
                self.values.push(value);
            }
        }
        (at == end).then_some(())
    }
}
