//! Every format; the first byte says which, the second how the stream is cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_fuzzing::formats::{names, read};

fuzz_target!(|bytes: &[u8]| {
    if let [format, piece, bytes @ ..] = bytes {
        let piece = usize::from(*piece).max(bytes.len() / 50);
        read(names()[usize::from(*format) % names().len()], bytes, piece);
    }
});
