//! Segment files of topics, the epoch journal and the ledger; the first byte says which.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weir_fuzzing::segments::{KINDS, read};

fuzz_target!(|bytes: &[u8]| {
    if let Some((kind, bytes)) = bytes.split_first() {
        read(KINDS[usize::from(*kind) % KINDS.len()], bytes);
    }
});
