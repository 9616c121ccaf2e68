//! Waiting for something that is bound to happen. The limit is only there so
//! that a defect ends the test: nothing is measured.

use std::process::{Child, ExitStatus};
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(20);

/// Asks until there is an answer.
#[track_caller]
pub fn until<T>(what: &str, ask: impl FnMut() -> Option<T>) -> T {
    until_or(ask, || format!("never happened: {what}"))
}

/// Asks until it is so.
#[track_caller]
pub fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    until(what, || is_so().then_some(()));
}

/// Whether it comes to be so before `limit` has passed.
#[must_use]
pub fn within(limit: Duration, mut is_so: impl FnMut() -> bool) -> bool {
    poll(limit, || is_so().then_some(())).is_some()
}

/// The same with a message that is made when there was none.
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
        let answer = ask();
        if answer.is_some() || Instant::now() > deadline {
            return answer;
        }
        std::thread::sleep(PAUSE);
    }
}

/// The exit code, or 1000 + N when signal N killed it. A process that hangs
/// is killed and fails the test.
#[track_caller]
pub fn exit_code(child: &mut Child) -> i32 {
    let Some(status) = poll(LIMIT, || child.try_wait().unwrap()) else {
        let _ = child.kill();
        let _ = child.wait();
        panic!("it hangs");
    };
    code(status)
}

pub fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 1000 + status.signal().unwrap_or(0))
}
