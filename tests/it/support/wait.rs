//! Polls for a condition. The time limit only ends hanging tests and is not a
//! performance requirement.

use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);
const MAX_PAUSE: Duration = Duration::from_millis(400);

/// Polls until `ask` returns a value. Panics after 60 seconds.
#[track_caller]
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    until_or(ask, || format!("timed out waiting for: {what}"))
}

/// Polls until `is_so` returns true. Panics after 60 seconds.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    until(what, || is_so().then_some(()));
}

/// Polls until `is_so` returns true. Returns false after `limit`.
#[must_use]
pub fn within(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    poll(limit, || is_so().then_some(())).is_some()
}

/// Like [`until`], with a message that is built only on timeout.
#[track_caller]
pub fn until_or<T>(ask: impl FnMut() -> Option<T>, message: impl FnOnce() -> String) -> T {
    let Some(answer) = poll(LIMIT, ask) else {
        panic!("{}", message());
    };
    answer
}

fn poll<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let begin = Instant::now();
        let answer = ask();
        if answer.is_some() || Instant::now() > deadline {
            return answer;
        }
        // Most questions start a process, which delays the other tests.
        std::thread::sleep((begin.elapsed() * 3).clamp(PAUSE, MAX_PAUSE));
    }
}

/// Returns the exit code, or 1000 + N after signal N. Kills a process that runs
/// for more than 60 seconds, and panics.
#[track_caller]
pub fn exit_code(child: &mut Child) -> i32 {
    let Some(status) = poll(LIMIT, || child.try_wait().unwrap()) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("the process did not exit");
    };
    code(status)
}

pub fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 1000 + status.signal().unwrap_or(0))
}
