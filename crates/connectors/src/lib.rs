//! Everything outside that Weir speaks to: sources, sinks, the lake, messengers. No connector knows another one.

pub mod lake;
pub mod messengers;
pub mod sinks;
pub mod sources;
mod tls;
