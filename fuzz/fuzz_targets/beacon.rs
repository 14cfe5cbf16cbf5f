//! What a beacon is sent; the first byte says as what the rest is read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_fuzzing::beacon::{body, headers, query};

fuzz_target!(|bytes: &[u8]| {
    if let Some((part, bytes)) = bytes.split_first() {
        match part % 4 {
            0 => body(bytes, false),
            1 => body(bytes, true),
            2 => query(&String::from_utf8_lossy(bytes)),
            _ => headers(bytes),
        }
    }
});
