//! What is wrong with the settings, said so that the reader can mend it: the
//! file, variable or flag, the key, the bad value and what is allowed.
//!
//! Secrets and the values of `[env]` never appear in a message.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::origin::Place;

#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file the caller named is not there.
    #[error("config file {} does not exist", .file.display())]
    Missing { file: PathBuf },

    #[error("cannot read config file {}: {source}", .file.display())]
    Unreadable { file: PathBuf, source: io::Error },

    #[error("{}:{line}:{column}: {message}", .file.display())]
    Syntax {
        file: PathBuf,
        line: usize,
        column: usize,
        message: String,
    },

    /// A value of the wrong type or outside what its key admits.
    #[error("{place}: {key} is {value}, but must be {allowed}")]
    Value {
        place: Place,
        key: String,
        /// As TOML, or the mask for a secret.
        value: String,
        allowed: String,
    },

    /// An entry of `[env]` or `[mcp.bases]` that makes no sense as a whole.
    #[error("{place}: {key} {reason}")]
    Entry {
        place: Place,
        key: String,
        reason: String,
    },

    /// A path under the home folder is needed and nobody knows where that is.
    #[error(
        "{needed_by} needs your home folder, but HOME is {}",
        if *.set { "not an absolute path" } else { "not set" }
    )]
    NoHome { needed_by: String, set: bool },

    /// The program offers a setting it does not know, or has no default for it.
    #[error("{place}: {key:?} is not a settings key")]
    NoSuchKey { place: Place, key: String },
}

/// Something the user should know that does not keep the settings from use.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Warning {
    UnknownKey {
        place: Place,
        key: String,
        nearest: Option<String>,
    },
    /// Others can read a file that holds a secret.
    Exposed {
        file: PathBuf,
        /// Such as `the private key of incus.client_key`.
        holds: String,
        /// Permission bits.
        mode: u32,
    },
    /// An entry of `[env]` that sets nothing, or a part of one without effect.
    NoEffect {
        place: Place,
        key: String,
        reason: String,
    },
    /// A path in a file means another place in every working directory.
    RelativePath {
        place: Place,
        key: String,
        path: String,
    },
    /// The key's default is under the home folder, which is not known.
    Homeless { key: String, default: String },
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownKey {
                place,
                key,
                nearest,
            } => {
                write!(f, "{place}: unknown key {key} is ignored")?;
                match nearest {
                    Some(nearest) => write!(f, "; did you mean {nearest}?"),
                    None => Ok(()),
                }
            }
            Self::Exposed { file, holds, mode } => write!(
                f,
                "{} holds {holds} and others can read it (mode {mode:04o}); run: chmod {:o} {}",
                file.display(),
                mode & 0o700,
                quoted(file)
            ),
            Self::NoEffect { place, key, reason } => write!(f, "{place}: {key} {reason}"),
            Self::RelativePath { place, key, path } => write!(
                f,
                "{place}: {key} is the relative path {path:?}, which depends on the directory \
                 pixels is run in; begin it with / or ~/"
            ),
            Self::Homeless { key, default } => write!(
                f,
                "HOME is not set to an absolute path, so {key} stays unset instead of {default}"
            ),
        }
    }
}

/// A path as one word of a POSIX shell.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+:@%,".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chmod_can_be_pasted() {
        let warning = |file: &str| {
            Warning::Exposed {
                file: file.into(),
                holds: "truenas.api_key".into(),
                mode: 0o644,
            }
            .to_string()
        };
        assert_eq!(
            warning("/x/config.toml"),
            "/x/config.toml holds truenas.api_key and others can read it (mode 0644); \
             run: chmod 600 /x/config.toml"
        );
        assert!(warning("/my files/it's").ends_with(r"chmod 600 '/my files/it'\''s'"));
    }
}
