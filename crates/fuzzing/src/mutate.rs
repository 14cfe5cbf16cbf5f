//! Seeded mutations of valid inputs: what a fuzzer does first, so that a test run does it too.

use rand::Rng;
use rand::rngs::StdRng;

/// Pieces that make trouble where they are put.
const PIECES: [&[u8]; 24] = [
    b"\"",
    b"\\",
    b"\\u",
    b"\\ud800",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"\n",
    b"\r\n",
    b"\0",
    b"\xff",
    b"\xc3",
    b"\xed\xa0\x80",
    b"-",
    b"1e999",
    b"-9223372036854775809",
    b"99999999999999999999999",
    b"null",
    b"''",
    b"${env:",
    b"%",
];
/// How often a piece is repeated at most, to look for depth and for growth that is more than linear.
const REPEATS_MAX: usize = 20_000;

/// Changes some bytes, moves, doubles or cuts some, or puts pieces in.
pub fn mutate(bytes: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..5) {
        let at = random.random_range(0..=bytes.len());
        let until = (at + random.random_range(0..64)).min(bytes.len());
        match random.random_range(0..9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << random.random_range(0..8),
            1 => bytes[at..until].iter_mut().for_each(|byte| *byte = random.random()),
            2 => bytes[at..until].fill(0),
            3 => bytes.truncate(at),
            4 => drop(bytes.drain(at..until)),
            5 => {
                let copy = bytes[at..until].to_vec();
                let target = random.random_range(0..=bytes.len());
                bytes.splice(target..target, copy);
            }
            6 => {
                let piece = PIECES[random.random_range(0..PIECES.len())];
                let times = if random.random_range(0..20) == 0 { random.random_range(1..REPEATS_MAX) } else { 1 };
                bytes.splice(at..at, piece.repeat(times));
            }
            7 => bytes.splice(at..until, PIECES[random.random_range(0..PIECES.len())].iter().copied()).for_each(drop),
            _ => {
                let other = random.random_range(0..=bytes.len());
                let tail = bytes.split_off(at.max(other));
                bytes.splice(at.min(other)..at.min(other), tail);
            }
        }
    }
}
