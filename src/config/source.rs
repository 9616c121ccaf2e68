//! The settings file itself: finding it, reading it, and who else can read it
//! and the key files it names.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use super::document;
use super::error::{ConfigError, Warning};
use super::paths;

/// Of the file, with all bases in it.
const LARGEST: u64 = 16 * 1024 * 1024;

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
    let text = match read_file(&path) {
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

/// The whole file, unless it is none that anybody wrote.
fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)?;
    match bytes.len() as u64 > LARGEST {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(bytes),
    }
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
