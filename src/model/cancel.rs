//! Interruption of a wait.

use tokio_util::sync::CancellationToken;

use super::{Error, Result};

/// Runs `work` to its end; fails with [`Error::Cancelled`] as soon as `cancel`
/// is triggered, and drops `work` at that point.
///
/// A request that the dropped work has sent may still succeed on the server.
pub async fn unless_cancelled<T>(
    cancel: &CancellationToken,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Error::Cancelled),
        outcome = work => outcome,
    }
}
