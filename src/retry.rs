//! Short polls with a deadline, for what announces itself by no event.

use std::time::Duration;

use tokio::time::Instant;

/// The first pause; it doubles up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(20);
const LONGEST: Duration = Duration::from_millis(500);

pub enum Next<T, E> {
    Done(T),
    /// Not yet, and why.
    Again(E),
}

/// Calls `attempt` at once and then with growing pauses until it is done or
/// `limit` has passed; then the last reason is returned.
pub async fn until<T, E, F>(limit: Duration, attempt: impl Fn() -> F) -> Result<T, E>
where
    F: Future<Output = Next<T, E>>,
{
    let deadline = Instant::now() + limit;
    let mut pause = FIRST;
    loop {
        match attempt().await {
            Next::Done(value) => return Ok(value),
            Next::Again(reason) if Instant::now() + pause > deadline => return Err(reason),
            Next::Again(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn ends_with_the_value_or_the_last_reason() {
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
