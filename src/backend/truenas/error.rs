//! Failures of API calls, and the conversion to [`Error`].

use std::time::Duration;

use super::fault::RpcFault;
use super::messages::Meaning;
use crate::model::{Error, Reason, Result, Subject};

/// A failed exchange with the server.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) enum Failure {
    /// The server reported an error for a call or a job.
    Refused(RpcFault),
    /// The connection failed. The client sent no part of the call.
    Unreachable(Error),
    /// The server did not check the login: too many logins from this address.
    RateLimited(Error),
    /// The connection was lost during the call. The server may have executed the
    /// call.
    Lost(Error),
    /// The response was late, or too large and so closed the connection. The server
    /// may have executed the call.
    Unknown(Error),
    Other(Error),
}

fn server(endpoint: &str) -> String {
    format!("TrueNAS at {endpoint}")
}

impl Failure {
    pub fn unreachable(endpoint: &str, reason: impl Into<Reason>) -> Self {
        Self::Unreachable(Error::Unreachable {
            endpoint: server(endpoint),
            reason: reason.into(),
        })
    }

    pub fn rate_limited(endpoint: &str) -> Self {
        Self::RateLimited(Error::Unreachable {
            endpoint: server(endpoint),
            reason: Reason::from(
                "login rate limit reached: TrueNAS allows about 20 logins a minute from one \
                 address, and every pixels command is one",
            )
            .with_hint("run fewer commands in parallel, and retry in a few minutes"),
        })
    }

    pub fn lost(endpoint: &str, method: &str, reason: &str) -> Self {
        Self::Lost(Error::Unreachable {
            endpoint: server(endpoint),
            reason: format!("{reason} during {method}, which may have been carried out").into(),
        })
    }

    pub fn timed_out(doing: impl Into<String>, after: Duration) -> Self {
        Self::Unknown(Error::TimedOut {
            doing: doing.into(),
            after,
        })
    }

    pub fn too_large(endpoint: &str, method: &str, limit: usize) -> Self {
        Self::Unknown(Error::TooLarge {
            what: format!("the response of {} to {method}", server(endpoint)),
            limit: limit as u64,
        })
    }

    pub fn denied(endpoint: &str, reason: impl Into<Reason>) -> Self {
        Self::Other(Error::Denied {
            endpoint: server(endpoint),
            reason: reason.into(),
        })
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(fault) if fault.means(Meaning::NotFound))
    }

    /// Whether the server may have executed the call.
    pub fn is_uncertain(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Unknown(_))
    }

    /// Converts the failure of a call about `subject`. For a call without a
    /// subject, use `into`.
    pub fn into_error_for(self, subject: Subject) -> Error {
        match self {
            Self::Refused(fault) if fault.means(Meaning::NotFound) => Error::NotFound(subject),
            Self::Refused(fault) if fault.means(Meaning::Exists) => Error::AlreadyExists(subject),
            other => other.into(),
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Refused(fault) if fault.means(Meaning::Denied) => Error::Denied {
                endpoint: "TrueNAS".into(),
                reason: fault.reason.into(),
            },
            Failure::Refused(fault) => Error::Server {
                code: u16::try_from(fault.errno).unwrap_or(0),
                message: fault.reason,
            },
            Failure::Unreachable(error)
            | Failure::RateLimited(error)
            | Failure::Lost(error)
            | Failure::Unknown(error)
            | Failure::Other(error) => error,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

/// Returns the outcome of a change of `subject`. A change with an unknown
/// outcome succeeds if `is_done` returns true.
pub(super) async fn settle<T>(
    outcome: Result<T, Failure>,
    subject: Subject,
    is_done: impl Future<Output = Result<bool>>,
) -> Result<()> {
    let Err(failure) = outcome else {
        return Ok(());
    };
    match failure.is_uncertain() && is_done.await? {
        true => Ok(()),
        false => Err(failure.into_error_for(subject)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_call_may_have_been_carried_out() {
        let lost = Failure::lost("nas", "virt.instance.create", "the connection closed");
        assert!(lost.is_uncertain());
        let text = Error::from(lost).to_string();
        assert!(text.contains("may have been carried out"));
    }
}
