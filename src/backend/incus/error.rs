//! What the Incus client reports, and its one mapping to the boundary's errors.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use super::messages::{self, Meaning, meaning};
use crate::backend::tls;
use crate::model::{Error, Reason, STOPPED, Size, Subject};

/// A failed exchange with the daemon.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The daemon's own error: an HTTP status or the code of an operation.
    #[error("{message}")]
    Api { code: u16, message: String },
    #[error("cannot reach {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: Reason },
    #[error("not authorized by {endpoint}: {reason}")]
    Denied { endpoint: String, reason: Reason },
    #[error("{doing} took longer than {} s", .after.as_secs())]
    TimedOut { doing: String, after: Duration },
    #[error("unexpected response: {0}")]
    Protocol(String),
    /// The daemon sends more than is taken into memory.
    #[error("{what} is larger than {}", Size(*.limit))]
    TooLarge { what: String, limit: u64 },
    /// The server has no such project.
    #[error("project {0:?} not found")]
    Project(String),
    /// The connection's settings are unusable.
    #[error("{0}")]
    Setup(String),
    /// The daemon lacks an API extension.
    #[error("this Incus server has no {0:?}")]
    Extension(&'static str),
}

impl Failure {
    /// A connection to `endpoint` (the path of a socket, or a URL) that could not
    /// be opened or that broke.
    pub fn connection(endpoint: &str, error: &io::Error) -> Self {
        if let Some(reason) = tls::untrusted_certificate(error) {
            let hint = "compare the fingerprint on the server, then set incus.server_cert to the \
                        server's certificate";
            return Self::Unreachable {
                endpoint: endpoint.to_owned(),
                reason: Reason::from(reason).with_hint(hint),
            };
        }
        match error.kind() {
            io::ErrorKind::PermissionDenied => {
                Self::denied(endpoint, "permission denied on the socket".into())
            }
            io::ErrorKind::NotFound => {
                Self::unreachable(endpoint, "the socket does not exist".into())
            }
            _ => Self::unreachable(endpoint, deepest(error)),
        }
    }

    fn unreachable(endpoint: &str, reason: String) -> Self {
        let reason = Reason::from(reason);
        Self::Unreachable {
            endpoint: endpoint.to_owned(),
            reason: match is_socket(endpoint) {
                true => reason.with_hint("run: pixels doctor, or to install Incus: pixels setup"),
                false => reason,
            },
        }
    }

    fn denied(endpoint: &str, reason: String) -> Self {
        Self::Denied {
            endpoint: endpoint.to_owned(),
            reason: Reason::from(reason).with_hint(match is_socket(endpoint) {
                true => "join the group incus-admin and log in again, or run as root",
                false => {
                    "run on the server: incus config trust add-certificate FILE, with your \
                     client certificate"
                }
            }),
        }
    }

    /// A request that got no whole answer.
    pub fn http(endpoint: &str, error: &reqwest::Error) -> Self {
        match find_io(error) {
            Some(io) if error.is_connect() => Self::connection(endpoint, io),
            None if invalid_response(error) => Self::Protocol(deepest(error)),
            _ => Self::unreachable(endpoint, deepest(error)),
        }
    }

    /// The daemon's refusal of a request made in `project`. Incus answers a
    /// missing project like a missing instance: only the message differs.
    pub fn refusal(endpoint: &str, code: u16, message: String, project: Option<&str>) -> Self {
        match project {
            _ if matches!(code, 401 | 403) => Self::denied(endpoint, message),
            Some(project) if meaning(&message) == Some(Meaning::ProjectMissing) => {
                Self::Project(project.to_owned())
            }
            _ => Self::Api { code, message },
        }
    }

    /// What the daemon's message means; `None` for any other failure.
    pub(super) fn meaning(&self) -> Option<Meaning> {
        match self {
            Self::Api { message, .. } => meaning(message),
            _ => None,
        }
    }

    /// The thing that the daemon's message names; see [`messages::detail`].
    pub(super) fn detail(&self) -> Option<String> {
        match self {
            Self::Api { message, .. } => messages::detail(message),
            _ => None,
        }
    }

