//! Polls with a deadline where the server sends no event for a change.

use std::time::Duration;

use tokio::time::Instant;

/// The pause after the first attempt. Each pause is twice the previous pause,
/// up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_millis(500);

/// The outcome of an attempt.
pub enum Next<T, E> {
    Done(T),
    /// Retry. The value becomes the error if the timeout expires.
    Again(E),
}

/// Calls `attempt` until it returns `Done`, with pauses in between. If `timeout`
/// expires before the next attempt, fails with the last attempt's value.
pub async fn until<T, E, F>(timeout: Duration, attempt: impl Fn() -> F) -> Result<T, E>
where
    F: Future<Output = Next<T, E>>,
{
    let deadline = Instant::now() + timeout;
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt().await {
            Next::Done(value) => return Ok(value),
            Next::Again(reason) if Instant::now() + pause > deadline => return Err(reason),
            Next::Again(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(MAX_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn until_returns_the_value_or_the_last_reason() {
        let calls = Cell::new(0);
        let outcome: Result<u8, u8> = until(Duration::from_secs(1), || async {
            calls.set(calls.get() + 1);
            if calls.get() == 3 {
                Next::Done(7)
            } else {
                Next::Again(0)
            }
        })
        .await;
        assert_eq!(outcome, Ok(7));

        let outcome: Result<u8, &str> =
            until(Duration::from_secs(1), || async { Next::Again("busy") }).await;
        assert_eq!(outcome, Err("busy"));
    }
}
