//! Errors of builds and of base lookups.

use std::io;
use std::path::PathBuf;

use crate::lifecycle;
use crate::model::{self, InvalidName};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("base {base:?} not found; configured bases: {}", known.join(", "))]
    Unknown { base: String, known: Vec<String> },

    #[error(transparent)]
    Name(InvalidName),

    #[error("base {base:?} has the setup script {script:?}, which is not a built-in script")]
    UnknownScript { base: String, script: String },

    #[error("cannot read {} (setup script of base {base:?}): {source}", path.display())]
    ReadScript {
        base: String,
        path: PathBuf,
        source: io::Error,
    },

    #[error("cannot lock {}: {source}", path.display())]
    Lock { path: PathBuf, source: io::Error },

    /// The pixel of the build was deleted.
    #[error(
        "the setup script of base {base:?} failed with exit code {status}; its last lines:\n{tail}"
    )]
    Script {
        base: String,
        status: i32,
        tail: String,
    },

    /// The pixel of the build was deleted.
    #[error("provisioning of base {base:?} failed in step {step:?}; its last lines:\n{tail}")]
    Provisioning {
        base: String,
        step: String,
        tail: String,
    },

    #[error("another machine is building base {base:?}")]
    OtherMachine { base: String },

    #[error(
        "cannot build base {base:?}: pixel {pixel:?} has its name, is not a build of it, and has no \
         checkpoint to clone"
    )]
    NameTaken { base: String, pixel: String },

    #[error("base {base:?}: {source}")]
    Lifecycle {
        base: Box<str>,
        #[source]
        source: lifecycle::Error,
    },
}

impl Error {
    /// Adds the base to an error of a backend or a lifecycle operation.
    pub(super) fn in_base<E: Into<lifecycle::Error>>(base: &str) -> impl Fn(E) -> Self {
        move |source| Self::Lifecycle {
            base: base.into(),
            source: source.into(),
        }
    }

    /// Whether the build was canceled rather than failed.
    pub fn is_cancelled(&self) -> bool {
        matches!(
            self,
            Self::Lifecycle {
                source: lifecycle::Error {
                    source: model::Error::Cancelled,
                    ..
                },
                ..
            }
        )
    }
}
