//! Errors of the Incus client, and the conversion to [`Error`].

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use super::messages::{self, Meaning, meaning};
use crate::backend::tls;
use crate::model::{Error, Reason, STOPPED, Subject};

/// A failed exchange with the daemon.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The daemon reported an error: an HTTP status or the code of an operation.
    #[error("{message}")]
    Api { code: u16, message: String },
    #[error(transparent)]
    Other(#[from] Error),
}

impl Failure {
    /// Converts the error of a connection that failed to open or broke. `endpoint`
    /// is the path of a socket or a URL.
    pub fn connection(endpoint: &str, error: &io::Error) -> Self {
        if let Some(reason) = tls::untrusted_certificate(error) {
            let hint = "compare the fingerprint on the server, then set incus.server_cert to the \
                        server's certificate";
            return Self::unreachable(endpoint, Reason::from(reason).with_hint(hint));
        }
        let reason = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                return Self::denied(endpoint, "permission denied on the socket".into());
            }
            io::ErrorKind::NotFound => "the socket does not exist".into(),
            _ => deepest(error),
        };
        Self::no_connection(endpoint, reason)
    }

    fn no_connection(endpoint: &str, reason: String) -> Self {
        let reason = Reason::from(reason);
        Self::unreachable(
            endpoint,
            match is_socket(endpoint) {
                true => reason.with_hint("run: pixels doctor, or to install Incus: pixels setup"),
                false => reason,
            },
        )
    }

    pub fn unreachable(endpoint: &str, reason: impl Into<Reason>) -> Self {
        Self::Other(Error::Unreachable {
            endpoint: format!("Incus at {endpoint}"),
            reason: reason.into(),
        })
    }

    fn denied(endpoint: &str, reason: String) -> Self {
        Self::Other(Error::Denied {
            endpoint: format!("Incus at {endpoint}"),
            reason: Reason::from(reason).with_hint(match is_socket(endpoint) {
                true => "join the group incus-admin and log in again, or run as root",
                false => {
                    "run on the server: incus config trust add-certificate FILE, with your \
                     client certificate"
                }
            }),
        })
    }

    pub fn protocol(text: impl Into<String>) -> Self {
        Self::Other(Error::Protocol(text.into()))
    }

    pub fn timed_out(doing: &str, after: Duration) -> Self {
        Self::Other(Error::TimedOut {
            doing: doing.to_owned(),
            after,
        })
    }

    /// Converts the error of a request without a complete answer.
    pub fn http(endpoint: &str, error: &reqwest::Error) -> Self {
        match find_io(error) {
            Some(io) if error.is_connect() => Self::connection(endpoint, io),
            None if invalid_response(error) => Self::protocol(deepest(error)),
            _ => Self::no_connection(endpoint, deepest(error)),
        }
    }

    /// Converts the daemon's error for a request in `project`. Incus reports a
    /// missing project like a missing instance, with a different message.
    pub fn refusal(endpoint: &str, code: u16, message: String, project: Option<&str>) -> Self {
        match project {
            _ if matches!(code, 401 | 403) => Self::denied(endpoint, message),
            Some(project) if meaning(&message) == Some(Meaning::ProjectMissing) => {
                Self::Other(Error::NotFound(Subject::Project(project.to_owned())))
            }
            _ => Self::Api { code, message },
        }
    }

    /// The meaning of the daemon's message, or `None` for an unknown message.
    pub(super) fn meaning(&self) -> Option<Meaning> {
        match self {
            Self::Api { message, .. } => meaning(message),
            _ => None,
        }
    }

    /// The path or network in the daemon's message. See [`messages::detail`].
    pub(super) fn detail(&self) -> Option<String> {
        match self {
            Self::Api { message, .. } => messages::detail(message),
            _ => None,
        }
    }

    /// Whether another operation on the instance caused the failure. See
    /// [`Meaning::InstanceBusy`].
    pub(super) fn is_busy(&self) -> bool {
        self.meaning() == Some(Meaning::InstanceBusy)
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { code: 404, .. })
    }

    /// Converts the failure of a request about `subject` to [`Error`].
    pub fn into_error_for(self, subject: Subject) -> Error {
        let meaning = self.meaning();
        let Self::Api { code, .. } = self else {
            return self.into();
        };
        match (code, meaning) {
            (404, _) => Error::NotFound(subject),
            // An instance's name is unique on a network, even across projects.
            (_, Some(Meaning::NameOnNetwork)) => Error::AlreadyExists(Subject::Other(format!(
                "{subject} in another project on this network"
            ))),
            (401 | 403, _) => self.into(),
            (409, _) | (_, Some(Meaning::AlreadyExists | Meaning::NameBeingCreated)) => {
                Error::AlreadyExists(subject)
            }
            (400, Some(Meaning::NotRunning)) => Error::WrongState {
                subject,
                state: STOPPED.into(),
            },
            _ => self.into(),
        }
    }
}

/// Converts the failure of a request without a specific subject.
impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Other(error) => error,
            Failure::Api { code, message } => match code {
                401 | 403 => Self::Denied {
                    endpoint: "the Incus server".into(),
                    reason: message.into(),
                },
                _ => Self::Server { code, message },
            },
        }
    }
}

/// Endpoints are socket paths or URLs. Only a path begins with a slash.
fn is_socket(endpoint: &str) -> bool {
    endpoint.starts_with('/')
}

fn find_io<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a io::Error> {
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<io::Error>())
        .last()
}

/// Whether the server answered with something other than HTTP.
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

/// Returns the innermost cause, which is the most specific cause.
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
        assert_eq!(Error::from(failure).to_string(), "project \"x\" not found");
        assert!(Failure::refusal("/s", 404, "Instance not found".into(), Some("x")).is_not_found());
    }

    #[test]
    fn a_socket_without_permission_is_denied() {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        assert!(matches!(
            Failure::connection("/s", &error),
            Failure::Other(Error::Denied { .. })
        ));
    }
}
