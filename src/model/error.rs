//! Errors of the backend API, with the facts that callers need for decisions.
//!
//! Messages are lower-case fragments without a hint. `cli::error_report`
//! derives most hints from the kind of the error. Code with a more specific
//! hint attaches the hint to the [`Reason`].

use std::fmt;
use std::time::Duration;

use super::{ExitStatus, InvalidName, Size};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// State of a stopped pixel in [`Error::WrongState`].
pub const STOPPED: &str = "stopped";

/// The subject of an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    Pixel(String),
    Checkpoint {
        pixel: String,
        label: String,
    },
    Image(String),
    Pool(String),
    Network(String),
    /// The gateway of an isolated bridge, identified by its instance name.
    Gateway(String),
    /// A route on the server's host, identified by the destination network.
    Route(String),
    /// A pixel's disk, identified by the path on the server's host.
    Disk(String),
    Project(String),
    Path(String),
    User(String),
    Other(String),
}

impl Subject {
    pub fn pixel(name: impl fmt::Display) -> Self {
        Self::Pixel(name.to_string())
    }

    pub fn checkpoint(pixel: impl fmt::Display, label: impl fmt::Display) -> Self {
        Self::Checkpoint {
            pixel: pixel.to_string(),
            label: label.to_string(),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pixel(name) => write!(f, "pixel {name:?}"),
            Self::Checkpoint { pixel, label } => {
                write!(f, "checkpoint {label:?} of pixel {pixel:?}")
            }
            Self::Image(name) => write!(f, "image {name:?}"),
            Self::Pool(name) => write!(f, "storage pool {name:?}"),
            Self::Network(name) => write!(f, "network {name:?}"),
            Self::Gateway(instance) => write!(f, "the gateway {instance}"),
            Self::Route(net) => write!(f, "a route to {net} on the server's host"),
            Self::Disk(place) => write!(f, "the pixel's disk at {place:?}"),
            Self::Project(name) => write!(f, "project {name:?}"),
            Self::Path(path) => write!(f, "{path:?}"),
            Self::User(name) => write!(f, "user {name:?} in the pixel"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// The reason for a failure, with an optional hint from the code that found the
/// reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    text: String,
    hint: Option<String>,
}

impl Reason {
    /// Attaches a hint: an imperative sentence with a command (`run: pixels setup`).
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl<T: Into<String>> From<T> for Reason {
    fn from(text: T) -> Self {
        Self {
            text: text.into(),
            hint: None,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Failures of a backend. Every backend converts its own errors in one place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{0} not found")]
    NotFound(Subject),

    #[error("{0} already exists")]
    AlreadyExists(Subject),

    /// The subject's state does not allow the operation.
    #[error("{subject} is {state}")]
    WrongState { subject: Subject, state: String },

    /// The backend or this server does not support the operation.
    #[error("{operation} is not supported: {reason}")]
    Unsupported { operation: String, reason: Reason },

    /// The server denied access.
    #[error("not authorized by {endpoint}: {reason}")]
    Denied { endpoint: String, reason: Reason },

    /// The server did not answer: no listener, a broken connection, or a TLS failure.
    #[error("cannot reach {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: Reason },

    #[error("{doing} did not finish within {}", Seconds(*.after))]
    TimedOut { doing: String, after: Duration },

    /// The request is invalid. pixels or the server rejected the request.
    #[error("{0}")]
    Invalid(Reason),

    /// A command that pixels runs in the guest for its own purposes failed.
    #[error(
        "{command:?} failed in the pixel with exit code {status}{}",
        AfterColon(stderr)
    )]
    Guest {
        command: String,
        status: i32,
        stderr: String,
    },

    /// The server reported an error that pixels does not interpret.
    #[error("server error: {message}")]
    Server { code: u16, message: String },

    /// The response does not follow the protocol.
    #[error("unexpected response from the server: {0}")]
    Protocol(String),

    /// The peer sent more data than the limit. The rest was not read.
    #[error("{what} is larger than {}", Size(*.limit))]
    TooLarge { what: String, limit: u64 },

    /// A local read or write failed.
    #[error("{doing}: {source}")]
    Io {
        doing: String,
        source: std::io::Error,
    },

    #[error("interrupted")]
    Cancelled,
}

impl Error {
    pub fn io(doing: impl Into<String>, source: std::io::Error) -> Self {
        Self::Io {
            doing: doing.into(),
            source,
        }
    }

    /// The failure of a command in the pixel.
    pub fn guest(command: impl Into<String>, status: ExitStatus, stderr: &[u8]) -> Self {
        Self::Guest {
            command: command.into(),
            status: status.0,
            stderr: String::from_utf8_lossy(stderr).trim().to_owned(),
        }
    }

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }

    /// Returns the attached hint, if any.
    pub fn hint(&self) -> Option<&str> {
        match self {
            Self::Invalid(reason)
            | Self::Unsupported { reason, .. }
            | Self::Denied { reason, .. }
            | Self::Unreachable { reason, .. } => reason.hint.as_deref(),
            _ => None,
        }
    }
}

impl From<InvalidName> for Error {
    fn from(error: InvalidName) -> Self {
        Self::Invalid(error.to_string().into())
    }
}

/// Prints `: TEXT`, or nothing if the text is empty.
struct AfterColon<'a>(&'a str);

impl fmt::Display for AfterColon<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.trim_end() {
            "" => Ok(()),
            text => write!(f, ": {text}"),
        }
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 < Duration::from_secs(1) {
            write!(f, "{} ms", self.0.as_millis())
        } else {
            write!(f, "{} s", self.0.as_secs())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Error;

    #[test]
    fn guest_error_without_stderr_has_no_colon() {
        let failed = |stderr: &str| Error::Guest {
            command: "tar".into(),
            status: 2,
            stderr: stderr.into(),
        };
        let begin = "\"tar\" failed in the pixel with exit code 2";
        assert_eq!(failed("").to_string(), begin);
        assert_eq!(failed("no\n").to_string(), format!("{begin}: no"));
    }
}
