//! Exit codes: maps every failure to a number.

use crate::base;
use crate::lifecycle;
use crate::model::{Error, InvalidName};

/// The command failed for a reason without a more specific exit code.
pub const FAILURE: u8 = 1;
/// The command line or the configuration is invalid. No request was sent.
pub const USAGE: u8 = 2;
pub const NOT_FOUND: u8 = 3;
pub const ALREADY_EXISTS: u8 = 4;
/// The server cannot be reached or denies access.
pub const UNREACHABLE: u8 = 5;
/// `exec`: the command exceeded its time limit.
pub const OVER_TIME: u8 = 124;
/// `exec` and `console`: pixels failed, not the command in the pixel.
pub const EXEC: u8 = 125;
/// The exit code after SIGINT. Signal N exits with 128 + N.
pub const INTERRUPTED: u8 = 130;

/// An invalid command line or configuration, found before any request.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Usage(pub String);

/// An exit status without an error message.
#[derive(Debug, thiserror::Error)]
#[error("exit status {0}")]
pub struct ExitWith(pub u8);

/// A command exceeded its time limit, given in seconds.
#[derive(Debug, thiserror::Error)]
#[error("the command did not end within {0} s and was killed")]
pub struct ExecTimedOut(pub f64);

/// Returns the exit code of a failure, and its name in JSON errors.
pub fn classify(error: &anyhow::Error) -> (u8, &'static str) {
    for cause in error.chain() {
        if let Some(ExitWith(code)) = cause.downcast_ref() {
            return (*code, "status");
        }
        if cause.is::<ExecTimedOut>() {
            return (OVER_TIME, "timed_out");
        }
        if cause.is::<Usage>()
            || cause.is::<InvalidName>()
            || cause.is::<crate::config::ConfigError>()
            || cause.is::<crate::user_dirs::NoHome>()
        {
            return (USAGE, "usage");
        }
        if let Some(base::Error::Unknown { .. }) = cause.downcast_ref() {
            return (NOT_FOUND, "not_found");
        }
        if let Some(error) = cause.downcast_ref::<lifecycle::Error>() {
            return code_of(&error.source);
        }
        if let Some(error) = cause.downcast_ref::<Error>() {
            return code_of(error);
        }
    }
    (FAILURE, "failure")
}

fn code_of(error: &Error) -> (u8, &'static str) {
    match error {
        Error::NotFound(_) => (NOT_FOUND, "not_found"),
        Error::AlreadyExists(_) => (ALREADY_EXISTS, "already_exists"),
        Error::Unreachable { .. } => (UNREACHABLE, "unreachable"),
        Error::Denied { .. } => (UNREACHABLE, "denied"),
        Error::Invalid(_) => (USAGE, "usage"),
        Error::Cancelled => (INTERRUPTED, "interrupted"),
        Error::WrongState { .. } => (FAILURE, "wrong_state"),
        Error::Unsupported { .. } => (FAILURE, "unsupported"),
        Error::TimedOut { .. } => (FAILURE, "timed_out"),
        Error::Guest { .. } => (FAILURE, "guest"),
        Error::Server { .. } => (FAILURE, "server"),
        Error::Protocol(_) => (FAILURE, "protocol"),
        Error::TooLarge { .. } => (FAILURE, "too_large"),
        Error::Io { .. } => (FAILURE, "io"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Subject;

    #[test]
    fn the_kind_is_found_under_any_context() {
        let error = anyhow::Error::new(Error::NotFound(Subject::pixel("a"))).context("reading");
        assert_eq!(classify(&error).0, NOT_FOUND);
        let error = anyhow::Error::new(lifecycle::Error::from(Error::AlreadyExists(
            Subject::pixel("a"),
        )));
        assert_eq!(classify(&error).0, ALREADY_EXISTS);
        let error = anyhow::Error::new("A".parse::<crate::model::Name>().unwrap_err());
        assert_eq!(classify(&error).0, USAGE);
        assert_eq!(classify(&anyhow::anyhow!("x")).0, FAILURE);
    }
}
