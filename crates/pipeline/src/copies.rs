//! The contract of copies: what a second copy of the data folder asks of the pipeline.

use async_trait::async_trait;

/// A copy elsewhere that is kept in step with what the pipeline writes.
#[async_trait]
pub trait Copies: Send + Sync {
    /// Returns when the copy has everything that was written before: what that makes dispensable may go then. False when
    /// it does not take it and nobody can wait: nothing goes.
    async fn settled(&self) -> bool;
}
