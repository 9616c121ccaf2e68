//! Errors of tool calls. The reader is a model that sees only this text, so
//! each error names the tool to call next, if there is one.

use std::io;

use super::state::{Record, Status};
use crate::model::{self, InvalidName};
use crate::{base, lifecycle};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("no sandbox {0:?} found: call list_sandboxes for the existing names")]
    Unknown(String),

    #[error(
        "sandbox {:?} is {}{}: {}",
        .0.name,
        .0.status.as_str(),
        in_parentheses(&.0.error),
        next_step(.0.status)
    )]
    NotRunning(Box<Record>),

    #[error("{0}")]
    Invalid(String),

    #[error(transparent)]
    InvalidName(#[from] InvalidName),

    #[error(
        "cannot create a sandbox: the limit of {limit} sandboxes is reached; \
         call destroy_sandbox first"
    )]
    TooMany { limit: u64 },

    #[error("{0}: the operator of this server limits egress")]
    Ceiling(String),

    #[error("interrupted: {0}")]
    Interrupted(&'static str),

    #[error("cannot write the state file: {0}")]
    State(io::Error),

    #[error("{0}")]
    Random(io::Error),

    #[error(transparent)]
    Base(#[from] base::Error),

    #[error("{}", with_leftovers(.0))]
    Lifecycle(#[from] lifecycle::Error),

    #[error("{0}")]
    Backend(#[from] model::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// Whether the operation was canceled rather than failed.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Interrupted(_) => true,
            Self::Base(error) => error.is_cancelled(),
            Self::Lifecycle(error) => matches!(error.source, model::Error::Cancelled),
            Self::Backend(error) => matches!(error, model::Error::Cancelled),
            _ => false,
        }
    }
}

fn in_parentheses(reason: &Option<String>) -> String {
    reason
        .as_ref()
        .map(|reason| format!(" ({reason})"))
        .unwrap_or_default()
}

fn next_step(status: Status) -> &'static str {
    match status {
        Status::Provisioning => {
            "call list_sandboxes until its status is \"running\", or pass wait_sec to \
             create_sandbox"
        }
        Status::Stopped => "call start_sandbox",
        Status::Failed => "call destroy_sandbox, then create_sandbox",
        Status::Running => "try again",
    }
}

fn with_leftovers(error: &lifecycle::Error) -> String {
    let mut text = error.source.to_string();
    for leftover in &error.leftovers {
        text.push_str("; left behind: ");
        text.push_str(leftover);
    }
    text
}
