//! Everything outside that Weir speaks to: sources, sinks and the lake. No connector knows another one.

pub mod lake;
pub mod sinks;
pub mod sources;