    /// Whether another operation on the instance is the reason; see
    /// [`Meaning::InstanceBusy`].
    pub(super) fn is_busy(&self) -> bool {
        self.meaning() == Some(Meaning::InstanceBusy)
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { code: 404, .. })
    }

    /// The same failure in the boundary's terms, when `subject` was asked for.
    pub fn into_error_for(self, subject: Subject) -> Error {
        let meaning = self.meaning();
        let Self::Api { code, .. } = self else {
            return self.into_error();
        };
        match (code, meaning) {
            (404, _) => Error::NotFound(subject),
            // An instance's name is its name on the network, in every project.
            (_, Some(Meaning::NameOnNetwork)) => Error::AlreadyExists(Subject::Other(format!(
                "{subject} in another project on this network"
            ))),
            (401 | 403, _) => self.into_error(),
            (409, _) | (_, Some(Meaning::AlreadyExists | Meaning::NameBeingCreated)) => {
                Error::AlreadyExists(subject)
            }
            (400, Some(Meaning::NotRunning)) => Error::WrongState {
                subject,
                state: STOPPED.into(),
            },
            _ => self.into_error(),
        }
    }

    /// The same failure when it is about no particular thing.
    pub fn into_error(self) -> Error {
        match self {
            Self::Api { code, message } => match code {
                401 | 403 => Error::Denied {
                    endpoint: "the Incus server".into(),
                    reason: message.into(),
                },
                _ => Error::Server { code, message },
            },
            Self::Unreachable { endpoint, reason } => Error::Unreachable {
                endpoint: format!("Incus at {endpoint}"),
                reason,
            },
            Self::Denied { endpoint, reason } => Error::Denied {
                endpoint: format!("Incus at {endpoint}"),
                reason,
            },
            Self::TimedOut { doing, after } => Error::TimedOut { doing, after },
            Self::Protocol(text) => Error::Protocol(text),
            Self::TooLarge { what, limit } => Error::TooLarge { what, limit },
            Self::Project(name) => Error::NotFound(Subject::Project(name)),
            Self::Setup(text) => Error::Invalid(text.into()),
            Self::Extension(name) => Error::Unsupported {
                operation: "this".into(),
                reason: format!("the Incus server lacks the API extension {name:?}").into(),
            },
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.into_error()
    }
}

/// Endpoints are paths of sockets or URLs, and only a path begins with a slash.
fn is_socket(endpoint: &str) -> bool {
    endpoint.starts_with('/')
}

fn find_io<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .last()
}

/// The answer was there, and no HTTP.
fn invalid_response(error: &reqwest::Error) -> bool {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<hyper::Error>())
        .any(hyper::Error::is_parse)
}

fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |&cause| cause.source())
}

/// The innermost cause, the most specific one.
fn deepest(error: &(dyn StdError + 'static)) -> String {
    let mut current = error;
    while let Some(inner) = current.source().or_else(|| {
        current
            .downcast_ref::<io::Error>()
            .and_then(|io| io.get_ref())
            .map(|inner| inner as &(dyn StdError + 'static))
    }) {
        current = inner;
    }
    let text = current.to_string();
    text.strip_prefix("unexpected error: ")
        .unwrap_or(&text)
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn api(code: u16, message: &str) -> Error {
        Failure::Api {
            code,
            message: message.into(),
        }
        .into_error_for(Subject::pixel("box"))
    }

    #[test]
    fn codes_decide_and_texts_are_a_fallback() {
        assert!(api(404, "Instance not found").is_not_found());
        assert!(matches!(
            api(500, "UNIQUE constraint failed: instances.name"),
            Error::AlreadyExists(_)
        ));
        assert!(matches!(
            api(400, "Instance is not running"),
            Error::WrongState { .. }
        ));
        assert!(matches!(api(403, "no"), Error::Denied { .. }));
        assert!(matches!(api(500, "boom"), Error::Server { .. }));
    }

    #[test]
    fn a_missing_project_is_not_a_missing_pixel() {
        let failure = Failure::refusal("/s", 404, "Project not found".into(), Some("x"));
        assert!(!failure.is_not_found());
        assert_eq!(failure.into_error().to_string(), "project \"x\" not found");
        assert!(Failure::refusal("/s", 404, "Instance not found".into(), Some("x")).is_not_found());
    }

    #[test]
    fn a_socket_without_permission_is_denied() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(matches!(
            Failure::connection("/s", &error).into_error(),
            Error::Denied { .. }
        ));
    }
}
