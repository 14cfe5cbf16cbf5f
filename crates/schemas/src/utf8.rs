//! Records as UTF-8 text, checked in one sweep. Shared by all text formats.

use crate::format::{RECORD_SIZE_MAX, Records};

/// Reason code and message.
pub(crate) type Refusal = (&'static str, String);

/// Records known to be UTF-8: all at once if they are, one by one if some are not.
pub(crate) struct Utf8Records<'a> {
    records: &'a Records,
    /// The whole buffer, if it is UTF-8.
    text: Option<&'a str>,
}

impl<'a> Utf8Records<'a> {
    pub fn new(records: &'a Records) -> Self {
        let wanted: usize = records.ranges.iter().map(|range| range.1 as usize).sum();
        let worthwhile = wanted >= records.buffer.len() / 2;
        let text = if worthwhile { simdutf8::basic::from_utf8(&records.buffer).ok() } else { None };
        Self { records, text }
    }

    /// The bytes of record `index`, which are UTF-8 and not too many.
    pub fn get(&self, index: usize) -> Result<&'a [u8], Refusal> {
        let record = self.records.get(index);
        if record.len() > RECORD_SIZE_MAX {
            return Err(("too_large", format!("the record is longer than {RECORD_SIZE_MAX} bytes")));
        }
        let start = self.records.ranges[index].0 as usize;
        if self.text.is_some_and(|text| text.get(start..start + record.len()).is_some()) {
            return Ok(record);
        }
        match simdutf8::compat::from_utf8(record) {
            Ok(_) => Ok(record),
            Err(error) => Err(("invalid_utf8", format!("the record is not UTF-8 at byte {}", error.valid_up_to()))),
        }
    }
}
