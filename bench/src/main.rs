//! What `cargo xtask bench` measures: each figure a ratio of two things done in the same run on the same machine.

fn main() {}
