//! The byte encoding of state values: length-prefixed fields, little endian.

use arrow::error::ArrowError;

/// Appends fields to a buffer.
pub struct StateWriter<'a>(pub &'a mut Vec<u8>);

impl StateWriter<'_> {
    /// A signed number.
    pub fn i64(&mut self, value: i64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// An unsigned number.
    pub fn u64(&mut self, value: u64) {
        self.0.extend_from_slice(&value.to_le_bytes());
    }

    /// Bytes, or their absence.
    pub fn optional(&mut self, value: Option<&[u8]>) {
        match value {
            None => self.u64(u64::MAX),
            Some(bytes) => {
                self.u64(bytes.len() as u64);
                self.0.extend_from_slice(bytes);
            }
        }
    }
}

/// Reads fields in the order in which they were written.
pub struct StateReader<'a>(pub &'a [u8]);

/// The error of bytes that no state of ours has.
pub fn decode_error(what: &str) -> ArrowError {
    ArrowError::ParseError(format!("the checkpoint holds {what} that cannot be read"))
}

impl<'a> StateReader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], ArrowError> {
        if count > self.0.len() {
            return Err(decode_error("a value cut short"));
        }
        let (head, tail) = self.0.split_at(count);
        self.0 = tail;
        Ok(head)
    }

    /// A signed number.
    pub fn i64(&mut self) -> Result<i64, ArrowError> {
        Ok(self.u64()? as i64)
    }

    /// An unsigned number.
    pub fn u64(&mut self) -> Result<u64, ArrowError> {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(self.take(8)?);
        Ok(u64::from_le_bytes(bytes))
    }

    /// Bytes, or their absence.
    pub fn optional(&mut self) -> Result<Option<&'a [u8]>, ArrowError> {
        match self.u64()? {
            u64::MAX => Ok(None),
            length => Ok(Some(self.take(length as usize)?)),
        }
    }
}
