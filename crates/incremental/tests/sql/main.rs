//! SQL through the crate's front door: what the planner says of it, and that both tempos agree on it.

mod differential;
mod fuzz;
mod growth;
mod harness;
mod history;
mod lineage;
mod planner;
mod traps;
mod whole;
