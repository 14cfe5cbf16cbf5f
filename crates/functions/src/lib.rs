//! SQL functions that people who work with streams expect and DataFusion lacks.
//!
//! Functions here are deterministic: equal arguments give equal results, for ever. This crate does not know where they
//! are called from.

mod hop;
mod match_rows;
mod tumble;

use datafusion::error::Result;
use datafusion::execution::FunctionRegistry;
use std::sync::Arc;

/// Makes every function of this crate known to `registry`.
pub fn register(registry: &mut dyn FunctionRegistry) -> Result<()> {
    registry.register_udf(Arc::new(hop::function()))?;
    registry.register_udf(Arc::new(match_rows::function()))?;
    registry.register_udf(Arc::new(tumble::function()))?;
    Ok(())
}
