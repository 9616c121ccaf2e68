//! Why a base could not be had.

use std::io;
use std::path::PathBuf;

use crate::lifecycle;
use crate::model::{self, InvalidName};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no base {base:?}; known: {}", known.join(", "))]
    Unknown { base: String, known: Vec<String> },

    #[error(transparent)]
    Name(InvalidName),

    #[error("base {base:?} has no setup script {script:?} among those that come with pixels")]
    NoSuchScript { base: String, script: String },

    #[error("the setup script of base {base:?}: reading {}: {source}", path.display())]
    Read {
        base: String,
        path: PathBuf,
        source: io::Error,
    },

    #[error("locking {}: {source}", path.display())]
    Lock { path: PathBuf, source: io::Error },

    /// Nothing of the build is left.
    #[error(
        "the setup script of base {base:?} ended with exit code {status}; its last lines:\n{tail}"
    )]
    Script {
        base: String,
        status: i32,
        tail: String,
    },

    /// Nothing of the build is left.
    #[error("provisioning base {base:?} failed in the step {step:?}; its last lines:\n{tail}")]
    Provisioning {
        base: String,
        step: String,
        tail: String,
    },

    #[error("base {base:?} is being built from another machine")]
    Elsewhere { base: String },

    #[error(
        "cannot build base {base:?}: pixel {pixel:?} has its name, is not a build of it, and has no \
         checkpoint to clone"
    )]
    InTheWay { base: String, pixel: String },

    #[error("base {base:?}: {source}")]
    Lifecycle {
        base: Box<str>,
        #[source]
        source: lifecycle::Error,
    },

    #[error("base {base:?}: {source}")]
    Sandbox {
        base: String,
        #[source]
        source: model::Error,
    },
}

impl Error {
    /// Gives a failure on the server the base it is about.
    pub(super) fn about(base: &str) -> impl Fn(model::Error) -> Self {
        let base = base.to_owned();
        move |source| Self::Sandbox {
            base: base.clone(),
            source,
        }
    }

    /// The user gave up; the build did not fail.
    pub fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Sandbox {
                source: model::Error::Cancelled,
                ..
            } | Self::Lifecycle {
                source: lifecycle::Error {
                    source: model::Error::Cancelled,
                    ..
                },
                ..
            }
        )
    }
}
