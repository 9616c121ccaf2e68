//! The source of a value, and errors and warnings about values.
//!
//! Messages name the file, variable or flag, the key, the invalid value and the
//! accepted values. Messages never contain secrets or values of `[env]`.

use std::path::PathBuf;
use std::{fmt, io};

use serde::{Serialize, Serializer};

use crate::user_dirs::NoHome;

/// The layer that a value is from. Later variants override earlier variants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// `config.example.toml`, compiled into the program.
    Default,
    File(PathBuf),
    /// The name of the environment variable.
    Env(&'static str),
    /// The flag as users type it, such as `--egress`.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(variable) => write!(f, "env {variable}"),
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Location of a value: `/x/config.toml:3:1`, `PIXELS_BACKEND`, `--egress`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Location {
    pub origin: Origin,
    /// Line and column (in characters), starting at 1. `None` outside files.
    pub position: Option<(usize, usize)>,
}

impl fmt::Display for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.origin {
            Origin::Default => return f.write_str("built-in defaults"),
            Origin::File(path) => write!(f, "{}", path.display())?,
            Origin::Env(name) => f.write_str(name)?,
            Origin::Flag(name) => f.write_str(name)?,
        }
        self.position
            .map_or(Ok(()), |(line, column)| write!(f, ":{line}:{column}"))
    }
}

#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("cannot read config file {}: {source}", .file.display())]
    Unreadable { file: PathBuf, source: io::Error },

    /// The file is not valid TOML, or its key does not accept a value.
    #[error("{location}: {problem}")]
    Invalid { location: Location, problem: String },

    #[error(transparent)]
    NoHome(#[from] NoHome),
}

pub(super) type Result<T, E = ConfigError> = std::result::Result<T, E>;

/// A problem that does not prevent the use of the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Warning(pub(super) String);
