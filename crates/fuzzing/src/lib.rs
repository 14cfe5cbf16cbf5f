//! For tests: everything that reads bytes from outside, as functions of any bytes that panic when a promise is broken.
//!
//! The same functions run under `cargo fuzz` (`fuzz/` beside the workspace has a thin target for each) and, with seeded
//! mutations of valid inputs, in every test run (`tests/mutations.rs`). Each states its laws.

#[cfg(feature = "front")]
pub mod beacon;
#[cfg(feature = "front")]
pub mod folder;
pub mod formats;
pub mod mutate;
pub mod segments;
