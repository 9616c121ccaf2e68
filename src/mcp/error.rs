//! Why a call was refused or failed, and what to do next: the readers are
//! programs that know nothing but this sentence.

use std::io;

use super::state::Status;
use crate::model;
use crate::{base, lifecycle};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no sandbox {0:?} of this server; list_sandboxes shows those there are")]
    Unknown(String),

    #[error("sandbox {name:?} is {}{}; {}", status.as_str(), because(why), next_step(*status))]
    NotRunning {
        name: String,
        status: Status,
        why: Option<String>,
    },

    #[error("{0}")]
    Invalid(String),

    #[error(
        "there are {limit} sandboxes already, which is the limit of this server; \
         destroy_sandbox makes room"
    )]
    TooMany { limit: u64 },

    #[error("{0}: the person who runs this server limits what sandboxes may reach")]
    Ceiling(String),

    #[error("interrupted: {0}")]
    Interrupted(&'static str),

    #[error("cannot record it in the state file: {0}")]
    State(io::Error),

    #[error(transparent)]
    Base(#[from] base::Error),

    #[error("{}", describe(.0))]
    Lifecycle(#[from] lifecycle::Error),

    #[error("{0}")]
    Sandbox(#[from] model::Error),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn invalid(text: impl Into<String>) -> Self {
        Self::Invalid(text.into())
    }

    /// Somebody gave up; nothing failed.
    pub fn is_cancelled(&self) -> bool {
        match self {
            Self::Interrupted(_) => true,
            Self::Base(error) => error.is_cancelled(),
            Self::Lifecycle(error) => matches!(error.source, model::Error::Cancelled),
            Self::Sandbox(error) => matches!(error, model::Error::Cancelled),
            _ => false,
        }
    }
}

fn because(why: &Option<String>) -> String {
    why.as_ref()
        .map(|why| format!(" ({why})"))
        .unwrap_or_default()
}

fn next_step(status: Status) -> &'static str {
    match status {
        Status::Provisioning => {
            "list_sandboxes tells when it is running, and create_sandbox waits with wait_sec"
        }
        Status::Stopped => "start_sandbox starts it",
        Status::Failed => "destroy_sandbox removes it, create_sandbox makes another",
        Status::Running => "try again",
    }
}

fn describe(error: &lifecycle::Error) -> String {
    let mut text = error.source.to_string();
    for leftover in &error.leftovers {
        text.push_str("; left behind: ");
        text.push_str(leftover);
    }
    text
}
