//! Inputs: every kind of source that the pipeline can read, behind `weir_pipeline::input::Input`.

pub mod beacon;
pub mod files;
