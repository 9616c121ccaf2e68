//! Cancellation of asynchronous work.

use tokio_util::sync::CancellationToken;

use super::{Error, Result};

/// Runs `work` until completion. Drops `work` and fails with
/// [`Error::Cancelled`] when `cancel` is triggered.
///
/// A request that was sent before the cancellation may still succeed on the server.
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
