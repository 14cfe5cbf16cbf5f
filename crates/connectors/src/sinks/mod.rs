//! Destinations: each implements [`weir_pipeline::sink::Sink`].

pub mod lake;
pub mod postgres;
