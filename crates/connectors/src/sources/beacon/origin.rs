//! Who sent an event, as kept in its record's headers: three texts with their lengths.
//!
//! Layout: client address, user agent, referer; each a `u16` length (little-endian, `0xFFFF` for none) and its bytes.

use bytes::{BufMut, Bytes, BytesMut};

/// Longer texts are cut here.
const TEXT_SIZE_MAX: usize = 4096;
const NONE: u16 = u16::MAX;

/// Who sent an event, as far as the request said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Address of the client.
    pub client_address: Option<&'a str>,
    /// The `User-Agent` header.
    pub user_agent: Option<&'a str>,
    /// The `Referer` header.
    pub referer: Option<&'a str>,
}

impl<'a> Origin<'a> {
    /// The bytes of a record's headers.
    pub fn encode(&self) -> Bytes {
        let texts = [self.client_address, self.user_agent, self.referer];
        let mut bytes = BytesMut::with_capacity(6 + texts.iter().flatten().map(|text| text.len()).sum::<usize>());
        for text in texts {
            match text {
                Some(text) => {
                    let text = &text[..text.floor_char_boundary(TEXT_SIZE_MAX)];
                    bytes.put_u16_le(text.len() as u16);
                    bytes.put_slice(text.as_bytes());
                }
                None => bytes.put_u16_le(NONE),
            }
        }
        bytes.freeze()
    }

    /// Reads what [`Origin::encode`] wrote; what is not there, or is broken, is none.
    pub fn decode(mut bytes: &'a [u8]) -> Self {
        let mut next = || -> Option<&'a str> {
            let (length, rest) = bytes.split_first_chunk::<2>()?;
            bytes = rest;
            let length = u16::from_le_bytes(*length);
            if length == NONE {
                return None;
            }
            let (text, rest) = bytes.split_at_checked(usize::from(length))?;
            bytes = rest;
            std::str::from_utf8(text).ok()
        };
        Self { client_address: next(), user_agent: next(), referer: next() }
    }
}
