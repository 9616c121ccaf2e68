//! What can go wrong while a host is inspected or prepared.

use std::io;
use std::path::{Path, PathBuf};

use crate::backend::incus::Failure;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A command of a step failed; `output` holds its last lines.
    #[error("{step}: `{command}` {}", outcome(*.status))]
    Command {
        step: String,
        command: String,
        /// `None`: killed by a signal.
        status: Option<i32>,
        output: Vec<String>,
    },

    /// The step cannot be done from here.
    #[error("{step}: {missing}")]
    Blocked {
        step: String,
        missing: String,
        fix: String,
    },

    /// The step ended well, and is still needed.
    #[error("{step}: done, but without effect")]
    Ineffective { step: String },

    /// The daemon was started and ended or kept silent.
    #[error("{step}: {reason}")]
    Daemon {
        step: String,
        reason: String,
        /// The last lines of its log.
        output: Vec<String>,
    },

    #[error("{doing}: {source}")]
    Server { doing: String, source: Failure },

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
    pub(super) fn file(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::File {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    /// The last lines a failed command or daemon has written.
    pub fn output(&self) -> &[String] {
        match self {
            Self::Command { output, .. } | Self::Daemon { output, .. } => output,
            _ => &[],
        }
    }

    /// What the user can do about it, where that is known.
    pub fn fix(&self) -> Option<&str> {
        match self {
            Self::Blocked { fix, .. } => Some(fix),
            _ => None,
        }
    }
}

fn outcome(status: Option<i32>) -> String {
    match status {
        Some(code) => format!("ended with exit code {code}"),
        None => "was killed by a signal".into(),
    }
}
