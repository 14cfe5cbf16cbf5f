//! The manifest of a folder of checkpoints: JSON that begins with its format and a checksum of all that follows.
//!
//! `{"version":3,"sum":"<xxh3 of the rest, 16 hexadecimal digits>",` and then the rest of the object. Format 2 had no
//! checksum and is still read.

use std::path::Path;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::run::RunInfo;
use crate::operators::EngineError;

const VERSION: u32 = 3;
/// The last format without a checksum.
const VERSION_WITHOUT_SUM: u32 = 2;

/// What a checkpoint consists of.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Manifest {
    pub epoch: u64,
    /// Hexadecimal: opaque to this crate.
    pub payload: String,
    /// Number of the next run.
    pub next_run: u64,
    /// Oldest first.
    pub runs: Vec<RunInfo>,
}

/// As a file.
pub(super) fn encode(manifest: &Manifest) -> Result<Vec<u8>, EngineError> {
    let body = serde_json::to_vec(manifest).map_err(|e| EngineError::Checkpoint(e.to_string()))?;
    let rest = &body[1..];
    let mut bytes = head(rest).into_bytes();
    bytes.extend_from_slice(rest);
    Ok(bytes)
}

fn head(rest: &[u8]) -> String {
    format!("{{\"version\":{VERSION},\"sum\":\"{:016x}\",", xxh3_64(rest))
}

/// From a file.
pub(super) fn decode(path: &Path, bytes: &[u8]) -> Result<Manifest, EngineError> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
        sum: Option<String>,
    }
    let damaged =
        |position: u64, what: String| EngineError::CheckpointDamaged { path: path.to_path_buf(), position, what };
    let unreadable =
        |e: serde_json::Error| damaged(e.column().saturating_sub(1) as u64, format!("it cannot be read: {e}"));
    let Head { version, sum } = serde_json::from_slice(bytes).map_err(unreadable)?;
    if !(VERSION_WITHOUT_SUM..=VERSION).contains(&version) {
        let advice = if version > VERSION { "use the newer program" } else { "use the program that wrote it" };
        return Err(EngineError::Checkpoint(format!(
            "{} has format {version}, this program reads {VERSION}: {advice}",
            path.display()
        )));
    }
    // A manifest with a checksum does not pass for one of the time before there were any.
    if version == VERSION || sum.is_some() {
        let head_bytes = head(&[]).len();
        let rest = bytes.get(head_bytes..).unwrap_or_default();
        if !bytes.starts_with(head(rest).as_bytes()) {
            return Err(damaged(0, "its checksum is not that of its contents".into()));
        }
    }
    serde_json::from_slice(bytes).map_err(unreadable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_of_a_manifest_is_found() {
        let run = RunInfo { file: "run-1".into(), bytes: 1234, identity: 77, states: Vec::new() };
        let manifest = Manifest { epoch: 12, payload: "00ff".into(), next_run: 2, runs: vec![run] };
        let bytes = encode(&manifest).unwrap();
        assert_eq!(decode(Path::new("m"), &bytes).unwrap().epoch, 12);
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(Path::new("m"), &damaged).is_err(), "bit {bit}");
        }
    }
}
