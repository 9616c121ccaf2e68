//! Failures of calls, and their mapping to the errors of the backend boundary.

use std::time::Duration;

use super::fault::RpcFault;
use super::messages::Meaning;
use crate::model::{Error, Reason, Size, Subject};

/// A failed exchange with the server.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The server reported an error of a call or of a job.
    #[error("{0}")]
    Refused(RpcFault),
    /// No connection. No part of the call was sent.
    #[error("cannot reach {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: Reason },
    /// The connection was lost during the call, which may have been carried
    /// out.
    #[error("lost the connection to {endpoint} during {method}: {reason}")]
    Lost {
        endpoint: String,
        method: &'static str,
        reason: String,
    },
    #[error("not authorized by {endpoint}: {reason}")]
    Denied { endpoint: String, reason: Reason },
    /// Too many logins from this address. The server did not check this one.
    #[error("{endpoint}: login rate limit reached")]
    RateLimited { endpoint: String },
    #[error("{doing} took longer than {} s", .after.as_secs())]
    TimedOut { doing: String, after: Duration },
    #[error("unexpected response: {0}")]
    Protocol(String),
    /// The response was too large, which ended the connection. The call may
    /// have been carried out.
    #[error("the response of {endpoint} to {method} is larger than {}", Size(*.limit))]
    TooLarge {
        endpoint: String,
        method: &'static str,
        limit: u64,
    },
    /// The connection's settings are invalid.
    #[error("{0}")]
    Setup(Reason),
    #[error("{operation} is not supported: {reason}")]
    Unsupported { operation: String, reason: Reason },
}

impl Failure {
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused(fault) if fault.means(Meaning::NotFound))
    }

    /// Whether the call may have been carried out.
    pub fn is_uncertain(&self) -> bool {
        matches!(
            self,
            Self::Lost { .. } | Self::TimedOut { .. } | Self::TooLarge { .. }
        )
    }

    /// Converts the failure of a call about `subject`.
    pub fn into_error_for(self, subject: Subject) -> Error {
        match self {
            Self::Refused(fault) if fault.means(Meaning::NotFound) => Error::NotFound(subject),
            Self::Refused(fault) if fault.means(Meaning::Exists) => Error::AlreadyExists(subject),
            other => other.into_error(),
        }
    }

    /// Converts the failure of a call without a subject.
    pub fn into_error(self) -> Error {
        let server = |endpoint: String| format!("TrueNAS at {endpoint}");
        match self {
            Self::Refused(fault) if fault.means(Meaning::Denied) => Error::Denied {
                endpoint: "TrueNAS".into(),
                reason: fault.reason.into(),
            },
            Self::Refused(fault) => Error::Server {
                code: u16::try_from(fault.errno).unwrap_or(0),
                message: fault.reason,
            },
            Self::Unreachable { endpoint, reason } => Error::Unreachable {
                endpoint: server(endpoint),
                reason,
            },
            Self::Lost {
                endpoint,
                method,
                reason,
            } => Error::Unreachable {
                endpoint: server(endpoint),
                reason: format!("{reason} during {method}, which may have been carried out").into(),
            },
            Self::Denied { endpoint, reason } => Error::Denied {
                endpoint: server(endpoint),
                reason,
            },
            Self::RateLimited { endpoint } => Error::Unreachable {
                endpoint: server(endpoint),
                reason: Reason::from(
                    "login rate limit reached: TrueNAS allows about 20 logins a minute from one \
                     address, and every pixels command is one",
                )
                .with_hint("run fewer commands in parallel, and retry in a few minutes"),
            },
            Self::TimedOut { doing, after } => Error::TimedOut { doing, after },
            Self::Protocol(text) => Error::Protocol(text),
            Self::TooLarge {
                endpoint,
                method,
                limit,
            } => Error::TooLarge {
                what: format!("the response of {} to {method}", server(endpoint)),
                limit,
            },
            Self::Setup(reason) => Error::Invalid(reason),
            Self::Unsupported { operation, reason } => Error::Unsupported { operation, reason },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_call_may_have_been_carried_out() {
        let lost = Failure::Lost {
            endpoint: "nas".into(),
            method: "virt.instance.create",
            reason: "the connection closed".into(),
        };
        assert!(lost.is_uncertain());
        assert!(
            lost.into_error()
                .to_string()
                .contains("may have been carried out")
        );
    }
}
