//! What can go wrong at the backend boundary, as facts a caller can decide on.
//!
//! Messages are lower-case fragments; hints are made where errors are shown
//! (`ui::report`), never inside the sentence.

use std::fmt;
use std::time::Duration;

use super::Size;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The thing an error is about.
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
    /// What enforces the policies of a segment, by its instance.
    Gateway(String),
    /// A network that the server's host would reach through an instance.
    Route(String),
    /// A pixel's disk, by its place on the server's host.
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
            Self::Disk(place) => write!(f, "the pixel's disk in {place:?}"),
            Self::Project(name) => write!(f, "project {name:?}"),
            Self::Path(path) => write!(f, "{path:?}"),
            Self::User(name) => write!(f, "user {name:?} in the pixel"),
            Self::Other(text) => f.write_str(text),
        }
    }
}

/// Failures of a backend. Every backend maps its own errors to these in one place.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    #[error("{0} not found")]
    NotFound(Subject),

    #[error("{0} already exists")]
    AlreadyExists(Subject),

    /// The pixel is in a state in which the operation makes no sense.
    #[error("{subject} is {state}")]
    WrongState { subject: Subject, state: String },

    /// The backend or this server cannot do it.
    #[error("{operation} is not supported: {reason}")]
    Unsupported { operation: String, reason: String },

    /// The server answered, and does not let us.
    #[error("not authorised by {endpoint}: {reason}")]
    Denied { endpoint: String, reason: String },

    /// No usable answer: nobody listens, the connection broke, TLS refused.
    #[error("cannot reach {endpoint}: {reason}")]
    Unreachable { endpoint: String, reason: String },

    #[error("{doing} did not finish within {}", Seconds(*.after))]
    TimedOut { doing: String, after: Duration },

    /// The caller's request is wrong, and the server was not asked or refused it.
    #[error("{0}")]
    Invalid(String),

    /// A guest command that pixels itself ran has failed.
    #[error(
        "{command:?} failed in the pixel with exit code {status}{}",
        Told(stderr)
    )]
    Guest {
        command: String,
        status: i32,
        stderr: String,
    },

    /// The server refused or failed for a reason of its own.
    #[error("the server said: {message}")]
    Server { code: u16, message: String },

    /// The answer does not follow the protocol.
    #[error("unexpected answer from the server: {0}")]
    Protocol(String),

    /// The other side sends more than is taken into memory here; the rest was
    /// not read.
    #[error("{what} is larger than {}", Size(*.limit))]
    TooLarge { what: String, limit: u64 },

    /// Reading or writing on this side failed.
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

    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound(_))
    }
}

/// Behind a colon, where there is something.
struct Told<'a>(&'a str);

impl fmt::Display for Told<'_> {
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
    fn a_command_that_said_nothing_is_not_quoted() {
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
