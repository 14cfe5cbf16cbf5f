//! Everything outside that Weir speaks to: sources, sinks, the lake, messengers, mirrors. No connector knows another one.

pub mod lake;
pub mod messengers;
pub mod mirror;
pub mod sinks;
pub mod sources;
mod tls;
