//! Errors of host inspection and host setup.

use std::io;
use std::path::{Path, PathBuf};

use crate::model;

/// `step` is a phrase that reads after "cannot". `doing` is the start of a
/// sentence.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A command of a step failed. `output` contains its last lines.
    #[error("cannot {step}: `{command}` {}", exit_text(*.status))]
    Command {
        step: String,
        command: String,
        /// `None`: killed by a signal.
        status: Option<i32>,
        output: Vec<String>,
    },

    /// The step is not possible on this host or for this user.
    #[error("cannot {step}: {missing}")]
    Blocked {
        step: String,
        missing: String,
        fix: String,
    },

    /// The step succeeded, but the next inspection still requires the step.
    #[error("cannot {step}: the step succeeded, but its check still fails")]
    Ineffective { step: String },

    /// The daemon exited after its start, or was not ready in time.
    #[error("cannot {step}: {reason}")]
    Daemon {
        step: String,
        reason: String,
        /// The last lines of the daemon's log.
        output: Vec<String>,
    },

    #[error("{doing}: {source}")]
    Server { doing: String, source: model::Error },

    #[error("{doing} {}: {source}", .path.display())]
    File {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },

    #[error("{doing}: {source}")]
    Io { doing: String, source: io::Error },
}

impl Error {
    pub(super) fn server(doing: impl Into<String>, source: impl Into<model::Error>) -> Self {
        Self::Server {
            doing: doing.into(),
            source: source.into(),
        }
    }

    pub(super) fn file(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn io(doing: impl Into<String>, source: io::Error) -> Self {
        Self::Io {
            doing: doing.into(),
            source,
        }
    }

    /// Returns the last output lines of the failed command or daemon.
    pub fn output(&self) -> &[String] {
        match self {
            Self::Command { output, .. } | Self::Daemon { output, .. } => output,
            _ => &[],
        }
    }

    /// Returns a fix for the error, if known.
    pub fn fix(&self) -> Option<&str> {
        match self {
            Self::Blocked { fix, .. } => Some(fix),
            _ => None,
        }
    }
}

fn exit_text(status: Option<i32>) -> String {
    match status {
        Some(code) => format!("exited with code {code}"),
        None => "was killed by a signal".into(),
    }
}
