//! The settings file itself: finding it, reading it, and who else can read it
//! and the key files it names.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::document;
use super::error::{ConfigError, Warning};
use super::paths;

pub(super) struct Source {
    /// Where the file is or would be; `None` when no home folder is known.
    pub path: Option<PathBuf>,
    /// `None` when there is no file.
    pub text: Option<String>,
}

/// Reads the file the caller named, or else the user's own if there is one.
pub(super) fn open(
    named: Option<&Path>,
    env: &dyn Fn(&str) -> Option<OsString>,
) -> Result<Source, ConfigError> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => match paths::config_file(env) {
            Ok(path) => path,
            Err(_) => {
                return Ok(Source {
                    path: None,
                    text: None,
                });
            }
        },
    };
    let text = match fs::read(&path) {
        Ok(bytes) => Some(decode(&path, bytes)?),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            // A link to nowhere is a file that was meant to be there.
            if named.is_some() || fs::symlink_metadata(&path).is_ok() {
                return Err(ConfigError::Missing { file: path });
            }
            None
        }
        Err(source) => return Err(ConfigError::Unreadable { file: path, source }),
    };
    Ok(Source {
        path: Some(path),
        text,
    })
}

fn decode(file: &Path, bytes: Vec<u8>) -> Result<String, ConfigError> {
    String::from_utf8(bytes).map_err(|error| {
        let sound = error.utf8_error().valid_up_to();
        let before = String::from_utf8_lossy(&error.as_bytes()[..sound]).into_owned();
        let (line, column) = document::position(&before, before.len());
        ConfigError::Syntax {
            file: file.to_owned(),
            line,
            column,
            message: "the file is not valid UTF-8".into(),
        }
    })
}

/// A warning when the group or others can read a file that `holds` a secret.
/// A file that cannot be looked at gets none: whoever needs it reports that.
pub(super) fn exposed(file: &Path, holds: &str) -> Option<Warning> {
    let metadata = fs::metadata(file).ok().filter(fs::Metadata::is_file)?;
    let mode = metadata.permissions().mode() & 0o7777;
    (mode & 0o044 != 0).then(|| Warning::Exposed {
        file: file.to_owned(),
        holds: holds.to_owned(),
        mode,
    })
}
