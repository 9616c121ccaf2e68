//! Reads small text files of the host.

use std::io;
use std::path::Path;

use super::error::Error;

/// Returns the text of a file. `None` if the file does not exist.
pub fn read(path: impl AsRef<Path>) -> Result<Option<String>, Error> {
    let path = path.as_ref();
    match std::fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("cannot read", path, error)),
    }
}

/// Returns the text of a file. Empty if the file does not exist.
pub fn read_or_empty(path: impl AsRef<Path>) -> Result<String, Error> {
    read(path).map(Option::unwrap_or_default)
}

/// Returns the last `lines` lines of a log. Empty if the log cannot be read,
/// because the log only explains another error.
pub fn tail(path: &Path, lines: usize) -> Vec<String> {
    let Ok(Some(text)) = read(path) else {
        return Vec::new();
    };
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..]
        .iter()
        .map(|line| (*line).to_owned())
        .collect()
}
