//! The user's folder with one file replaced; the first byte says which.
#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tempfile::TempDir;
use weir_fuzzing::folder::{read, write};

static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path()).expect("written");
    folder
});

fuzz_target!(|bytes: &[u8]| {
    if let Some((file, bytes)) = bytes.split_first() {
        read(FOLDER.path(), usize::from(*file), bytes).expect("the disk works");
    }
});
